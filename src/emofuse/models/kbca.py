"""KBCA: co-attention whose weights are random, with a prior from a word list (Zhao et al., ICASSP 2023)."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn import functional as F

from emofuse.errors import SettingsError
from emofuse.features.lexicon import read_lexicon, word_id
from emofuse.models.base import Batch, Inputs, Output, Shapes, Speech, Task, Text
from emofuse.models.blocks.attention import NEVER, Cross, Lognormal, StochasticAttention, Weibull, masked_log_softmax
from emofuse.models.early import EarlyFusion, EarlySettings

LARGEST = 60_000
"""Most words of a lexicon that is stored with a model."""

_NO_WORD = torch.iinfo(torch.int64).max
_Sequence = tuple[torch.Tensor, torch.Tensor]


class KBCASettings(EarlySettings):
    """Settings of KBCA.

    Attributes:
        noise: Distribution of the attention weights in training.
        deviation: Of the logarithm of lognormal weights; 0 for none.
        prior_deviation: The same of the prior.
        shape: Of Weibull weights; the larger, the less noise.
        rate: Of their gamma prior; the larger, the narrower.
        prior: Mean of the prior: `lexicon` for text, `learned` from the keys, or `uniform`. Of speech a lexicon knows
            nothing; its prior is uniform then.
        lexicon: File for `lexicon`, as `read_lexicon` takes it. Only training reads it.
        knowledge: Multiple of the prior's logarithm that the attention adds to its logits: knowledge without noise.
        temperature: Of the softmax of the lexicon's intensities.
        unknown: Intensity of a word that the lexicon lacks.
        divergence: Largest weight of the divergence to the prior; it rises from 0 around 30 % of training.
    """

    noise: Literal["lognormal", "weibull"] = "lognormal"
    deviation: float = Field(default=0.2, ge=0)
    prior_deviation: float = Field(default=1.0, gt=0)
    shape: float = Field(default=10.0, gt=0)
    rate: float = Field(default=10.0, gt=0)
    prior: Literal["lexicon", "learned", "uniform"] = "uniform"
    lexicon: Path | None = None
    temperature: float = Field(default=0.25, gt=0)
    unknown: float = Field(default=0.5, ge=0, le=1)
    divergence: float = Field(default=0.1, ge=0)
    knowledge: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _parts_fit(self) -> KBCASettings:
        if self.prior == "lexicon" and self.lexicon is None:
            raise ValueError("prior lexicon needs a file; name it as lexicon, or choose prior uniform or learned")
        if self.divergence and self.noise == "lognormal" and not self.deviation:
            raise ValueError("deviation 0 has an infinite divergence; set divergence to 0 as well")
        if self.knowledge and self.prior == "uniform":
            raise ValueError("knowledge of a uniform prior changes nothing; choose prior lexicon or learned")
        return self


class KBCA(EarlyFusion):
    """Early fusion whose attention weights are drawn in training and pulled towards a prior.

    Example:
        >>> from emofuse.models.base import InputShape
        >>> from emofuse.task import Classification
        >>> shapes = Shapes(speech=InputShape(3, 8), text=InputShape(3, 8))
        >>> model = KBCA(KBCA.Settings(width=16), shapes, Classification(("angry", "sad")))
        >>> model(Batch(speech=torch.zeros(2, 3, 5, 8), speech_mask=torch.ones(2, 5).bool(),
        ...             text=torch.zeros(2, 3, 4, 8), text_mask=torch.ones(2, 4).bool())).logits.shape
        torch.Size([2, 2])
    """

    known: torch.Tensor
    intensities: torch.Tensor

    Settings = KBCASettings
    certainty = "idea stated; noise from related code, prior's form ours"

    def __init__(self, settings: KBCASettings, shapes: Shapes, task: Task) -> None:
        super().__init__(settings, shapes, task)
        self.settings = settings
        if settings.prior == "lexicon" and shapes.text is not None and not shapes.text.layers:
            raise SettingsError(
                "a lexicon knows words, and subwords that are trained with the model are none",
                where="prior",
                remedy="use a text encoder, or choose prior uniform or learned",
            )
        noise = (
            Lognormal(settings.deviation, settings.prior_deviation)
            if settings.noise == "lognormal"
            else Weibull(settings.shape, settings.rate)
        )
        for block in self._blocks():
            block.attention = StochasticAttention(
                settings.width, heads=settings.heads, noise=noise, dropout=settings.attention_dropout
            )
        if settings.knowledge and settings.prior == "lexicon":
            # Prediction needs it too, and a model's folder is all that there is then.
            self.register_buffer("known", torch.full((LARGEST,), _NO_WORD))
            self.register_buffer("intensities", torch.zeros(LARGEST))
        if settings.prior == "learned":
            self.prior_score = nn.Sequential(
                nn.Linear(settings.width, settings.width), nn.ReLU(), nn.Linear(settings.width, 1, bias=False)
            )

    @classmethod
    def inputs(cls, settings: Any) -> Inputs:
        """See `EmotionModel.inputs`; a step of text is a word, which a lexicon can know."""
        known = ("words",) if settings.prior == "lexicon" else ()
        at_test = known if settings.knowledge else ()
        return Inputs(speech=Speech(settings.steps), text=Text("word"), extras=known, extras_at_test=at_test)

    def forward(self, batch: Batch) -> Output:
        """See `EmotionModel.forward`."""
        (speech, speech_mask), (text, text_mask) = self.speech(batch), self.text(batch)
        speech, text = self.speech_projection(speech), self.text_projection(text)
        learns, knowledge = self.training and self.settings.divergence > 0, self.settings.knowledge
        known = None
        if self.settings.prior == "lexicon" and (learns or knowledge):
            known = self._from_lexicon(batch, text_mask)
        divergences: list[torch.Tensor] = []

        def read(block: Cross, own: _Sequence, other: _Sequence, scores: torch.Tensor | None) -> torch.Tensor:
            attention: StochasticAttention = block.attention  # type: ignore[assignment]
            prior = self._log_prior(*other, scores) if learns or knowledge else None
            bias = knowledge * prior if knowledge and prior is not None else None
            attended, log_weights = attention.attend(own[0], *other, bias=bias)
            if learns and prior is not None:
                divergences.append(attention.divergence(log_weights, prior, queries=own[1], keys=other[1]))
            return block.add(own[0], attended)

        blocks = self._blocks()
        for speech_block, text_block in zip(blocks[::2], blocks[1::2], strict=True):
            steps, tokens = (speech, speech_mask), (text, text_mask)
            speech, text = read(speech_block, steps, tokens, known), read(text_block, tokens, steps, None)
        pooled = [self.speech_pooling(speech, speech_mask), self.text_pooling(text, text_mask)]
        logits: torch.Tensor = self.head(torch.cat(pooled, dim=-1))
        return Output(logits, {"divergence": torch.stack(divergences).mean()} if learns else {})

    def losses(self, output: Output, batch: Batch, *, progress: float) -> dict[str, torch.Tensor]:
        """See `EmotionModel.losses`."""
        found = super().losses(output, batch, progress=progress)
        if "divergence" in output.aux:
            weight = self.settings.divergence / (1 + math.exp(-12 * (progress - 0.3)))
            found["divergence"] = weight * output.aux["divergence"]
        return found

    def _blocks(self) -> list[Cross]:
        """Of each layer what speech reads of text, then what text reads of speech."""
        return [block for block in self.co_attention.modules() if isinstance(block, Cross)]

    def _log_prior(self, keys: torch.Tensor, mask: torch.Tensor, scores: torch.Tensor | None) -> torch.Tensor:
        """Logarithm of the prior's mean over keys, `(batch, 1, 1, keys)`."""
        if self.settings.prior == "learned":
            scores = self.prior_score(keys).squeeze(-1)
        elif scores is None:
            scores = torch.zeros(mask.shape, device=mask.device)
        return masked_log_softmax(scores.masked_fill(~mask, NEVER))[:, None, None]

    def _from_lexicon(self, batch: Batch, mask: torch.Tensor) -> torch.Tensor:
        """Scores of the steps of text, `(batch, steps)`: a special token, the words, a special token."""
        known, intensities = (one.to(mask.device) for one in self._lexicon())
        # One more than the words, so that a batch without any has a column.
        ids = F.pad(batch.extras["words"], (0, 1), value=-1)
        found = torch.searchsorted(known, ids).clamp_max(len(known) - 1)
        words = torch.where(known[found] == ids, intensities[found], self.settings.unknown)
        steps = torch.arange(mask.shape[1], device=mask.device)
        place = (steps - 1).clamp(0, ids.shape[1] - 1).expand(mask.shape)
        special = (steps == 0) | (steps >= mask.sum(1, keepdim=True) - 1) | (ids.gather(1, place) < 0)
        return words.gather(1, place).masked_fill(special, 0.0) / self.settings.temperature

    def _lexicon(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids of the words in order, and the intensity of each."""
        if not self.settings.knowledge:
            return self._read
        if self.known[0] == _NO_WORD:
            ids, intensities = self._read
            self.known[: len(ids)] = ids
            self.intensities[: len(ids)] = intensities
        return self.known, self.intensities

    @cached_property
    def _read(self) -> tuple[torch.Tensor, torch.Tensor]:
        entries = sorted(
            (word_id(word), value) for word, value in read_lexicon(self.settings.lexicon or Path()).items()
        )
        if self.settings.knowledge and len(entries) > LARGEST:
            raise SettingsError(
                f"the lexicon has {len(entries):,} words, and a model stores {LARGEST:,} at most",
                where=self.settings.lexicon,
                remedy="shorten it",
            )
        ids, intensities = zip(*entries, strict=True)
        return torch.tensor(ids), torch.tensor(intensities)
