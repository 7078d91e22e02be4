"""The paper's table from the licensed corpus's own folder: `emofuse run paper --corpus iemocap`, on a miniature."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from emofuse import load
from emofuse.align.readers import read_iemocap
from emofuse.align.table import read_alignments
from emofuse.cli.app import app
from emofuse.errors import ManifestError
from emofuse.manifest import read_manifest
from emofuse.scoring.table import read_scores
from emofuse.testing import miniature_iemocap

pytestmark = pytest.mark.usefixtures("blank_plots")

ROWS = (
    "speech",
    "text",
    "concat",
    "early-frame",
    "early-phone",
    "early-syllable",
    "early-word",
    "multi-granularity",
    "late",
    "multi-level",
)
CERTAINTY = {
    "speech": "inferred",
    "text": "inferred",
    "concat": "our baseline",
    "early-frame": "co-attention stated, equations inferred",
    "early-phone": "granularity stated, pooling chosen",
    "early-syllable": "granularity stated, pooling chosen",
    "early-word": "granularity stated, pooling chosen",
    "multi-granularity": "inferred",
    "late": "existence stated, rule chosen",
    "multi-level": "combination stated, form chosen",
}
LABELLED = "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
SHORTER = "Session2/dialog/EmoEvaluation/Ses02F_impro01.txt"
CLIP = "Session4/sentences/wav/Ses04F_impro01/Ses04F_impro01_F000.wav"
SPANS = "Session3/sentences/ForcedAlignment/Ses03M_script02_2/Ses03M_script02_2_F000"
WORDS = "Session5/sentences/ForcedAlignment/Ses05M_script02_2/Ses05M_script02_2_F000.wdseg"
# What costs time and leaves no step of the chain out.
QUICK = (
    "train.epochs=1",
    "train.refit=false",
    "model.width=16",
    "speech.frames_per_step=10",
)


@dataclass(frozen=True)
class Paper:
    root: Path
    out: Path
    done: Result
    result: dict[str, Any]


def controls(paper: Paper) -> list[str]:
    """Names of all controls in the result."""
    return list(dict.fromkeys(name for one in paper.result["controls"].values() for name in one["controls"]))


def command(root: Path, out: Path, *options: str) -> Result:
    given = ["run", "paper", "--corpus", "iemocap", "--root", str(root), "--out", str(out), "--seeds", "0"]
    given += ["--speech-encoder", "logmel", "--text-encoder", "words", "--jobs", "1"]
    chosen = [word for one in QUICK for word in ("--set", one)]
    return CliRunner(env={"COLUMNS": "400"}).invoke(app, [*given, *chosen, *options])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that lacks a clip, an alignment, and the words of another; labels are cut off in and between lines."""
    folder = miniature_iemocap(tmp_path_factory.mktemp("iemocap"))
    for place in (CLIP, WORDS, *(f"{SPANS}.{ending}" for ending in ("wdseg", "syseg", "phseg"))):
        (folder / place).unlink()
    for place, mark in ((LABELLED, "Ses01F_impro01_F001"), (SHORTER, "[8.9501")):
        content = (folder / place).read_text()
        (folder / place).write_text(content[: content.index(mark)])
    return folder


DAMAGED = (LABELLED, CLIP)


@pytest.fixture(scope="module")
def paper(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Paper:
    out = tmp_path_factory.mktemp("paper") / "run"
    done = command(root, out, "--partial")
    assert (out / "result.json").is_file(), done.output
    return Paper(root, out, done, json.loads((out / "result.json").read_text()))


def test_a_damaged_copy_is_refused_with_every_name(root: Path, tmp_path: Path) -> None:
    refused = command(root, tmp_path / "run").exception
    assert isinstance(refused, ManifestError)
    assert "2 missing or damaged" in refused.what
    assert all(place in refused.what for place in DAMAGED)
    assert not (tmp_path / "run" / "trials").exists()


def test_accepted_as_partial_it_is_run_and_every_name_is_reported(paper: Paper) -> None:
    assert paper.done.exit_code == 1
    reported = dict(
        re.findall(r"^Skipped (Session\S+txt|Session\S+wav)(?:, line \d+)?: (.+)$", paper.done.output, re.M)
    )
    assert set(reported) == set(DAMAGED)
    assert "[START - END] NAME EMOTION" in reported[LABELLED]
    assert "no such file" in reported[CLIP]
    assert "2 skipped, the rest is done" in paper.done.output
    named = {one["utterance"].partition(",")[0]: one["reason"] for one in paper.result["skipped"]}
    assert set(named) == set(DAMAGED)
    cut = "4 recordings have no label, as where a file of EmoEvaluation is cut short: Ses02F_impro01.txt"
    for note in (cut, "found 67 of 5531 utterances"):
        assert any(one.startswith(note) for one in paper.result["notes"])
        assert f"Note: {note}" in paper.done.output


def test_every_row_is_scored_on_every_utterance(paper: Paper) -> None:
    scores = read_scores(paper.out / "scores.parquet")
    names = sorted(read_manifest(paper.out / "manifest.parquet")["utterance"])
    # Of 70 with one of the four labels, one is behind either cut, and one has no audio.
    assert len(names) == 67
    assert set(scores.models) == set(paper.result["models"]) == {*ROWS, *controls(paper)}
    for model in scores.models:
        one = scores.of(model).frame
        assert sorted(one["utterance"]) == names
        assert one.groupby("fold")["session"].nunique().tolist() == [1] * 5, "one session is left out at a time"


def test_rows_that_are_fused_are_the_mean_of_their_parts(paper: Paper) -> None:
    """Those of all granularities as they are, those of both levels as sure as the run found them right."""
    scores = read_scores(paper.out / "scores.parquet")
    frames = {model: scores.of(model).frame.set_index("utterance").sort_index() for model in ROWS}
    posteriors = {model: frame[list(scores.classes)].to_numpy() for model, frame in frames.items()}
    early = [posteriors[model] for model in ROWS if model.startswith("early")]
    assert len(early) == 4
    np.testing.assert_allclose(posteriors["multi-granularity"], np.mean(early, axis=0), atol=1e-9)
    fused = paper.result["fused"]["multi-level"]
    assert fused["of"] == ["multi-granularity", "late"]
    how = [fused["folds"][fold] for fold in frames["multi-level"]["fold"]]
    assert all(one["weights"] == [0.5, 0.5] for one in how)
    levels = []
    for place, part in enumerate(("multi-granularity", "late")):
        raised = posteriors[part] ** (1 / np.array([one["temperatures"][place] for one in how]))[:, None]
        levels.append(raised / raised.sum(1, keepdims=True))
    np.testing.assert_allclose(posteriors["multi-level"], np.mean(levels, axis=0), atol=1e-9)


def test_shipped_alignments_are_used_and_coverage_is_reported(paper: Paper) -> None:
    alignments = read_alignments(paper.out / "alignments.parquet")
    assert {one.source for one in alignments.values()} == {"shipped"}
    rows = read_manifest(paper.out / "manifest.parquet").set_index("utterance")
    wordless, bare = Path(WORDS).stem, Path(SPANS).stem
    for name in rows.index:
        place = Path(rows.loc[name, "audio"])
        spans = place.parents[2] / "ForcedAlignment" / place.parent.name / name
        assert alignments[name].tiers == ({} if name == bare else read_iemocap(spans))
    assert list(alignments[wordless].tiers) == ["syllable", "phone"]
    assert paper.result["alignment"]["utterances"] == 67
    assert paper.result["alignment"]["aligned"] == {"word": 65, "syllable": 66, "phone": 66}
    assert paper.result["alignment"]["sources"] == {"shipped": 66}
    reason = "a few utterances have none; if others lack them too, copy the corpus again"
    for note in (
        "67 utterances, aligned by word 97.0 %, syllable 98.5 %, phone 98.5 % (shipped 66)",
        f"1 not aligned: there is no .wdseg, .syseg, .phseg; {reason} ({bare}); frames stand for its segments",
        "word: 1 of 66 aligned utterances have none (shipped 1)",
    ):
        assert note in paper.result["notes"]
        assert note in paper.done.output
        assert note in (paper.out / "report.html").read_text()


def test_leakage_and_parts_are_reported(paper: Paper) -> None:
    leakage = paper.result["protocol"]["leakage"]
    assert paper.result["protocol"]["kind"] == "session"
    # All sessions play the same two scripts, and improvise in the same words.
    assert (leakage["speakers"], leakage["dialogues"], leakage["scripts"]) == (0, 0, 2)
    assert leakage["exact"]["fraction"] > 0.9
    manifest = read_manifest(paper.out / "manifest.parquet")
    improvised = int(manifest["script"].str.startswith("impro").sum())
    counts = {"improvised": improvised, "scripted": len(manifest) - improvised}
    assert set(paper.result["parts"]) == set(counts)
    for part, count in counts.items():
        assert set(paper.result["parts"][part]) == {*ROWS, *controls(paper)}
        for figures in paper.result["parts"][part].values():
            assert np.sum(figures["confusion"]) == count
    page = (paper.out / "report.html").read_text()
    assert "improvised" in page
    assert "scripted" in page


def test_the_table_has_ten_rows_and_their_certainty_in_three_formats(paper: Paper) -> None:
    content = (paper.out / "table.md").read_text().splitlines()
    markdown = [line.strip("| ").split(" | ") for line in content if line.startswith("|")]
    lines = (paper.out / "table.tex").read_text().splitlines()
    latex = [line.removesuffix(r" \\").split(" & ") for line in lines if line.count(" & ") == 7]
    tree = ElementTree.fromstring((paper.out / "table.html").read_text())  # noqa: S314 - it is our own
    html = [[cell.text or "" for cell in row] for row in (*tree.iterfind("thead/tr"), *tree.iterfind("tbody/tr"))]
    for rows in (markdown[:1] + markdown[2:], latex, html):
        assert rows[0][-1] == "Reconstruction"
        assert [row[0] for row in rows[1:]] == [*ROWS, *controls(paper)]
        assert {row[0]: row[-1] for row in rows[1:]} == {**CERTAINTY, **dict.fromkeys(controls(paper), "control")}
        for row in rows[1:]:
            ua = 100 * paper.result["models"][row[0]]["ua"]["value"]
            assert row[1].startswith(f"{ua:.1f} [")
    notes = [line for line in content if line and not line.startswith("|")]
    assert notes[0].startswith(
        "iemocap: 67 utterances; angry, happy, neutral, sad; 5 folds (leaving one session out); "
    )
    message = r"sign flips over 10 speakers, with Holm's correction over the \d+ differences of this table"
    assert any(re.search(message, note) for note in notes)
    assert notes[-3:] == [
        f"early-{tier}, multi-granularity, multi-level: {count} of 67 utterances ({share} %) have {tier}s; "
        "frames stand for the rest"
        for tier, count, share in (("word", 65, "97.0"), ("syllable", 66, "98.5"), ("phone", 66, "98.5"))
    ]


def test_ensembles_stand_beside_as_many_seeds_of_their_best_network(paper: Paper) -> None:
    assert {kind: one["members"] for kind, one in paper.result["controls"].items()} == {
        "late": 2, "multi-granularity": 4, "multi-level": 6
    }  # fmt: skip
    scores = read_scores(paper.out / "scores.parquet")
    assert set(scores.frame["seed"]) == {0}, "extra seeds are in controls only"
    pairs = {(one["first"], one["second"]) for one in paper.result["comparisons"]}
    table = (paper.out / "table.md").read_text()
    for kind, one in paper.result["controls"].items():
        assert one["controls"][0] == f"{one['best']} x {one['members']}"
        assert one["controls"][-1] == f"speech x {one['members']}"
        for name in one["controls"]:
            assert (kind, name) in pairs
            reported = re.search(rf"{kind} adds (\S+) points of UA .* over {name}: ", table)
            assert reported is not None
            ua = {model: paper.result["models"][model]["ua"]["value"] for model in (kind, name)}
            assert float(reported[1]) == pytest.approx(100 * (ua[kind] - ua[name]), abs=0.05)
    page = (paper.out / "report.html").read_text()
    assert "controls are the mean of one network" in page
    assert "multi-level adds" in page
    assert "multi-level adds" in paper.done.output


def test_every_row_is_kept_and_the_final_system_answers(paper: Paper) -> None:
    assert {path.name for path in (paper.out / "models").iterdir()} == set(ROWS)
    row = read_manifest(paper.out / "manifest.parquet").iloc[0]
    folder = paper.out / "models" / "multi-level"
    asked = ["predict", row["audio"], "--text", row["text"], "--model", str(folder), "--format", "json"]
    done = CliRunner().invoke(app, [*asked, "--alignments", str(paper.out / "alignments.parquet"), "--asr", "none"])
    assert done.exit_code == 0, done.output
    [answer] = json.loads(done.stdout)
    assert set(answer["posteriors"]) == {"angry", "happy", "neutral", "sad"}
    assert sum(answer["posteriors"].values()) == pytest.approx(1)
    assert answer["modalities"] == ["speech", "text"]
    assert answer["text"] == row["text"]

    aligned = read_alignments(paper.out / "alignments.parquet")[row["utterance"]]
    answers = {
        kind: list(
            load(paper.out / "models" / kind, asr="none")
            .predict(row["audio"], text=row["text"], alignment=aligned)
            .posteriors.values()
        )
        for kind in ("multi-granularity", "late", "multi-level")
    }
    how = paper.result["fused"]["multi-level"]["folds"]["final"]
    early, late = (
        np.array(answers[part]) ** (1 / temperature)
        for part, temperature in zip(("multi-granularity", "late"), how["temperatures"], strict=True)
    )
    assert answers["multi-level"] == pytest.approx((early / early.sum() + late / late.sum()) / 2, abs=1e-6)
