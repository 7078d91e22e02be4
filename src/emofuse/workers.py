"""Work in other processes, where a crash affects one task only."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from emofuse.errors import EmofuseError

Task = TypeVar("Task")
Result = TypeVar("Result")

_GROUPS = (Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))
_AHEAD = 4  # Waiting tasks per process.


def in_processes(
    work: Callable[[Task], Result], tasks: Sequence[Task], *, jobs: int, crashed: Callable[[Task], Result]
) -> Iterator[Result]:
    """Do all tasks, in several processes if that is faster, and yield each result at once.

    Args:
        work: Function of a task; at the top level of a module, so that other processes find it.
        tasks: Tasks, in starting order.
        jobs: Most processes; one, or a single task, runs in this process.
        crashed: Result of a task that crashes its process.

    Raises:
        EmofuseError: No process can be started, as in a script without a guard.

    Example:
        >>> list(in_processes(len, ["a", "bc"], jobs=1, crashed=lambda task: -1))
        [1, 2]
    """
    jobs = min(jobs, len(tasks))
    if jobs <= 1:
        yield from map(work, tasks)
        return
    waiting = deque(tasks)
    while waiting:
        running: dict[Future[Result], Task] = {}
        pool = new_pool(jobs)
        try:
            while waiting or running:
                while waiting and len(running) < _AHEAD * jobs:
                    running[pool.submit(work, waiting[0])] = waiting[0]
                    waiting.popleft()
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    result = future.result()
                    del running[future]
                    yield result
        except BrokenProcessPool:
            see_that_processes_start()
            for task in running.values():
                yield _alone(work, task, crashed)
        finally:
            pool.shutdown(cancel_futures=True)


def process_count(jobs: int | None, *, device: str = "cpu") -> int:
    """Number of processes for `jobs`: by default one per core, and one on a GPU.

    Example:
        >>> process_count(3), process_count(3, device="cuda")
        (3, 1)
    """
    # Processes on one GPU wait for each other, and each holds its memory.
    return 1 if device != "cpu" else jobs or usable_cores()


def usable_cores() -> int:
    """Cores that this process may use, by its affinity and its container's limit.

    Example:
        >>> usable_cores() >= 1
        True
    """
    # Affinity and containers are not known everywhere, and `os.cpu_count` ignores both.
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([bound, *map(math.ceil, _granted(*_GROUPS))]))


def _granted(root: Path, own: Path) -> Iterator[float]:
    """Core limits of each control group above this process, in both versions of Linux's cgroups."""
    try:
        groups = [line.split(":", 2)[2] for line in own.read_text().splitlines() if line.count(":") >= 2]
    except OSError:
        groups = []
    for group in {"/", *groups}:
        place = root / group.strip("/")
        for folder in (place, *place.parents):
            if folder == root.parent:
                break
            for quota, period in (("cpu.max", None), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
                yield from _quota(folder if period is None else root / "cpu" / folder.relative_to(root), quota, period)


def _quota(folder: Path, quota: str, period: str | None) -> Iterator[float]:
    try:
        numbers = (folder / quota).read_text().split() + ([] if period is None else [(folder / period).read_text()])
        granted = int(numbers[0]) / int(numbers[1])
    except (OSError, ValueError, IndexError, ZeroDivisionError):
        return
    if granted > 0:
        yield granted


def _alone(work: Callable[[Task], Result], task: Task, crashed: Callable[[Task], Result]) -> Result:
    with new_pool(1) as pool:
        try:
            return pool.submit(work, task).result()
        except BrokenProcessPool:
            return crashed(task)


def see_that_processes_start() -> None:
    """Distinguish a task that kills its process from processes that cannot start.

    Raises:
        EmofuseError: They do.
    """
    with new_pool(1) as pool:
        try:
            pool.submit(os.getpid).result()
        except BrokenProcessPool as error:
            raise EmofuseError(
                "processes cannot be started here",
                remedy="guard the script with if __name__ == '__main__', or use jobs=1",
            ) from error


def new_pool(
    jobs: int, *, initializer: Callable[..., object] | None = None, initargs: tuple[Any, ...] = ()
) -> ProcessPoolExecutor:
    """Start new processes: forking one with threads, such as torch's, can hang."""
    first = (initializer, initargs)
    return ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_start, initargs=first)


def _start(initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> None:
    Thread(target=_end_with_parent, daemon=True).start()
    if initializer is not None:
        initializer(*initargs)


def _end_with_parent() -> None:
    """End with the parent: otherwise a process would wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
