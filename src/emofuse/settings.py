"""Validated settings of each stage, and errors that name the setting."""

from __future__ import annotations

import hashlib
import json
import re
import reprlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticSerializationError

from emofuse.errors import SettingsError
from emofuse.inputs import nearest, short

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Granularity = Literal["utterance", "frame", "phone", "syllable", "word"]
TextGranularity = Literal["token", "word"]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Width = Annotated[int, Field(ge=4)]
RegressionLoss = Literal["mse", "ccc"]
FusionRule = Literal["mean", "product", "bayes"]

_LARGEST = 1 << 20  # Bytes of a recipe.
_SHOWN = 60  # Characters of a refused name or value.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = _SHOWN


class Settings(BaseModel):
    """Base of all settings: unknown names are refused, and values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True)


class SpeechSettings(Settings):
    """Settings of speech features.

    Attributes:
        encoder: `builtin:speech`, `logmel`, a Hub id, or a local folder.
        revision: Hub revision; None takes the newest and records which it was.
        layers: `all`, one hidden state (`6`, `-1`), a range with both ends (`4-10`), or several (`4,7,10`).
        frames_per_step: Consecutive frames averaged into one step before fusion (1 keeps every frame).
        segments: Pooling of the frames of a phone, syllable or word to one step, and of an utterance for models that
            read it as one. `attentive` is learned with the model, so all frames are stored, whatever
            `frames_per_step`.
        precision: Arithmetic of the encoder.
        batch_seconds: Seconds of audio in one batch, padding included.
    """

    encoder: str = "builtin:speech"
    revision: str | None = None
    layers: str = "all"
    frames_per_step: int = Field(default=1, ge=1)
    segments: Literal["mean", "max", "mean+std", "attentive"] = "mean"
    precision: Literal["float32", "bfloat16"] = "float32"
    batch_seconds: float = Field(default=60.0, gt=0)


class TextSettings(Settings):
    """Settings of text features.

    Attributes:
        encoder: `builtin:text`, `words` (subwords trained with the model), a Hub id, or a local folder.
        revision: Hub revision; None takes the newest and records which it was.
        layers: As for speech.
        max_tokens: Longest text, in subwords; the rest is left out.
        batch_size: Texts in one batch.
        context: Number of earlier utterances of the dialogue that the encoder reads before the utterance's own text.
        vocabulary: Most subwords that `words` learns.
    """

    encoder: str = "builtin:text"
    revision: str | None = None
    layers: str = "all"
    max_tokens: int = Field(default=128, ge=4, le=512)
    batch_size: int = Field(default=32, ge=1)
    context: int = Field(default=0, ge=0)
    vocabulary: int = Field(default=2000, ge=50)

    @model_validator(mode="after")
    def _context_is_read(self) -> TextSettings:
        if self.context and self.encoder == "words":
            raise ValueError("context needs an encoder of whole texts, which words is not")
        return self


class AlignSettings(Settings):
    """Settings of alignment, for models that read words, syllables or phones.

    Attributes:
        aligner: `auto` (alignments that a corpus ships of its reference, else `sphinx`), `shipped`, `sphinx`, `ctc`, or
            the path to a class of the user's own, `package.module:Name` or `path/to/file.py:Name`.
        model: For `ctc`: a Hub id or a folder of a CTC model.
    """

    aligner: str = "auto"
    model: str | None = None


def heads_divide_width(settings: Any) -> Any:
    """Check that `heads` divides `width`: a validator of settings.

    Raises:
        ValueError: They do not.
    """
    if settings.width % settings.heads:
        raise ValueError(f"width {settings.width} is not a multiple of heads {settings.heads}")
    return settings


class TaskSettings(Settings):
    """Settings of the task.

    Attributes:
        values: Names of the values to predict, columns `values.NAME` of the manifest; none to predict the label.
        loss: For values: `mse`, the mean squared error, with epochs chosen by the mean absolute error; or `ccc`, one
            minus the concordance correlation of a batch, with epochs chosen by it.
    """

    values: tuple[str, ...] = ()
    loss: RegressionLoss = "mse"


class ModelSettings(Settings):
    """Base of all model settings; a model adds its own fields."""


class TrainSettings(Settings):
    """Training on frozen features.

    Attributes:
        learning_rate: Peak of AdamW's rate.
        layer_rate: Learning rate of the layer weights, as a multiple: at the common rate these few weights, bounded
            by a softmax, hardly change before early stopping.
        weight_decay: AdamW's decay.
        batch_size: Utterances per step.
        epochs: Most epochs.
        patience: Epochs without a better validation UA before training stops.
        warmup: Fraction of the steps in which the rate rises from zero; it then falls along a half cosine.
        clip: Largest norm of the gradient.
        class_weights: Weigh classes by the inverse of their frequency.
        label_smoothing: Fraction of the target spread over all classes.
        soft_labels: Learn from the fractions of the annotators' votes instead of the label, for utterances with votes;
            validation and test still use the label.
        refit: After early stopping, train again on training and validation together for the chosen number of epochs.
        references: Fraction of the utterances whose speech features are centred on random other clips of their speaker
            in training, so that the model can take a reference; it is then tested with one too.
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
    references: Fraction = 0.0


class FinetuneSettings(Settings):
    """Fine-tuning of encoders together with the model on top.

    Attributes:
        learning_rate: Peak of AdamW's rate for the model on top.
        layer_rate: Learning rate of the layer weights, as a multiple of it.
        encoder_rate: Peak of AdamW's rate for the last layer of each encoder.
        layer_decay: Factor on the rate from each layer to the one below; embeddings count as the lowest layer.
        weight_decay: AdamW's decay, of matrices only.
        batch_size: Utterances per step, over all processes.
        micro_batch: Utterances that a process computes at once; gradients accumulate to the batch size.
        gradient_checkpointing: Recompute the encoders' activations in the backward pass instead of keeping them: a
            third slower, with a fraction of the memory.
        precision: Arithmetic of training; scores are computed in float32.
        epochs: Most epochs.
        patience: Epochs without a better validation UA before training stops.
        warmup: Fraction of the steps in which the rates rise from zero; they then fall along a half cosine.
        clip: Largest norm of the gradient.
        class_weights: Weigh classes by the inverse of their frequency; None takes that of `train`.
        label_smoothing: Fraction of the target spread over all classes; None takes that of `train`.
        soft_labels: Learn from the annotators' votes, as in `train`; None takes that of `train`.
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
    """Settings of the protocol.

    Attributes:
        kind: `session` (leave one session out), `speaker` (leave one speaker out), `corpus` (leave one of several
            corpora out), `speakers` (k folds by speaker), `fixed` (folds by list), `split` (sessions named train, dev
            and test), `stratified` (k folds of utterances with as much of each label, where speakers are unknown), or
            `auto`: built-in folds where the corpus has them (sessions for IEMOCAP and MSP-IMPROV), its own split if
            that has new test speakers, `stratified` where no speaker is known or there is only one,
            leave-one-speaker-out for up to twelve speakers, else `speakers`.
        folds: Number of folds (`speakers`, `stratified`), and most groups of scripts (`apart`).
        fixed: Test speakers of each fold (`fixed` only); `published` for those of the corpus's card, such as RAVDESS's.
        validation_by: Column that the validation part is split by. `auto` chooses by protocol: `session` where
            sessions are left out, or where speakers talk to each other within sessions; where too few sessions are
            left, `dialogue`, and without dialogues `speaker`; `utterance`, at random, where folds are `stratified`;
            else `speaker`.
        validation_groups: Number of groups in validation; None for one in five.
        labels: Classes to keep, in this order; empty keeps all.
        merge: Labels to rename first, such as `excited` to `happy`.
        apart: With `script` no fold trains on scripts of its test set: every test set is divided by script, and each
            part is tested by a model that was trained and validated without its scripts. Improvised utterances, and
            scripts of no other fold, stay together in one part. More than `folds` scripts are grouped at random into
            `folds` groups.
    """

    kind: Literal["auto", "session", "speaker", "corpus", "speakers", "fixed", "split", "stratified"] = "auto"
    folds: int = Field(default=5, ge=2)
    fixed: Literal["published"] | tuple[tuple[str, ...], ...] | None = None
    validation_by: Literal["auto", "session", "dialogue", "speaker", "utterance"] = "auto"
    validation_groups: int | None = Field(default=None, ge=1)
    labels: tuple[str, ...] = ()
    merge: Mapping[str, str] = Field(default_factory=dict)
    apart: Literal["script"] | None = None

    @model_validator(mode="after")
    def _fixed_is_read(self) -> ProtocolSettings:
        if self.fixed is not None and self.kind != "fixed":
            raise ValueError(f"fixed needs kind fixed, and kind is {self.kind}")
        return self


AnySettings = TypeVar("AnySettings", bound=Settings)


def settings_from(kind: type[AnySettings], overrides: Iterable[str]) -> AnySettings:
    """A stage's default settings, with overrides such as `steps=100`.

    Raises:
        SettingsError: The first value that does not fit, by its name.

    Example:
        >>> settings_from(TrainSettings, ["epochs=5"]).epochs
        5
    """
    values: dict[str, Any] = {}
    for override in overrides:
        set_value(values, *split_override(override))
    return checked(kind, values, source="--set")


def read_recipe(path: Path) -> str:
    """The text of a recipe file, without a byte order mark."""
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


def checked(
    kind: type[AnySettings],
    values: Mapping[str, Any],
    *,
    source: str,
    prefix: Callable[[str], str] = lambda name: "",
    besides: Iterable[str] = (),
) -> AnySettings:
    """Check settings given as nested mappings.

    Args:
        kind: Their type.
        values: The values.
        source: Their origin, for errors.
        prefix: Prefix of a setting's name in errors.
        besides: Names of other settings that a wrong one may mean.

    Raises:
        SettingsError: The first value that does not fit, by its name.
    """
    try:
        settings = kind.model_validate(values)
        # Settings are stored with results.
        settings.model_dump_json()
        return settings
    except PydanticSerializationError as error:
        raise SettingsError(
            "a value holds half a character", where=source, remedy="write its text again, in UTF-8"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        before = prefix(str(first["loc"][0]) if first["loc"] else "")
        names = [*(before + name for name in setting_names(kind)), *besides]
        what = _refused(first, before)
        raise SettingsError(what, where=source, remedy=_remedy(names, first, before)) from error
    except RecursionError as error:
        raise SettingsError("a value is nested too deep", where=source, remedy="change it") from error


def _refused(error: Mapping[str, Any], before: str) -> str:
    name, shown = (before + ".".join(_parts(error))).rstrip(".").replace(".[", "["), _SHORT.repr(error["input"])
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


def _remedy(names: Sequence[str], error: Mapping[str, Any], prefix: str) -> str:
    """The nearest setting or value."""
    parts = [*prefix.split(".")[:-1], *_parts(error)]
    if error["type"] == "literal_error":
        return nearest(str(error["input"]), re.findall(r"'([^']*)'", str(error["ctx"]["expected"])))
    if error["type"] == "missing":
        return "add it"
    if error["type"] != "extra_forbidden":
        return "change its value"
    before = "".join(f"{part}." for part in parts[:-1])
    # A setting may be given without its section, or with a wrong one.
    if elsewhere := [name for name in names if name.rpartition(".")[2] == parts[-1]]:
        return f"did you mean {' or '.join(elsewhere)}"
    level = dict.fromkeys(before + name[len(before) :].partition(".")[0] for name in names if name.startswith(before))
    return nearest(before + parts[-1], level)


def _parts(error: Mapping[str, Any]) -> list[str]:
    """The parts of a setting's name, without pydantic's additions for unions."""
    *before, last = (f"[{part}]" if isinstance(part, int) else str(part) for part in error["loc"] or ("",))
    unknown = error["type"] == "extra_forbidden"
    named = unknown or (last and not _is_type(last))
    return [part for part in before if not _is_type(part)] + ([last] if named else [])


def _is_type(part: str) -> bool:
    return "[" in part and not part.startswith("[")


def setting_names(kind: type[Settings]) -> list[str]:
    """Names of all settings, for `--set`.

    Example:
        >>> setting_names(TaskSettings)
        ['values', 'loss']
    """
    names = []
    for name, field in kind.model_fields.items():
        kinds = () if get_origin(field.annotation) is tuple else (field.annotation, *get_args(field.annotation))
        inner = [one for one in kinds if _is_settings(one)]
        names += [f"{name}.{below}" for one in inner for below in setting_names(one)] or [name]
    return names


def _is_settings(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Settings)


def set_value(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a key such as `train.epochs` in nested mappings.

    Raises:
        SettingsError: Its parent is no section.
    """
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise SettingsError(f"{key!r} has no parts", where="--set", remedy="name an existing setting")
    values[last] = value


def split_override(override: str) -> tuple[str, Any]:
    """Key and value of `KEY=VALUE`; the value is TOML, and a bare word counts as a string.

    Raises:
        SettingsError: It is invalid.

    Example:
        >>> split_override("train.epochs=5"), split_override("speech.encoder=logmel")
        (('train.epochs', 5), ('speech.encoder', 'logmel'))
    """
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise SettingsError(f"{override!r} is not KEY=VALUE", where="--set", remedy="write, say, train.epochs=5")
    try:
        override.encode()
    except UnicodeEncodeError as error:
        raise SettingsError(f"{override!r} is not UTF-8", where="--set", remedy="write it in UTF-8") from error
    try:
        found = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        found = {}
    # Several lines would be several settings.
    return key.strip(), found["value"] if found.keys() == {"value"} else text.strip()


def fingerprint(*parts: Any) -> str:
    """A short hash of settings or other JSON-like values, the same on every machine.

    Example:
        >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
        True
    """
    plain = [part.model_dump(mode="json") if isinstance(part, BaseModel) else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
