"""The page on extensions is run as it stands, in a folder with a small demo corpus."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import shlex
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from emofuse.demo import make_demo_corpus

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
BLOCK = re.compile(r"(?:<!-- file: (?P<file>\S+) -->\n)?```(?P<language>\w+)\n(?P<code>.*?)```", re.DOTALL)

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("hibari") is None, reason="needs the demo extra: hibari-tts"),
    pytest.mark.usefixtures("blank_plots"),
]


@pytest.mark.slow
def test_the_page_on_extensions_runs_as_it_stands(
    tmp_path: Path, emo: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_demo_corpus(tmp_path / "demo" / "corpus", utterances_per_class=2)
    monkeypatch.setattr("emofuse.experiment.process_count", lambda *_, **__: 1)
    said = ""
    for block in BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
        if block["file"]:
            (tmp_path / block["file"]).write_text(block["code"], encoding="utf-8")
        elif block["language"] == "python":
            with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as out:
                patch.chdir(tmp_path)
                exec(block["code"], {})  # noqa: S102
            said += out.getvalue()
        else:
            for line in block["code"].splitlines():
                first, *arguments = shlex.split(line)
                assert first == "emofuse", line
                done = emo(*arguments, folder=tmp_path)
                assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert "Brier score" in said
    result = json.loads((tmp_path / "gated" / "result.json").read_text(encoding="utf-8"))
    assert result["certainty"]["gated"] == "mine"
    trial = json.loads(next((tmp_path / "gated" / "trials" / "gated").glob("*/trial.json")).read_text(encoding="utf-8"))
    assert trial["history"][0]["loss_gate"] > 0
    words = json.loads((tmp_path / "words" / "result.json").read_text(encoding="utf-8"))
    assert list(words["alignment"]["sources"]) != ["sphinx"]


def test_the_model_of_the_page_is_short() -> None:
    """What a model of one's own takes: under 40 lines."""
    (code,) = [one["code"] for one in BLOCK.finditer(PAGE.read_text(encoding="utf-8")) if one["file"] == "my_models.py"]
    assert len(code.splitlines()) < 50
    assert len([line for line in code.splitlines() if line.strip()]) < 40
