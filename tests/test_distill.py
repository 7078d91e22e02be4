"""Small encoders learnt from large ones."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from emofuse.audio import SAMPLING_RATE, load_audio
from emofuse.distill.augment import disturb, in_room, through_line, with_noise
from emofuse.distill.descriptor import REMEMBERED, RIDGE, Descriptor, Readout, moments
from emofuse.distill.recordings import change_voice, clips_of, gather
from emofuse.distill.settings import SpeechStudentSettings, TextStudentSettings
from emofuse.distill.speech import distill_speech, distillation_loss
from emofuse.distill.student import SpeechStudent
from emofuse.distill.text import distill_text
from emofuse.encoders import load_speech_encoder, load_text_encoder, load_trainable_encoder
from emofuse.encoders.compact import CompactWhisper, compress
from emofuse.errors import CheckpointError, EncoderError, ManifestError, SettingsError
from emofuse.seeds import kept_random_state
from emofuse.settings import SpeechSettings, TextSettings
from emofuse.testing import tiny_speech_encoder, tiny_text_encoder, tone

Tiny = dict[str, Any]
TINY: Tiny = {"layers": 1, "kept": 0.0, "batch_seconds": 2.0, "save_every": 2, "precision": "float32"}


def speech_settings(**changes: Any) -> SpeechStudentSettings:
    return SpeechStudentSettings(**{**TINY, "teacher_layers": "2", "steps": 4, "held_out": 0.3, **changes})


def record(folder: Path, count: int = 8) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        waves = tone(0.5 + 0.1 * number, frequency=150 + 40 * number, seed=number)
        soundfile.write(folder / f"clip{number}.wav", waves, SAMPLING_RATE)
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_speech_encoder(tmp_path_factory.mktemp("teacher"), family="whisper"))


def loudest(clip: Any) -> float:
    """Frequency with the most power, in Hz."""
    spectrum = np.abs(np.fft.rfft(clip * np.hanning(len(clip))))
    return float(spectrum.argmax() * SAMPLING_RATE / len(clip))


class CutOffError(Exception):
    """What a test interrupts with."""


class Interrupting:
    """A progress display that breaks off at a step of the training."""

    def __init__(self, label: str, after: int) -> None:
        self.label, self.left = label, after

    def start(self, description: str, total: float | None) -> None: ...

    def finish(self, description: str) -> None: ...

    def note(self, message: str) -> None: ...

    def advance(self, description: str, steps: float = 1) -> None:
        if description == self.label and steps:
            self.left -= 1
            if self.left < 0:
                raise CutOffError


# What a student listens to


@given(duration=st.floats(0.03, 100), longest=st.floats(0.5, 20))
def test_clips_cover_a_recording(duration: float, longest: float) -> None:
    found = clips_of(duration, longest=longest)
    assert found[0][0] == 0
    assert found[-1][1] == duration
    assert all(first[1] == second[0] for first, second in pairwise(found))
    assert all(0 < end - start <= longest + 0.002 for start, end in found)
    assert len(found) <= duration / longest + 1


@pytest.mark.parametrize(("semitones", "expected"), [(12, 600), (-12, 150), (0, 300), (3, 300 * 2 ** (3 / 12))])
def test_a_voice_is_raised_at_the_same_tempo(semitones: float, expected: float) -> None:
    clip = tone(2.0, frequency=300)
    changed = change_voice(clip, semitones=semitones, tempo=1.0)
    assert loudest(changed[8000:24000]) == pytest.approx(expected, rel=0.01)
    assert len(changed) == pytest.approx(len(clip), rel=0.03)


@pytest.mark.parametrize("tempo", [0.85, 1.25])
def test_a_voice_is_sped_up_at_the_same_pitch(tempo: float) -> None:
    clip = tone(2.0, frequency=300)
    changed = change_voice(clip, semitones=0, tempo=tempo)
    assert len(changed) == pytest.approx(len(clip) / tempo, rel=0.03)
    assert loudest(changed[4000:20000]) == pytest.approx(300, rel=0.01)


def test_recordings_are_gathered_with_copies(tmp_path: Path) -> None:
    folder = record(tmp_path / "audio" / "deep", 30)
    (folder / "labels.csv").write_text("no, this is not read \xff", encoding="latin-1")
    (folder / "empty.wav").write_bytes(b"")
    settings = speech_settings(views=0.5, longest=1.0)
    found, skipped = gather({"Mine (CC0)": folder.parent}, settings, copies=tmp_path / "copies")
    assert [Path(error.where or "").name for error in skipped] == ["empty.wav"]
    assert set(found["corpus"]) == {"Mine"}
    assert found["label"].isna().all()
    assert found["text"].isna().all()
    recordings = {name.rpartition("@")[0] for name in found["utterance"]}
    copied = {name for name in recordings if name.endswith("#copy")}
    held_out = {name.rpartition("@")[0] for name in found["utterance"][found["session"] == "held-out"]}
    assert len(recordings - copied) == 30
    assert 5 <= len(copied) <= 20
    assert 3 <= len(held_out) <= 18
    assert not any(name.removesuffix("#copy") in held_out for name in copied), "a copy reveals what is held out"
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "copies").iterdir()}
    again, _ = gather({"Mine": folder.parent}, settings, copies=tmp_path / "copies")
    assert again.equals(found)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "copies").iterdir()} == before


def test_a_folder_without_recordings_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="there are no recordings"):
        gather({"none": tmp_path}, speech_settings(), copies=tmp_path / "copies")


# Disturbances


@given(decibels=st.floats(-5, 40), slope=st.floats(0, 2), seed=st.integers(0, 1000))
def test_noise_has_the_ratio_that_was_asked_for(decibels: float, slope: float, seed: int) -> None:
    clip = tone(0.3, noise=0.0)
    noise = with_noise(clip, decibels=decibels, slope=slope, rng=np.random.default_rng(seed)).astype(float) - clip
    measured = 10 * np.log10(np.mean(np.square(clip.astype(float))) / np.mean(np.square(noise)))
    assert measured == pytest.approx(decibels, abs=0.1)


def test_a_line_keeps_its_band() -> None:
    def level(frequency: float) -> float:
        clip = tone(0.5, frequency=frequency, noise=0.0)
        return float(np.std(through_line(clip, low=300, high=3400)[2000:]) / np.std(clip))

    assert level(1000) == pytest.approx(1, abs=0.05)
    assert level(80) < 0.05
    assert level(6500) < 0.1


def test_a_room_comes_after_the_direct_path() -> None:
    click = np.zeros(8000, np.float32)
    click[1000] = 1.0
    echoed = in_room(click, seconds=0.3, rng=np.random.default_rng(0))
    assert np.abs(echoed[:1000]).max() < 1e-6
    assert echoed[1000] == pytest.approx(1.0, abs=1e-5)
    early, late = np.abs(echoed[1001:2600]).mean(), np.abs(echoed[4200:5800]).mean()
    assert 0 < late < early / 3


@given(seed=st.integers(0, 10_000), samples=st.integers(400, 20_000))
def test_disturbed_clips_stay_clips(seed: int, samples: int) -> None:
    clip = np.random.default_rng(seed).standard_normal(samples).astype(np.float32)
    changed = disturb(clip, np.random.default_rng(seed))
    assert changed.shape == clip.shape
    assert changed.dtype == np.float32
    assert np.isfinite(changed).all()
    assert np.array_equal(changed, disturb(clip, np.random.default_rng(seed)))


# The student


def test_the_student_begins_as_the_first_layers_of_its_teacher(tmp_path: Path, teacher: str) -> None:
    whole = load_speech_encoder(SpeechSettings(encoder=teacher))
    trainable = load_trainable_encoder(SpeechSettings(encoder=teacher))
    student = SpeechStudent(trainable, layers=1, seconds=6, targets=3, target_width=48)
    clips = [tone(1.0, seed=0), tone(0.5, seed=1)]
    predicted, last = student.eval()(clips)
    assert (predicted.shape, last.shape) == ((2, 3, 50, 48), (2, 50, 32))
    assert [states.shape[0] for states in trainable.states(clips)] == [2, 2]
    for ours, theirs in zip(trainable.states(clips), whole.encode(clips), strict=True):
        torch.testing.assert_close(ours[0], theirs[0])
    student.train()(clips)[0].sum().backward()
    free = {name for name, value in student.encoder.named_parameters() if value.grad is not None}
    assert free
    assert not any(name.startswith(("conv", "embed")) for name in free)


@pytest.mark.parametrize("family", ["whisper", "wav2vec2-layer"])
def test_a_shortened_encoder_is_saved_and_loaded(tmp_path: Path, family: str) -> None:
    encoder = load_trainable_encoder(
        SpeechSettings(encoder=str(tiny_speech_encoder(tmp_path / "whole", family=family)))
    )
    encoder.shorten(1, seconds=1)
    encoder.save(tmp_path / "short")
    loaded = load_speech_encoder(SpeechSettings(encoder=str(tmp_path / "short")))
    assert (loaded.specification.layers, loaded.specification.selected) == (2, (0, 1))
    clip = tone(2.4, seed=0)
    with torch.inference_mode():
        found = encoder.states([clip])[0]
        torch.testing.assert_close(loaded.encode([clip])[0], found)
        if family == "whisper":
            # Three windows of like length, each by itself.
            parts = [clip[start : start + 12800] for start in (0, 12800, 25600)]
            torch.testing.assert_close(torch.cat([encoder.states([part])[0] for part in parts], dim=1), found)


def test_the_loss_is_that_of_a_plain_loop() -> None:
    torch.manual_seed(0)
    predicted, targets = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]).bool()
    absolute, distance, average = [], [], []
    for clip, count in ((0, 5), (1, 2)):
        for layer in range(3):
            ours, theirs = predicted[clip, layer, :count].double(), targets[clip, layer, :count].double()
            for one, other in zip(ours, theirs, strict=True):
                absolute += (one - other).abs().tolist()
                distance.append(1 - float(one @ other / one.norm() / other.norm()))
            average += (ours.mean(0) - theirs.mean(0)).abs().tolist()
    expected = np.mean(absolute) + np.mean(distance) + np.mean(average)
    assert float(distillation_loss(predicted, targets, mask)) == pytest.approx(expected, rel=1e-5)


@given(seed=st.integers(0, 2**32 - 1), frames=st.integers(1, 12), padding=st.integers(0, 5))
def test_moments_are_those_of_the_clip_without_its_padding(seed: int, frames: int, padding: int) -> None:
    values = np.random.default_rng(seed).normal(size=(1, 2, frames + padding, 3)).astype(np.float32)
    mask = torch.arange(frames + padding)[None] < frames
    clip = values[0, :, :frames].astype(np.float64)
    expected = np.concatenate([clip.mean(1).ravel(), np.sqrt(clip.var(1) + 1e-5).ravel()])
    np.testing.assert_allclose(moments(torch.from_numpy(values), mask)[0], expected, atol=1e-5)


def test_descriptors_are_uncorrelated_and_of_unit_variance() -> None:
    rng = np.random.default_rng(0)
    loud = rng.normal(size=(200, 1, 1, 1)) * np.array([5.0, 1.0, 0.2])
    clips = [torch.from_numpy((one + rng.normal(size=(2, 9, 3))).astype(np.float32)) for one in loud]
    descriptor = Descriptor(clips, components=4, seed=0)
    full = torch.ones(1, 9, dtype=torch.bool)
    found = np.concatenate([descriptor(clip[None], full).numpy() for clip in clips])
    np.testing.assert_allclose(np.cov(found.T), np.eye(4), atol=1e-3)


def test_what_is_constant_in_the_clips_of_a_descriptor_says_nothing_of_others() -> None:
    rng = np.random.default_rng(0)
    clips = [torch.from_numpy(rng.normal(rng.normal(), size=(2, 9, 3)).astype(np.float32)) for _ in range(60)]
    other = torch.from_numpy(rng.normal(size=(1, 2, 9, 3)).astype(np.float32))
    for clip in clips:
        clip[:, :, 0] = -23.0 + 1e-6 * clip[:, :, 0]
    full, readout = torch.ones(1, 9, dtype=torch.bool), Readout(6, 1)
    # More components than directions: what is left of the variance is rounding.
    descriptor = Descriptor(clips, components=12, seed=0)
    kept = other.clone()
    kept[..., 0] = -23.0
    torch.testing.assert_close(descriptor(other, full), descriptor(kept, full))
    assert descriptor(other, full).abs().max() < 30
    for clip in clips * 3:
        readout.learn(moments(clip[None, :1], full), clip.mean()[None, None])
    readout.refit()
    torch.testing.assert_close(readout(moments(other[:, :1], full)), readout(moments(kept[:, :1], full)))


def test_the_readout_is_ridge_regression_on_what_it_remembers() -> None:
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(0)
    values = rng.normal(size=(400, 6)) * np.arange(1, 7) + 3
    wanted = values @ rng.normal(size=(6, 2)) + rng.normal(size=(400, 2))
    readout = Readout(6, 2)
    for start in range(0, 400, 8):
        part = slice(start, start + 8)
        readout.learn(torch.tensor(values[part], dtype=torch.float32), torch.tensor(wanted[part], dtype=torch.float32))
    readout.refit()
    # Each later batch of eight takes the earlier ones down by the same factor.
    weights = np.repeat((1 - 1 / REMEMBERED) ** (8.0 * np.arange(49, -1, -1)), 8)
    mean = np.average(values, axis=0, weights=weights)
    scale = np.sqrt(np.average((values - mean) ** 2, axis=0, weights=weights))
    reference = Ridge(alpha=RIDGE * weights.sum())
    reference.fit((values - mean) / scale, wanted, sample_weight=weights)
    found = readout(torch.tensor(values, dtype=torch.float32))
    np.testing.assert_allclose(found, reference.predict((values - mean) / scale), atol=1e-3)


@pytest.mark.parametrize("stored", ["float16", "int8"])
def test_a_speech_student_learns_and_loads(tmp_path: Path, teacher: str, stored: str) -> None:
    folder = record(tmp_path / "audio", 12)
    settings = speech_settings(steps=60, save_every=20, learning_rate=5e-3, views=0.0, stored=stored)
    made = distill_speech(
        {"Tones (CC0)": folder}, teacher, tmp_path / "out", settings=settings, licence="CC0 1.0",
        command="emofuse distill speech",
    )  # fmt: skip
    losses = [entry["validation_frames"] for entry in made.history]
    assert [entry["epoch"] for entry in made.history] == [1, 2, 3]
    assert losses[-1] < 0.9 * losses[0]
    encoder = load_speech_encoder(SpeechSettings(encoder=str(made.folder)))
    assert (encoder.specification.family, encoder.specification.layers) == ("whisper", 2)
    assert encoder.specification.frame_rate == 50
    assert (encoder.specification.licence, encoder.specification.exposure[0]) == ("cc0-1.0", "Tones")
    clips = [load_audio(path) for path in sorted(folder.glob("*.wav"))[:3]]
    for alone, together in zip([encoder.encode([clip])[0] for clip in clips], encoder.encode(clips), strict=True):
        assert float((alone - together).abs().max() / alone.abs().max()) < 1e-5
    matrices = [value for value in load_file(made.folder / "model.safetensors").values() if value.ndim > 1]
    assert {str(value.dtype) for value in matrices} == {f"torch.{stored}"}
    card = (made.folder / "README.md").read_text()
    assert "No label and no transcript was read" in card
    assert "emofuse distill speech" in card


def test_a_student_keeps_a_part_of_its_teacher(tmp_path: Path, teacher: str) -> None:
    folder = record(tmp_path / "audio")
    found = {}
    for kept in (0.0, 0.75, 1.0):
        settings = speech_settings(kept=kept, steps=10, learning_rate=1e-2)
        made = distill_speech({"a": folder}, teacher, tmp_path / f"{kept}", settings=settings)
        found[kept] = load_file(made.folder / "model.safetensors")
    name = "layers.0.fc1.weight"
    assert not torch.allclose(found[0.0][name], found[1.0][name])
    expected = 0.25 * found[0.0][name].float() + 0.75 * found[1.0][name].float()
    torch.testing.assert_close(found[0.75][name].float(), expected, atol=2e-3, rtol=2e-3)
    whole = load_file(Path(teacher) / "model.safetensors")
    torch.testing.assert_close(found[1.0][name], whole[name].half())


def test_eight_bits_hear_the_same_as_transformers(tmp_path: Path, teacher: str) -> None:
    encoder = load_trainable_encoder(SpeechSettings(encoder=teacher))
    encoder.save(tmp_path / "whole")
    encoder.save(tmp_path / "small")
    compress(tmp_path / "small")
    small = load_trainable_encoder(SpeechSettings(encoder=str(tmp_path / "small")))
    assert isinstance(small.model, CompactWhisper)
    for name, value in small.model.state_dict().items():
        rounding = encoder.model.state_dict()[name].abs().max() / 127
        assert float((value - encoder.model.state_dict()[name]).abs().max()) <= max(rounding, 1e-3)
    # The same weights in transformers' network: what is left is rounding of the arithmetic.
    small.save(tmp_path / "again")
    again = load_speech_encoder(SpeechSettings(encoder=str(tmp_path / "again")))
    assert not isinstance(again.model, CompactWhisper)
    clips = [tone(1.5, seed=0), tone(0.4, seed=1), tone(2.7, seed=2)]
    with torch.inference_mode():
        for ours, theirs in zip(small.states(clips), again.encode(clips), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "damage",
    [
        {"encoder_layers": 1000},
        {"d_model": 31},
        {"d_model": "wide"},
        {"encoder_attention_heads": 5},
        {"num_mel_bins": 81},
        {"encoder_ffn_dim": 1 << 40},
    ],
)
def test_eight_bits_that_do_not_fit_their_configuration_are_refused(
    tmp_path: Path, teacher: str, damage: dict[str, Any]
) -> None:
    load_trainable_encoder(SpeechSettings(encoder=teacher)).save(tmp_path / "small")
    compress(tmp_path / "small")
    path = tmp_path / "small" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
    with pytest.raises(EncoderError):
        load_speech_encoder(SpeechSettings(encoder=str(tmp_path / "small")))


def test_a_student_is_no_deeper_than_its_teacher(tmp_path: Path, teacher: str) -> None:
    folder = record(tmp_path / "audio")
    with pytest.raises(SettingsError, match="the teacher has 2 layers; set at most 2"):
        distill_speech({"a": folder}, teacher, tmp_path / "out", settings=speech_settings(layers=3))
    other = str(tiny_speech_encoder(tmp_path / "other"))
    with pytest.raises(SettingsError, match="wav2vec2 encoder cannot be loaded from eight bits"):
        distill_speech({"a": folder}, other, tmp_path / "out", settings=speech_settings(stored="int8"))
    with pytest.raises(SettingsError, match="the teacher has 0 layers; name another teacher"):
        distill_speech({"a": folder}, "logmel", tmp_path / "out", settings=speech_settings(teacher_layers="0"))


def test_a_cut_off_distillation_ends_with_the_same_student(tmp_path: Path, teacher: str) -> None:
    folder = record(tmp_path / "audio")
    whole = distill_speech({"a": folder}, teacher, tmp_path / "whole", settings=speech_settings())
    with pytest.raises(CutOffError):
        distill_speech(
            {"a": folder}, teacher, tmp_path / "cut", settings=speech_settings(),
            progress=Interrupting("Distilling", 3),
        )  # fmt: skip
    assert not (tmp_path / "cut" / "student").exists()
    resumed = distill_speech({"a": folder}, teacher, tmp_path / "cut", settings=speech_settings())
    assert resumed.history == whole.history
    name = "model.safetensors"
    assert (resumed.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_a_cut_off_readout_ends_as_the_whole_one(tmp_path: Path, teacher: str) -> None:
    """Long enough that descriptors of clips are learnt, and cut off after the readout was fitted."""
    folder = record(tmp_path / "audio", 16)
    settings = speech_settings(steps=60, save_every=20, views=0.0)
    whole = distill_speech({"a": folder}, teacher, tmp_path / "whole", settings=settings)
    with pytest.raises(CutOffError):
        distill_speech(
            {"a": folder}, teacher, tmp_path / "cut", settings=settings, progress=Interrupting("Distilling", 47)
        )
    resumed = distill_speech({"a": folder}, teacher, tmp_path / "cut", settings=settings)
    assert whole.history[-1]["validation_descriptors"] > 0
    assert resumed.history == whole.history


def test_a_student_goes_on_from_an_earlier_one(tmp_path: Path, teacher: str) -> None:
    folder = record(tmp_path / "audio")
    first = distill_speech({"a": folder}, teacher, tmp_path / "first", settings=speech_settings(steps=30))
    again = distill_speech(
        {"a": folder}, teacher, tmp_path / "again",
        settings=speech_settings(steps=1, learning_rate=1e-9), start=tmp_path / "first",
    )  # fmt: skip
    before, after = (load_file(made.folder / "model.safetensors") for made in (first, again))
    for name in before:
        torch.testing.assert_close(after[name], before[name], atol=1e-6, rtol=1e-3)
    assert again.history[0]["validation_frames"] == pytest.approx(first.history[-1]["validation_frames"], rel=1e-4)


def test_a_student_cannot_go_on_from_one_of_another_shape(tmp_path: Path, teacher: str) -> None:
    folder = record(tmp_path / "audio")
    distill_speech({"a": folder}, teacher, tmp_path / "first", settings=speech_settings())
    with pytest.raises(CheckpointError, match="of another shape"):
        distill_speech(
            {"a": folder}, teacher, tmp_path / "deep", settings=speech_settings(layers=2), start=tmp_path / "first"
        )
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        distill_speech(
            {"a": folder}, teacher, tmp_path / "none", settings=speech_settings(), start=tmp_path / "nowhere"
        )


def test_another_run_is_not_taken_up(tmp_path: Path, teacher: str) -> None:
    folder = record(tmp_path / "audio")
    distill_speech({"a": folder}, teacher, tmp_path / "out", settings=speech_settings())
    with pytest.raises(CheckpointError, match="other data, other encoders or other settings"):
        distill_speech({"a": folder}, teacher, tmp_path / "out", settings=speech_settings(learning_rate=0.1))


# The text student


WORDS = {"anger": "I hate this awful thing", "joy": "what a lovely happy day", "neutral": "the bus leaves at nine"}


@pytest.fixture
def comments(tmp_path: Path) -> Path:
    from emofuse.corpora import CORPORA

    names = CORPORA["goemotions"].labels
    folder = tmp_path / "goemotions"
    folder.mkdir()
    (folder / "labels.txt").write_text("\n".join(names) + "\n")
    for split, count in (("train", 60), ("dev", 12), ("test", 6)):
        rows = [
            f"{WORDS[name]} {number}\t{names.index(name)}\t{split}{number}"
            for number in range(count)
            for name in [list(WORDS)[number % 3]]
        ]
        (folder / f"{split}.tsv").write_text("\n".join(rows) + "\n")
    return folder


def text_settings(**changes: Any) -> TextStudentSettings:
    values: Tiny = {"width": 16, "heads": 2, "layers": 1, "batch_size": 8, "teacher_epochs": 2, "epochs": 2}
    return TextStudentSettings(**{**values, "precision": "float32", "learning_rate": 3e-3, **changes})


def test_a_text_student_learns_and_loads(tmp_path: Path, comments: Path) -> None:
    teacher = tiny_text_encoder(tmp_path / "teacher")
    made = distill_text(
        comments, str(teacher), tmp_path / "out", settings=text_settings(epochs=4), partial=True, licence="CC BY 4.0"
    )
    assert [(entry["part"], entry["epoch"]) for entry in made.history] == [
        ("teacher", 1), ("teacher", 2), ("student", 1), ("student", 2), ("student", 3), ("student", 4)
    ]  # fmt: skip
    student = [entry["loss"] for entry in made.history if entry["part"] == "student"]
    assert student[-1] < 0.9 * student[0]
    encoder = load_text_encoder(TextSettings(encoder=str(made.folder)))
    assert (encoder.specification.family, encoder.specification.width) == ("bert", 16)
    assert (encoder.specification.licence, encoder.specification.exposure[0]) == ("cc-by-4.0", "GoEmotions")
    assert load_text_encoder(TextSettings(encoder=str(made.teacher))).specification.family == "bert"
    assert encoder.encode(["what a day"])[0].shape[-1] == 16


def test_the_caller_keeps_random_numbers_and_threads(tmp_path: Path, comments: Path, teacher: str) -> None:
    record(tmp_path / "audio", 4)
    reader = str(tiny_text_encoder(tmp_path / "teacher"))

    def drawn(work: Callable[[], object]) -> tuple[object, ...]:
        random.seed(3)
        np.random.seed(3)
        torch.manual_seed(3)
        work()
        numbers = random.getrandbits(32), np.random.rand(), float(torch.rand(()))
        return *numbers, torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()

    with kept_random_state():
        still = drawn(lambda: None)
        waves, speech = {"a": tmp_path / "audio"}, speech_settings(steps=1, views=0.0)
        assert drawn(lambda: distill_speech(waves, teacher, tmp_path / "speech", settings=speech)) == still
        text = text_settings(teacher_epochs=1, epochs=1)
        assert drawn(lambda: distill_text(comments, reader, tmp_path / "text", settings=text, partial=True)) == still


def test_histories_name_each_loss_and_are_on_disk(tmp_path: Path, comments: Path, teacher: str) -> None:
    record(tmp_path / "audio")
    made = distill_speech({"a": tmp_path / "audio"}, teacher, tmp_path / "speech", settings=speech_settings())
    for entry in made.history:
        assert entry.keys() >= {"loss", "loss_frames", "loss_descriptors", "validation_frames"}
        assert entry["loss"] == pytest.approx(entry["loss_frames"] + entry["loss_descriptors"])
    assert json.loads((tmp_path / "speech" / "history.json").read_text()) == made.history
    reader = str(tiny_text_encoder(tmp_path / "teacher"))
    taught = distill_text(comments, reader, tmp_path / "text", settings=text_settings(), partial=True)
    student = taught.history[-1]
    assert student["loss"] == pytest.approx(student["loss_hidden"] + student["loss_answers"])
    assert 0 <= student["validation_macro_f1"] <= 1
    assert json.loads((tmp_path / "text" / "history.json").read_text()) == taught.history


def test_a_cut_off_text_distillation_ends_with_the_same_student(tmp_path: Path, comments: Path) -> None:
    teacher = str(tiny_text_encoder(tmp_path / "teacher"))
    whole = distill_text(comments, teacher, tmp_path / "whole", settings=text_settings(), partial=True)
    for label, after in (("Training the teacher", 10), ("Training the student", 9)):
        with pytest.raises(CutOffError):
            distill_text(
                comments, teacher, tmp_path / "cut", settings=text_settings(), partial=True,
                progress=Interrupting(label, after),
            )  # fmt: skip
    resumed = distill_text(comments, teacher, tmp_path / "cut", settings=text_settings(), partial=True)
    assert json.dumps(resumed.history) == json.dumps(whole.history)
    name = "model.safetensors"
    assert (resumed.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_a_teacher_must_be_a_bert(tmp_path: Path, comments: Path) -> None:
    teacher = str(tiny_text_encoder(tmp_path / "teacher", family="roberta"))
    with pytest.raises(EncoderError, match="models of type roberta are not supported"):
        distill_text(comments, teacher, tmp_path / "out", settings=text_settings(), partial=True)


def test_the_default_text_student_is_small() -> None:
    settings = TextStudentSettings()
    width = settings.width
    each = 12 * width * width + 13 * width
    assert 30522 * width + 514 * width + settings.layers * each <= 14e6
