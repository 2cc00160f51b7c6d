"""Kill -9 of a publisher before each call that writes, syncs, renames or links: it goes on, and nothing is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import ended, fork
from sync_trainer import Trained

from pepnet_infer.export.publish import publisher as module
from pepnet_infer.export.publish.push_policy import PushPolicy
from pepnet_infer.sync.logs.directory import DirectoryLog

_CALLS = ("fsync", "rename", "replace", "link", "mkdir", "rmdir", "unlink")


def killed(work: Callable[[], object], fatal: int) -> bool:
    """Does `work` in a child that dies before its `fatal`-th call. Returns whether it died."""
    steps = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **more: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **more)

        return step

    def in_child() -> None:
        for name in _CALLS:
            setattr(os, name, counted(getattr(os, name)))
        module.write_delta = counted(module.write_delta)
        work()

    code = ended(fork(in_child))
    assert code in (0, -signal.SIGKILL)
    return code < 0


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "policy", [PushPolicy(limit=1, interval=50.0), PushPolicy(mode="after_expiry", ttl=35.0)], ids=lambda p: p.mode
)
def test_killed_before_every_step(policy: PushPolicy, every: int, toy_bundle: Path, tmp_path: Path) -> None:
    """The trainer keeps its rows, as one with a parameter server does; what it touched was saved."""
    trained = Trained(DirectoryLog(tmp_path / "log", create=True), toy_bundle, tmp_path / "state", default=policy)
    random, fatal, deaths = np.random.default_rng(11), 1, 0
    while True:
        trained.now += 20
        trained.train([int(i) for i in random.integers(0, 60, 6)])
        trained.train([int(i) for i in random.integers(0, 60, 3)], "video")
        trained.delete([int(i) for i in random.choice(list(trained.rows["user"]), 1)])
        trained.publisher.save()
        died = killed(trained.publish, fatal)
        trained.start()
        deaths += died
        if not died:
            break
        fatal += every
    assert deaths * every > 40
    trained.publish(everything=True)
    trained.assert_replayed()
    assert len(trained.log.read("", most=1000)) > deaths // 8
    assert not list(tmp_path.glob(".state*"))
    assert not list(tmp_path.glob("*.making"))
    trained.now += 1000
    trained.publish()
    assert trained.publisher.stats()["tables"]["user"]["pending"] == 0
    trained.assert_replayed()
