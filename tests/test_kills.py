"""A command that is killed at any moment and run again leaves what it would have left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = Path(__file__).parents[1] / "benchmarks" / "kills.py"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kills_lose_nothing() -> None:
    command = [sys.executable, str(KILLS), "--kills", "12", "--seed", "1", "--commands", "prepare,align,extract,run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("3 kills, 0 losses") == 4
