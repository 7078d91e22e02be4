"""The stored features of a run, read by one public call."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import emofuse
from emofuse.audio import load_audio
from emofuse.encoders import load_speech_encoder, load_text_encoder
from emofuse.errors import StoreError
from emofuse.manifest import read_manifest
from emofuse.settings import SpeechSettings, TextSettings
from emofuse.testing import tiny_corpus, tiny_text_encoder

pytestmark = pytest.mark.usefixtures("no_report")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_text_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Path:
    folder = tmp_path_factory.mktemp("run")
    values = ["models=['concat', 'early-word']", "ensembles=[]", "seeds=[0]", "train.epochs=1", "speech.encoder=logmel"]
    recipe = emofuse.load_recipe("fusion", overrides=[*values, f"text.encoder='{encoder}'"])
    table = tiny_corpus(folder / "corpus", speakers=4, utterances=1)
    emofuse.run(recipe, "table", table, folder / "run", jobs=1)
    return folder / "run"


def test_speech_is_what_the_encoder_makes_of_each_recording(finished: Path) -> None:
    manifest = read_manifest(finished / "manifest.parquet")
    names, arrays = emofuse.read_features(finished, "speech", step="utterance")
    assert names == manifest["utterance"].tolist()
    encoder = load_speech_encoder(SpeechSettings(encoder="logmel"))
    for audio, found in zip(manifest["audio"], arrays, strict=True):
        (frames,) = encoder.encode([load_audio(audio)])
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, frames.numpy().mean(axis=1, keepdims=True), rtol=2e-3, atol=2e-3)


def test_text_is_what_the_encoder_makes_of_each_transcript(finished: Path, encoder: Path) -> None:
    manifest = read_manifest(finished / "manifest.parquet")
    names, arrays = emofuse.read_features(finished, "text", step="token")
    assert names == manifest["utterance"].tolist()
    for text, found in zip(manifest["text"], arrays, strict=True):
        (tokens,) = load_text_encoder(TextSettings(encoder=str(encoder))).encode([text])
        np.testing.assert_allclose(found, tokens.numpy(), rtol=2e-3, atol=2e-3)


def test_segments_are_found_by_the_alignments_of_the_run(finished: Path) -> None:
    names, arrays = emofuse.read_features(finished, "speech", step="word-mean")
    assert len(names) == len(read_manifest(finished / "manifest.parquet"))
    assert all(np.isfinite(one).all() for one in arrays)


def test_what_is_not_there_is_said(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"several kinds of features; choose step from (utterance|word-mean), "):
        emofuse.read_features(finished, "speech")
    with pytest.raises(StoreError, match=r"no such features; choose step from "):
        emofuse.read_features(finished, "speech", step="phone-mean")
    with pytest.raises(StoreError, match="no such features; run a recipe that reads this modality"):
        emofuse.read_features(finished, "speech", store=tmp_path)
    with pytest.raises(StoreError, match="there is no finished run here"):
        emofuse.read_features(tmp_path, "speech")


def test_no_public_name_is_that_of_a_folder() -> None:
    """Importing anything from the folder would put it in the place of the function."""
    folders = {path.parent.name for path in Path(emofuse.__file__).parent.glob("*/__init__.py")}
    modules = {path.stem for path in Path(emofuse.__file__).parent.glob("*.py")}
    assert (folders | modules).isdisjoint(set(emofuse.__all__) - {"__version__"})
