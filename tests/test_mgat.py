"""Multi-granularity attention against its limiting cases."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from emofuse.models import model_class
from emofuse.models.base import Batch, Shapes
from emofuse.models.frontend import InputShape
from emofuse.models.mgat import MGATSettings, _Reader
from emofuse.task import Classification
from emofuse.testing.toy import WIDTH, marked_tokens
from systems import batch, make, numbers, spread


def test_one_window_of_one_level_is_full_attention() -> None:
    given, found = batch(), []
    for settings in ({"window": 0}, {"window": 9, "levels": (1,)}, {"window": 50, "levels": (1,)}, {"window": 2}):
        model = make("mgat", width=8, heads=2, joint_layers=0, **settings)
        # Norms and units that are shut hide small differences above.
        model.head = nn.Identity()
        found.append(model(given).logits)
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])
    assert not torch.allclose(found[3], found[0], atol=1e-3)


@pytest.mark.parametrize("levels", [(1,), (1, 2, 4)])
def test_what_is_outside_all_windows_of_a_query_changes_nothing(levels: tuple[int, ...]) -> None:
    settings = MGATSettings(width=8, heads=2, window=2, levels=levels, cross_layers=1)
    reader = spread(_Reader(settings)).eval()
    queries, keys = numbers(1, 6, 8), numbers(1, 24, 8, seed=1).requires_grad_()
    every = torch.ones(1, 6).bool(), torch.ones(1, 24).bool()
    for query in range(6):
        (gradient,) = torch.autograd.grad(reader(queries, every[0], keys, every[1])[0, query].sum(), keys)
        read = (gradient[0] != 0).any(-1).nonzero().flatten().tolist()
        centre = (query * 12 // 6 + 0.5) * 2
        # The nearest two of averages over the widest level reach that far at most.
        assert len(read) < 24
        assert max(abs(key + 0.5 - centre) for key in read) <= 2 * levels[-1]
        assert {math.floor(centre - 0.5), math.floor(centre)} <= set(read)


def test_levels_of_a_constant_modality_do_not_matter() -> None:
    queries, keys = numbers(2, 5, 8), numbers(2, 1, 8, seed=1).expand(2, 9, 8)
    own, other = torch.ones(2, 5).bool(), torch.arange(9) < torch.tensor([[9], [4]])
    found = []
    for levels, window in [((1,), 2), ((1, 2, 4), 2), ((3,), 4), ((1,), 0)]:
        reader = spread(_Reader(MGATSettings(width=8, heads=2, window=window, levels=levels))).eval()
        found.append(reader(queries, own, keys, other))
    for one in found[1:]:
        torch.testing.assert_close(one, found[0])


def test_in_training_a_layer_is_left_out_for_some_utterances_and_never_the_first() -> None:
    settings = MGATSettings(width=8, heads=2, dropout=0, attention_dropout=0, depth_dropout=0.5, cross_layers=3)
    reader = _Reader(settings)
    assert [layer.skipped for layer in reader.layers] == [0.0, 0.25, 0.5]
    layer = spread(reader.layers[2]).train()
    queries, keys, mask = numbers(200, 2, 8), numbers(200, 3, 8, seed=1), torch.ones(200, 3).bool()
    torch.manual_seed(0)
    same = (layer(queries, keys, mask, None) == queries).all(-1).all(-1)
    # Both halves of a layer, each with probability 1/2.
    assert 0.15 < same.double().mean() < 0.35


def accuracy(name: str, *, epochs: int, **settings: Any) -> float:
    torch.manual_seed(0)
    found = model_class(name)
    shapes = Shapes(speech=InputShape(1, WIDTH), text=InputShape(1, WIDTH))
    task = Classification(("a", "b", "c", "d"))
    model = found(found.Settings.model_validate(settings), shapes, task)
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3)
    train, test = marked_tokens(2000, seed=0), marked_tokens(1000, seed=1)

    def given(source: Any, rows: Any) -> Batch:
        speech, text = (torch.from_numpy(one[rows])[:, None] for one in (source.speech, source.text))
        masks = {
            f"{name}_mask": one[:, 0, :, 0] == one[:, 0, :, 0] for name, one in (("speech", speech), ("text", text))
        }
        return Batch(speech=speech, text=text, targets=torch.from_numpy(source.labels[rows]), **masks)

    for _ in range(epochs):
        model.train()
        for rows in torch.randperm(2000).split(64):
            one = given(train, rows.numpy())
            loss = model.losses(model(one), one, progress=0.5)["task"]
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    model.eval()
    with torch.no_grad():
        answers = model(given(test, slice(None))).logits.argmax(1).numpy()
    return float((answers == test.labels).mean())


@pytest.mark.slow
def test_windows_align_what_attention_alone_cannot() -> None:
    small: dict[str, Any] = {"width": 32, "own_layers": 0, "cross_layers": 1, "joint_layers": 0}
    small |= {"dropout": 0.1, "attention_dropout": 0.1, "depth_dropout": 0.0}
    assert accuracy("mgat", epochs=8, **small) > 0.9
    assert accuracy("mgat", epochs=8, window=0, **small) < 0.32
    assert accuracy("early-frame", epochs=8, width=32, dropout=0.1) < 0.32
