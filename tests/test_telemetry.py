"""Onnxruntime's telemetry is off before it is imported, whichever part of the package does it first."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pepnet_infer

PATIENCE_S = 60
VARIABLE = "ORT_DISABLE_TELEMETRY"
#: Stands in for onnxruntime: all that is wanted is what it would see when it is imported.
FAKE = f"""
import os
print("imported with", os.environ.get({VARIABLE!r}))
raise ImportError("on purpose")
"""


def _imported_with(code: str, folder: Path, **environment: str) -> str:
    (folder / "onnxruntime.py").write_text(FAKE)
    code = f"import sys; sys.path.insert(0, sys.argv[1])\n{code}"
    without = {name: value for name, value in os.environ.items() if name != VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
        env=without | environment,
    )
    return done.stdout


@pytest.mark.parametrize(
    "code",
    [
        "from pepnet_infer.backends.ort_library import import_onnxruntime; import_onnxruntime()",
        "from pepnet_infer.backends import ort; ort.no_gpu_because = lambda: None; print(ort.no_cuda_because())",
    ],
)
def test_it_is_off_when_onnxruntime_is_imported(code: str, tmp_path: Path) -> None:
    assert "imported with 1" in _imported_with(code, tmp_path)


def test_what_the_user_has_set_stays(tmp_path: Path) -> None:
    code = "from pepnet_infer.backends.ort_library import import_onnxruntime; import_onnxruntime()"
    for value in ("0", ""):
        assert f"imported with {value}\n" in _imported_with(code, tmp_path, **{VARIABLE: value})


def test_no_other_place_imports_it() -> None:
    root = Path(pepnet_infer.__file__).parent
    imports = re.compile(r"""^\s*(import|from) onnxruntime\b|import_module\(["']onnxruntime["']\)""", re.MULTILINE)
    assert [path.name for path in root.rglob("*.py") if imports.search(path.read_text())] == ["ort_library.py"]
