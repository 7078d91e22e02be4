"""Symmetric co-attention: each modality's sequence queries the other's."""

from __future__ import annotations

import torch
from torch import nn

from emofuse.models.blocks.attention import Cross


class CoAttentionLayer(nn.Module):
    """One layer of co-attention in both directions at once, each reading the other's *old* sequence.

    The form is reconstructed after ViLBERT (Lu et al., NeurIPS 2019, sec. 3.1); the paper states co-attention
    between the two embedding sequences, but no equations.

    Args:
        width: Width of both sequences.
        heads: Attention heads.
        dropout: Fraction dropped in training.

    Example:
        >>> layer = CoAttentionLayer(8, heads=2, dropout=0.0)
        >>> speech, text = torch.zeros(1, 5, 8), torch.zeros(1, 3, 8)
        >>> [x.shape[1] for x in layer(speech, text, torch.ones(1, 5).bool(), torch.ones(1, 3).bool())]
        [5, 3]
    """

    def __init__(self, width: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.speech = Cross(width, heads=heads, dropout=dropout)
        self.text = Cross(width, heads=heads, dropout=dropout)

    def forward(
        self, speech: torch.Tensor, text: torch.Tensor, speech_mask: torch.Tensor, text_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attend `(batch, frames, width)` to `(batch, tokens, width)` and back; masks are True where valid."""
        return self.speech(speech, text, text_mask), self.text(text, speech, speech_mask)


class CoAttention(nn.Module):
    """A stack of co-attention layers."""

    def __init__(self, width: int, *, heads: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CoAttentionLayer(width, heads=heads, dropout=dropout) for _ in range(layers))

    def forward(
        self, speech: torch.Tensor, text: torch.Tensor, speech_mask: torch.Tensor, text_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Apply every layer in turn."""
        for layer in self.layers:
            speech, text = layer(speech, text, speech_mask, text_mask)
        return speech, text
