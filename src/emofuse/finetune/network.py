"""Encoders and the model on top as one module, with layer-wise learning rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from emofuse.encoders import TrainableEncoder
from emofuse.features.dataset import Batch
from emofuse.features.pooling import pool_frames
from emofuse.models.base import EmotionModel, Output
from emofuse.settings import FinetuneSettings

Steps = Literal["utterance", "frame"]
Items = Mapping[str, Sequence[Any]]
"""Inputs of each modality: clips `(samples,)` for `speech`, texts for `text`."""


class TunedNetwork(nn.Module):
    """Audio and text to logits. The convolutional frontend is frozen, all else is trained.

    Args:
        head: The model on top, with a layer mix for each modality.
        encoders: Encoder of each modality; they are unfrozen.
        granularity: Pooling of speech frames, as for stored features.
        frames_per_step: As for stored features.
        gradient_checkpointing: Recompute the encoders' layers in the backward pass.
    """

    def __init__(
        self,
        head: EmotionModel,
        encoders: Mapping[str, TrainableEncoder],
        *,
        granularity: Steps,
        frames_per_step: int = 1,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.head = head
        self.encoders = nn.ModuleDict({modality: encoder.model for modality, encoder in encoders.items()})
        self._sources = dict(encoders)
        self._granularity, self._frames_per_step = granularity, frames_per_step
        for encoder in encoders.values():
            encoder.thaw()
            if gradient_checkpointing:
                for layer in encoder.layers:
                    _checkpointed(layer)

    def train(self, mode: bool = True) -> TunedNetwork:
        """As in every module, but batch norms keep their statistics, since batches are padded."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self

    def features(self, modality: str, items: Sequence[Any]) -> list[torch.Tensor]:
        """Features of a modality for the head, `(layers, steps, width)` per utterance, on the device."""
        states = self._sources[modality].states(items)
        if modality == "text":
            return states
        return [
            pool_frames(one, granularity=self._granularity, frames_per_step=self._frames_per_step) for one in states
        ]

    def forward(self, items: Items, batch: Batch) -> tuple[Output, Batch]:
        """Compute the output for a batch, and return the batch with its features.

        Args:
            items: Inputs of each modality.
            batch: Targets and extras, without features.
        """
        found: dict[str, torch.Tensor] = {}
        for modality in self._sources:
            found[modality], found[f"{modality}_mask"] = pad_states(self.features(modality, items[modality]))
        whole = replace(batch, **found)  # type: ignore[arg-type]
        output = self.head(whole)
        return Output(output.logits.float(), output.aux), whole

    def groups(self, settings: FinetuneSettings) -> list[dict[str, Any]]:
        """Parameter groups of trained weights with peak rate and decay.

        Rates fall from layer to layer towards the input (Howard and Ruder, ACL 2018, sec. 3.2), and biases and norms do
        not decay.
        """
        rates: dict[int, float] = {}
        for encoder in self._sources.values():
            layers = encoder.layers
            lowest = settings.encoder_rate * settings.layer_decay ** len(layers)
            rates |= {id(parameter): lowest for parameter in encoder.model.parameters()}
            for above, layer in enumerate(reversed(layers)):
                rate = settings.encoder_rate * settings.layer_decay**above
                rates |= {id(parameter): rate for parameter in layer.parameters()}
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for parameter in self.encoders.parameters():
            if parameter.requires_grad:
                key = rates[id(parameter)], settings.weight_decay if parameter.ndim > 1 else 0.0
                groups.setdefault(key, []).append(parameter)
        tuned = [{"params": held, "lr": rate, "weight_decay": decay} for (rate, decay), held in groups.items()]
        return [*self.head.parameter_groups(settings), *tuned]


def pad_states(items: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Stack `(layers, steps, width)` of different length with a mask, letting gradients through.

    Example:
        >>> values, mask = pad_states([torch.ones(2, 3, 4), torch.ones(2, 1, 4)])
        >>> values.shape, mask.tolist()
        (torch.Size([2, 2, 3, 4]), [[True, True, True], [True, False, False]])
    """
    padded = pad_sequence([item.transpose(0, 1) for item in items], batch_first=True).transpose(1, 2)
    lengths = torch.tensor([item.shape[1] for item in items], device=padded.device)
    return padded, torch.arange(padded.shape[2], device=padded.device) < lengths[:, None]


def _checkpointed(layer: Any) -> None:
    # Not by transformers' own option, which some families lack.
    forward = layer.forward

    def forward_again(*args: Any, **kwargs: Any) -> Any:
        if not layer.training:
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    layer.forward = forward_again
