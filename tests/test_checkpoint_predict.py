from __future__ import annotations

import csv
import io
import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy.signal import resample_poly
from typer.testing import CliRunner

import emofuse
from emofuse.asr.base import Recogniser
from emofuse.audio import load_audio
from emofuse.checkpoint import load_checkpoint, save_checkpoint
from emofuse.cli.app import app
from emofuse.errors import AudioError, CheckpointError, EmofuseError, SettingsError
from emofuse.escape import from_cell
from emofuse.experiment import Features, extract, run, train
from emofuse.features.dataset import Batch
from emofuse.inference.predictor import Predictor, load
from emofuse.inference.writers import format_predictions
from emofuse.manifest import read_manifest
from emofuse.models.ensemble import Ensemble
from emofuse.plan import resolve
from emofuse.recipe import Recipe
from emofuse.terminal import harmless
from emofuse.testing import tiny_corpus, tiny_speech_encoder, tiny_text_encoder, tone
from emofuse.training.folder import TRIALS
from emofuse.types import Prediction

pytestmark = pytest.mark.usefixtures("no_report", "tones_are_speech")

TRAINED = ("speech", "text", "concat", "early-frame")
ALL = (*TRAINED, "late")
CLASSES = {"angry", "happy", "neutral", "sad"}
CLIP, WORDS = "s1_happy_0", "so very good 0"


def recipe(speech: str, text: str) -> Recipe:
    return Recipe.model_validate({
        "name": "small", "models": [*TRAINED], "seeds": [0],
        "ensembles": [{"name": "late", "of": ["speech", "text"], "weights": "tuned"}],
        # With one clip a batch, features are the same alone and in a corpus to the last bit.
        "speech": {"encoder": speech, "frames_per_step": 3, "batch_seconds": 0.01},
        "text": {"encoder": text, "batch_size": 1}, "model": {"width": 16, "heads": 2, "layers": 2},
        "train": {"epochs": 3, "batch_size": 8, "learning_rate": 1e-2},
        "protocol": {"kind": "speakers", "folds": 2},
    })  # fmt: skip


class Made:
    """A run, and what tests ask of it."""

    def __init__(self, out: Path, audio: Path, features: Features) -> None:
        self.out, self.audio, self.features = out, audio, features
        self.result = json.loads((out / "result.json").read_text())

    def model(self, kind: str) -> Path:
        return self.out / "models" / kind

    def clip(self, name: str = CLIP) -> Path:
        return self.audio / f"{name}.wav"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_corpus(tmp_path_factory.mktemp("corpus"), utterances=1)


@pytest.fixture(scope="module")
def built_in(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    out = tmp_path_factory.mktemp("built-in") / "run"
    run(recipe("logmel", "words"), "table", corpus, out, jobs=1)
    plan = resolve(recipe("logmel", "words"))
    features = extract(read_manifest(out / "manifest.parquet"), plan, out / "features")
    assert features.speech is not None
    assert features.speech.computed == 0
    return Made(out, corpus.parent / "audio", features)


@pytest.fixture(scope="module")
def hub_like(corpus: Path, built_in: Made, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Trained on encoders in folders, whose folders are gone since, and moved to another place."""
    folder = tmp_path_factory.mktemp("hub-like")
    speech, text = tiny_speech_encoder(folder / "a speech encoder"), tiny_text_encoder(folder / "a text encoder")
    plan = resolve(recipe(str(speech), str(text)))
    manifest = read_manifest(built_in.out / "manifest.parquet")
    features = extract(manifest, plan, folder / "store")
    train(manifest, plan, features, folder / "run", jobs=1)
    shutil.rmtree(speech)
    shutil.rmtree(text)
    (folder / "elsewhere").mkdir()
    return Made(Path(shutil.move(folder / "run", folder / "elsewhere" / "moved")), corpus.parent / "audio", features)


@pytest.fixture(params=["built-in", "hub-like"])
def made(request: pytest.FixtureRequest) -> Made:
    found: Made = request.getfixturevalue(request.param.replace("-", "_"))
    return found


# Prediction


def by_hand(made: Made, model: str, name: str, words: str) -> dict[str, float]:
    """Posteriors from what the store holds, through the module and a softmax of our own."""
    checkpoint = load_checkpoint(made.model(model))
    inputs: dict[str, dict[str, torch.Tensor]] = {}
    if model != "text":
        assert made.features.speech is not None
        feature_set = made.features.speech.feature_sets["frame" if model == "early-frame" else "utterance"]
        stored = torch.from_numpy(feature_set.read(made.features.speech.keys[name]).astype(np.float32))
        inputs["speech"] = {"speech": stored[None], "speech_mask": torch.ones(1, stored.shape[1]).bool()}
    if model != "speech":
        if made.features.text is None:
            assert checkpoint.subwords is not None
            stored = checkpoint.subwords.encode([words])[0]
        else:
            read = made.features.text.feature_sets["token"].read(made.features.text.keys[name])
            stored = torch.from_numpy(read.astype(np.float32))
        mask = torch.ones(1, stored.shape[-2 if stored.dim() > 1 else 0]).bool()
        inputs["text"] = {"text": stored[None], "text_mask": mask}
    with torch.no_grad():
        if isinstance(checkpoint.model, Ensemble):
            answer = checkpoint.model({name: Batch(**one) for name, one in inputs.items()})[0].numpy()
        else:
            whole = {name: value for one in inputs.values() for name, value in one.items()}
            logits = checkpoint.model(Batch(**whole)).logits[0].double().numpy()
            powers = np.exp(logits - logits.max())
            answer = powers / powers.sum()
    return dict(zip(checkpoint.task.names, answer, strict=True))


@pytest.mark.parametrize("kind", ALL)
def test_a_prediction_is_the_model_s_posterior_of_the_stored_features(kind: str, made: Made) -> None:
    predictor = load(made.model(kind))
    for name, words in ((CLIP, WORDS), ("s3_sad_0", "i are so sad 0")):
        found = predictor.predict(made.clip(name), text=words)
        assert found.posteriors == pytest.approx(by_hand(made, kind, name, words), abs=1e-6)
        assert set(found.posteriors) == CLASSES
        assert sum(found.posteriors.values()) == pytest.approx(1, abs=1e-12)
        assert found.label == max(found.posteriors, key=found.posteriors.__getitem__)
        assert found.source == str(made.clip(name))
        assert found.modalities == ((kind,) if kind in ("speech", "text") else ("speech", "text"))


@pytest.mark.parametrize("kind", ALL)
def test_a_kept_model_is_the_one_that_was_trained(kind: str, made: Made) -> None:
    kept = load_file(made.model(kind) / "model.safetensors")
    members = {"0.": "speech", "1.": "text"} if kind == "late" else {"": kind}
    trained = {
        prefix + name: value
        for prefix, member in members.items()
        for name, value in load_file(made.out / TRIALS / member / "final-seed0" / "model.safetensors").items()
    }
    assert kept.keys() == trained.keys()
    assert all(torch.equal(value, trained[name]) for name, value in kept.items())


def test_late_fusion_keeps_rule_and_weights(made: Made) -> None:
    model = load_checkpoint(made.model("late")).model
    assert isinstance(model, Ensemble)
    assert json.loads(json.dumps(asdict(model.how))) == made.result["fused"]["late"]["folds"]["final"]
    assert model.how.rule == "mean"


def test_the_checkpoint_says_what_it_rests_on(made: Made) -> None:
    checkpoint = load_checkpoint(made.model("early-frame"))
    assert checkpoint.protocol == made.result["protocol"]["fingerprint"]
    assert list(checkpoint.task.names) == made.result["protocol"]["classes"]
    for modality, encoder in checkpoint.encoders.items():
        assert encoder.revision == made.result["encoders"][modality]["revision"]
    assert not checkpoint.model.training
    assert (made.model("early-frame") / "README.md").read_text().startswith("# emofuse `early-frame` model")


def test_other_words_give_another_answer(made: Made) -> None:
    for kind in ("text", "concat", "early-frame", "late"):
        predictor = load(made.model(kind))
        first, second = (predictor.predict(made.clip(), text=words) for words in (WORDS, "why you bad 0"))
        assert first.posteriors != second.posteriors, kind


def test_the_public_face_loads_models(built_in: Made) -> None:
    predictor = emofuse.load(str(built_in.model("late")))
    assert isinstance(predictor, emofuse.Predictor)
    assert isinstance(predictor.predict(built_in.clip(), text=WORDS), emofuse.Prediction)
    assert set(predictor.classes) == CLASSES


# What may be asked


@pytest.fixture(scope="module")
def late(built_in: Made) -> Predictor:
    return load(built_in.model("late"))


def chord() -> Any:
    """One second that fills the whole band: an empty part of it would be all rounding, and differ in every format."""
    times = np.arange(16000) / 16000
    tones = [np.sin(2 * np.pi * pitch * times + pitch) for pitch in np.geomspace(80, 7400, 40)]
    return 0.025 * sum(tones) * (0.6 + 0.4 * np.sin(9 * times)) + 1e-3 * np.random.default_rng(0).normal(size=16000)


def gap(first: Prediction, second: Prediction) -> float:
    return max(abs(value - second.posteriors[name]) for name, value in first.posteriors.items())


@pytest.mark.parametrize(("name", "channels"), [("same.flac", 1), ("same.wav", 1), ("two-channels.wav", 2)])
def test_the_same_samples_get_the_same_answer_in_any_file(
    name: str, channels: int, built_in: Made, late: Predictor, tmp_path: Path
) -> None:
    samples, rate = soundfile.read(built_in.clip())
    soundfile.write(tmp_path / name, np.stack([samples] * channels, axis=1), rate)
    assert gap(late.predict(tmp_path / name, text=WORDS), late.predict(built_in.clip(), text=WORDS)) < 1e-6


@pytest.mark.parametrize(
    ("name", "rate"), [("studio.wav", 48000), ("disc.flac", 44100), ("lossy.ogg", 48000), ("lossy.mp3", 48000)]
)
def test_another_rate_and_format_matter_little(name: str, rate: int, tmp_path: Path) -> None:
    """With the built-in model: a tiny one may be too confident to change."""
    speech = load(asr="none")
    soundfile.write(tmp_path / "original.wav", chord(), 16000)
    common = int(np.gcd(rate, 16000))
    other = resample_poly(chord(), rate // common, 16000 // common)
    soundfile.write(tmp_path / name, other, rate)
    expected = speech.predict(tmp_path / "original.wav")
    misread = gap(speech.predict(other.astype(np.float32)), expected)
    assert misread > 0.1
    assert gap(speech.predict(tmp_path / name), expected) < misread / 5


def test_samples_get_the_answer_of_their_file(built_in: Made, late: Predictor) -> None:
    samples = soundfile.read(built_in.clip(), dtype="float32")[0]
    found = late.predict(samples, text=WORDS)
    assert found.source is None
    assert found.posteriors == pytest.approx(late.predict(built_in.clip(), text=WORDS).posteriors, abs=1e-9)


@pytest.mark.parametrize("kind", ["int16", "int32", "float64"])
def test_samples_may_be_of_any_type_with_a_known_scale(kind: str, built_in: Made, late: Predictor) -> None:
    samples = soundfile.read(built_in.clip(), dtype=kind)[0]
    answer = late.predict(samples, text=WORDS).posteriors
    assert answer == pytest.approx(late.predict(built_in.clip(), text=WORDS).posteriors, abs=1e-3)


@pytest.mark.parametrize("nothing", ["?!", "😀", " ... "])
def test_signs_are_no_words(nothing: str, built_in: Made, late: Predictor) -> None:
    assert late.predict(built_in.clip(), text=nothing) == late.predict(built_in.clip())


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((2, 100)), "one channel"),
        (np.full(8000, np.nan), "NaN or infinite"),
        (np.zeros(0), "at least 25 ms"),
        (tone(0.02, seed=0), "at least 25 ms"),
        (np.zeros(16000), "silent"),
        (np.full(16000, 0.3), "silent"),
        (np.full(16000, 100, np.uint8), "type uint8"),
        (tone(1.0, seed=0) > 0, "type bool"),
        (tone(1.0, seed=0) + 1j, "type complex64"),
        (["a.wav", "b.wav"], "samples are of type"),
        ([np.zeros(4), np.zeros(5)], "samples are of type"),
    ],
    ids=["stereo", "no number", "empty", "short", "silent", "constant", "uint8", "bool", "complex", "names", "ragged"],
)
def test_what_is_no_audio_is_refused_as_a_file_would_be(samples: Any, message: str, late: Predictor) -> None:
    with pytest.raises(AudioError, match=message):
        late.predict(samples)


def test_what_is_to_be_said_of_a_recording_is_said_of_its_answer(late: Predictor, tmp_path: Path) -> None:
    clip = tone(1.0, seed=0)
    soundfile.write(tmp_path / "a.wav", np.stack([clip, -clip], axis=1), 16000, subtype="FLOAT")
    opposed, plain = late.predict(tmp_path / "a.wav"), late.predict(clip)
    assert opposed.posteriors == plain.posteriors
    assert "opposite phase" in opposed.notes[0]
    assert "0.6 minutes long" in late.predict(np.tile(clip, 33)).notes[0]
    with pytest.raises(AudioError, match="longer than 5 minutes"):
        late.predict(np.tile(clip, 301))


def test_samples_of_another_rate_are_refused(late: Predictor) -> None:
    with pytest.raises(SettingsError, match="resample them to 16000 Hz"):
        late.predict(np.zeros(8000, np.float32), sampling_rate=8000)


def test_a_device_that_is_not_there_is_refused(built_in: Made) -> None:
    with pytest.raises(SettingsError, match="'abacus' cannot be used here"):
        load(built_in.model("late"), device="abacus")


def test_one_bad_file_does_not_stop_the_others(built_in: Made, late: Predictor, tmp_path: Path) -> None:
    bad = tmp_path / "notes.wav"
    bad.write_text("this is no audio")
    files = [built_in.clip(), bad, tmp_path / "absent.wav", built_in.clip("s0_sad_0")]
    answers = list(late.predict_many(files, texts=["one", "two", "three", "four"]))
    assert [isinstance(one, AudioError) for one in answers] == [False, True, True, False]
    assert [str(one.where) for one in answers if isinstance(one, AudioError)] == [str(bad), str(files[2])]
    good = [one for one in answers if isinstance(one, Prediction)]
    assert [(one.source, one.text) for one in good] == [(str(files[0]), "one"), (str(files[3]), "four")]
    for one in good:
        assert one == late.predict(one.source, text=one.text)


def test_files_may_come_in_any_form(built_in: Made, late: Predictor) -> None:
    class Place:
        def __fspath__(self) -> str:
            return str(built_in.clip())

    clip = load_audio(built_in.clip())
    answers = list(late.predict_many(one for one in [built_in.clip(), Place(), clip, 5 * clip.astype(object)]))
    first, second, third = (one for one in answers if isinstance(one, Prediction))
    assert first == second
    assert (third.source, third.posteriors) == (None, first.posteriors)
    assert isinstance(answers[3], AudioError)


def test_one_text_counts_for_all_files(built_in: Made, late: Predictor) -> None:
    files = [built_in.clip(), built_in.clip("s0_sad_0")]
    assert [one.text for one in late.predict_many(files, texts=["hm"]) if isinstance(one, Prediction)] == ["hm", "hm"]
    with pytest.raises(SettingsError, match="3 texts were given for 2 files"):
        list(late.predict_many(files, texts=["a", "b", "c"]))


def test_one_string_is_no_list_and_a_list_no_string(built_in: Made, late: Predictor) -> None:
    one = built_in.clip()
    mistakes: list[Any] = [str(one), one]
    for files in mistakes:
        with pytest.raises(SettingsError, match="give a list"):
            list(late.predict_many(files))
    letters: Any = "hm"
    with pytest.raises(SettingsError, match="texts is one str; give a list"):
        list(late.predict_many([one], texts=letters))
    words: Any = ["hm"]
    with pytest.raises(SettingsError, match="text is a list; give the transcript as one string"):
        late.predict(one, text=words)


@pytest.mark.parametrize("kind", ["text", "concat", "early-frame"])
def test_models_that_need_words_say_so(kind: str, made: Made) -> None:
    with pytest.raises(SettingsError, match=f"the {kind} model needs a transcript"):
        load(made.model(kind)).predict(made.clip())


class Mute(Recogniser):
    """A recogniser that finds no words."""

    name = "mute"

    def transcribe(self, clip: Any) -> str:
        return ""


@pytest.mark.parametrize("kind", ["text", "concat", "early-frame"])
def test_where_no_words_are_recognised_the_model_reads_none_as_in_training(
    kind: str, made: Made, tmp_path: Path
) -> None:
    predictor = Predictor(load_checkpoint(made.model(kind)), transcriber=Mute())
    [silent, missing, given_] = predictor.predict_many(
        [made.clip(), tmp_path / "absent.wav", made.clip()], texts=[None, None, WORDS]
    )
    assert isinstance(silent, Prediction)
    assert isinstance(missing, AudioError)
    assert isinstance(given_, Prediction)
    assert silent.posteriors == predictor.predict(made.clip(), text="").posteriors != given_.posteriors
    assert silent.notes == ("mute recognised no words",)
    assert silent.modalities == (("text",) if kind == "text" else ("speech", "text"))


class Known(Mute):
    """A recogniser that always finds the same words."""

    name = "known"

    def transcribe(self, clip: Any) -> str:
        return WORDS


@pytest.mark.parametrize(
    ("sources", "noted"),
    [((), False), (("known",), False), (("not stated",), False), (("reference",), True), (("sphinx", "whisper"), True)],
)
def test_transcripts_of_another_source_than_in_training_are_noted(
    sources: tuple[str, ...], noted: bool, made: Made, tmp_path: Path
) -> None:
    save_checkpoint(replace(load_checkpoint(made.model("text")), text_sources=sources), tmp_path / "model", card="")
    predictor = Predictor(load_checkpoint(tmp_path / "model"), transcriber=Known())
    [note] = predictor.predict(made.clip()).notes
    assert note == f"known recognised {WORDS!r}" + (
        f"; the model was trained on {', '.join(sources)} transcripts" if noted else ""
    )


def test_a_kept_model_names_the_sources_of_its_transcripts(made: Made) -> None:
    assert load_checkpoint(made.model("text")).text_sources == tuple(made.result["text_sources"])


def test_the_command_answers_where_no_words_are_recognised(
    built_in: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emofuse.inference.predictor.load_recogniser", lambda *_, **__: Mute())
    files = [str(built_in.clip()), str(tmp_path / "absent.wav"), str(built_in.clip("s0_sad_0"))]
    model = ["--model", str(built_in.model("early-frame")), "--format", "json"]
    done = CliRunner().invoke(app, ["predict", *files, *model])
    assert done.exit_code == 1
    assert [one["source"] for one in json.loads(done.stdout)] == files[::2]
    assert CliRunner().invoke(app, ["predict", *files[::2], *model]).exit_code == 0


def test_words_that_one_file_lacks_do_not_stop_the_others(made: Made) -> None:
    predictor = load(made.model("concat"), asr="none")
    files = [made.clip("s0_sad_0"), made.clip()]
    lacking, answer = predictor.predict_many(files, texts=[None, WORDS])
    assert isinstance(lacking, SettingsError)
    assert lacking.where == str(files[0])
    assert "the concat model needs a transcript" in str(lacking)
    assert answer == predictor.predict(files[1], text=WORDS)


@pytest.mark.parametrize("texts", [None, [None], [None, None]])
def test_words_that_all_files_lack_are_one_mistake(texts: Any, built_in: Made, tmp_path: Path) -> None:
    # A file that is not there would be an error of its own, if it were looked at.
    files = [tmp_path / "absent.wav", built_in.clip()]
    with pytest.raises(SettingsError, match="the concat model needs a transcript") as raised:
        next(load(built_in.model("concat"), asr="none").predict_many(files, texts=texts))
    assert raised.value.where is None
    assert list(load(built_in.model("concat"), asr="none").predict_many([])) == []


@pytest.mark.parametrize("kind", ["speech", "concat", "early-frame"])
def test_models_that_need_speech_say_so(kind: str, made: Made) -> None:
    with pytest.raises(SettingsError, match=f"the {kind} model needs speech"):
        load(made.model(kind)).predict(text=WORDS)


def test_late_fusion_answers_from_one_modality_and_says_so(made: Made) -> None:
    late = load(made.model("late"))
    spoken, read = late.predict(made.clip()), late.predict(text=WORDS)
    assert (spoken.modalities, read.modalities) == (("speech",), ("text",))
    assert spoken.notes == ("no text was given, so the prediction uses speech alone",)
    assert read.notes == ("no speech was given, so the prediction uses text alone",)
    assert spoken.posteriors == pytest.approx(load(made.model("speech")).predict(made.clip()).posteriors, abs=1e-6)
    assert read.posteriors == pytest.approx(load(made.model("text")).predict(text=WORDS).posteriors, abs=1e-6)
    with pytest.raises(SettingsError, match="needs"):
        late.predict()


def test_a_speech_model_says_that_it_does_not_read(built_in: Made) -> None:
    speech = load(built_in.model("speech"))
    with_words, without = speech.predict(built_in.clip(), text=WORDS), speech.predict(built_in.clip())
    assert with_words.notes == ("the speech model does not read text, so it was left out",)
    assert without.notes == ()
    assert with_words.posteriors == without.posteriors


@pytest.mark.parametrize("blank", ["", "  \n"])
def test_blank_words_are_none_to_a_model_that_can_do_without(blank: str, made: Made) -> None:
    late = load(made.model("late"), asr="none")
    assert late.predict(made.clip(), text=blank) == late.predict(made.clip())
    with pytest.raises(SettingsError, match="needs"):
        late.predict(text=blank)


def test_an_empty_text_is_a_text(made: Made) -> None:
    found = load(made.model("early-frame")).predict(made.clip(), text="")
    assert found.modalities == ("speech", "text")
    assert sum(found.posteriors.values()) == pytest.approx(1)


# Folders


def test_a_loaded_model_can_be_saved_again(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.model("early-frame"), tmp_path / "first")
    checkpoint = load_checkpoint(tmp_path / "first")
    save_checkpoint(checkpoint, tmp_path / "second", card="again")
    shutil.rmtree(tmp_path / "first")
    found = load(tmp_path / "second").predict(made.clip(), text=WORDS)
    assert found == load(made.model("early-frame")).predict(made.clip(), text=WORDS)
    assert not (tmp_path / "second.part").exists()


def test_a_model_can_be_saved_over_itself(hub_like: Made, tmp_path: Path) -> None:
    shutil.copytree(hub_like.model("early-frame"), tmp_path / "model")
    save_checkpoint(load_checkpoint(tmp_path / "model"), tmp_path / "model", card="again")
    assert load(tmp_path / "model").predict(hub_like.clip(), text=WORDS) == load(hub_like.model("early-frame")).predict(
        hub_like.clip(), text=WORDS
    )


def test_a_folder_that_is_called_like_a_built_in_encoder_is_left_alone(
    built_in: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "logmel").mkdir()
    (tmp_path / "logmel" / "private.txt").write_text("not a part of the model")
    monkeypatch.chdir(tmp_path)
    save_checkpoint(load_checkpoint(built_in.model("speech")), tmp_path / "model", card="")
    assert not (tmp_path / "model" / "encoders").exists()
    assert load(tmp_path / "model").predict(built_in.clip()).label in CLASSES


def change_settings(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        values = json.loads((folder / "settings.json").read_text())
        change(values)
        (folder / "settings.json").write_text(json.dumps(values))

    return damage


def cut(name: str, fraction: float) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(fraction * len(content))])

    return damage


def drop_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop(next(iter(weights)))
    save_file(weights, folder / "model.safetensors")


def widen(values: dict[str, Any]) -> None:
    values["model"]["settings"]["width"] = 32


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no settings": lambda folder: (folder / "settings.json").unlink(),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "no subwords": lambda folder: (folder / "words.json").unlink(),
    "cut weights": cut("model.safetensors", 0.7),
    "cut header": cut("model.safetensors", 0.01),
    "empty weights": cut("model.safetensors", 0),
    "cut settings": cut("settings.json", 0.7),
    "cut subwords": cut("words.json", 0.7),
    "settings are a list": lambda folder: (folder / "settings.json").write_text("[]"),
    "settings are empty": lambda folder: (folder / "settings.json").write_text("{}"),
    "settings are no text": lambda folder: (folder / "settings.json").write_bytes(b"\xff\xfe\x00"),
    "newer format": change_settings(lambda values: values.update(format=99)),
    "unknown model": change_settings(lambda values: values["model"].update({"class": "quantum"})),
    "another model": change_settings(lambda values: values["model"].update({"class": "concat"})),
    "a class too many": change_settings(lambda values: values["task"]["classes"].append("bored")),
    "another width": change_settings(widen),
    "unknown setting": change_settings(lambda values: values["model"]["settings"].update(colour="red")),
    "unknown setting of speech": change_settings(lambda values: values["speech"].update(colour="red")),
    "settings are a word": change_settings(lambda values: values["model"].update(settings="small")),
    "no model": change_settings(lambda values: values.pop("model")),
    "no task": change_settings(lambda values: values.pop("task")),
    "no settings of speech": change_settings(lambda values: values.pop("speech")),
    "no encoders": change_settings(lambda values: values.update(encoders={})),
    "encoders are a list": change_settings(lambda values: values.update(encoders=[])),
    "an encoder without width": change_settings(lambda values: values["encoders"]["speech"].pop("width")),
    "no protocol": change_settings(lambda values: values.pop("protocol")),
    "a weight is missing": drop_a_weight,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_named(damage: str, built_in: Made, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(built_in.model("early-frame"), folder)
    load(folder)
    DAMAGES[damage](folder)
    with pytest.raises(CheckpointError) as raised:
        load(folder)
    assert raised.value.where == str(folder)
    assert "\n" not in str(raised.value)
    assert "fit ()" not in str(raised.value), "the message says what is wrong"


@pytest.mark.parametrize("weights", [None, {}, "half", 1, {"speech": 1, "text": 1}, [0.5, None], [0, 0], [2, -1]])
def test_late_fusion_without_its_weights_is_damaged(weights: Any, built_in: Made, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(built_in.model("late"), folder)
    change_settings(lambda values: values["model"].update(weights=weights))(folder)
    with pytest.raises(CheckpointError, match="do not fit"):
        load(folder)


def test_a_file_is_no_model_folder(built_in: Made, tmp_path: Path) -> None:
    for place in (built_in.clip(), tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match=r"has no settings\.json"):
            load(place)


@pytest.mark.parametrize("modality", ["speech", "text"])
def test_another_encoder_in_its_place_is_noticed(modality: str, hub_like: Made, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(hub_like.model("early-frame"), folder)
    load(folder)
    make = tiny_speech_encoder if modality == "speech" else tiny_text_encoder
    make(folder / "encoders" / modality, seed=1)
    with pytest.raises(CheckpointError, match=f"the {modality} encoder has revision") as raised:
        load(folder)
    assert str(folder) in str(raised.value)


def test_an_encoder_that_is_gone_is_named(hub_like: Made, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(hub_like.model("early-frame"), folder)
    shutil.rmtree(folder / "encoders" / "speech")
    with pytest.raises(EmofuseError, match="no such folder") as raised:
        load(folder)
    assert str(folder) in str(raised.value)


# Safety


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize(
    "place", ["model.safetensors", "settings.json", "words.json", "encoders/speech/model.safetensors"]
)
def test_a_pickle_in_place_of_a_file_is_refused_unopened(
    place: str, built_in: Made, hub_like: Made, tmp_path: Path
) -> None:
    folder, mark = tmp_path / "model", tmp_path / "exploded"
    shutil.copytree((hub_like if place.startswith("encoders") else built_in).model("early-frame"), folder)
    torch.save({"weights": Bomb(mark)}, folder / place)
    with pytest.raises(EmofuseError) as raised:
        load(folder)
    assert str(folder) in str(raised.value)
    assert not mark.exists()
    if not place.startswith("encoders"):
        assert isinstance(raised.value, CheckpointError)
    torch.load(io.BytesIO((folder / place).read_bytes()), weights_only=False)
    assert mark.exists(), "the bomb would have gone off"


def test_an_encoder_s_pickle_is_not_a_way_in(hub_like: Made, tmp_path: Path) -> None:
    folder, mark = tmp_path / "model", tmp_path / "exploded"
    shutil.copytree(hub_like.model("early-frame"), folder)
    (folder / "encoders/speech/model.safetensors").unlink()
    torch.save({"weights": Bomb(mark)}, folder / "encoders/speech/pytorch_model.bin")
    with pytest.raises(EmofuseError):
        load(folder)
    assert not mark.exists()


def test_loading_and_predicting_unpickles_nothing(hub_like: Made) -> None:
    seen: list[object] = []
    watching = True
    # A hook stays for the life of the process.
    sys.addaudithook(lambda event, values: seen.append(values) if watching and event == "pickle.find_class" else None)
    assert load(hub_like.model("early-frame")).predict(hub_like.clip(), text="so very good").label in CLASSES
    assert seen == []
    pickle.loads(pickle.dumps(Prediction))  # noqa: S301
    watching = False
    assert seen, "the watch would have noticed"


# Writing answers down

PLAIN = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]) | st.sampled_from(",;\"'\n"), max_size=12)
FRACTIONS = st.lists(st.floats(0.01, 1), min_size=3, max_size=3)


@st.composite
def predictions(draw: st.DrawFn) -> Prediction:
    fractions = draw(FRACTIONS)
    posteriors = {
        name: one / sum(fractions) for name, one in zip(("angry", "calm, cool", "ängstlich"), fractions, strict=True)
    }
    return Prediction(
        label=max(posteriors, key=posteriors.__getitem__),
        posteriors=posteriors,
        modalities=draw(st.sampled_from([("speech",), ("text",), ("speech", "text")])),
        source=draw(st.none() | PLAIN),
        text=draw(st.none() | PLAIN),
        notes=tuple(draw(st.lists(st.sampled_from(["no text was given", "a, b"]), max_size=2))),
    )


@given(given_=st.lists(predictions(), max_size=3))
@settings(max_examples=60, deadline=None)
def test_json_gives_everything_back(given_: list[Prediction]) -> None:
    values = json.loads(format_predictions(given_, style="json"))
    back = [
        Prediction(**{**one, "modalities": tuple(one["modalities"]), "notes": tuple(one["notes"])}) for one in values
    ]
    assert back == given_


@given(given_=st.lists(predictions(), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_csv_gives_back_a_row_for_each(given_: list[Prediction]) -> None:
    rows = list(csv.DictReader(io.StringIO(format_predictions(given_, style="csv"), newline="")))
    assert len(rows) == len(given_)
    for row, one in zip(rows, given_, strict=True):
        # As the writers of cells and of terminals' texts promise, each of which has tests of its own.
        assert from_cell(row["source"]) == harmless(one.source or "")
        assert row["label"] == one.label
        assert tuple(row["modalities"].split("+")) == one.modalities
        assert row["notes"] == "; ".join(one.notes)
        assert {name: float(row[name]) for name in one.posteriors} == pytest.approx(one.posteriors, abs=1e-6)
