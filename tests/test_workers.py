"""Processes that cannot be started are distinguished from tasks that kill them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from emofuse import workers
from emofuse.workers import process_count, usable_cores

SCRIPT = """
from emofuse.workers import in_processes

{guard}print(sorted(in_processes(len, ["a", "bc"], jobs={jobs}, crashed=lambda task: "blamed")))
"""
GUARD = "if __name__ == '__main__': "


def run(script: str, folder: Path, *, piped: bool) -> subprocess.CompletedProcess[str]:
    path = folder / "script.py"
    path.write_text(script)
    command = [sys.executable, "-" if piped else str(path)]
    return subprocess.run(command, input=script if piped else "", capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("piped", [False, True])
def test_a_script_without_a_guard_is_reported_and_no_task_is_blamed(piped: bool, tmp_path: Path) -> None:
    done = run(SCRIPT.format(guard="", jobs=2), tmp_path, piped=piped)
    assert (done.returncode, done.stdout) == (1, "")
    # Python's own tracker may warn after all that a script says, of what a process left that could not begin.
    said = [line for line in done.stderr.splitlines() if "resource_tracker" not in line]
    assert said[-1] == (
        "emofuse.errors.EmofuseError: processes cannot be started here; guard the script with "
        "if __name__ == '__main__', or use jobs=1."
    )


@pytest.mark.parametrize(("guard", "jobs"), [(GUARD, 2), ("", 1)])
def test_what_the_message_advises_works(guard: str, jobs: int, tmp_path: Path) -> None:
    done = run(SCRIPT.format(guard=guard, jobs=jobs), tmp_path, piped=False)
    assert (done.stdout, done.stderr) == ("[1, 2]\n", "")


ORPHAN = """
import os, time
from emofuse.workers import in_processes

def work(task):
    print(os.getpid(), flush=True)
    time.sleep(300)

if __name__ == "__main__":
    list(in_processes(work, ["a", "b"], jobs=2, crashed=lambda task: None))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are those of POSIX")
def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(ORPHAN)
    with subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = {int(parent.stdout.readline()) for _ in range(2)}
        parent.kill()
    deadline = time.monotonic() + 60
    while any(alive(worker) for worker in workers):
        assert time.monotonic() < deadline, "a worker has outlived its parent"
        time.sleep(0.1)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_cores_are_those_that_are_granted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(12)), raising=False)
    root, own = tmp_path / "cgroup", tmp_path / "own"
    groups = root / "pod" / "container"
    groups.mkdir(parents=True)
    own.write_text("0::/pod/container\n")
    monkeypatch.setattr(workers, "_GROUPS", (root, own))
    assert usable_cores() == 12
    (groups / "cpu.max").write_text("max 100000\n")
    assert usable_cores() == 12
    (root / "pod" / "cpu.max").write_text("350000 100000\n")
    assert usable_cores() == 4
    (root / "cpu").mkdir()
    (root / "cpu" / "cpu.cfs_quota_us").write_text("50000\n")
    (root / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores() == 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3}, raising=False)
    assert (process_count(None), process_count(5), process_count(5, device="cuda:0")) == (1, 5, 1)
