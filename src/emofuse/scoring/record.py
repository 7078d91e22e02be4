"""The record of a run, `result.json`: written once, read by report, tables, model card and `compare`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AllowInfNan, BaseModel, ConfigDict, Discriminator, Field, Strict, Tag, ValidationError

from emofuse.errors import ScoresError
from emofuse.files import read_json, write_text
from emofuse.scoring.kinds import CLASSES, VALUES, Kind, kind_with
from emofuse.scoring.metrics import SURE

AGAIN = "make the run again with `emofuse run`"
"""Remedy for a run whose files are broken."""

RESULT = "result.json"

Number = Annotated[float, Strict(), AllowInfNan(False)]
Count = Annotated[int, Strict()] | Number  # A tie counts as a fraction.


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class _ByMetric(_Part):
    """What has one entry per metric, by the metric's key: `entry["ua"].low`."""

    def __getitem__(self, metric: str) -> Any:
        return getattr(self, metric)


class Estimate(_Part):
    """A metric with its 95 % interval."""

    value: Number
    low: Number
    high: Number


class Confident(_Part):
    """Answers with a posterior above 0.7: their fraction of all, and the accuracy among them."""

    coverage: Number
    accuracy: Number | None


class Entry(_ByMetric):
    """Every figure of a model, as `emofuse.scoring.result.evaluate` says."""

    kind: ClassVar[Kind]
    fold_mean: dict[str, Number | None]
    seed_sd: dict[str, Number | None]
    utterances: int
    seeds: list[int]
    folds: int
    cluster: str
    clusters: int
    rows: int = 0

    @property
    def names(self) -> list[str]:
        """The classes or values."""
        found: list[str] = getattr(self, self.kind.noun)
        return found


class ClassEntry(Entry):
    """Of a model that predicts classes."""

    kind = CLASSES
    dimensions: ClassVar[Mapping[str, Dimension]] = {}
    wa: Estimate
    ua: Estimate
    macro_f1: Estimate
    ece: Number
    confident: Confident
    recall: dict[str, Number | None]
    confusion: list[list[Count]]
    classes: list[str]
    ties: int = 0

    @property
    def calibration(self) -> dict[str, float | None]:
        """Fractions that say what its posteriors are worth, by title."""
        return {
            "ECE": self.ece,
            f"Above {SURE:g}": self.confident.coverage,
            "Right of these": self.confident.accuracy,
        }


class Dimension(_ByMetric):
    """The metrics of one value."""

    ccc: Estimate
    pearson: Estimate
    mae: Estimate


class ValueEntry(Entry, Dimension):
    """Of a model that predicts values: means over them, and each by itself."""

    kind = VALUES
    ties: ClassVar[int] = 0
    calibration: ClassVar[Mapping[str, float | None]] = {}
    values: list[str]
    dimensions: dict[str, Dimension]


ENTRIES: Mapping[Kind, type[ClassEntry | ValueEntry]] = {CLASSES: ClassEntry, VALUES: ValueEntry}

AnyEntry = ClassEntry | ValueEntry
_Either = Annotated[
    Annotated[ClassEntry, Tag(CLASSES.noun)] | Annotated[ValueEntry, Tag(VALUES.noun)],
    Discriminator(lambda entry: kind_with(dict(entry)).noun),
]


class Difference(_Part):
    """A difference of two models in one metric, with its interval, its test and what that says in words."""

    value: Number
    low: Number | None
    high: Number | None
    p: Number
    holm: Number
    clusters: int
    cluster: str
    reading: str

    def reversed(self) -> Difference:
        """The second model minus the first."""
        low, high = (None if bound is None else -bound for bound in (self.high, self.low))
        return self.model_copy(update={"value": -self.value, "low": low, "high": high})


class Comparison(_ByMetric):
    """First minus second model, with one `Difference` per metric under the metric's key."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Difference] = Field(init=False)
    first: str
    second: str

    @property
    def differences(self) -> Mapping[str, Difference]:
        """By metric."""
        return self.__pydantic_extra__

    @property
    def kind(self) -> Kind:
        """Of the scores that were compared."""
        return kind_with(self.differences)


class Copies(_Part):
    """Test transcripts that also occur in training, see `emofuse.leakage`."""

    fraction: Number | None
    agreement: Number | None
    lookup: Number | None = None


class Leakage(_Part):
    """What test shares with training, see `emofuse.leakage`; None for what is not known."""

    speakers: int = 0
    dialogues: int = 0
    scripts: int | None = None
    exact: Copies | None = None
    near: Copies | None = None
    validation: Leakage | None = None
    final: Leakage | None = None


class ProtocolRecord(_Part):
    """How the corpus was split; beside these fields, all settings of the protocol."""

    model_config = ConfigDict(extra="allow")
    kind: str | None = None
    apart: str | None = None
    labels: list[str] | None = None
    merge: dict[str, str] = {}
    classes: list[str] = []
    values: list[str] = []
    fingerprint: str | None = None
    tested_fingerprint: str | None = None
    folds: int | None = None
    utterances: int | None = None
    speakers: int | None = None
    leakage: Leakage | None = None


class EncoderRecord(_Part):
    """An encoder's specification; its name alone if it was trained with the model."""

    name: str
    family: str | None = None
    revision: str | None = None
    licence: str | None = None
    exposure: list[str] = []
    layers: int | None = None
    selected: list[int] = []
    width: int | None = None
    sampling_rate: int = 0
    stride: int = 0


class FusionRecord(_Part):
    """Rule, weights and temperatures of an ensemble in one fold."""

    rule: str = ""
    weights: list[Number]
    temperatures: list[Number]
    silences: list[tuple[int, Number] | None] = []


class Fused(_Part):
    """Members of an ensemble and how their outputs were fused, by fold."""

    of: list[str]
    folds: dict[str, FusionRecord]


class Controls(_Part):
    """Controls of an ensemble: as many seeds of one network, the best in validation first."""

    members: int
    best: str
    controls: list[str]


class AlignmentRecord(_Part):
    """Coverage of the alignments, see `emofuse.align.coverage`."""

    model_config = ConfigDict(extra="allow")
    utterances: int
    aligned: dict[str, int]
    sources: dict[str, int] = {}


class Skipped(_Part):
    """An utterance that was left out, and why."""

    utterance: str
    reason: str


class Result(_Part):
    """The content of `result.json`; what a run does not know is empty."""

    name: str = ""
    tuned: str | None = None
    corpus: str = ""
    sources: list[str] = []
    models: dict[str, _Either]
    parts: dict[str, dict[str, _Either]] = {}
    comparisons: list[Comparison] = []
    controls: dict[str, Controls] = {}
    certainty: dict[str, str] = {}
    modalities: dict[str, list[str]] = {}
    tiers: dict[str, list[str]] = {}
    protocol: ProtocolRecord = ProtocolRecord()
    text_sources: dict[str, int] = {}
    context: int = 0
    languages: list[str] = []
    encoders: dict[str, EncoderRecord] = {}
    layer_weights: dict[str, dict[str, list[list[Number]]]] = {}
    curves: dict[str, list[dict[str, list[Number]]]] = {}
    fused: dict[str, Fused] = {}
    recipe: dict[str, Any] = {}
    skipped: list[Skipped] = []
    alignment: AlignmentRecord | None = None
    notes: list[str] = []
    corpus_notes: list[str] = []
    versions: dict[str, str] = {}
    command: str = ""

    @property
    def kind(self) -> Kind:
        """Of its models' outputs."""
        return self.first.kind

    @property
    def first(self) -> AnyEntry:
        """The first model's figures; what is tested is the same for all."""
        return next(iter(self.models.values()))

    def leaves(self, model: str) -> tuple[str, ...]:
        """The networks of a model: itself, or those of an ensemble's members."""
        if model not in self.fused:
            return (model,)
        return tuple(dict.fromkeys(leaf for member in self.fused[model].of for leaf in self.leaves(member)))

    def modalities_of(self, model: str) -> set[str]:
        """Modalities of a model or of an ensemble's members."""
        return {modality for leaf in self.leaves(model) for modality in self.modalities.get(leaf, ())}

    def write(self, run: Path) -> None:
        """Write `result.json` into a run folder."""
        write_text(run / RESULT, self.model_dump_json(indent=1, exclude_unset=True))


def read_result(run: Path) -> Result:
    """Read the record of a run folder.

    Raises:
        ScoresError: There is none, or it is broken; the message names the part.
    """
    path = run / RESULT
    try:
        content = read_json(path)
    except FileNotFoundError as error:
        raise ScoresError(f"there is no {RESULT} in this folder", where=run, remedy=AGAIN) from error
    except (OSError, ValueError) as error:
        raise ScoresError(f"this cannot be read as JSON ({error})", where=path, remedy=AGAIN) from error
    return check_result(content, where=path)


def check_result(content: object, *, where: str | Path | None = None) -> Result:
    """Check the content of a `result.json`.

    Raises:
        ScoresError: A part is missing or of another kind, or there are no models; the message names it.

    Example:
        >>> check_result({"models": {}})
        Traceback (most recent call last):
        ...
        emofuse.errors.ScoresError: models: there are none; make the run again with `emofuse run`.
    """
    try:
        found = Result.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        # Between a model's name and its figure pydantic puts which kind of entry it is.
        kinds = (CLASSES.noun, VALUES.noun)
        name = ".".join(str(part) for place, part in enumerate(first["loc"]) if place < 2 or part not in kinds)
        raise _broken(name or "result", str(first["msg"]), where) from error
    if not found.models:
        raise _broken("models", "there are none", where)
    if len({entry.kind for entry in found.models.values()}) > 1:
        raise _broken("models", "some predict classes and others values", where)
    return found


def _broken(name: str, message: str, where: str | Path | None) -> ScoresError:
    place = name if where is None else f"{where}: {name}"
    return ScoresError(message[:1].lower() + message[1:], where=place, remedy=AGAIN)
