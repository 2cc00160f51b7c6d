"""On a machine with an NVIDIA GPU: builds libpepnet_cuda, checks it against float64, and times it against torch.

    python bench/gpu_check.py [--json FILE] [--onnx dense.onnx] [--seconds 240] [--checks-only] [--library FILE]

One process, no network, under ten minutes. Of this package it needs only the source tree and numpy; torch for the
timings, onnxruntime-gpu with `--onnx` (a bundle's, of preset kuaishou) for one more peer, compute-sanitizer where it is
installed. What is missing is said, not passed over. A table comes last, and JSON beside it.
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "gpu"
BATCHES = (1, 8, 64, 256, 1024, 4096)
IDS_BATCHES = (1, 64, 256, 1024, 2048)  # of ids → scores: at most as many as one call of the library takes
TASKS = 6
REPEATS = 20  # calls between two events
#: What scores may be off by, root mean square and at most.
RMS, MOST = {"fp32": 1e-6, "bf16": 2e-3}, {"fp32": 5e-6, "bf16": 1e-2}


def main() -> int:
    """Returns 0 when every check passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write everything that was found to this file")
    parser.add_argument("--onnx", type=Path, help="the graph of a bundle of preset kuaishou, for onnxruntime on CUDA")
    parser.add_argument("--seconds", type=float, default=240.0, help="for timing, compiling not counted")
    parser.add_argument("--checks-only", action="store_true", help="no timings")
    parser.add_argument("--few", action="store_true", help="fewer checks: for a run under a sanitizer")
    parser.add_argument("--library", dest="built", type=Path, help="this library; nothing is built")
    words = parser.parse_args()
    _source_tree()
    found: dict[str, Any] = {"command": "python bench/gpu_check.py " + " ".join(sys.argv[1:]), "notes": []}
    began = time.perf_counter()

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - began:6.1f} s] {text}", flush=True)

    from pepnet_infer.backends.cuda_library import CudaLibrary

    path = words.built or _built(say)
    library = CudaLibrary(path)
    found["device"] = library.device(0)
    say(f"{path}, {library.devices()} device(s), first {found['device']}")
    found["checks"] = _checks(library, words.few)
    for line in found["checks"]:
        say(f"right: {line}")
    if words.few:
        return 0
    _sanitized(path, library.emulated, found, say)
    if not words.checks_only:
        _timed(library, words, found, say)
    for note in found["notes"]:
        say(f"left out: {note}")
    if "ids" in found:
        print(_module(ROOT / "bench" / "gpu_rows.py").table(found["ids"]))
    if words.json:
        words.json.write_text(json.dumps(found, indent=1) + "\n")
    print(_table(found))
    for line in _ratios(found):
        print(line)
    return 0


def _source_tree() -> None:
    """Makes modules of the source tree importable one by one, without what the whole package needs."""
    for name, folder in (
        ("pepnet_infer", ROOT / "pepnet_infer"),
        ("pepnet_infer.export", ROOT / "export"),
    ):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    sys.path.insert(0, str(ROOT / "tests" / "parity"))


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _built(say: Callable[[str], None]) -> Path:
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DPEPNET_BUILD_PYTHON=OFF", "-DPEPNET_CUDA=on"]
    say("building libpepnet_cuda")
    for command in (
        ["cmake", "-S", str(ROOT), "-B", str(BUILD), *generator, *options],
        ["cmake", "--build", str(BUILD), "--target", "pepnet_cuda", "--parallel"],
    ):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)}: failed\n{done.stdout[-4000:]}")
    return BUILD / "libpepnet_cuda.so"


def _checks(library: Any, few: bool) -> list[str]:
    checks, reference = (
        _module(ROOT / "tests" / "parity" / f"{name}.py") for name in ("cuda_checks", "float64_reference")
    )
    if few:
        config = checks.config_of(checks.PRODUCT[4])
        rows = _module(ROOT / "tests" / "parity" / "cuda_rows_checks.py")
        for precision in checks.TOLERANCES:
            checks.agree(library, config, precision, reference.scores, 70)
            rows.rows_on_device(library, precision, (9,))
        return ["a few, for a sanitizer"]
    counts = (0, 1, 8, 9) if library.emulated else (0, 1, 7, 8, 9, 33, 64, 100, 257, 1000, 2048, 4097)
    done: list[str] = checks.everything(library, reference.scores, 17 if library.emulated else 33, counts)
    rows = _module(ROOT / "tests" / "parity" / "cuda_rows_checks.py")
    done += [
        rows.rows_on_device(library, precision, (1, 7, 20) if library.emulated else (0, 1, 8, 33, 500, 2048))
        for precision in ("fp32", "bf16")
    ]
    if not library.emulated:
        done.append(_kuaishou_is_right(library, reference.scores))
    return done


def _kuaishou() -> tuple[Any, dict[str, np.ndarray]]:
    """The dense part of preset kuaishou, with weights of the size that training begins with."""
    from pepnet_infer.config import InputWidths, ModelConfig

    config = ModelConfig(InputWidths(1216, 48, 120), layers=(512, 256), towers=(64,), experts=8)
    random, tensors = np.random.default_rng(3), {}
    for name, shape in config.tensor_shapes(TASKS).items():
        spread = 0.1 if name.rsplit(".", 1)[1].startswith("b") else (2.0 / sum(shape[-2:])) ** 0.5
        tensors[name] = (spread * random.standard_normal(shape)).astype(np.float32)
    return config, tensors


def _inputs(config: Any, rows: int, seed: int) -> tuple[np.ndarray, ...]:
    random, widths = np.random.default_rng(seed), config.inputs
    return tuple(
        random.standard_normal((rows, width), dtype=np.float32)
        for width in (widths.general, widths.domain, widths.prior)
    )


def _kuaishou_is_right(library: Any, reference: Any) -> str:
    config, tensors = _kuaishou()
    inputs = _inputs(config, 1000, 11)
    expected, said = reference(config, tensors, *inputs), []
    for precision in ("fp32", "bf16"):
        difference = library.model(config, TASKS, tensors, precision == "bf16", 0, True).run(*inputs) - expected
        rms, most = float(np.sqrt(np.mean(difference**2))), float(np.abs(difference).max())
        if not (rms <= RMS[precision] and most <= MOST[precision]):
            raise SystemExit(
                f"kuaishou {precision}: expected rms {RMS[precision]}, max {MOST[precision]}, got {rms}, {most}"
            )
        relative = float(np.linalg.norm(difference) / np.linalg.norm(expected))
        said.append(f"{precision} rms {rms:.1e}, max {most:.1e}, relative {relative:.1e}")
    return "preset kuaishou, 1000 rows: " + "; ".join(said)


def _sanitized(path: Path, emulated: bool, found: dict[str, Any], say: Callable[[str], None]) -> None:
    tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if emulated or tool is None:
        found["notes"].append("compute-sanitizer: " + ("no GPU" if emulated else "not installed"))
        return
    for kind in ("memcheck", "racecheck", "initcheck"):
        command = [
            tool,
            "--tool",
            kind,
            "--error-exitcode",
            "9",
            sys.executable,
            __file__,
            "--few",
            "--library",
            str(path),
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"compute-sanitizer {kind}: {done.stdout[-4000:]}")
        found["checks"].append(f"compute-sanitizer {kind}")
        say(f"right: compute-sanitizer {kind}")


def _timed(library: Any, words: argparse.Namespace, found: dict[str, Any], say: Callable[[str], None]) -> None:
    try:
        import torch
    except ImportError as error:
        found["notes"].append(f"timings: no torch ({error})")
        return
    if library.emulated or not torch.cuda.is_available():
        found["notes"].append("timings: no GPU")
        return
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    found |= {"torch": torch.__version__, "gpu": torch.cuda.get_device_name(0), "limits": _limits(torch)}
    say(f"limits of this card: {found['limits']}")
    config, tensors = _kuaishou()
    found["kernels"] = {p: library.model(config, TASKS, tensors, p == "bf16", 0, True).facts() for p in RMS}
    say(_kernels(found["kernels"]["bf16"]))
    peers = dict(_peers(torch, library, config, tensors, words, found["notes"], say))
    share = words.seconds / len(BATCHES)
    found["timings"] = {}
    for rows in BATCHES:
        found["timings"][str(rows)] = _interleaved(torch, peers, config, rows, share, found["notes"])
        say(f"{rows} rows: " + ", ".join(f"{n} {t['p50_us']:.0f}" for n, t in found["timings"][str(rows)].items()))
    checks = _module(ROOT / "tests" / "parity" / "cuda_rows_checks.py")
    ids = _module(ROOT / "bench" / "gpu_rows.py")
    found["ids"] = ids.time_ids(checks, library, config, tensors, TASKS, IDS_BATCHES, words.seconds / 4)
    for rows, ways in found["ids"].items():
        say(f"{rows} rows of ids: " + ", ".join(f"{way} {t['p50_us']:.0f}" for way, t in ways.items()))


def _kernels(facts: dict[str, Any]) -> str:
    """The tile of each launch of products, and what it took where it was measured."""
    names: dict[int, str] = {}
    for product in facts["products"]:
        names[product["launch"]] = " + ".join(filter(None, (names.get(product["launch"]), product["name"])))
    lines = ["launches of products in bf16 by rows: tile, µs"]
    for rows, launches in facts["tiles"].items():
        took = (f"{names[i]}: {one['tile']} {one['microseconds'][one['tile']]:.1f}" for i, one in enumerate(launches))
        lines.append(f"  {rows:>5}: " + ", ".join(took))
    return "\n".join(lines)


def _limits(torch: Any) -> dict[str, float]:
    """Copy bandwidth and bf16 rate of this card, as far as plain torch reaches them."""
    one = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    other = torch.empty_like(one)
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    copy = min(_events(torch, lambda: other.copy_(one), 5) for _ in range(5))
    product = min(_events(torch, lambda: a @ a, 5) for _ in range(5))
    return {"copy_gb_per_s": 2 * one.numel() / copy / 1e9, "bf16_tflops": 2 * 8192**3 / product / 1e12}


def _events(torch: Any, call: Callable[[], object], repeats: int) -> float:
    """Seconds of one call, by events around several."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / repeats


Peer = Callable[[tuple[Any, ...]], Callable[[], object]]


def _peers(
    torch: Any,
    library: Any,
    config: Any,
    tensors: dict[str, np.ndarray],
    words: argparse.Namespace,
    notes: list[str],
    say: Callable[[str], None],
) -> Iterator[tuple[str, Peer]]:
    """Yields (name, peer): a peer takes inputs on the GPU and returns what scores them, all of it warm."""
    from pepnet_infer.backends.cuda_library import TILES
    from pepnet_infer.export.network import build_network, load_dense

    torch.manual_seed(0)
    networks = {}
    for dtype in (torch.float32, torch.bfloat16):
        network = build_network(config, TASKS)
        load_dense(network, tensors)
        networks[dtype] = network.to("cuda", dtype).eval()

    def eager(dtype: Any) -> Peer:
        def peer(inputs: tuple[Any, ...]) -> Callable[[], object]:
            cast = tuple(x.to(dtype) for x in inputs)
            return lambda: networks[dtype](*cast)

        return peer

    def graph(dtype: Any) -> Peer:
        def peer(inputs: tuple[Any, ...]) -> Callable[[], object]:
            call = eager(dtype)(inputs)
            for _ in range(3):
                call()
            torch.cuda.synchronize()
            recorded = torch.cuda.CUDAGraph()
            with torch.cuda.graph(recorded):
                call()
            replay: Callable[[], object] = recorded.replay
            return replay

        return peer

    def compiled(inputs: tuple[Any, ...]) -> Callable[[], object]:
        network = torch.compile(networks[torch.bfloat16], mode="max-autotune", dynamic=False)
        cast = tuple(x.to(torch.bfloat16) for x in inputs)
        say(f"torch.compile for {len(inputs[0])} rows")
        for _ in range(3):
            network(*cast)
        return lambda: network(*cast)

    def ours(precision: str, graphs: bool = True, tile: str | None = None) -> Peer:
        model = library.model(config, TASKS, tensors, precision == "bf16", 0, graphs, tile)

        def peer(inputs: tuple[Any, ...]) -> Callable[[], object]:
            scores = torch.empty(len(inputs[0]), TASKS, device="cuda")
            at = [x.data_ptr() for x in (*inputs, scores)]
            return lambda: model.run_at(*at, len(scores), torch.cuda.current_stream().cuda_stream)

        return peer

    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        yield f"torch-{name}", eager(dtype)
        yield f"torch-graph-{name}", graph(dtype)
    yield "torch-compile-bf16", compiled
    onnx = _onnx_peer(torch, words.onnx, notes)
    if onnx is not None:
        yield "onnxruntime-fp32", onnx
    yield "cuda-fp32", ours("fp32")
    yield "cuda-bf16", ours("bf16")
    yield "cuda-bf16-no-graph", ours("bf16", graphs=False)
    for tile in TILES:
        yield f"cuda-bf16-{tile}", ours("bf16", tile=tile)


def _onnx_peer(torch: Any, path: Path | None, notes: list[str]) -> Peer | None:
    if path is None:
        notes.append("onnxruntime: no --onnx")
        return None
    try:
        onnxruntime: Any = importlib.import_module("onnxruntime")
    except ImportError as error:
        notes.append(f"onnxruntime: {error}")
        return None
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        notes.append("onnxruntime: built without CUDA")
        return None
    provider = ("CUDAExecutionProvider", {"use_tf32": "0", "enable_cuda_graph": "1"})
    session = onnxruntime.InferenceSession(str(path), providers=[provider])
    if session.get_providers()[0] != provider[0]:
        notes.append(f"onnxruntime: expected {provider[0]}, got {session.get_providers()}")
        return None

    def peer(inputs: tuple[Any, ...]) -> Callable[[], object]:
        binding, options, rows = session.io_binding(), onnxruntime.RunOptions(), len(inputs[0])
        options.add_run_config_entry("gpu_graph_id", str(rows))
        scores = torch.empty(rows, TASKS, device="cuda")
        for name, x in zip(("general", "domain", "prior"), inputs, strict=True):
            binding.bind_input(name, "cuda", 0, np.float32, list(x.shape), x.data_ptr())
        output = session.get_outputs()[0].name
        binding.bind_output(output, "cuda", 0, np.float32, list(scores.shape), scores.data_ptr())
        held = (inputs, scores)
        return lambda: (session.run_with_iobinding(binding, options), held)

    return peer


def _interleaved(
    torch: Any, peers: dict[str, Peer], config: Any, rows: int, seconds: float, notes: list[str]
) -> dict[str, dict[str, float]]:
    """Times all peers in turn, each with four sets of inputs. Returns microseconds of a call by peer."""
    sets = [tuple(torch.from_numpy(x).cuda() for x in _inputs(config, rows, seed)) for seed in range(4)]
    calls: dict[str, list[Callable[[], object]]] = {}
    with torch.inference_mode():
        for name, peer in peers.items():
            try:
                calls[name] = [peer(inputs) for inputs in sets]
                for call in calls[name]:
                    _events(torch, call, 3)
            except Exception as error:  # a peer that does not run is said, and the others go on
                calls.pop(name, None)
                notes.append(f"{name} at {rows} rows: {type(error).__name__}: {str(error)[:200]}")
        took: dict[str, list[float]] = {name: [] for name in calls}
        ends, number = time.monotonic() + seconds, 0
        while time.monotonic() < ends or number < 20:
            for name in calls:
                took[name].append(_events(torch, calls[name][number % 4], REPEATS) * 1e6)
            number += 1
    return {
        name: {
            "p50_us": float(np.percentile(values, 50)),
            "p99_us": float(np.percentile(values, 99)),
            "rounds": len(values),
        }
        for name, values in took.items()
    }


def _table(found: dict[str, Any]) -> str:
    timings = found.get("timings")
    if not timings:
        return "no timings"
    names = list(dict.fromkeys(name for batch in timings.values() for name in batch))
    lines = [
        f"{found['gpu']}, torch {found['torch']}: dense part of preset kuaishou on the device, p50 (p99) µs a call"
    ]
    lines.append(" ".join([f"{'':22}", *(f"{rows:>16}" for rows in timings)]))
    for name in names:
        cells = [
            f"{batch[name]['p50_us']:.1f} ({batch[name]['p99_us']:.1f})" if name in batch else "-"
            for batch in timings.values()
        ]
        lines.append(" ".join([f"{name:22}", *(f"{cell:>16}" for cell in cells)]))
    return "\n".join(lines)


def _ratios(found: dict[str, Any]) -> Iterator[str]:
    """What the table is read for: bf16 against the peers, and against what this card cannot be faster than."""
    timings = {rows: {n: t["p50_us"] for n, t in batch.items()} for rows, batch in found.get("timings", {}).items()}
    for rows, took in timings.items():
        ours = took.get("cuda-bf16")
        if ours is None:
            continue
        said = [
            f"{took[n] / ours:.2f} x as fast as {n}" for n in ("onnxruntime-fp32", "torch-compile-bf16") if n in took
        ]
        products, limits = found["kernels"]["bf16"]["products"], found["limits"]
        flops = int(rows) * sum(p["flops_a_row"] for p in products) / limits["bf16_tflops"] / 1e6
        weights = sum(p["weight_bytes"] for p in products) / limits["copy_gb_per_s"] / 1e3
        said.append(f"{ours / max(flops, weights):.1f} x its bound of {max(flops, weights):.1f} us")
        ids = found.get("ids", {}).get(rows, {}).get("bf16, rows on GPU")
        if ids is not None:
            said.append(f"ids -> scores {ids['p50_us'] / ours:.2f} x that")
        yield f"cuda-bf16, {rows} rows: {ours:.1f} us, " + ", ".join(said)


if __name__ == "__main__":
    sys.exit(main())
