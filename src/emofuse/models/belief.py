"""Multimodal belief: the maximum over time of each modality, fused early or late (Murzaku et al., Interspeech 2024)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from emofuse.models.base import Batch, EmotionModel, Inputs, ModelSettings, Output, Shapes, Speech, Task, Text
from emofuse.models.blocks.pooling import Pooling
from emofuse.settings import Fraction, Width


class Belief(EmotionModel):
    """Maxima over time, with one head on both or the average of a head on each.

    Example:
        >>> from emofuse.models.base import InputShape
        >>> from emofuse.task import Regression
        >>> shapes = Shapes(speech=InputShape(3, 8), text=InputShape(3, 8))
        >>> model = Belief(Belief.Settings(fusion="early"), shapes, Regression(("belief",)))
        >>> model(Batch(speech=torch.zeros(2, 3, 5, 8), speech_mask=torch.ones(2, 5).bool(),
        ...             text=torch.zeros(2, 3, 4, 8), text_mask=torch.ones(2, 4).bool())).logits.shape
        torch.Size([2, 1])
    """

    class Settings(ModelSettings):
        """Settings of the belief model.

        Attributes:
            modalities: What it reads: both, or one as a control.
            fusion: `early`, one head on both maxima; `late`, the average of a head on each.
            dropout: Fraction of the hidden layer dropped in training.
            width: Of a trained embedding of subwords; a hidden layer is as wide as what it reads.
        """

        modalities: tuple[Literal["speech", "text"], ...] = Field(default=("speech", "text"), min_length=1)
        fusion: Literal["early", "late"] = "late"
        dropout: Fraction = 0.3
        width: Width = 256

    certainty = "stated in code; masks and dropout ours"

    def __init__(self, settings: Settings, shapes: Shapes, task: Task) -> None:
        super().__init__(settings, shapes, task)
        frontends = {name: shapes.frontend(name, width=settings.width) for name in self.reads.modalities}
        self.frontend, self.pooling = nn.ModuleDict(frontends), Pooling("max", 1)
        widths = {name: frontend.width for name, frontend in frontends.items()}
        if settings.fusion == "early":
            widths = {"both": sum(widths.values())}
        self.heads = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.Linear(size, size), nn.ReLU(), nn.Dropout(settings.dropout), nn.Linear(size, task.outputs)
                )
                for name, size in widths.items()
            }
        )

    @classmethod
    def inputs(cls, settings: Any) -> Inputs:
        """See `EmotionModel.inputs`."""
        return Inputs(
            speech=Speech() if "speech" in settings.modalities else None,
            text=Text() if "text" in settings.modalities else None,
        )

    def forward(self, batch: Batch) -> Output:
        """See `EmotionModel.forward`."""
        pooled = {name: self.pooling(*frontend(batch)) for name, frontend in self.frontend.items()}
        if "both" in self.heads:
            pooled = {"both": torch.cat(list(pooled.values()), dim=-1)}
        return Output(torch.stack([self.heads[name](vector) for name, vector in pooled.items()]).mean(0))
