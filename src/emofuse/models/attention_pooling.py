"""Attention pooling: one learned query pools speech and text together (Casals-Salvador et al., IberLEF 2024)."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import nn

from emofuse.models.base import Batch, EmotionModel, Inputs, ModelSettings, Output, Shapes, Speech, Task, Text
from emofuse.models.blocks.pooling import Pooling
from emofuse.settings import Fraction, Width


class AttentionPooling(EmotionModel):
    """Both sequences one after the other, pooled by one learned query, with a multi-layer perceptron on top.

    Example:
        >>> from emofuse.models.base import InputShape
        >>> from emofuse.task import Classification
        >>> shapes = Shapes(speech=InputShape(3, 8), text=InputShape(3, 8))
        >>> model = AttentionPooling(AttentionPooling.Settings(), shapes, Classification(("angry", "sad")))
        >>> model(Batch(speech=torch.zeros(2, 3, 5, 8), speech_mask=torch.ones(2, 5).bool(),
        ...             text=torch.zeros(2, 3, 4, 8), text_mask=torch.ones(2, 4).bool())).logits.shape
        torch.Size([2, 2])
    """

    class Settings(ModelSettings):
        """Settings of attention pooling; the defaults are the authors'.

        Attributes:
            width: Width of the hidden layers, and of a trained embedding of subwords.
            layers: Hidden layers after the first.
            dropout: Fraction dropped on the pooled vector and after each hidden layer.
        """

        width: Width = 512
        layers: int = Field(default=2, ge=0)
        dropout: Fraction = 0.1

    certainty = "stated in code and paper"

    def __init__(self, settings: Settings, shapes: Shapes, task: Task) -> None:
        super().__init__(settings, shapes, task)
        self.speech = shapes.frontend("speech", width=settings.width)
        self.text = shapes.frontend("text", width=settings.width)
        size = self.text.width
        self.speech_norm, self.text_norm = nn.LayerNorm(self.speech.width), nn.LayerNorm(size)
        # The authors' encoders are equally wide.
        self.projection = nn.Identity() if self.speech.width == size else nn.Linear(self.speech.width, size)
        self.pooling = Pooling("dot", size)
        layers: list[nn.Module] = [nn.Dropout(settings.dropout)]
        for before in (size, *[settings.width] * settings.layers):
            layers += [nn.Linear(before, settings.width), nn.LayerNorm(settings.width), nn.GELU()]
            layers += [nn.Dropout(settings.dropout)]
        self.head = nn.Sequential(*layers, nn.Linear(settings.width, task.outputs))

    @classmethod
    def inputs(cls, settings: Any) -> Inputs:
        """See `EmotionModel.inputs`."""
        return Inputs(speech=Speech(), text=Text())

    def forward(self, batch: Batch) -> Output:
        """See `EmotionModel.forward`."""
        (speech, speech_mask), (text, text_mask) = self.speech(batch), self.text(batch)
        steps = torch.cat([self.projection(self.speech_norm(speech)), self.text_norm(text)], dim=1)
        return Output(self.head(self.pooling(steps, torch.cat([speech_mask, text_mask], dim=1))))
