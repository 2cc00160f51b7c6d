"""What `make demo` leaves, smaller: the pages' examples run on it."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with demo-out/: checkpoint, bundle and traffic.parquet, by the demo's own commands on fewer rows."""
    from pepnet_infer.cli.main import main

    folder = tmp_path_factory.mktemp("demo")
    out = folder / "demo-out"
    train = ["train", "synthetic:3000", "--seeds", "1", "--epochs", "1", "--test-rows", f"{out}/traffic.parquet"]
    for words in ([*train, "--out", f"{out}/checkpoint"], ["export", f"{out}/checkpoint", "--out", f"{out}/bundle"]):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["pepnet-infer", *words])
            with pytest.raises(SystemExit) as end:
                main()
        assert not end.value.code
    return folder
