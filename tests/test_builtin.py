"""The encoders and the model that ship."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

import emofuse
from emofuse.audio import SAMPLING_RATE
from emofuse.cli.app import app
from emofuse.encoders import load_speech_encoder, load_text_encoder, load_trainable_encoder
from emofuse.errors import CheckpointError, EncoderError
from emofuse.inference.card import BUILTIN, measured
from emofuse.settings import SpeechSettings, TextSettings
from emofuse.testing import tiny_speech_encoder, tone

SHIPPED = Path(emofuse.__file__).parent / "builtin"
CLASSES = ("angry", "happy", "neutral", "sad")
OFFLINE = """
import json, pathlib, re, resource, socket, sys
def refuse(*_, **__):
    raise OSError("the network is off")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
import emofuse
answers = [emofuse.load().predict(sys.argv[1]), emofuse.load().predict(text="I am so happy for you!")]
# Linux hands the peak of the process that started this one on to getrusage, so its own is read where it can be.
status = pathlib.Path("/proc/self/status")
memory = (1024 * int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1]) if status.exists()
          else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(json.dumps({"labels": [one.label for one in answers], "modalities": [one.modalities for one in answers],
                  "memory": memory}))
"""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.wav"
    soundfile.write(path, tone(4.0, seed=0), SAMPLING_RATE)
    return path


def test_what_ships_is_small() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) < 60e6


def test_the_text_encoder_loads_in_transformers() -> None:
    from transformers import BertModel

    model, report = BertModel.from_pretrained(SHIPPED / "text", output_loading_info=True)
    assert not [name for name in report["missing_keys"] if "pooler" not in name]
    assert sum(value.numel() for value in model.parameters()) <= 14e6


def test_the_speech_encoder_is_the_one_of_transformers(tmp_path: Path) -> None:
    """The light network that encodes here is Whisper's encoder in transformers, with fewer layers."""
    ours = load_trainable_encoder(SpeechSettings(encoder="builtin:speech"))
    ours.save(tmp_path)
    theirs = load_speech_encoder(SpeechSettings(encoder=str(tmp_path)))
    assert type(theirs.model).__name__ == "WhisperEncoder"  # type: ignore[attr-defined]
    assert ours.specification.name == "builtin:speech"
    assert ours.specification.frame_rate == 50
    assert sum(value.numel() for value in ours.model.parameters()) <= 25e6
    clips = [np.random.default_rng(n).standard_normal(8000 + 7000 * n).astype(np.float32) for n in range(4)]
    with torch.inference_mode():
        for one, other in zip(ours.states(clips), theirs.encode(clips), strict=True):
            assert one.shape == other.shape
            assert float((one - other).abs().max() / other.abs().max()) < 1e-5


def test_its_features_do_not_depend_on_the_batch() -> None:
    encoder = load_speech_encoder(SpeechSettings(encoder="builtin:speech"))
    clips = [np.random.default_rng(n).standard_normal(length).astype(np.float32)
             for n, length in enumerate((300, 720, 16000, 50001, 90000))]  # fmt: skip
    for alone, together in zip([encoder.encode([one])[0] for one in clips], encoder.encode(clips), strict=True):
        assert alone.shape == together.shape
        assert float((alone - together).norm() / alone.norm()) < 1e-5


def test_the_encoders_say_what_they_have_seen() -> None:
    speech = load_speech_encoder(SpeechSettings(encoder="builtin:speech")).specification
    text = load_text_encoder(TextSettings(encoder="builtin:text")).specification
    assert not {"RAVDESS", "EmoDB", "AESDD", "EMOVO"} & set(speech.exposure)
    assert {"CREMA-D", "nEMO", "LibriSpeech"} <= set(speech.exposure)
    assert "GoEmotions" in text.exposure
    assert (speech.licence, text.licence) == ("cc-by-nc-sa-4.0", "cc-by-4.0")


def test_an_unknown_built_in_encoder_is_named() -> None:
    with pytest.raises(EncoderError, match="no such built-in encoder; use one of builtin:speech, builtin:text"):
        load_speech_encoder(SpeechSettings(encoder="builtin:music"))


def test_the_default_encoders_are_those_that_ship() -> None:
    assert (SpeechSettings().encoder, TextSettings().encoder) == ("builtin:speech", "builtin:text")


def test_the_default_model_answers_from_speech_words_or_both(clip: Path) -> None:
    model = emofuse.load(asr="none")
    assert model.classes == CLASSES
    assert model.checkpoint.text_languages == ("en",)
    for answer, modalities in (
        (model.predict(clip), ("speech",)),
        (model.predict(text="I hate you and everything you did."), ("text",)),
        (model.predict(clip, text="I hate you and everything you did."), ("speech", "text")),
        (model.predict(clip, text="Der Lappen liegt auf dem Eisschrank."), ("speech",)),
    ):
        assert answer.modalities == modalities
        assert sum(answer.posteriors.values()) == pytest.approx(1)
        assert max(answer.posteriors, key=lambda name: answer.posteriors[name]) == answer.label


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("I hate you and everything you did to us!", "angry"),
        ("This is wonderful, thank you so much!", "happy"),
        ("The bus to the station leaves at nine.", "neutral"),
        ("My dog died yesterday and I miss him.", "sad"),
    ],
)
def test_plain_words_are_understood(text: str, label: str) -> None:
    assert emofuse.load(asr="none").predict(text=text).label == label


def test_the_default_model_needs_no_network_and_little_memory(clip: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, str(clip)], capture_output=True, text=True, check=True, timeout=120
    )
    found = json.loads(done.stdout)
    assert found["modalities"] == [["speech"], ["text"]]
    assert found["labels"][1] == "happy"
    assert 1e8 < found["memory"] < 9e8


def test_the_card_names_data_licences_and_results() -> None:
    card = (BUILTIN / "README.md").read_text()
    for part in ("RAVDESS", "Berlin", "nEMO", "GoEmotions", "CC BY-NC-SA 4.0", "UA", "Temperature", "calm to neutral"):
        assert part in card, part


def test_what_was_measured_is_said_wherever_one_asks(clip: Path) -> None:
    reached = measured()
    assert reached.startswith("from speech alone UA ")
    assert "leaving one corpus out" in reached
    assert emofuse.load(asr="none").predict(clip).measured == reached
    found = CliRunner().invoke(app, ["predict", "--help"], env={"COLUMNS": "500"})
    assert reached[:40] in " ".join(found.stdout.split())
    shown = CliRunner().invoke(app, ["predict", str(clip), "--asr", "none", "--format", "json"])
    assert json.loads(shown.stdout)[0]["measured"] == reached


def test_the_default_model_takes_references(clip: Path) -> None:
    model = emofuse.load(asr="none")
    alone = model.predict(clip)
    model.adapt([tone(1.5, frequency=180 + 20 * step, seed=step) for step in range(6)])
    assert model.predict(clip).posteriors != alone.posteriors
    model.reference = None
    assert model.predict(clip) == alone


@pytest.mark.usefixtures("tones_are_speech")
def test_a_clip_that_is_repeated_keeps_its_label_and_confidence() -> None:
    model = emofuse.load(asr="none")
    once = np.concatenate([tone(0.7, frequency=frequency, seed=1) for frequency in (180.0, 240.0, 150.0, 300.0)])
    alone = model.predict(once)
    repeated = model.predict(np.tile(once, 21)[: 60 * SAMPLING_RATE])
    assert repeated.label == alone.label
    # Windows of six seconds see other neighbours than the clip alone.
    assert max(repeated.posteriors.values()) == pytest.approx(max(alone.posteriors.values()), abs=0.15)


def test_the_large_model_names_its_encoder_and_takes_no_other(tmp_path: Path) -> None:
    card = emofuse.read_card("large")
    assert "openai/whisper-small" in card
    assert "UA" in card
    tiny = tiny_speech_encoder(tmp_path, family="whisper")
    with pytest.raises(CheckpointError, match="the speech encoder has revision"):
        emofuse.load("large", asr="none", speech_encoder=str(tiny))


def test_shipped_weights_are_halves_or_eighths() -> None:
    from safetensors.torch import load_file

    text, speech = (load_file(SHIPPED / modality / "model.safetensors") for modality in ("text", "speech"))
    assert {value.dtype for value in text.values()} == {torch.float16}
    assert {value.dtype for value in speech.values() if value.ndim > 1} == {torch.int8}
