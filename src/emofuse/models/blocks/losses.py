"""Losses that models add to that of their task."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from emofuse.errors import SettingsError
from emofuse.models.blocks.attention import NEVER


def supervised_contrast(vectors: torch.Tensor, labels: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Supervised contrastive loss (Khosla et al., NeurIPS 2020, eq. 2), mean over anchors.

    An utterance without another of its class in the batch is no anchor; a batch without any anchor gives 0.

    Args:
        vectors: `(batch, width)`, of any length: they are normalised here.
        labels: `(batch,)`.
        temperature: Divides the cosines.

    Example:
        >>> round(supervised_contrast(torch.ones(5, 3), torch.zeros(5), temperature=0.1).exp().item(), 3)
        4.0
    """
    unit = F.normalize(vectors, dim=-1)
    own = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    log_fractions = (unit @ unit.T / temperature).masked_fill(own, NEVER).log_softmax(-1)
    positive = (labels[:, None] == labels[None, :]) & ~own
    count = positive.sum(1)
    per_anchor = -log_fractions.masked_fill(~positive, 0.0).sum(1) / count.clamp_min(1)
    return per_anchor.sum() / (count > 0).sum().clamp_min(1)


def published_contrast(vectors: torch.Tensor, labels: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """The contrastive loss of MMER's code (Ghosh et al., 2023), mean over utterances.

    It differs from `supervised_contrast` in two ways: the softmax comes before the temperature, which then only scales
    the loss, and each utterance is one of its own positives.

    Args:
        vectors: `(batch, width)`, of any length: they are normalised here.
        labels: `(batch,)`.
        temperature: Divides the logarithms of the softmax.

    Example:
        >>> round(published_contrast(torch.ones(5, 3), torch.zeros(5), temperature=0.5).item() / 2, 3)
        1.609
    """
    unit = F.normalize(vectors, dim=-1)
    log_fractions = (unit @ unit.T).log_softmax(-1) / temperature
    positive = F.normalize((labels[:, None] == labels[None, :]).to(unit.dtype), p=1, dim=-1)
    return -(positive * log_fractions).sum(1).mean()


def info_nce(vectors: torch.Tensor, others: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Cross-entropy of finding each vector's partner among all `others` by cosine (van den Oord et al., 2018).

    Args:
        vectors: `(batch, width)`.
        others: The partners, in the same order.
        temperature: Divides the cosines.

    Example:
        >>> round(info_nce(torch.ones(5, 3), torch.ones(5, 3), temperature=0.1).exp().item(), 3)
        5.0
    """
    cosines = F.normalize(vectors, dim=-1) @ F.normalize(others, dim=-1).T
    return F.cross_entropy(cosines / temperature, torch.arange(len(cosines), device=cosines.device))


def ctc(
    logits: torch.Tensor, mask: torch.Tensor, targets: torch.Tensor, *, utterances: Sequence[str] | None = None
) -> torch.Tensor:
    """Connectionist temporal classification, divided by the length of each target, mean over the batch.

    Args:
        logits: `(batch, steps, symbols)`; symbol 0 is the blank.
        mask: `(batch, steps)`, True for the valid steps, which come first.
        targets: `(batch, length)`; what is not positive is padding, and comes last.
        utterances: Names for the error.

    Raises:
        SettingsError: An utterance has fewer steps than its target needs: one for each symbol and one more between two
            equal ones.

    Example:
        >>> ctc(torch.zeros(1, 1, 2), torch.ones(1, 1).bool(), torch.tensor([[1]])).exp().item()
        2.0
    """
    steps, lengths = mask.sum(1), (targets > 0).sum(1)
    twice = (targets[:, 1:] == targets[:, :-1]) & (targets[:, 1:] > 0)
    needed = lengths + twice.sum(1)
    for row in (steps < needed).nonzero().flatten().tolist():
        raise SettingsError(
            f"{int(steps[row])} steps of speech are too few for CTC, whose target needs {int(needed[row])}",
            where=f"utterance {utterances[row] if utterances else row}",
            remedy="lower frames_per_step of the recipe, or leave the utterance out",
        )
    each = F.ctc_loss(logits.log_softmax(-1).transpose(0, 1), targets, steps, lengths, reduction="none")
    return (each / lengths.clamp_min(1)).mean()
