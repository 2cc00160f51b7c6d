"""SECURITY.md says what the package never does: its source is walked for it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from page_blocks import ROOT

FOLDERS = ("pepnet_infer", "export", "bench")
#: Modules that talk to a network or run a shell, and those that read pickles, which may only be written with.
NETWORK = {
    "socket",
    "ssl",
    "http",
    "urllib",
    "urllib3",
    "requests",
    "httpx",
    "aiohttp",
    "ftplib",
    "smtplib",
    "telnetlib",
}
READS_PICKLES = {"load", "loads", "Unpickler"}
RUNS_TEXT = {"eval", "exec", "compile"}
#: Who asks `socket` for something that is no connection: the host's name.
NO_CONNECTION = {"pepnet_infer/sync/follower.py": {"socket"}}
#: Files that may start a process.
STARTS = {"simplify.py", "offline.py", "gpu_check.py"}


def _calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def _imports(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name.split(".")[0] for name in names - {"urllib.parse"}}


@pytest.mark.parametrize("folder", FOLDERS)
def test_modules_read_no_pickle_run_no_text_and_open_no_connection(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    for file in files:
        _check(file)


def _check(file: Path) -> None:
    where = file.relative_to(ROOT).as_posix()
    tree = ast.parse(file.read_text())
    imports = _imports(tree)
    assert imports & NETWORK <= NO_CONNECTION.get(where, set()), where
    assert "subprocess" not in imports or file.name in STARTS, where
    for name, call in _calls(tree):
        module, _, last = name.rpartition(".")
        assert module not in ("pickle", "cloudpickle", "marshal", "shelve", "torch") or last not in READS_PICKLES, (
            f"{where}: {name}"
        )
        assert name not in RUNS_TEXT, f"{where}: {name}"
        assert name not in ("os.system", "os.popen"), f"{where}: {name}"
        assert name not in ("yaml.load", "yaml.unsafe_load", "yaml.full_load"), f"{where}: {name}"
        assert not any(word.arg == "shell" for word in call.keywords), f"{where}: {name}"


def test_a_follower_asks_for_the_host_name_alone() -> None:
    """The one use of `socket`."""
    text = (ROOT / "pepnet_infer/sync/follower.py").read_text()
    assert text.count("socket.") == text.count("socket.gethostname()") == 1
