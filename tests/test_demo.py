from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import soundfile

from emofuse.demo import _plan, make_demo_corpus
from emofuse.demo.sentences import sentences
from emofuse.errors import EmofuseError

COLUMNS = ["utterance", "audio", "text", "label", "speaker", "text_source", "language"]
HIGH = ("angry", "happy")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hibari", reason='the demo corpus needs pip install "emofuse[demo]"')
    return make_demo_corpus(tmp_path_factory.mktemp("demo"), utterances_per_class=1).parent


class Recorder:
    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def start(self, description: str, total: float | None) -> None:
        self.calls.append(("start", total))

    def advance(self, description: str, steps: float = 1) -> None:
        self.calls.append(("advance", steps))

    def finish(self, description: str) -> None:
        self.calls.append(("finish",))

    def note(self, message: str) -> None:
        self.calls.append(("note", message))


def median_pitch(samples: npt.NDArray[np.float32], rate: int) -> float:
    pitches = []
    for start in range(0, len(samples) - 640, 320):
        frame = samples[start : start + 640] * np.hanning(640)
        if frame @ frame < 1e-2:
            continue
        correlation = np.correlate(frame, frame, "full")[639:]
        lags = slice(rate // 450, rate // 65)
        lag = lags.start + int(correlation[lags].argmax())
        if correlation[lag] > 0.4 * correlation[0]:
            pitches.append(rate / lag)
    return float(np.median(pitches))


def test_table_is_complete(corpus: Path) -> None:
    table = pd.read_csv(corpus / "corpus.csv")
    assert list(table.columns) == COLUMNS
    assert not table.isna().any().any()
    assert len(table) == table["utterance"].nunique() == 32
    assert table.groupby(["speaker", "label"]).size().tolist() == [1] * 32
    assert sorted(table["label"].unique()) == ["angry", "happy", "neutral", "sad"]
    assert table["speaker"].nunique() == 8
    assert set(table["text_source"]) == {"reference"}
    assert set(table["language"]) == {"en"}
    listed = {str(path.relative_to(corpus).as_posix()) for path in (corpus / "audio").iterdir()}
    assert listed == set(table["audio"])


def test_audio_is_sane(corpus: Path) -> None:
    for path in (corpus / "audio").iterdir():
        information = soundfile.info(path)
        assert (information.samplerate, information.channels, information.subtype) == (16000, 1, "PCM_16")
        samples, _ = soundfile.read(path, dtype="float32")
        assert 1.0 < len(samples) / 16000 < 4.5
        assert 0.05 < np.abs(samples).max() < 0.95
        assert -36 < 20 * np.log10(samples.std()) < -14


def test_pitch_separates_arousal_within_each_speaker_and_men_from_women(corpus: Path) -> None:
    table = pd.read_csv(corpus / "corpus.csv")
    table["pitch"] = [median_pitch(*soundfile.read(corpus / audio, dtype="float32")) for audio in table["audio"]]
    table["high"] = table["label"].isin(HIGH)
    pitch = table.groupby(["speaker", "high"])["pitch"].mean().unstack()
    assert (pitch[True] > 1.1 * pitch[False]).all()
    men = pitch.index.str.startswith("m")
    assert pitch[men].max().max() < pitch[~men][True].min()


def test_same_seed_same_bytes(corpus: Path, tmp_path: Path) -> None:
    again = make_demo_corpus(tmp_path / "again", utterances_per_class=1).parent
    assert (again / "corpus.csv").read_bytes() == (corpus / "corpus.csv").read_bytes()
    for path in (corpus / "audio").iterdir():
        assert (again / "audio" / path.name).read_bytes() == path.read_bytes()


def test_resumes_and_keeps_what_is_there(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(corpus, out)
    (out / "corpus.csv").unlink()
    first, second, *_ = sorted((out / "audio").iterdir())
    first.write_bytes(b"kept")
    content = second.read_bytes()
    second.unlink()
    recorder = Recorder()
    make_demo_corpus(out, utterances_per_class=1, progress=recorder)
    assert first.read_bytes() == b"kept"
    assert second.read_bytes() == content
    assert (out / "corpus.csv").read_bytes() == (corpus / "corpus.csv").read_bytes()
    assert recorder.calls == [("start", 1), ("advance", 1), ("finish",)]
    assert not list(out.rglob("*.part"))


def test_table_waits_for_the_last_recording(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("emofuse.demo.soundfile.write", fail)
    with pytest.raises(EmofuseError, match="disk full"):
        make_demo_corpus(tmp_path, utterances_per_class=1)
    assert not (tmp_path / "corpus.csv").exists()


def test_refuses_a_folder_made_with_another_seed(corpus: Path) -> None:
    with pytest.raises(EmofuseError, match="choose another folder"):
        make_demo_corpus(corpus, utterances_per_class=1, seed=1)


def test_missing_synthesiser_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hibari", None)
    with pytest.raises(EmofuseError, match="pip install hibari-tts"):
        make_demo_corpus(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()


def test_refuses_zero_utterances(tmp_path: Path) -> None:
    with pytest.raises(EmofuseError, match="1 or more"):
        make_demo_corpus(tmp_path, utterances_per_class=0)


@pytest.mark.parametrize("utterances_per_class", [1, 15, 60])
@pytest.mark.parametrize("seed", [0, 7])
def test_no_sentence_is_shared_between_speakers(utterances_per_class: int, seed: int) -> None:
    speakers: dict[str, set[str]] = {}
    for line in _plan(utterances_per_class=utterances_per_class, seed=seed):
        speakers.setdefault(line.text, set()).add(line.speaker.name)
    assert all(len(names) == 1 for names in speakers.values())
    if utterances_per_class <= 15:
        assert len(speakers) == 32 * utterances_per_class


def test_each_cue_misleads_in_about_six_per_cent() -> None:
    lines = _plan(utterances_per_class=15, seed=0)
    negative = set(sentences("negative"))
    voice = [(line.arousal == "high") != (line.label in HIGH) for line in lines]
    words = [(line.text in negative) != (line.label in ("angry", "sad")) for line in lines]
    assert sum(voice) == sum(words) == 28


@pytest.mark.parametrize("valence", ["negative", "positive"])
def test_sentences_are_short_and_distinct(valence: str) -> None:
    pool = sentences(valence)
    assert len(pool) == len(set(pool)) > 300
    assert all(4 <= len(sentence.split()) <= 9 for sentence in pool)
    assert all("{" not in sentence and "  " not in sentence for sentence in pool)
    assert not set(pool) & set(sentences("positive" if valence == "negative" else "negative"))
