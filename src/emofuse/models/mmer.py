"""MMER: text reads speech directly and through speech that has read text (Ghosh et al., Interspeech 2023)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn import functional as F

from emofuse.models.base import Batch, EmotionModel, Inputs, ModelSettings, Output, Shapes, Speech, Task, Text
from emofuse.models.blocks.attention import Cross
from emofuse.models.blocks.gates import VectorGate
from emofuse.models.blocks.losses import ctc, info_nce, published_contrast, supervised_contrast
from emofuse.models.blocks.pooling import Pooling
from emofuse.models.frontend import projection
from emofuse.settings import Fraction, Width, heads_divide_width
from emofuse.task import Classification


class MMERSettings(ModelSettings):
    """Settings of MMER.

    Attributes:
        width: Width of both sequences, and of a trained embedding of subwords.
        heads: Attention heads.
        dropout: Fraction of features dropped on both sequences.
        attention_dropout: Fraction dropped in the blocks.
        gate: Weigh the direct path by the gate; without it the path is open.
        ctc: Weight of recognising the transcript's characters; 0 leaves it out. Speech needs more steps than
            characters.
        ctc_block: Put a self-attention block on speech, which both CTC and the fusion read: without it CTC on frozen
            features trains nothing but its own head.
        contrast: Weight of the contrastive loss over classes.
        contrast_form: `supervised`, or `as-published`, that of the authors' code.
        second_view: Weight of the contrast with a second, augmented view; it doubles the cost of training.
        temperature: Of both contrasts.
    """

    width: Width = 128
    heads: int = Field(default=4, ge=1)
    dropout: Fraction = 0.35
    attention_dropout: Fraction = 0.1
    gate: bool = True
    ctc: float = Field(default=0.1, ge=0)
    ctc_block: bool = True
    contrast: float = Field(default=0.1, ge=0)
    contrast_form: Literal["supervised", "as-published"] = "supervised"
    second_view: float = Field(default=0.1, ge=0)
    temperature: float = Field(default=0.07, gt=0)

    _heads_divide_width = model_validator(mode="after")(heads_divide_width)


class MMER(EmotionModel):
    """Four blocks of attention and a gate; CTC and two contrasts regularise.

    The fraction of the gate that is open, `(batch,)`, is in `Output.aux["gate"]`.

    Example:
        >>> from emofuse.models.base import InputShape
        >>> shapes = Shapes(speech=InputShape(3, 8), text=InputShape(3, 8))
        >>> model = MMER(MMER.Settings(width=16, ctc=0), shapes, Classification(("angry", "sad")))
        >>> model(Batch(speech=torch.zeros(2, 3, 5, 8), speech_mask=torch.ones(2, 5).bool(),
        ...             text=torch.zeros(2, 3, 4, 8), text_mask=torch.ones(2, 4).bool())).logits.shape
        torch.Size([2, 2])
    """

    Settings = MMERSettings
    certainty = "stated in code; second view ours"

    def __init__(self, settings: MMERSettings, shapes: Shapes, task: Task) -> None:
        super().__init__(settings, shapes, task)
        self.settings, width = settings, settings.width
        self.speech = shapes.frontend("speech", width=width)
        self.text = shapes.frontend("text", width=width)
        self.speech_projection = projection(self.speech.width, width, dropout=settings.dropout)
        self.text_projection = projection(self.text.width, width, dropout=settings.dropout)

        def block() -> Cross:
            return Cross(width, heads=settings.heads, dropout=settings.attention_dropout)

        self.speech_block = block() if settings.ctc_block else None
        self.text_block, self.direct, self.asking, self.answered = block(), block(), block(), block()
        self.as_keys, self.as_queries = nn.Linear(width, width), nn.Linear(width, width)
        self.gate = VectorGate(2 * width, width) if settings.gate else None
        self.pooling = Pooling("max", width)
        self.both_paths = nn.Linear(2 * width, width)
        self.head = nn.Linear(2 * width, task.outputs)
        if settings.ctc:
            self.spelling = nn.Sequential(nn.Dropout(0.1), nn.Linear(width, shapes.extras["characters"]))
        if settings.contrast or settings.second_view:
            self.embedding = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, width))

    @classmethod
    def inputs(cls, settings: Any) -> Inputs:
        """See `EmotionModel.inputs`."""
        return Inputs(speech=Speech(), text=Text(), extras=("characters",) if settings.ctc else ())

    def forward(self, batch: Batch) -> Output:
        """See `EmotionModel.forward`."""
        (speech, speech_mask), (text, text_mask) = self.speech(batch), self.text(batch)
        joint, aux = self._joint(speech, speech_mask, text, text_mask)
        if self.settings.contrast or self.settings.second_view:
            aux["embedding"] = self.embedding(joint)
        if self.settings.second_view and self.training:
            again, _ = self._joint(*augmented(speech, speech_mask, text, text_mask))
            aux["second"] = self.embedding(again)
        return Output(self.head(joint), aux)

    def _joint(
        self, speech: torch.Tensor, speech_mask: torch.Tensor, text: torch.Tensor, text_mask: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        speech, text = self.speech_projection(speech), self.text_projection(text)
        if self.speech_block is not None:
            speech = self.speech_block(speech, speech, speech_mask)
        text = self.text_block(text, text, text_mask)
        direct = self.direct(text, self.as_keys(speech), speech_mask)
        asked = self.asking(self.as_queries(speech), text, text_mask)
        answered = self.answered(text, asked, speech_mask)
        condition = torch.cat([answered, direct], dim=-1)
        aux = {}
        if self.gate is not None:
            opened = self.gate(condition)
            direct = opened * direct
            aux["gate"] = (opened.mean(-1) * text_mask).sum(1) / text_mask.sum(1)
        text_vector = self.both_paths(self.pooling(torch.cat([answered, direct], dim=-1), text_mask))
        if self.settings.ctc:
            aux["spelling"] = self.spelling(speech)
        return torch.cat([self.pooling(speech, speech_mask), text_vector], dim=-1), aux

    def losses(self, output: Output, batch: Batch, *, progress: float) -> dict[str, torch.Tensor]:
        """See `EmotionModel.losses`; classes alone can be contrasted, values cannot."""
        settings, aux = self.settings, output.aux
        found = super().losses(output, batch, progress=progress)
        if settings.ctc and batch.speech_mask is not None:
            characters = batch.extras["characters"]
            found["ctc"] = settings.ctc * ctc(
                aux["spelling"], batch.speech_mask, characters, utterances=batch.names or None
            )
        if settings.contrast and isinstance(self.task, Classification) and batch.truth is not None:
            contrast = supervised_contrast if settings.contrast_form == "supervised" else published_contrast
            found["contrast"] = settings.contrast * contrast(
                aux["embedding"], batch.truth, temperature=settings.temperature
            )
        if "second" in aux:
            found["second_view"] = settings.second_view * info_nce(
                aux["embedding"], aux["second"], temperature=settings.temperature
            )
        return found


def augmented(
    speech: torch.Tensor, speech_mask: torch.Tensor, text: torch.Tensor, text_mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A second view of features: two spans of a tenth of the speech and a tenth of the tokens set to zero.

    The authors speak a back-translation of the text with a synthesiser instead.

    Args:
        speech: `(batch, steps, width)`.
        speech_mask: `(batch, steps)`.
        text: `(batch, tokens, width)`.
        text_mask: `(batch, tokens)`.
    """
    steps = torch.arange(speech.shape[1], device=speech.device)
    length = speech_mask.sum(1, keepdim=True)
    for _ in range(2):
        start = torch.rand(len(speech), 1, device=speech.device) * 0.9 * length
        inside = (steps >= start) & (steps < start + 0.1 * length)
        speech = speech.masked_fill(inside.unsqueeze(-1), 0.0)
    speech = speech * F.dropout(torch.ones_like(speech[:, :1]), 0.1)
    dropped = torch.rand(text.shape[:2], device=text.device) < 0.1
    return speech, speech_mask, text.masked_fill(dropped.unsqueeze(-1), 0.0), text_mask
