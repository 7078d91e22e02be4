"""The README's commands run, in the order in which a newcomer types them."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"(?:<!-- needs: (?P<needs>[^>]+) -->\n)?```(?P<language>bash|python)\n(?P<code>.*?)```", re.DOTALL)
SET_UP = ("make ", "pip ", "uv ", "git ", "cd ", "python -m venv", "source ")


def commands() -> list[tuple[str, str]]:
    """Language and text of every command that needs nothing but the package."""
    found = []
    for block in BLOCK.finditer(README.read_text(encoding="utf-8")):
        if block["needs"]:
            continue
        if block["language"] == "python":
            found.append(("python", block["code"]))
            continue
        for line in block["code"].replace("\\\n", " ").splitlines():
            if line == "make demo":
                # What the Makefile runs once it has set up.
                found.insert(0, ("bash", "emofuse demo --out demo"))
            elif line.strip() and not line.startswith(("#", *SET_UP)):
                found.append(("bash", line.split("  #")[0]))
    return found


@pytest.mark.skipif(importlib.util.find_spec("hibari") is None, reason="needs the demo extra: hibari-tts")
def test_every_command_of_the_readme_works(tmp_path: Path) -> None:
    listed = commands()
    assert listed[0] == ("bash", "emofuse demo --out demo")
    assert any(language == "python" for language, _ in listed)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
    for language, code in listed:
        if language == "python":
            arguments = [sys.executable, "-c", code]
        else:
            assert code.startswith("emofuse "), code
            # Through a shell, as a newcomer does: patterns such as *.wav are its business.
            arguments = ["bash", "-c", f"{shlex.quote(sys.executable)} -m {code}"]
        done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"

    result = json.loads((tmp_path / "demo/run/result.json").read_text(encoding="utf-8"))
    gaps = {(one["first"], one["second"]): one["ua"] for one in result["comparisons"]}
    for fused in ("late", "early-frame"):
        for single in ("speech", "text"):
            assert gaps[fused, single]["low"] > 0, f"{fused} must beat {single} on a corpus where each has half the cue"


def test_make_targets_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^make (\w+)", README.read_text(encoding="utf-8"), re.MULTILINE))
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")
    assert {"demo", "test"} <= targets
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
