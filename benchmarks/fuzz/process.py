"""Cases in forked processes with limits, so that whatever a case does costs that case alone."""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import resource
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from benchmarks.fuzz.contract import Wrong

MEMORY = 2 << 30
"""Bytes that a case may take beyond what the harness has."""

SECONDS = 20
"""Processor seconds that a case may take."""

WALL = 240.0
"""Seconds of a case that waits; the machine may be busy with other work."""

_BATCH = 200  # Cases of one process, so that what leaks stays small.


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a case ended.

    Attributes:
        number: Which case.
        end: `answer`, `refused` or `failed`.
        cause: Of a failure: what is alike between failures of one cause.
        why: Of a failure: all that is known.
    """

    number: int
    end: str
    cause: str = ""
    why: str = ""


Job = Callable[[int], str]


def outcomes(job: Job, numbers: Iterable[int], scratch: Path) -> Iterator[Outcome]:
    """Do the job of each number in a process of its own kind; one that crashes is followed by the next."""
    scratch.mkdir(parents=True, exist_ok=True)
    waiting = iter(numbers)
    more = True
    while more:
        batch = [number for _, number in zip(range(_BATCH), waiting, strict=False)]
        more = len(batch) == _BATCH
        while batch:
            for done in _one_process(job, batch, scratch):
                batch = batch[batch.index(done.number) + 1 :]
                yield done


def _one_process(job: Job, batch: list[int], scratch: Path) -> Iterator[Outcome]:
    read, write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        os.close(read)
        # Not an exit: what the harness has open is not the child's to close.
        try:
            _work(job, batch, scratch, write)
        finally:
            os._exit(0)
    os.close(write)
    current = batch[0]
    try:
        with os.fdopen(read, "r", encoding="utf-8") as lines:
            while line := _line(lines):
                values = json.loads(line)
                current = values["number"]
                if "end" in values:
                    yield Outcome(**values)
                    current = batch[min(batch.index(current) + 1, len(batch) - 1)]
                    if values["number"] == batch[-1]:
                        return
        yield _ended(child, current, scratch)
    finally:
        _end(child)


def _line(lines: IO[str]) -> str:
    """The next line; nothing where the process ended or waits for ever."""
    ready, _, _ = select.select([lines], [], [], WALL)
    return lines.readline() if ready else ""


def _ended(child: int, number: int, scratch: Path) -> Outcome:
    pid, status = os.waitpid(child, os.WNOHANG)
    for _ in range(200):
        if pid:
            break
        time.sleep(0.01)
        pid, status = os.waitpid(child, os.WNOHANG)
    said = (scratch / "err").read_text(encoding="utf-8", errors="replace")[-4000:]
    if not pid:
        cause = f"no answer in {WALL} s"
    elif os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        cause = f"more than {SECONDS} s of processor time" if name == "SIGXCPU" else f"ended by {name}"
    else:
        cause = f"ended the process with status {os.waitstatus_to_exitcode(status)}"
    return Outcome(number=number, end="failed", cause=cause, why=f"{cause}\n{said}")


def _end(child: int) -> None:
    try:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def _work(job: Job, batch: list[int], scratch: Path, write: int) -> None:
    for name, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(scratch / name, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND), number)
    # Those of a test runner may be no files.
    sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w", encoding="utf-8") for number in (1, 2))
    faulthandler.enable(sys.stderr)
    with Path("/proc/self/statm").open() as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    gc.freeze()
    for number in batch:
        _send(write, {"number": number})
        spent = resource.getrusage(resource.RUSAGE_SELF)
        limit = int(spent.ru_utime + spent.ru_stime) + SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
        for name in ("out", "err"):
            os.truncate(scratch / name, 0)
        _send(write, {"number": number, **_outcome(job, number, scratch)})


def _send(write: int, values: dict[str, Any]) -> None:
    os.write(write, (json.dumps(values) + "\n").encode())


def _outcome(job: Job, number: int, scratch: Path) -> dict[str, str]:
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            end = job(number)
        sys.stdout.flush()
        sys.stderr.flush()
        for one in warned:
            if issubclass(one.category, (RuntimeWarning, UserWarning)):
                place = f"{Path(one.filename).name}:{one.lineno}"
                return _failed(f"warns: {one.category.__name__} at {place}", str(one.message))
        for name, stream in (("out", "stdout"), ("err", "stderr")):
            said = (scratch / name).read_text(encoding="utf-8", errors="replace")
            if said:
                return _failed(f"writes to {stream}: {said[:30]!r}", said)
    except Wrong as error:
        return _failed(f"{type(error).__name__}: {str(error)[:40]}", str(error))
    except BaseException as error:
        return _failed(_mark(error), traceback.format_exc())
    return {"end": end}


def _failed(cause: str, why: str) -> dict[str, str]:
    return {"end": "failed", "cause": cause, "why": f"{cause}\n{why}"[:20000]}


def _mark(error: BaseException) -> str:
    """The error's class, and where in emofuse it was let through."""
    places = [frame for frame in traceback.extract_tb(error.__traceback__) if "emofuse" in Path(frame.filename).parts]
    place = f"{Path(places[-1].filename).name}:{places[-1].name}" if places else "the harness"
    return f"{type(error).__name__} in {place}"
