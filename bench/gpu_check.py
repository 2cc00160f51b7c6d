"""On a machine with an NVIDIA GPU: builds libpepnet_cuda, checks it against float64, and times it against torch.

    python bench/gpu_check.py [--json FILE] [--onnx dense.onnx] [--seconds 540] [--checks-only] [--library FILE]

One process, no network, done after `--seconds`, about: what there is no time for is left out. Of this package it needs
the source tree, numpy and msgspec, and pybind11 to build the extension with, unless that is installed; torch for the
timings, onnxruntime-gpu with `--onnx` (a bundle's, of preset kuaishou) for one more peer, compute-sanitizer where it is
installed. What is missing is said, not passed over. Tables come last, and JSON beside them, which is written anew after
each step.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import shutil
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "gpu"
BATCHES = (1024, 1, 64, 256, 8, 4096)  # what is asked for most comes first
COMPILED = (1024, 1)  # by torch.compile: each takes a minute or more
IDS_MOST = 2048  # rows of ids that one call of the library takes
TASKS = 6
SANITIZER_SECONDS = 90.0


def main() -> int:
    """Returns 0 when every check passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write everything that was found to this file")
    parser.add_argument("--onnx", type=Path, help="the graph of a bundle of preset kuaishou, for onnxruntime on CUDA")
    parser.add_argument("--seconds", type=float, default=540.0, help="for all of it")
    parser.add_argument("--checks-only", action="store_true", help="no timings")
    parser.add_argument("--few", action="store_true", help="fewer checks: for a run under a sanitizer")
    parser.add_argument("--library", dest="built", type=Path, help="this library; nothing is built")
    words = parser.parse_args()
    _source_tree()
    run = Run(words)

    path = words.built or _built(run.say)
    if importlib.util.find_spec("pepnet_infer._kernels") is None:
        parser.error(
            "--library: expected the package's extension too, got none: run once without --library, or install"
        )
    from pepnet_infer._kernels import CudaLibrary

    library = CudaLibrary(str(path))
    run.found["device"] = library.device(0)
    run.say(f"{path}, {library.devices} device(s), first {run.found['device']}")
    for line in _checks(library, words.few):
        run.note("right", line)
    if words.few:
        return 0
    if not words.checks_only:
        _timed(library, run)
    _sanitized(path, library.emulated, run)
    from pepnet_infer.bench.gpu import timing

    print(timing.table(run.found).text() if run.found.get("timings") else "no timings")
    left_out = (f"left out: {line}" for line in run.found["left out"])
    for line in (*timing.ratios(run.found), *left_out, *(f"FAILED: {line}" for line in run.found["failed"])):
        print(line)
    return 1 if run.found["failed"] else 0


class Run:
    """What was asked for, what was found, and how long there is."""

    def __init__(self, words: argparse.Namespace) -> None:
        self.words = words
        self.began = time.monotonic()
        command = "python bench/gpu_check.py " + " ".join(sys.argv[1:])
        self.found: dict[str, Any] = {"command": command, "right": [], "failed": [], "left out": []}

    def left(self) -> float:
        """Returns seconds."""
        return float(self.words.seconds) - (time.monotonic() - self.began)

    def say(self, text: str) -> None:
        """Prints `text`, and keeps what there is by now."""
        print(f"[{time.monotonic() - self.began:6.1f} s] {text}", flush=True)
        if self.words.json:
            self.words.json.write_text(json.dumps(self.found, indent=1) + "\n")

    def note(self, kind: str, what: str) -> None:
        """Keeps what is "right", "left out", or "failed": that makes the script's status 1 in the end."""
        self.found[kind].append(what)
        self.say(f"{kind}: {what}")


def _source_tree() -> None:
    """Makes modules of the source tree importable one by one, without what the whole package needs."""
    installed = importlib.util.find_spec("pepnet_infer")
    extension = [str(BUILD), *((installed and installed.submodule_search_locations) or ())]
    for name, folder, more in (("pepnet_infer", "pepnet_infer", extension), ("pepnet_infer.bench", "bench", [])):
        package = types.ModuleType(name)
        package.__path__ = [str(ROOT / folder), *more]
        sys.modules[name] = package
    sys.path.insert(0, str(ROOT / "tests" / "support"))


def _built(say: Callable[[str], None]) -> Path:
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    options = ["-DCMAKE_BUILD_TYPE=Release", f"-DPython_EXECUTABLE={sys.executable}", "-DPEPNET_CUDA=on"]
    say("building libpepnet_cuda and the extension")
    for command in (
        ["cmake", "-S", str(ROOT), "-B", str(BUILD), *generator, *options],
        ["cmake", "--build", str(BUILD), "--target", "python_parts", "--parallel"],
    ):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)}: failed\n{done.stdout[-4000:]}")
    return BUILD / "libpepnet_cuda.so"


def _checks(library: Any, few: bool) -> list[str]:
    checks, rows, reference = map(importlib.import_module, ("cuda_checks", "cuda_rows_checks", "float64_reference"))
    if few:
        config = checks.config_of(checks.PRODUCT[4])
        for precision in checks.TOLERANCES:
            checks.agree(library, config, precision, reference.scores, 70)
            rows.rows_on_device(library, precision, (9,))
        return ["a few, for a sanitizer"]
    counts = (0, 1, 8, 9) if library.emulated else (0, 1, 7, 8, 9, 33, 64, 100, 257, 1000, 2048, 4097)
    done: list[str] = checks.everything(library, reference.scores, 17 if library.emulated else 33, counts)
    batches = (1, 7, 20) if library.emulated else (0, 1, 8, 33, 500, 2048)
    done += [rows.rows_on_device(library, precision, batches) for precision in ("fp32", "bf16")]
    return done


def _kuaishou() -> tuple[Any, dict[str, np.ndarray]]:
    """The dense part of preset kuaishou, with weights of the size that training begins with."""
    from pepnet_infer.network.network import Network
    from pepnet_infer.schema.network_config import InputWidths, ModelConfig

    config = ModelConfig(InputWidths(1216, 48, 120), layers=(512, 256), towers=(64,), experts=8)
    random, tensors = np.random.default_rng(3), {}
    for name, shape in Network.derived(config, TASKS).tensors.items():
        spread = 0.1 if name.rsplit(".", 1)[1].startswith("b") else (2.0 / sum(shape[-2:])) ** 0.5
        tensors[name] = (spread * random.standard_normal(shape)).astype(np.float32)
    return config, tensors


def _sanitized(path: Path, emulated: bool, run: Run) -> None:
    tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if emulated or tool is None:
        run.note("left out", "compute-sanitizer: " + ("no GPU" if emulated else "not installed"))
        return
    for kind in ("memcheck", "racecheck", "initcheck"):
        seconds = min(SANITIZER_SECONDS, run.left())
        if seconds < 20:
            run.note("left out", f"compute-sanitizer {kind}: no time left")
            continue
        tested = [sys.executable, __file__, "--few", "--library", str(path)]
        command = [tool, "--tool", kind, "--error-exitcode", "9", *tested]
        try:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=seconds
            )
        except subprocess.TimeoutExpired:
            run.note("left out", f"compute-sanitizer {kind}: not done after {seconds:.0f} s")
            continue
        if done.returncode == 0:
            run.note("right", f"compute-sanitizer {kind}")
        else:
            run.note("failed", f"compute-sanitizer {kind}: {done.stdout[-2000:]}")


def _timed(library: Any, run: Run) -> None:
    try:
        import torch
    except ImportError as error:
        run.note("left out", f"timings: no torch ({error})")
        return
    if library.emulated or not torch.cuda.is_available():
        run.note("left out", "timings: no GPU")
        return
    from pepnet_infer._kernels import CudaModel
    from pepnet_infer.bench.gpu import peers, timing
    from pepnet_infer.bench.harness import machine
    from pepnet_infer.network.network import Network

    checks, reference = map(importlib.import_module, ("cuda_rows_checks", "float64_reference"))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    meter = machine.BusyMeter()
    cuda: Any = torch.cuda
    with cuda.stream(cuda.Stream()), torch.inference_mode():
        run.found |= {"torch": torch.__version__, "gpu": torch.cuda.get_device_name(0), "limits": timing.limits(torch)}
        run.say(f"limits of this card: {run.found['limits']}")
        config, tensors = _kuaishou()
        network = Network.derived(config, TASKS).to_native()
        run.found["kernels"] = {p: CudaModel(library, tensors, network, p == "bf16").facts() for p in timing.RMS}
        host = checks.Host(peers.fields_of(config), peers.ROWS)
        named = peers.all_peers(torch, checks, library, host, config, tensors, TASKS, run.words.onnx, run.note)
        timings = run.found.setdefault("timings", [])
        for number, rows in enumerate(BATCHES):
            others = 30.0 * (len(BATCHES) - number - 1)  # for the batches still to come
            if run.left() < 20.0:
                run.note("left out", f"timings of {rows} rows: no time left")
                continue
            left_out = {name for name in named if name.endswith("-ids") and rows > IDS_MOST}
            if rows not in COMPILED or run.left() - others <= 90.0:
                left_out.add("torch-compile-bf16")
            these = {name: peer for name, peer in named.items() if name not in left_out}
            drawn = [peers.draw(checks, host, config, rows, seed) for seed in range(timing.SETS)]
            cases = [peers.Case(*part, [torch.from_numpy(x).cuda() for x in part[1]]) for part in drawn]
            truth = [reference.scores(config, tensors, *case.inputs) for case in cases]
            seconds = min(30.0, max(10.0, run.left() - others))
            timed = timing.compare(torch, timing.clocks(torch), these, cases, truth, seconds, run.say, run.note)
            timings += timed
            run.found["noise"] = machine.noise(meter.others())
            run.say(f"{rows} rows: " + ", ".join(f"{row['name']} {1e3 * row['p50_ms']:.1f} us" for row in timed))


if __name__ == "__main__":
    sys.exit(main())
