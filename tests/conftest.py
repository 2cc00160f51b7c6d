"""Fixtures every folder of tests shares."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner, Result

from pepnet_infer.backends.ort_library import no_telemetry
from pepnet_infer.schema.feature_schema import FeatureSchema
from pepnet_infer.schema.ids import make_keys
from pepnet_infer.schema.network_config import InputWidths, ModelConfig
from pepnet_infer.schema.row_batch import RowBatch

if TYPE_CHECKING:
    from pepnet_infer.bundle.checkpoint import Checkpoint

# Python processes that tests start do not import from the working directory: in the repository's root that would be the
# source tree, without the extension, in place of the installed wheel.
os.environ["PYTHONSAFEPATH"] = "1"
no_telemetry()  # tests import onnxruntime themselves

Batch = dict[str, Any]
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command line in this process → (exit code, stdout, stderr), white space as single blanks in the last."""
    from pepnet_infer.cli.main import main

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["pepnet-infer", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "200")
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out, " ".join(said.err.split())

    return run


@pytest.fixture
def run_bench(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs `pepnet-infer bench ...` in this process."""
    from pepnet_infer.cli.bench import bench

    def run(*given: object, **options: Any) -> Result:
        words = [str(word) for word in given]
        monkeypatch.setattr("sys.argv", ["pepnet-infer", "bench", *words])
        return CliRunner().invoke(bench, words, **options)

    return run


@pytest.fixture
def one_torch_thread() -> Iterator[None]:
    """Networks as small as the tests' are slower on several threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def toy_schema() -> FeatureSchema:
    """A small fitted schema without joins: four tables, four ids, two bags (one shares a table), two dense fields."""
    return FeatureSchema.from_json(
        {
            "name": "toy",
            "tables": {"user": {"dim": 6}, "video": {"dim": 5}, "tag": {"dim": 3}, "page": {"dim": 4}},
            "fields": [
                {"name": "user_id", "kind": "id", "side": "user", "table": "user", "inputs": ["general", "prior"]},
                {"name": "video_id", "kind": "id", "side": "item", "table": "video", "inputs": ["general", "prior"]},
                {"name": "watched", "kind": "bag", "side": "user", "table": "video", "max_len": 8},
                {"name": "tags", "kind": "bag", "side": "item", "table": "tag", "pooling": "sum"},
                {
                    "name": "page",
                    "kind": "id",
                    "side": "domain",
                    "table": "page",
                    "column": "tab",
                    "inputs": ["domain"],
                },
                {"name": "duration", "kind": "dense", "side": "item", "transform": "log1p", "mean": 2.0, "std": 1.5},
                {"name": "age", "kind": "dense", "side": "user", "nullable": True, "fill": 30.0, "mean": 35, "std": 10},
            ],
            "domain": {"column": "tab", "values": [0, 1, 4]},
            "tasks": {"click": "is_click", "like": "is_like"},
        }
    )


@pytest.fixture
def toy_batch() -> Callable[..., Batch]:
    """Returns `toy_batch(rows, seed)`: a valid batch for `toy_schema` as a dict of NumPy arrays and (values, offsets).

    Ids run from 0 to 49, tags from 0 to 9; bags have 0 to 11 values, so that some are empty and some are cut.
    """

    def make(rows: int, seed: int = 0) -> Batch:
        rng = np.random.default_rng(seed)

        def bag(distinct: int, longest: int) -> tuple[np.ndarray, np.ndarray]:
            offsets = np.concatenate([[0], rng.integers(0, longest + 1, rows).cumsum()]).astype(np.int64)
            return rng.integers(0, distinct, offsets[-1]), offsets

        return {
            "user_id": rng.integers(0, 50, rows),
            "video_id": rng.integers(0, 50, rows),
            "watched": bag(50, 11),
            "tags": bag(10, 4),
            "tab": rng.choice([0, 1, 4], rows),
            "duration": rng.exponential(20.0, rows),
            "age": rng.normal(35.0, 10.0, rows),
        }

    return make


@pytest.fixture
def toy_table(toy_batch: Callable[..., Batch]) -> Callable[..., pa.Table]:
    """Returns `toy_table(rows, seed)`: the same batch as an Arrow table, bags as lists."""

    def make(rows: int, seed: int = 0) -> pa.Table:
        columns = {
            name: pa.ListArray.from_arrays(column[1].astype(np.int32), column[0])
            if isinstance(column, tuple)
            else column
            for name, column in toy_batch(rows, seed).items()
        }
        return pa.table(columns)

    return make


@pytest.fixture(scope="session")
def toy_checkpoint(toy_schema: FeatureSchema) -> Checkpoint:
    """A small mmoe PEPNet with random weights. Its tables know ids 0 to 39, so that ids 40 to 49 are unknown."""
    from pepnet_infer.bundle.checkpoint import Checkpoint
    from pepnet_infer.export.model.random_init import random_dense

    config = ModelConfig(InputWidths(**toy_schema.widths), layers=(12, 8), towers=(6,), experts=3)
    tables = {}
    for spec in toy_schema.tables:
        rng = np.random.default_rng(spec.number)
        tables[spec.name] = RowBatch.of(
            rng.standard_normal((40, spec.dim), dtype=np.float32),
            keys=make_keys(spec.number, np.arange(40, dtype=np.uint64)),
            scores=rng.random(40, dtype=np.float32),
            default=rng.standard_normal(spec.dim, dtype=np.float32),
        )
    dense = random_dense(config, len(toy_schema.tasks), 0)
    return Checkpoint(schema=toy_schema, config=config, tables=tables, sides={}, dense=dense, meta={"for": "tests"})


@pytest.fixture(scope="session")
def toy_bundle(toy_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of `toy_checkpoint`, version 7. Shared: tests that change it copy it first."""
    from pepnet_infer.export.bundle.write_bundle import write_bundle

    return write_bundle(toy_checkpoint, tmp_path_factory.mktemp("toy") / "bundle", model_version=7).path


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with demo-out/, smaller: checkpoint, bundle and traffic.parquet, by the commands of `make demo`."""
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


@pytest.fixture(scope="session")
def reference_scores() -> Callable[..., np.ndarray]:
    """The formulas in float64 NumPy: `(config, tensors, general, domain, prior) -> scores [B, T]`."""
    path = Path(__file__).parent / "support" / "float64_reference.py"
    spec = importlib.util.spec_from_file_location("float64_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    scores: Callable[..., np.ndarray] = module.scores
    return scores


class RedisServer:
    """A redis-server of the tests' own on a free port, which keeps nothing on disk."""

    def __init__(self, folder: Path, *options: str) -> None:
        program = shutil.which("redis-server")
        if program is None:
            pytest.skip("needs redis-server on the PATH (Debian: apt-get install redis-server)")
        while True:
            with socket.socket() as free, socket.socket() as bus:
                free.bind(("127.0.0.1", 0))
                self.port = int(free.getsockname()[1])
                if self.port < 55_000:  # a cluster's servers talk on this port + 10,000
                    with contextlib.suppress(OSError):  # another program has that one
                        bus.bind(("127.0.0.1", self.port + 10_000))
                        break
        fixed = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        folder.mkdir(parents=True, exist_ok=True)
        self._command = [program, *fixed, "--dir", str(folder), *options]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        """Starts it and waits until it listens."""
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        until = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                assert self.process.poll() is None, "redis-server ended at once"
                assert time.monotonic() < until, "redis-server does not listen"
                time.sleep(0.01)
            else:
                return

    def stop(self) -> None:
        """Ends it at once, as a crash would."""
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for all tests; each takes a key prefix of its own."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis_servers() -> type[RedisServer]:
    """`redis_servers(folder, *options)` starts one, for fixtures of their own scope, which stop it."""
    return RedisServer


@pytest.fixture
def make_redis_server(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Returns `make(*options)`, which starts a server of the test's own."""
    servers: list[RedisServer] = []

    def make(*options: str) -> RedisServer:
        servers.append(RedisServer(tmp_path / f"redis-{len(servers)}", *options))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many products ran on each table of kernels, so that an instruction set that was skipped is seen."""
    counts: dict[str, int] = {}
    for report in terminalreporter.stats.get("passed", []):
        for name, value in getattr(report, "user_properties", []):
            if name.startswith("kernels "):
                counts[name] = counts.get(name, 0) + int(value)
    if not counts:
        return
    from pepnet_infer import _kernels

    terminalreporter.section("products tested by kernels")
    for entry in _kernels.isas():
        table = f"kernels {entry['isa']} {entry['precision']}"
        said = str(counts.get(table, 0)) if entry["usable"] else f"0, skipped: {entry['why']}"
        terminalreporter.line(f"{table.removeprefix('kernels '):<12} {said}")
