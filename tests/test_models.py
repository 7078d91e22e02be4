from __future__ import annotations

import math
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from emofuse.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from emofuse.corpora import read_corpus
from emofuse.encoders.logmel import LogMelEncoder
from emofuse.encoders.words import Subwords
from emofuse.errors import ScoresError, SettingsError
from emofuse.experiment import extract, train
from emofuse.features.dataset import Batch, pad, pad_bounds, pad_extra, statistics_of, without_constants
from emofuse.features.extras import EXTRAS, Facts, extra_sizes
from emofuse.inference.predictor import load
from emofuse.models import MODELS, model_class
from emofuse.models.base import EmotionModel, Inputs, Shapes, Speech
from emofuse.models.blocks.coattention import CoAttention, CoAttentionLayer
from emofuse.models.blocks.pooling import Pooling, PoolingKind
from emofuse.models.early import EarlyFusion
from emofuse.models.ensemble import Ensemble
from emofuse.models.frontend import (
    SMALLEST_DEVIATION,
    Frontend,
    InputShape,
    LayerMix,
    LockedDropout,
    SegmentMix,
    TokenEmbedding,
)
from emofuse.plan import resolve, speech_shape
from emofuse.recipe import Recipe
from emofuse.scoring.fuse import Fusion, combine
from emofuse.scoring.table import read_scores
from emofuse.settings import ModelSettings, SpeechSettings, TextSettings
from emofuse.task import Classification
from emofuse.testing import tiny_corpus
from emofuse.training.folder import TRIALS
from emofuse.types import Alignment, Segment, Tier

Array = NDArray[np.float64]
Form = Literal["states", "subwords", "segments"]
FORMS: tuple[Form, ...] = get_args(Form)
"""What a model is given: hidden states of both modalities, ids of subwords, or frames and the bounds of segments."""
POOLINGS: tuple[PoolingKind, ...] = get_args(PoolingKind)
LAYERS, WIDTH, VOCABULARY = 3, 6, 20
TASK = Classification(("angry", "happy", "neutral", "sad"))


def spread(module: nn.Module, seed: int = 0) -> None:
    """Random values everywhere: fresh biases are zero and fresh norms one, and would hide that they are unused."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.6)


def small(kind: type[EmotionModel], **asked: Any) -> ModelSettings:
    """Settings of a model's own type, with what it has of those asked for."""
    return kind.Settings(**{name: value for name, value in asked.items() if name in kind.Settings.model_fields})


def make(name: str, *, pooling: PoolingKind = "attentive", form: Form = "states") -> EmotionModel:
    kind = model_class(name)
    chosen = small(kind, width=8, heads=2, layers=2, dropout=0.4, pooling=pooling)
    shapes = Shapes(
        speech=InputShape(LAYERS, WIDTH, segments=form == "segments"),
        text=InputShape(0, VOCABULARY) if form == "subwords" else InputShape(LAYERS, WIDTH),
        extras=extra_sizes(kind.inputs(chosen).extras),
    )
    model = kind(chosen, shapes, TASK).double().eval()
    spread(model)
    # A generator of its own: with torch's, what ran before would decide the values, and whether a ReLU is ever open.
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, LayerMix):
            mean = torch.randn(LAYERS, WIDTH, generator=generator)
            module.standardise_by(mean, torch.rand(LAYERS, WIDTH, generator=generator) + 0.5)
    return model


def hidden(steps: int, seed: int) -> torch.Tensor:
    return torch.randn(LAYERS, steps, WIDTH, generator=torch.Generator().manual_seed(seed)).double()


def ids(tokens: int, seed: int) -> torch.Tensor:
    return torch.randint(1, VOCABULARY, (tokens,), generator=torch.Generator().manual_seed(seed))


def batch(speech: list[torch.Tensor], text: list[torch.Tensor], **more: Any) -> Batch:
    (frames, frames_mask), (tokens, tokens_mask) = pad(speech), pad(text)
    tokens = tokens.double() if tokens.is_floating_point() else tokens
    given_ = {"speech": frames.double(), "speech_mask": frames_mask, "text": tokens, "text_mask": tokens_mask}
    return Batch(**{**given_, **more})


def only(modality: str, whole: Batch) -> Batch:
    """One modality of a batch."""
    values, mask = whole.of(modality)
    return Batch(**{modality: values, f"{modality}_mask": mask})


# Co-attention, from the equations: A' = LN(A + MHA(q=A, k=X, v=X)); A'' = LN(A' + FFN(A'))


def weights_of(module: nn.Module) -> dict[str, Array]:
    return {name: value.detach().numpy().astype(np.float64) for name, value in module.state_dict().items()}


def slow_norm(vector: Array, scale: Array, shift: Array) -> Array:
    mean = sum(vector) / len(vector)
    variance = sum((value - mean) ** 2 for value in vector) / len(vector)
    return np.array(
        [(v - mean) / math.sqrt(variance + 1e-5) * s + b for v, s, b in zip(vector, scale, shift, strict=True)]
    )


def slow_direction(own: Array, other: Array, valid: NDArray[np.bool_], weights: dict[str, Array], heads: int) -> Array:
    """One utterance, one direction; `own` (steps, width) asks `other` (steps, width), of which `valid` count."""
    width = own.shape[1]
    size = width // heads
    query, key, value = np.split(weights["attention.in_proj_weight"], 3)
    query_bias, key_bias, value_bias = np.split(weights["attention.in_proj_bias"], 3)
    result = np.empty_like(own)
    for place, vector in enumerate(own):
        asked = query @ vector + query_bias
        summed = np.zeros(width)
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            scores = []
            for position, there in enumerate(other):
                offered = (key @ there + key_bias)[part]
                scores.append(float(asked[part] @ offered) / math.sqrt(size) if valid[position] else -math.inf)
            powers = [math.exp(score - max(scores)) for score in scores]
            for position, there in enumerate(other):
                summed[part] += powers[position] / sum(powers) * (value @ there + value_bias)[part]
        attended = weights["attention.out_proj.weight"] @ summed + weights["attention.out_proj.bias"]
        middle = slow_norm(vector + attended, weights["norm.weight"], weights["norm.bias"])
        wide = np.maximum(weights["feed_forward.0.weight"] @ middle + weights["feed_forward.0.bias"], 0)
        narrow = weights["feed_forward.3.weight"] @ wide + weights["feed_forward.3.bias"]
        result[place] = slow_norm(middle + narrow, weights["last_norm.weight"], weights["last_norm.bias"])
    return result


def slow_layers(
    module: CoAttention, speech: Array, text: Array, speech_valid: Any, text_valid: Any, heads: int, *, parallel: bool
) -> tuple[Array, Array]:
    for layer in module.layers:
        assert isinstance(layer, CoAttentionLayer)
        new_speech = slow_direction(speech, text, text_valid, weights_of(layer.speech), heads)
        context = speech if parallel else new_speech
        text = slow_direction(text, context, speech_valid, weights_of(layer.text), heads)
        speech = new_speech
    return speech, text


@pytest.mark.parametrize(("layers", "heads"), [(1, 1), (1, 4), (3, 2)])
def test_co_attention_is_that_of_the_equations(layers: int, heads: int) -> None:
    width, lengths, tokens = 8, [5, 3, 1], [1, 4, 2]
    module = CoAttention(width, heads=heads, layers=layers, dropout=0.3).double().eval()
    spread(module)
    speech, text = torch.randn(3, 5, width).double(), torch.randn(3, 4, width).double()
    speech_mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    text_mask = torch.arange(4) < torch.tensor(tokens)[:, None]
    with torch.no_grad():
        found = module(speech, text, speech_mask, text_mask)
    for row, (frames, words) in enumerate(zip(lengths, tokens, strict=True)):
        inputs = speech[row].numpy(), text[row].numpy(), speech_mask[row].numpy(), text_mask[row].numpy()
        expected = slow_layers(module, *inputs, heads, parallel=True)
        np.testing.assert_allclose(found[0][row, :frames].numpy(), expected[0][:frames], atol=1e-9)
        np.testing.assert_allclose(found[1][row, :words].numpy(), expected[1][:words], atol=1e-9)


def test_both_directions_read_the_old_sequences() -> None:
    module = CoAttention(8, heads=2, layers=1, dropout=0.0).double().eval()
    spread(module)
    speech, text = torch.randn(1, 5, 8).double(), torch.randn(1, 3, 8).double()
    every = np.ones(5, bool), np.ones(3, bool)
    with torch.no_grad():
        _, found = module(speech, text, torch.ones(1, 5).bool(), torch.ones(1, 3).bool())
    _, one_by_one = slow_layers(module, speech[0].numpy(), text[0].numpy(), *every, 2, parallel=False)
    _, at_once = slow_layers(module, speech[0].numpy(), text[0].numpy(), *every, 2, parallel=True)
    assert np.abs(one_by_one - at_once).max() > 0.1
    np.testing.assert_allclose(found[0].numpy(), at_once, atol=1e-9)


# Layer mix and pooling


def test_layer_mix_is_a_weighted_sum_of_standardised_layers() -> None:
    mix = LayerMix(LAYERS, WIDTH).double()
    mean, deviation = torch.randn(LAYERS, WIDTH).double() * 5, torch.rand(LAYERS, WIDTH).double() + 0.1
    mix.standardise_by(mean, deviation)
    with torch.no_grad():
        mix.scores.copy_(torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64))
    features = torch.randn(2, LAYERS, 4, WIDTH).double()
    powers = [math.exp(score) for score in (0.3, -1.0, 2.0)]
    expected = np.zeros((2, 4, WIDTH))
    for row in range(2):
        for frame in range(4):
            for layer in range(LAYERS):
                for number in range(WIDTH):
                    value = float(features[row, layer, frame, number] - mean[layer, number])
                    value /= float(deviation[layer, number]) + SMALLEST_DEVIATION
                    expected[row, frame, number] += powers[layer] / sum(powers) * value
    np.testing.assert_allclose(mix(features).detach().numpy(), expected, atol=1e-10)
    np.testing.assert_allclose(mix.weights.detach().numpy(), np.array(powers) / sum(powers))


def test_a_feature_that_never_varies_does_no_harm() -> None:
    mix = LayerMix(1, 2)
    mix.standardise_by(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    mixed = mix(torch.tensor([[[[3.0, 1.0], [3.0, -1.0]]]]))
    assert torch.isfinite(mixed).all()
    assert mixed[0, :, 0].abs().max() < 1e-3


@pytest.mark.parametrize("jitter", [0.0, 1e-7, 1e-3])
def test_a_feature_that_is_constant_in_training_weighs_nothing_whatever_it_is_later(jitter: float) -> None:
    """As the upper bands of telephone speech, or the deviations of segments of one frame; half the layer may be so."""
    generator = torch.Generator().manual_seed(0)
    steps = torch.randn(2, 400, 9, generator=generator).double() * torch.tensor([0.3, 30.0])[:, None, None]
    steps[:, :, :4] = -23.0 + jitter * steps[:, :, :4]
    for kind in (LayerMix, SegmentMix):
        mix = kind(2, 9)
        mix.standardise_by(*statistics_of([steps]))
        other = steps[None].float()
        other[..., :4] = 5.0
        bounds = (torch.tensor([[[0, 400]]]),) if kind is SegmentMix else ()
        mixed = mix(other, *bounds)
        assert (mixed[..., :4] == 0).all()
        assert torch.isfinite(mixed).all()
        assert (mix.deviation[:, :4] == 0).all()
        torch.testing.assert_close(mix.deviation[:, 4:], steps.std(1, unbiased=False)[:, 4:].float())


def test_features_of_any_size_are_constant_or_not_by_their_own_layer() -> None:
    """Encoders scale their layers by thousands; a massive activation makes no constant of the others."""
    deviation = torch.tensor([[1e-3, 2e-3, 5.0], [1.0, 2e4, 3.0], [0.0, 0.0, 7.0], [0.0, 0.0, 0.0]])
    kept = without_constants(torch.zeros(4, 3), deviation)
    assert kept.tolist() == deviation.tolist()
    assert without_constants(torch.full((4, 3), 1e4), deviation)[0].tolist() == [0.0, 0.0, 5.0]


def test_bands_that_telephone_speech_lacks_weigh_nothing() -> None:
    """Energies vary by two, slopes by two hundredths, and what resampling leaves above 4 kHz by a tenth of each."""
    specification = LogMelEncoder(SpeechSettings(encoder="logmel")).specification
    shape = speech_shape(Inputs(speech=Speech(("utterance",))), SpeechSettings(encoder="logmel"), specification)
    deviation = torch.tensor([2.0, 0.02, 0.01]).repeat_interleave(80)
    for kind, band in ((0, 64), (1, 144), (2, 224)):
        deviation[band : 80 * (kind + 1)] *= 0.07
    mix = Frontend("speech", shape, width=8).mix
    assert isinstance(mix, LayerMix)
    mix.standardise_by(torch.full((1, 240), -20.0), deviation[None])
    alive = (torch.arange(240) % 80 < 64)[None]
    torch.testing.assert_close(mix.deviation, deviation.where(alive, 0.0))


@pytest.mark.parametrize("kind", ["mean", "mean+std", "attentive"])
def test_pooling_is_that_of_a_loop_over_valid_steps(kind: PoolingKind) -> None:
    pooling = Pooling(kind, WIDTH).double()
    spread(pooling)
    lengths = [5, 1, 3]
    steps = torch.randn(3, 5, WIDTH).double() * 3
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    found = pooling(steps, mask).detach().numpy()
    assert found.shape == (3, pooling.size)
    for row, length in enumerate(lengths):
        valid = [steps[row, place].numpy() for place in range(length)]
        mean = sum(valid) / length
        if kind == "attentive":
            assert pooling.score is not None
            weight, bias = (value.detach().numpy() for value in (pooling.score.weight[0], pooling.score.bias))
            powers = [math.exp(float(weight @ vector + bias[0])) for vector in valid]
            expected = sum(power / sum(powers) * vector for power, vector in zip(powers, valid, strict=True))
        elif kind == "mean":
            expected = mean
        else:
            variance = sum((vector - mean) ** 2 for vector in valid) / length
            expected = np.concatenate([mean, np.sqrt(variance + 1e-8)])
        np.testing.assert_allclose(found[row], expected, atol=1e-9)


# Whole models: every one of the table, whatever it is called


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", MODELS)
@given(lengths=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 7)), min_size=2, max_size=4), data=st.data())
@settings(max_examples=15, deadline=None)
def test_padding_never_changes_an_answer(
    name: str, form: Form, lengths: list[tuple[int, int]], data: st.DataObject
) -> None:
    model = make(name, pooling=data.draw(st.sampled_from(POOLINGS)), form=form)
    numbers = range(len(lengths))
    speech = [hidden(frames, seed) for seed, (frames, _) in enumerate(lengths)]
    bounds = [torch.tensor([[0, 1 + frames // 2], [frames // 2, frames]][: 1 + frames % 2]) for frames, _ in lengths]
    text = [
        ids(tokens, seed) if form == "subwords" else hidden(tokens, seed + 100)
        for seed, (_, tokens) in enumerate(lengths)
    ]
    facts = [
        Facts(text="so" * tokens, gender="male", votes=(0.5, 0.5, 0, 0), values={"valence": float(tokens)})
        for _, tokens in lengths
    ]

    def given_(places: Any) -> Batch:
        more: dict[str, Any] = {
            "extras": {extra: pad_extra([EXTRAS[extra](facts[one]) for one in places]) for extra in model.reads.extras}
        }
        if form == "segments":
            more |= dict(
                zip(("speech_bounds", "speech_mask"), pad_bounds([bounds[one] for one in places]), strict=True)
            )
        return batch([speech[one] for one in places], [text[one] for one in places], **more)

    together = given_(numbers)
    # What lies under the mask must not matter either.
    assert together.speech is not None
    assert together.text is not None
    for row, (frames, tokens) in enumerate(lengths):
        together.speech[row, :, frames:] = 7.0
        if form == "subwords":
            together.text[row, tokens:] = 3
        else:
            together.text[row, :, tokens:] = -7.0
    with torch.no_grad():
        alone = torch.cat([model(given_([one])).logits for one in numbers])
        torch.testing.assert_close(model(together).logits, alone, atol=1e-9, rtol=0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame, dict[str, Alignment]]:
    """A run of every model, with settings that are not those by default, on utterances that are aligned."""
    folder = tmp_path_factory.mktemp("every")
    manifest = read_corpus("table", tiny_corpus(folder / "corpus", utterances=1)).manifest
    alignments = {
        name: Alignment(utterance=name, tiers=tiers_of(text), source="x")
        for name, text in zip(manifest["utterance"], manifest["text"], strict=True)
    }
    plan = resolve(every())
    features = extract(manifest, plan, folder / "store", alignments=alignments)
    train(manifest, plan, features, folder / "run", jobs=1)
    return folder / "run", manifest.set_index("utterance"), alignments


def every() -> Recipe:
    models = []
    for name in MODELS:
        chosen = small(model_class(name), width=8, dropout=0.2, pooling="mean+std").model_dump(exclude_unset=True)
        models.append({"name": f"v1.0 {name}", "class": name, "settings": chosen})
    return Recipe.model_validate({
        "name": "every", "models": models, "seeds": [0],
        # With one clip a batch, features are the same alone and in a corpus to the last bit.
        "speech": {"encoder": "logmel", "batch_seconds": 0.01}, "text": {"encoder": "words"},
        "train": {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2},
        "protocol": {"kind": "speakers", "folds": 2, "validation_groups": 1},
    })  # fmt: skip


def tiers_of(text: str) -> dict[Tier, tuple[Segment, ...]]:
    """Words in the first 0.36 s, syllables that are half as long, and phones that are a third."""
    words = text.split()

    def spans(labels: list[str]) -> tuple[Segment, ...]:
        edges = [0.36 * place / len(labels) for place in range(len(labels) + 1)]
        times = zip(pairwise(edges), labels, strict=True)
        return tuple(Segment(start=start, end=end, label=label) for (start, end), label in times)

    return {"word": spans(words), "syllable": spans(words * 2), "phone": spans(words * 3)}


@pytest.mark.parametrize("name", MODELS)
def test_settings_become_a_checkpoint_that_predicts_what_the_trained_model_gave(name: str, trained: Any) -> None:
    run, manifest, alignments = trained
    predictor = load(run / "models" / f"v1.0 {name}", asr="none")
    wanted = resolve(every()).model(f"v1.0 {name}")
    found = predictor.checkpoint.networks[f"v1.0 {name}"]
    assert (found.source, found.settings, found.inputs) == (wanted.source, wanted.settings, wanted.inputs)
    # By the network in training, from the store, in a batch; without refitting it is the one that is kept.
    scores = read_scores(run / TRIALS / f"v1.0 {name}" / "final-seed0" / "validation.parquet")
    assert scores.classes == predictor.classes
    answers = []
    for utterance, expected in zip(scores.frame["utterance"], scores.posteriors(), strict=True):
        row = manifest.loc[utterance]
        asked = predictor.predict(row["audio"], text=row["text"], alignment=alignments[utterance])
        assert list(asked.posteriors.values()) == pytest.approx(expected, abs=1e-5)
        answers.append(tuple(expected.round(4)))
    assert len(set(answers)) > 1, "answers that are all alike would prove nothing"


OUTSIDE = """
from pathlib import Path

from emofuse.models.base import Batch, EmotionModel, Inputs, ModelSettings, Output, Text
from emofuse.models.blocks.pooling import Pooling
from emofuse.models.unimodal import Head

Path(__file__).with_suffix(".ran").touch()


class Mine(EmotionModel):
    class Settings(ModelSettings):
        size: int = 4

    def __init__(self, settings, shapes, task):
        super().__init__(settings, shapes, task)
        self.text = shapes.frontend("text", width=settings.size)
        self.pooling = Pooling("mean", settings.size)
        self.head = Head(settings.size, width=settings.size, outputs=task.outputs, dropout=0.0)

    @classmethod
    def inputs(cls, settings):
        return Inputs(text=Text())

    def forward(self, batch):
        return Output(self.head(self.pooling(*self.text(batch))))
"""


def test_a_class_from_outside_is_loaded_from_a_checkpoint_only_if_it_is_trusted(tmp_path: Path) -> None:
    code, ran = tmp_path / "mine.py", tmp_path / "mine.ran"
    code.write_text(OUTSIDE)
    entry = {"name": "mine", "class": f"{code}:Mine", "settings": {"size": 6}}
    plan = resolve(Recipe.model_validate({"name": "own", "models": [entry], "text": {"encoder": "words"}}))
    subwords = Subwords.fit(["so good", "so bad"], size=60, max_tokens=8)
    torch.manual_seed(0)
    network = plan.model("mine").build(Shapes(text=InputShape(0, subwords.size)), TASK)
    checkpoint = Checkpoint(
        name="mine", model=network.eval(), networks={"mine": plan.model("mine")}, task=TASK, speech=SpeechSettings(),
        text=TextSettings(encoder="words"), encoders={}, subwords=subwords, protocol="",
    )  # fmt: skip
    save_checkpoint(checkpoint, tmp_path / "model", card="")
    # As in a process that has not seen the file yet.
    sys.modules.pop(type(network).__module__)
    ran.unlink()
    for untrusted in (lambda: load(tmp_path / "model"), lambda: load_checkpoint(tmp_path / "model", trust=False)):
        with pytest.raises(SettingsError, match=r"mine\.py:Mine is not one of emofuse's own; load it with trust=True"):
            untrusted()
        assert not ran.exists(), "its code must not run"
    answer = load(tmp_path / "model", trust=True).predict(text="so good")
    assert ran.exists()
    tokens, mask = pad(subwords.encode(["so good"]))
    with torch.no_grad():
        expected = network(Batch(text=tokens, text_mask=mask)).logits[0].softmax(-1)
    assert list(answer.posteriors.values()) == pytest.approx(expected.tolist(), abs=1e-6)


# Ensembles


def both(frames: list[torch.Tensor], tokens: list[torch.Tensor]) -> dict[str, Batch]:
    """What members that each read one modality are given."""
    whole = batch(frames, tokens)
    return {modality: only(modality, whole) for modality in ("speech", "text")}


@pytest.mark.parametrize("rule", ["mean", "product"])
@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.2, 0.8), (1.0, 0.0)])
def test_late_fusion_fuses_posteriors_as_score_tables_are_fused(rule: Any, weights: tuple[float, float]) -> None:
    members = {"speech": make("speech"), "text": make("text")}
    model = Ensemble(members, Fusion(rule, weights, temperatures=(1.0, 1.0)))
    assert model.needs == ()
    batches = both([hidden(4, 1), hidden(2, 2)], [hidden(3, 3), hidden(5, 4)])
    with torch.no_grad():
        single = [member(batches[name]).logits.softmax(-1) for name, member in members.items()]
        fused = [model(given_) for given_ in (batches, *({name: batches[name]} for name in members))]
    for one in fused:
        torch.testing.assert_close(one.sum(-1), torch.ones(2).double())
    expected = combine(np.stack([one.numpy() for one in single]), weights, rule=rule)
    np.testing.assert_allclose(fused[0].numpy(), expected, atol=1e-9)
    # A member that is left alone answers, whatever its weight.
    torch.testing.assert_close(fused[1], single[0])
    torch.testing.assert_close(fused[2], single[1])
    with pytest.raises(SettingsError, match="neither speech nor text"):
        model({})


def test_a_member_that_is_not_finite_is_refused_by_name() -> None:
    members = {"speech": make("speech"), "text": make("text")}
    model = Ensemble(members, Fusion("mean", (0.5, 0.5), temperatures=(1.0, 1.0)))
    batches = both([hidden(4, 1)], [hidden(3, 3) * float("inf")])
    with torch.no_grad(), pytest.raises(ScoresError, match="the outputs of text are not finite numbers"):
        model(batches)


def test_what_an_ensemble_cannot_do_without() -> None:
    how = Fusion("mean", (0.5, 0.5), temperatures=(1.0, 1.0))
    late = Ensemble({"speech": make("speech"), "text": make("text")}, how)
    seeds = Ensemble({"one": make("speech"), "two": make("speech")}, how)
    whole = Ensemble({"early-frame": make("early-frame"), "late": late}, how)
    assert (late.needs, seeds.needs, whole.needs) == ((), ("speech",), ("speech", "text"))


# Networks


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("form", ["states", "subwords"])
def test_gradients_reach_every_parameter(name: str, form: Form) -> None:
    model = make(name, form=form)
    text = [torch.arange(1, VOCABULARY)] * 3 if form == "subwords" else [hidden(6, seed) for seed in (2, 3, 4)]
    facts = Facts(text="so very good", gender="male", votes=(0, 1, 0, 0), values={"valence": 1.0})
    extras = {extra: pad_extra([EXTRAS[extra](facts)] * 3) for extra in model.reads.extras}
    # Two of a class and one of another, for losses that compare; more steps than characters, for CTC.
    truth = torch.tensor([1, 1, 2])
    inputs = batch([hidden(15, seed) for seed in (5, 6, 7)], text, extras=extras, truth=truth, targets=truth)
    losses = model.losses(model(inputs), inputs, progress=0.5)
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    unreached = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None
        # A constant added to all keys or scores falls out of a softmax, so its gradient is zero by nature.
        or (parameter.grad.abs().max() == 0 and not name.endswith("pooling.score.bias"))
    ]
    assert unreached == []


@pytest.mark.parametrize("name", ["speech", "text", "concat", "early-frame"])
def test_a_state_dict_carries_the_whole_model(name: str) -> None:
    model = make(name)
    torch.manual_seed(5)
    shapes = Shapes(speech=InputShape(LAYERS, WIDTH), text=InputShape(LAYERS, WIDTH))
    other = model_class(name)(small(model_class(name), width=8, heads=2, layers=2), shapes, TASK).double().eval()
    inputs = batch([hidden(4, 1)], [hidden(3, 3)])
    with torch.no_grad():
        assert not torch.allclose(other(inputs).logits, model(inputs).logits)
        other.load_state_dict(model.state_dict())
        assert torch.equal(other(inputs).logits, model(inputs).logits)


def test_early_fusion_drops_whole_features_of_its_inputs() -> None:
    """Dropout of single steps would average out in the pooling; whole features are gone from every step."""
    torch.manual_seed(0)
    dropped = LockedDropout(0.4)(torch.ones(50, 7, 20))
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))
    assert 0.55 < float((dropped[:, 0] != 0).double().mean()) < 0.65
    assert float(dropped.max()) == pytest.approx(1 / 0.6)
    assert not torch.equal(dropped[0, 0], dropped[1, 0]), "utterances are drawn apart"
    steps = torch.randn(2, 3, 4)
    assert torch.equal(LockedDropout(0.4).eval()(steps), steps)
    assert any(isinstance(module, LockedDropout) for module in make("early-frame").modules())


def test_models_are_plain_modules() -> None:
    """No store, settings file or manifest is needed: tensors in, logits out, and torch's own tools apply."""
    torch.manual_seed(0)
    shapes = Shapes(speech=InputShape(1, 5), text=InputShape(0, 9))
    model = nn.ModuleDict({
        "emotion": EarlyFusion(EarlyFusion.Settings(width=8, heads=2, dropout=0.2), shapes, Classification(("a", "b")))
    })["emotion"]  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    inputs = Batch(
        speech=torch.randn(4, 1, 3, 5),
        speech_mask=torch.ones(4, 3).bool(),
        text=torch.tensor([[2], [2], [3], [3]]),
        text_mask=torch.ones(4, 1).bool(),
    )
    labels = torch.tensor([0, 0, 1, 1])
    model.train()
    assert not torch.equal(model(inputs).logits, model(inputs).logits), "dropout is at work in training"
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs).logits, labels).backward()
        optimizer.step()
    model.eval()
    assert torch.equal(model(inputs).logits, model(inputs).logits)
    assert model(inputs).logits.argmax(-1).tolist() == labels.tolist()
    assert next(model.half().parameters()).dtype == torch.float16


@pytest.mark.parametrize("name", ["speech", "text", "concat", "early-frame"])
def test_a_missing_modality_is_named(name: str) -> None:
    model = make(name)
    inputs = batch([hidden(4, 1)], [hidden(3, 3)])
    for modality in model.reads.modalities:
        lacking: Any = {modality: None}
        with pytest.raises(SettingsError, match=f"needs {modality} and its mask"):
            model(replace(inputs, **lacking))


def test_the_padding_id_has_no_vector_of_its_own() -> None:
    embedding = TokenEmbedding(5, 3)
    embedding(torch.tensor([[0, 1]])).sum().backward()
    assert embedding.embedding.weight.grad is not None
    assert embedding.embedding.weight.grad[0].abs().max() == 0
    assert embedding(torch.tensor([[0]])).abs().max() == 0
