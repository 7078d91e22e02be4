"""Multi-granularity attention: near keys one by one, far ones averaged (Fan et al., ICASSP 2023)."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn import functional as F

from emofuse.models.base import Batch, EmotionModel, Inputs, ModelSettings, Output, Shapes, Speech, Task, Text
from emofuse.models.blocks.attention import Attention, Cross
from emofuse.models.blocks.pooling import Pooling
from emofuse.models.blocks.windows import at_levels, windows_by_fraction
from emofuse.models.frontend import projection
from emofuse.settings import Fraction, Width


class MGATSettings(ModelSettings):
    """Settings of multi-granularity attention; depths are the authors', widths half and less of theirs.

    Attributes:
        width: Width of both sequences, and of a trained embedding of subwords.
        heads: Attention heads.
        own_layers: Self-attention layers of each modality, before the modalities meet.
        cross_layers: Layers in which each modality reads the other.
        joint_layers: Self-attention layers over both, one after the other.
        window: Keys of each level that a query sees in the cross layers; 0 for all keys without levels, the control.
        levels: Steps that one key of each level is the average of.
        dropout: Fraction dropped in the cross layers and in the head.
        attention_dropout: Fraction of attention weights dropped, and of what the self-attention layers add.
        depth_dropout: Probability to skip the last cross layer in training; earlier ones are skipped more rarely.
    """

    width: Width = 128
    heads: int = Field(default=4, ge=1)
    own_layers: int = Field(default=2, ge=0)
    cross_layers: int = Field(default=3, ge=1)
    joint_layers: int = Field(default=3, ge=0)
    window: int = Field(default=4, ge=0)
    levels: tuple[int, ...] = Field(default=(1, 2, 4), min_length=1)
    dropout: Fraction = 0.5
    attention_dropout: Fraction = 0.2
    depth_dropout: Fraction = 0.5

    @model_validator(mode="after")
    def _sizes_fit(self) -> MGATSettings:
        if self.width % self.heads or self.width % 2:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads} and of 2")
        if min(self.levels) < 1:
            raise ValueError(f"levels {list(self.levels)} must be 1 or more")
        return self


class _CrossLayer(nn.Module):
    """Reads the other modality, normalising before each half: q' = q + Att(LN q, LN k), q'' = q' + MLP(LN q')."""

    def __init__(self, settings: MGATSettings, *, skipped: float) -> None:
        super().__init__()
        width, dropout = settings.width, settings.dropout
        self.skipped = skipped
        self.norm, self.last_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads=settings.heads, dropout=settings.attention_dropout)
        self.dropout = nn.Dropout(dropout)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, width // 2), nn.GELU(), nn.Dropout(dropout), nn.Linear(width // 2, width), self.dropout
        )

    def forward(
        self, queries: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        read = self.dropout(self.attention(self.norm(queries), self.norm(keys), mask, bias=bias))
        middle = queries + self._kept(read)
        return middle + self._kept(self.feed_forward(self.last_norm(middle)))

    def _kept(self, added: torch.Tensor) -> torch.Tensor:
        """What a half adds; in training nothing, for some utterances."""
        return added * F.dropout(added.new_ones(len(added), 1, 1), self.skipped, self.training)


class _Reader(nn.Module):
    """One modality reading the other as it was, layer by layer."""

    def __init__(self, settings: MGATSettings) -> None:
        super().__init__()
        self.window, self.levels = settings.window, settings.levels
        last = max(1, settings.cross_layers - 1)
        self.layers = nn.ModuleList(
            _CrossLayer(settings, skipped=settings.depth_dropout * layer / last)
            for layer in range(settings.cross_layers)
        )

    def forward(
        self, queries: torch.Tensor, query_mask: torch.Tensor, keys: torch.Tensor, key_mask: torch.Tensor
    ) -> torch.Tensor:
        bias = None
        if self.window:
            bias = windows_by_fraction(query_mask, key_mask, size=self.window, levels=self.levels)
            keys, key_mask = at_levels(keys, key_mask, self.levels)
        for layer in self.layers:
            queries = layer(queries, keys, key_mask, bias)
        return queries


class MGAT(EmotionModel):
    """Each modality reads windows of the other at several granularities, then both are read together.

    Example:
        >>> from emofuse.models.base import InputShape
        >>> from emofuse.task import Classification
        >>> shapes = Shapes(speech=InputShape(3, 8), text=InputShape(3, 8))
        >>> model = MGAT(MGAT.Settings(width=16), shapes, Classification(("angry", "sad")))
        >>> model(Batch(speech=torch.zeros(2, 3, 5, 8), speech_mask=torch.ones(2, 5).bool(),
        ...             text=torch.zeros(2, 3, 4, 8), text_mask=torch.ones(2, 4).bool())).logits.shape
        torch.Size([2, 2])
    """

    Settings = MGATSettings
    certainty = "stated in code; masks and widths ours"

    def __init__(self, settings: MGATSettings, shapes: Shapes, task: Task) -> None:
        super().__init__(settings, shapes, task)
        width, dropout = settings.width, settings.dropout
        self.speech = shapes.frontend("speech", width=width)
        self.text = shapes.frontend("text", width=width)
        self.speech_projection = projection(self.speech.width, width, dropout=dropout / 2)
        self.text_projection = projection(self.text.width, width, dropout=dropout / 2)

        def self_attention(layers: int) -> nn.ModuleList:
            return nn.ModuleList(
                Cross(width, heads=settings.heads, dropout=settings.attention_dropout, hidden=width // 2)
                for _ in range(layers)
            )

        self.speech_layers, self.text_layers = self_attention(settings.own_layers), self_attention(settings.own_layers)
        self.speech_reader, self.text_reader = _Reader(settings), _Reader(settings)
        self.joint_layers = self_attention(settings.joint_layers)
        self.pooling = Pooling("mean", width)
        layers = [nn.Linear(2 * width, width), nn.ReLU(), nn.Dropout(dropout)]
        layers += [nn.Linear(width, width // 2), nn.ReLU(), nn.Dropout(dropout)]
        self.head = nn.Sequential(*layers, nn.Linear(width // 2, task.outputs))

    @classmethod
    def inputs(cls, settings: Any) -> Inputs:
        """See `EmotionModel.inputs`."""
        return Inputs(speech=Speech(), text=Text())

    def forward(self, batch: Batch) -> Output:
        """See `EmotionModel.forward`."""
        (speech, speech_mask), (text, text_mask) = self.speech(batch), self.text(batch)
        speech, text = self.speech_projection(speech), self.text_projection(text)
        for layer in self.speech_layers:
            speech = layer(speech, speech, speech_mask)
        for layer in self.text_layers:
            text = layer(text, text, text_mask)
        both = [
            self.speech_reader(speech, speech_mask, text, text_mask),
            self.text_reader(text, text_mask, speech, speech_mask),
        ]
        joint, mask = torch.cat(both, dim=1), torch.cat([speech_mask, text_mask], dim=1)
        for layer in self.joint_layers:
            joint = layer(joint, joint, mask)
        count = speech_mask.shape[1]
        pooled = [self.pooling(joint[:, :count], speech_mask), self.pooling(joint[:, count:], text_mask)]
        return Output(self.head(torch.cat(pooled, dim=-1)))
