"""One validated settings object a stage; a recipe is a TOML file that holds them, and flags override it."""

from __future__ import annotations

import hashlib
import json
import re
import reprlib
import sys
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticSerializationError

from emofuse.errors import SettingsError
from emofuse.inputs import nearest, short

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ModelKind = Literal[
    "speech",
    "text",
    "concat",
    "early-frame",
    "early-phone",
    "early-syllable",
    "early-word",
    "early-joint",
    "late",
    "multi-granularity",
    "multi-level",
]
Granularity = Literal["utterance", "frame", "phone", "syllable", "word"]
TextGranularity = Literal["token", "word"]
Command = Literal["run", "extract", "train", "finetune"]
"""Commands that take a recipe."""
Fraction = Annotated[float, Field(ge=0, lt=1)]

_LARGEST = 1 << 20  # Bytes of a recipe.
_SHOWN = 60  # Characters of a refused name or value.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = _SHOWN


class Settings(BaseModel):
    """What every stage's settings share: nothing unknown is let in, and nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True)


class SpeechSettings(Settings):
    """How speech becomes features.

    Attributes:
        encoder: `builtin:speech`, `logmel`, a Hub id, or a local folder.
        revision: Hub revision; None takes the newest and records which it was.
        layers: `all`, one hidden state (`6`, `-1`), a range with both ends (`4-10`), or several (`4,7,10`).
        frames_per_step: Consecutive frames averaged into one step before fusion (1 keeps every frame).
        segments: How the frames of a phone, syllable or word become one step, and those of an utterance where a
            model reads it as one. `attentive` is learned with the model, which is given all frames: every one of them
            is stored, whatever `frames_per_step`.
        precision: Arithmetic of the encoder.
        batch_seconds: Seconds of audio in one batch, padding counted.
    """

    encoder: str = "builtin:speech"
    revision: str | None = None
    layers: str = "all"
    frames_per_step: int = Field(default=1, ge=1)
    segments: Literal["mean", "max", "mean+std", "attentive"] = "mean"
    precision: Literal["float32", "bfloat16"] = "float32"
    batch_seconds: float = Field(default=60.0, gt=0)


class TextSettings(Settings):
    """How words become features.

    Attributes:
        encoder: `builtin:text`, `words` (word pieces trained with the model), a Hub id, or a local folder.
        revision: Hub revision; None takes the newest and records which it was.
        layers: As for speech.
        max_tokens: Longest text, in word pieces; what is beyond is left out.
        batch_size: Texts in one batch.
        context: How many earlier utterances of the dialogue the encoder reads before the utterance's own words.
    """

    encoder: str = "builtin:text"
    revision: str | None = None
    layers: str = "all"
    max_tokens: int = Field(default=128, ge=4, le=512)
    batch_size: int = Field(default=32, ge=1)
    context: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _context_is_read(self) -> TextSettings:
        if self.context and self.encoder == "words":
            raise ValueError("context needs an encoder of whole texts, which words is not")
        return self


class AlignSettings(Settings):
    """Who finds when words, syllables and phones are said, where a model reads them.

    Attributes:
        aligner: `auto` (what a corpus ships of the reference's words, else `sphinx`), `shipped`, `sphinx`, `ctc`, or
            the path to a class of the user's own, `package.module:Name` or `path/to/file.py:Name`.
        model: For `ctc`: a Hub id or a folder of a CTC model.
    """

    aligner: str = "auto"
    model: str | None = None


class ModelSettings(Settings):
    """Shape of the networks above the encoders.

    Attributes:
        width: Width of the hidden layers and of co-attention.
        heads: Attention heads of co-attention.
        layers: Co-attention layers.
        dropout: Share of units dropped in training, in the head.
        attention_dropout: Share dropped in co-attention.
        pooling: How a sequence becomes one vector.
        late_rule: How `late` joins posteriors; `multi-granularity` and `multi-level` are means.
        late_weights: Of what `late`, `multi-granularity` and `multi-level` join: `equal`, or `tuned`, for each of the
            three those of a grid on the simplex that have the best UA on the test scores of the other folds.
        final: What `multi-level` joins: both `levels`, `multi-granularity` and `late`, each calibrated by a temperature
            from the test scores of the other folds; or all five `models`, those of `multi-granularity` and `late`, as
            they are.
        vocabulary: Word pieces that the `words` baseline may learn.
    """

    width: int = Field(default=256, ge=4)
    heads: int = Field(default=4, ge=1)
    layers: int = Field(default=1, ge=1)
    dropout: Fraction = 0.3
    attention_dropout: Fraction = 0.1
    pooling: Literal["mean", "mean+std", "attentive"] = "attentive"
    speech_granularity: Literal["utterance", "frame"] = "utterance"
    late_rule: Literal["mean", "product"] = "product"
    late_weights: Literal["equal", "tuned"] = "equal"
    final: Literal["levels", "models"] = "levels"
    vocabulary: int = Field(default=2000, ge=50)

    @model_validator(mode="after")
    def _heads_divide_width(self) -> ModelSettings:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class TrainSettings(Settings):
    """How one model is trained.

    Attributes:
        learning_rate: Peak of AdamW's rate.
        layer_rate: Learning rate of the layer weights, as a multiple: few and bounded by a softmax, they are
            still near their start when early stopping ends a run at the common rate.
        weight_decay: AdamW's decay.
        batch_size: Utterances a step.
        epochs: Most passes through the training part.
        patience: Passes without a better validation UA before training stops.
        warmup: Share of the steps in which the rate rises from zero; it then falls along a half cosine.
        clip: Largest norm of the gradient.
        class_weights: Weigh classes by the inverse of their frequency.
        label_smoothing: Share of the target spread over all classes.
        soft_labels: Learn from the shares of the annotators' votes instead of from the label, where an utterance has
            votes for the classes; it is tested and validated on its label all the same.
        refit: After early stopping has chosen the number of passes, train anew on training and validation
            together for that many.
    """

    learning_rate: float = Field(default=1e-3, gt=0)
    layer_rate: float = Field(default=10.0, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    batch_size: int = Field(default=32, ge=1)
    epochs: int = Field(default=40, ge=1)
    patience: int = Field(default=8, ge=1)
    warmup: Fraction = 0.1
    clip: float = Field(default=1.0, gt=0)
    class_weights: bool = False
    label_smoothing: Fraction = 0.0
    soft_labels: bool = False
    refit: bool = False


class FinetuneSettings(Settings):
    """How encoders and the model above them are trained together.

    Attributes:
        learning_rate: Peak of AdamW's rate for the model above the encoders.
        layer_rate: Learning rate of the layer weights, as a multiple of it.
        encoder_rate: Peak of AdamW's rate for the last layer of each encoder.
        layer_decay: Each layer below has its rate multiplied by this; embeddings count as the lowest layer.
        weight_decay: AdamW's decay, of matrices only.
        batch_size: Utterances a step, over all processes.
        micro_batch: Utterances that a process computes at once; gradients are summed up to the batch size.
        gradient_checkpointing: Compute the layers of the encoders anew on the way back instead of keeping what they
            gave: a third slower, in a fraction of the memory.
        precision: Arithmetic of training; what is scored is computed in float32.
        epochs: Most passes through the training part.
        patience: Passes without a better validation UA before training stops.
        warmup: Share of the steps in which the rates rise from zero; they then fall along a half cosine.
        clip: Largest norm of the gradient.
        class_weights: Weigh classes by the inverse of their frequency; None does as `train`.
        label_smoothing: Share of the target spread over all classes; None does as `train`.
        soft_labels: Learn from the annotators' votes, as in `train`; None does as `train`.
    """

    learning_rate: float = Field(default=1e-4, gt=0)
    layer_rate: float = Field(default=10.0, gt=0)
    encoder_rate: float = Field(default=1e-5, gt=0)
    layer_decay: float = Field(default=0.9, gt=0, le=1)
    weight_decay: float = Field(default=1e-2, ge=0)
    batch_size: int = Field(default=32, ge=1)
    micro_batch: int = Field(default=8, ge=1)
    gradient_checkpointing: bool = True
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    epochs: int = Field(default=20, ge=1)
    patience: int = Field(default=5, ge=1)
    warmup: Fraction = 0.1
    clip: float = Field(default=1.0, gt=0)
    class_weights: bool | None = None
    label_smoothing: Fraction | None = None
    soft_labels: bool | None = None


class ProtocolSettings(Settings):
    """How a corpus is split.

    Attributes:
        kind: `session` (leave one session out), `speaker` (leave one speaker out), `corpus` (leave one of several
            corpora out), `speakers` (k folds by speaker), `fixed` (folds by list), `split` (sessions named train, dev
            and test), or `auto`: built-in folds where the corpus has them (sessions for IEMOCAP and MSP-IMPROV), its
            own split where that tests somebody new, leave-one-speaker-out for up to twelve speakers, else `speakers`.
        folds: Number of folds (`speakers`), and most groups that scripts make (`apart`).
        fixed: Speakers tested in each fold (`fixed` only); `published` for those of its card, as RAVDESS has.
        validation_by: What the validation part is carved by. `auto` takes the protocol's own unit: `session` where
            sessions are left out, or where speakers talk to each other within sessions; where too few sessions are
            left, `dialogue`, and without dialogues `speaker`; else `speaker`.
        validation_groups: How many of them go to validation; None for one in five.
        labels: Classes to keep, in this order; empty keeps all that occur.
        merge: Labels to rename before that, such as `excited` to `happy`.
        apart: `script` lets no fold train on words that were given to its tested speakers too: every test set is
            divided by script, and each part is tested by a model that has trained and validated without its scripts.
            What is improvised, or said in no other fold, stays together in one part. More than `folds` scripts are
            drawn into so many groups.
    """

    kind: Literal["auto", "session", "speaker", "corpus", "speakers", "fixed", "split"] = "auto"
    folds: int = Field(default=5, ge=2)
    fixed: Literal["published"] | tuple[tuple[str, ...], ...] | None = None
    validation_by: Literal["auto", "session", "dialogue", "speaker"] = "auto"
    validation_groups: int | None = Field(default=None, ge=1)
    labels: tuple[str, ...] = ()
    merge: Mapping[str, str] = Field(default_factory=dict)
    apart: Literal["script"] | None = None

    @model_validator(mode="after")
    def _fixed_is_read(self) -> ProtocolSettings:
        if self.fixed is not None and self.kind != "fixed":
            raise ValueError(f"fixed needs kind fixed, and kind is {self.kind}")
        return self


LEARNT = ("class_weights", "label_smoothing", "soft_labels")
"""Settings of what is learnt, not how."""


class Recipe(Settings):
    """A whole experiment.

    Attributes:
        name: Title in the report.
        models: What is trained; what is joined from others, such as `late`, brings them with it.
        seeds: One run of every fold a seed.
        controls: Set beside every joined model the mean of as many networks of one kind: its best one, and `speech`,
            with as many seeds as it joins networks.
        train: How models are trained.
        train_early: The same for `early-*`, where it differs: a network over sequences wants smaller steps than a head
            over one vector.
        finetune: How `emofuse finetune` trains encoders and model together.
    """

    name: str
    models: tuple[ModelKind, ...] = ("speech", "text", "late", "early-frame")
    seeds: tuple[int, ...] = (0, 1, 2)
    controls: bool = True
    speech: SpeechSettings = SpeechSettings()
    text: TextSettings = TextSettings()
    align: AlignSettings = AlignSettings()
    model: ModelSettings = ModelSettings()
    train: TrainSettings = TrainSettings()
    train_early: TrainSettings | None = None
    finetune: FinetuneSettings = FinetuneSettings()
    protocol: ProtocolSettings = ProtocolSettings()

    @model_validator(mode="after")
    def _something_to_do(self) -> Recipe:
        if not self.models or not self.seeds:
            raise ValueError("models and seeds must not be empty")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds must differ, and one is named twice")
        if "early-joint" in self.models and self.speech.segments == "mean+std":
            raise ValueError("early-joint joins frames and segments, and mean+std makes segments twice as wide")
        return self

    def train_of(self, kind: ModelKind) -> TrainSettings:
        """How one model is trained."""
        return self.train_early if kind.startswith("early") and self.train_early else self.train

    def finetune_of(self, kind: ModelKind) -> FinetuneSettings:
        """How one model is trained with its encoders; what is learnt is what frozen models learn, unless it is said."""
        frozen, tuned = self.train_of(kind), self.finetune
        same = {name: getattr(frozen, name) for name in LEARNT if getattr(tuned, name) is None}
        return tuned.model_copy(update=same)


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package.

    Example:
        >>> "speech" in recipe_names()
        True
    """
    folder = resources.files("emofuse") / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_recipe(name: str, *, overrides: Iterable[str] = (), command: Command | None = None) -> Recipe:
    """Load a recipe by its name or path, with overrides such as `train.epochs=5`.

    Args:
        name: Name or path.
        overrides: Values are TOML; a bare word counts as a string.
        command: Who takes the recipe; an override that this command does not read is refused.

    Raises:
        SettingsError: No such recipe, or a value that does not fit; the message names the setting.

    Example:
        >>> load_recipe("speech", overrides=["train.epochs=5"]).train.epochs
        5
    """
    path = Path(name)
    if path.suffix.lower() == ".toml":
        source, text = str(path), _read(path)
    elif name in recipe_names():
        source = f"recipe {name}"
        text = (resources.files("emofuse") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
    else:
        raise SettingsError(
            f"no recipe is called {name!r}", remedy=f"{nearest(name, recipe_names())}, or give a path to a .toml file"
        )
    try:
        values = tomllib.loads(text)
    # Numbers of thousands of digits and brackets of thousands of levels have errors of Python's own.
    except (ValueError, RecursionError) as error:
        what = "its brackets are nested too deep" if isinstance(error, RecursionError) else error
        raise SettingsError(f"this is not valid TOML ({what})", where=source, remedy="fix that line") from error
    given: dict[str, Any] = {}
    for override in overrides:
        _apply(values, override)
        _apply(given, override)
    recipe = recipe_from(values, source=source)
    for setting, instead in (unread(command) if command else {}).items():
        if setting in _leaves(given):
            raise SettingsError(
                f"`emofuse {command}` does not read setting {setting}",
                where="--set",
                remedy=f"use {instead}" if instead else "leave it out",
            )
    return recipe


def unread(command: Command) -> dict[str, str]:
    """Settings that a command does not read, and what it reads in their place.

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
        sections = {"train": "finetune", "train_early": "finetune"}
        most = "finetune.micro_batch"
        found = {"models": "--model", "controls": "", "speech.precision": "finetune.precision"}
        found |= {"align.aligner": "", "align.model": "", "speech.batch_seconds": most, "text.batch_size": most}
        found |= {f"model.{name}": "" for name in ("late_rule", "late_weights", "final", "vocabulary")}
    for name in names:
        section, _, last = name.partition(".")
        if section in sections and not (command == "finetune" and last in LEARNT):
            instead = f"{sections[section]}.{last}"
            found.setdefault(name, instead if instead in names else "")
    return found


def given_unread(recipe: Recipe, command: Command) -> list[str]:
    """Settings that a recipe gives, and that a command does not read.

    Example:
        >>> given_unread(load_recipe("text"), "finetune")
        ['models', 'train.learning_rate', 'train.batch_size', 'train.epochs', 'train.patience']
    """
    given = _leaves(recipe.model_dump(exclude_unset=True))
    # In the order of the recipe.
    return [name for name in setting_names(Recipe) if name in given and name in unread(command)]


def _leaves(values: Mapping[str, Any], before: str = "") -> set[str]:
    found = set()
    for name, value in values.items():
        below = _leaves(value, f"{before}{name}.") if isinstance(value, dict) else set()
        found |= {f"{before}{name}", *below}
    return found


def recipe_from(values: Mapping[str, Any], *, source: str) -> Recipe:
    """Check a recipe given as nested mappings.

    Raises:
        SettingsError: The first value that does not fit, by its name.
    """
    return _checked(Recipe, values, source=source)


AnySettings = TypeVar("AnySettings", bound=Settings)


def settings_from(kind: type[AnySettings], overrides: Iterable[str]) -> AnySettings:
    """A stage's defaults, with overrides such as `steps=100`.

    Raises:
        SettingsError: The first value that does not fit, by its name.

    Example:
        >>> settings_from(TrainSettings, ["epochs=5"]).epochs
        5
    """
    values: dict[str, Any] = {}
    for override in overrides:
        _apply(values, override)
    return _checked(kind, values, source="--set")


def _read(path: Path) -> str:
    """The text of a recipe file; a byte order mark, which Windows' editors put first, is skipped."""
    try:
        if path.stat().st_size > _LARGEST:
            raise SettingsError("this is too large for a recipe", where=path, remedy="give a .toml file of settings")
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise SettingsError("no such recipe file", where=path, remedy="check the path") from error
    except OSError as error:
        raise SettingsError(f"this cannot be read ({error.strerror})", where=path, remedy="check the path") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SettingsError(
            f"line {line} is not text in UTF-8", where=path, remedy="save the recipe as UTF-8"
        ) from error


def _checked(kind: type[AnySettings], values: Mapping[str, Any], *, source: str) -> AnySettings:
    try:
        settings = kind.model_validate(values)
        # They are stored with all that is computed by them.
        settings.model_dump_json()
        return settings
    except PydanticSerializationError as error:
        raise SettingsError(
            "a value holds half a character", where=source, remedy="write its text anew, in UTF-8"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(_refused(first), where=source, remedy=_remedy(kind, first)) from error
    except RecursionError as error:
        raise SettingsError("a value is nested too deep", where=source, remedy="change it") from error


def _refused(error: Mapping[str, Any]) -> str:
    name, shown = ".".join(_parts(error)), _SHORT.repr(error["input"])
    if error["type"] == "extra_forbidden":
        return f"there is no setting {short(name)}" if name else "a setting has no name"
    name = name or "recipe"
    if error["type"] == "missing":
        return f"setting {name} is not given"
    if error["type"] == "literal_error":
        return f"setting {name} is {shown}"
    message = error["msg"].removeprefix("Value error, ")
    given = "" if error["type"] == "value_error" else f" is {shown}"
    return f"setting {name}{given}: {message[:1].lower()}{message[1:]}"


def _remedy(kind: type[Settings], error: Mapping[str, Any]) -> str:
    """The nearest setting or value that there is."""
    parts = _parts(error)
    if error["type"] == "literal_error":
        return nearest(str(error["input"]), re.findall(r"'([^']*)'", str(error["ctx"]["expected"])))
    if error["type"] == "missing":
        return "add it"
    if error["type"] != "extra_forbidden":
        return "change its value"
    names, before = setting_names(kind), "".join(f"{part}." for part in parts[:-1])
    # What belongs to a section may be named without it, or with another one.
    if elsewhere := [name for name in names if name.rpartition(".")[2] == parts[-1]]:
        return f"did you mean {' or '.join(elsewhere)}"
    level = dict.fromkeys(before + name[len(before) :].partition(".")[0] for name in names if name.startswith(before))
    return nearest(before + parts[-1], level)


def _parts(error: Mapping[str, Any]) -> list[str]:
    """The name of a setting in its parts, without what pydantic adds where several types are allowed."""
    *before, last = map(str, error["loc"] or ("",))
    unknown = error["type"] == "extra_forbidden"
    named = unknown or (last and "[" not in last)
    return [part for part in before if "[" not in part] + ([last] if named else [])


def setting_names(kind: type[Settings]) -> list[str]:
    """Names of all settings, as `--set` takes them.

    Example:
        >>> [name for name in setting_names(Recipe) if name.endswith("epochs")]
        ['train.epochs', 'train_early.epochs', 'finetune.epochs']
    """
    names = []
    for name, field in kind.model_fields.items():
        inner = [one for one in (field.annotation, *get_args(field.annotation)) if _is_settings(one)]
        names += [f"{name}.{below}" for one in inner for below in setting_names(one)] or [name]
    return names


def _is_settings(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Settings)


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise SettingsError(f"{override!r} is not KEY=VALUE", where="--set", remedy="write, say, train.epochs=5")
    try:
        override.encode()
    except UnicodeEncodeError as error:
        raise SettingsError(f"{override!r} is not UTF-8", where="--set", remedy="write it in UTF-8") from error
    *parents, last = key.strip().split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise SettingsError(f"{key!r} has no parts", where="--set", remedy="name an existing setting")
    try:
        found = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        found = {}
    # More than one line would be more than one setting.
    values[last] = found["value"] if found.keys() == {"value"} else text.strip()


def fingerprint(*parts: Any) -> str:
    """A short hash of settings or other JSON-like values, the same on every machine.

    Example:
        >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
        True
    """
    plain = [part.model_dump(mode="json") if isinstance(part, BaseModel) else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
