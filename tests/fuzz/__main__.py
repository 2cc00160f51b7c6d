"""Runs fuzzers for as long as told, or shows one mutant.

python -m fuzz --seconds 600                              all targets, one after the other, with as many workers as CPUs
python -m fuzz --target bundle --seed 7 --only 1234       shows that mutant, tries it, and says what came of it
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

from fuzz.corpus import write_corpus
from fuzz.schedule import share_out
from fuzz.supervisor import Limits, Report, fuzz
from fuzz.worker import MEMORY, TARGETS, limit_memory, load, reporting, stream


def main() -> int:
    """Returns 1 when there is a finding."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0, help="of all targets together")
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, default=None, help="default: the time, so that every run tries others")
    parser.add_argument("--executions", type=int, default=1 << 40, help="of each target at most")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--memory", type=int, default=MEMORY, help="bytes that a mutant may take; 0: any")
    parser.add_argument("--only", type=int, default=None, metavar="INDEX", help="shows and tries one mutant")
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"), help="where findings are written")
    options = parser.parse_args()
    seed = time.time_ns() // 1_000_000 if options.seed is None else options.seed
    names = options.target or list(TARGETS)
    with tempfile.TemporaryDirectory(prefix="pepnet-fuzz-") as folder:
        corpus = Path(folder)
        write_corpus(corpus)
        if options.only is not None:
            return _one(names[0], seed, options.only, corpus, options.memory)
        reports = {name: Report(name, seed) for name in names}

        def turn(name: str, seconds: float, executions: int) -> Report:
            limits = Limits(seconds, executions, memory=options.memory)
            fuzz(name, seed, corpus, limits, options.workers, reports[name])
            _say(reports[name], options.out)
            return reports[name]

        share_out(names, options.seconds, turn, options.executions)
    print(f"{sum(report.executions for report in reports.values())} executions, seed {seed}; by target:")
    for report in reports.values():
        print(f"{report.target:12} {report.executions:9}")
    return 1 if any(report.findings for report in reports.values()) else 0


def _one(name: str, seed: int, index: int, corpus: Path, memory: int) -> int:
    with tempfile.TemporaryDirectory(prefix="pepnet-fuzz-", dir="/dev/shm") as scratch, reporting():
        target = load(name, corpus, Path(scratch))
        mutant = target.make(stream(name, seed, index))
        print(target.show(mutant), flush=True)
        limit_memory(memory)
        try:
            print(target.run(mutant))
        except target.refusals as error:
            print(f"refused: {type(error).__name__}: {error!s:.2000}")
        except BaseException:
            traceback.print_exc()
            return 1
    return 0


def _say(report: Report, out: Path) -> None:
    counts = ", ".join(f"{count} {outcome}" for outcome, count in report.counts.items())
    rate = report.executions / max(report.seconds, 1e-9)
    print(f"{report.target:12} {report.executions:9} executions, {rate:6.0f}/s  ({counts})", flush=True)
    for number, (cause, findings) in enumerate(report.causes().items(), 1):
        first = findings[0]
        again = f"python -m fuzz --target {first.target} --seed {first.seed} --only {first.index}"
        print(f"  {len(findings)} times: {cause}\n    {again}", flush=True)
        out.mkdir(parents=True, exist_ok=True)
        path = out / f"{report.target}-{report.seed}-{number}.txt"
        places = ", ".join(str(finding.index) for finding in findings[:50])
        path.write_text(f"{cause}\n{again}\nmutants: {places}\n\n{first.said}", errors="replace")


if __name__ == "__main__":
    sys.exit(main())
