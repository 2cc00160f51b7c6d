"""A command whose packages are not installed says which extra has them."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pepnet_infer
from pepnet_infer.cli.main import EXTRAS

PACKAGE = Path(pepnet_infer.__file__).parent
PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_a_benchmark_without_its_package(
    toy_bundle: Path, command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("pepnet_infer.bench")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    code, out, said = command("bench", "sync", toy_bundle)
    assert (code, out) == (1, "")
    assert said == "error: MissingExtra: this command needs safetensors: pip install 'pepnet-infer[bench]'"


@pytest.mark.parametrize(
    ("package", "extra", "words"),
    [
        ("torch", "export", ("nowhere",)),
        ("onnxsim", "export", ("preset:nowhere",)),
        ("matplotlib", "bench", ("nowhere", "--png", "page.png")),
    ],
)
def test_a_benchmark_looks_for_its_packages_first(
    command: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    extra: str,
    words: tuple[str, ...],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    said = f"error: MissingExtra: this command needs {package}: pip install 'pepnet-infer[{extra}]'"
    assert command("bench", "latency", *words) == (1, "", said)


def test_every_package_that_may_be_missing_has_its_extra() -> None:
    paths = [path for path in PACKAGE.rglob("*.py") if not path.name.startswith(("test_", "conftest"))]
    imported = {name for path in paths for name in _imported(ast.parse(path.read_text()))}
    project = tomllib.loads(PROJECT.read_text())["project"]
    modules = {"pyyaml": "yaml", "prometheus-client": "prometheus_client"}
    always = {modules.get(name, name) for name in map(_name, project["dependencies"])}
    extras = {extra: set(map(_name, lines)) for extra, lines in project["optional-dependencies"].items()}
    optional = imported - set(sys.stdlib_module_names) - always - {"pepnet_infer"}
    said_by_the_part_itself = {"onnxruntime", "openvino", "pandas"}
    assert optional - said_by_the_part_itself <= set(EXTRAS)
    for name, extra in EXTRAS.items():
        assert name in extras[extra]


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.level == 0:
        yield str(node.module).partition(".")[0]
    elif not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
        for inside in ast.iter_child_nodes(node):
            yield from _imported(inside)


def _name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9_-]", requirement)[0]
