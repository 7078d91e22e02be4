"""Resolved recipes: class, settings and inputs of every model, members of every ensemble."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from emofuse.encoders import is_trained_with_model
from emofuse.errors import SettingsError
from emofuse.features.extras import check_extras, extra_sizes
from emofuse.features.segments import is_pooled_in_model
from emofuse.inputs import nearest
from emofuse.models import MODELS, model_class
from emofuse.models.base import EmotionModel, Inputs, Shapes
from emofuse.models.frontend import InputShape
from emofuse.outside import code_hash, full_name, is_outside
from emofuse.recipe import LEARNT, EnsembleEntry, ModelEntry, Recipe, given_unread
from emofuse.settings import (
    AlignSettings,
    FinetuneSettings,
    FusionRule,
    Granularity,
    ModelSettings,
    ProtocolSettings,
    SpeechSettings,
    TaskSettings,
    TextGranularity,
    TextSettings,
    TrainSettings,
    checked,
)
from emofuse.task import Task
from emofuse.types import TIERS, EncoderSpecification, Tier


@dataclass(frozen=True, kw_only=True)
class ModelPlan:
    """One model, resolved.

    Attributes:
        name: Its name in tables and folders.
        source: Its class, for `model_class`.
        settings: Of its class's own type.
        inputs: Its inputs.
        train: Settings of training on frozen features.
        finetune: Settings of fine-tuning.
        certainty: How certain its reconstruction is.
    """

    name: str
    source: str
    settings: ModelSettings
    inputs: Inputs
    train: TrainSettings = field(default_factory=TrainSettings)
    finetune: FinetuneSettings = field(default_factory=FinetuneSettings)
    certainty: str = ""

    def build(self, shapes: Shapes, task: Task) -> EmotionModel:
        """The network, with fresh weights."""
        return model_class(self.source)(self.settings, shapes, task)

    @property
    def takes_references(self) -> bool:
        """Whether it is trained to take a reference of its speaker's clips."""
        return bool(self.train.references and self.inputs.speech)

    def record(self) -> dict[str, Any]:
        """Definition of the network, as JSON."""
        return {"class": self.source, "settings": self.settings.model_dump(mode="json")}

    @property
    def code(self) -> str:
        """Hash of the user's own class and of files that settings name, which may change."""
        named = [value for value in dict(self.settings).values() if isinstance(value, Path) and value.is_file()]
        held = [sha256(path.read_bytes()).hexdigest()[:16] for path in named]
        return "".join([code_hash(model_class(self.source)) if is_outside(self.source) else "", *held])


@dataclass(frozen=True, kw_only=True)
class EnsemblePlan:
    """One ensemble, resolved.

    Attributes:
        name: Its name in tables and folders.
        of: Its members, in the order of its weights.
        networks: Its networks, in order.
        rule: Rule of fusion.
        weights: `equal`, `tuned`, or one per member.
        calibrate: Whether each member is calibrated first.
        seeds: Number of fused seeds of its one member; None for different members.
        certainty: How certain its reconstruction is.
    """

    name: str
    of: tuple[str, ...]
    networks: tuple[str, ...]
    rule: FusionRule = "mean"
    weights: str | tuple[float, ...] = "equal"
    calibrate: bool = False
    seeds: int | None = None
    certainty: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A resolved recipe.

    Attributes:
        title: Title of the report.
        recipe: The recipe as JSON, for the report.
        not_tuned: Settings of the recipe that fine-tuning does not read.
        models: Models to train.
        ensembles: Ensembles; members precede.
        seeds: One trial per fold and seed.
        controls: Whether every ensemble gets its controls.
        task: The task.
        speech: Settings of speech features.
        text: Settings of text features.
        align: Settings of alignment.
        protocol: Settings of the protocol.
    """

    title: str
    recipe: Mapping[str, Any]
    not_tuned: tuple[str, ...]
    models: tuple[ModelPlan, ...]
    ensembles: tuple[EnsemblePlan, ...]
    seeds: tuple[int, ...]
    controls: bool
    task: TaskSettings
    speech: SpeechSettings
    text: TextSettings
    align: AlignSettings
    protocol: ProtocolSettings

    @property
    def names(self) -> tuple[str, ...]:
        """Names of models and ensembles, in the order of tables."""
        return (*(one.name for one in self.models), *(one.name for one in self.ensembles))

    def model(self, name: str) -> ModelPlan:
        """The model of a name.

        Raises:
            SettingsError: The recipe has no such model.
        """
        for one in self.models:
            if one.name == name:
                return one
        known = [one.name for one in self.models]
        raise SettingsError(f"the recipe has no model {name!r}", where="model", remedy=nearest(name, known))

    def tuned(self, name: str) -> Plan:
        """The plan of one model, for fine-tuning."""
        model = self.model(name)
        learnt = {one: getattr(model.finetune, one) for one in LEARNT}
        return replace(self, models=(replace(model, train=model.train.model_copy(update=learnt)),), ensembles=())

    @property
    def modalities(self) -> tuple[str, ...]:
        """Inputs of its models."""
        return tuple(name for name in ("speech", "text") if any(name in one.inputs.modalities for one in self.models))

    @property
    def trains_subwords(self) -> bool:
        """Whether text is read as subwords that are trained with the model."""
        return "text" in self.modalities and is_trained_with_model(self.text.encoder)

    @property
    def steps(self) -> tuple[Granularity, ...]:
        """Granularities of speech that its models read."""
        return tuple(sorted({step for one in self.models for step in one.inputs.steps}))

    @property
    def text_steps(self) -> tuple[TextGranularity, ...]:
        """Granularities of the transcript that its models read."""
        return tuple(sorted({one.inputs.text.step for one in self.models if one.inputs.text}))

    @property
    def tiers(self) -> tuple[Tier, ...]:
        """Tiers of the alignment that its models read."""
        return tuple(tier for tier in TIERS if tier in self.steps)

    @property
    def learns_votes(self) -> bool:
        """Whether a model learns from the annotators' votes."""
        return any(one.train.soft_labels for one in self.models)


def resolve(recipe: Recipe) -> Plan:
    """Resolve a recipe.

    Raises:
        SettingsError: A model's class is unknown, or a setting does not fit it.

    Example:
        >>> from emofuse.recipe import load_recipe
        >>> plan = resolve(load_recipe("paper"))
        >>> plan.tiers, len(plan.ensembles[-1].networks)
        (('word', 'syllable', 'phone'), 6)
    """
    models = tuple(_model(entry, number, recipe) for number, entry in enumerate(recipe.models))
    _check_shared(recipe, models)
    ensembles: list[EnsemblePlan] = []
    networks: dict[str, tuple[str, ...]] = {one.name: (one.name,) for one in models}
    for number, entry in enumerate(recipe.ensembles):
        _check_ensemble(entry, recipe, where=f"ensembles[{number}]")
        inside = tuple(name for member in entry.of for name in networks[member])
        networks[entry.name] = inside * (entry.seeds or 1)
        ensembles.append(EnsemblePlan(**{**dict(entry), "networks": networks[entry.name]}))
    return Plan(
        title=recipe.name,
        recipe=recipe.model_dump(mode="json"),
        not_tuned=tuple(given_unread(recipe, "finetune")),
        models=models,
        ensembles=tuple(ensembles),
        seeds=recipe.seeds,
        controls=recipe.controls,
        task=recipe.task,
        speech=recipe.speech,
        text=recipe.text,
        align=recipe.align,
        protocol=recipe.protocol,
    )


def _model(entry: ModelEntry, number: int, recipe: Recipe) -> ModelPlan:
    place = f"models[{number}]"
    try:
        found = model_class(entry.source)
    except SettingsError as error:
        raise SettingsError(error.what, where=f"{place}.class", remedy=error.remedy) from error
    shared = {name: value for name, value in recipe.model.items() if name in found.Settings.model_fields}
    settings = checked(
        found.Settings,
        {**shared, **entry.settings},
        source=f"recipe {recipe.name!r}",
        prefix=lambda name: "model." if name in shared and name not in entry.settings else f"{place}.settings.",
    )
    given = recipe.train.model_dump(exclude_unset=True)
    train = checked(
        TrainSettings,
        {**given, **entry.train},
        source=f"recipe {recipe.name!r}",
        prefix=lambda name: f"{place}.train." if name in entry.train else "train.",
    )
    tuned = recipe.finetune
    same = {name: getattr(train, name) for name in LEARNT if getattr(tuned, name) is None}
    finetune = tuned.model_copy(update=same)
    if recipe.task.values and (wrong := [name for name in LEARNT if getattr(train, name) or getattr(finetune, name)]):
        where = f"{place}.train" if wrong[0] in entry.train else "train"
        raise SettingsError(f"{wrong[0]} is for classes", where=f"{where}.{wrong[0]}", remedy="leave it out")
    inputs = found.inputs(settings)
    check_extras(inputs.extras, where=place)
    widths = {recipe.speech.segments == "mean+std" and step != "frame" for step in inputs.steps}
    if len(widths) > 1:
        raise SettingsError(
            f"{entry.name} reads frames and segments in one sequence, and mean+std makes segments twice as wide",
            where="speech.segments",
            remedy="use mean",
        )
    return ModelPlan(
        name=entry.name,
        source=full_name(entry.source),
        settings=settings,
        inputs=inputs,
        train=train,
        finetune=finetune,
        certainty=found.certainty,
    )


def _check_shared(recipe: Recipe, models: tuple[ModelPlan, ...]) -> None:
    """Check that every setting of `[model]` is one of some model's, in the recipe or beside it."""
    names = {name for one in models for name in type(one.settings).model_fields}
    if not names.issuperset(recipe.model):
        # Import other models only if the setting may be theirs.
        names = names.union(*(model_class(name).Settings.model_fields for name in MODELS))
    for name in recipe.model:
        if name not in names:
            elsewhere = [
                f"{section}.{name}" for section, held in recipe if name in getattr(held, "model_fields_set", ())
            ]
            raise SettingsError(
                f"there is no setting model.{name} of any model",
                where=f"recipe {recipe.name!r}",
                remedy=nearest(f"model.{name}", [*(f"model.{one}" for one in sorted(names)), *elsewhere]),
            )


def _check_ensemble(entry: EnsembleEntry, recipe: Recipe, *, where: str) -> None:
    """Check that values are averaged, which is all that can be done with them."""
    if not recipe.task.values:
        return
    for name, wrong in (
        ("rule", entry.rule != "mean"),
        ("weights", entry.weights == "tuned"),
        ("calibrate", entry.calibrate),
    ):
        if wrong:
            raise SettingsError(
                f"{name} is {getattr(entry, name)}, and values can only be averaged",
                where=f"{where}.{name}",
                remedy="leave it out",
            )


def pools_frames(inputs: Inputs, speech: SpeechSettings) -> bool:
    """Whether a model reads frames and the bounds of its steps; if so, for all its granularities."""
    return any(is_pooled_in_model(speech, step) for step in inputs.steps)


def step_width(step: Granularity, speech: SpeechSettings, encoder: EncoderSpecification) -> int:
    """Numbers per speech step."""
    return encoder.width * (2 if speech.segments == "mean+std" and step != "frame" else 1)


def speech_shape(inputs: Inputs, speech: SpeechSettings, encoder: EncoderSpecification) -> InputShape:
    """Shape of a model's speech features."""
    width = step_width(inputs.steps[0], speech, encoder)
    # Mean and deviation of each kind.
    kinds = encoder.kinds * (width // encoder.width)
    return InputShape(len(encoder.selected), width, segments=pools_frames(inputs, speech), kinds=kinds)


def shapes_of(
    inputs: Inputs, speech: SpeechSettings, encoders: Mapping[str, EncoderSpecification], *, subwords: int | None
) -> Shapes:
    """Shapes of a model's inputs.

    Args:
        inputs: Its inputs.
        speech: Settings of speech features.
        encoders: Specification of each modality's encoder, if any.
        subwords: Size of the vocabulary that is trained with the model; None with a text encoder.

    Raises:
        ValueError: Nothing says how a modality becomes its input.
    """
    return Shapes(**dict(_shapes(inputs, speech, encoders, subwords)))


def _shapes(
    inputs: Inputs, speech: SpeechSettings, encoders: Mapping[str, EncoderSpecification], subwords: int | None
) -> Iterator[tuple[str, Any]]:
    for modality in inputs.modalities:
        if modality == "text" and subwords is not None:
            yield modality, InputShape(0, subwords)
        elif modality not in encoders:
            raise ValueError(f"nothing says how {modality} becomes its input")
        elif modality == "speech":
            yield modality, speech_shape(inputs, speech, encoders[modality])
        else:
            yield modality, InputShape(len(encoders[modality].selected), encoders[modality].width)
    if inputs.extras:
        yield "extras", extra_sizes(inputs.extras)
