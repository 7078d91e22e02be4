"""Early fusion by co-attention at a resolution of speech: the paper's early level."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field, model_validator

from emofuse.models.base import Batch, EmotionModel, Inputs, Output, Shapes, Speech, Task, Text
from emofuse.models.blocks.coattention import CoAttention
from emofuse.models.blocks.pooling import Pooling
from emofuse.models.frontend import projection
from emofuse.models.unimodal import Head, HeadSettings
from emofuse.settings import Fraction, Granularity, heads_divide_width


class EarlySettings(HeadSettings):
    """Settings of early fusion.

    Attributes:
        steps: Granularities of speech; of several, the steps follow one another in one sequence.
        heads: Attention heads.
        layers: Co-attention layers.
        attention_dropout: Fraction dropped in co-attention.
    """

    steps: tuple[Granularity, ...] = Field(default=("frame",), min_length=1)
    heads: int = Field(default=4, ge=1)
    layers: int = Field(default=1, ge=1)
    attention_dropout: Fraction = 0.1

    _heads_divide_width = model_validator(mode="after")(heads_divide_width)


class EarlyFusion(EmotionModel):
    """Both sequences brought to one width, co-attention, pooling of each, head.

    Example:
        >>> from emofuse.models.base import InputShape
        >>> from emofuse.task import Classification
        >>> shapes = Shapes(speech=InputShape(3, 8), text=InputShape(0, 100))
        >>> model = EarlyFusion(EarlySettings(width=16, heads=2), shapes, Classification(("angry", "sad")))
        >>> model(Batch(speech=torch.zeros(2, 3, 5, 8), speech_mask=torch.ones(2, 5).bool(),
        ...             text=torch.ones(2, 4).long(), text_mask=torch.ones(2, 4).bool())).logits.shape
        torch.Size([2, 2])
    """

    Settings = EarlySettings
    certainty = "co-attention stated, equations inferred"

    def __init__(self, settings: EarlySettings, shapes: Shapes, task: Task) -> None:
        super().__init__(settings, shapes, task)
        width, dropout = settings.width, settings.dropout
        self.speech = shapes.frontend("speech", width=width)
        self.text = shapes.frontend("text", width=width)
        # As much dropout as a head has on its input.
        self.speech_projection = projection(self.speech.width, width, dropout=dropout / 2)
        self.text_projection = projection(self.text.width, width, dropout=dropout / 2)
        self.co_attention = CoAttention(
            width, heads=settings.heads, layers=settings.layers, dropout=settings.attention_dropout
        )
        self.speech_pooling, self.text_pooling = Pooling(settings.pooling, width), Pooling(settings.pooling, width)
        size = self.speech_pooling.size + self.text_pooling.size
        self.head = Head(size, width=width, outputs=task.outputs, dropout=dropout)

    @classmethod
    def inputs(cls, settings: Any) -> Inputs:
        """See `EmotionModel.inputs`; where speech comes in words, the transcript does too."""
        return Inputs(speech=Speech(settings.steps), text=Text("word" if settings.steps == ("word",) else "token"))

    def forward(self, batch: Batch) -> Output:
        """See `EmotionModel.forward`."""
        (speech, speech_mask), (text, text_mask) = self.speech(batch), self.text(batch)
        steps, tokens = self.co_attention(
            self.speech_projection(speech), self.text_projection(text), speech_mask, text_mask
        )
        pooled = [self.speech_pooling(steps, speech_mask), self.text_pooling(tokens, text_mask)]
        logits: torch.Tensor = self.head(torch.cat(pooled, dim=-1))
        return Output(logits)


class EarlyPhone(EarlyFusion):
    """Early fusion over phones."""

    class Settings(EarlySettings):
        """See `EarlySettings`."""

        steps: tuple[Granularity, ...] = Field(default=("phone",), min_length=1)

    certainty = "granularity stated, pooling chosen"


class EarlySyllable(EarlyFusion):
    """Early fusion over syllables."""

    class Settings(EarlySettings):
        """See `EarlySettings`."""

        steps: tuple[Granularity, ...] = Field(default=("syllable",), min_length=1)

    certainty = "granularity stated, pooling chosen"


class EarlyWord(EarlyFusion):
    """Early fusion over words of both modalities."""

    class Settings(EarlySettings):
        """See `EarlySettings`."""

        steps: tuple[Granularity, ...] = Field(default=("word",), min_length=1)

    certainty = "granularity stated, pooling chosen"


class EarlyJoint(EarlyFusion):
    """Early fusion over the steps of all four granularities at once."""

    class Settings(EarlySettings):
        """See `EarlySettings`."""

        steps: tuple[Granularity, ...] = Field(default=("frame", "phone", "syllable", "word"), min_length=1)

    certainty = "chosen"
