"""What is said about recordings that a model cannot know, and answers that it does not dare to give."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import emofuse
from emofuse.audio import SAMPLING_RATE, read_audio, read_samples
from emofuse.audio.checks import Clipping
from emofuse.audio.doubts import doubts, loudness, speech_seconds
from emofuse.errors import CheckpointError, SettingsError
from emofuse.inference.card import BUILTIN
from emofuse.testing import tone

SHARED = Path(__file__).parents[2] / "shared" / "data"
CLIPS = ("ravdess/01/03-01-05-02-01-01-01.flac", "emodb/wav/03a01Fa.flac", "crema_d/AudioWAV/1001_DFA_SAD_XX.opus")
TIME = np.arange(3 * SAMPLING_RATE) / SAMPLING_RATE
CHORD = 0.1 * sum(np.sin(2 * np.pi * pitch * TIME) for pitch in (220.0, 277.2, 329.6)) * (0.6 + 0.4 * np.sin(9 * TIME))
NO_SPEECH: dict[str, NDArray[Any]] = {
    "noise": np.random.default_rng(0).normal(0, 0.1, 48000),
    "faint noise": np.random.default_rng(0).normal(0, 1e-4, 48000),
    "a tone": 0.3 * np.sin(2 * np.pi * 440 * TIME),
    "clicks": (np.arange(48000) % 8000 == 0) * 0.9,
    "a hum": 0.2 * np.sign(np.sin(2 * np.pi * 50 * TIME)),
}


@pytest.mark.parametrize("name", NO_SPEECH)
def test_what_is_no_speech_is_said(name: str) -> None:
    clip = NO_SPEECH[name].astype(np.float32)
    assert speech_seconds(clip) == (0, True)
    assert any(note.startswith("no speech was found in the audio") for note in doubts(clip))


def test_music_is_little_speech_at_most() -> None:
    assert any("speech" in note for note in doubts(CHORD.astype(np.float32)))


def test_a_long_recording_is_searched_at_its_beginning_alone() -> None:
    hiss = np.random.default_rng(0).normal(0, 0.01, 61 * SAMPLING_RATE).astype(np.float32)
    long, none = doubts(hiss)
    assert long.startswith("the audio is 1.0 minutes long")
    assert none == "no speech was found in the first 60 s of sound, so the prediction may mean nothing"


def test_the_level_is_that_of_the_loudest_frames() -> None:
    wave = np.sin(2 * np.pi * 1000 * TIME).astype(np.float32)
    for factor in (1.0, 0.1, 1 / 2000):
        # The power of a sine is half its amplitude's square.
        assert loudness(factor * wave) == pytest.approx(20 * np.log10(factor) - 10 * np.log10(2), abs=0.05)
    pause = np.concatenate([wave[:16000], np.zeros(30 * SAMPLING_RATE, dtype=np.float32)])
    assert loudness(pause) == pytest.approx(loudness(wave), abs=0.05)
    assert loudness(wave[:500]) == pytest.approx(loudness(wave), abs=0.5)
    assert any("far too quiet: its loudest part is 69 dB below" in note for note in doubts(wave / 2000))


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_clipping_is_noted_at_every_rate(rate: int, channels: int, tmp_path: Path) -> None:
    time = np.arange(2 * rate) / rate
    wave = np.sin(2 * np.pi * 150 * time)
    # A sine three times too large is beyond the limit but for arcsin(1/3) at either side of its zeros.
    expected = 100 * (1 - 2 * np.arcsin(1 / 3) / np.pi)
    for name, samples in (("clean", 0.9 * wave), ("hard", 0.8 * np.clip(3 * wave, -1, 1)), ("hum", 1e-3 * wave)):
        soundfile.write(tmp_path / f"{name}.wav", np.stack([samples] * channels, 1), rate, subtype="PCM_16")
    found = {name: read_audio(tmp_path / f"{name}.wav").notes for name in ("clean", "hard", "hum")}
    assert found["clean"] == found["hum"] == ()
    (note,) = found["hard"]
    percent = float(note.removeprefix("the audio is clipped: ").partition(" %")[0])
    assert percent == pytest.approx(expected, abs=3)


@given(
    samples=st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=40),
    cut=st.integers(1, 40),
    scale=st.sampled_from([0.04, 0.5, 1.0]),
)
def test_clipped_samples_are_those_of_a_plain_loop(samples: list[float], cut: int, scale: float) -> None:
    values = scale * np.array(samples)
    count = 0
    for sign in (1, -1):
        peak = max(sign * values)
        runs = ["".join("x" if sign * value == peak else " " for value in block) for block in np.split(values, [cut])]
        if peak > 0.05:
            count += sum(len(run) for run in " ".join(runs).split() if len(run) >= 3)
    found = Clipping()
    for block in np.split(values, [cut]):
        if len(block):
            found.see(block)
    assert found.fraction == pytest.approx(count / len(values))


def test_samples_of_an_array_are_judged_too() -> None:
    wave = np.clip(3 * np.sin(2 * np.pi * 150 * TIME), -1, 1).astype(np.float32)
    assert any("clipped: 78" in note or "clipped: 79" in note for note in read_samples(wave).notes)


def test_a_confident_label_can_be_demanded(tmp_path: Path, emo: Callable[..., Any]) -> None:
    soundfile.write(tmp_path / "clip.wav", tone(1.0), SAMPLING_RATE)
    sure = emofuse.load().predict(tmp_path / "clip.wav")
    height = max(sure.posteriors.values())
    for least, label in ((0.0, sure.label), (height - 0.01, sure.label), (min(1.0, height + 0.01), "uncertain")):
        found = emofuse.load(min_confidence=least).predict(tmp_path / "clip.wav")
        assert (found.label, found.posteriors) == (label, sure.posteriors)
    done = emo("predict", "clip.wav", "--min-confidence", "1", "--format", "json", folder=tmp_path)
    (row,) = json.loads(done.stdout)
    assert row["label"] == "uncertain"
    assert any(note.startswith("no speech was found") for note in row["notes"])
    for value in (-0.1, 1.1, float("nan")):
        with pytest.raises(SettingsError, match="is no probability; give one from 0 to 1"):
            emofuse.load(min_confidence=value)


def test_the_card_of_a_model_is_printed(tmp_path: Path, emo: Callable[..., Any]) -> None:
    card = (BUILTIN / "README.md").read_text(encoding="utf-8").strip()
    assert emofuse.read_card() == emofuse.read_card(BUILTIN) == card
    assert emo("info", folder=tmp_path).stdout.strip() == card
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "README.md").symlink_to(BUILTIN / "README.md")
    for folder in (tmp_path / "none", tmp_path, tmp_path / "model"):
        with pytest.raises(CheckpointError, match="there is no model card here; name a folder that emofuse has"):
            emofuse.read_card(folder)
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "README.md")
    for odd in (tmp_path / "pipe", "a\0b"):
        with pytest.raises(CheckpointError, match="there is no model card here"):
            emofuse.read_card(odd)
    assert emo("info", "none", folder=tmp_path).returncode == 2


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.exists(), reason="needs the recordings in ../shared")
@pytest.mark.parametrize("name", CLIPS)
def test_speech_is_found(name: str) -> None:
    clip = read_audio(SHARED / name).samples
    assert speech_seconds(clip)[0] >= 0.5
    assert doubts(clip) == []
    assert any("too quiet" in note for note in doubts(clip / 2000))
    start = len(clip) // 2
    assert any("speech" in note for note in doubts(clip[start : start + 800]))
