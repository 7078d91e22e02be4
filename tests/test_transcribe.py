"""Transcription of a manifest: every recording once, whatever is damaged or interrupted."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from typer.testing import CliRunner

from emofuse.align.run import align_manifest
from emofuse.asr.base import RECOGNISERS, Recogniser, load_recogniser
from emofuse.asr.run import transcribe_manifest
from emofuse.asr.sphinx import SphinxRecogniser
from emofuse.cli.app import app
from emofuse.corpora import read_corpus
from emofuse.errors import ManifestError, SettingsError
from emofuse.manifest import COLUMNS, make_manifest, read_manifest, text_sources, write_manifest
from emofuse.outside import load_class
from emofuse.progress import Silent
from emofuse.testing import tiny_corpus, tone


class Dictation(Recogniser):
    """A recogniser that writes the length of a clip, and stops after some clips."""

    name = "dictation"

    def __init__(self, source: str = "dictation", *, fail_after: int = -1, english_only: bool = False) -> None:
        self._source = source
        self.languages = ("en",) if english_only else None
        self.clips: list[int] = []
        self._left = fail_after

    @property
    def source(self) -> str:
        return self._source

    def transcribe(self, clip: Any) -> str:
        if not self._left:
            raise KeyboardInterrupt
        self._left -= 1
        self.clips.append(len(clip))
        return "" if len(clip) == 8000 else f"{len(clip)} samples \u2028 “said”"


@pytest.fixture
def manifest(tmp_path: Path) -> pd.DataFrame:
    rows = []
    for number in range(4):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, tone(0.5 + number / 4, seed=number), 16000)
        rows.append({"utterance": f"u{number}", "audio": str(path), "text": "as written", "text_source": "reference",
                     "label": "sad", "speaker": "s", "duration": 0.5})  # fmt: skip
    return make_manifest(rows, source="test")


def test_words_are_those_of_the_recogniser_and_all_else_stays(manifest: pd.DataFrame, tmp_path: Path) -> None:
    out = tmp_path / "new" / "recognised.parquet"
    done = transcribe_manifest(manifest.assign(omitted='["as written"]'), Dictation(), out)
    found = read_manifest(out)
    pd.testing.assert_frame_equal(found, done.manifest)
    assert list(found["text"].fillna("none")) == [
        "none",
        *(f"{n} samples \u2028 “said”" for n in (12000, 16000, 20000)),
    ]
    assert text_sources(found) == {"dictation": 4}
    assert found["omitted"].isna().all(), "what others said has not been transcribed"
    others = [name for name in COLUMNS if name not in ("text", "text_source", "omitted")]
    pd.testing.assert_frame_equal(found[others], manifest[others])
    assert (done.computed, dict(done.failed)) == (4, {})


def test_a_bad_file_is_reported_and_has_no_words(manifest: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "1.wav").write_text("this is no audio")
    (tmp_path / "2.wav").unlink()
    done = transcribe_manifest(manifest, Dictation(), tmp_path / "recognised.parquet")
    assert {name: Path(str(error.where)).name for name, error in done.failed.items()} == {"u1": "1.wav", "u2": "2.wav"}
    assert done.manifest["text"].isna().tolist() == [True, True, True, False]
    assert done.manifest["text_source"].fillna("none").tolist() == ["dictation", "none", "none", "dictation"]
    assert read_manifest(tmp_path / "recognised.parquet")["utterance"].tolist() == manifest["utterance"].tolist()


def test_who_knows_english_only_is_not_asked_about_german(manifest: pd.DataFrame, tmp_path: Path) -> None:
    mixed = manifest.assign(language=["de", "en", None, "pl-PL"])
    done = transcribe_manifest(mixed, Dictation(english_only=True), tmp_path / "recognised.parquet")
    assert {name: error.what for name, error in done.failed.items()} == {
        "u0": "the language is de, and dictation knows en only",
        "u3": "the language is pl-PL, and dictation knows en only",
    }
    assert done.manifest["text"].isna().tolist() == [True, False, False, True]
    assert text_sources(done.manifest)["dictation"] == 2
    assert not transcribe_manifest(mixed, Dictation("polyglot"), tmp_path / "all.parquet").failed
    assert SphinxRecogniser().languages == ("en",)


def test_a_run_that_was_cut_off_goes_on_from_there(manifest: pd.DataFrame, tmp_path: Path) -> None:
    out = tmp_path / "recognised.parquet"
    with pytest.raises(KeyboardInterrupt):
        transcribe_manifest(manifest, Dictation(fail_after=2), out)
    assert not out.exists()
    journal = tmp_path / "recognised.parquet.transcribed.jsonl"
    journal.write_bytes(journal.read_bytes() + b'{"recogniser": "dictation", "sou')
    rest = Dictation()
    done = transcribe_manifest(manifest, rest, out)
    assert (rest.clips, done.computed) == ([16000, 20000], 2)
    whole = transcribe_manifest(manifest, Dictation(), tmp_path / "other" / "whole.parquet").manifest
    pd.testing.assert_frame_equal(done.manifest, whole)

    again = Dictation(fail_after=0)
    assert transcribe_manifest(manifest, again, out).computed == 0
    # Another recogniser has no transcripts yet, and a recording that was fixed is transcribed.
    assert transcribe_manifest(manifest, Dictation("other"), out).computed == 4
    soundfile.write(tmp_path / "3.wav", tone(2.0, seed=9), 16000)
    fixed = transcribe_manifest(manifest, Dictation(), out)
    assert (fixed.computed, fixed.manifest["text"].iloc[3]) == (1, "32000 samples \u2028 “said”")


def test_spans_of_one_file_are_transcribed_apart_and_text_not_spoken_is_kept(
    manifest: pd.DataFrame, tmp_path: Path
) -> None:
    audio = str(tmp_path / "3.wav")
    rows = [
        {"utterance": "a", "audio": audio, "start": 0.0, "end": 0.25},
        {"utterance": "b", "audio": audio, "start": 0.25, "end": 1.0},
        {"utterance": "c", "text": "only written", "text_source": "reference"},
        {"utterance": "d", "audio": audio, "text": "not said", "spoken": "kids are", "text_source": "reference"},
    ]
    done = transcribe_manifest(make_manifest(rows, source="test"), Dictation(), tmp_path / "recognised.parquet")
    assert [str(text).split()[0] for text in done.manifest["text"]] == ["4000", "12000", "only", "not"]
    assert text_sources(done.manifest) == {"dictation": 2, "reference": 2}
    with pytest.raises(ManifestError, match="no utterance has a recording of its text"):
        transcribe_manifest(make_manifest(rows[2:], source="test"), Dictation(), tmp_path / "none.parquet")


def test_sphinx_bears_clips_of_any_length() -> None:
    sphinx = SphinxRecogniser()
    for samples in (1, 100, 4000):
        assert isinstance(sphinx.transcribe(np.zeros(samples, np.float32)), str)


OWN = """
import os
from emofuse.asr.base import Recogniser

class Counter(Recogniser):
    name = "counter"
    languages = ("en", "de")
    parallel = True

    def __init__(self, model="samples"):
        self.unit = model

    def transcribe(self, clip):
        return f"{len(clip)} {self.unit} in {os.getpid()}"
"""


def test_a_recogniser_of_the_users_own(manifest: pd.DataFrame, tmp_path: Path) -> None:
    file, out = tmp_path / "mine.py", tmp_path / "out.parquet"
    file.write_text(OWN)
    own = load_recogniser(f"{file}:Counter", model="steps")
    assert own is not None
    mixed = manifest.assign(language=["de", "en", None, "pl"]).astype({"language": "string"})
    done = transcribe_manifest(mixed, own, out, jobs=2)
    assert "the language is pl, and counter knows en, de only" in str(done.failed["u3"])
    texts = done.manifest["text"].dropna()
    assert [text.split()[:2] for text in texts] == [[str(n), "steps"] for n in (8000, 12000, 16000)]
    assert f"in {os.getpid()}" not in " ".join(texts)
    assert set(done.manifest["text_source"].dropna()) == {"counter"}
    # Words are kept for the same code and model.
    assert transcribe_manifest(mixed, own, out).computed == 0
    other = load_recogniser(f"{file}:Counter")
    assert other is not None
    assert transcribe_manifest(mixed, other, out).computed == 3
    file.write_text(f"{OWN}# Changed.")
    assert transcribe_manifest(mixed, own, out).computed == 3


@pytest.mark.parametrize("name", RECOGNISERS)
def test_each_of_ours_meets_the_contract(name: str) -> None:
    found: type[Recogniser] = load_class(name, RECOGNISERS, kind="recogniser", base=Recogniser)
    assert found.name == name


class Stages(Silent):
    """A progress display that counts."""

    def __init__(self) -> None:
        self.stages: dict[str, list[float]] = {}

    def start(self, description: str, total: float | None) -> None:
        self.stages[description] = [total or 0, 0]

    def advance(self, description: str, steps: float = 1) -> None:
        self.stages[description][1] += steps


def test_recordings_are_reported_as_they_are_read_and_transcribed(manifest: pd.DataFrame, tmp_path: Path) -> None:
    """Reading a large corpus takes minutes, even if all of it was transcribed before."""
    (tmp_path / "1.wav").unlink()
    for _ in range(2):
        reported = Stages()
        transcribe_manifest(manifest, Dictation(), tmp_path / "recognised.parquet", progress=reported)
        assert reported.stages == {"Reading audio files": [4, 4], "Transcribing": [3, 3]}


@pytest.mark.slow
def test_the_number_of_processes_changes_no_word(manifest: pd.DataFrame, tmp_path: Path) -> None:
    """Including equal recordings, damaged or missing files, and text that is not spoken."""
    (tmp_path / "2.wav").write_text("this is no audio")
    gone = {**manifest.iloc[0].to_dict(), "utterance": "gone", "audio": str(tmp_path / "gone.wav")}
    twice = {**manifest.iloc[0].to_dict(), "utterance": "twice"}
    whole = make_manifest([*manifest.to_dict("records"), gone, twice], source="test")
    sphinx = SphinxRecogniser()
    one, two = (transcribe_manifest(whole, sphinx, tmp_path / f"{jobs}.parquet", jobs=jobs) for jobs in (1, 2))
    pd.testing.assert_frame_equal(one.manifest, two.manifest)
    assert {name: str(error) for name, error in one.failed.items()} == {
        name: str(error) for name, error in two.failed.items()
    }
    assert list(one.failed) == list(two.failed) == ["u2", "gone"]
    assert one.computed == two.computed == 3
    lines = [(tmp_path / f"{jobs}.parquet.transcribed.jsonl").read_text().split("\n") for jobs in (1, 2)]
    assert sorted(lines[0]) == sorted(lines[1])


def test_what_sphinx_hears_does_not_depend_on_what_came_before() -> None:
    """Or the fraction of work that a process gets would show in the words."""
    sphinx = SphinxRecogniser()
    clip = tone(1.0, seed=3)

    def state() -> tuple[str, float]:
        text = sphinx.transcribe(clip)
        return text, sphinx._decoder.hyp().best_score

    first = state()
    sphinx.transcribe(0.05 * np.random.default_rng(0).normal(size=16000).astype(np.float32))
    assert state() == first


def test_other_recognisers_share_one_process(manifest: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="dictation works in one process; leave it out, or use --asr sphinx"):
        transcribe_manifest(manifest, Dictation(), tmp_path / "recognised.parquet", jobs=2)
    assert transcribe_manifest(manifest, Dictation(), tmp_path / "recognised.parquet", jobs=1).computed == 4


def test_the_command_writes_a_manifest_that_a_run_can_read(tmp_path: Path) -> None:
    table = tiny_corpus(tmp_path / "corpus", speakers=1, utterances=1)
    before = read_corpus("table", table).manifest
    before.loc[0, "audio"] = str(tmp_path / "gone.wav")
    write_manifest(before, tmp_path / "m.parquet")
    out = tmp_path / "recognised.parquet"
    command = ["transcribe", str(tmp_path / "m.parquet"), "--asr", "sphinx", "--out", str(out)]
    for count in (3, 0):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 1
        assert f"3 utterances with transcripts by sphinx; {count} transcribed now" in done.output
        assert "Skipped s0_angry_0: " in done.output
    again = read_corpus("table", out, partial=True).manifest
    assert again["text_source"].dropna().tolist() == ["sphinx"] * 3
    assert again["utterance"].tolist() == before["utterance"].tolist()[1:]
    lines = [json.loads(line) for line in (tmp_path / "recognised.parquet.transcribed.jsonl").open() if line.strip()]
    assert {line["recogniser"] for line in lines} == {"sphinx"}
    assert CliRunner().invoke(app, [*command, "--asr", "none"]).exit_code != 0


@pytest.mark.parametrize("again", [False, True])
def test_words_in_silence_are_said_and_kept_apart(tmp_path: Path, again: bool) -> None:
    """Recognisers hallucinate "thank you" in silence."""
    generator = np.random.default_rng(0)
    clips = {
        "room": generator.normal(0, 1e-4, 9000),
        "hiss": generator.normal(0, 0.003, 20000),
        "none": generator.normal(0, 1e-4, 8000),
        "speech": tone(1.5, seed=0),
    }
    rows = []
    for name, samples in clips.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, 16000)
        rows.append({"utterance": name, "audio": str(tmp_path / f"{name}.wav"), "label": "sad"})
    notes: list[str] = []

    class Listener(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    out = tmp_path / "out.parquet"
    if again:
        transcribe_manifest(make_manifest(rows, source="test"), Dictation(), out)
    done = transcribe_manifest(make_manifest(rows, source="test"), Dictation(), out, progress=Listener())
    assert done.computed == (0 if again else 4)
    assert text_sources(read_manifest(out)) == {"dictation": 2, "dictation, in silence": 2}
    text = " ".join(notes)
    assert "2 recordings (room, hiss): words were recognised in silence" in text
    assert "1 recording (none): no words were recognised" in text
    assert "speech" not in text


class Listener(Silent):
    """Keeps reported notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def test_what_is_to_be_said_of_recordings_is_said_of_aligned_and_transcribed_ones(
    manifest: pd.DataFrame, tmp_path: Path
) -> None:
    for number in (0, 2):
        samples = tone(1.0, seed=number)
        soundfile.write(tmp_path / f"{number}.wav", np.stack([samples, -samples], axis=1), 16000)
    said = "2 recordings (u0, u2): the 2 channels are of opposite phase and would cancel, so channel 1 was used alone"
    listener = Listener()
    transcribe_manifest(manifest, Dictation(), tmp_path / "recognised.parquet", progress=listener)
    assert [note for note in listener.notes if note.endswith(said)]
    listener = Listener()
    align_manifest(manifest, tmp_path / "aligned.parquet", jobs=1, progress=listener)
    assert [note for note in listener.notes if note.endswith(said)]
