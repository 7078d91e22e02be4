"""Models of one modality: speech alone, text alone."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import nn

from emofuse.models.base import Batch, EmotionModel, Inputs, ModelSettings, Output, Shapes, Speech, Task, Text
from emofuse.models.blocks.pooling import Pooling, PoolingKind
from emofuse.settings import Fraction, Width


class Head(nn.Sequential):
    """Linear-ReLU-Dropout-Linear, with half the dropout on its input; `(batch, size)` to `(batch, outputs)`."""

    def __init__(self, size: int, *, width: int, outputs: int, dropout: float) -> None:
        super().__init__(
            nn.Dropout(dropout / 2), nn.Linear(size, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, outputs)
        )


class HeadSettings(ModelSettings):
    """Settings of a head over pooled sequences.

    Attributes:
        width: Width of the hidden layer, and of a trained embedding of subwords.
        dropout: Fraction of the hidden layer dropped in training.
        pooling: How a sequence becomes one vector.
    """

    width: Width = 256
    dropout: Fraction = 0.3
    pooling: PoolingKind = "attentive"


class _Unimodal(EmotionModel):
    modality: ClassVar[str]

    def __init__(self, settings: HeadSettings, shapes: Shapes, task: Task) -> None:
        super().__init__(settings, shapes, task)
        self.frontend = shapes.frontend(self.modality, width=settings.width)
        self.pooling = Pooling(settings.pooling, self.frontend.width)
        size = self.pooling.size
        self.head = Head(size, width=settings.width, outputs=task.outputs, dropout=settings.dropout)

    def forward(self, batch: Batch) -> Output:
        """See `EmotionModel.forward`."""
        logits: torch.Tensor = self.head(self.pooling(*self.frontend(batch)))
        return Output(logits)


class SpeechModel(_Unimodal):
    """Emotion from speech: layer mix, pooling, head.

    Example:
        >>> from emofuse.models.base import InputShape
        >>> from emofuse.task import Classification
        >>> shapes = Shapes(speech=InputShape(3, 8))
        >>> model = SpeechModel(SpeechModel.Settings(), shapes, Classification(("angry", "sad")))
        >>> model(Batch(speech=torch.zeros(2, 3, 5, 8), speech_mask=torch.ones(2, 5).bool())).logits.shape
        torch.Size([2, 2])
    """

    class Settings(HeadSettings):
        """Settings of the speech model.

        Attributes:
            granularity: What the model reads: the average of an utterance's frames, or all of them.
        """

        granularity: Literal["utterance", "frame"] = "utterance"

    modality = "speech"
    certainty = "inferred"

    @classmethod
    def inputs(cls, settings: Any) -> Inputs:
        """See `EmotionModel.inputs`."""
        return Inputs(speech=Speech((settings.granularity,)))


class TextModel(_Unimodal):
    """Emotion from the transcript: layer mix or trained subwords, pooling, head.

    Example:
        >>> from emofuse.models.base import InputShape
        >>> from emofuse.task import Classification
        >>> model = TextModel(TextModel.Settings(), Shapes(text=InputShape(0, 100)), Classification(("angry", "sad")))
        >>> model(Batch(text=torch.tensor([[5, 9]]), text_mask=torch.tensor([[True, True]]))).logits.shape
        torch.Size([1, 2])
    """

    Settings = HeadSettings
    modality = "text"
    certainty = "inferred"

    @classmethod
    def inputs(cls, settings: Any) -> Inputs:
        """See `EmotionModel.inputs`."""
        return Inputs(text=Text())
