"""The speech student: a small network of wav2vec 2.0's architecture, with heads that predict the teacher."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn

from emofuse.audio import SAMPLING_RATE
from emofuse.distill.descriptor import Readout
from emofuse.distill.settings import SpeechStudentSettings

WINDOW, HOP = 400, 160
LOWEST, HIGHEST = 50.0, 7600.0
REFERENCE = 0.1


class SpeechStudent(nn.Module):
    """A `Wav2Vec2Model` and one linear head for each hidden state of the teacher that it predicts.

    Two convolutions stand where wav2vec 2.0 has seven: the first begins as a bank of filters on the mel scale (25 ms
    every 10 ms), which spares learning one, and nine tenths of the frontend's work. Heads serve training only, as in
    DistilHuBERT (Chang, Yang and Lee, ICASSP 2022).

    Args:
        settings: Its shape.
        targets: Hidden states to predict.
        target_width: Their width.
        components: Of the descriptor of a clip.
    """

    def __init__(
        self, settings: SpeechStudentSettings, *, targets: int, target_width: int, components: int = 1
    ) -> None:
        super().__init__()
        from transformers import Wav2Vec2Config, Wav2Vec2Model

        width = settings.width
        config = Wav2Vec2Config(
            hidden_size=width,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            intermediate_size=4 * width,
            conv_dim=(width, width),
            conv_kernel=(WINDOW, 3),
            conv_stride=(HOP, 2),
            conv_bias=True,
            feat_extract_norm="layer",
            do_stable_layer_norm=True,
            num_conv_pos_embeddings=64,
            num_conv_pos_embedding_groups=16,
            mask_time_prob=settings.masked,
            mask_time_length=10,
            mask_time_min_masks=0,
            apply_spec_augment=settings.masked > 0,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            activation_dropout=0.0,
            feat_proj_dropout=0.0,
            layerdrop=0.0,
        )
        self.encoder = Wav2Vec2Model(config)
        filters, bias = mel_filters(width)
        first: Any = self.encoder.feature_extractor.conv_layers[0].conv
        with torch.no_grad():
            first.weight.copy_(filters[:, None])
            first.bias.copy_(bias)
        self.heads = nn.ModuleList(nn.Linear(width, target_width) for _ in range(targets))
        self.readout = Readout(2 * width, components)

    def forward(self, waves: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict the teacher.

        Args:
            waves: `(batch, samples)`, each clip of zero mean and unit variance, padded with zeros.
            lengths: Samples of each clip, `(batch,)`.

        Returns:
            Hidden states of the teacher, `(batch, targets, frames, target_width)`, and the student's own last one, as
            its features hold it, `(batch, frames, width)`.
        """
        mask = torch.arange(waves.shape[1], device=waves.device) < lengths[:, None]
        found = self.encoder(waves, attention_mask=mask.long(), output_hidden_states=True)
        return torch.stack([head(found.last_hidden_state) for head in self.heads], dim=1), found.hidden_states[-1]


def mel_filters(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Windowed waves on the mel scale, four phases each, and biases.

    A rectified sum over four phases follows a band's envelope at any phase. Biases keep the level after layer norm,
    which would otherwise scale every frame alike.

    Returns:
        Filters `(count, WINDOW)` of unit norm, and biases `(count,)`.

    Example:
        >>> filters, bias = mel_filters(8)
        >>> filters.shape, bool((filters.norm(dim=1) - 1).abs().max() < 1e-4)
        (torch.Size([8, 400]), True)
    """
    bands = math.ceil(count / 4)
    edges = np.linspace(_mel(LOWEST), _mel(HIGHEST), bands)
    frequencies = 700.0 * (10.0 ** (edges / 2595.0) - 1.0)
    time = (np.arange(WINDOW) - WINDOW / 2) / SAMPLING_RATE
    phases = np.arange(4) * np.pi / 2
    waves = np.cos(2 * np.pi * frequencies[:, None, None] * time + phases[None, :, None]) * np.hanning(WINDOW)
    filters = waves.reshape(-1, WINDOW)[:count]
    filters = filters / np.linalg.norm(filters, axis=1, keepdims=True)
    return torch.tensor(filters, dtype=torch.float32), torch.full((count,), REFERENCE)


def _mel(frequency: float) -> float:
    return 2595.0 * math.log10(1.0 + frequency / 700.0)
