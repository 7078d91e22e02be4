"""The record of a run, `result.json`: what its writer puts there and its readers may rely on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AllowInfNan, BaseModel, Discriminator, Strict, Tag, ValidationError, field_validator

from emofuse.errors import ScoresError
from emofuse.scoring.kinds import CLASSES, VALUES, kind_with

AGAIN = "make the run again with `emofuse run`"
"""Remedy for a run whose files are broken."""

Number = Annotated[float, Strict(), AllowInfNan(False)]


class _Part(BaseModel):
    """The shape of a part of `result.json`; what the report does not read is let pass."""


class _Estimate(_Part):
    value: Number
    low: Number
    high: Number


class _ClassFigures(_Part):
    wa: Number | None
    ua: Number | None
    macro_f1: Number | None


class _AnyEntry(_Part):
    utterances: int
    seeds: list[int]
    folds: int
    cluster: str
    clusters: int
    rows: int = 0


class ClassEntry(_AnyEntry):
    """Every figure of a model that predicts classes, as `evaluate` says."""

    wa: _Estimate
    ua: _Estimate
    macro_f1: _Estimate
    fold_mean: _ClassFigures
    seed_sd: _ClassFigures
    ece: Number
    recall: dict[str, Number | None]
    confusion: list[list[Number]]
    classes: list[str]
    ties: int = 0


class _ValueFigures(_Part):
    ccc: Number | None
    pearson: Number | None
    mae: Number | None


class _Dimension(_Part):
    ccc: _Estimate
    pearson: _Estimate
    mae: _Estimate


class ValueEntry(_AnyEntry, _Dimension):
    """Every figure of a model that predicts values: means over them, and each by itself."""

    fold_mean: _ValueFigures
    seed_sd: _ValueFigures
    values: list[str]
    dimensions: dict[str, _Dimension]


Entry = Annotated[
    Annotated[ClassEntry, Tag(CLASSES.noun)] | Annotated[ValueEntry, Tag(VALUES.noun)],
    Discriminator(lambda entry: kind_with(entry if isinstance(entry, Mapping) else dict(entry)).noun),
]


class _Difference(_Part):
    value: Number
    low: Number | None
    high: Number | None
    p: Number
    holm: Number
    clusters: int
    cluster: str
    reading: str


class _Pair(_Part):
    first: str
    second: str
    wa: _Difference | None = None
    ua: _Difference | None = None
    macro_f1: _Difference | None = None
    ccc: _Difference | None = None
    pearson: _Difference | None = None
    mae: _Difference | None = None


class _Copies(_Part):
    share: Number | None
    agreement: Number | None
    lookup: Number | None = None


class _Leakage(_Part):
    speakers: int = 0
    dialogues: int = 0
    scripts: int = 0
    exact: _Copies | None = None
    near: _Copies | None = None
    validation: _Leakage | None = None
    final: _Leakage | None = None


class _Protocol(_Part):
    kind: str | None = None
    apart: str | None = None
    leakage: _Leakage | None = None


class _Encoder(_Part):
    name: str
    exposure: list[str] | None = None
    selected: list[int] | None = None


class _Fold(_Part):
    weights: list[Number]
    temperatures: list[Number]


class _Fused(_Part):
    of: list[str]
    folds: dict[str, _Fold]


class _Controls(_Part):
    members: int
    best: str
    controls: list[str]


class _Alignment(_Part):
    utterances: int
    aligned: dict[str, int]


class _Skipped(_Part):
    utterance: str
    reason: str


class Result(_Part):
    """The content of `result.json`, as far as report, tables and model card read it."""

    name: str = ""
    corpus: str = ""
    sources: list[str] | None = None
    models: dict[str, Entry]
    parts: dict[str, dict[str, Entry]] | None = None
    text_sources: dict[str, int] | None = None
    context: int = 0
    comparisons: list[_Pair] | None = None
    protocol: _Protocol | None = None
    encoders: dict[str, _Encoder] | None = None
    layer_weights: dict[str, dict[str, list[list[Number]]]] | None = None
    curves: dict[str, list[dict[str, list[Number]]]] | None = None
    fused: dict[str, _Fused] | None = None
    certainty: dict[str, str] | None = None
    modalities: dict[str, list[str]] | None = None
    tiers: dict[str, list[str]] | None = None
    controls: dict[str, _Controls] | None = None
    recipe: dict[str, Any] | None = None
    skipped: list[_Skipped] | None = None
    alignment: _Alignment | None = None
    notes: list[str] | None = None
    versions: dict[str, Any] | None = None
    command: str = ""

    @field_validator("models")
    @classmethod
    def _some(cls, models: dict[str, Entry]) -> dict[str, Entry]:
        if not models:
            raise ValueError("there are none")
        if len({type(entry) for entry in models.values()}) > 1:
            raise ValueError("some predict classes and others values")
        return models


def check_result(result: object, *, where: str | Path | None = None) -> Mapping[str, Any]:
    """The content of a `result.json`, checked to hold what tables and page read.

    Raises:
        ScoresError: A part is missing or of another kind; the message names it.

    Example:
        >>> check_result({"models": {}})
        Traceback (most recent call last):
        ...
        emofuse.errors.ScoresError: models: there are none; make the run again with `emofuse run`.
    """
    try:
        Result.model_validate(result)
    except ValidationError as error:
        first = error.errors()[0]
        # Between a model's name and its figure pydantic puts which kind of entry it is.
        kinds = (CLASSES.noun, VALUES.noun)
        name = ".".join(str(part) for place, part in enumerate(first["loc"]) if place < 2 or part not in kinds)
        name = name or "result"
        message = str(first["msg"]).removeprefix("Value error, ")
        place = name if where is None else f"{where}: {name}"
        raise ScoresError(message[:1].lower() + message[1:], where=place, remedy=AGAIN) from error
    assert isinstance(result, Mapping)  # noqa: S101 - the schema has just said so
    return result
