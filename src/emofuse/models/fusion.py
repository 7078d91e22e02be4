"""Models of both streams: joined vectors, co-attention, joined posteriors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import nn

from emofuse.errors import SettingsError
from emofuse.models.coattention import CoAttention
from emofuse.models.front import LockedDropout
from emofuse.models.pooling import Pooling, PoolingKind
from emofuse.models.streams import EmotionModel, Front, Head, needed, read
from emofuse.scoring.calibrate import logs_of
from emofuse.scoring.fuse import Joining, combine


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


class JoinedModel(nn.ModuleDict):
    """The calibrated posteriors of several models, joined: late fusion and every other ensemble.

    Members are networks, or joined models themselves. It is never trained as a whole, and joins by the function that
    joins score tables, so that it answers as it was scored.

    Args:
        members: The models, by name.
        how: The rule, and weight and temperature of each member.

    Example:
        >>> from emofuse.models.front import LayerMix
        >>> from emofuse.models.streams import SpeechModel
        >>> members = {name: SpeechModel(LayerMix(3, 8), width=16, classes=4, dropout=0.1, pooling="mean")
        ...            for name in ("frames", "words")}
        >>> inputs = {name: {"speech": torch.zeros(2, 3, steps, 8), "speech_mask": torch.ones(2, steps).bool()}
        ...           for name, steps in (("frames", 9), ("words", 2))}
        >>> JoinedModel(members, Joining("mean", weights=(0.5, 0.5), temperatures=(1.0, 1.0)))(inputs).shape
        torch.Size([2, 4])
    """

    def __init__(self, members: Mapping[str, EmotionModel | JoinedModel], how: Joining) -> None:
        super().__init__(members)
        self.how = how

    @property
    def members(self) -> dict[str, EmotionModel | JoinedModel]:
        """The models, by name."""
        return cast("dict[str, EmotionModel | JoinedModel]", dict(self.items()))

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams that it cannot do without.

        Where every member reads one stream, a member whose stream is not given is left out.
        """
        needs = [set(member.streams) for member in self.members.values()]
        alone = all(len(one) == 1 for one in needs)
        found = set.intersection(*needs) if alone else set.union(*needs)
        return tuple(stream for stream in ("speech", "text") if stream in found)

    def forward(self, inputs: Mapping[str, Mapping[str, torch.Tensor]]) -> torch.Tensor:
        """Give log posteriors `(batch, classes)`, in double precision on the CPU.

        Args:
            inputs: For each network, what its own `forward` takes by name; `JoinedModel.streams` says what may be left
                out.

        Raises:
            SettingsError: No member has an input.
            ScoresError: The posteriors of a member are not finite.
        """
        given = {}
        for (name, member), *how in zip(self.members.items(), self.how.weights, self.how.temperatures, strict=True):
            if isinstance(member, JoinedModel):
                given[name] = (member(inputs), *how)
            elif self.streams or all(stream in inputs.get(name, ()) for stream in member.streams):
                given[name] = (member(**inputs.get(name, {})), *how)
        if not given:
            raise SettingsError("late fusion was given neither speech nor text", remedy="pass at least one stream")
        logits, weights, temperatures = zip(*given.values(), strict=True)
        posteriors = torch.stack([one.detach().cpu().double().softmax(-1) for one in logits]).numpy()
        # A member that is left alone answers, whatever its weight beside others.
        weights = weights if sum(weights) > 0 else (1.0,) * len(given)
        joined = combine(posteriors, weights, rule=self.how.rule, temperatures=temperatures, names=list(given))
        return torch.from_numpy(logs_of(joined))
