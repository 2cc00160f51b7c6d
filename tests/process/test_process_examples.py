"""The examples of docs/processes.md run as they stand there."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pepnet_infer import Engine

pytestmark = pytest.mark.concurrency

PATIENCE_S = 60
PAGE = Path(__file__).parents[2] / "docs" / "processes.md"


def _example(word: str) -> str:
    found = [block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if word in block]
    assert len(found) == 1
    return str(found[0])


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_pool_of_processes(
    toy_bundle: Path, toy_batch: Callable[..., dict[str, Any]], tmp_path: Path, method: str
) -> None:
    code = _example("get_context").replace('"bundle/"', repr(str(toy_bundle))).replace('"spawn"', repr(method))
    code = code.replace("Pool(4,", "Pool(2,").replace(
        'if __name__ == "__main__":\n',
        'if __name__ == "__main__":\n    import pickle, sys\n    batches = pickle.load(sys.stdin.buffer)\n',
    )
    (tmp_path / "program.py").write_text(code + "    print(repr([scores.values.tolist() for scores in results]))\n")
    batches = [toy_batch(5, seed) for seed in range(3)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", tmp_path / "program.py"],
        input=pickle.dumps(batches),
        capture_output=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr.decode()
    with Engine.load(toy_bundle, threads=1, check="sizes") as engine:
        assert done.stdout.decode().strip() == repr([engine.score(batch).values.tolist() for batch in batches])
