"""References: clips of the same speaker, without labels, in place of the training mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from emofuse import load
from emofuse.cli.app import app
from emofuse.errors import SettingsError
from emofuse.experiment import run
from emofuse.features.dataset import Batch
from emofuse.features.reference import Handfuls
from emofuse.models.frontend import LayerMix, SegmentMix
from emofuse.recipe import load_recipe
from emofuse.scoring.calibrate import apply_temperature
from emofuse.scoring.table import read_scores
from emofuse.testing import tiny_corpus, tone
from emofuse.weights import read_header

NAMES = [f"{speaker}{number}" for speaker in "abc" for number in range(8)]


def features(name: str) -> torch.Tensor:
    seed = sum(map(ord, name))
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(2, 3, 4)).astype(np.float32))


@given(seed=st.integers(0, 99), fewest=st.integers(1, 3), more=st.integers(0, 9))
def test_a_reference_is_the_mean_of_other_clips_of_the_speaker(seed: int, fewest: int, more: int) -> None:
    speakers = {name: name[0] for name in NAMES}
    drawn = Handfuls(features, speakers, seed=seed, clips=(fewest, fewest + more))
    asked = [NAMES[seed % 24], NAMES[(seed * 7 + 3) % 24]]
    found = drawn(asked)
    torch.testing.assert_close(found, drawn(asked))
    means = {name: features(name).mean(1).half().float() for name in NAMES}
    for name, reference in zip(asked, found, strict=True):
        others = torch.stack([means[one] for one in NAMES if one[0] == name[0] and one != name])
        if fewest + more >= 7 and fewest >= 7:
            torch.testing.assert_close(reference, others.mean(0))
        low, high = others.amin(0), others.amax(0)
        assert bool(((reference >= low - 1e-6) & (reference <= high + 1e-6)).all())


def test_those_without_other_clips_or_speaker_have_no_reference() -> None:
    drawn = Handfuls(features, {"a0": "a", "b0": "b", "b1": "b"}, seed=0, clips=(1, 5))
    found = drawn(["a0", "b0", "zz"])
    assert found.isnan().all(dim=(1, 2)).tolist() == [True, False, True]
    torch.testing.assert_close(found[1], features("b1").mean(1).half().float())


def test_a_fraction_has_references() -> None:
    speakers = dict.fromkeys(NAMES, "one")
    drawn = Handfuls(features, speakers, seed=0, fraction=0.3)
    given_one = [bool(one.isfinite().all()) for _ in range(40) for one in drawn(list(np.roll(NAMES, _)))]
    assert np.mean(given_one) == pytest.approx(0.3, abs=0.05)


def test_a_reference_replaces_the_training_mean() -> None:
    torch.manual_seed(0)
    values, reference = torch.randn(2, 3, 5, 4) + 7, torch.randn(2, 3, 4) + 7
    for mix in (LayerMix(3, 4), SegmentMix(3, 4)):
        mix.standardise_by(torch.randn(3, 4), torch.rand(3, 4) + 0.5)
        bounds = {"bounds": torch.tensor([[[0, 2], [2, 5]]] * 2)} if isinstance(mix, SegmentMix) else {}
        plain = mix(values, **bounds)
        nothing = torch.full_like(reference, torch.nan)
        torch.testing.assert_close(mix(values, **bounds, reference=nothing), plain)
        shifted = mix(values - reference[:, :, None] + mix.mean[:, None], **bounds)
        torch.testing.assert_close(mix(values, **bounds, reference=reference), shifted)
        mixed = torch.stack([nothing[0], reference[1]])
        torch.testing.assert_close(mix(values, **bounds, reference=mixed), torch.stack([plain[0], shifted[1]]))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    table = tiny_corpus(folder / "data", speakers=4, utterances=3)
    recipe = load_recipe(
        "speech",
        overrides=["speech.encoder=logmel", "seeds=[0]", "train.epochs=4", "train.references=0.5", "model.width=16"],
    )
    run(recipe, "table", table, folder / "run", jobs=1)
    return folder


def test_a_run_tests_with_and_without_references(trained: Path) -> None:
    scores = read_scores(trained / "run" / "scores.parquet")
    assert list(scores.models) == ["speech", "speech, 10 clips as reference"]
    plain, referred = (scores.of(name) for name in scores.models)
    assert list(plain.frame["utterance"]) == list(referred.frame["utterance"])
    assert not np.allclose(plain.posteriors(), referred.posteriors())
    page = (trained / "run" / "report.html").read_text()
    assert "10 clips as reference: each utterance is centred" in page


def test_prediction_with_a_reference_is_that_of_training(trained: Path) -> None:
    predictor = load(trained / "run")
    files = sorted((trained / "data" / "audio").glob("s0_*.wav"))
    alone = predictor.predict(files[0])
    reference = predictor.adapt(files[1:])
    assert reference.clips == len(files) - 1
    found = predictor.predict(files[0])
    assert found.notes == (*alone.notes, f"centred on {len(files) - 1} reference clips")
    assert found.posteriors != alone.posteriors
    # The network's own answer to features that are shifted by hand.
    network = predictor.checkpoint.model
    mix = network.frontends()["speech"].mix
    encode = predictor._networks.speech_encoder.encode
    from emofuse.audio import load_audio

    means = [encode([load_audio(file)])[0].half().float().mean(1, keepdim=True).half().float() for file in files]
    shifted = means[0] - torch.stack(means[1:]).mean(0) + mix.mean[:, None]
    with torch.inference_mode():
        logits = network(Batch(speech=shifted[None], speech_mask=torch.ones(1, 1).bool())).logits
    expected = logits.double().softmax(-1)[0].tolist()
    assert list(found.posteriors.values()) == pytest.approx(expected, abs=2e-3)
    predictor.reference = None
    assert predictor.predict(files[0]) == alone


def test_too_few_clips_are_no_reference(trained: Path) -> None:
    predictor = load(trained / "run")
    clips = [tone(0.5, frequency=200 + 20 * step) for step in range(5)]
    with pytest.raises(SettingsError, match=r"4 of 5 reference clips can be used .* give 5 or more"):
        predictor.adapt([*clips[:4], np.zeros(0, np.float32)])
    found = predictor.adapt([*clips, np.zeros(0, np.float32)])
    assert (found.clips, len(found.skipped)) == (5, 1)


def test_a_model_that_was_not_trained_for_it_takes_no_reference(tmp_path: Path) -> None:
    table = tiny_corpus(tmp_path / "data", speakers=3, utterances=2)
    recipe = load_recipe("speech", overrides=["speech.encoder=logmel", "seeds=[0]", "train.epochs=1", "model.width=16"])
    run(recipe, "table", table, tmp_path / "run", jobs=1)
    with pytest.raises(SettingsError, match="was not trained to take a reference"):
        load(tmp_path / "run").adapt([tone(0.5)] * 5)


def test_a_calibrated_model_is_tested_with_references_at_the_same_temperature(tmp_path: Path) -> None:
    table = tiny_corpus(tmp_path / "data", speakers=4, utterances=3)
    given = ["speech.encoder=logmel", "seeds=[0]", "train.epochs=3", "train.references=0.5", "model.width=16"]
    calibrated = 'ensembles=[{name="calibrated", of=["speech"], calibrate=true}]'
    found = run(load_recipe("speech", overrides=[*given, calibrated]), "table", table, tmp_path / "run", jobs=1).result
    scores = read_scores(tmp_path / "run" / "scores.parquet")
    assert "speech x 1" not in scores.models, "one model is no ensemble to control"
    for suffix in ("", ", 10 clips as reference"):
        plain, calibrated_scores = (scores.of(f"{name}{suffix}") for name in ("speech", "calibrated"))
        for fold, how in found.fused["calibrated"].folds.items():
            rows = (plain.frame["fold"] == fold).to_numpy()
            expected = apply_temperature(plain.posteriors()[rows], how.temperatures[0])
            np.testing.assert_allclose(calibrated_scores.posteriors()[rows], expected, atol=1e-6)
    kept = load(tmp_path / "run" / "models" / "calibrated")
    clip = next(iter(sorted((tmp_path / "data" / "audio").glob("*.wav"))))
    temperature = found.fused["calibrated"].folds["final"].temperatures[0]
    plain_answer = load(tmp_path / "run" / "models" / "speech").predict(clip)
    expected = apply_temperature(np.array([list(plain_answer.posteriors.values())]), temperature)[0]
    assert list(kept.predict(clip).posteriors.values()) == pytest.approx(expected.tolist(), abs=1e-6)


def test_only_what_a_protocol_uses_is_encoded(tmp_path: Path) -> None:
    table = tiny_corpus(tmp_path / "data", speakers=3, utterances=2)
    given = [
        "speech.encoder=logmel",
        "seeds=[0]",
        "train.epochs=1",
        "model.width=16",
        'protocol.labels=["angry", "sad"]',
    ]
    run(load_recipe("speech", overrides=given), "table", table, tmp_path / "run", jobs=1)
    shards = list((tmp_path / "run" / "features").rglob("*.safetensors"))
    assert sum(len(read_header(shard)) for shard in shards) == 3 * 2 * 2


def predicted(*arguments: object) -> tuple[int, str, str]:
    found = CliRunner().invoke(app, ["predict", *map(str, arguments)])
    return found.exit_code, found.stdout, found.stderr or str(found.exception)


def test_the_command_takes_references(trained: Path, tmp_path: Path) -> None:
    files = sorted((trained / "data" / "audio").glob("s0_*.wav"))
    for folder in ("one", "two", "few"):
        (tmp_path / folder).mkdir()
    places = []
    for number, file in enumerate(files):
        folder = "one" if number < 5 else "two" if number < 10 else "few"
        places.append(tmp_path / folder / file.name)
        places[-1].write_bytes(file.read_bytes())
    model = ["--model", trained / "run", "--format", "csv"]
    code, batch, _ = predicted(*places, *model, "--reference", "batch")
    assert code == 0
    assert batch.count("centred on 12 reference clips") == 12
    code, by_folder, warnings = predicted(*places, *model, "--reference", "recording")
    assert code == 0
    assert by_folder.count("centred on 5 reference clips") == 10
    assert "few has no reference: 2 of 2 reference clips can be used" in warnings
    _, alone, _ = predicted(*places[5:10], *model, "--reference", tmp_path / "two")
    rows = by_folder.splitlines()
    assert alone.splitlines()[1:] == rows[6:11]
    assert len(rows) == 13
    code, _, message = predicted(places[0], *model, "--reference", "batch")
    assert code == 1
    assert "1 of 1 reference clips can be used; give 5 or more of one speaker" in message
