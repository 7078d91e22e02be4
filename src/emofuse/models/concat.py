"""Baseline of fusion: each modality pooled to a vector, both vectors concatenated."""

from __future__ import annotations

from typing import Any

import torch

from emofuse.models.base import Batch, EmotionModel, Inputs, Output, Shapes, Speech, Task, Text
from emofuse.models.blocks.pooling import Pooling
from emofuse.models.unimodal import Head, SpeechModel


class ConcatModel(EmotionModel):
    """Each modality pooled to a vector, both concatenated, one head."""

    Settings = SpeechModel.Settings
    certainty = "our baseline"

    def __init__(self, settings: SpeechModel.Settings, shapes: Shapes, task: Task) -> None:
        super().__init__(settings, shapes, task)
        self.speech = shapes.frontend("speech", width=settings.width)
        self.text = shapes.frontend("text", width=settings.width)
        self.speech_pooling = Pooling(settings.pooling, self.speech.width)
        self.text_pooling = Pooling(settings.pooling, self.text.width)
        size = self.speech_pooling.size + self.text_pooling.size
        self.head = Head(size, width=settings.width, outputs=task.outputs, dropout=settings.dropout)

    @classmethod
    def inputs(cls, settings: Any) -> Inputs:
        """See `EmotionModel.inputs`."""
        return Inputs(speech=Speech((settings.granularity,)), text=Text())

    def forward(self, batch: Batch) -> Output:
        """See `EmotionModel.forward`."""
        pooled = [self.speech_pooling(*self.speech(batch)), self.text_pooling(*self.text(batch))]
        logits: torch.Tensor = self.head(torch.cat(pooled, dim=-1))
        return Output(logits)
