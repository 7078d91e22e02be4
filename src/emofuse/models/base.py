"""The contract of a model: what it reads, what it gives, what it learns from."""

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
    """What a model reads of speech.

    Attributes:
        steps: What one step is; the steps of several granularities follow one another in one sequence.
    """

    steps: tuple[Granularity, ...] = ("frame",)


@dataclass(frozen=True)
class Text:
    """What a model reads of the transcript.

    Attributes:
        step: What one step is: a token, or the average of a word's tokens.
    """

    step: TextGranularity = "token"


@dataclass(frozen=True)
class Inputs:
    """All that a model reads: extraction, alignment, cache keys, fine-tuning and prediction follow from it.

    Attributes:
        speech: None where it reads none.
        text: None where it reads none.
        extras: What else a batch must bring, by its name in `features.extras`.
        extras_at_test: Those of them that prediction needs too.

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
        """What it cannot do without."""
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
        """The same as JSON takes it."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """What a model's inputs look like, known when it is built.

    Attributes:
        speech: Of speech features.
        text: Of text features.
        extras: Sizes of the extras that have one, such as the number of characters.
    """

    speech: InputShape | None = None
    text: InputShape | None = None
    extras: Mapping[str, int] = field(default_factory=dict)

    def frontend(self, modality: str, *, width: int) -> Frontend:
        """The module that reads a modality as one sequence of vectors.

        Args:
            modality: `speech` or `text`.
            width: Of a trained embedding, where the text comes as ids of subwords.

        Raises:
            SettingsError: There is no such input.
        """
        shape = self.speech if modality == "speech" else self.text
        if shape is None:
            raise SettingsError(f"the model reads {modality}, and its inputs hold none", remedy="name it in `inputs`")
        return Frontend(modality, shape, width=width)


@dataclass(frozen=True)
class Output:
    """What a model gives.

    Attributes:
        logits: `(batch, outputs)`: of classes before the softmax, or standardised values.
        aux: What its own losses need, by name.
    """

    logits: torch.Tensor
    aux: Mapping[str, torch.Tensor] = field(default_factory=dict)


class Rates(Protocol):
    """Settings that parameter groups are made of, for frozen features and for fine-tuning."""

    learning_rate: Any
    layer_rate: Any
    weight_decay: Any


class EmotionModel(nn.Module):
    """What every system is: a network above encoders, in one class.

    A subclass says what it reads (`inputs`), builds its layers from its own `Settings`, and answers a batch.

    Args:
        settings: Of the class's own type.
        shapes: Of what `inputs` requires.
        task: What it predicts.

    Attributes:
        Settings: Type of its settings.
        certainty: What of it its source states, and what is ours; printed in tables.
    """

    Settings: ClassVar[type[ModelSettings]] = ModelSettings
    certainty: ClassVar[str] = ""

    def __init__(self, settings: Any, shapes: Shapes, task: Task) -> None:
        super().__init__()
        self.task = task
        self.reads = self.inputs(settings)

    @classmethod
    def inputs(cls, settings: Any) -> Inputs:
        """What the model reads under its settings."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> Output:
        """Answer a batch; an answer must not depend on what else is in the batch."""
        raise NotImplementedError

    def losses(self, output: Output, batch: Batch, *, progress: float) -> dict[str, torch.Tensor]:
        """Losses by name, which training adds up and reports one by one.

        Args:
            output: What `forward` gave for the batch.
            batch: With targets.
            progress: Fraction of all planned steps that are done.
        """
        return {"task": self.task.loss(output.logits, batch.known())}

    def parameter_groups(self, settings: Rates) -> list[dict[str, Any]]:
        """Parameters with their learning rate and decay, as an optimiser takes them; biases and norms do not decay.

        The weights of layers are few and bounded by a softmax: they have a rate of their own.
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
        """What reads each modality, by its name."""
        return {module.modality: module for module in self.modules() if isinstance(module, Frontend)}
