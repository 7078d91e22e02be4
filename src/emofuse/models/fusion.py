"""Models of both streams: joined vectors, co-attention, joined posteriors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import nn

from emofuse.errors import SettingsError
from emofuse.models.coattention import CoAttention
from emofuse.models.front import LockedDropout
from emofuse.models.pooling import Pooling, PoolingKind
from emofuse.models.streams import EmotionModel, Front, Head, SpeechModel, TextModel, needed, read


class ConcatModel(EmotionModel):
    """Baseline: each stream pooled to a vector, the two vectors joined."""

    streams = ("speech", "text")

    def __init__(
        self, speech: Front, text: Front, *, width: int, classes: int, dropout: float, pooling: PoolingKind
    ) -> None:
        super().__init__()
        self.speech_front, self.text_front = speech, text
        self.speech_pooling = Pooling(pooling, speech.width)
        self.text_pooling = Pooling(pooling, text.width)
        size = self.speech_pooling.size + self.text_pooling.size
        self.head = Head(size, width=width, classes=classes, dropout=dropout)

    def forward(
        self,
        *,
        speech: torch.Tensor | None = None,
        speech_mask: torch.Tensor | None = None,
        speech_bounds: torch.Tensor | None = None,
        text: torch.Tensor | None = None,
        text_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See `EmotionModel.forward`."""
        speech, speech_mask = needed(speech, speech_mask, "speech")
        text, text_mask = needed(text, text_mask, "text")
        pooled = [
            self.speech_pooling(read(self.speech_front, speech, speech_bounds), speech_mask),
            self.text_pooling(self.text_front(text), text_mask),
        ]
        logits: torch.Tensor = self.head(torch.cat(pooled, dim=-1))
        return logits


class EarlyFusion(EmotionModel):
    """Early fusion: both sequences brought to one width, co-attention, pooling of each, head.

    Example:
        >>> from emofuse.models.front import LayerMix, WordEmbedding
        >>> model = EarlyFusion(LayerMix(3, 8), WordEmbedding(100, 8), width=16, classes=4, heads=2, layers=1,
        ...                     dropout=0.1, pooling="attentive")
        >>> model(speech=torch.zeros(2, 3, 5, 8), speech_mask=torch.ones(2, 5).bool(),
        ...       text=torch.ones(2, 4).long(), text_mask=torch.ones(2, 4).bool()).shape
        torch.Size([2, 4])
    """

    streams = ("speech", "text")

    def __init__(
        self,
        speech: Front,
        text: Front,
        *,
        width: int,
        classes: int,
        heads: int,
        layers: int,
        dropout: float,
        pooling: PoolingKind,
        attention_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.speech_front, self.text_front = speech, text
        # As much dropout as a head has on its input. On validation speakers of RAVDESS it gains four points of UA,
        # plain dropout one: what is dropped at one step only is still there on average over the steps.
        self.speech_projection = nn.Sequential(LockedDropout(dropout / 2), nn.Linear(speech.width, width))
        self.text_projection = nn.Sequential(LockedDropout(dropout / 2), nn.Linear(text.width, width))
        self.co_attention = CoAttention(width, heads=heads, layers=layers, dropout=attention_dropout)
        self.speech_pooling, self.text_pooling = Pooling(pooling, width), Pooling(pooling, width)
        size = self.speech_pooling.size + self.text_pooling.size
        self.head = Head(size, width=width, classes=classes, dropout=dropout)

    def forward(
        self,
        *,
        speech: torch.Tensor | None = None,
        speech_mask: torch.Tensor | None = None,
        speech_bounds: torch.Tensor | None = None,
        text: torch.Tensor | None = None,
        text_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See `EmotionModel.forward`."""
        speech, speech_mask = needed(speech, speech_mask, "speech")
        text, text_mask = needed(text, text_mask, "text")
        frames, tokens = self.co_attention(
            self.speech_projection(read(self.speech_front, speech, speech_bounds)),
            self.text_projection(self.text_front(text)),
            speech_mask,
            text_mask,
        )
        pooled = [self.speech_pooling(frames, speech_mask), self.text_pooling(tokens, text_mask)]
        logits: torch.Tensor = self.head(torch.cat(pooled, dim=-1))
        return logits


class LateFusion(EmotionModel):
    """Late fusion: posteriors of separately trained speech and text models, averaged or multiplied.

    A stream that is not given is left out. The logits that come out are log posteriors.

    Args:
        speech: Trained on speech alone.
        text: Trained on words alone.
        rule: `mean` (weighted arithmetic) or `product` (weighted geometric).
        weights: Of speech and of text, zero or more.
        temperatures: Of speech and of text: what their logits are divided by, above one for less sure answers.
    """

    streams = ()

    def __init__(
        self,
        speech: SpeechModel,
        text: TextModel,
        *,
        rule: Literal["mean", "product"] = "product",
        weights: Sequence[float] = (0.5, 0.5),
        temperatures: Sequence[float] = (1.0, 1.0),
    ) -> None:
        super().__init__()
        self.speech, self.text = speech, text
        self.temperatures = tuple(temperatures)
        self.rule = rule
        self.weights = tuple(weights)

    def forward(
        self,
        *,
        speech: torch.Tensor | None = None,
        speech_mask: torch.Tensor | None = None,
        speech_bounds: torch.Tensor | None = None,
        text: torch.Tensor | None = None,
        text_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See `EmotionModel.forward`; either stream may be left out."""
        logs: list[torch.Tensor] = []
        weights: list[float] = []
        if speech is not None:
            logits = self.speech(speech=speech, speech_mask=speech_mask, speech_bounds=speech_bounds)
            logs.append((logits / self.temperatures[0]).log_softmax(-1))
            weights.append(self.weights[0])
        if text is not None:
            logs.append((self.text(text=text, text_mask=text_mask) / self.temperatures[1]).log_softmax(-1))
            weights.append(self.weights[1])
        if not logs:
            raise SettingsError("late fusion was given neither speech nor text", remedy="pass at least one stream")
        if len(logs) == 1:
            return logs[0]
        stacked, share = torch.stack(logs), _shares(weights, logs[0])
        if self.rule == "mean":
            return torch.logsumexp(stacked + share.log(), dim=0)
        return (share * stacked).sum(0).log_softmax(-1)


class JoinedModel(nn.Module):
    """Weighted mean of the calibrated posteriors of several models, each with an input of its own.

    Which models the paper joins into its final system is stated, how it does is not: mean and temperatures are chosen.

    Args:
        parts: The models, by name; one of them may itself be joined.
        weights: Of each part in the same order, zero or more.
        temperatures: Of each part: what its logits are divided by, above one for less sure answers; None for ones.

    Attributes:
        streams: The streams that the model cannot do without.

    Example:
        >>> from emofuse.models.front import LayerMix
        >>> parts = {name: SpeechModel(LayerMix(3, 8), width=16, classes=4, dropout=0.1, pooling="mean")
        ...          for name in ("frames", "words")}
        >>> inputs = {name: {"speech": torch.zeros(2, 3, steps, 8), "speech_mask": torch.ones(2, steps).bool()}
        ...           for name, steps in (("frames", 9), ("words", 2))}
        >>> JoinedModel(parts, weights=(0.5, 0.5))(inputs).shape
        torch.Size([2, 4])
    """

    streams = ("speech", "text")

    def __init__(
        self,
        parts: Mapping[str, EmotionModel | JoinedModel],
        *,
        weights: Sequence[float],
        temperatures: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)
        self.weights = tuple(weights)
        self.temperatures = tuple(temperatures or [1.0] * len(parts))

    def forward(self, inputs: Mapping[str, Mapping[str, torch.Tensor]]) -> torch.Tensor:
        """Give log posteriors `(batch, classes)`.

        Args:
            inputs: For each model that is not joined itself, what its own `forward` takes by name.
        """
        logs = []
        for (name, part), temperature in zip(self.parts.items(), self.temperatures, strict=True):
            logits = part(inputs) if isinstance(part, JoinedModel) else part(**inputs[name])
            logs.append((logits / temperature).log_softmax(-1))
        stacked = torch.stack(logs)
        return torch.logsumexp(stacked + _shares(self.weights, stacked).log(), dim=0)


def _shares(weights: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    """Weights brought to sum 1, for posteriors `(models, batch, classes)`."""
    return torch.tensor(weights, dtype=like.dtype, device=like.device)[:, None, None] / sum(weights)
