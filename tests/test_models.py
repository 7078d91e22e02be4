from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pytest
import torch
from emofuse.models.front import SMALLEST_DEVIATION, LayerMix, LockedDropout, SegmentMix, WordEmbedding
from emofuse.training.material import PARTS, speech_shape
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from emofuse.encoders.logmel import LogMelEncoder
from emofuse.errors import ScoresError, SettingsError
from emofuse.features.dataset import pad, statistics_of, without_constants
from emofuse.models import CoAttention, CoAttentionLayer, EmotionModel, InputShape, JoinedModel, build_model
from emofuse.models.pooling import Pooling, PoolingKind
from emofuse.scoring.fuse import Joining, combine
from emofuse.settings import ModelKind, ModelSettings, SpeechSettings, load_recipe

Array = NDArray[np.float64]
KINDS: tuple[ModelKind, ...] = tuple(kind for kind in get_args(ModelKind) if kind not in PARTS)
POOLINGS: tuple[PoolingKind, ...] = get_args(PoolingKind)
LAYERS, WIDTH, VOCABULARY, CLASSES = 3, 6, 20, 4


def spread(module: nn.Module, seed: int = 0) -> None:
    """Random values everywhere: fresh biases are zero and fresh norms one, and would hide that they are unused."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.6)


def make(kind: ModelKind, *, pooling: PoolingKind = "attentive", words: bool = False, layers: int = 2) -> EmotionModel:
    shape = ModelSettings(width=8, heads=2, layers=layers, dropout=0.4, pooling=pooling)
    text = InputShape(0, VOCABULARY) if words else InputShape(LAYERS, WIDTH)
    model = build_model(kind, shape, classes=CLASSES, speech=InputShape(LAYERS, WIDTH), text=text).double().eval()
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


def batch(speech: list[torch.Tensor], text: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    (frames, frames_mask), (tokens, tokens_mask) = pad(speech), pad(text)
    return {"speech": frames, "speech_mask": frames_mask, "text": tokens, "text_mask": tokens_mask}


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
        heard = np.zeros(width)
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            scores = []
            for position, there in enumerate(other):
                offered = (key @ there + key_bias)[part]
                scores.append(float(asked[part] @ offered) / math.sqrt(size) if valid[position] else -math.inf)
            powers = [math.exp(score - max(scores)) for score in scores]
            for position, there in enumerate(other):
                heard[part] += powers[position] / sum(powers) * (value @ there + value_bias)[part]
        attended = weights["attention.out_proj.weight"] @ heard + weights["attention.out_proj.bias"]
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
        heard = speech if parallel else new_speech
        text = slow_direction(text, heard, speech_valid, weights_of(layer.text), heads)
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
    shape = speech_shape("speech", load_recipe("speech"), LogMelEncoder(SpeechSettings(encoder="logmel")).specification)
    deviation = torch.tensor([2.0, 0.02, 0.01]).repeat_interleave(80)
    for kind, band in ((0, 64), (1, 144), (2, 224)):
        deviation[band : 80 * (kind + 1)] *= 0.07
    mix = shape.front(8)
    mix.standardise_by(torch.full((1, 240), -20.0), deviation[None])
    alive = (torch.arange(240) % 80 < 64)[None]
    torch.testing.assert_close(mix.deviation, deviation.where(alive, 0.0))


@pytest.mark.parametrize("kind", POOLINGS)
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


# Whole models


@pytest.mark.parametrize("words", [False, True], ids=["states", "words"])
@pytest.mark.parametrize("kind", KINDS)
@given(lengths=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 7)), min_size=2, max_size=4), data=st.data())
@settings(max_examples=15, deadline=None)
def test_padding_never_changes_an_answer(
    kind: ModelKind, words: bool, lengths: list[tuple[int, int]], data: st.DataObject
) -> None:
    model = make(kind, pooling=data.draw(st.sampled_from(POOLINGS)), words=words)
    speech = [hidden(frames, seed) for seed, (frames, _) in enumerate(lengths)]
    text = [ids(tokens, seed) if words else hidden(tokens, seed + 100) for seed, (_, tokens) in enumerate(lengths)]
    inputs = batch(speech, text)
    # What lies under the mask must not matter either.
    inputs["speech"].transpose(1, 2)[~inputs["speech_mask"]] = 7.0
    if words:
        inputs["text"][~inputs["text_mask"]] = 3
    else:
        inputs["text"].transpose(1, 2)[~inputs["text_mask"]] = -7.0
    with torch.no_grad():
        together = model(**inputs)
        alone = torch.cat([model(**batch([one], [other])) for one, other in zip(speech, text, strict=True)])
    torch.testing.assert_close(together, alone, atol=1e-9, rtol=0)


@pytest.mark.parametrize("rule", ["mean", "product"])
@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.2, 0.8), (1.0, 0.0)])
def test_late_fusion_joins_posteriors_as_score_tables_are_joined(rule: Any, weights: tuple[float, float]) -> None:
    members = {"speech": make("speech"), "text": make("text")}
    model = JoinedModel(members, Joining(rule, weights, temperatures=(1.0, 1.0)))
    assert model.streams == ()
    whole = batch([hidden(4, 1), hidden(2, 2)], [hidden(3, 3), hidden(5, 4)])
    inputs = {name: {key: value for key, value in whole.items() if key.startswith(name)} for name in members}
    with torch.no_grad():
        single = [member(**inputs[name]).softmax(-1) for name, member in members.items()]
        logs = [model(given) for given in (inputs, {"speech": inputs["speech"]}, {"text": inputs["text"]})]
    for one in logs:
        torch.testing.assert_close(one.exp().sum(-1), torch.ones(2).double())
    expected = combine(np.stack([one.numpy() for one in single]), weights, rule=rule)
    np.testing.assert_allclose(logs[0].exp().numpy(), expected, atol=1e-9)
    # A member that is left alone answers, whatever its weight.
    torch.testing.assert_close(logs[1].exp(), single[0])
    torch.testing.assert_close(logs[2].exp(), single[1])
    with pytest.raises(SettingsError, match="neither speech nor text"):
        model({})


def test_a_member_that_is_not_finite_is_refused_by_name() -> None:
    members = {"speech": make("speech"), "text": make("text")}
    model = JoinedModel(members, Joining("mean", (0.5, 0.5), temperatures=(1.0, 1.0)))
    whole = batch([hidden(4, 1)], [hidden(3, 3) * float("inf")])
    inputs = {name: {key: value for key, value in whole.items() if key.startswith(name)} for name in members}
    with torch.no_grad(), pytest.raises(ScoresError, match="the posteriors of text are not finite numbers"):
        model(inputs)


def test_what_a_joined_model_cannot_do_without() -> None:
    how = Joining("mean", (0.5, 0.5), temperatures=(1.0, 1.0))
    late = JoinedModel({"speech": make("speech"), "text": make("text")}, how)
    seeds = JoinedModel({"one": make("speech"), "two": make("speech")}, how)
    both = JoinedModel({"early-frame": make("early-frame"), "late": late}, how)
    assert (late.streams, seeds.streams, both.streams) == ((), ("speech",), ("speech", "text"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("words", [False, True], ids=["states", "words"])
def test_gradients_reach_every_parameter(kind: ModelKind, words: bool) -> None:
    model = make(kind, words=words)
    text = [torch.arange(1, VOCABULARY)] if words else [hidden(6, 2)]
    inputs = batch([hidden(5, 1)], text)
    nn.functional.cross_entropy(model(**inputs), torch.tensor([1])).backward()
    unreached = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None
        # A constant added to all keys or scores falls out of a softmax, so its gradient is zero by nature.
        or (parameter.grad.abs().max() == 0 and not name.endswith("pooling.score.bias"))
    ]
    assert unreached == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_dict_carries_the_whole_model(kind: ModelKind) -> None:
    model = make(kind)
    torch.manual_seed(5)
    other = build_model(
        kind,
        ModelSettings(width=8, heads=2, layers=2),
        classes=CLASSES,
        speech=InputShape(LAYERS, WIDTH),
        text=InputShape(LAYERS, WIDTH),
    )
    other = other.double().eval()
    inputs = batch([hidden(4, 1)], [hidden(3, 3)])
    with torch.no_grad():
        assert not torch.allclose(other(**inputs), model(**inputs))
        other.load_state_dict(model.state_dict())
        assert torch.equal(other(**inputs), model(**inputs))


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
    model = nn.ModuleDict({"emotion": build_model(
        "early-frame", ModelSettings(width=8, heads=2, dropout=0.2), classes=2, speech=InputShape(1, 5),
        text=InputShape(0, 9))})["emotion"]  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    inputs = {
        "speech": torch.randn(4, 1, 3, 5),
        "speech_mask": torch.ones(4, 3).bool(),
        "text": torch.tensor([[2], [2], [3], [3]]),
        "text_mask": torch.ones(4, 1).bool(),
    }
    labels = torch.tensor([0, 0, 1, 1])
    model.train()
    assert not torch.equal(model(**inputs), model(**inputs)), "dropout is at work in training"
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(**inputs), labels).backward()
        optimizer.step()
    model.eval()
    assert torch.equal(model(**inputs), model(**inputs))
    assert model(**inputs).argmax(-1).tolist() == labels.tolist()
    assert next(model.half().parameters()).dtype == torch.float16


@pytest.mark.parametrize("kind", ["speech", "text", "concat", "early-frame"])
def test_a_missing_stream_is_named(kind: ModelKind) -> None:
    model = make(kind)
    inputs = batch([hidden(4, 1)], [hidden(3, 3)])
    for stream in model.streams:
        with pytest.raises(SettingsError, match=f"needs {stream} and its mask"):
            model(**{name: value for name, value in inputs.items() if not name.startswith(stream)})


def test_the_padding_id_has_no_vector_of_its_own() -> None:
    embedding = WordEmbedding(5, 3)
    embedding(torch.tensor([[0, 1]])).sum().backward()
    assert embedding.embedding.weight.grad is not None
    assert embedding.embedding.weight.grad[0].abs().max() == 0
    assert embedding(torch.tensor([[0]])).abs().max() == 0
