"""Extra heads for training."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn


class UnimodalHeads(nn.ModuleDict):
    """A linear head on the vector of each modality, whose losses are added in training.

    Args:
        sizes: Numbers of each modality's vector, by its name.
        outputs: Number of classes or values.

    Example:
        >>> heads = UnimodalHeads({"speech": 8, "text": 6}, outputs=4)
        >>> labels = torch.tensor([0, 3])
        >>> losses = heads.losses({"speech": torch.zeros(2, 8), "text": torch.zeros(2, 6)},
        ...                       lambda logits: nn.functional.cross_entropy(logits, labels), weight=0.5)
        >>> sorted(losses)
        ['speech_head', 'text_head']
    """

    def __init__(self, sizes: Mapping[str, int], *, outputs: int) -> None:
        super().__init__({name: nn.Linear(size, outputs) for name, size in sizes.items()})

    def forward(self, vectors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Outputs from the `(batch, size)` vector of each modality, `(batch, outputs)` each."""
        return {name: head(vectors[name]) for name, head in self.items()}

    def losses(
        self, vectors: Mapping[str, torch.Tensor], loss: Callable[[torch.Tensor], torch.Tensor], *, weight: float
    ) -> dict[str, torch.Tensor]:
        """The weighted loss of each head, by the name that the history shows.

        Args:
            vectors: The `(batch, size)` vector of each modality.
            loss: Loss of a head's outputs.
            weight: Factor of every loss.
        """
        return {f"{name}_head": weight * loss(answers) for name, answers in self(vectors).items()}
