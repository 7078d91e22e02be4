"""A dozen cases of each kind that `make fuzz` makes, and the harness itself: what must count as a failure does."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
from benchmarks.fuzz.contract import Kind
from benchmarks.fuzz.kinds import KINDS
from benchmarks.fuzz.process import outcomes
from benchmarks.fuzz.shrink import shrink

CASES = 12
# A few encoders and recordings stand for all.
SOME = {"audio": slice(None, None, 40), "encoders": slice(0, None, 4)}

forks = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_a_dozen_cases_end_in_an_answer_or_a_refusal(kind: Kind, tmp_path: Path) -> None:
    seeds = tmp_path / "work" / "seeds"
    seeds.mkdir(parents=True)
    for prepare in kind.preparations(seeds)[SOME.get(kind.name, slice(None))]:
        prepare()
    for number in range(CASES):
        case = tmp_path / str(number)
        kind.write(Random(f"{kind.name} {number}"), seeds, case)
        assert kind.answer(seeds, case, tmp_path / "place") in ("answer", "refused")
        shutil.rmtree(case)


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_the_same_seed_makes_the_same_case(kind: Kind, tmp_path: Path) -> None:
    if kind.preparations(tmp_path):
        return
    for name in ("first", "second"):
        kind.write(Random(f"{kind.name} 7"), tmp_path, tmp_path / name)
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name).glob("*")} for name in ("first", "second")
    )
    assert first == second


FAULTS: dict[str, tuple[Callable[[], object], str]] = {
    "crash": (lambda: os.kill(os.getpid(), signal.SIGSEGV), "ended by SIGSEGV"),
    "end": (lambda: os._exit(0), "ended the process with status 0"),
    "exception": (lambda: {}["a"], "KeyError"),
    "memory": (lambda: bytearray(8 << 30), "MemoryError"),
    "stray output": (lambda: os.write(1, b"hello"), "writes to stdout: 'hello"),
    "stray errors": (lambda: os.write(2, b"hello"), "writes to stderr: 'hello"),
    "overflow": (lambda: np.float32(3e38) * np.float32(10), "warns: RuntimeWarning"),
}


@forks
@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_costs_its_own_case_and_is_named(what: str, tmp_path: Path) -> None:
    fault, cause = FAULTS[what]

    def job(number: int) -> str:
        if number == 2:
            fault()
        return "answer"

    found = list(outcomes(job, range(4), tmp_path))
    assert [one.number for one in found] == [0, 1, 2, 3]
    assert [one.end for one in found] == ["answer", "answer", "failed", "answer"]
    assert found[2].cause.startswith(cause)


@forks
def test_a_case_that_computes_for_ever_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.fuzz.process.SECONDS", 1)

    def job(number: int) -> str:
        while number == 0:
            pass
        return "answer"

    first, second = outcomes(job, range(2), tmp_path)
    assert (first.end, first.cause) == ("failed", "more than 1 s of processor time")
    assert second.end == "answer"


@forks
def test_a_case_that_waits_for_ever_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.fuzz.process.WALL", 0.2)

    def job(number: int) -> str:
        if number == 0:
            time.sleep(60)
        return "answer"

    first, second = outcomes(job, range(2), tmp_path)
    assert first.cause.startswith("no answer in")
    assert second.end == "answer"


def test_a_failure_is_shrunk_to_what_matters(tmp_path: Path) -> None:
    case = tmp_path / "case"
    case.mkdir()
    (case / "a.txt").write_bytes(b"".join(b"line %d of text\n" % number for number in range(40)) + b"x{bad}y\nlast\n")
    (case / "b.txt").write_bytes(b"not needed")
    shrink(case, lambda folder: any(b"bad" in path.read_bytes() for path in folder.iterdir()), tmp_path / "try")
    assert [path.name for path in case.iterdir()] == ["a.txt"]
    assert (case / "a.txt").read_bytes() == b"bad"
