"""What the ops on arrays take and refuse, and which table is chosen."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

from pepnet_infer import _kernels

USABLE = [entry["isa"] for entry in _kernels.isas() if entry["usable"] and entry["precision"] == "int8"]
F32 = np.float32


@pytest.fixture
def ops() -> _kernels.Ops:
    return _kernels.ops("scalar", "fp32")


def test_fp32_is_what_is_meant_without_a_precision() -> None:
    ops = _kernels.ops("scalar")
    assert (ops.isa, ops.precision) == ("scalar", "fp32")


def test_every_isa_is_listed_in_every_precision() -> None:
    entries = _kernels.isas()
    assert [(entry["isa"], entry["precision"]) for entry in entries] == [
        (isa, precision) for isa in ("scalar", "avx2", "avx512", "amx") for precision in ("fp32", "bf16", "int8")
    ]
    for entry in entries:
        assert entry["why"]
        assert entry["built"] or not entry["usable"]
        assert bool(entry["how"]) == entry["built"]
        if entry["usable"]:
            table = _kernels.ops(entry["isa"], entry["precision"])
            assert (table.precision, table.how) == (entry["precision"], entry["how"])
        else:
            with pytest.raises(ValueError, match=f"got {entry['isa']}: "):
                _kernels.ops(entry["isa"], entry["precision"])
    assert all(entry["usable"] for entry in entries if entry["isa"] == "scalar")


def test_the_choice_is_the_widest_or_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PEPNET_ISA", raising=False)
    for precision in ("fp32", "bf16", "int8"):
        usable = [e["isa"] for e in _kernels.isas() if e["usable"] and e["precision"] == precision]
        choice = _kernels.choose(precision)
        assert choice["isa"] == _kernels.ops(usable[-1], precision).isa  # amx leaves fp32 to avx512
        assert "the widest that is usable" in choice["why"]
        assert _kernels.choose(precision, "scalar") == {
            "isa": "scalar",
            "how": _kernels.ops("scalar", precision).how,
            "why": "asked for",
        }
    with pytest.raises(ValueError, match="isa: expected scalar, avx2, avx512 or amx, got 'sse'"):
        _kernels.choose("fp32", "sse")
    with pytest.raises(ValueError, match="precision: expected fp32, bf16 or int8, got 'fp16'"):
        _kernels.choose("fp16")


def chosen_with(value: str) -> subprocess.CompletedProcess[str]:
    code = "from pepnet_infer import _kernels; c = _kernels.choose('bf16'); print(c['isa'], '|', c['why'])"
    environment = {**os.environ, "PEPNET_ISA": value}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def test_the_environment_chooses() -> None:
    ran = chosen_with("scalar")
    assert ran.stdout.strip() == "scalar | PEPNET_ISA=scalar", ran.stderr
    assert "the widest that is usable" in chosen_with("").stdout


def test_an_environment_that_cannot_be_honoured_is_an_error() -> None:
    ran = chosen_with("avx1024")
    assert ran.returncode == 1
    assert "ValueError: PEPNET_ISA: isa: expected scalar, avx2, avx512 or amx, got 'avx1024'" in ran.stderr
    missing = next((e["isa"] for e in _kernels.isas() if not e["usable"] and e["precision"] == "bf16"), None)
    if missing is not None:
        ran = chosen_with(missing)
        assert ran.returncode == 1
        assert f"ValueError: PEPNET_ISA: isa: expected one that runs bf16 here, got {missing}: " in ran.stderr


def test_packed_weights_say_how_much_memory_they_take() -> None:
    w = np.random.default_rng(0).standard_normal((20, 33), dtype=F32)
    sizes = {precision: _kernels.pack(w, None, precision).bytes for precision in ("fp32", "bf16", "int8")}
    # 48 columns of 32, 32 and 64 values of k, the bias, and for int8 scales and sums
    assert sizes == {"fp32": 48 * 4 * 33, "bf16": 48 * (2 * 32 + 4), "int8": 48 * (64 + 12)}


def test_weights_may_be_columns_of_a_wider_matrix(ops: _kernels.Ops) -> None:
    random = np.random.default_rng(0)
    a, w = (random.standard_normal(shape, dtype=F32) for shape in ((4, 20), (20, 33)))
    wide = np.zeros((20, 66), F32)
    wide[:, ::2] = w
    with pytest.raises(ValueError, match=r"w: expected aligned \[rows, columns\]"):
        _kernels.pack(wide[:, ::2])
    wide[:, :33] = w
    np.testing.assert_array_equal(ops.product(a, _kernels.pack(wide[:, :33])), ops.product(a, _kernels.pack(w)))
    np.testing.assert_allclose(ops.product(a, _kernels.pack(w)), a @ w, atol=1e-5)


@pytest.mark.parametrize(
    ("w", "b", "error", "match"),
    [
        (np.zeros((3, 2)), None, TypeError, r"w: expected float32, got float64 \[3, 2\]"),
        (np.zeros((0, 2), F32), None, ValueError, r"w: expected \[in, out\] of at least one row and column"),
        (np.zeros(3, F32), None, ValueError, r"w: expected aligned \[rows, columns\]"),
        (np.float32([[1, np.nan]]), None, ValueError, "w: expected finite numbers, got nan in row 0, column 1"),
        (np.float32([[1], [np.inf]]), None, ValueError, "w: expected finite numbers, got inf in row 1, column 0"),
        (np.zeros((3, 2), F32), np.zeros(3, F32), ValueError, r"b: expected \[2\], got float32 \[3\]"),
        (np.zeros((3, 2), F32), np.float32([0, np.nan]), ValueError, "b: expected finite numbers"),
    ],
)
def test_weights_that_are_refused(w: Any, b: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        _kernels.pack(w, b)


def test_products_that_are_refused(ops: _kernels.Ops) -> None:
    a, packed = np.zeros((4, 20), F32), _kernels.pack(np.zeros((20, 33), F32))
    gate = {"gate_a": np.zeros((4, 5), F32), "gate_packed": _kernels.pack(np.zeros((5, 33), F32))}
    cases: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
        ((a[:, :19], packed), {}, r"a: expected 20 columns, got float32 \[4, 19\]"),
        ((a[::-1], packed), {}, "a: expected aligned .* in ascending order"),
        ((a, _kernels.pack(np.zeros((20, 33), F32), None, "bf16")), {}, "packed as fp32, got bf16"),
        ((a, packed, "tanh"), {}, "epilogue: expected linear, relu, .*, got 'tanh'"),
        ((a, packed, "relu_times"), {}, "mul: expected with gate_times and relu_times"),
        ((a, packed), {"mul": np.zeros((4, 33), F32)}, "the epilogue is linear"),
        ((a, packed, "relu_times"), {"mul": np.zeros((4, 32), F32)}, r"mul: expected \[4, 33\], got float32 \[4, 32\]"),
        ((a, packed, "relu_gated"), {}, "gate_a, gate_packed: expected with relu_gated"),
        ((a, packed), gate, "gate_a, gate_packed: expected with relu_gated, and only there"),
        ((a[:2], packed, "relu_gated"), gate, "expected 2 rows and 33 columns, got 4 and 33"),
    ]
    for arguments, options, match in cases:
        with pytest.raises(ValueError, match=match):
            ops.product(*arguments, **options)
    with pytest.raises(TypeError, match="a: expected float32, got float64"):
        ops.product(np.zeros((4, 20)), packed)  # type: ignore[arg-type]


@pytest.mark.parametrize("isa", USABLE)
def test_a_table_is_shared_by_threads(isa: str) -> None:
    """Ops hold no state: four threads at once get the bits that one gets."""
    ops = _kernels.ops(isa, "int8")
    rng = np.random.default_rng(1)
    packed = _kernels.pack(rng.standard_normal((100, 70), dtype=F32), None, "int8")
    inputs = [rng.standard_normal((50, 100), dtype=F32) for _ in range(4)]
    want = [ops.product(a, packed, "gate") for a in inputs]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(50):
            if not np.array_equal(ops.product(inputs[i], packed, "gate"), want[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
