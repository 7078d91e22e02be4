"""The command line: see the package's docstring."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ARROW_NUM_THREADS"):
    # A process with threads must not be forked; set before torch is imported.
    os.environ[_name] = "1"
os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

from benchmarks.fuzz.contract import Kind
from benchmarks.fuzz.kinds import KINDS
from benchmarks.fuzz.process import Outcome, outcomes
from benchmarks.fuzz.shrink import shrink

_KEPT = 3  # Cases of one cause that are kept.
_TURN = 50  # Cases of one kind before the next has its turn.


def main() -> int:
    """Run cases until the time is over; 1 if any failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=sys.modules["__main__"].__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--cases", type=int, default=sys.maxsize, help="most cases of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="number of the first case of each kind")
    parser.add_argument("--kind", action="append", choices=sorted(KINDS))
    parser.add_argument("--out", type=Path, default=Path("fuzz-failures"))
    parser.add_argument("--again", type=Path, help="a kept case, to be run once more")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        if options.again is not None:
            return _again(options.again, Path(name))
        chosen = [KINDS[one] for one in options.kind or sorted(KINDS)]
        return _run(chosen, options, Path(name))


def _prepare(kind: Kind, seeds: Path, work: Path) -> None:
    """In processes too: libraries start threads, and encoders crash."""
    seeds.mkdir(parents=True, exist_ok=True)
    jobs = kind.preparations(seeds)

    def job(number: int) -> str:
        jobs[number]()
        return "answer"

    failed = [done.why for done in outcomes(job, range(len(jobs)), work) if done.end != "answer"]
    if len(failed) > len(jobs) / 2:
        raise SystemExit(f"{kind.name}: seeds could not be written\n{failed[-1]}")


def _run(chosen: list[Kind], options: argparse.Namespace, work: Path) -> int:
    until = time.monotonic() + 60 * options.minutes
    ends: Counter[tuple[str, str]] = Counter()
    causes: Counter[tuple[str, str]] = Counter()
    numbers = {kind.name: options.start for kind in chosen}
    last = options.start + options.cases
    for kind in chosen:
        _prepare(kind, work / "seeds" / kind.name, work / "scratch")
    while time.monotonic() < until and any(number < last for number in numbers.values()):
        for kind in chosen:
            first = numbers[kind.name]
            turn = range(first, min(last, first + _TURN))
            numbers[kind.name] = turn.stop
            # All of a turn first: what keeps and shrinks a case needs the folders that cases are asked in.
            for done in list(_cases(kind, turn, options.seed, work, until)):
                ends[kind.name, done.end] += 1
                if done.end == "failed":
                    causes[kind.name, done.cause] += 1
                    if causes[kind.name, done.cause] <= _KEPT:
                        _keep(kind, done, options, work)
    for kind in chosen:
        counts = {end: ends[kind.name, end] for end in ("answer", "refused", "failed")}
        print(f"{kind.name:12} {sum(counts.values()):8} cases", *(f"{count:8} {end}" for end, count in counts.items()))
    for (name, cause), count in causes.most_common():
        print(f"FAILED {count:5} x {name}: {cause}")
    return int(bool(causes))


def _cases(kind: Kind, numbers: range, seed: int, work: Path, until: float) -> Iterator[Outcome]:
    seeds, case = work / "seeds" / kind.name, work / "case"

    def job(number: int) -> str:
        if case.exists():
            shutil.rmtree(case)
        kind.write(Random(f"{kind.name} {seed} {number}"), seeds, case)
        return kind.answer(seeds, case, work / "place")

    for done in outcomes(job, numbers, work / "scratch"):
        yield done
        if time.monotonic() > until:
            return


def _keep(kind: Kind, done: Outcome, options: argparse.Namespace, work: Path) -> None:
    seeds, kept = work / "seeds" / kind.name, options.out / f"{kind.name}-{options.seed}-{done.number}"
    shutil.rmtree(kept, ignore_errors=True)
    kept.parent.mkdir(parents=True, exist_ok=True)

    def write(_: int) -> str:
        kind.write(Random(f"{kind.name} {options.seed} {done.number}"), seeds, kept)
        return "answer"

    def fails(folder: Path) -> bool:
        job = lambda _: kind.answer(seeds, folder, work / "place")  # noqa: E731
        return any(one.cause == done.cause for one in outcomes(job, [0], work / "scratch"))

    for one in outcomes(write, [0], work / "scratch"):
        if one.end == "answer":
            shrink(kept, fails, work / "smaller")
    kept.mkdir(parents=True, exist_ok=True)
    (kept / "why.txt").write_text(done.why, encoding="utf-8", errors="replace")
    print(f"{kept}: {done.cause}", flush=True)


def _again(case: Path, work: Path) -> int:
    kind = KINDS[case.name.split("-")[0]]
    _prepare(kind, work / "seeds", work / "scratch")
    job = lambda _: kind.answer(work / "seeds", case, work / "place")  # noqa: E731
    (done,) = outcomes(job, [0], work / "scratch")
    print(f"{done.end}\n{done.why}")
    return int(done.end == "failed")


if __name__ == "__main__":
    sys.exit(main())
