"""Bundles that are damaged, forged or from the future. Each is refused, with what was expected, what came and where."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken_bundle import RIGHT
from broken_bundle_cases import CASES
from forged import Break, listed, relist

from pepnet_infer.bundle.bundle import Bundle
from pepnet_infer.errors import BundleError, SchemaError
from pepnet_infer.schema.feature_schema import FeatureSchema

pytestmark = pytest.mark.hostile


@pytest.fixture
def bundle(toy_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the toy bundle to break, in a folder of its own with a secret beside it."""
    (tmp_path / "secret").write_text("nobody's business")
    return Path(shutil.copytree(toy_bundle, tmp_path / "bundle"))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [pytest.param(step, message, id=f"{i:02d}-{name}") for i, (name, step, message) in enumerate(CASES, 1)],
)
def test_refused(bundle: Path, break_it: Break, message: str) -> None:
    Bundle.open(bundle)
    break_it(bundle)
    with pytest.raises(BundleError, match=message):
        Bundle.open(bundle)


#: What "sizes" leaves out: the reading of every byte.
UNREAD = {
    "weights that overflow",
    "graph altered",
    "weights altered",
    "table altered",
    "parity altered",
    "weight NaN",
    "weight inf",
    "row NaN",
}


@pytest.mark.parametrize(
    ("break_it", "message"),
    [pytest.param(step, message, id=name) for name, step, message in CASES if name not in UNREAD],
)
def test_refused_without_reading_every_byte(bundle: Path, break_it: Break, message: str) -> None:
    break_it(bundle)
    with pytest.raises(BundleError, match=message):
        Bundle.open(bundle, check="sizes")


@pytest.mark.parametrize("name", ["nowhere", "secret"])
def test_what_is_no_directory(bundle: Path, name: str) -> None:
    got = {"nowhere": "nothing", "secret": "a file"}[name]
    with pytest.raises(BundleError, match=rf"{name}: expected a directory with manifest\.json, got {got}"):
        Bundle.open(bundle.parent / name)


def test_nothing_outside_is_opened(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opens every forged bundle and watches which files are opened: none outside of it."""
    opened: list[str] = []
    watching = False

    def watch(event: str, args: tuple[Any, ...]) -> None:
        if watching and event == "open" and isinstance(args[0], (str, bytes)):
            opened.append(os.path.realpath(os.fsdecode(args[0])))

    sys.addaudithook(watch)
    pristine = bundle.with_name("pristine")
    shutil.copytree(bundle, pristine)
    for name, step, _ in CASES:
        shutil.rmtree(bundle)
        shutil.copytree(pristine, bundle)
        step(bundle)
        watching = True
        with pytest.raises(BundleError):
            Bundle.open(bundle)
        watching = False
        for stray in ("elsewhere", "nowhere"):
            path = bundle.parent / stray
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        inside = f"{bundle.resolve()}/"
        outside = [p for p in opened if not p.startswith(inside) and not p.endswith((".py", ".pyc", ".so"))]
        assert outside == [], name
    assert len(opened) > len(CASES)


def places(data: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [at] * bool(at) + [place for key, value in inside for place in places(value, (*at, key))]


ODD = [None, True, -1, 2**63, 2**64 - 1, 1e308, 5e-324, "", "\ud800", "../x", [], {}, [[]], {"a": {}}, [2**63] * 9]


@pytest.mark.parametrize("name", ["manifest.json", "parity.json"])
def test_any_other_value_at_any_key_is_read_or_refused(bundle: Path, name: str) -> None:
    whole = json.loads((bundle / name).read_text())
    random = np.random.default_rng(3)
    refused, some = 0, [place for place in places(whole) if random.random() < 100 / len(places(whole))]
    for place in some:
        data = json.loads(json.dumps(whole))
        inside = data
        for key in place[:-1]:
            inside = inside[key]
        inside[place[-1]] = ODD[random.integers(len(ODD))]
        with contextlib.suppress(SchemaError):
            if name == "manifest.json" and isinstance(data["schema"], dict):
                data["schema_hash"] = FeatureSchema.from_json(data["schema"]).hash
        (bundle / name).write_text(json.dumps(data))
        if name != "manifest.json":
            relist(bundle, name)
        try:
            Bundle.open(bundle, check="sizes")
        except BundleError:
            refused += 1
    assert refused > len(some) // 5


@pytest.mark.parametrize(
    "name", ["lost+found/x", ".nfs00000000004c2d1f00000001", ".DS_Store", "tables/._video", "tables/.DS_Store"]
)
def test_what_file_systems_leave_in_a_folder_is_passed_over(bundle: Path, name: str) -> None:
    (bundle / name).parent.mkdir(exist_ok=True)
    (bundle / name).write_text("left here")
    Bundle.open(bundle)
    listed(name.partition("/x")[0], RIGHT)(bundle)
    with pytest.raises(BundleError, match="got no file"):
        Bundle.open(bundle)
