"""Each building block against a reference that does not share its code."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from emofuse.errors import SettingsError
from emofuse.models.blocks.attention import Attention, Cross, Lognormal, StochasticAttention, Weibull
from emofuse.models.blocks.gates import ConvexGate, Highway, SelectiveKernel, VectorGate
from emofuse.models.blocks.heads import UnimodalHeads
from emofuse.models.blocks.losses import ctc, info_nce, published_contrast, supervised_contrast
from emofuse.models.blocks.pooling import Pooling, PoolingKind
from emofuse.models.blocks.positions import sinusoidal
from emofuse.models.blocks.windows import at_levels, windows_by_fraction, windows_by_seconds

WIDTH, HEADS = 8, 2
Module = TypeVar("Module", bound=nn.Module)
NOISES = (Lognormal(0.3, 0.8), Weibull(3.0, 2.0))


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def lengths(*counts: int, steps: int | None = None) -> torch.Tensor:
    return torch.arange(steps or max(counts)) < torch.tensor(counts)[:, None]


def spread(module: Module, seed: int = 0) -> Module:
    """Random values everywhere: fresh biases are zero and fresh norms one, and would hide that they are unused."""
    with torch.no_grad():
        for number, parameter in enumerate(module.double().parameters()):
            parameter.copy_(0.6 * numbers(*parameter.shape, seed=seed + number))
    return module


# Attention


def test_attention_equals_torchs_with_the_same_weights() -> None:
    reference = spread(nn.MultiheadAttention(WIDTH, HEADS, batch_first=True))
    attention = Attention(WIDTH, heads=HEADS).double()
    attention.load_state_dict(reference.state_dict())
    queries, keys, mask = numbers(2, 5, WIDTH), numbers(2, 7, WIDTH, seed=1), lengths(7, 4)
    expected, _ = reference(queries, keys, keys, key_padding_mask=~mask)
    torch.testing.assert_close(attention(queries, keys, mask), expected)
    torch.testing.assert_close(attention(queries, keys, mask, bias=torch.zeros(1, 1, 5, 7)), expected)
    bias = numbers(2, HEADS, 5, 7, seed=2)
    hidden = bias.masked_fill(~mask[:, None, None], float("-inf")).flatten(0, 1)
    expected, _ = reference(queries, keys, keys, attn_mask=hidden)
    torch.testing.assert_close(attention(queries, keys, mask, bias=bias), expected)


def test_a_query_without_a_key_reads_zeros() -> None:
    attention = spread(Attention(WIDTH, heads=HEADS))
    steps = numbers(2, 3, WIDTH).requires_grad_()
    bias = torch.zeros(1, 1, 3, 3)
    bias[..., 1, :] = float("-inf")
    result = attention(steps, steps, lengths(3, 0), bias=bias)
    assert (result[1] == 0).all()
    assert (result[0, 1] == 0).all()
    assert (result[0, [0, 2]] != 0).all()
    result.sum().backward()
    assert steps.grad is not None
    assert steps.grad.isfinite().all()
    assert (steps.grad[1] == 0).all()


@pytest.mark.parametrize("hidden", [None, 5])
def test_a_block_on_its_own_sequence_equals_torchs_encoder_layer(hidden: int | None) -> None:
    reference = spread(nn.TransformerEncoderLayer(WIDTH, HEADS, hidden or 4 * WIDTH, batch_first=True)).eval()
    block = Cross(WIDTH, heads=HEADS, dropout=0.1, hidden=hidden).double().eval()
    names = {"self_attn": "attention", "linear1": "feed_forward.0", "linear2": "feed_forward.3"}
    names |= {"norm1": "norm", "norm2": "last_norm"}
    weights = {name.replace(old := name.split(".")[0], names[old]): one for name, one in reference.state_dict().items()}
    block.load_state_dict(weights)
    steps, mask = numbers(2, 6, WIDTH), lengths(6, 4)
    expected = reference(steps, src_key_padding_mask=~mask)
    torch.testing.assert_close(block(steps, steps, mask)[mask], expected[mask])


@pytest.mark.parametrize("noise", NOISES)
def test_random_attention_is_plain_attention_outside_training(noise: Lognormal | Weibull) -> None:
    plain = spread(Attention(WIDTH, heads=HEADS)).eval()
    random = StochasticAttention(WIDTH, heads=HEADS, noise=noise).double().eval()
    random.load_state_dict(plain.state_dict())
    queries, keys, mask = numbers(2, 5, WIDTH), numbers(2, 7, WIDTH, seed=1), lengths(7, 4)
    assert torch.equal(random(queries, keys, mask), plain(queries, keys, mask))
    attended, log_weights = random.attend(queries, keys, mask)
    assert torch.equal(attended, plain(queries, keys, mask))
    torch.testing.assert_close(log_weights.exp(), plain.weigh(plain.logits(queries, keys, mask)))
    random.train()
    assert not torch.allclose(random(queries, keys, mask), plain(queries, keys, mask), atol=1e-3)


@pytest.mark.parametrize("noise", [Lognormal(0.0), Weibull(1e9, 1.0)])
def test_attention_without_noise_is_plain_in_training_too(noise: Lognormal | Weibull) -> None:
    plain = spread(Attention(WIDTH, heads=HEADS))
    random = StochasticAttention(WIDTH, heads=HEADS, noise=noise).double().train()
    random.load_state_dict(plain.state_dict())
    queries, keys, mask = numbers(2, 5, WIDTH), numbers(2, 7, WIDTH, seed=1), lengths(7, 4)
    torch.testing.assert_close(random(queries, keys, mask), plain(queries, keys, mask), rtol=0, atol=1e-6)


@pytest.mark.parametrize("noise", [Lognormal(5.0), Weibull(0.2, 1.0)])
def test_a_masked_key_gets_no_weight_at_any_noise(noise: Lognormal | Weibull) -> None:
    random = spread(StochasticAttention(WIDTH, heads=HEADS, noise=noise)).train()
    queries, keys, mask = numbers(2, 5, WIDTH), numbers(2, 7, WIDTH, seed=1), lengths(4, 0, steps=7)
    weights = random.weigh(random.logits(queries, keys, mask))
    assert (weights[0, ..., 4:] == 0).all()
    assert (weights[1] == 0).all()
    torch.testing.assert_close(weights[0].sum(-1), torch.ones(HEADS, 5).double())


@pytest.mark.parametrize("noise", NOISES)
def test_random_weights_have_the_plain_weight_as_their_mean(noise: Lognormal | Weibull) -> None:
    torch.manual_seed(0)
    drawn = noise.perturb(torch.tensor(0.3).double().log().expand(200_000)).exp()
    assert drawn.mean().item() == pytest.approx(0.3, rel=0.005)


def mean_over(quantile: Callable[[torch.Tensor], torch.Tensor], value: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Mean over a million samples, one from each millionth of the distribution."""
    return value(quantile((torch.arange(1_000_000).double() + 0.5) / 1_000_000)).mean().item()


def test_divergence_of_lognormal_weights_is_that_of_samples() -> None:
    noise, weight, prior = Lognormal(0.3, 0.8), torch.tensor(0.4).double(), torch.tensor(0.2).double()
    own = torch.distributions.LogNormal(weight.log() - 0.3**2 / 2, 0.3)
    other = torch.distributions.LogNormal(prior.log() - 0.8**2 / 2, 0.8)
    sampled = mean_over(own.icdf, lambda drawn: own.log_prob(drawn) - other.log_prob(drawn))
    closed = noise.divergence(weight.log(), prior.log()).item()
    assert closed == pytest.approx(sampled, abs=1e-3)
    assert closed == pytest.approx(torch.distributions.kl_divergence(own, other).item())


def test_divergence_of_weibull_weights_is_that_of_samples() -> None:
    noise, weight, prior = Weibull(3.0, 2.0), torch.tensor(0.4).double(), torch.tensor(0.2).double()
    own = torch.distributions.Weibull(weight / math.gamma(1 + 1 / 3), torch.tensor(3.0).double())
    other = torch.distributions.Gamma(2 * prior, torch.tensor(2.0).double())
    assert own.mean.item() == pytest.approx(0.4)
    sampled = mean_over(own.icdf, lambda drawn: own.log_prob(drawn) - other.log_prob(drawn))
    assert noise.divergence(weight.log(), prior.log()).item() == pytest.approx(sampled, abs=1e-3)


def test_there_is_no_divergence_from_the_same_distribution() -> None:
    weights = torch.tensor([0.1, 0.2, 0.7]).double().log()
    assert Lognormal(0.4, 0.4).divergence(weights, weights).abs().max().item() < 1e-12


@pytest.mark.parametrize("noise", NOISES)
def test_mean_divergence_is_over_valid_pairs(noise: Lognormal | Weibull) -> None:
    random = spread(StochasticAttention(WIDTH, heads=HEADS, noise=noise))
    queries, keys = numbers(2, 5, WIDTH).requires_grad_(), numbers(2, 7, WIDTH, seed=1)
    prior = numbers(2, 1, 1, 7, seed=2).log_softmax(-1)
    own, other = lengths(5, 3), lengths(7, 4)
    _, log_weights = random.attend(queries, keys, other)
    together = random.divergence(log_weights, prior, queries=own, keys=other)
    total = 0.0
    for row, (first, second) in enumerate([(5, 7), (3, 4)]):
        _, alone = random.attend(queries[row, None, :first], keys[row, None, :second], torch.ones(1, second).bool())
        total += noise.divergence(alone, prior[row, ..., :second]).sum().item()
    assert together.item() == pytest.approx(total / HEADS / (5 * 7 + 3 * 4))
    together.backward()
    assert queries.grad is not None
    assert queries.grad.isfinite().all()
    assert (queries.grad[1, 3:] == 0).all()


# Windows and levels


def seen_by_fraction(queries: int, keys: int, size: int, level: int) -> list[set[int]]:
    """The rule as the paper's code has it, key by key."""
    windows = math.ceil(keys / size)
    found = []
    for query in range(queries):
        centre = (math.floor(query * windows / queries) + 0.5) * keys / level / windows
        order = sorted(range(math.ceil(keys / level)), key=lambda key: (round(abs(key + 0.5 - centre), 9), key))
        found.append(set(order[:size]))
    return found


@given(
    queries=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    data=st.data(),
    size=st.integers(1, 6),
    levels=st.lists(st.integers(1, 5), min_size=1, max_size=3),
)
def test_a_window_holds_the_nearest_keys(queries: list[int], data: st.DataObject, size: int, levels: list[int]) -> None:
    keys = [data.draw(st.integers(1, 20)) for _ in queries]
    mask = lengths(*keys)
    bias = windows_by_fraction(lengths(*queries), mask, size=size, levels=levels)
    assert set(bias.unique().tolist()) <= {0.0, float("-inf")}
    start = 0
    for level in levels:
        count = math.ceil(max(keys) / level)
        part = bias[:, 0, :, start : start + count] == 0
        start += count
        for row, (own, other) in enumerate(zip(queries, keys, strict=True)):
            found = [set(one.nonzero().flatten().tolist()) for one in part[row, :own]]
            assert found == seen_by_fraction(own, other, size, level)
    assert bias.shape[3] == start == at_levels(numbers(len(keys), max(keys), 2), mask, levels)[0].shape[1]


def test_of_two_keys_equally_near_the_left_one_is_seen() -> None:
    bias = windows_by_fraction(lengths(5), lengths(14), size=3)
    # The third of five windows has its centre at 7, on the boundary of two keys.
    assert (bias[0, 0, 2] == 0).nonzero().flatten().tolist() == [5, 6, 7]


def test_one_window_over_everything_is_plain_attention() -> None:
    attention = spread(Attention(WIDTH, heads=HEADS))
    queries, keys, own, mask = numbers(2, 5, WIDTH), numbers(2, 7, WIDTH, seed=1), lengths(5, 2), lengths(7, 4)
    for size in (7, 30):
        pooled, valid = at_levels(keys, mask, (1,))
        bias = windows_by_fraction(own, mask, size=size)
        torch.testing.assert_close(attention(queries, pooled, valid, bias=bias), attention(queries, keys, mask))


def test_a_query_never_reads_a_key_outside_its_window() -> None:
    attention = spread(Attention(WIDTH, heads=HEADS))
    queries, keys, mask = numbers(1, 4, WIDTH), numbers(1, 12, WIDTH, seed=1).requires_grad_(), lengths(12)
    bias = windows_by_fraction(lengths(4), mask, size=2)
    for query in range(4):
        (gradient,) = torch.autograd.grad(attention(queries, keys, mask, bias=bias)[0, query].sum(), keys)
        read = (gradient[0] != 0).any(-1)
        assert read.tolist() == (bias[0, 0, query] == 0).tolist()
        assert int(read.sum()) == 2


def test_levels_average_valid_steps() -> None:
    steps, mask = numbers(2, 7, 3), lengths(7, 4)
    pooled, valid = at_levels(steps, mask, (1, 3))
    torch.testing.assert_close(pooled[:, :7][mask], steps[mask])
    torch.testing.assert_close(pooled[0, 7:], torch.stack([steps[0, :3].mean(0), steps[0, 3:6].mean(0), steps[0, 6]]))
    torch.testing.assert_close(pooled[1, 7:9], torch.stack([steps[1, :3].mean(0), steps[1, 3]]))
    assert valid.tolist() == [[True] * 10, [*mask[1].tolist(), True, True, False]]
    gaps = torch.tensor([[True, False, True, True, False, True, False]])
    pooled, valid = at_levels(steps[:1], gaps, (2,))
    torch.testing.assert_close(pooled[valid], torch.stack([steps[0, [0, 2]].mean(0), steps[0, [3, 5]].mean(0)]))


def test_levels_of_constant_keys_change_nothing() -> None:
    attention = spread(Attention(WIDTH, heads=HEADS))
    queries, mask = numbers(2, 5, WIDTH), lengths(7, 4)
    keys = numbers(2, 1, WIDTH, seed=1).expand(2, 7, WIDTH)
    plain = attention(queries, keys, mask)
    for levels in ((1, 2, 4), (3,)):
        bias = windows_by_fraction(lengths(5, 3), mask, size=2, levels=levels)
        torch.testing.assert_close(attention(queries, *at_levels(keys, mask, levels), bias=bias), plain)


def test_windows_by_seconds_follow_the_times() -> None:
    mask = torch.tensor([[True, True, True, True, False]])
    times = torch.tensor([[0.0, 1.0, 10.0, 12.0, 0.5]])
    bias = windows_by_seconds(torch.tensor([[11.2, 0.4, float("nan")]]), times, mask, size=1, levels=(1, 2))
    shown = bias[0, 0] == 0
    # The averages of two are at 0.5 and 11 seconds, and a third is over padding alone.
    assert shown[0].tolist() == [False, False, False, True, False, False, True, False]
    assert shown[1].tolist() == [True, False, False, False, False, True, False, False]
    assert shown[2].tolist() == [True, True, True, True, False, True, True, False]


def test_a_key_of_unknown_time_is_the_farthest() -> None:
    mask, unknown = torch.ones(1, 4).bool(), float("nan")
    times = torch.tensor([[unknown, 1.0, 2.0, unknown]])
    bias = windows_by_seconds(torch.tensor([[0.0]]), times, mask, size=2, levels=(1, 2))
    assert (bias[0, 0, 0] == 0).tolist() == [False, True, True, False, True, True]
    nowhere = windows_by_seconds(torch.tensor([[0.0]]), torch.full((1, 4), unknown), mask, size=1)
    assert (nowhere == 0).all()


# Pooling


@pytest.mark.parametrize(("kind", "k"), [("dot", 1), ("top-k", 9), ("top-k", 7)])
def test_limits_that_are_the_mean(kind: PoolingKind, k: int) -> None:
    pooling = Pooling(kind, WIDTH, k=k).double()
    for parameter in pooling.parameters():
        nn.init.zeros_(parameter)
    steps, mask = numbers(2, 7, WIDTH), lengths(7, 4)
    expected = torch.stack([steps[0].mean(0), steps[1, :4].mean(0)])
    torch.testing.assert_close(pooling(steps, mask), expected)


def test_maximum_and_the_largest_value() -> None:
    steps, mask = numbers(2, 7, WIDTH), lengths(7, 4)
    expected = torch.stack([steps[0].amax(0), steps[1, :4].amax(0)])
    assert torch.equal(Pooling("max", WIDTH)(steps, mask), expected)
    assert torch.equal(Pooling("top-k", WIDTH, k=1)(steps, mask), expected)
    second = Pooling("top-k", WIDTH, k=2)(steps, mask)
    np.testing.assert_allclose(second[1], np.sort(steps[1, :4], axis=0)[-2:].mean(0))


def test_a_query_weighs_by_its_scaled_dot_product() -> None:
    pooling = spread(Pooling("dot", WIDTH))
    steps, mask = numbers(2, 7, WIDTH), lengths(7, 4)
    assert pooling.query is not None
    for row, count in enumerate((7, 4)):
        own = steps[row, :count].numpy()
        weights = np.exp(own @ pooling.query.detach().numpy() / math.sqrt(WIDTH))
        np.testing.assert_allclose(pooling(steps, mask)[row].detach(), weights @ own / weights.sum())
    with torch.no_grad():
        pooling.query.mul_(1e4)
    best = (steps[0] @ pooling.query).argmax()
    torch.testing.assert_close(pooling(steps, mask)[0], steps[0, best])


# Gates


def forced(layer: nn.Linear, bias: float) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, bias)


def test_gates_at_their_limits() -> None:
    first, second = numbers(3, 5, WIDTH), numbers(3, 5, WIDTH, seed=1)
    vector, convex, highway = VectorGate(2 * WIDTH, WIDTH), ConvexGate(WIDTH), spread(Highway(WIDTH))
    condition = torch.cat([first, second], dim=-1)
    transformed = highway.transform(first).relu()
    for bias, open_, mixed, passed in [
        (50.0, first, first, transformed),
        (-50.0, torch.zeros_like(first), second, first),
        (0.0, first / 2, (first + second) / 2, (transformed + first) / 2),
    ]:
        forced(vector.double().linear, bias)
        forced(convex.double().linear, bias)
        forced(highway.gate, bias)
        torch.testing.assert_close(vector(condition) * first, open_)
        torch.testing.assert_close(convex(first, second), mixed)
        torch.testing.assert_close(highway(first), passed)


def test_a_selective_kernel_at_its_limits() -> None:
    inputs = [numbers(3, WIDTH, seed=seed) for seed in range(3)]
    kernel = spread(SelectiveKernel(WIDTH, inputs=3))
    forced(kernel.scores, 0.7)
    torch.testing.assert_close(kernel(inputs), torch.stack(inputs).mean(0))
    for chosen in range(3):
        nn.init.zeros_(kernel.scores.bias)
        with torch.no_grad():
            kernel.scores.bias[chosen * WIDTH : (chosen + 1) * WIDTH] = 50.0
        torch.testing.assert_close(kernel(inputs), inputs[chosen])


def test_gates_depend_on_their_condition_as_stated() -> None:
    first, second = numbers(3, WIDTH), numbers(3, WIDTH, seed=1)
    both = torch.cat([first, second], dim=-1)
    vector, convex = spread(VectorGate(2 * WIDTH, WIDTH)), spread(ConvexGate(WIDTH))
    opened = 1 / (1 + torch.exp(-(both @ vector.linear.weight.T + vector.linear.bias)))
    torch.testing.assert_close(vector(both), opened)
    opened = 1 / (1 + torch.exp(-(both @ convex.linear.weight.T + convex.linear.bias)))
    torch.testing.assert_close(convex(first, second), opened * first + (1 - opened) * second)


# Heads


def test_extra_heads_of_no_weight_change_no_gradient() -> None:
    heads = spread(UnimodalHeads({"speech": WIDTH, "text": WIDTH}, outputs=4))
    encoder, labels, inputs = spread(nn.Linear(3, WIDTH)), torch.tensor([0, 3]), numbers(2, 3)

    def gradients(weight: float | None) -> list[torch.Tensor]:
        encoder.zero_grad()
        vector = encoder(inputs)
        losses = [nn.functional.cross_entropy(vector, labels)]
        if weight is not None:
            found = heads.losses(
                {"speech": vector, "text": vector}, lambda out: nn.functional.cross_entropy(out, labels), weight=weight
            )
            assert set(found) == {"speech_head", "text_head"}
            losses += found.values()
        torch.stack(losses).sum().backward()
        return [parameter.grad.clone() for parameter in encoder.parameters() if parameter.grad is not None]

    plain = gradients(None)
    assert all(torch.equal(one, other) for one, other in zip(plain, gradients(0.0), strict=True))
    assert not any(torch.allclose(one, other) for one, other in zip(plain, gradients(0.5), strict=True))


def test_each_head_reads_its_own_vector() -> None:
    heads = spread(UnimodalHeads({"speech": 3, "text": 5}, outputs=4))
    speech, text = numbers(2, 3), numbers(2, 5)
    found = heads({"text": text, "speech": speech})
    torch.testing.assert_close(found["speech"], heads["speech"](speech))
    torch.testing.assert_close(found["text"], heads["text"](text))


# Losses


def test_contrast_of_equal_vectors() -> None:
    for count in (2, 5, 32):
        same = numbers(1, WIDTH).expand(count, WIDTH)
        loss = supervised_contrast(same, torch.zeros(count), temperature=0.07)
        assert loss.item() == pytest.approx(math.log(count - 1), abs=1e-9)
        assert info_nce(same, same, temperature=0.07).item() == pytest.approx(math.log(count))


def test_supervised_contrast_is_its_formula() -> None:
    vectors, labels = numbers(7, WIDTH), [0, 1, 0, 2, 1, 0, 3]
    unit = vectors.numpy() / np.linalg.norm(vectors.numpy(), axis=1, keepdims=True)
    terms = []
    for i, own in enumerate(labels):
        positives = [p for p, label in enumerate(labels) if label == own and p != i]
        if positives:
            below = sum(math.exp(unit[i] @ unit[a] / 0.2) for a in range(7) if a != i)
            terms.append(-np.mean([math.log(math.exp(unit[i] @ unit[p] / 0.2) / below) for p in positives]))
    assert len(terms) == 5
    loss = supervised_contrast(3 * vectors, torch.tensor(labels), temperature=0.2)
    assert loss.item() == pytest.approx(np.mean(terms))


def test_the_published_contrast_is_its_formula() -> None:
    vectors, labels = numbers(5, WIDTH), [0, 1, 0, 2, 0]
    unit = vectors.numpy() / np.linalg.norm(vectors.numpy(), axis=1, keepdims=True)
    terms = []
    for i, own in enumerate(labels):
        below = math.log(sum(math.exp(unit[i] @ unit[a]) for a in range(5)))
        terms.append(np.mean([(below - unit[i] @ unit[p]) / 0.2 for p in range(5) if labels[p] == own]))
    loss = published_contrast(3 * vectors, torch.tensor(labels), temperature=0.2)
    assert loss.item() == pytest.approx(np.mean(terms))


@pytest.mark.parametrize("count", [1, 3])
def test_contrast_without_an_anchor_is_nothing(count: int) -> None:
    vectors = numbers(count, WIDTH).requires_grad_()
    loss = supervised_contrast(vectors, torch.arange(count), temperature=0.1)
    loss.backward()
    assert loss.item() == 0
    assert vectors.grad is not None
    assert (vectors.grad == 0).all()


def test_info_nce_is_its_formula() -> None:
    first, second = numbers(5, WIDTH), numbers(5, WIDTH, seed=1)
    cosines = torch.cosine_similarity(first[:, None], second[None], dim=-1).numpy() / 0.3
    expected = np.mean([np.log(np.exp(row).sum()) - row[i] for i, row in enumerate(cosines)])
    assert info_nce(first, second, temperature=0.3).item() == pytest.approx(expected)


def test_ctc_of_one_and_two_steps() -> None:
    logits = numbers(1, 2, 3)
    probability = logits.softmax(-1)[0]
    one = ctc(logits[:, :1], lengths(1), torch.tensor([[2]]))
    assert one.item() == pytest.approx(-math.log(probability[0, 2]))
    blank, label = probability[:, 0], probability[:, 2]
    either = label[0] * label[1] + label[0] * blank[1] + blank[0] * label[1]
    assert ctc(logits, lengths(2), torch.tensor([[2]])).item() == pytest.approx(-math.log(either))


def test_ctc_sums_over_all_paths_and_ignores_padding() -> None:
    logits, targets, steps = numbers(3, 6, 4), torch.tensor([[1, 1, 3], [2, 0, 0], [3, 1, 0]]), (6, 1, 4)
    expected = []
    for row, count in enumerate(steps):
        probability = logits[row, :count].softmax(-1)
        target = [one for one in targets[row].tolist() if one]
        total = 0.0
        for path in itertools.product(range(4), repeat=count):
            if [one for one, _ in itertools.groupby(path) if one] == target:
                total += math.prod(probability[step, one].item() for step, one in enumerate(path))
        expected.append(-math.log(total) / len(target))
    assert ctc(logits, lengths(*steps), targets).item() == pytest.approx(np.mean(expected))


def test_ctc_refuses_what_it_cannot_align() -> None:
    targets = torch.tensor([[1, 2, 3], [1, 1, 2]])
    assert ctc(numbers(2, 4, 4), lengths(3, 4), targets).isfinite()
    with pytest.raises(SettingsError, match=r"utterance b: 3 steps .* needs 4; lower frames_per_step"):
        ctc(numbers(2, 4, 4), lengths(3, 3, steps=4), targets, utterances=["a", "b"])
    with pytest.raises(SettingsError, match="utterance 0: 2 steps"):
        ctc(numbers(2, 4, 4), lengths(2, 4), targets)


# Positions


def test_positions_turn_at_falling_frequencies() -> None:
    found = sinusoidal(torch.arange(50), 6)
    for step, index in itertools.product((0, 3, 49), range(6)):
        angle = step / 10000 ** (2 * (index // 2) / 6)
        assert found[step, index].item() == pytest.approx((math.cos if index % 2 else math.sin)(angle), abs=1e-5)
    near = found @ found.T
    torch.testing.assert_close(near[2, 5], near[40, 43])


# Padding


def sequences(steps: torch.Tensor, mask: torch.Tensor, keys: torch.Tensor, valid: torch.Tensor) -> list[torch.Tensor]:
    """What every block makes of two sequences, as vectors of the utterance."""
    found = []
    for kind in ("mean", "mean+std", "attentive", "max", "dot", "top-k"):
        found.append(spread(Pooling(kind, WIDTH, k=2))(steps, mask))
    for levels, size in [((1,), 30), ((1,), 2), ((1, 2, 4), 3)]:
        block = spread(Cross(WIDTH, heads=HEADS, dropout=0.0))
        bias = windows_by_fraction(mask, valid, size=size, levels=levels)
        found.append(Pooling("mean", WIDTH)(block(steps, *at_levels(keys, valid, levels), bias=bias), mask))
    return found


def test_an_utterance_alone_gives_what_it_gives_in_a_padded_batch() -> None:
    counts = [(9, 5), (4, 11), (1, 1)]
    steps, keys = numbers(3, 9, WIDTH), numbers(3, 11, WIDTH, seed=1)
    mask, valid = lengths(*(own for own, _ in counts)), lengths(*(other for _, other in counts))
    together = sequences(steps.masked_fill(~mask[..., None], 99), mask, keys.masked_fill(~valid[..., None], 99), valid)
    for row, (own, other) in enumerate(counts):
        alone = sequences(steps[row, None, :own], lengths(own), keys[row, None, :other], lengths(other))
        for one, many in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], many[row], rtol=0, atol=1e-5)
