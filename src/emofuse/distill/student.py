"""The speech student: the first layers of its teacher, with heads that predict deeper ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from emofuse.distill.descriptor import Readout
from emofuse.encoders import TrainableSpeechEncoder


class SpeechStudent(nn.Module):
    """The first layers of a speech encoder, and one linear head for each hidden state that they predict.

    Beginning with the teacher's own layers is DistilBERT's way (Sanh et al., EMC2 2019, sec. 3); heads serve training
    only, as in DistilHuBERT (Chang, Yang and Lee, ICASSP 2022).

    Args:
        encoder: The teacher with its weights free; all but its first layers are removed.
        layers: How many stay.
        seconds: Longest window that it reads at once, as in training.
        targets: Hidden states to predict.
        target_width: Their width.
        components: Of the descriptor of a clip.
    """

    def __init__(
        self,
        encoder: TrainableSpeechEncoder,
        *,
        layers: int,
        seconds: int,
        targets: int,
        target_width: int,
        components: int = 1,
    ) -> None:
        super().__init__()
        encoder.shorten(layers, seconds=seconds)
        encoder.thaw()
        self.features, self.encoder = encoder, encoder.model
        width = encoder.specification.width
        self.heads = nn.ModuleList(nn.Linear(width, target_width) for _ in range(targets))
        self.readout = Readout(2 * width, components)

    def forward(self, clips: Sequence[NDArray[np.float32]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict the teacher.

        Args:
            clips: Mono audio at 16 kHz, each `(samples,)`.

        Returns:
            Hidden states of the teacher, `(batch, targets, frames, target_width)`, and the student's own last one, as
            its features hold it, `(batch, frames, width)`; frames beyond a clip's end are padding.
        """
        last: Any = pad_sequence([states[-1] for states in self.features.states(clips)], batch_first=True)
        return torch.stack([head(last) for head in self.heads], dim=1), last
