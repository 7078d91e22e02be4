"""The interface of models: inputs, outputs and losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

from emofuse.errors import SettingsError
from emofuse.features.dataset import Batch
from emofuse.models.frontend import Frontend, InputShape, LayerMix
from emofuse.settings import Granularity, ModelSettings, TextGranularity
from emofuse.task import Task
from emofuse.types import TIERS, Tier

__all__ = ["Batch", "EmotionModel", "Inputs", "ModelSettings", "Output", "Shapes", "Speech", "Task", "Text"]


@dataclass(frozen=True)
class Speech:
    """Speech input of a model.

    Attributes:
        steps: Granularities of steps; several are concatenated in one sequence.
    """

    steps: tuple[Granularity, ...] = ("frame",)


@dataclass(frozen=True)
class Text:
    """Text input of a model.

    Attributes:
        step: Kind of step: a token, or the average of a word's tokens.
    """

    step: TextGranularity = "token"


@dataclass(frozen=True)
class Inputs:
    """All inputs of a model, which determine extraction, alignment, cache keys, fine-tuning and prediction.

    Attributes:
        speech: Speech input, if any.
        text: Text input, if any.
        extras: Further inputs, by name in `features.extras`.
        extras_at_test: Extras that prediction needs too.

    Example:
        >>> Inputs(speech=Speech(("phone",)), text=Text()).modalities
        ('speech', 'text')
    """

    speech: Speech | None = None
    text: Text | None = None
    extras: tuple[str, ...] = ()
    extras_at_test: tuple[str, ...] = ()

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities of the input."""
        return tuple(name for name in ("speech", "text") if getattr(self, name) is not None)

    @property
    def steps(self) -> tuple[Granularity, ...]:
        """Granularities of speech."""
        return self.speech.steps if self.speech else ()

    @property
    def tiers(self) -> tuple[Tier, ...]:
        """Tiers of the alignment that it reads."""
        return tuple(tier for tier in TIERS if tier in self.steps)

    def record(self) -> dict[str, Any]:
        """The inputs as JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Shapes of a model's inputs.

    Attributes:
        speech: Shape of speech features.
        text: Shape of text features.
        extras: Sizes of extras that have one, such as the number of characters.
    """

    speech: InputShape | None = None
    text: InputShape | None = None
    extras: Mapping[str, int] = field(default_factory=dict)

    def frontend(self, modality: str, *, width: int) -> Frontend:
        """The module that reads a modality as one sequence of vectors.

        Args:
            modality: `speech` or `text`.
            width: Width of a trained embedding, for text as ids of subwords.

        Raises:
            SettingsError: There is no such input.
        """
        shape = self.speech if modality == "speech" else self.text
        if shape is None:
            raise SettingsError(f"the model reads {modality}, and its inputs hold none", remedy="name it in `inputs`")
        return Frontend(modality, shape, width=width)


@dataclass(frozen=True)
class Output:
    """Output of a model.

    Attributes:
        logits: `(batch, outputs)`: logits of classes, or standardised values.
        aux: Tensors for its own losses, by name.
    """

    logits: torch.Tensor
    aux: Mapping[str, torch.Tensor] = field(default_factory=dict)


class Rates(Protocol):
    """Settings of parameter groups, for frozen features and for fine-tuning."""

    learning_rate: Any
    layer_rate: Any
    weight_decay: Any


class EmotionModel(nn.Module):
    """Base class of all systems: a network on top of encoders.

    A subclass states its `inputs`, builds its layers from its own `Settings`, and implements `forward`.

    Args:
        settings: Of the class's own type.
        shapes: Shapes of its `inputs`.
        task: The task.

    Attributes:
        Settings: Type of its settings.
        certainty: Which parts its source states, and which are ours; printed in tables.
    """

    Settings: ClassVar[type[ModelSettings]] = ModelSettings
    certainty: ClassVar[str] = ""

    def __init__(self, settings: Any, shapes: Shapes, task: Task) -> None:
        super().__init__()
        self.task = task
        self.reads = self.inputs(settings)

    @classmethod
    def inputs(cls, settings: Any) -> Inputs:
        """Inputs of the model under its settings."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> Output:
        """Compute outputs of a batch; an output must not depend on the rest of the batch."""
        raise NotImplementedError

    def losses(self, output: Output, batch: Batch, *, progress: float) -> dict[str, torch.Tensor]:
        """Losses by name; training minimises their sum and reports each.

        Args:
            output: Result of `forward` for the batch.
            batch: With targets.
            progress: Finished fraction of all planned steps.
        """
        return {"task": self.task.loss(output.logits, batch.known())}

    def parameter_groups(self, settings: Rates) -> list[dict[str, Any]]:
        """Parameter groups with learning rate and decay; biases and norms do not decay.

        The few layer weights, bounded by a softmax, have their own rate.
        """
        mixes = [module.scores for module in self.modules() if isinstance(module, LayerMix)]
        known = {id(one) for one in mixes}
        others = [one for one in self.parameters() if one.requires_grad and id(one) not in known]
        rate = settings.learning_rate
        groups: list[dict[str, Any]] = [
            {"params": [one for one in others if one.ndim > 1], "lr": rate, "weight_decay": settings.weight_decay},
            {"params": [one for one in others if one.ndim <= 1], "lr": rate, "weight_decay": 0.0},
            {"params": mixes, "lr": rate * settings.layer_rate, "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]

    def frontends(self) -> dict[str, Frontend]:
        """Frontend of each modality, by name."""
        return {module.modality: module for module in self.modules() if isinstance(module, Frontend)}
