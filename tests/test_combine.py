"""Models combined from two corpora, words that are recognised, and languages that are not read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import balanced_accuracy_score

import emofuse
from emofuse.asr.base import Recogniser, load_recogniser
from emofuse.asr.sphinx import SphinxRecogniser
from emofuse.checkpoint import load_checkpoint, save_checkpoint
from emofuse.combine import combine_models, fit_silence
from emofuse.corpora import read_corpus
from emofuse.errors import CheckpointError, EncoderError, ManifestError, ProtocolError, SettingsError
from emofuse.experiment import run
from emofuse.inference.card import BUILTIN
from emofuse.language import is_foreign
from emofuse.manifest import make_manifest
from emofuse.models.ensemble import Ensemble
from emofuse.protocols import make_protocol
from emofuse.recipe import load_recipe
from emofuse.scoring.calibrate import apply_temperature, fit_temperature
from emofuse.scoring.fuse import Fusion
from emofuse.scoring.table import Scores, make_scores, read_scores
from emofuse.settings import ProtocolSettings
from emofuse.testing import tiny_corpus
from emofuse.training.folder import TRIALS
from emofuse.types import Prediction

pytestmark = pytest.mark.usefixtures("no_report", "tones_are_speech")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
FAST = ["train.epochs=2", "seeds=[0]", "speech.encoder='logmel'", "text.encoder='words'"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    table = tiny_corpus(folder / "corpus")
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0] + ",language", *(line + ",en" for line in lines[1:])]) + "\n")
    # Each network has settings of its own.
    for name, width in (("speech", 16), ("text", 8)):
        run(load_recipe(name, overrides=[*FAST, f"model.width={width}"]), "table", table, folder / name, jobs=1)
    return {"folder": folder, "speech": folder / "speech", "text": folder / "text"}


@pytest.fixture(scope="module")
def combined(runs: dict[str, Path]) -> Path:
    out = runs["folder"] / "combined"
    combine_models(runs["speech"], runs["text"], out)
    return out


def clip_of(runs: dict[str, Path]) -> Path:
    return sorted((runs["folder"] / "corpus" / "audio").glob("*.wav"))[0]


# Temperature


@given(
    arrays(np.float64, (40, 3), elements=st.floats(-4, 4)),
    st.floats(0.4, 4),
    st.integers(0, 1000),
)
def test_a_temperature_is_found_again(logits: Any, temperature: float, seed: int) -> None:
    """Calibrated posteriors get a temperature of one; where they are over-confident, it calibrates them again."""
    rng = np.random.default_rng(seed)
    logits = np.repeat(logits + rng.standard_normal(logits.shape), 100, axis=0)
    true = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    labels = np.array([rng.choice(3, p=row) for row in true])
    sharp = apply_temperature(true, 1 / temperature)
    assert fit_temperature(sharp, labels) == pytest.approx(temperature, rel=0.25)


def test_the_best_temperature_is_that_of_a_search() -> None:
    rng = np.random.default_rng(0)
    posteriors, labels = rng.dirichlet(np.ones(4) * 0.3, 200), rng.integers(0, 4, 200)

    # Of 200 labels one more is thought to be wrong (Platt, 1999).
    sure = 201 / 202
    targets = np.where(np.eye(4)[labels] > 0, sure, (1 - sure) / 3)

    def loss(temperature: float) -> float:
        return float(-np.mean(np.sum(targets * np.log(apply_temperature(posteriors, temperature)), axis=1)))

    grid = np.exp(np.linspace(np.log(0.05), np.log(20), 4000))
    assert fit_temperature(posteriors, labels) == pytest.approx(min(grid, key=loss), rel=5e-3)


@pytest.mark.parametrize("count", [4, 16, 60])
def test_a_few_answers_that_are_all_right_make_the_next_one_no_certainty(count: int) -> None:
    posteriors = np.full((count, 3), 0.2)
    posteriors[:, 0] = 0.6
    answer = apply_temperature(posteriors, fit_temperature(posteriors, np.zeros(count, dtype=np.int64)))[0, 0]
    assert answer == pytest.approx((count + 1) / (count + 2), abs=0.01)


def test_very_sure_answers_cool_as_their_logits_do() -> None:
    logits = np.array([[90.0, 0.0, -30.0]])
    posteriors = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    cool = np.exp(logits / 20) / np.exp(logits / 20).sum()
    np.testing.assert_allclose(apply_temperature(posteriors, 20.0), cool, rtol=1e-9)


# Combining


def test_a_combined_model_answers_from_either_modality_or_both(runs: dict[str, Path], combined: Path) -> None:
    model = emofuse.load(combined, asr="none")
    clip = clip_of(runs)
    alone = {"speech": emofuse.load(runs["speech"] / "models" / "speech").predict(clip),
             "text": emofuse.load(runs["text"] / "models" / "text").predict(text="a b c")}  # fmt: skip
    fusion = model.checkpoint.model
    assert isinstance(fusion, Ensemble)
    logs = []
    for modality, answer, temperature in zip(alone, alone.values(), fusion.how.temperatures, strict=True):
        expected = np.array(list(answer.posteriors.values())) ** (1 / temperature)
        expected /= expected.sum()
        logs.append(np.log(expected))
        ours = model.predict(clip) if modality == "speech" else model.predict(text="a b c")
        assert ours.modalities == (modality,)
        assert list(ours.posteriors.values()) == pytest.approx(expected.tolist(), abs=1e-5)
    # Independent evidence, where the neutral words' fraction is even.
    neutral, fraction = fusion.how.silences[1] or (0, 0.0)
    assert model.classes[neutral] == "neutral"
    words = np.exp(logs[1])
    said = np.delete(words, neutral).sum() + (1 - fraction) * words[neutral]
    words = np.where(np.arange(4) == neutral, (1 - fraction) * words, words) + (1 - said) / 4
    both = np.exp(logs[0]) * words
    answer = model.predict(clip, text="a b c")
    assert answer.modalities == ("speech", "text")
    assert list(answer.posteriors.values()) == pytest.approx((both / both.sum()).tolist(), abs=1e-5)


def made(posteriors: Any, labels: Any, *, name: str) -> Scores:
    names = ("angry", "happy", "neutral", "sad")
    frame = pd.DataFrame(posteriors, columns=list(names)).assign(
        model=name,
        seed=0,
        fold="a",
        utterance=[f"{name}{row}" for row in range(len(labels))],
        label=np.array(names)[labels],
    )
    return make_scores(frame, source="made")


def sure_of(labels: Any, *, right: float, seed: int) -> Any:
    """Calibrated posteriors."""
    rng = np.random.default_rng(seed)
    said = np.where(rng.random(len(labels)) < right, labels, rng.integers(0, 4, len(labels)))
    return (1 - right) / 4 + right * np.eye(4)[said]


def test_neutral_words_do_not_mute_the_voice() -> None:
    voices, words = np.repeat(np.arange(4), 100), np.repeat(np.arange(4), 60)
    speech = made(sure_of(voices, right=0.6, seed=0), voices, name="speech")
    text = made(sure_of(words, right=0.9, seed=1), words, name="text")
    fraction = fit_silence(speech, text, temperatures=(1.0, 1.0))
    assert fraction is not None
    how = Fusion("bayes", (0.5, 0.5), (1.0, 1.0), (None, (2, fraction)))
    neutral = text.posteriors()[text.labels() == 2][:1].repeat(400, axis=0)
    alone, both = (balanced_accuracy_score(voices, one.argmax(1)) for one in (
        speech.posteriors(), how(np.stack([speech.posteriors(), neutral]))
    ))  # fmt: skip
    plain = Fusion("product", (0.5, 0.5), (1.0, 1.0))(np.stack([speech.posteriors(), neutral])).argmax(1)
    assert both > alone - 0.02
    assert balanced_accuracy_score(voices, plain) < alone - 0.1, "neutral words would mute the voice"
    own = text.posteriors()[np.repeat(np.arange(4), 100) * 60 + np.tile(np.arange(50), 8)]
    assert balanced_accuracy_score(voices, how(np.stack([speech.posteriors(), own])).argmax(1)) > alone + 0.1


def test_temperatures_come_from_all_that_the_folds_tested(runs: dict[str, Path], combined: Path) -> None:
    fusion = load_checkpoint(combined).model
    assert isinstance(fusion, Ensemble)
    for kind, temperature in zip(("speech", "text"), fusion.how.temperatures, strict=True):
        scores = read_scores(runs[kind] / "scores.parquet").of(kind)
        assert temperature == round(fit_temperature(scores.posteriors(), scores.labels()), 4)
    validation = read_scores(runs["speech"] / TRIALS / "speech" / "final-seed0" / "validation.parquet")
    assert fusion.how.temperatures[0] != round(fit_temperature(validation.posteriors(), validation.labels()), 4)


def test_a_combined_model_survives_its_folder(combined: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(combined)
    save_checkpoint(checkpoint, tmp_path / "again", card="")
    again = load_checkpoint(tmp_path / "again")
    assert isinstance(checkpoint.model, Ensemble)
    assert isinstance(again.model, Ensemble)
    assert again.model.how == checkpoint.model.how
    assert 1.0 not in again.model.how.temperatures
    assert again.text_languages == checkpoint.text_languages == ("en",)
    card = (combined / "README.md").read_text()
    for part in ("Temperature", "held out of training", "UA", "`logmel`", "`words`"):
        assert part in card
    for name, wrong in (
        ("temperatures", [0, 1]), ("silences", [None]), ("silences", [None, [4, 0.5]]), ("silences", [None, [2, 1.5]])
    ):  # fmt: skip
        values = json.loads((combined / "settings.json").read_text())
        values["model"][name] = wrong
        (tmp_path / "again" / "settings.json").write_text(json.dumps(values))
        with pytest.raises(CheckpointError, match=f"are no {name}"):
            load_checkpoint(tmp_path / "again")


def test_encoders_are_at_hand_before_the_first_file(runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **settings: Any) -> Any:
        raise EncoderError("it cannot be had", remedy="connect")

    monkeypatch.setattr("emofuse.inference.network_inputs.load_text_encoder", refuse)
    clip = clip_of(runs)
    model = emofuse.load(BUILTIN, asr="none")
    assert [answer.modalities for answer in model.predict_many([clip]) if isinstance(answer, Prediction)] == [
        ("speech",)
    ]
    monkeypatch.setattr(model, "predict", None)
    with pytest.raises(EncoderError, match="it cannot be had"):
        next(model.predict_many([clip, clip], texts=[None, "words at last"]))
    listening = emofuse.Predictor(load_checkpoint(BUILTIN), transcriber=Dictation("so"))
    with pytest.raises(EncoderError, match="it cannot be had"):
        next(listening.predict_many([clip]))


def test_runs_that_do_not_fit_are_not_combined(runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no settings\.json"):
        combine_models(runs["text"], runs["speech"], tmp_path / "out")
    table = runs["folder"] / "corpus" / "corpus.csv"
    fewer = tmp_path / "fewer"
    run(
        load_recipe("text", overrides=[*FAST, "model.width=8", "protocol.labels=['happy','sad']"]),
        "table",
        table,
        fewer,
        jobs=1,
    )
    with pytest.raises(CheckpointError, match="the text model happy, sad"):
        combine_models(runs["speech"], fewer, tmp_path / "out")


# Languages


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Kids are talking by the door", False),
        ("I can't believe you did this to me!", False),
        ("Der Lappen liegt auf dem Eisschrank.", True),
        ("Nie mogę w to uwierzyć, naprawdę", True),
        ("Je ne sais pas quoi faire", True),
        ("Oh no", False),
        ("", False),
        pytest.param("happy " * 100_000, False, id="more than the identifier can count"),
    ],
)
def test_foreign_words_are_known(text: str, expected: bool) -> None:
    assert is_foreign(text, ("en",)) is expected
    assert not is_foreign(text, ())


def test_foreign_words_leave_the_answer_to_speech(runs: dict[str, Path], combined: Path) -> None:
    model = emofuse.load(combined, asr="none")
    clip = clip_of(runs)
    german = "Der Lappen liegt auf dem Eisschrank."
    answer = model.predict(clip, text=german)
    assert answer.modalities == ("speech",)
    assert answer.text == german
    assert len(answer.notes) == 1
    assert "not in a language that the model reads (en)" in answer.notes[0]
    assert answer.posteriors == model.predict(clip).posteriors
    alone = model.predict(text=german)
    assert alone.modalities == ("text",), "without audio the words are all there is"
    assert "not in a language that the model reads (en), so the prediction is unreliable" in alone.notes[0]


# Recognised words


class Dictation(Recogniser):
    """A recogniser that always writes the same."""

    name = "dictation"

    def __init__(self, words: str) -> None:
        self.words = words

    def transcribe(self, clip: Any) -> str:
        assert clip.dtype == np.float32
        return self.words


def test_words_that_are_not_given_are_written_down(runs: dict[str, Path], combined: Path) -> None:
    clip, checkpoint = clip_of(runs), load_checkpoint(combined)
    model = emofuse.Predictor(checkpoint, transcriber=Dictation("what a day"))
    answer = model.predict(clip)
    assert (answer.modalities, answer.text) == (("speech", "text"), "what a day")
    assert answer.notes == ("dictation recognised 'what a day'",)
    assert answer.posteriors == model.predict(clip, text="what a day").posteriors
    assert model.predict(clip, text="given").notes == ()
    silent = emofuse.Predictor(checkpoint, transcriber=Dictation("")).predict(clip)
    assert silent.modalities == ("speech",)
    assert silent.notes[0] == "dictation recognised no words"


def test_a_recogniser_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_recogniser("none") is None
    assert isinstance(load_recogniser("sphinx"), SphinxRecogniser)
    with pytest.raises(SettingsError, match="there is no recogniser 'deepspeech'"):
        load_recogniser("deepspeech")
    monkeypatch.setitem(__import__("sys").modules, "faster_whisper", None)
    with pytest.raises(EncoderError, match=r"faster-whisper is not installed; run pip install faster-whisper"):
        load_recogniser("whisper")


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the recordings in {SHARED} are not at hand")
def test_sphinx_hears_words() -> None:
    from emofuse.audio import load_audio

    recognised = SphinxRecogniser().transcribe(load_audio(SHARED / "ravdess" / "01" / "03-01-01-01-01-01-01.flac"))
    assert "door" in recognised.split()


# Several corpora


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the recordings in {SHARED} are not at hand")
def test_corpora_are_read_together() -> None:
    found = read_corpus("ravdess+emodb", SHARED).manifest
    assert found["corpus"].value_counts().to_dict() == {"ravdess": 1440, "emodb": 535}
    assert found["utterance"].is_unique
    assert found["speaker"].nunique() == 34, "numbers that both corpora use are not one speaker"
    protocol = make_protocol(
        found, ProtocolSettings(kind="corpus", labels=("angry", "happy", "neutral", "sad"), merge={"calm": "neutral"})
    )
    assert [fold.name for fold in protocol.folds] == ["corpus-emodb", "corpus-ravdess"]
    assert all(name.startswith("emodb/") for name in protocol.folds[0].test)
    assert not any(name.startswith("emodb/") for name in (*protocol.folds[0].train, *protocol.folds[0].validation))


def test_corpora_that_cannot_be_combined_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="names a corpus twice"):
        read_corpus("emodb+emodb", tmp_path)
    with pytest.raises(ManifestError, match="there is no folder emodb here"):
        read_corpus("emodb+ravdess", tmp_path)
    rows = [{"utterance": f"{s}{e}", "text": "x", "label": e, "speaker": s, "corpus": "one"}
            for s in "abcd" for e in ("happy", "sad")]  # fmt: skip
    with pytest.raises(ProtocolError, match="there is one corpus only"):
        make_protocol(make_manifest(rows, source="x"), ProtocolSettings(kind="corpus"))
