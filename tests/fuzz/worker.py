"""The process that tries mutants one after another. Whoever started it watches it, and starts another when it dies."""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import importlib
import json
import logging
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from fuzz.target import OUTCOMES, Target

#: Name → the class of the target, as MODULE:CLASS.
TARGETS = {
    "bundle": "fuzz.bundle:BundleTarget",
    "delta": "fuzz.delta:DeltaTarget",
    "redis": "fuzz.redis:RedisTarget",
    "redis-server": "fuzz.redis:RedisServerTarget",
    "snapshot": "fuzz.snapshot:SnapshotTarget",
    "arrow": "fuzz.arrow:ArrowTarget",
    "parquet": "fuzz.parquet:ParquetTarget",
    "native": "fuzz.native:NativeTarget",
}
#: Numbers that a worker shares with its supervisor: the mutant under way, when it began, and how many became what.
INDEX, BEGAN, COUNTS = 0, 1, 2
STATUS = COUNTS + len(OUTCOMES)
#: In the place of when a mutant began: none has, or none will any more.
STARTING, DONE = 0, -1
#: Bytes that trying one mutant may take on top of what a worker has when it begins.
MEMORY = 500_000_000


def load(name: str, corpus: Path, scratch: Path) -> Target[Any]:
    """Returns a target by its name, or by MODULE:CLASS."""
    module, _, kind = TARGETS.get(name, name).partition(":")
    target: Target[Any] = getattr(importlib.import_module(module), kind)(corpus, scratch)
    return target


def stream(name: str, seed: int, index: int) -> Random:
    """Returns the random stream that a mutant is drawn from."""
    return Random(f"{name} {seed} {index}")


def limit_memory(most: int) -> None:
    """Makes an allocation that leads beyond `most` more bytes fail; 0 sets no limit."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 28, 1 << 28))
    if most:
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + most, now + most))


def signature(error: BaseException) -> str:
    """Returns what findings of one cause have in common: the error's type, and the innermost line that is ours."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "pepnet_infer" in frame.filename] or frames[-1:]
    where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"
    return f"{type(error).__name__} at {where}"


def work(options: argparse.Namespace) -> None:
    """Tries mutants start, start + step, … until `stop` of them were tried or a time has come."""
    status = np.memmap(options.status, np.int64, "r+", shape=(STATUS,))
    logging.disable()
    target = load(options.target, options.corpus, options.scratch)
    limit_memory(options.memory)
    with open(options.findings, "a", encoding="utf-8") as findings:
        for index in range(options.start, options.stop, options.step):
            if time.time() >= options.until:
                break
            status[BEGAN], status[INDEX] = time.monotonic_ns(), index
            try:
                outcome = target.run(target.make(stream(options.target, options.seed, index)))
            except target.refusals:
                outcome = "refused"
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                outcome = "refused"
                found = {"index": index, "cause": signature(error), "said": "".join(traceback.format_exception(error))}
                findings.write(json.dumps(found) + "\n")
                findings.flush()
            status[COUNTS + OUTCOMES.index(outcome)] += 1
    status[BEGAN] = DONE


@contextlib.contextmanager
def reporting() -> Iterator[None]:
    """Has what kills this process, and SIGUSR1, say where it is."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    yield


def main() -> None:
    """Runs what the supervisor asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", required=True)
    for name in ("corpus", "scratch", "status", "findings"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("seed", "start", "step", "stop", "memory"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--until", type=float, required=True)
    with reporting():
        work(parser.parse_args())
    # Nothing is cleaned up: threads of other packages may be anywhere.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
