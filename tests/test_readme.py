"""The README's commands run, in the order in which a newcomer types them."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from glob import glob
from pathlib import Path
from typing import Any

import pytest

from emofuse.cli.options import recipe_of
from emofuse.demo import make_demo_corpus
from emofuse.recipe import Recipe

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


pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("hibari") is None, reason="needs the demo extra: hibari-tts"),
    pytest.mark.usefixtures("blank_plots"),
]


def test_every_command_of_the_readme_works(
    tmp_path: Path, emo: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, on a demo corpus of two instead of fifteen sentences a speaker and emotion, one epoch."""
    listed = commands()
    assert listed[0] == ("bash", "emofuse demo --out demo")
    assert any(language == "python" for language, _ in listed)
    fewer = ["seeds=[0]", "train.epochs=1", "protocol.folds=2"]
    monkeypatch.setattr("emofuse.demo.make_demo_corpus", partial(make_demo_corpus, utterances_per_class=2))
    monkeypatch.setattr("emofuse.cli.app.recipe_of", partial(recipe_with, fewer))
    monkeypatch.setattr("emofuse.experiment.process_count", lambda *_, **__: 1)
    for language, code in listed:
        small = code.replace("_014", "_001")
        if language == "python":
            with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as said:
                patch.chdir(tmp_path)
                exec(small, {})  # noqa: S102
            assert "{" in said.getvalue()
        else:
            first, *arguments = shlex.split(small)
            assert first == "emofuse", code
            # What a shell does with patterns such as *.wav.
            typed = [found for one in arguments for found in sorted(glob(one, root_dir=tmp_path)) or [one]]
            done = emo(*typed, folder=tmp_path)
            assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
    result = json.loads((tmp_path / "demo/run/result.json").read_text(encoding="utf-8"))
    assert {"speech", "text", "late", "early-frame"} <= set(result["models"])


def recipe_with(fewer: list[str], name: str, overrides: list[str] | None, *more: Any, **named: Any) -> Recipe:
    return recipe_of(name, [*fewer, *(overrides or [])], *more, **named)


@pytest.mark.slow
def test_every_command_of_the_readme_works_as_it_is_typed(tmp_path: Path) -> None:
    """Each in a process of its own, through a shell, on the whole demo, whose point is made."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
    for language, code in commands():
        typed = ["bash", "-c", f"{shlex.quote(sys.executable)} -m {code}"]
        arguments = [sys.executable, "-c", code] if language == "python" else typed
        done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"

    result = json.loads((tmp_path / "demo/run/result.json").read_text(encoding="utf-8"))
    gaps = {(one["first"], one["second"]): one["ua"] for one in result["comparisons"]}
    for fused in ("late", "early-frame"):
        for single in ("speech", "text"):
            assert gaps[fused, single]["low"] > 0, f"{fused} must beat {single} on a corpus where each has half the cue"


def test_make_targets_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^make ([\w-]+)", README.read_text(encoding="utf-8"), re.MULTILINE))
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")
    assert {"demo", "test"} <= targets
    rules = {name for line in re.findall(r"^([\w -]+):(?: |$)", makefile, re.MULTILINE) for name in line.split()}
    assert targets <= rules
