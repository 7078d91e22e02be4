from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import emofuse
from emofuse.corpora import CORPORA
from emofuse.testing import tiny_corpus

pytestmark = pytest.mark.usefixtures("tones_are_speech", "blank_plots")

COMMANDS = (
    "run",
    "adapt",
    "prepare",
    "align",
    "transcribe",
    "extract",
    "train",
    "finetune",
    "evaluate",
    "compare",
    "fuse",
    "join",
    "distill",
    "predict",
    "info",
    "report",
    "corpora",
    "doctor",
    "demo",
)

MODELS = ("speech", "text", "early-frame", "late")
RECIPE = """
name = "Small"
models = ["speech", "text", "early-frame"]
seeds = [0, 1]
[speech]
encoder = "logmel"
frames_per_step = 5
[text]
encoder = "words"
[model]
width = 16
[[ensembles]]
name = "late"
of = ["speech", "text"]
rule = "product"
[train]
epochs = 2
batch_size = 8
[protocol]
kind = "speakers"
folds = 2
"""

Done = subprocess.CompletedProcess[str]
Command = Callable[..., Done]


def fresh(*arguments: object, folder: Path) -> Done:
    """The command line as a user starts it."""
    return subprocess.run(
        [sys.executable, "-m", "emofuse", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=120,
        env={**os.environ, "COLUMNS": "160"},
    )


def said(done: Done) -> str:
    """What stands on stderr, but for the bars of stages that took longer than two seconds."""
    return "".join(line for line in done.stderr.splitlines(keepends=True) if "━" not in line)


def good(done: Done) -> Done:
    assert done.returncode == 0, done.stderr
    assert said(done) == ""
    return done


# Help


def test_help_answers_without_anything_heavy(tmp_path: Path) -> None:
    probe = """
import sys
sys.argv = ["emofuse", *sys.argv[1:]]
from emofuse.cli.app import main
try:
    main()
finally:
    heavy = {"torch", "transformers", "pandas", "numpy", "sklearn", "scipy", "matplotlib", "pyarrow"}
    print("HEAVY", sorted(heavy & set(sys.modules)))
"""
    for arguments in (["--help"], ["run", "--help"], ["--version"]):
        done = subprocess.run(
            [sys.executable, "-c", probe, *arguments], capture_output=True, text=True, cwd=tmp_path, check=True
        )
        assert "HEAVY []" in done.stdout


def test_every_command_helps(tmp_path: Path, emo: Command) -> None:
    for command in COMMANDS:
        done = good(emo(command, "--help", folder=tmp_path))
        assert re.search(rf"Usage: .* {command} ", done.stdout)
    shown = good(emo("--help", folder=tmp_path)).stdout
    assert set(re.findall(r"^│ ([a-z]+) ", shown, flags=re.MULTILINE)) == set(COMMANDS)


def test_the_version_is_reported(tmp_path: Path) -> None:
    assert good(fresh("--version", folder=tmp_path)).stdout == f"{emofuse.__version__}\n"


# The whole chain, command by command


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    tiny_corpus(folder / "corpus", utterances=1)
    (folder / "small.toml").write_text(RECIPE)
    return folder


TRAIN = ("train", "small.toml", "--manifest", "m.parquet", "--store", "store", "--out", "run", "--jobs", 1)


@pytest.fixture(scope="module")
def chain(place: Path, emo: Command) -> dict[str, Done]:
    steps: dict[str, tuple[object, ...]] = {
        "prepare": ("prepare", "--corpus", "table", "--root", "corpus/corpus.csv", "--out", "m.parquet"),
        "extract": ("extract", "small.toml", "--manifest", "m.parquet", "--store", "store"),
        "train": TRAIN,
        "report": ("report", "run"),
    }
    return {name: good(emo(*step, folder=place)) for name, step in steps.items()}


@pytest.fixture(scope="module")
def trained(place: Path, chain: dict[str, Done]) -> Path:
    return place


def test_prepare_reports_what_it_found(chain: dict[str, Done], place: Path) -> None:
    table = pd.read_csv(place / "corpus/corpus.csv")
    manifest = pd.read_parquet(place / "m.parquet")
    assert manifest["utterance"].tolist() == table["utterance"].tolist()
    assert "m.parquet: 16 utterances, 4 speakers" in chain["prepare"].stdout
    assert "angry 4" in chain["prepare"].stdout


def test_extract_reports_what_it_did(chain: dict[str, Done]) -> None:
    assert "speech: 16 computed now, 16 utterances have features" in chain["extract"].stdout


def test_train_leaves_scores_a_result_and_models(chain: dict[str, Done], place: Path) -> None:
    result = json.loads((place / "run/result.json").read_text(), parse_constant=pytest.fail)
    controls = result["controls"]["late"]["controls"]
    assert set(result["models"]) == {*MODELS, *controls}
    assert {folder.name for folder in (place / "run/models").iterdir()} == set(MODELS)
    assert result["command"].startswith("emofuse train small.toml")
    scores = pd.read_parquet(place / "run/scores.parquet")
    # A control of two seeds needs both at once, and stands once.
    assert len(scores) == 16 * (2 * len(MODELS) + len(controls))
    assert f"over {controls[0]}: " in chain["train"].stdout
    for model in MODELS:
        assert f"{100 * result['models'][model]['ua']['value']:.1f} " in chain["train"].stdout


def test_report_names_the_page_that_it_wrote(chain: dict[str, Done], place: Path) -> None:
    assert chain["report"].stdout.strip() == "run/report.html"
    assert (place / "run/report.html").stat().st_size > 10_000


def test_a_second_run_does_nothing_again(trained: Path, emo: Command) -> None:
    def stamps() -> dict[Path, int]:
        files = [path for root in ("run/trials", "store") for path in (trained / root).rglob("*") if path.is_file()]
        return {path: path.stat().st_mtime_ns for path in files if path.suffix != ".lock"}

    before, scores = stamps(), (trained / "run/scores.parquet").read_bytes()
    assert len(list((trained / "run/trials").rglob("trial.json"))) == 3 * (2 * 2 + 1)
    again = good(emo(*TRAIN, folder=trained))
    assert stamps() == before
    assert (trained / "run/scores.parquet").read_bytes() == scores
    assert "late" in again.stdout
    extracted = good(emo("extract", "small.toml", "--manifest", "m.parquet", "--store", "store", folder=trained))
    assert "speech: 0 computed now, 16 utterances have features" in extracted.stdout
    assert stamps() == before


def test_evaluate_reports_what_the_result_reports(trained: Path, emo: Command) -> None:
    result = json.loads((trained / "run/result.json").read_text())
    reported = json.loads(good(emo("evaluate", "run/scores.parquet", "--json", folder=trained)).stdout)
    assert reported["models"] == result["models"]
    assert reported["protocol"]["fingerprint"] == result["protocol"]["tested_fingerprint"]
    one = json.loads(good(emo("evaluate", "run/scores.parquet:late", "--json", folder=trained)).stdout)
    assert one["models"] == {"late": result["models"]["late"]}
    shown = good(emo("evaluate", "run/scores.parquet", folder=trained)).stdout
    assert all(model in shown for model in MODELS)
    assert "16 utterances, 2 folds, seeds 0, 1" in shown
    count = result["models"]["late"]["clusters"]
    assert f"there are only {count} speakers: too few clusters to tell whether two models differ." in shown


def test_compare_gives_the_difference(trained: Path, emo: Command) -> None:
    tables = "run/scores.parquet:late", "run/scores.parquet:speech"
    reported = json.loads(good(emo("compare", *tables, "--json", folder=trained)).stdout)
    models = json.loads((trained / "run/result.json").read_text())["models"]
    assert reported["ua"]["value"] == pytest.approx(models["late"]["ua"]["value"] - models["speech"]["ua"]["value"])
    assert (reported["ua"]["low"], reported["ua"]["reading"]) == (None, "too few clusters to tell")
    assert (reported["ua"]["cluster"], reported["ua"]["clusters"]) == ("speaker", models["late"]["clusters"])
    several = json.loads(good(emo("compare", *tables, "--cluster", "utterance", "--json", folder=trained)).stdout)
    assert (several["ua"]["cluster"], several["ua"]["clusters"]) == ("utterance", 16)
    assert several["ua"]["low"] <= several["ua"]["value"] <= several["ua"]["high"]
    assert "over 16 utterances" in good(emo("compare", *tables, "--cluster", "utterance", folder=trained)).stdout
    turned = json.loads(good(emo("compare", *reversed(tables), "--json", folder=trained)).stdout)
    assert turned["ua"]["value"] == pytest.approx(-reported["ua"]["value"])
    assert f"{100 * reported['ua']['value']:+.1f}" in good(emo("compare", *tables, folder=trained)).stdout


def test_fuse_gives_what_late_fusion_gave(trained: Path, emo: Command) -> None:
    tables = "run/scores.parquet:speech", "run/scores.parquet:text"
    reported = json.loads(good(emo("fuse", *tables, "--out", "fused.parquet", "--json", folder=trained)).stdout)
    late = pd.read_parquet(trained / "run/scores.parquet").query("model == 'late'")
    fused = pd.read_parquet(trained / "fused.parquet")
    key, classes = ["seed", "fold", "utterance"], ["angry", "happy", "neutral", "sad"]
    both = late.merge(fused, on=key, suffixes=("", "_fused"))
    assert len(both) == len(late) == len(fused)
    for name in classes:
        assert both[f"{name}_fused"].to_numpy() == pytest.approx(both[name].to_numpy(), abs=1e-9)
    assert reported["fusion"]["weights"] == [0.5, 0.5]
    text = good(emo("fuse", *tables, "--out", "fused.csv", "--rule", "weights=1,0", folder=trained))
    assert "written to fused.csv" in text.stdout
    speech = pd.read_parquet(trained / "run/scores.parquet").query("model == 'speech'")
    both = speech.merge(pd.read_csv(trained / "fused.csv"), on=key, suffixes=("", "_fused"))
    for name in classes:
        assert both[f"{name}_fused"].to_numpy() == pytest.approx(both[name].to_numpy(), abs=1e-9)


def test_what_is_read_is_not_written_over(trained: Path, emo: Command) -> None:
    scores, manifest = trained / "run/scores.parquet", trained / "run/manifest.parquet"
    before = scores.read_bytes(), manifest.read_bytes()
    tables = "run/scores.parquet:speech", "run/scores.parquet:text"
    fused = emo("fuse", *tables, "--out", "run/../run/scores.parquet", folder=trained)
    assert (fused.returncode, "would replace a table" in fused.stderr) == (2, True)
    refused = emo("transcribe", "run/manifest.parquet", "--out", "run/manifest.parquet", folder=trained)
    assert (refused.returncode, "the reference would be lost" in refused.stderr) == (2, True)
    rows = [{"utterance": f"{speaker}{label}", "text": "so", "label": label, "speaker": speaker, "corpus": "other"}
            for speaker in "abcd" for label in ("sad", "happy")]  # fmt: skip
    pd.DataFrame(rows).to_csv(trained / "other.csv", index=False)
    other = emo("run", "text", "--corpus", "table", "--root", "other.csv", "--out", "run", folder=trained)
    assert other.returncode == 2
    assert "run: the folder holds a run on table; choose another --out." in " ".join(other.stderr.split())
    assert (scores.read_bytes(), manifest.read_bytes()) == before


CLIPS = ("corpus/audio/s0_sad_0.wav", "corpus/audio/s1_happy_0.wav")


def test_predict_answers_as_the_library_does(trained: Path, emo: Command) -> None:
    words = ("--text", "i are so sad", "--text", "so very good")
    base = ("predict", *CLIPS, *words, "--model", "run/models/late", "--format")
    answers = {style: emo(*base, style, folder=trained) for style in ("json", "csv", "table")}
    reported = json.loads(good(answers["json"]).stdout)
    predictor = emofuse.load(trained / "run/models/late")
    for one, clip, text in zip(reported, CLIPS, words[1::2], strict=True):
        expected = predictor.predict(trained / clip, text=text)
        assert one["label"] == expected.label
        assert one["posteriors"] == pytest.approx(expected.posteriors, abs=1e-6)
        assert (one["source"], one["text"], one["modalities"]) == (clip, text, ["speech", "text"])
    rows = list(csv.DictReader(io.StringIO(good(answers["csv"]).stdout)))
    assert [row["source"] for row in rows] == list(CLIPS)
    assert [row["label"] for row in rows] == [one["label"] for one in reported]
    for clip, one in zip(CLIPS, reported, strict=True):
        assert re.search(rf"{re.escape(clip)}.*{one['label']}", good(answers["table"]).stdout)


def test_predict_notes_what_was_left_out(trained: Path, emo: Command) -> None:
    done = emo("predict", CLIPS[0], "--model", "run/models/late", folder=trained)
    assert done.returncode == 0
    assert said(done) == "Note: no text was given, so the prediction uses speech alone.\n"


def test_one_bad_file_among_good_ones(trained: Path, emo: Command) -> None:
    (trained / "bad [1].wav").write_text("no audio")
    files = (CLIPS[0], "bad [1].wav", "absent.wav", CLIPS[1])
    done = emo("predict", *files, "--model", "run/models/speech", "--format", "json", folder=trained)
    assert done.returncode == 1
    assert [one["source"] for one in json.loads(done.stdout)] == list(CLIPS)
    lines = said(done).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("Skipped bad [1].wav: ")
    assert lines[1].startswith("Skipped absent.wav: ")
    assert lines[2] == "2 skipped, the rest is done."


def test_odd_names_are_shown_as_they_are(trained: Path, emo: Command) -> None:
    """Square brackets are markup to the library that draws the tables."""
    shutil.copy(trained / CLIPS[0], trained / "clip[bold].wav")
    shown = good(emo("predict", "clip[bold].wav", "--model", "run/models/speech", folder=trained)).stdout
    assert "clip[bold].wav" in shown
    step = ("prepare", "--corpus", "table", "--root", "corpus/corpus.csv", "--out", "new[red]/m.parquet")
    assert "new[red]/m.parquet: 16" in good(emo(*step, folder=trained)).stdout


def test_where_no_file_can_be_used_nothing_is_done(tmp_path: Path, emo: Command) -> None:
    done = emo("predict", "absent.wav", "--asr", "none", folder=tmp_path)
    assert done.returncode == 2
    assert "Skipped absent.wav: no such file" in done.stderr
    assert done.stderr.rstrip().endswith("Nothing could be done.")


# A whole run, with a corpus that has a fault


def test_what_cannot_be_split_is_refused_before_it_is_encoded(tmp_path: Path, emo: Command) -> None:
    tiny_corpus(tmp_path / "corpus", utterances=1)
    (tmp_path / "small.toml").write_text(RECIPE)
    split = ("--set", "protocol.kind=session")
    done = emo("run", "small.toml", "--corpus", "table", "--root", "corpus", "--out", "out", *split, folder=tmp_path)
    assert done.returncode == 2
    assert "session" in done.stderr
    assert not list((tmp_path / "out").iterdir())


def test_a_bad_file_in_a_corpus_is_skipped_and_reported(tmp_path: Path, emo: Command) -> None:
    tiny_corpus(tmp_path / "corpus", utterances=1)
    (tmp_path / "small.toml").write_text(RECIPE.replace('"early-frame"', '"concat"').replace("[0, 1]", "[0]"))
    (tmp_path / "corpus/audio/s2_sad_0.wav").write_bytes(b"RIFF, but not really")
    command = ("run", "small.toml", "--corpus", "table", "--root", "corpus", "--out", "out", "--jobs", 1)
    done = emo(*command, folder=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert len(re.findall(r"^Skipped .*s2_sad_0\.wav: ", done.stderr, flags=re.MULTILINE)) == 1
    assert done.stderr.rstrip().endswith("1 skipped, the rest is done.")
    assert "report: out/report.html" in done.stdout
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert result["protocol"]["utterances"] == 15
    assert len(result["skipped"]) == 1
    assert "s2_sad_0" in result["skipped"][0]["utterance"]
    assert "not an audio file" in result["skipped"][0]["reason"]
    tested = pd.read_parquet(tmp_path / "out/scores.parquet")
    assert set(tested["utterance"]) == set(pd.read_csv(tmp_path / "corpus/corpus.csv")["utterance"]) - {"s2_sad_0"}
    assert (tmp_path / "out/report.html").exists()


def test_flags_override_the_recipe(place: Path, trained: Path, emo: Command) -> None:
    """--set, --seeds and the encoders, as the result records them."""
    command = (
        *TRAIN[:6],
        "--out",
        "other",
        "--jobs",
        1,
        "--set",
        "train.epochs=1",
        "--set",
        'models=["text"]',
        "--set",
        "ensembles=[]",
        "--seeds",
        "5,7",
    )
    good(emo(*command, "--set", "name=Mine", "--speech-encoder", "unused", folder=place))
    reported = json.loads((place / "other/result.json").read_text())["recipe"]
    models = [one["name"] for one in reported["models"]]
    assert (reported["train"]["epochs"], models, reported["seeds"]) == (1, ["text"], [5, 7])
    assert (reported["name"], reported["speech"]["encoder"]) == ("Mine", "unused")
    assert set(pd.read_parquet(place / "other/scores.parquet")["seed"]) == {5, 7}


def test_an_interruption_says_how_to_go_on(place: Path, tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(RECIPE.replace("epochs = 2", "epochs = 100000\npatience = 100000"))
    command = ("run", "small.toml", "--corpus", "table", "--root", place / "corpus", "--out", "out", "--jobs", 1)
    process = subprocess.Popen(
        [sys.executable, "-m", "emofuse", *map(str, command)], cwd=tmp_path, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # A background job inherits that interruptions are ignored, and the tests may be one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # fmt: skip
    try:
        until = time.monotonic() + 60
        while not (tmp_path / "out/trials").exists() and time.monotonic() < until:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    # Which of the two Python chooses depends on where it was; a shell shows 130 for both.
    assert process.returncode in (130, -signal.SIGINT)
    assert errors.splitlines()[-1] == "Stopped; the same command goes on from here."
    assert "Traceback" not in errors


# What goes wrong ends with status 2 and one sentence

RUN = ("run", "small.toml", "--corpus", "table", "--root", "corpus", "--out", "failed")
SCORES = "run/scores.parquet"
PAIR = ("fuse", f"{SCORES}:speech", f"{SCORES}:text", "--out")
WRONG: dict[str, tuple[tuple[object, ...], str]] = {
    "unknown recipe": (
        ("run", "quantum", *RUN[2:]),
        "no recipe is called 'quantum'; use one of adapt, attention-pooling, belief, default-speech,",
    ),
    "absent recipe file": (("run", "none.toml", *RUN[2:]), "none.toml: no such recipe file"),
    "unknown corpus": ((*RUN[:3], "tabel", *RUN[4:]), "did you mean table"),
    "missing root": ((*RUN[:5], "nowhere", *RUN[6:]), "nowhere: no such table; check the path"),
    "--set without value": ((*RUN, "--set", "train.epochs"), "--set: 'train.epochs' is not KEY=VALUE"),
    "--set of nothing known": ((*RUN, "--set", "train.epoch=3"), "train.epoch"),
    "--set out of range": ((*RUN, "--set", "train.epochs=0"), "train.epochs"),
    "--seeds that are none": ((*RUN, "--seeds", "one"), "seeds"),
    "a seed named twice": ((*RUN, "--seeds", "0,1,0"), "seeds must differ, and one is named twice"),
    "--column without name": ((*RUN, "--column", "label"), "--column: 'label' is not OURS=YOURS"),
    "--column of nothing": ((*RUN, "--column", "label=mood"), "there is no column 'mood' for 'label'"),
    "--device": ((*RUN, "--device", "abacus"), "device 'abacus' cannot be used here"),
    "unwritable out": ((*RUN[:7], "small.toml/out"), "small.toml"),
    "absent encoder": ((*RUN, "--speech-encoder", "./none"), "there is no such folder"),
    "no manifest": (("extract", "small.toml", "--manifest", "none.parquet", "--store", "s"), "no such manifest"),
    "missing scores": (("evaluate", "none.parquet"), "none.parquet: no such score table; check the path"),
    "scores that are none": (("evaluate", "small.toml"), "small.toml: "),
    "unknown model in scores": (("evaluate", f"{SCORES}:gut"), "no model is called 'gut'; use one of speech, text"),
    "several models in a table": (("compare", SCORES, SCORES), "the table holds the models speech, text"),
    "bad --rule": ((*PAIR, "f.parquet", "--rule", "vote"), "--rule: 'vote' is not a rule"),
    "bad weights": ((*PAIR, "f.parquet", "--rule", "weights=1,2,3"), "does not give 2 weights"),
    "one table": (("fuse", f"{SCORES}:text", "--out", "f.parquet"), "late fusion needs at least two tables"),
    "unwritable scores": ((*PAIR, "small.toml/f.parquet"), "small.toml"),
    "no model folder": (("predict", CLIPS[0], "--model", "corpus"), "corpus: the model folder has no settings.json"),
    "unknown format": (("predict", CLIPS[0], "--model", "run/models/late", "--format", "xml"), "'xml' is no format"),
    "no words": (
        ("predict", CLIPS[0], "--model", "run/models/early-frame"),
        "the early-frame model needs a transcript",
    ),
    "texts": (
        ("predict", *CLIPS, *3 * ("--text", "a"), "--model", "run/models/late"),
        "3 texts were given for 2 files",
    ),
    "no run folder": (("report", "corpus"), "corpus: "),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_mistake_ends_with_one_sentence(what: str, trained: Path, emo: Command) -> None:
    done = emo(*WRONG[what][0], folder=trained)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert WRONG[what][1] in said(done)
    assert said(done).count("\n") == 1
    assert said(done).endswith(".\n")
    assert re.search(r"; \w", said(done)), "a remedy follows"


@pytest.mark.parametrize("what", ["unknown recipe", "missing root", "missing scores"])
def test_a_mistake_ends_in_the_same_way_in_a_fresh_process(what: str, trained: Path, emo: Command) -> None:
    arguments = WRONG[what][0]
    first, second = fresh(*arguments, folder=trained), emo(*arguments, folder=trained)
    assert (first.returncode, first.stdout, first.stderr) == (second.returncode, second.stdout, second.stderr)


@pytest.mark.parametrize(
    ("line", "names"),
    [("runn", "runn"), ("run", "recipe"), ("evaluate --jsonn x", "--jsonn"), ("train x --jobs 0", "--jobs")],
)
def test_misuse_of_the_command_line_ends_in_a_sentence_too(line: str, names: str, tmp_path: Path, emo: Command) -> None:
    done = emo(*line.split(), folder=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert names in done.stderr.lower()
    assert "--help` lists what there is.\n" in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_a_command_the_help_is_shown(tmp_path: Path, emo: Command) -> None:
    done = emo(folder=tmp_path)
    assert done.returncode == 2
    assert "Usage" in done.stdout + done.stderr


# Lists


def test_corpora_lists_all_with_licence_and_place(tmp_path: Path, emo: Command) -> None:
    reported = json.loads(good(emo("corpora", "--json", folder=tmp_path)).stdout)
    assert set(reported) == set(CORPORA)
    assert all(card["licence"] and card["where"] for card in reported.values())
    shown = good(emo("corpora", folder=tmp_path)).stdout
    assert all(name in shown for name in CORPORA)


def test_doctor_looks_at_the_installation(tmp_path: Path, emo: Command) -> None:
    done = emo("doctor", folder=tmp_path)
    for name in ("Python", "torch", "transformers", "recordings", "disk", "demo voices"):
        assert name in done.stdout
    assert f"{sys.version_info.major}.{sys.version_info.minor}." in done.stdout
    assert done.returncode == int("│ fix" in done.stdout)


def test_doctor_shows_commands_whole(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from emofuse.cli import console
    from emofuse.doctor import Check

    monkeypatch.setattr(console, "OUT", console.Console(width=100))
    console.show_checks([Check("demo voices", None, 'absent; pip install "emofuse[demo]" to run the demo')])
    assert 'pip install "emofuse[demo]"' in capsys.readouterr().out
