"""Models of one stream: speech alone, text alone."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from emofuse.errors import SettingsError
from emofuse.models.front import LayerMix, SegmentMix, WordEmbedding
from emofuse.models.pooling import Pooling, PoolingKind

Front = LayerMix | WordEmbedding


class EmotionModel(nn.Module):
    """What all models share: named inputs, logits out.

    Attributes:
        streams: The inputs that the model cannot do without.
    """

    streams: ClassVar[tuple[str, ...]]

    def forward(
        self,
        *,
        speech: torch.Tensor | None = None,
        speech_mask: torch.Tensor | None = None,
        speech_bounds: torch.Tensor | None = None,
        text: torch.Tensor | None = None,
        text_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Give logits `(batch, classes)`.

        Args:
            speech: Hidden states `(batch, layers, frames, width)`.
            speech_mask: `(batch, frames)`, True where valid; `(batch, segments)` where the model pools frames.
            speech_bounds: Where it does: first frame of each segment and the one after the last,
                `(batch, segments, 2)`, `(0, 0)` for padding.
            text: Hidden states `(batch, layers, tokens, width)`, or ids `(batch, tokens)` for trained word pieces.
            text_mask: `(batch, tokens)`, True where valid.
        """
        raise NotImplementedError


class Head(nn.Sequential):
    """Linear-ReLU-Dropout-Linear, with half the dropout on its input."""

    def __init__(self, size: int, *, width: int, classes: int, dropout: float) -> None:
        super().__init__(
            nn.Dropout(dropout / 2), nn.Linear(size, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, classes)
        )


def needed(values: torch.Tensor | None, mask: torch.Tensor | None, stream: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The stream's tensors, or an error that names what is missing."""
    if values is None or mask is None:
        raise SettingsError(f"the model needs {stream} and its mask", remedy=f"pass {stream}= and {stream}_mask=")
    return values, mask


def read(front: Front, values: torch.Tensor, bounds: torch.Tensor | None) -> torch.Tensor:
    """A stream as one sequence of vectors, along bounds where its front pools frames to segments."""
    sequence: torch.Tensor = front(values, bounds) if isinstance(front, SegmentMix) else front(values)
    return sequence


class _OneStream(EmotionModel):
    def __init__(self, front: Front, *, width: int, classes: int, dropout: float, pooling: PoolingKind) -> None:
        super().__init__()
        self.front = front
        self.pooling = Pooling(pooling, front.width)
        self.head = Head(self.pooling.size, width=width, classes=classes, dropout=dropout)

    def _logits(
        self, values: torch.Tensor | None, mask: torch.Tensor | None, bounds: torch.Tensor | None = None
    ) -> torch.Tensor:
        values, mask = needed(values, mask, self.streams[0])
        logits: torch.Tensor = self.head(self.pooling(read(self.front, values, bounds), mask))
        return logits


class SpeechModel(_OneStream):
    """Emotion from speech: layer mix, pooling, head.

    Example:
        >>> model = SpeechModel(LayerMix(3, 8), width=16, classes=4, dropout=0.1, pooling="mean")
        >>> model(speech=torch.zeros(2, 3, 5, 8), speech_mask=torch.ones(2, 5).bool()).shape
        torch.Size([2, 4])
    """

    streams = ("speech",)

    def forward(
        self,
        *,
        speech: torch.Tensor | None = None,
        speech_mask: torch.Tensor | None = None,
        speech_bounds: torch.Tensor | None = None,
        text: torch.Tensor | None = None,
        text_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See `EmotionModel.forward`; text is ignored."""
        return self._logits(speech, speech_mask, speech_bounds)


class TextModel(_OneStream):
    """Emotion from words: layer mix or trained word pieces, pooling, head.

    Example:
        >>> model = TextModel(WordEmbedding(100, 8), width=16, classes=4, dropout=0.1, pooling="mean")
        >>> model(text=torch.tensor([[5, 9]]), text_mask=torch.tensor([[True, True]])).shape
        torch.Size([1, 4])
    """

    streams = ("text",)

    def forward(
        self,
        *,
        speech: torch.Tensor | None = None,
        speech_mask: torch.Tensor | None = None,
        speech_bounds: torch.Tensor | None = None,
        text: torch.Tensor | None = None,
        text_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See `EmotionModel.forward`; speech is ignored."""
        return self._logits(text, text_mask)
