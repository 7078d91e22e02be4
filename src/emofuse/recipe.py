"""Recipes: TOML files of whole experiments, with overrides by the command line."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from emofuse.errors import SettingsError
from emofuse.inputs import nearest
from emofuse.settings import (
    AlignSettings,
    FinetuneSettings,
    FusionRule,
    ProtocolSettings,
    Settings,
    SpeechSettings,
    TaskSettings,
    TextSettings,
    TrainSettings,
    checked,
    read_recipe,
    set_value,
    setting_names,
    split_override,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Command = Literal["run", "extract", "train", "finetune"]
"""Commands that take a recipe."""

LEARNT = ("class_weights", "label_smoothing", "soft_labels")
"""Settings of what is learnt, not how."""

_ENTRY = re.compile(r"(models|ensembles)(?:\[(\d+)\]|\.([^.]+))\.(.+)")


def _finite(values: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        json.dumps(values, allow_nan=False, default=str)
    except ValueError as error:
        raise ValueError("a number is not finite") from error
    return values


_Free = Annotated[Mapping[str, Any], AfterValidator(_finite)]
"""Settings that the model's class checks later; stored as JSON, which has no infinite numbers."""


class ModelEntry(Settings):
    """One model of a recipe.

    Attributes:
        name: Its name in tables and folders.
        class_: `class` in a recipe: a short name, or the path of the user's own class such as `my_models:MyFusion`; by
            default its name.
        settings: Of its class's own type; they override `[model]`.
        train: Overrides of `[train]`.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    name: str = Field(min_length=1)
    class_: str = Field(default="", alias="class")
    settings: _Free = Field(default_factory=dict)
    train: _Free = Field(default_factory=dict)

    @property
    def source(self) -> str:
        """The class, for `model_class`."""
        return self.class_ or self.name


class EnsembleEntry(Settings):
    """One ensemble of a recipe.

    Attributes:
        name: Its name in tables and folders.
        of: Its members: models, or earlier ensembles.
        rule: `mean`, `product` or `bayes` of posteriors, see `emofuse.scoring.fuse.combine`; values are averaged.
        weights: Of the members: `equal`; `tuned`, the best UA of a grid on the test scores of the other folds; or
            numbers.
        calibrate: Calibrate each member by a temperature from the test scores of the other folds.
        seeds: Fuse this number of seeds of the only member: the control of an ensemble of as many models.
        certainty: How certain its reconstruction is; printed in tables.
    """

    name: str = Field(min_length=1)
    of: tuple[str, ...] = Field(min_length=1)
    rule: FusionRule = "mean"
    weights: Literal["equal", "tuned"] | tuple[Annotated[float, Field(ge=0)], ...] = "equal"
    calibrate: bool = False
    seeds: int | None = Field(default=None, ge=2)
    certainty: str = ""

    @model_validator(mode="after")
    def _members_fit(self) -> EnsembleEntry:
        if self.seeds is not None and len(self.of) > 1:
            raise ValueError("seeds are fused of one model, and several are named")
        if self.seeds is None and len(self.of) < 2 and not self.calibrate:
            raise ValueError("an ensemble has two members or more, or seeds of one, or calibrates one")
        if not isinstance(self.weights, str) and (len(self.weights) != len(self.of) or not sum(self.weights)):
            raise ValueError(f"weights must be {len(self.of)} numbers, not all 0")
        return self


def _entries(value: Any) -> Any:
    # A name alone is a model of that name.
    if not isinstance(value, (list, tuple)):
        return value
    return [{"name": one} if isinstance(one, str) else one for one in value]


class Recipe(Settings):
    """A whole experiment.

    Attributes:
        name: Title in the report.
        models: Models to train; a name alone is a class of that short name.
        ensembles: Ensembles of their scores.
        seeds: One trial per fold and seed.
        controls: Add controls to every ensemble: its best network, and `speech`, each with as many seeds as it has
            networks.
        task: The task.
        model: Settings of all models that have them.
        train: Training on frozen features.
        finetune: Fine-tuning by `emofuse finetune`.
    """

    name: str
    models: Annotated[tuple[ModelEntry, ...], BeforeValidator(_entries)] = (ModelEntry(name="speech"),)
    ensembles: tuple[EnsembleEntry, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    controls: bool = True
    task: TaskSettings = TaskSettings()
    speech: SpeechSettings = SpeechSettings()
    text: TextSettings = TextSettings()
    align: AlignSettings = AlignSettings()
    model: _Free = Field(default_factory=dict)
    train: TrainSettings = TrainSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    protocol: ProtocolSettings = ProtocolSettings()

    @model_validator(mode="after")
    def _something_to_do(self) -> Recipe:
        if not self.models or not self.seeds:
            raise ValueError("models and seeds must not be empty")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds must differ, and one is named twice")
        known: set[str] = set()
        # Fused seeds are a control, and no member of an ensemble.
        entries: list[tuple[str, tuple[str, ...], bool]] = [(one.name, (), True) for one in self.models]
        entries += [(one.name, one.of, one.seeds is None) for one in self.ensembles]
        for number, (name, members, whole) in enumerate(entries):
            if name in {before for before, *_ in entries[:number]}:
                raise ValueError(f"two models are called {name!r}")
            if unknown := [one for one in members if one not in known]:
                raise ValueError(
                    f"ensemble {name!r} has a member {unknown[0]!r}, and no model before it is called that"
                )
            known |= {name} if whole else set()
        trained = {entry.name for entry in self.models}
        if control := next((one for one in self.ensembles if one.seeds and one.of[0] not in trained), None):
            raise ValueError(f"ensemble {control.name!r} fuses seeds, and {control.of[0]!r} is not trained")
        return self


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package.

    Example:
        >>> "speech" in recipe_names()
        True
    """
    folder = resources.files("emofuse") / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_recipe(name: str | Path, *, overrides: Iterable[str] = (), command: Command | None = None) -> Recipe:
    """Load a recipe by its name or path, with overrides such as `train.epochs=5`.

    Args:
        name: Name or path.
        overrides: Values are TOML; a bare word counts as a string. `models=["speech", "late"]` chooses among the models
            and ensembles of the recipe; `models.NAME.settings.width=64` sets one model; `model.width=64` and
            `train.epochs=5` set all models, also those with their own value.
        command: The command; an override that it does not read is refused.

    Raises:
        SettingsError: No such recipe, or a value that does not fit; the message names the setting.

    Example:
        >>> load_recipe("speech", overrides=["train.epochs=5"]).train.epochs
        5
    """
    path = Path(name)
    if path.suffix.lower() == ".toml":
        source, text = str(path), read_recipe(path)
    elif name in recipe_names():
        source = f"recipe {name}"
        text = (resources.files("emofuse") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
    else:
        raise SettingsError(
            f"no recipe is called {str(name)!r}",
            remedy=f"{nearest(str(name), recipe_names())}, or give a path to a .toml file",
        )
    try:
        values = tomllib.loads(text)
    # Very long numbers and very deep brackets raise other errors of Python.
    except (ValueError, RecursionError) as error:
        what = "its brackets are nested too deep" if isinstance(error, RecursionError) else error
        raise SettingsError(f"this is not valid TOML ({what})", where=source, remedy="fix that line") from error
    given = [split_override(override) for override in overrides]
    for key, value in given:
        _apply(values, key, value)
    recipe = recipe_from(values, source=source)
    # A whole section counts as its settings.
    named = [name for key, value in given for name in _leaves({key: value})]
    for setting, instead in (unread(command) if command else {}).items():
        if any(name == setting or name.startswith((f"{setting}.", f"{setting}[")) for name in named):
            raise SettingsError(
                f"`emofuse {command}` does not read setting {setting}",
                where="--set",
                remedy=f"use {instead}" if instead else "leave it out",
            )
    return recipe


def recipe_from(values: Mapping[str, Any], *, source: str) -> Recipe:
    """Check a recipe given as nested mappings.

    Raises:
        SettingsError: The first value that does not fit, by its name.
    """
    return checked(Recipe, values, source=source)


def _apply(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a key; a value for all models replaces those of single models."""
    if found := _ENTRY.fullmatch(key):
        section, number, name, key = found.groups()
        values[section] = _entries(values.get(section, []))
        values = _entry(values[section], number, name, where=section)
    elif key == "models" and isinstance(value, list) and all(isinstance(one, str) for one in value):
        value, values["ensembles"] = _chosen(values, value)
    elif (parts := key.split("."))[0] in ("model", "train") and len(parts) > 1:
        section = "settings" if parts[0] == "model" else "train"
        for entry in values.get("models", []):
            own = entry.get(section) if isinstance(entry, dict) else None
            if isinstance(own, dict):
                own.pop(parts[1], None)
    set_value(values, key, value)


def _chosen(values: Mapping[str, Any], names: Iterable[str]) -> tuple[list[Any], list[Any]]:
    """Select models and ensembles by name; an ensemble includes its members."""
    models, ensembles = (
        {str(one.get("name")): one for one in _entries(values.get(section, [])) if isinstance(one, dict)}
        for section in ("models", "ensembles")
    )
    wanted: list[str] = []

    def add(name: str) -> None:
        if name not in wanted:
            for member in ensembles.get(name, {}).get("of", ()):
                add(member)
            wanted.append(name)

    for name in names:
        add(name)
    found = [models.get(name, {"name": name}) for name in wanted if name not in ensembles]
    return found, [ensembles[name] for name in wanted if name in ensembles]


def _entry(entries: Any, number: str | None, name: str | None, *, where: str) -> dict[str, Any]:
    known = [one for one in entries if isinstance(one, dict)] if isinstance(entries, list) else []
    names = [str(one.get("name")) for one in known]
    if number is not None and int(number) < len(known):
        return known[int(number)]
    if name in names:
        return known[names.index(name)]
    wanted = name if name is not None else f"{where}[{number}]"
    raise SettingsError(f"the recipe has no {wanted!r} among its {where}", where="--set", remedy=nearest(wanted, names))


def unread(command: Command) -> dict[str, str]:
    """Settings that a command does not read, and those that it reads instead.

    Example:
        >>> unread("run")["finetune.epochs"], unread("finetune")["train.epochs"]
        ('train.epochs', 'finetune.epochs')
    """
    names = setting_names(Recipe)
    if command != "finetune":
        sections = {"finetune": "train"}
        found = {"finetune.gradient_checkpointing": "", "finetune.precision": "speech.precision"}
        if command != "run":
            found |= {"align.aligner": "--alignments", "align.model": "--alignments"}
    else:
        sections = {"train": "finetune"}
        most = "finetune.micro_batch"
        found = {"ensembles": "", "controls": "", "speech.precision": "finetune.precision"}
        found |= {
            "align.aligner": "",
            "align.model": "",
            "speech.batch_seconds": most,
            "text.batch_size": most,
            "text.vocabulary": "",
        }
    for name in names:
        section, _, last = name.partition(".")
        if section in sections and not (command == "finetune" and last in LEARNT):
            instead = f"{sections[section]}.{last}"
            found.setdefault(name, instead if instead in names else "")
    return found


def given_unread(recipe: Recipe, command: Command) -> list[str]:
    """Settings of a recipe that a command does not read.

    Example:
        >>> given_unread(load_recipe("text"), "finetune")
        ['train.learning_rate', 'train.batch_size', 'train.epochs', 'train.patience']
    """
    given = set(_leaves(recipe.model_dump(exclude_unset=True)))
    # In the order of the recipe.
    return [name for name in setting_names(Recipe) if name in given and name in unread(command)]


def _leaves(values: Mapping[str, Any], before: str = "") -> Iterator[str]:
    for name, value in values.items():
        yield f"{before}{name}"
        if isinstance(value, dict):
            yield from _leaves(value, f"{before}{name}.")
