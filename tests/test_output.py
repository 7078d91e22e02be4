"""What commands print: on any output, of any names, as soon as it is known."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

import emofuse.inference.predictor
from emofuse.align.again import GivenAlignments, aligner_again
from emofuse.align.ctc import ctc_source
from emofuse.align.table import write_alignments
from emofuse.asr.checks import check_pace
from emofuse.audio import load_audio
from emofuse.cli import console
from emofuse.doctor import Check
from emofuse.errors import AlignmentError, AudioError, EmofuseError, SettingsError
from emofuse.inference.predictor import Predictor
from emofuse.inference.writers import format_predictions
from emofuse.inputs import check_text
from emofuse.manifest import make_manifest, read_manifest, write_manifest
from emofuse.terminal import harmless, make_ready
from emofuse.testing import tone
from emofuse.types import Alignment, Prediction, Segment

pytestmark = pytest.mark.usefixtures("tones_are_speech")

CLASSES = ("angry", "sad")
ESCAPES = "\x1b]0;title\a\x1b[2J\x9b2J\r"
Command = Callable[..., subprocess.CompletedProcess[str]]


def answer(source: str, *notes: str, sad: float = 0.75) -> Prediction:
    posteriors = {"angry": 1 - sad, "sad": sad}
    return Prediction(label="sad", posteriors=posteriors, modalities=("speech",), source=source, notes=notes)


class Given:
    """A model whose answers are given; what is raised among them is raised."""

    classes = CLASSES

    def __init__(self, answers: Sequence[Any]) -> None:
        self.answers = answers

    def predict_many(self, files: Any, **_: Any) -> Iterator[Any]:
        for one in self.answers:
            if isinstance(one, BaseException) and not isinstance(one, EmofuseError):
                raise one
            yield one() if callable(one) else one


@pytest.fixture
def asked(emo: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """What `emofuse predict` prints where the model gives these answers."""

    def ask(style: str, *answers: Any) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(emofuse.inference.predictor, "load", lambda *_, **__: Given(answers))
        names = [f"{number}.wav" for number in range(3)]
        for name in names:
            (tmp_path / name).touch()
        return emo("predict", *names, "--format", style, folder=tmp_path)

    return ask


def rows_of(style: str, text: str) -> list[str]:
    """The files that an output answers, by readers of our own."""
    if style == "json":
        return [one["source"] for one in json.loads(text)]
    if style == "csv":
        return [row["source"] for row in csv.DictReader(io.StringIO(text))]
    return [line.split()[0] for line in text.splitlines()[1:]]


@pytest.mark.parametrize("style", ["table", "json", "csv"])
def test_each_answer_is_written_before_the_next_is_asked_for(style: str, asked: Any) -> None:
    there: list[str] = []

    def second() -> Prediction:
        there.append(sys.stdout.buffer.getvalue().decode())  # type: ignore[attr-defined]
        return answer("b.wav")

    done = asked(style, answer("a.wav"), second)
    assert "a.wav" in there[0]
    assert "b.wav" not in there[0]
    assert rows_of(style, done.stdout) == ["a.wav", "b.wav"]
    assert done.returncode == 0


@pytest.mark.parametrize("style", ["table", "json", "csv"])
def test_an_interruption_keeps_what_is_done(style: str, asked: Any) -> None:
    done = asked(style, answer("a.wav"), AudioError("empty", where="b.wav", remedy="x"), KeyboardInterrupt())
    assert done.returncode == 130
    assert rows_of(style, done.stdout) == ["a.wav"]
    assert "Skipped 1.wav: b.wav: empty; x.\nStopped after 2 of 3 files" in done.stderr
    assert "goes on" not in done.stderr, "predict has no resume"


def test_each_file_is_named_also_where_what_is_wrong_lies_in_another(asked: Any) -> None:
    wrong = AlignmentError("'x' is no time", where="t.ctm, line 2", remedy="write a number")
    done = asked("json", wrong, answer("1.wav"), wrong)
    skipped = [f"Skipped {name}: t.ctm, line 2: 'x' is no time; write a number." for name in ("0.wav", "2.wav")]
    assert done.stderr.splitlines() == [*skipped, "2 skipped, the rest is done."]


@pytest.mark.parametrize("style", ["table", "json", "csv"])
def test_notes_are_in_every_form(style: str, asked: Any) -> None:
    done = asked(style, answer("a.wav", "cut"), answer("b.wav", "all"), answer("c.wav", "all"))
    if style == "json":
        assert [one["notes"] for one in json.loads(done.stdout)] == [["cut"], ["all"], ["all"]]
    elif style == "csv":
        assert [one["notes"] for one in csv.DictReader(io.StringIO(done.stdout))] == ["cut", "all", "all"]
    else:
        assert done.stderr.splitlines() == ["Note on a.wav: cut.", "Note on b.wav, c.wav: all."]


@pytest.mark.parametrize("style", ["table", "json", "csv"])
def test_no_answer_controls_the_terminal(style: str, asked: Any) -> None:
    evil = f"{ESCAPES}\u202ea.wav"
    done = asked(style, answer(evil, ESCAPES), AudioError(ESCAPES, where=evil, remedy=ESCAPES))
    shown = done.stdout + done.stderr
    assert not [sign for sign in shown if not sign.isprintable() and sign != "\n"]
    assert "a.wav" in done.stdout
    if style == "json":
        assert json.loads(done.stdout)[0]["source"] == evil


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t"])
def test_no_cell_is_a_formula(begin: str) -> None:
    text = format_predictions([answer(f"{begin}1.wav", f"{begin}cmd")], style="csv")
    [row] = csv.DictReader(io.StringIO(text))
    assert row["source"] == f"'{harmless(begin)}1.wav"
    assert row["notes"].startswith("'")


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
@pytest.mark.parametrize("style", ["table", "json", "csv"])
def test_any_output_holds_any_name(style: str, encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from emofuse.cli.app import main

    names = ["é.wav", "张三.wav", "😀.wav", "caf\udce9.wav"]
    monkeypatch.setattr(emofuse.inference.predictor, "load", lambda *_, **__: Given([answer(name) for name in names]))
    monkeypatch.setattr(sys, "argv", ["emofuse", "predict", *names, "--format", style])
    monkeypatch.setattr("emofuse.cli.predict._is_absent", lambda name: False)
    monkeypatch.setenv("COLUMNS", "160")
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    with redirect_stdout(out), redirect_stderr(io.StringIO()), pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    text = out.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    if style == "json":
        assert [one["source"] for one in json.loads(text)] == names
    else:
        assert len(text.splitlines()) == 5
        assert ("é.wav" in text) == (encoding != "ascii")
        assert "caf\\xe9.wav" in text


@pytest.mark.parametrize("width", [20, 30, 40, 80])
def test_no_table_loses_a_letter(width: int, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(console, "OUT", console._Console(width=width))
    entry = {"value": 0.8123, "low": 0.7, "high": 0.9}
    model = {"ua": entry, "wa": entry, "macro_f1": entry, "ece": 0.0456}
    console._show_table(
        ["model", "UA %", "ECE"],
        [["a-very-long-name-of-a-model", f"{100 * model['ua']['value']:.1f}", "0.046"]],  # type: ignore[index]
    )
    console.show_checks([Check("demo voices", False, 'absent; pip install "emofuse[demo]"')])
    console.show_predictions([answer("a-recording-of-long-name.wav", sad=0.91)])
    shown = "".join(capsys.readouterr().out.split())
    assert "…" not in shown
    for word in ("a-recording-of-long-name.wav", "sad", "0.91", "81.2", "0.046", "emofuse[demo]"):
        assert word in shown or (width < 80 and word.replace("-", "") in shown.replace("-", "").replace("│", ""))


@pytest.mark.parametrize("width", [40, 160])
def test_an_uncertain_answer_is_one_in_every_table(width: int, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(console, "OUT", console._Console(width=width))
    sure = answer("a.wav", sad=0.55)
    console.show_predictions([sure, replace(sure, label="uncertain")])
    one, two = [line for line in capsys.readouterr().out.splitlines() if "0.55" in line]
    assert "uncertain" in two
    assert "uncertain" not in one
    assert width == 40 or one.index("0.55") == two.index("0.55")


COMMANDS_BEFORE_TORCH = (
    ("predict", "a.wav", "--format", "xml"),
    ("predict", "absent.wav"),
    ("predict", "https://example.org/a.wav"),
    ("predict", "a.wav", "--model", "https://example.org/model"),
    ("predict", "a.wav", "--model", "absent"),
    ("predict", "a.wav", "--text", "words.txt"),
    ("predict", "a.wav", "--text", "https://example.org/words"),
    ("predict", "a.wav", "--transcript", "absent.txt"),
    ("predict", "a.wav", "--device", "abacus"),
    ("predict",),
    ("run", "speach", "--corpus", "table", "--root", "t.csv", "--out", "o"),
    ("run", "speech", "--corpus", "tabel", "--root", "t.csv", "--out", "o"),
    ("run", "speech", "--corpus", "table", "--root", "absent.csv", "--out", "o"),
    ("run", "speech", "--corpus", "table", "--root", "t.csv", "--out", "t.csv/o"),
    ("run", "speech", "--corpus", "table", "--root", "t.csv", "--out", "o", "--alignments", "absent.parquet"),
    ("run", "speech", "--corpus", "table", "--root", "t.csv", "--out", "o", "--set", "train.epoch=3"),
    ("prepare", "--corpus", "table", "--root", "t.csv", "--out", "t.csv/m.parquet"),
    ("extract", "speech", "--manifest", "absent.parquet", "--store", "s"),
    ("train", "speech", "--manifest", "absent.parquet", "--store", "s", "--out", "o"),
    ("finetune", "speech", "--corpus", "tabel", "--root", "t.csv", "--out", "o"),
    ("align", "absent.parquet", "--out", "a.parquet"),
    ("transcribe", "absent.parquet", "--out", "t.parquet"),
    ("distill", "speech", "x=absent", "--teacher", "logmel", "--out", "o"),
    ("report", "absent"),
)


def test_arguments_are_checked_before_torch_is_loaded(tmp_path: Path) -> None:
    for name in ("a.wav", "words.txt"):
        (tmp_path / name).write_text("words")
    (tmp_path / "t.csv").write_text("text,label\na,sad\n")
    probe = f"""
import sys
from emofuse.cli.app import main
for arguments in {COMMANDS_BEFORE_TORCH!r}:
    sys.argv = ["emofuse", *arguments]
    try:
        main()
    except SystemExit as stop:
        print(stop.code, "torch" in sys.modules, " ".join(arguments))
"""
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, cwd=tmp_path, check=True, timeout=120
    )
    assert done.stdout.splitlines() == [f"2 False {' '.join(one)}" for one in COMMANDS_BEFORE_TORCH]
    assert "Traceback" not in done.stderr
    for hint in ("--transcript", "did you mean speech", "did you mean table", "train.epochs"):
        assert hint in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_outputs_that_take_nothing_end_in_a_sentence(tmp_path: Path) -> None:
    base = f"{sys.executable} -m emofuse"
    pd.DataFrame({"utterance": ["a", "b"], "label": ["x", "y"], "x": [0.9, 0.2], "y": [0.1, 0.8]}).to_csv(
        tmp_path / "s.csv", index=False
    )
    for line, status in (
        (f"{base} corpora > /dev/full", 2),
        (f"{base} corpora --json > /dev/full", 2),
        (f"{base} corpora >&-", 0),
        (f"{base} evaluate s.csv 2> /dev/full", 0),
        (f"{base} evaluate absent.csv 2>&-", 2),
        (f"{base} corpora --json | head -n 1 > /dev/null", 0),
    ):
        done = subprocess.run(line, shell=True, capture_output=True, text=True, cwd=tmp_path, timeout=60)  # noqa: S602
        assert done.returncode == status, line
        assert "Traceback" not in done.stderr, line
        assert "Exception ignored" not in done.stderr, line
        assert done.stderr.count("\n") == (">" in line and "full" in line and "2>" not in line), line


@pytest.mark.parametrize("command", ["evaluate", "prepare"])
def test_no_label_controls_the_terminal(command: str, emo: Command, tmp_path: Path) -> None:
    # What is looked for comes first, as a narrow column breaks the name.
    evil = f"sad{ESCAPES.replace(chr(13), '')}"
    frame = pd.DataFrame({"utterance": ["a", "b"], "label": [evil, "y"], evil: [0.9, 0.2], "y": [0.1, 0.8]})
    frame.assign(model=evil, text="so", speaker=["s", "t"]).to_csv(tmp_path / "s.csv", index=False)
    lines = {
        "evaluate": ("evaluate", "s.csv"),
        "prepare": ("prepare", "--corpus", "table", "--root", "s.csv", "--out", "m.parquet"),
    }
    done = emo(*lines[command], folder=tmp_path)
    shown = done.stdout + done.stderr
    assert "sad" in shown
    assert not set(shown) & set("\x1b\x9b\a")


# What is asked


class Odd(Predictor):
    """A model that fails otherwise with each file."""

    needs = ()
    _networks = SimpleNamespace(read_segments=False)  # type: ignore[assignment]
    _transcriber = None

    def __init__(self) -> None: ...

    def predict(self, audio: Any = None, **_: Any) -> Prediction:  # type: ignore[override]
        failures = {"m": MemoryError(), "u": UnicodeEncodeError("utf-8", "x", 0, 1, "no"), "r": RuntimeError("a\nb")}
        if audio in failures:
            raise failures[audio]
        return answer(audio)


def test_no_file_costs_the_answer_of_another() -> None:
    found = list(Odd().predict_many(["a", "m", "b", "u", "r", "c"]))
    assert [isinstance(one, Prediction) for one in found] == [True, False, True, False, False, True]
    assert [one.where for one in found if isinstance(one, EmofuseError)] == ["m", "u", "r"]
    assert all("\n" not in str(one) for one in found)


def test_an_output_of_no_columns_is_taken_for_one_of_the_usual_width(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.StringIO())
    for columns, kept in (("0", False), ("00", False), ("1", True)):
        monkeypatch.setenv("COLUMNS", columns)
        make_ready()
        assert ("COLUMNS" in os.environ) is kept


def test_what_is_no_words_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("words.txt").write_text("I am sad")
    for text, message in (
        ("words.txt", "--transcript words.txt"),
        (str(tmp_path / "words.txt"), "--transcript"),
        ("http://example.org/a", "this is an address"),
        ("file:///a.wav", "this is an address"),
        ("bad \udcff words", "bytes that are not UTF-8"),
        (["a"], "give the transcript as one string"),
    ):
        with pytest.raises(SettingsError, match=message):
            check_text(text)
    for good in ("I am sad", "words.txt is a file", "x" * 5000, "a\0b", "C: said he"):
        check_text(good)


def test_a_transcript_may_be_a_file_or_a_folder_of_files(tmp_path: Path, emo: Command) -> None:
    words = "I hate you, leave me alone!"
    soundfile.write(tmp_path / "a.wav", tone(1.0, seed=0), 16000)
    (tmp_path / "said.txt").write_text(f"\ufeff{words}\n", encoding="utf-8")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text(words)
    reported = []
    for options in (("--text", words), ("--transcript", "said.txt"), ("--transcript", "texts")):
        done = emo("predict", "a.wav", *options, "--format", "json", folder=tmp_path)
        reported.append(json.loads(done.stdout))
    assert reported[0][0]["text"] == words
    assert reported[0] == reported[1] == reported[2]
    alone = emo("predict", "--text", words, "--format", "json", folder=tmp_path)
    assert [(one["source"], one["modalities"]) for one in json.loads(alone.stdout)] == [(None, ["text"])]


def test_what_the_text_model_cannot_read_is_noted(tmp_path: Path) -> None:
    model = emofuse.load()
    long = model.predict(text="The report is on the table. " * 30)
    assert "longer than the 64 tokens that are read" in long.notes[0]
    assert not any("longer" in note for note in model.predict(text="The report is on the table.").notes)
    german = model.predict(text="Das will sie am Mittwoch abgeben.")
    assert "not in a language that the model reads (en), so the prediction is unreliable" in german.notes[0]
    clip = tone(1.0, seed=0)
    listening = Predictor(model.checkpoint, transcriber=SimpleNamespace(  # type: ignore[arg-type]
        source="ears", languages=("en",), transcribe=lambda clip: "so bad"))  # fmt: skip
    assert any(
        note.startswith("ears recognised 'so bad', as if all speech were English")
        for note in listening.predict(clip).notes
    )
    fast = model.predict(clip, text="Nobody can say as many words as these within the one second that it lasts.")
    assert "faster than anybody speaks" in fast.notes[0]
    assert check_pace("They said it within two seconds", seconds=2.0) == []


# The aligner of training


def test_the_aligner_of_training_aligns_again() -> None:
    found = aligner_again({"sphinx": 90, "shipped": 10})
    assert found is not None
    assert found.name == "sphinx"
    assert aligner_again({}) is None
    for sources, message in (
        (None, "does not say who aligned its training"),
        ({"shipped": 90, "sphinx": 10}, "files that its corpus ships, which cannot be made here"),
        ({"textgrid": 1}, "textgrid files, which cannot be made here; give alignments .*--alignments FILE"),
    ):
        with pytest.raises(AlignmentError, match=message):
            aligner_again(sources)
    with pytest.raises(EmofuseError):
        aligner_again({ctc_source("/no/such/model", "0123456789abcdef"): 3})


def test_given_alignments_are_found_by_the_name_of_the_recording(tmp_path: Path) -> None:
    word = Segment(start=0.1, end=0.4, label="so")
    write_alignments([Alignment(utterance="a", tiers={"word": (word,)}, source="mfa")], tmp_path / "t.parquet")
    given = GivenAlignments(tmp_path / "t.parquet")
    found = given.of("somewhere/a.flac")
    assert isinstance(found, Alignment)
    assert (found.source, found.tiers["word"]) == ("mfa", (word,))
    assert "has no alignment of 'b'" in str(given.of("b.wav"))


# Names of any bytes


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are UTF-8 there")
def test_files_of_any_name_are_read_and_written(tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/k\xf6ln"))
    odd.mkdir()
    clip = tone(1.0, seed=0)
    soundfile.write(tmp_path / "a.wav", clip, 16000)
    place = Path(os.fsdecode(os.fsencode(odd) + b"/\xe9.wav"))
    (tmp_path / "a.wav").rename(place)
    np.testing.assert_allclose(load_audio(place), clip, atol=1e-4)
    manifest = make_manifest([{"utterance": "a", "text": "so"}], source="test")
    write_manifest(manifest, odd / "m.parquet")
    assert read_manifest(odd / "m.parquet")["text"].tolist() == ["so"]
    assert harmless(place.name) == r"\xe9.wav"
