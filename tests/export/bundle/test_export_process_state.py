"""What export changes of the process, seen from another thread."""

from __future__ import annotations

import logging
import threading

import pytest
import torch

from pepnet_infer.export.bundle.process_state import one_thread, quiet


def _beside(work) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()


def test_other_threads_log_while_export_is_quiet(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("pepnet_infer.serving")
    with quiet():
        log.warning("from the exporter")
        log.error("an error from the exporter")
        _beside(lambda: log.warning("from a request"))
    log.warning("afterwards")
    assert caplog.messages == ["an error from the exporter", "from a request", "afterwards"]


def test_exports_at_once_put_back_what_they_found() -> None:
    threads, logs = torch.get_num_threads(), logging.root.manager.disable
    torch.set_num_threads(2)
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with one_thread(), quiet():
            inside.set()
            leave.wait(60)

    def second() -> None:
        with one_thread(), quiet():
            pass

    one, other = threading.Thread(target=first), threading.Thread(target=second)
    try:
        one.start()
        assert inside.wait(60)
        other.start()
        leave.set()
        one.join(60)
        other.join(60)
        assert torch.get_num_threads() == 2
        assert logging.root.manager.disable == logs
    finally:
        torch.set_num_threads(threads)
