"""Attention pooling against its limiting cases."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from emofuse.models.base import Batch, Shapes
from emofuse.models.frontend import InputShape
from systems import COUNTS, batch, make


def test_a_query_of_zeros_is_the_mean_over_both_modalities() -> None:
    model: Any = make("attention-pooling", width=8)
    given = batch()
    nn.init.zeros_(model.pooling.query)
    (speech, speech_mask), (text, _) = model.speech(given), model.text(given)
    means = []
    for row, (own, other) in enumerate(COUNTS):
        assert int(speech_mask[row].sum()) == own
        parts = model.speech_norm(speech)[row, :own], model.text_norm(text)[row, :other]
        means.append(torch.cat(parts).mean(0))
    torch.testing.assert_close(model(given).logits, model.head(torch.stack(means)))


def test_a_large_query_picks_one_step_of_both_modalities() -> None:
    model: Any = make("attention-pooling", width=8)
    given = batch()
    with torch.no_grad():
        model.pooling.query.mul_(1e5)
    (speech, _), (text, _) = model.speech(given), model.text(given)
    best = []
    for row, (own, other) in enumerate(COUNTS):
        steps = torch.cat([model.speech_norm(speech)[row, :own], model.text_norm(text)[row, :other]])
        best.append(steps[(steps @ model.pooling.query).argmax()])
    torch.testing.assert_close(model(given).logits, model.head(torch.stack(best)))


def test_the_order_of_the_modalities_does_not_matter() -> None:
    model: Any = make("attention-pooling", width=8)
    swapped = copy.deepcopy(model)
    swapped.speech_norm, swapped.text_norm = model.text_norm, model.speech_norm
    swapped.speech.mix, swapped.text.mix = model.text.mix, model.speech.mix
    given = batch()
    other = Batch(speech=given.text, speech_mask=given.text_mask, text=given.speech, text_mask=given.speech_mask)
    torch.testing.assert_close(swapped(other).logits, model(given).logits)


def test_encoders_of_different_width_meet_at_the_texts() -> None:
    shapes = Shapes(speech=InputShape(3, 6), text=InputShape(3, 4))
    model: Any = make("attention-pooling", shapes=shapes, width=8)
    assert model.projection.weight.shape == (4, 6)
    assert model(batch(width=4)).logits.shape == (3, 3)
