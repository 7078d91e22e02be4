"""Values are predicted from one end to the other: recipe, run, tables, kept models, answers in every format."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import emofuse
from emofuse.testing import tiny_corpus

RECIPE = """
name = "Valence"
models = ["speech", "text"]
seeds = [0]
[task]
values = ["valence"]
[speech]
encoder = "logmel"
[text]
encoder = "words"
[model]
width = 16
[train]
epochs = 3
[protocol]
kind = "speakers"
folds = 2
[[ensembles]]
name = "mean"
of = ["speech", "text"]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, emo: Callable[..., Any]) -> Path:
    folder = tmp_path_factory.mktemp("values")
    tiny_corpus(folder / "corpus", utterances=2)
    table = pd.read_csv(folder / "corpus" / "corpus.csv")
    pleasant = table["label"].map({name: place for place, name in enumerate(sorted(set(table["label"])))})
    table.drop(columns="label").assign(**{"values.valence": 1.0 + pleasant}).to_csv(
        folder / "corpus" / "corpus.csv", index=False
    )
    (folder / "valence.toml").write_text(RECIPE)
    command = ("run", "valence.toml", "--corpus", "table", "--root", "corpus/corpus.csv", "--jobs", 1, "--out", "run")
    done = emo(*command, folder=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_run_scores_values_and_their_ensemble(made: Path) -> None:
    result = json.loads((made / "run/result.json").read_text(encoding="utf-8"))
    assert {"speech", "text", "mean"} <= set(result["models"])
    assert result["models"]["speech"]["mae"]["value"] > 0
    scores = emofuse.read_scores(made / "run/scores.parquet")
    tables = {name: scores.of(name) for name in ("speech", "text", "mean")}
    average = (tables["speech"].outputs() + tables["text"].outputs()) / 2
    np.testing.assert_allclose(tables["mean"].outputs(), average, atol=1e-9)
    assert (tables["speech"].truth() >= 1.0).all()


@pytest.mark.parametrize("model", ["speech", "text", "mean"])
def test_kept_models_predict_values_in_every_format(model: str, made: Path, emo: Callable[..., Any]) -> None:
    (clip,) = sorted((made / "corpus").rglob("*.wav"))[:1]
    words = () if model == "speech" else ("--text", "what a day")
    typed = ("predict", clip, *words, "--model", f"run/models/{model}", "--format")
    reported = {style: emo(*typed, style, folder=made) for style in ("table", "csv", "json")}
    assert all(one.returncode == 0 for one in reported.values()), reported
    (row,) = json.loads(reported["json"].stdout)
    (line,) = csv.DictReader(io.StringIO(reported["csv"].stdout))
    value = row["values"]["valence"]
    assert float(line["valence"]) == pytest.approx(value, abs=1e-5)
    assert f"{value:.2f}" in reported["table"].stdout
    assert (row["label"], row["posteriors"]) == ("", {})
    # What is predicted is on the scale of what was learnt.
    assert -2 < value < 8
