"""Small networks and a batch for tests of systems."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from emofuse.models import model_class
from emofuse.models.base import Batch, EmotionModel, Shapes
from emofuse.models.frontend import InputShape
from emofuse.task import Classification, Task

CLASSES = Classification(("angry", "happy", "sad"))
SHAPES = Shapes(speech=InputShape(3, 6), text=InputShape(3, 6), extras={"characters": 29})
COUNTS = [(9, 5), (4, 7), (1, 3)]
"""Steps of speech and of text of each utterance."""


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spread(module: Any, seed: int = 0) -> Any:
    """Random values everywhere: fresh biases are zero and fresh norms one, and would hide that they are unused."""
    with torch.no_grad():
        for number, parameter in enumerate(module.double().parameters()):
            parameter.copy_(0.4 * numbers(*parameter.shape, seed=seed + number))
    return module


def make(name: str, *, task: Task = CLASSES, shapes: Shapes = SHAPES, **settings: Any) -> EmotionModel:
    found = model_class(name)
    model: EmotionModel = spread(found(found.Settings.model_validate(settings), shapes, task)).eval()
    return model


def batch(*, seed: int = 0, width: int = 6, extras: Mapping[str, torch.Tensor] | None = None) -> Batch:
    def mask(lengths: list[int]) -> torch.Tensor:
        return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]

    own, other = (mask(list(one)) for one in zip(*COUNTS, strict=True))
    return Batch(
        names=("a", "b", "c"),
        speech=numbers(3, 3, own.shape[1], 6, seed=seed),
        speech_mask=own,
        text=numbers(3, 3, other.shape[1], width, seed=seed + 1),
        text_mask=other,
        truth=torch.tensor([0, 2, 0]),
        targets=torch.tensor([0, 2, 0]),
        extras=extras or {},
    )
