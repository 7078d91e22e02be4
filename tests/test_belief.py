"""Multimodal belief against its limiting cases."""

from __future__ import annotations

from typing import Any

import torch

from emofuse.models.base import Batch
from emofuse.task import Regression
from systems import COUNTS, batch, make


def test_late_belief_is_the_average_of_each_modality_alone() -> None:
    given = batch()
    task = Regression(("belief",), centre=(0.0,), spread=(1.0,))
    both = make("belief", task=task)
    alone = []
    for name in ("speech", "text"):
        for fusion in ("late", "early"):
            one = make("belief", task=task, modalities=(name,), fusion=fusion)
            weights = {key: value for key, value in both.state_dict().items() if f".{name}." in key}
            if fusion == "early":
                weights = {key.replace(f"heads.{name}", "heads.both"): value for key, value in weights.items()}
            one.load_state_dict(weights)
            assert one.reads.modalities == (name,)
            alone.append(one(given).logits)
    torch.testing.assert_close(alone[0], alone[1])
    torch.testing.assert_close(alone[2], alone[3])
    torch.testing.assert_close(both(given).logits, (alone[0] + alone[2]) / 2)


def test_early_belief_without_weights_of_text_is_of_speech_alone() -> None:
    model: Any = make("belief", fusion="early")
    given = batch()
    text = batch(seed=5).text
    assert not torch.allclose(model(Batch(**{**vars(given), "text": text})).logits, model(given).logits)
    with torch.no_grad():
        model.heads["both"][0].weight[:, 6:] = 0
    torch.testing.assert_close(model(Batch(**{**vars(given), "text": text})).logits, model(given).logits)


def test_belief_reads_the_maximum_over_valid_steps() -> None:
    model: Any = make("belief", modalities=("speech",))
    given = batch()
    steps, _ = model.frontend["speech"](given)
    expected = torch.stack([steps[row, :own].max(0).values for row, (own, _) in enumerate(COUNTS)])
    torch.testing.assert_close(model(given).logits, model.heads["speech"](expected))
