"""Dialogue context: only what was said before counts, and the utterance's own words stay what they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from emofuse.corpora import read_corpus
from emofuse.encoders import TextEncoder, load_text_encoder
from emofuse.errors import ManifestError, SettingsError
from emofuse.experiment import extract, train
from emofuse.features.context import earlier_texts
from emofuse.features.extract import Extracted, extract_text
from emofuse.inference.predictor import load
from emofuse.manifest import make_manifest, write_manifest
from emofuse.plan import resolve
from emofuse.recipe import load_recipe, recipe_from, recipe_names
from emofuse.report import plots, write_report
from emofuse.report.plots import Plot
from emofuse.scoring.table import read_scores
from emofuse.settings import TextSettings
from emofuse.testing import TEXT_FAMILIES, miniature_iemocap, tiny_text_encoder
from emofuse.training.folder import MANIFEST

pytestmark = pytest.mark.usefixtures("no_report", "blank_plots")

SAID = ["so good", "why you bad", "it is", "i are so very sad"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: tiny_text_encoder(tmp_path_factory.mktemp(name), family=name) for name in TEXT_FAMILIES}


def talk(texts: Sequence[str | None] = SAID, *, name: str = "d", **columns: Sequence[Any]) -> pd.DataFrame:
    """A dialogue, its rows in the order of time."""
    rows: list[dict[str, Any]] = [
        {"utterance": f"{name}{place}", "audio": "unused.wav", "text": text, "dialogue": name}
        for place, text in enumerate(texts)
    ]
    for column, values in columns.items():
        for row, value in zip(rows, values, strict=True):
            row[column] = value
    return make_manifest(rows, source="test")


def features(manifest: pd.DataFrame, folder: Path, store: Path, **values: Any) -> dict[str, NDArray[np.float16]]:
    found = extracted(manifest, folder, store, **values)
    feature_set = found.feature_sets["token"]
    return {name: np.array(feature_set.read(key)) for name, key in found.keys.items()}


def extracted(manifest: pd.DataFrame, folder: Path, store: Path, **values: Any) -> Extracted:
    settings = TextSettings(encoder=str(folder), **values)
    return extract_text(manifest, load_text_encoder(settings), settings, store=store, granularities=("token", "word"))


# Which utterances.


@settings(deadline=None, derandomize=True, max_examples=40)
@given(data=st.data(), count=st.integers(1, 4))
def test_context_is_what_a_plain_loop_finds(data: st.DataObject, count: int) -> None:
    texts = st.sampled_from(["so", "it is", "", " ", None])
    rows = data.draw(st.lists(st.tuples(st.sampled_from(["d1", "d2", None]), texts), min_size=1, max_size=12))
    manifest = make_manifest(
        [
            {"utterance": str(place), "audio": "a.wav", "text": text, "dialogue": dialogue}
            for place, (dialogue, text) in enumerate([("d1", "so"), *rows])
        ],
        source="test",
    )
    expected: dict[str, tuple[str, ...]] = {}
    said: dict[str, list[str]] = {"d1": ["so"], "d2": []}
    for place, (dialogue, text) in enumerate(rows, start=1):
        if dialogue is not None:
            before = [one for one in said[dialogue][-count:] if one]
            if before:
                expected[str(place)] = tuple(before)
            said[dialogue].append((text or "").strip())
    assert earlier_texts(manifest, count) == expected


def test_stretches_of_one_file_go_by_their_times_and_others_by_their_order() -> None:
    starts = {"start": [3.0, 0.0, 2.0, 1.0]}
    assert earlier_texts(talk(**starts), 2)["d0"] == (SAID[3], SAID[2])
    files = talk(**starts, audio=["a.wav", "b.wav", "a.wav", "b.wav"])
    assert earlier_texts(files, 2) == earlier_texts(talk(), 2)
    assert earlier_texts(talk(start=[3.0, None, 2.0, 1.0]), 2) == earlier_texts(talk(), 2)


def test_what_was_left_out_was_said_all_the_same() -> None:
    whole = talk()
    omitted = [None, None, '["why you bad", ""]', '["so"]']
    without = talk(omitted=omitted)
    assert earlier_texts(whole, 2)["d2"] == (SAID[0], SAID[1])
    assert earlier_texts(without, 2)["d2"] == ("why you bad",)
    assert earlier_texts(without, 3)["d2"] == (SAID[1], "why you bad")
    assert earlier_texts(without, 2)["d3"] == (SAID[2], "so")
    for bad in ("so good", "{}", "[1]"):
        with pytest.raises(ManifestError, match="column 'omitted' of utterance 'd2' is"):
            earlier_texts(talk(omitted=[None, None, bad, None]), 2)


@pytest.mark.parametrize("options", [{}, {"labels": "six"}, {"labels": "six", "part": "improvised"}])
def test_labels_that_nobody_asked_for_are_context(options: dict[str, str], tmp_path: Path) -> None:
    root = miniature_iemocap(tmp_path)
    whole = read_corpus("iemocap", root, partial=True, options={"labels": "all"}).manifest
    # A recording that is lost takes no words away.
    lost = read_corpus("iemocap", root, partial=True, options=options).manifest["utterance"].iloc[2]
    next(root.rglob(f"{lost}.wav")).unlink()
    chosen = read_corpus("iemocap", root, partial=True, options=options).manifest
    assert len(chosen) < len(whole)
    assert lost not in set(chosen["utterance"])
    for count in (1, 2, 5):
        truth = earlier_texts(whole, count)
        found = earlier_texts(chosen, count)
        assert found == {name: truth[name] for name in chosen["utterance"] if name in truth}


def test_a_corpus_without_dialogues_has_no_context(folders: dict[str, Path], tmp_path: Path) -> None:
    manifest = make_manifest([{"utterance": "a", "text": "so"}], source="test")
    with pytest.raises(ManifestError, match=r"no utterance is part of a dialogue.*; fill in column 'dialogue', or set"):
        extracted(manifest, folders["bert"], tmp_path, context=1)


# What is encoded.


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_own_tokens_are_those_of_the_second_segment_of_a_pair(family: str, folders: dict[str, Path]) -> None:
    encoder = load_text_encoder(TextSettings(encoder=str(folders[family])))
    earlier = [[], ["why so angry", "it is ."], ["very bad"], []]
    texts = ["so happy", "you are sad !", "", "it"]
    found = encoder.encode(texts, earlier=earlier)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders[family])
    model = transformers.AutoModel.from_pretrained(folders[family]).eval()
    for text, before, ours in zip(texts, earlier, found, strict=True):
        # In lists, as a second text that is empty and alone counts as none.
        pair = [[f" {tokenizer.sep_token} ".join(before)], [text]] if before else [[text]]
        tokens = tokenizer(*pair, return_tensors="pt")
        with torch.inference_mode():
            states = torch.cat(model(**tokens, output_hidden_states=True).hidden_states)
        own = [place for place, segment in enumerate(tokens.sequence_ids(0)) if segment == len(pair) - 1]
        kept = [0, *own, states.shape[1] - 1]
        torch.testing.assert_close(ours, states[:, kept], rtol=1e-4, atol=1e-4)
        assert ours.shape == encoder.encode([text])[0].shape


def test_context_changes_what_the_words_mean(folders: dict[str, Path]) -> None:
    encoder = load_text_encoder(TextSettings(encoder=str(folders["bert"])))
    one, other, none = encoder.encode(["it is"] * 3, earlier=[["so good"], ["so bad"], []])
    assert not torch.allclose(one, other, atol=1e-3)
    assert not torch.allclose(one, none, atol=1e-3)
    torch.testing.assert_close(none, encoder.encode(["it is"])[0])


def pair(encoder: TextEncoder, text: str, *earlier: str) -> torch.Tensor:
    return encoder.encode([text], earlier=[list(earlier)])[0]


def test_the_oldest_words_are_cut_first_and_the_own_words_never(folders: dict[str, Path]) -> None:
    encoder = load_text_encoder(TextSettings(encoder=str(folders["bert"]), max_tokens=12))
    own = "you are so sad"
    # Five tokens of context fit beside four of its own and three special ones: the last five.
    whole = pair(encoder, own, "why so bad", "it is very good")
    torch.testing.assert_close(whole, pair(encoder, own, "what what what bad", "it is very good"), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(whole, pair(encoder, own, "why so bad", "it is very bad"), atol=1e-3)
    assert whole.shape == encoder.encode([own])[0].shape
    # Own words that leave no room are read alone, and cut as they are without a context.
    for text in ("so " * 9, "so " * 10, "so " * 40):
        torch.testing.assert_close(pair(encoder, text, "why"), encoder.encode([text])[0])
    assert not torch.allclose(pair(encoder, "so " * 8, "why"), encoder.encode(["so " * 8])[0], atol=1e-3)


def test_only_earlier_words_of_the_same_dialogue_enter(folders: dict[str, Path], tmp_path: Path) -> None:
    def of(texts: Sequence[str | None], *, context: int = 2) -> dict[str, NDArray[np.float16]]:
        store = tmp_path / str(len(list(tmp_path.iterdir())))
        both = pd.concat([talk(texts[:4]), talk(texts[4:], name="e")], ignore_index=True)
        return features(both, folders["bert"], store, context=context)

    base = of([*SAID, "very good"])
    for changed, moved in ((0, {"d1", "d2"}), (1, {"d2", "d3"}), (2, {"d3"}), (3, set()), (4, set())):
        texts = [*SAID, "very good"]
        texts[changed] = "what ?"
        other = of(texts)
        names = [name for name in base if name != ("d0", "d1", "d2", "d3", "e0")[changed]]
        # Batches move features in their last bits; another context moves them by far more.
        assert {name for name in names if not np.allclose(base[name], other[name], atol=1e-2)} == moved
    assert all(np.array_equal(base[name], of([*SAID, "very good"])[name]) for name in base)


def test_another_context_is_another_text_in_the_store(folders: dict[str, Path], tmp_path: Path) -> None:
    manifest = talk(["so", "it is", "it is", "it is"])
    plain = extracted(manifest, folders["bert"], tmp_path)
    assert len(set(plain.keys.values())) == plain.computed == 2
    one = extracted(manifest, folders["bert"], tmp_path, context=1)
    # The first of the dialogue has none, and is at hand; the last two say the same after the same.
    assert one.keys["d0"] == plain.keys["d0"]
    assert len(set(one.keys.values()) - set(plain.keys.values())) == one.computed == 2
    assert one.keys["d2"] == one.keys["d3"] != one.keys["d1"]
    assert extracted(manifest, folders["bert"], tmp_path, context=3).computed == 2
    assert extracted(manifest, folders["bert"], tmp_path, context=3).computed == 0


def test_words_are_averages_of_own_tokens_only(folders: dict[str, Path], tmp_path: Path) -> None:
    manifest = talk(["why so angry ?", "i'm sad", "you are happy !"])
    found = extracted(manifest, folders["bert"], tmp_path, context=2)
    encoder = load_text_encoder(TextSettings(encoder=str(folders["bert"])))
    for name, text in zip(manifest["utterance"], manifest["text"], strict=True):
        tokens = np.asarray(found.feature_sets["token"].read(found.keys[name]), dtype=np.float32)
        steps = np.asarray(found.feature_sets["word"].read(found.keys[name]), dtype=np.float32)
        (words,) = encoder.word_of_tokens([text])
        assert tokens.shape[1] == len(words)
        expected = [tokens[:, [place for place, one in enumerate(words) if one == word]].mean(1)
                    for word in range(len(text.split()))]  # fmt: skip
        np.testing.assert_allclose(steps, np.stack([tokens[:, 0], *expected, tokens[:, -1]], 1), rtol=1e-2, atol=1e-2)


# Settings.


def test_no_recipe_that_ships_reads_context() -> None:
    assert {load_recipe(name).text.context for name in recipe_names()} == {0}


def test_subwords_have_no_context() -> None:
    with pytest.raises(SettingsError, match="context needs an encoder of whole texts, which words is not"):
        load_recipe("text", overrides=["text.encoder=words", "text.context=2"])


# A whole run.


def test_a_run_is_stamped_with_context_parts_and_text_source(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "_plot", lambda draw, *, width, height, alt: Plot(b"PNG", 96, 96, alt))
    manifest = read_corpus("iemocap", miniature_iemocap(tmp_path), partial=True).manifest
    manifest.loc[:9, "text_source"] = "sphinx"
    bert = {"encoder": str(folders["bert"])}
    values: dict[str, Any] = {
        "name": "talk",
        "models": ["text"],
        "seeds": [0],
        "model": {"width": 8},
        "train": {"epochs": 1},
        "protocol": {"kind": "session", "validation_by": "session", "apart": "script"},
    }
    contextual, plain = (
        resolve(recipe_from({**values, "text": text}, source="the test")) for text in ({**bert, "context": 2}, bert)
    )
    found = extract(manifest, contextual, tmp_path / "store")
    outcome = train(manifest, contextual, found, tmp_path / "run", jobs=1)
    write_manifest(manifest, tmp_path / "run" / MANIFEST)
    result = outcome.result.model_dump(mode="json")

    assert (result["context"], result["text_sources"]) == (2, {"reference": 60, "sphinx": 10})
    assert result["protocol"]["apart"] == "script"
    assert result["protocol"]["leakage"]["scripts"] == 0
    assert len(result["protocol"]["leakage"]["exact"]) == 3
    frame = read_scores(tmp_path / "run" / "scores.parquet").frame
    assert sorted(result["parts"]) == ["improvised", "scripted"]
    for part, entries in result["parts"].items():
        rows = frame[frame["utterance"].str.contains("_impro" if part == "improvised" else "_script")]
        classes = ["angry", "happy", "neutral", "sad"]
        right = rows[classes].to_numpy().argmax(1) == rows["label"].map(classes.index).to_numpy()
        assert entries["text"]["utterances"] == len(rows) == {"improvised": 30, "scripted": 40}[part]
        assert entries["text"]["wa"]["value"] == pytest.approx(right.mean())
        recalls = [right[rows["label"].to_numpy() == name].mean() for name in classes]
        assert entries["text"]["ua"]["value"] == pytest.approx(np.mean(recalls))

    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    for line in (
        "Improvised and scripted apart", "up to 2 earlier utterances of the dialogue",
        "Transcripts: reference and sphinx",
        "scripts: no fold trains on one that it tests", "No script of a test part whose words were given occurs",
        "to answer with their most frequent label is right in",
    ):  # fmt: skip
        assert line in page, line

    answer = load(tmp_path / "run" / "models" / "text").predict(text="so happy")
    assert answer.notes == ("the model was trained with dialogue context, and here there is none",)
    again = train(manifest, plain, extract(manifest, plain, tmp_path / "store"), tmp_path / "plain", jobs=1).result
    assert again.context == 0
    assert load(tmp_path / "plain" / "models" / "text").predict(text="so happy").notes == ()
