"""Protocols: split a corpus into folds, each with a validation part taken from training."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emofuse.corpora import CORPORA, CorpusCard
from emofuse.errors import ProtocolError
from emofuse.files import write_text
from emofuse.inputs import nearest
from emofuse.leakage import leakage
from emofuse.manifest import VALUES, scripted, value_names
from emofuse.names import key
from emofuse.seeds import derive_seed
from emofuse.settings import ProtocolSettings, fingerprint
from emofuse.types import Fold

FINAL = "final"
FEW_SPEAKERS = 12
UNKNOWN_SPEAKERS = "Speakers are unknown, and one may both train and test: the figures are optimistic."
SAME_SPEAKERS = "The same speakers train and test: the figures are optimistic."


@dataclass(frozen=True)
class Protocol:
    """One split of a corpus into folds.

    Attributes:
        settings: Its settings.
        classes: The emotions, in the order of model outputs; empty for regression.
        labels: Class of every utterance that is used; empty for regression.
        names: The predicted values, in the order of model outputs; empty for classification.
        values: Values of every utterance that is used; empty for classification.
        folds: One split per test set.
        final: The split of the kept model: all but the validation part is training, and there is no test part.
        fingerprint: Changes with any utterance, label or fold.
        leakage: What training shares with test and with validation, see `emofuse.leakage`.
        notes: Remarks on the validation part.
    """

    settings: ProtocolSettings
    classes: tuple[str, ...]
    labels: Mapping[str, str]
    names: tuple[str, ...]
    values: Mapping[str, tuple[float, ...]]
    folds: tuple[Fold, ...]
    final: Fold
    fingerprint: str
    leakage: Mapping[str, Any]
    notes: tuple[str, ...]

    @property
    def utterances(self) -> tuple[str, ...]:
        """Names of the utterances that are used."""
        return tuple(self.labels or self.values)

    @property
    def truth(self) -> dict[str, int | tuple[float, ...]]:
        """Class index, or values, of every utterance."""
        index = {name: number for number, name in enumerate(self.classes)}
        return {**{name: index[label] for name, label in self.labels.items()}, **self.values}


def make_protocol(manifest: pd.DataFrame, settings: ProtocolSettings, *, values: Sequence[str] = ()) -> Protocol:
    """Split a manifest into folds.

    Args:
        manifest: The corpus.
        settings: How to split it.
        values: Values to predict instead of classes, `NAME` of the columns `values.NAME`. An utterance that lacks one
            is left out.

    Raises:
        ProtocolError: The manifest lacks the speakers, sessions, labels or values that the protocol needs.

    Example:
        >>> from emofuse.manifest import make_manifest
        >>> rows = [{"utterance": f"{s}{n}", "text": f"word {s} {n}", "label": "happy" if n else "sad", "speaker": s}
        ...         for s in "abcd" for n in range(2)]
        >>> protocol = make_protocol(make_manifest(rows, source="x"), ProtocolSettings(kind="speaker"))
        >>> protocol.folds[0].test
        ('a0', 'a1')
    """
    frame, classes = _select(manifest, settings, values)
    settings, folds, final, note = _split(frame, classes, resolve(frame, settings))
    labels = {} if values else dict(zip(frame["utterance"], frame["label"], strict=True))
    numbers = frame[_columns(values)].to_numpy(dtype=np.float64).tolist()
    rated = {str(name): tuple(row) for name, row in zip(frame["utterance"], numbers, strict=True)} if values else {}
    # The folds show the effect of `apart`.
    plain = settings.model_dump(mode="json", exclude={"apart"})
    fingerprinted = fingerprint(plain, [*classes, *values], labels or rated, [asdict(fold) for fold in folds])
    found = leakage(frame, folds, final=final)
    notes = [*note, *_validation_notes(frame, settings, [*folds, final], found)]
    return Protocol(
        settings=settings,
        classes=classes,
        labels=labels,
        names=tuple(values),
        values=rated,
        folds=tuple(folds),
        final=final,
        fingerprint=fingerprinted,
        leakage=found,
        notes=tuple(notes),
    )


def check_split(manifest: pd.DataFrame, settings: ProtocolSettings, *, values: Sequence[str] = ()) -> None:
    """Check that a manifest can be split, before anything is computed from it.

    Raises:
        ProtocolError: It cannot.
    """
    frame, classes = _select(manifest, settings, values)
    _split(frame, classes, resolve(frame, settings))


def classes_of(manifest: pd.DataFrame, settings: ProtocolSettings) -> tuple[str, ...]:
    """The emotions of a manifest under a protocol.

    Raises:
        ProtocolError: A named label does not occur, or fewer than two do.
    """
    return _select(manifest, settings)[1]


def _split(
    frame: pd.DataFrame, classes: tuple[str, ...], settings: ProtocolSettings
) -> tuple[ProtocolSettings, list[Fold], Fold, list[str]]:
    """Folds and the final split, with validation by the first possible column, and a note if it is not the best."""
    first, *others = _validation_columns(frame, settings)
    note: list[str] = []
    for column in (first, *others):
        chosen = settings.model_copy(update={"validation_by": column})
        try:
            return chosen, _folds(frame, classes, chosen), _final(frame, classes, chosen), note
        except ProtocolError as error:
            if column == [first, *others][-1]:
                raise
            note = note or [f"Validation is not split by {first}, since {error.what}."]
    raise AssertionError  # The last column has returned or raised.


def _validation_columns(frame: pd.DataFrame, settings: ProtocolSettings) -> tuple[str, ...]:
    """Columns to split validation by, best first: the best shares neither speakers nor dialogues with training."""
    if settings.validation_by != "auto":
        return (settings.validation_by,)
    if settings.kind == "split":
        return ("session",)
    if settings.kind == "stratified":
        return ("utterance",)
    if settings.kind == "session":
        # `validation_groups` counts sessions here.
        return ("session", "dialogue", "speaker") if settings.validation_groups is None else ("session",)
    talking = frame.groupby("dialogue")["speaker"].nunique().gt(1).any()
    if talking and _within(frame, "dialogue", "session") and _within(frame, "speaker", "session"):
        return ("session", "speaker")
    return ("speaker",)


def _within(frame: pd.DataFrame, inner: str, outer: str) -> bool:
    """Whether every dialogue or speaker is in one session only."""
    return bool(frame[outer].notna().all() and frame.groupby(inner)[outer].nunique().le(1).all())


def _validation_notes(
    frame: pd.DataFrame, settings: ProtocolSettings, folds: Sequence[Fold], found: Mapping[str, Any]
) -> Iterator[str]:
    if settings.kind == "stratified":
        yield UNKNOWN_SPEAKERS if frame["speaker"].isna().all() else SAME_SPEAKERS
    if settings.kind == "session" and settings.validation_by == "session":
        session = frame.set_index("utterance")["session"]
        few = [fold.name for fold in folds if session.loc[list(fold.train)].nunique() == 1]
        if few:
            yield f"In fold {few[0]} one session trains and the others validate or test."
    shared = {column: max(found["validation"][column], found["final"][column]) for column in ("speakers", "dialogues")}
    overlap = " and ".join(f"up to {count} {column}" for column, count in shared.items() if count)
    if overlap:
        yield (
            f"Validation shares {overlap} with training: the number of epochs that is chosen on it suits these, "
            "not new ones."
        )


def _folds(frame: pd.DataFrame, classes: tuple[str, ...], settings: ProtocolSettings) -> list[Fold]:
    parts = _script_groups(frame, settings)
    folds = []
    for name, column, values in _test_groups(frame, settings):
        test = frame[column].isin(values)
        for part, tested, rest in _divided(name, frame[test], frame[~test], parts):
            folds.append(_with_validation(part, rest, tested, settings, classes))
    return folds


def _final(frame: pd.DataFrame, classes: tuple[str, ...], settings: ProtocolSettings) -> Fold:
    if settings.kind == "split":
        frame = frame[frame["session"] != "test"]
    return _with_validation(FINAL, frame, frame.iloc[:0], settings, classes)


def resolve(frame: pd.DataFrame, settings: ProtocolSettings) -> ProtocolSettings:
    """Replace the kind `auto` by one that suits the corpus."""
    if settings.kind != "auto":
        return settings
    speakers = set(frame["speaker"].dropna().unique())
    card = _card(frame)
    if card and card.folds and speakers.issuperset(chain(*card.folds)):
        return settings.model_copy(update={"kind": "fixed", "fixed": "published"})
    if card and card.by_session:
        return settings.model_copy(update={"kind": "session"})
    parts = {str(name): set(part.dropna()) for name, part in frame.groupby("session")["speaker"]}
    # A split without new test speakers, such as ESD's, is for other tasks.
    if {"train", "dev", "test"} <= set(parts) and not (parts["test"] and parts["test"] <= parts["train"]):
        return settings.model_copy(update={"kind": "split"})
    if not speakers or (len(speakers) == 1 and frame["speaker"].notna().all()):
        return settings.model_copy(update={"kind": "stratified"})
    few = len(speakers) <= FEW_SPEAKERS
    return settings.model_copy(update={"kind": "speaker" if few else "speakers"})


def _select(
    manifest: pd.DataFrame, settings: ProtocolSettings, values: Sequence[str] = ()
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The rows that are used, sorted by name, and the classes."""
    if values:
        return _rated(manifest, settings, values), ()
    frame = manifest[manifest["label"].notna()].copy()
    there = set(frame["label"])
    # A recipe may serve several corpora, and this one, or this part of it, may lack a label.
    known = there.union(*(card.labels for card in CORPORA.values()))
    spelt = {key(name): name for name in (*known, *there)}
    merge = {spelt.get(key(old), old): spelt.get(key(new), new) for old, new in settings.merge.items()}
    unknown = [name for name in merge if name not in known]
    if unknown:
        raise ProtocolError(
            f"no utterance is labelled {unknown[0]!r}",
            where="protocol.merge",
            remedy=_nearest_label(unknown[0], there),
        )
    frame["label"] = frame["label"].replace(merge)
    present = sorted(frame["label"].unique())
    spelt = {key(name): name for name in present}
    classes = tuple(dict.fromkeys(spelt.get(key(name), name) for name in settings.labels or present))
    absent = [name for name in classes if name not in present]
    if absent:
        raise ProtocolError(
            f"no utterance is labelled {absent[0]!r}",
            where="protocol.labels",
            remedy=_nearest_label(absent[0], present),
        )
    if len(classes) < 2:
        raise ProtocolError("there are fewer than two emotions", where="protocol.labels", remedy="keep at least two")
    # Sorted by name: folds do not depend on the manifest's order.
    return frame[frame["label"].isin(classes)].sort_values("utterance", ignore_index=True), tuple(classes)


def _columns(values: Sequence[str]) -> list[str]:
    return [f"{VALUES}{name}" for name in values]


def _rated(manifest: pd.DataFrame, settings: ProtocolSettings, values: Sequence[str]) -> pd.DataFrame:
    """The rows that have all of the values, sorted by name, without labels."""
    if settings.labels or settings.merge:
        raise ProtocolError(
            f"classes are chosen, where {', '.join(values)} is predicted",
            where="protocol.labels" if settings.labels else "protocol.merge",
            remedy="leave it out, or predict classes",
        )
    known = value_names(manifest)
    for name in values:
        if name not in known or manifest[f"{VALUES}{name}"].isna().all():
            remedy = nearest(name, known) if known else f"fill in column '{VALUES}{name}' of the manifest"
            raise ProtocolError(f"no utterance has a value {name!r}", where="task.values", remedy=remedy)
    frame = manifest[manifest[_columns(values)].notna().all(axis=1)]
    if frame.empty:
        raise ProtocolError(
            f"no utterance has all of {', '.join(values)}", where="task.values", remedy="predict fewer at once"
        )
    return frame.assign(label=None).sort_values("utterance", ignore_index=True)


def _nearest_label(name: str, labels: Collection[str]) -> str:
    return nearest(name, sorted(labels)) if labels else "fill in column 'label' of the manifest"


def _test_groups(frame: pd.DataFrame, settings: ProtocolSettings) -> list[tuple[str, str, list[str]]]:
    """Name, column and groups of every fold's test set."""
    if settings.kind == "split":
        sessions = set(_groups(frame, "session"))
        if not {"train", "dev", "test"} <= sessions:
            raise ProtocolError(
                f"sessions are {', '.join(sorted(sessions))}, not train, dev and test",
                where="protocol.kind = split",
                remedy="use a kind that makes its own folds",
            )
        return [("test", "session", ["test"])]
    if settings.kind == "stratified":
        dealt, count = _dealt(frame, "test"), min(settings.folds, len(frame))
        return [(f"fold-{part + 1}", "utterance", sorted(dealt.iloc[part::count])) for part in range(count)]
    column = settings.kind if settings.kind in ("session", "corpus") else "speaker"
    groups = _groups(frame, column)
    if settings.kind in ("session", "speaker", "corpus"):
        if len(groups) < 2:
            raise ProtocolError(
                f"there is one {column} only, so none is left to train on",
                where="protocol.kind",
                remedy="split by something that there are several of, or use protocol.kind=stratified",
            )
        return [(f"{column}-{name}", column, [name]) for name in groups]
    if settings.kind == "speakers":
        if len(groups) < settings.folds:
            raise ProtocolError(
                f"{len(groups)} speakers cannot make {settings.folds} folds",
                where="protocol.folds",
                remedy=f"set at most {len(groups)}",
            )
        # Drawn at random, since corpora often list one gender first.
        order = np.random.default_rng(derive_seed(0, "speakers")).permutation(len(groups))
        drawn = np.array_split(order, settings.folds)
        return [(f"fold-{n}", column, sorted(groups[i] for i in part)) for n, part in enumerate(drawn, start=1)]
    lists = _fixed(frame, settings)
    return [(f"fold-{number}", column, list(speakers)) for number, speakers in enumerate(lists, start=1)]


def _dealt(frame: pd.DataFrame, name: str) -> pd.Series[str]:
    """Names of utterances at random, one label after the other: what is evenly spaced has as much of every label."""
    drawn = frame.iloc[np.random.default_rng(derive_seed(0, "utterances", name)).permutation(len(frame))]
    return drawn.sort_values("label", kind="stable")["utterance"]


def _fixed(frame: pd.DataFrame, settings: ProtocolSettings) -> Sequence[Sequence[str]]:
    speakers = set(_groups(frame, "speaker"))
    lists: Sequence[Sequence[str]]
    if settings.fixed == "published":
        card = _card(frame)
        if card is None or not card.folds:
            there = ", ".join(sorted(frame["corpus"].dropna().unique())) or "this corpus"
            others = ", ".join(name for name, one in CORPORA.items() if one.folds)
            raise ProtocolError(
                f"there are no published folds for {there}",
                where="protocol.fixed = published",
                remedy=f"use it on {others}, or list the speakers of each fold",
            )
        lists = card.folds
    else:
        spelt = {key(name): name for name in speakers}
        lists = [[spelt.get(key(name), name) for name in group] for group in settings.fixed or ()]
    named = [speaker for group in lists for speaker in group]
    unknown = sorted(set(named) - speakers)
    if unknown or len(lists) < 2 or len(named) != len(set(named)):
        raise ProtocolError(
            f"speaker {unknown[0]!r} is not in the manifest" if unknown else "the folds are fewer than two or overlap",
            where="protocol.fixed",
            remedy=nearest(unknown[0], sorted(speakers))
            if unknown
            else "list every tested speaker once, in at least two folds",
        )
    return lists


def _card(frame: pd.DataFrame) -> CorpusCard | None:
    """The card of the utterances' corpus; None for several corpora or an unknown one."""
    corpora = set(frame["corpus"].dropna().unique())
    return CORPORA.get(corpora.pop()) if len(corpora) == 1 else None


def _script_groups(frame: pd.DataFrame, settings: ProtocolSettings) -> Mapping[str, str]:
    """Group of every script that is kept apart; empty if none is."""
    if settings.apart is None:
        return {}
    scripts = sorted(frame["script"][scripted(frame)].unique())
    if not scripts:
        raise ProtocolError(
            "no utterance has a script whose words were given",
            where="protocol.apart = script",
            remedy="fill in column 'script' of the manifest, or leave this setting out",
        )
    if len(scripts) <= settings.folds:
        return {script: f"script {script}" for script in scripts}
    order = np.random.default_rng(derive_seed(0, "scripts")).permutation(len(scripts))
    parts = np.array_split(order, settings.folds)
    return {scripts[place]: f"scripts {number}" for number, part in enumerate(parts, start=1) for place in part}


def _divided(
    name: str, test: pd.DataFrame, rest: pd.DataFrame, groups: Mapping[str, str]
) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
    """Name, test and rest of each part of a test set; it is divided if its scripts occur in the rest too."""
    shared = set(test["script"].dropna()) & set(rest["script"].dropna())
    part = test["script"].map({script: group for script, group in groups.items() if script in shared})
    if part.isna().any():
        yield name, test[part.isna()], rest
    for group in sorted(part.dropna().unique()):
        tested = test[part == group]
        without = rest[~rest["script"].isin(tested["script"].unique())]
        if without.empty:
            raise ProtocolError(
                f"fold {name} has nothing left to train on without {group}",
                where="protocol.apart = script",
                remedy="leave this setting out: the corpus has too few scripts to keep them apart",
            )
        yield f"{name}, {group}", tested, without


def _groups(frame: pd.DataFrame, column: str) -> list[str]:
    unnamed = frame[column].isna()
    if unnamed.any():
        raise ProtocolError(
            f"utterance {frame['utterance'][unnamed].iloc[0]!r} has no {column}",
            where="protocol.kind",
            remedy=f"fill in column {column!r} of the manifest, or use protocol.kind=stratified, which needs none",
        )
    return sorted(str(name) for name in frame[column].unique())


def _with_validation(
    name: str, rest: pd.DataFrame, test: pd.DataFrame, settings: ProtocolSettings, classes: Sequence[str]
) -> Fold:
    """Split the rest into training and validation."""
    if settings.kind == "split":
        # Some corpora have further test sets.
        rest = rest[rest["session"].isin(["train", "dev"])]
        validation = rest["session"] == "dev"
        if not validation.any():
            raise ProtocolError(
                f"fold {name} has nothing left to validate on",
                where="protocol.kind = split",
                remedy="use a kind that makes its own folds, or leave out protocol.apart",
            )
    else:
        column = settings.validation_by
        groups = _groups(rest, column)
        wanted = settings.validation_groups or max(1, round(len(groups) / 5))
        if len(groups) <= wanted:
            raise ProtocolError(
                f"fold {name} has {len(groups)} {column}s outside its test set and {wanted} are wanted for validation",
                where="protocol.validation_groups",
                remedy="set fewer, or split by something finer",
            )
        if column == "utterance":
            places = (np.arange(wanted) + 0.5) * len(groups) / wanted
            chosen = list(_dealt(rest, name).iloc[places.astype(int)])
        else:
            order = np.random.default_rng(derive_seed(0, "validation", name)).permutation(len(groups))
            chosen = [groups[i] for i in order[:wanted]]
        validation = rest[column].isin(chosen)
    train = rest[~validation]
    missing = sorted(set(classes) - set(train["label"]))
    if missing:
        raise ProtocolError(
            f"fold {name} trains without a single {missing[0]!r} utterance",
            where="protocol",
            remedy="use fewer folds or validation groups, or merge or leave out that label",
        )
    return Fold(
        name=name,
        train=tuple(train["utterance"]),
        validation=tuple(rest[validation]["utterance"]),
        test=tuple(test["utterance"]),
    )


def save_protocol(protocol: Protocol, path: Path) -> None:
    """Write a protocol as JSON, so that others can train and test on the same utterances."""
    values = {**asdict(protocol), "settings": protocol.settings.model_dump(mode="json")}
    write_text(path, json.dumps(values, indent=1))
