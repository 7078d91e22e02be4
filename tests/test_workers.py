"""Processes that cannot be started are told from tasks that kill them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
from emofuse.workers import in_processes

{guard}print(sorted(in_processes(len, ["a", "bc"], jobs={jobs}, died=lambda task: "blamed")))
"""
GUARD = "if __name__ == '__main__': "


def run(script: str, folder: Path, *, piped: bool) -> subprocess.CompletedProcess[str]:
    path = folder / "script.py"
    path.write_text(script)
    command = [sys.executable, "-" if piped else str(path)]
    return subprocess.run(command, input=script if piped else "", capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("piped", [False, True])
def test_a_script_that_is_not_guarded_is_told_so_and_no_task_is_blamed(piped: bool, tmp_path: Path) -> None:
    done = run(SCRIPT.format(guard="", jobs=2), tmp_path, piped=piped)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == (
        "emofuse.errors.EmofuseError: processes cannot be started here; guard the script with "
        "if __name__ == '__main__', or use jobs=1."
    )


@pytest.mark.parametrize(("guard", "jobs"), [(GUARD, 2), ("", 1)])
def test_what_the_message_advises_works(guard: str, jobs: int, tmp_path: Path) -> None:
    done = run(SCRIPT.format(guard=guard, jobs=jobs), tmp_path, piped=False)
    assert (done.stdout, done.stderr) == ("[1, 2]\n", "")
