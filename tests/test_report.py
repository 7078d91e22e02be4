"""The report: one page that needs nothing beside itself, and whose figures are those of the result."""

from __future__ import annotations

import base64
import io
import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import soundfile
import yaml
from numpy.typing import NDArray
from pydantic_core import to_jsonable_python as plain

from emofuse.errors import EmofuseError, ManifestError, OutputError, ScoresError, SettingsError
from emofuse.escape import one_line
from emofuse.manifest import make_manifest, write_manifest
from emofuse.report import plots, write_report
from emofuse.report.mistakes import LONGEST, worst_mistakes
from emofuse.report.model_card import model_card
from emofuse.report.paper_table import paper_table
from emofuse.report.plots import Plot
from emofuse.report.tables import comparisons, percent
from emofuse.scoring.inference import paired_difference
from emofuse.scoring.kinds import CLASSES as KIND
from emofuse.scoring.record import Result, check_result
from emofuse.scoring.result import compare, evaluate, reading
from emofuse.scoring.table import Scores, make_scores, read_scores, write_scores

CLASSES = ["angry", "happy", "sad"]
EVIL = "<script>alert('x')</script> & \"quotes\""
CLIP = 0.8
TRAINED = {
    "speech": (["speech"], []),
    "text": (["text"], []),
    "early-frame": (["speech", "text"], []),
    "early-word": (["speech", "text"], ["word"]),
    "early-phone": (["speech", "text"], ["phone"]),
}
"""Modalities that models read, and tiers."""
FUSED = {
    "late": ["speech", "text"],
    "multi-granularity": ["early-frame", "early-word", "early-phone"],
    "multi-level": ["late", "multi-granularity"],
}
VOID = {"meta", "img", "br", "link", "input", "hr"}


def make_run(run: Path, *, models: tuple[str, ...] = ("speech", "early-frame"), speakers: int = 6) -> dict[str, Any]:
    """Scores of two models, two seeds and three folds, and a recording of `CLIP` seconds an utterance."""
    generator = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    (run / "audio").mkdir(parents=True, exist_ok=True)
    for number in range(8 * speakers):
        path = run / "audio" / f"{number}.wav"
        soundfile.write(path, 0.3 * np.sin(np.arange(round(CLIP * 16000)) * (0.02 + number / 1000)), 16000)
        rows.append(
            {"utterance": f"u{number:03d}", "corpus": "mine", "audio": str(path), "duration": CLIP,
             "text": EVIL if number % 2 else f"sentence {number}", "label": CLASSES[number % 3],
             "speaker": f"s{number % speakers}"}
        )  # fmt: skip
    manifest = make_manifest(rows, source="test")
    write_manifest(manifest, run / "manifest.parquet")
    scored = []
    for place, model in enumerate(models):
        for seed in range(2):
            for number, row in enumerate(rows):
                logits = generator.normal(size=3)
                logits[CLASSES.index(row["label"])] += 0.4 + place
                posterior = np.exp(logits) / np.exp(logits).sum()
                names = {key: row[key] for key in ("utterance", "label", "speaker")}
                fold = f"fold-{number % speakers % 3}"
                posteriors = dict(zip(CLASSES, posterior, strict=True))
                scored.append({"model": model, "seed": seed, "fold": fold, **names, **posteriors})
    scores = make_scores(pd.DataFrame(scored), source="test")
    write_scores(scores, run / "scores.parquet")
    result: dict[str, Any] = {"name": "Two models", "corpus": "mine", "models": plain(evaluate(scores))}
    result["comparisons"] = plain(compare(scores, [(models[1], models[0])]))
    exact = {"fraction": 1.0, "agreement": 1 / 3}
    result["protocol"] = {
        "kind": "speakers", "fingerprint": "0123456789abcdef", "folds": 3, "classes": CLASSES, "utterances": len(rows),
        "speakers": speakers, "labels": [], "merge": {"excited": "happy"},
        "leakage": {"speakers": 0, "dialogues": 0, "exact": exact, "near": {"fraction": 0.0, "agreement": None}},
    }  # fmt: skip
    result["encoders"] = {
        "speech": {"name": "some/encoder", "revision": "r1", "licence": "MIT", "exposure": ["Mine (train)"],
                   "layers": 4, "selected": [1, 2, 3], "width": 8},
        "text": {"name": "words"},
    }  # fmt: skip
    weights = generator.dirichlet(np.ones(3), size=6).tolist()
    result["layer_weights"] = {models[0]: {"speech": weights}, models[1]: {"speech": weights, "text": [[1.0]] * 6}}
    result["modalities"] = {name: reads for name, (reads, _) in TRAINED.items()}
    result["tiers"] = {name: tiers for name, (_, tiers) in TRAINED.items()}
    result["certainty"] = {"speech": "inferred", "multi-level": "combination stated, form chosen"}
    result["fused"] = {name: {"of": members, "folds": {}} for name, members in FUSED.items()}
    how = {"weights": [0.25, 0.75], "temperatures": [1.0, 1.5]}
    result["fused"]["late"]["folds"] = {"fold-1-seed0": how, "final": how}
    curves = [{"loss": [1.5, 1.0, 0.5][:length], "validation_ua": [0.2, 0.4, 0.6][:length]} for length in (3, 2)]
    result["curves"] = dict.fromkeys(models, curves)
    result["recipe"] = {"name": "Two models", "train": {"epochs": 5}}
    result["skipped"] = [{"utterance": "u999", "reason": "the audio is silent"}]
    result["notes"] = ["a remark"]
    result["versions"] = {"python": "3"}
    result["command"] = "emofuse run mine --set 'train.epochs=5'"
    save(run, result)
    return result


def save(run: Path, result: dict[str, Any]) -> None:
    (run / "result.json").write_text(json.dumps(result), encoding="utf-8")


class Page(HTMLParser):
    """What a browser would find: tags with their attributes, cells of tables, text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def values(self, tag: str, attribute: str) -> list[str]:
        return [value for name, attributes in self.tags if name == tag and (value := attributes.get(attribute))]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    make_run(run)
    (run / "audio" / "0.wav").unlink()
    assert write_report(run) == run / "report.html"
    return run


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return Page(run / "report.html")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the drawing, most of a report's time, where plots are not what is tested."""

    def blank(draw: object, *, width: float, height: float, alt: str) -> Plot:
        return Plot(b"PNG", round(96 * width), round(96 * height), alt)

    monkeypatch.setattr(plots, "_plot", blank)


def result_of(run: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((run / "result.json").read_text(encoding="utf-8"))
    return result


def test_page_is_well_formed_and_needs_nothing_beside_itself(run: Path, page: Page) -> None:
    assert page.open == []
    for tag, attributes in page.tags:
        for name in ("src", "href", "poster", "srcset", "data", "action"):
            target = attributes.get(name) or "#"
            assert target.startswith(("#", "data:")), (tag, name, target[:80])
        assert not any(name.startswith("on") for name in attributes)
    assert not {"script", "link", "iframe", "object", "base", "form"} & {tag for tag, _ in page.tags}
    plain = re.sub(r"data:[a-z/]+;base64,[A-Za-z0-9+/=]+", "", (run / "report.html").read_text(encoding="utf-8"))
    assert "http:" not in plain
    assert "https:" not in plain
    assert "url(" not in plain
    assert "@import" not in plain
    assert str(run) not in plain
    ids = [value for _, attributes in page.tags if (value := attributes.get("id"))]
    assert len(ids) == len(set(ids))
    assert {link.removeprefix("#") for link in page.values("a", "href")} <= set(ids)


def test_figures_of_the_page_are_those_of_the_result(run: Path, page: Page) -> None:
    result = result_of(run)
    rows = [[re.sub(r"\s+", " ", cell).strip() for cell in row] for row in page.tables[0]]
    assert rows[1] == [*KIND.titles.values()] * 3
    found = {row[0]: row[1:] for row in rows[2:]}
    assert list(found) == list(result["models"])
    for model, entry in result["models"].items():
        wanted = [
            f"{percent(entry[key]['value'])} [{percent(entry[key]['low'])}, {percent(entry[key]['high'])}]"
            for key in KIND.titles
        ]
        wanted += [percent(entry[group][key]) for group in ("fold_mean", "seed_sd") for key in KIND.titles]
        sure = entry["confident"]
        wanted += [percent(one) for one in (entry["ece"], sure["coverage"], sure["accuracy"])]
        assert found[model] == wanted
        for number in re.findall(r"\d+\.\d", " ".join(found[model][:3])):
            assert 0 <= float(number) <= 100
    rows = page.tables[1][1:]
    pair = result["comparisons"][0]
    for row, key in zip(rows, KIND.titles, strict=True):
        assert row[1] == KIND.titles[key]
        assert abs(float(row[2]) - 100 * pair[key]["value"]) <= 0.0500001
        assert ("is higher than" in row[6]) == (pair[key]["reading"] == "higher")


def test_page_reports_what_must_be_known(page: Page) -> None:
    text = re.sub(r"\s+", " ", page.text)
    for message in (
        "Two models", "Corpus: mine", "3 folds", "2 seeds", "48 utterances of 6 speakers in 3 classes",
        "the words carry no label information", "some/encoder is known to have seen mine",
        "sign-flip tests over the same 6 speakers", "Holm's correction over the 1 comparison",
        "100.0 % of the test transcripts occur in training word for word",
        "No speaker of a test part occurs in training", "Dialogues are not known", "u999", "the audio is silent",
        "0123456789abcdef", "excited → happy", "MIT", "r1", "train.epochs", "emofuse run mine --set 'train.epochs=5'",
        "a remark", "0.25, 0.75", "weighted accuracy", "optimistic",
    ):  # fmt: skip
        assert message in text, message


def test_untrusted_text_is_escaped(run: Path, page: Page) -> None:
    assert EVIL in page.text
    source = (run / "report.html").read_text(encoding="utf-8")
    assert "<script" not in source
    assert "&lt;script&gt;" in source


def test_clips_can_be_played(page: Page) -> None:
    clips = page.values("audio", "src")
    assert len(clips) > 8
    for clip in clips:
        head, content = clip.split(",")
        assert head == "data:audio/flac;base64"
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(content)))
        assert len(samples) / rate == pytest.approx(CLIP, abs=1e-3)
        assert np.abs(samples).max() == pytest.approx(0.3, abs=0.01)


def test_pngs_are_there_and_not_blank(run: Path, page: Page) -> None:
    names = sorted(path.name for path in (run / "plots").iterdir())
    kinds = ("calibration", "confusion", "layers-speech", "learning", "recall", "speakers")
    assert names == sorted(f"{model}-{kind}.png" for model in ("speech", "early-frame") for kind in kinds)
    inside = [base64.b64decode(value.split(",")[1]) for value in page.values("img", "src")]
    assert sorted(inside) == sorted(path.read_bytes() for path in (run / "plots").iterdir())
    for content in inside:
        assert np.ptp(pixels(content)) > 0.5
    assert all(page.values("img", "alt"))


def test_learning_curves_show_the_mean_of_trials() -> None:
    """Of two trials, of which one stops early: their mean while both run, then the other one alone."""
    first = {"loss": [2.0, 1.0, 0.5, 0.25], "validation_ua": [0.25, 0.5, 0.5, 0.75]}
    second = {"loss": [4.0, 2.0], "validation_ua": [0.75, 0.5]}
    found = plots.learning_plot([first, second])
    assert "Training loss from 3 to 0.25 in 4 epochs; Validation UA from 0.5 to 0.75 in 4 epochs" in found.alt
    many = plots.learning_plot([first, second, second])
    assert "Training loss from 3.33 to 1.67 in 2 epochs" in many.alt


def pixels(png: bytes) -> NDArray[Any]:
    from matplotlib.image import imread

    return np.asarray(imread(io.BytesIO(png)))[..., :3]


def test_nothing_is_left_half_written(run: Path) -> None:
    assert not list(run.rglob("*.part"))


def test_a_report_is_replaced_and_the_same_every_time(run: Path) -> None:
    first = (run / "report.html").read_bytes()
    assert write_report(run).read_bytes() == first


@pytest.mark.usefixtures("undrawn")
def test_recordings_that_are_gone_do_not_break_it(tmp_path: Path) -> None:
    make_run(tmp_path)
    for path in (tmp_path / "audio").iterdir():
        path.unlink()
    page = Page(write_report(tmp_path))
    assert not page.values("audio", "src")
    assert "Audio not available: no such file" in page.text


@pytest.mark.usefixtures("undrawn")
def test_optional_sections_may_be_absent(tmp_path: Path) -> None:
    make_run(tmp_path)
    scores = pd.read_parquet(tmp_path / "scores.parquet").drop(columns="speaker")
    save(tmp_path, {"models": plain(evaluate(rewrite(tmp_path, scores)))})
    page = Page(write_report(tmp_path))
    for absent in ("Paired comparisons", "Skipped", "Protocol", "Encoders", "To repeat it", "How models are fused"):
        assert absent not in page.text
    assert "Single utterances are clusters" in page.text
    assert not (tmp_path / "plots" / "speech-speakers.png").exists()


def rewrite(run: Path, frame: pd.DataFrame) -> Scores:
    scores = make_scores(frame, source="test")
    write_scores(scores, run / "scores.parquet")
    return scores


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("exposure", "warned"), [("nEMO", False), ("RAVDESS (speech)", True), ("GoEmotions", True)])
def test_what_an_artificial_corpus_is_made_of_decides_what_is_warned_of(
    exposure: str, warned: bool, tmp_path: Path
) -> None:
    result = {**make_run(tmp_path), "corpus": "paired", "sources": ["goemotions", "ravdess"]}
    result["encoders"]["speech"]["exposure"] = [exposure]
    save(tmp_path, result)
    assert ("is known to have seen" in Page(write_report(tmp_path)).text) is warned


@pytest.mark.usefixtures("undrawn")
def test_informative_words_carry_no_caution(tmp_path: Path) -> None:
    result = make_run(tmp_path)
    result["protocol"]["leakage"]["exact"] = {"fraction": 1.0, "agreement": 0.8}
    result["protocol"]["leakage"]["speakers"] = 2
    result["encoders"]["speech"]["exposure"] = ["Others"]
    save(tmp_path, result)
    text = Page(write_report(tmp_path)).text
    assert "no label information" not in text
    assert "can answer from memory" in text
    assert "not speaker-independent: up to 2 speakers" in text
    assert "is known to have seen" not in text


@pytest.mark.usefixtures("undrawn")
def test_odd_names_of_models_make_distinct_files(tmp_path: Path) -> None:
    make_run(tmp_path, models=("../a b", "A<b"))
    page = Page(write_report(tmp_path))
    assert "../a b" in page.text
    assert "A<b" in page.text
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["audio", "plots"]
    names = [path.name.lower() for path in (tmp_path / "plots").iterdir()]
    assert len(names) == len(set(names)) == 12


def broken(run: Path, case: str) -> None:
    result = make_run(run)
    if case == "no result":
        (run / "result.json").unlink()
    elif case == "no JSON":
        (run / "result.json").write_text("{")
    elif case == "no models":
        save(run, {"models": {}})
    elif case == "no figure":
        del result["models"]["early-frame"]["ua"]["low"]
        save(run, result)
    elif case == "other scores":
        result["models"]["early-frame"]["confusion"][0][0] += 1
        save(run, result)
    elif case == "other shape":
        result["comparisons"] = [{"first": "a"}]
        save(run, result)
    elif case == "ragged layers":
        result["layer_weights"]["speech"]["speech"][0].append(0.5)
        save(run, result)
    elif case == "no scores":
        (run / "scores.parquet").unlink()
    else:
        (run / "manifest.parquet").unlink()


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("case", "kind", "words"),
    [
        ("no result", ScoresError, "there is no result.json"),
        ("no JSON", ScoresError, "cannot be read as JSON"),
        ("no models", ScoresError, "models: there are none"),
        ("no figure", ScoresError, "models.early-frame.ua.low"),
        ("other scores", ScoresError, "do not come from scores.parquet"),
        ("other shape", ScoresError, "comparisons.0.second"),
        ("ragged layers", ScoresError, "differ in number"),
        ("no scores", ScoresError, "no such score table"),
        ("no manifest", ManifestError, "no such manifest"),
    ],
)
def test_broken_runs_are_refused_and_nothing_is_written(
    tmp_path: Path, case: str, kind: type[EmofuseError], words: str
) -> None:
    broken(tmp_path, case)
    with pytest.raises(kind, match=re.escape(words)):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()
    assert not (tmp_path / "plots").exists()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScoresError, match="no such run folder; check the path"):
        write_report(tmp_path / "nowhere")


@pytest.mark.usefixtures("undrawn")
def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    make_run(tmp_path)
    (tmp_path / "plots").write_text("a file where the folder should be")
    with pytest.raises(OutputError, match="cannot be written"):
        write_report(tmp_path)
    assert not list(tmp_path.rglob("*.part"))
    assert not (tmp_path / "report.html").exists()


def test_mistakes_are_the_surest_wrong_answers(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"utterance": ["a", "b", "c", "d"] * 2, "seed": [0] * 4 + [1] * 4, "label": ["x", "x", "y", "y"] * 2,
         "x": [0.2, 0.1, 0.9, 0.6, 0.4, 0.7, 0.7, 0.2], "y": [0.8, 0.9, 0.1, 0.4, 0.6, 0.3, 0.3, 0.8]}
    )  # fmt: skip
    scores = make_scores(frame, source="test")
    manifest = make_manifest(
        [{"utterance": "a", "text": "words"}, {"utterance": "c", "text": "w" * 999, "speaker": "s"}], source="test"
    )
    found = worst_mistakes(scores, manifest)
    assert [(mistake.utterance, round(mistake.size, 6)) for mistake in found] == [
        ("c", 0.8),
        ("a", 0.7),
        ("b", 0.6),
    ]
    assert [mistake.remark for mistake in found] == ["No audio in the corpus"] * 2 + ["Not in the manifest"]
    assert (found[0].speaker, found[0].predicted, found[0].label) == ("s", "x", "y")
    assert len(found[0].text or "") == 400
    assert len(worst_mistakes(scores, manifest, count=1)) == 1


@pytest.mark.parametrize("span", [{"duration": 30.0}, {}, {"start": 2.0, "end": 29.0, "duration": 27.0}])
def test_long_clips_are_cut(tmp_path: Path, span: dict[str, float]) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, np.sin(np.arange(30 * 8000) / 9), 8000)
    scores = make_scores(pd.DataFrame({"utterance": ["a"], "label": ["x"], "x": [0.1], "y": [0.9]}), source="test")
    manifest = make_manifest([{"utterance": "a", "audio": str(path), **span}], source="test")
    mistake = worst_mistakes(scores, manifest)[0]
    assert mistake.remark == "The first 20 s"
    assert mistake.audio is not None
    information = soundfile.info(io.BytesIO(base64.b64decode(mistake.audio.split(",")[1])))
    assert information.duration == LONGEST


def drawn(classes: int, speakers: int) -> list[Plot]:
    generator = np.random.default_rng(0)
    names = [*(f"class {number} with a long name" for number in range(classes - 1)), "$\\frac{"]
    recalls: dict[str, float | None] = {**dict.fromkeys(names, 0.5), names[0]: None}
    matrix = generator.integers(0, 9999, (classes, classes))
    matrix[0] = 0
    by_speaker = {f"speaker {number}": [0.2, number / speakers] for number in range(speakers)}
    return [
        plots.confusion_plot(matrix.tolist(), names),
        plots.recall_plot(recalls, [recalls, recalls]),
        plots.speaker_plot(by_speaker, pooled=0.5, title="UA, percent", factor=100, chance=1 / classes),
        plots.layer_plot(generator.dirichlet(np.ones(2 * classes + 1), size=3).tolist(), range(2 * classes + 1)),
        plots.learning_plot([{"loss": [0.5] * classes, "validation_score": [-1.0] * classes}]),
    ]


@pytest.mark.parametrize(("classes", "speakers"), [(2, 2), (12, 300)])
def test_plots_keep_their_size_and_fit_the_page(classes: int, speakers: int) -> None:
    for plot in drawn(classes, speakers):
        height, width, _ = pixels(plot.png).shape
        assert width / height == pytest.approx(plot.width / plot.height, rel=0.02)
        assert plot.width <= 1072
        # What touches the edge was cut off.
        image = pixels(plot.png)
        assert min(edge.min() for edge in (image[0], image[-1], image[:, 0], image[:, -1])) == 1


def test_latex_is_balanced_and_escaped(tmp_path: Path) -> None:
    table = paper_table(check_result(make_run(tmp_path, models=("early_frame 50%", "[x] \\late"))), style="latex")
    assert r"early\_frame 50\%" in table
    assert r"{[}x] \textbackslash{}late" in table
    assert table.count("{") == table.count("}")
    assert table.splitlines()[0] == "% needs the package booktabs; percent, 95 % intervals"
    assert table.splitlines()[1].startswith(r"\begin{tabular}{lrrrr}")
    assert table.endswith(r"\end{tabular}")
    lines = [line for line in table.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert {line.count(" & ") for line in lines} == {4}


def test_cells_of_markdown_end_where_they_should(tmp_path: Path) -> None:
    result = make_run(tmp_path, models=("a|b", "plain\x07name"))
    markdown = paper_table(check_result(result), style="markdown").splitlines()[:4]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in markdown} == {6}
    assert markdown[2].startswith(r"| a\|b | ")


def test_errors_of_tables(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no table style is called 'text'"):
        paper_table(check_result(make_run(tmp_path)), style="text")  # type: ignore[arg-type]
    with pytest.raises(ScoresError, match="models"):
        paper_table(check_result({}), style="markdown")


def test_the_paper_table_has_every_row_its_differences_and_its_certainty(tmp_path: Path) -> None:
    result = make_run(tmp_path, models=("late", "multi-level", "speech", "text"))
    scores = read_scores(tmp_path / "scores.parquet")
    # The models of this run get better from the first to the last, so text is the better of the single modalities.
    pairs = [("late", "text"), ("late", "speech"), ("multi-level", "text"), ("late", "multi-level")]
    result["comparisons"] = plain(compare(scores, pairs))
    lines = paper_table(check_result(result), style="markdown").splitlines()
    header, rows = [cell.strip() for cell in lines[0].strip("|").split("|")], lines[2:6]
    assert header[4:] == ["UA over text", "UA over late", "Reconstruction"]
    # In the order of the result, which is that of the recipe.
    assert [row.split("|")[1].strip() for row in rows] == ["late", "multi-level", "speech", "text"]
    gap = paired_difference(scores.of("multi-level"), scores.of("late"))["ua"]
    cell = rows[1].split("|")[6].strip()
    assert gap.low is not None
    assert gap.high is not None
    assert cell.replace("\\", "") == f"{100 * gap.value:+.1f} [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]"
    assert "combination stated, form chosen" in rows[1]
    table = ElementTree.fromstring(paper_table(check_result(result), style="html"))  # noqa: S314 - it is our own
    assert len(table.findall("tbody/tr")) == 4
    lines = [line for line in paper_table(check_result(result), style="latex").splitlines() if r"\\" in line]
    assert {line.count(" & ") for line in lines if "multicolumn" not in line} == {6}


def test_the_paper_table_reports_which_rows_stand_on_frames(tmp_path: Path) -> None:
    """What nobody could align looks like a granularity of its own otherwise."""
    result = make_run(tmp_path, models=("early-frame", "early-word", "early-phone", "multi-granularity", "late"))
    for entry in result["models"].values():
        entry["clusters"] = 24
    result["tiers"] = {"early-word": ["word"], "early-phone": ["phone"]}
    result["fused"] = {"multi-granularity": {"of": ["early-word", "early-phone"], "folds": {}}}
    bare = {style: paper_table(check_result(result), style=style) for style in ("markdown", "latex", "html")}
    result["alignment"] = {"utterances": 48, "aligned": {"word": 0, "syllable": 48, "phone": 47}, "problems": {}}
    notes = [
        "early-word, multi-granularity: 0 of 48 utterances (0.0 %) have words; frames stand for the rest",
        "early-phone, multi-granularity: 47 of 48 utterances (97.9 %) have phones; frames stand for the rest",
    ]
    assert paper_table(check_result(result), style="markdown") == "\n\n".join([bare["markdown"], *notes])
    escaped = [rf"\multicolumn{{6}}{{l}}{{\footnotesize {note}}} \\".replace(" %", r" \%") for note in notes]
    latex, before = paper_table(check_result(result), style="latex").splitlines(), bare["latex"].splitlines()
    assert latex == [*before[:-1], *escaped, before[-1]]
    table = ElementTree.fromstring(paper_table(check_result(result), style="html"))  # noqa: S314 - it is our own
    cells = table.findall("tfoot/tr/td")
    assert [(cell.text, cell.get("colspan")) for cell in cells[-2:]] == [(note, "6") for note in notes]
    assert len(table.findall("tbody/tr")) == 5

    result["alignment"]["aligned"] = dict.fromkeys(("word", "syllable", "phone"), 48)
    assert {style: paper_table(check_result(result), style=style) for style in bare} == bare  # type: ignore[arg-type]
    result["alignment"]["aligned"] = {"word": "many"}
    with pytest.raises(ScoresError, match=r"alignment\.aligned\.word"):
        paper_table(check_result(result), style="markdown")


def test_a_model_that_is_absent_has_no_note(tmp_path: Path) -> None:
    result = make_run(tmp_path, models=("speech", "early-frame"))
    result["alignment"] = {"utterances": 48, "aligned": {"word": 0, "syllable": 0, "phone": 0}}
    assert "frames stand for the rest" not in paper_table(check_result(result), style="markdown")


@pytest.mark.parametrize("style", ["markdown", "latex", "html"])
def test_the_paper_table_says_what_its_figures_are_of(style: Any, tmp_path: Path) -> None:
    result = make_run(tmp_path, models=("late", "speech"))
    said = paper_table(check_result(result), style=style)
    entry = next(iter(result["models"].values()))
    for message in (f"{result['corpus']}: {entry['utterances']} utterances", f"{entry['folds']} folds", "seeds 0",
                 "over 6 speakers", "sign flips over 6 speakers"):  # fmt: skip
        assert message in said
    changes = {
        "corpus_notes": ["artificial: voices of X"],
        "text_sources": {"reference": 1, "whisper base": 2},
        "context": 3,
        "recipe": {**result["recipe"], "ensembles": [{"name": "late", "weights": "tuned"}]},
    }
    for message in ("artificial: voices of X", "transcripts by whisper base", "up to 3 earlier", "were searched"):
        assert message not in said
        assert message in paper_table(check_result({**result, **changes}), style=style)


@pytest.mark.parametrize("style", ["markdown", "latex", "html"])
def test_the_paper_table_has_words_where_speakers_are_too_few_for_stars(style: Any, tmp_path: Path) -> None:
    result = make_run(tmp_path, models=("late", "speech"), speakers=5)
    said = paper_table(check_result(result), style=style)
    for message in ("too few clusters to tell", "no stars: over 5 speakers no two-sided test can reject at 5"):
        assert message in said
    assert "]*" not in said.replace("\\", "")
    six = paper_table(check_result(make_run(tmp_path / "six", models=("late", "speech"))), style=style)
    assert "too few" not in six
    assert "p below 0.05 by sign flips over 6 speakers, with Holm's correction over the one difference" in unescape(six)


def gap(value: float, p: float, *, clusters: int = 24) -> dict[str, Any]:
    """A comparison as it stands in a result."""
    half = abs(value) * (0.5 if p <= 0.05 else 2)
    known = {"value": value, "low": value - half, "high": value + half, "p": p, "holm": p}
    return {**known, "cluster": "speaker", "clusters": clusters, "reading": reading(value, p, clusters)}


def test_stars_are_those_that_holm_leaves_and_the_table_says_over_how_many(tmp_path: Path) -> None:
    names = ("late", "multi-level", "early-frame", "speech")
    result = make_run(tmp_path, models=names)
    ps = {"late": 0.012, "multi-level": 0.02, "early-frame": 0.03}
    result["comparisons"] = [{"first": name, "second": "speech", "ua": gap(0.02, p)} for name, p in ps.items()]
    result["comparisons"] += [{"first": name, "second": "late", "ua": gap(-0.01, 0.9)} for name in names[1:3]]
    lines = paper_table(check_result(result), style="markdown").splitlines()
    starred = [line.split("|")[1].strip() for line in lines if line.startswith("|") and r"]\*" in line]
    # Of five, 0.012 is 0.06: none is left, though three intervals exclude zero.
    assert starred == []
    assert any("Holm's correction over the 5 differences of this table" in line for line in lines)
    result["comparisons"][0]["ua"]["p"] = 0.009
    lines = paper_table(check_result(result), style="markdown").splitlines()
    starred = [line.split("|")[1].strip() for line in lines if line.startswith("|") and r"]\*" in line]
    # The same difference stands in the row of speech with the other sign.
    assert starred == ["late", "speech"]


def test_a_table_that_cannot_have_a_star_says_so(tmp_path: Path) -> None:
    result = make_run(tmp_path, models=("late", "multi-level", "speech"))
    result["comparisons"] = [
        {"first": first, "second": second, "ua": gap(0.02, 0.0078125, clusters=8)}
        for first, second in (("late", "speech"), ("multi-level", "speech"), ("multi-level", "late"))
    ]
    assert "the smallest p" not in paper_table(check_result(result), style="markdown")
    for pair in result["comparisons"]:
        pair["ua"]["clusters"] = 6
    assert "the smallest p is 0.031" in paper_table(check_result(result), style="markdown")


def test_comparisons_are_read_in_plain_words() -> None:
    lower, tiny, few = (
        gap(-0.031, 0.0004),
        gap(-0.0001, 0.9),
        {**gap(0.2, 0.125, clusters=4), "low": None, "high": None},
    )
    one = {"first": "late", "second": "speech", "ua": lower, "wa": tiny, "macro_f1": few}
    rows = comparisons(Result.model_validate({"models": {}, "comparisons": [one]}))
    assert [(row.metric, row.difference, row.p) for row in rows[:2]] == [
        ("UA", "-3.1", "< 0.001"),
        ("WA", "0.0", "0.900"),
    ]
    assert rows[0].reading == "speech is higher than late"
    assert rows[1].reading == "within noise"
    assert (rows[2].interval, rows[2].reading) == ("too few clusters to tell", "too few clusters to tell")


@pytest.mark.parametrize("name", ["low", "value", "p"])
def test_a_figure_that_is_no_number_is_refused_by_its_name(name: str, tmp_path: Path) -> None:
    result = make_run(tmp_path, models=("speech", "late"))
    result["comparisons"] = [{"first": "late", "second": "speech", "ua": {**gap(0.02, 0.5), name: float("nan")}}]
    with pytest.raises(ScoresError, match=rf"comparisons\.0\.ua\.{name}"):
        paper_table(check_result(result), style="markdown")


HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](http://evil.example)",
    "![x](http://evil.example/a.png)",
    "http://evil.example www.evil.example",
    "a|b*c*_d_`e`",
    "x\n\n# Injected heading\n\n- list",
    "# heading",
    "1. list",
    "$\\frac{1}$ \\input{/etc/passwd} % ^ ~ & #",
    "[2] * {x}",
    "]] <!-- --> &amp; \x1b[2J",
)
"""Names that would be markup in some output, each of which is shown as what it is."""


def hostile_result(run: Path) -> dict[str, Any]:
    """A result in which every name and word is hostile."""
    result = make_run(run, models=("speech", "late"))
    classes = list(HOSTILE[:3])
    for number, entry in enumerate(result["models"].values()):
        entry["classes"], entry["recall"] = classes, dict.fromkeys(classes, 0.5)
        entry["cluster"] = HOSTILE[number]
    text = " ".join(HOSTILE)
    result |= {"name": text, "corpus": text, "corpus_notes": list(HOSTILE), "notes": list(HOSTILE), "command": text}
    result["text_sources"], result["sources"] = dict.fromkeys(HOSTILE, 1), list(HOSTILE)
    result["protocol"] |= {"classes": classes, "labels": list(HOSTILE), "merge": {text: text}, "fingerprint": text}
    encoder = {"name": text, "revision": text, "licence": text, "exposure": list(HOSTILE), "family": text}
    result["encoders"] = {"speech": {**result["encoders"]["speech"], **encoder}}
    result["models"] |= dict.fromkeys(HOSTILE, result["models"]["speech"])
    result["comparisons"] += [{**result["comparisons"][0], "first": name} for name in HOSTILE]
    result["skipped"] = [{"utterance": name, "reason": name} for name in HOSTILE]
    result["certainty"] = dict.fromkeys(result["models"], text)
    result["modalities"] |= {name: ["speech"] for name in HOSTILE}
    result["fused"]["late"]["of"] = list(HOSTILE[:2])
    return result


class Markup(HTMLParser):
    """Every tag, with the names of its attributes, and every link."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {tag, *(f"{tag} {name}" for name, _ in attrs)}


def markdown_writers(run: Path) -> dict[str, str]:
    from emofuse.distill.card import write_card
    from emofuse.settings import TrainSettings

    result = hostile_result(run)
    folder = run / "student"
    folder.mkdir()
    text = " ".join(HOSTILE)
    write_card(folder, title=text, licence="MIT", exposure=HOSTILE, facts={}, settings=TrainSettings(), command=text)
    card = (folder / "README.md").read_text(encoding="utf-8")
    header = yaml.safe_load(card.split("\n---\n")[0].removeprefix("---\n"))
    assert set(header) == {"license", "datasets", "library_name"}
    return {
        "paper table": paper_table(check_result(result), style="markdown"),
        "model card": model_card("speech", check_result(result)),
        "card of an ensemble": model_card("late", check_result(result)),
        "student card": card.split("\n---\n", 1)[1],
    }


def test_no_name_is_markup_in_markdown(tmp_path: Path) -> None:
    from markdown_it import MarkdownIt

    render = MarkdownIt("gfm-like", {"html": True, "linkify": False}).render
    for writer, source in markdown_writers(tmp_path).items():
        plain = {"table", "thead", "tbody", "tr", "th", "td", "th style", "td style", "p", "h1", "h2", "ul", "li"}
        plain |= {"strong", "code", "code class", "pre"}
        page = render(source)
        assert Markup(page).found <= plain, writer
        assert "Injected heading</h1>" not in page.replace(HOSTILE[6].replace("\n", " "), "")
        # GitHub makes links of bare addresses, unless they are broken or code.
        outside = re.sub(r"(`+).*?\1", "", source, flags=re.DOTALL)
        assert not re.search(r"https?://evil|www\.evil", outside), writer
        assert "\x1b" not in source


def test_no_name_is_markup_in_html(tmp_path: Path) -> None:
    result = hostile_result(tmp_path)
    allowed = {"table", "thead", "tbody", "tfoot", "tr", "th", "td", "td colspan"}
    assert Markup(paper_table(check_result(result), style="html")).found <= allowed
    ElementTree.fromstring(paper_table(check_result(result), style="html"))  # noqa: S314 - it is our own


def test_no_name_is_a_command_in_latex(tmp_path: Path) -> None:
    result = hostile_result(tmp_path)
    table = paper_table(check_result(result), style="latex")
    commands = set(re.findall(r"\\([A-Za-z]+)", table))
    known = {"begin", "end", "toprule", "midrule", "bottomrule", "multicolumn", "footnotesize"}
    assert commands <= known | {f"text{name}" for name in ("backslash", "asciitilde", "asciicircum", "less", "greater")}
    body = table.split("\n", 1)[1]  # Without the comment that begins it.
    bare = re.sub(r"\\[A-Za-z]+|\\\\|\\[&%$#_{}]", "", body)
    assert not re.search(r"[%$#_^~<>]", bare)
    assert bare.count("{") == bare.count("}")
    assert not [line for line in body.splitlines() if line.lstrip().startswith(("[", "*"))]
    lines = [line for line in body.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert len({len(re.findall(r"(?<!\\)&", line)) for line in lines}) == 1


def test_no_name_is_markup_on_the_page(run: Path, tmp_path: Path) -> None:
    before = Markup((run / "report.html").read_text(encoding="utf-8")).found
    result = hostile_result(tmp_path)
    frame = read_scores(tmp_path / "scores.parquet").frame
    names = dict(zip(CLASSES, HOSTILE[:3], strict=True))
    frame = frame.rename(columns=names).assign(label=frame["label"].map(names), speaker=HOSTILE[1], fold=HOSTILE[2])
    scores = rewrite(tmp_path, frame)
    save(
        tmp_path,
        {**result, "models": plain(evaluate(scores)), "layer_weights": {}, "comparisons": result["comparisons"]},
    )
    assert Markup(write_report(tmp_path).read_text(encoding="utf-8")).found <= before


def test_control_characters_become_spaces() -> None:
    assert one_line("a\n\tb\x00") == "a  b "
