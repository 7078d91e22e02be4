"""The manifest: one row per utterance, all that later stages read of a corpus."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emofuse.errors import ManifestError
from emofuse.files import check_ending, written_atomically
from emofuse.names import key, tidy, unify
from emofuse.parquet import read_frame
from emofuse.types import Utterance

COLUMNS: Mapping[str, str] = {
    "utterance": "string",
    "corpus": "string",
    "audio": "string",
    "start": "Float64",
    "end": "Float64",
    "duration": "Float64",
    "text": "string",
    "text_source": "string",
    "spoken": "string",
    "language": "string",
    "label": "string",
    "votes": "string",
    "speaker": "string",
    "gender": "string",
    "session": "string",
    "dialogue": "string",
    "omitted": "string",
    "script": "string",
    "sources": "string",
}
"""Columns of a manifest and their types. `audio` is an absolute path; `start`, `end` and `duration` are seconds;
`text_source` is the source of the transcript (`reference` or a recogniser), and `spoken` the spoken words if they
differ from `text`. `language` is the spoken language.

`votes` is a JSON object of annotators' labels and their counts (or intensities, where a corpus has those). `gender` is
the speaker's, `female` or `male`, else empty.

`session` is a recording session, or `train`, `dev` or `test`. `dialogue` is a conversation, whose rows are in order of
time; `omitted` is a JSON list of the transcripts of left-out utterances since the previous row. `script` is the task
of several speakers: a sentence, a play (`script01`) or a situation (`impro03`), so that folds can keep scripts apart.
A name that begins with `impro` is a situation, without fixed wording. `sources` are the corpora of an artificial row,
with `+` between them."""

REFERENCE = "reference"
"""The `text_source` of human transcripts."""

UNSTATED = "not stated"
"""Stands for a `text_source` that is missing."""

VALUES = "values."
"""Prefix of value columns: `values.valence`, `values.belief` and so on, after `COLUMNS`. They hold means over
annotators, on the corpus's own scale."""

GENDERS = ("female", "male")

SECONDS = ("start", "end", "duration")
"""Columns of times."""

NAMES = ("corpus", "text_source", "language", "label", "speaker", "session", "dialogue", "script")
"""Columns of names, in which one name has one spelling."""


def make_manifest(rows: list[dict[str, Any]] | pd.DataFrame, *, source: str | Path) -> pd.DataFrame:
    """Build a checked manifest from rows that may leave out optional columns.

    Args:
        rows: One mapping per utterance.
        source: Origin of the rows, for errors.

    Raises:
        ManifestError: A row breaks the schema; the message names its row and column.

    Example:
        >>> make_manifest([{"utterance": "a", "text": "hello", "label": "happy"}], source="example").shape
        (1, 19)
    """
    frame = pd.DataFrame(rows)
    unknown = [str(name) for name in frame.columns if kind_of_column(str(name)) is None]
    if unknown:
        raise ManifestError(
            f"column {unknown[0]!r} is not a manifest column",
            where=source,
            remedy=f"use only {', '.join(COLUMNS)} and {VALUES}NAME",
        )
    columns = {}
    for name, kind in {**COLUMNS, **{f"{VALUES}{name}": "Float64" for name in value_names(frame)}}.items():
        values = frame[name] if name in frame.columns else pd.Series([None] * len(frame), index=frame.index)
        columns[name] = _typed(values, name=name, kind=kind, source=source)
    manifest = pd.DataFrame(columns).reset_index(drop=True)
    check_manifest(manifest, source=source)
    return manifest


def kind_of_column(name: str) -> str | None:
    """The type of a manifest column; None if there is no such column.

    Example:
        >>> kind_of_column("speaker"), kind_of_column("values.valence"), kind_of_column("mood")
        ('string', 'Float64', None)
    """
    value = name.removeprefix(VALUES) if name.startswith(VALUES) else ""
    return "Float64" if value and value == tidy(value) else COLUMNS.get(name)


def value_names(manifest: pd.DataFrame) -> tuple[str, ...]:
    """Names of a manifest's value columns, in order.

    Example:
        >>> rows = [{"utterance": "a", "text": "so", "values.valence": 2.5, "values.arousal": 1}]
        >>> value_names(make_manifest(rows, source="example"))
        ('valence', 'arousal')
    """
    return tuple(str(name).removeprefix(VALUES) for name in manifest.columns if str(name).startswith(VALUES))


def _typed(values: pd.Series[Any], *, name: str, kind: str, source: str | Path) -> pd.Series[Any]:
    if kind == "Float64":
        numbers = pd.to_numeric(values, errors="coerce").astype("Float64")
        rule = "a number of seconds" if name in SECONDS else "a number"
        _refuse(numbers.isna() & values.notna(), values, name=name, source=source, rule=rule)
        return numbers
    # NaN from a table reader means "absent" here, never the word "nan".
    plain = values.astype("object").where(values.notna(), None)
    # A table of another tool may hold lists or bytes, which are no names or transcripts.
    nested = plain.map(lambda value: isinstance(value, (Mapping, list, tuple, set, bytes, np.ndarray)))
    _refuse(nested, plain, name=name, source=source, rule="plain text")
    return plain.astype("string")


def one_spelling(frame: pd.DataFrame, *, known: Iterable[str] = ()) -> tuple[pd.DataFrame, list[str]]:
    """Unify the spelling of labels (also in votes), speakers, sessions and other names.

    Args:
        frame: Rows of a manifest.
        known: Labels in their correct spelling.

    Returns:
        The table, and a note on each column with several spellings of one name.

    Example:
        >>> rows = pd.DataFrame({"utterance": ["a", "b"], "speaker": ["anna", "Anna "]})
        >>> changed, notes = one_spelling(rows)
        >>> changed["speaker"].tolist(), notes
        (['anna', 'anna'], ["speaker 'anna' is also spelt 'Anna '"])
    """
    known = list(known)
    changed: dict[str, pd.Series[Any]] = {}
    notes: list[str] = []
    labels = {key(label): label for label in reversed(known)}
    for column in ("utterance", *NAMES):
        if column not in frame.columns:
            continue
        values = frame[column].astype("object").where(frame[column].notna(), None)
        if column == "utterance":
            # Names that differ by case only may be two recordings.
            changed[column] = values.map(tidy, na_action="ignore")
            continue
        alike = Counter(map(key, values.dropna().unique()))
        # Surrounding spaces do not distinguish names.
        values = values.map(lambda value, n=alike: tidy(value) if n[key(value)] == 1 else value, na_action="ignore")
        found, said = unify(values.dropna(), what=column, known=known if column == "label" else ())
        changed[column] = values.map(lambda value, found=found: found[value] or None, na_action="ignore")
        notes += said
        if column == "label":
            labels |= {key(label): label for label in found.values()}
    if "votes" in frame.columns:
        changed["votes"] = frame["votes"].map(lambda votes: _spelt(votes, labels), na_action="ignore")
    return frame.assign(**changed), notes


def _spelt(votes: Any, labels: Mapping[str, str]) -> Any:
    """Votes in the labels' spelling; invalid votes are left unchanged."""
    try:
        counts = json.loads(votes)
        found: Counter[str] = Counter()
        for label, count in counts.items():
            found[labels.get(key(label), tidy(label))] += count
    except (AttributeError, TypeError, ValueError, RecursionError):
        return votes
    return votes if dict(found) == counts else json.dumps(found, ensure_ascii=False)


def _refuse(bad: pd.Series[Any], values: pd.Series[Any], *, name: str, source: str | Path, rule: str) -> None:
    """Name the first bad row (counted from 1, after the header)."""
    flags = bad.fillna(False).to_numpy(dtype=bool)
    if flags.any():
        row = int(flags.argmax())
        value = values.iloc[row]
        shown = "empty" if pd.isna(value) else repr(value.item() if isinstance(value, np.generic) else value)
        raise ManifestError(f"row {row + 1}, column {name!r} is {shown}", where=source, remedy=f"it must be {rule}")


def check_manifest(manifest: pd.DataFrame, *, source: str | Path) -> None:
    """Check a manifest against the schema.

    Raises:
        ManifestError: A column is missing or a value is impossible; the message names row and column.
    """
    missing = [name for name in COLUMNS if name not in manifest.columns]
    if missing:
        raise ManifestError(
            f"column {missing[0]!r} is missing", where=source, remedy="make it again with `emofuse prepare`"
        )
    if manifest.empty:
        raise ManifestError("the manifest has no rows", where=source, remedy="check the corpus folder and filters")

    def refuse(bad: pd.Series[Any], name: str, rule: str) -> None:
        _refuse(bad, manifest[name], name=name, source=source, rule=rule)

    name = manifest["utterance"]
    refuse(name.isna() | (name.str.strip() == ""), "utterance", "a name")
    refuse(name.map(tidy, na_action="ignore").duplicated(), "utterance", "unique")
    nothing = manifest["audio"].isna() & manifest["text"].isna()
    refuse(nothing, "audio", "a recording where there is no text")
    refuse(manifest["label"].str.strip() == "", "label", "an emotion, or left empty")
    refuse(manifest["start"] < 0, "start", "zero or more seconds")
    refuse(manifest["end"] <= manifest["start"].fillna(0), "end", "later than start")
    refuse(manifest["duration"] <= 0, "duration", "more than zero seconds")
    for column in SECONDS:
        refuse(manifest[column] == float("inf"), column, "a finite number of seconds")
    for value in value_names(manifest):
        refuse(manifest[f"{VALUES}{value}"].abs() == float("inf"), f"{VALUES}{value}", "a finite number")
    refuse(~manifest["gender"].isin(GENDERS) & manifest["gender"].notna(), "gender", "female, male, or left empty")
    for column in NAMES:
        there = manifest[column].dropna()
        alike = Counter(map(key, there.unique()))
        twice = [value for value in there.unique() if alike[key(value)] > 1]
        found, _ = unify(there[there.isin(twice)], what=column)
        for value, right in found.items():
            refuse((manifest[column] == value) & (value != right), column, f"spelt {right!r}, as it is elsewhere")


def write_manifest(manifest: pd.DataFrame, path: Path) -> None:
    """Write a manifest as Parquet, atomically."""
    with written_atomically(path) as part:
        # pandas takes the name of an open file, which may not be UTF-8.
        part.write_bytes(manifest.to_parquet(None, index=False))


def check_place(path: Path, manifest: pd.DataFrame | None = None) -> None:
    """Check that a manifest may be written to a file.

    Args:
        path: The file.
        manifest: The new manifest; None if not known yet.

    Raises:
        ManifestError: It exists, and is no manifest or that of another corpus.
        OutputError: Its ending is of another format.
    """
    check_ending(path, ("", ".parquet"), what="manifests")
    if not path.is_file():
        return
    try:
        before = read_frame(path)[["corpus", "utterance"]]
    except (ValueError, KeyError) as error:
        raise ManifestError("this file is no manifest", where=path, remedy="name another file") from error
    if what := "" if manifest is None else other_corpus(before, manifest):
        raise ManifestError(f"this is the manifest of {what}", where=path, remedy="name another file, or remove it")


def other_corpus(before: pd.DataFrame, manifest: pd.DataFrame) -> str:
    """A description of an earlier manifest that has nothing in common with a new one; else empty."""
    corpora = set(before["corpus"].dropna())
    if corpora and corpora.isdisjoint(manifest["corpus"].dropna()):
        return ", ".join(sorted(corpora))
    # Users' tables all have the corpus `table`.
    return "other utterances" if len(before) and set(before["utterance"]).isdisjoint(manifest["utterance"]) else ""


def read_manifest(path: Path) -> pd.DataFrame:
    """Read and check a manifest.

    Raises:
        ManifestError: The file is absent, not Parquet, or breaks the schema.
    """
    if not path.is_file():
        raise ManifestError("no such manifest", where=path, remedy="make one with `emofuse prepare`")
    try:
        frame = read_frame(path)
    except ValueError as error:
        raise ManifestError(
            "this is not a Parquet table", where=path, remedy="make it again with `emofuse prepare`"
        ) from error
    return make_manifest(frame, source=path)


def sources_of(manifest: pd.DataFrame) -> list[str]:
    """The corpora of a manifest; those of its rows' sources if it is artificial.

    Example:
        >>> rows = [{"utterance": "a", "text": "so", "corpus": "paired", "sources": "ravdess+goemotions"},
        ...         {"utterance": "b", "text": "so", "corpus": "emodb"}]
        >>> sources_of(make_manifest(rows, source="example"))
        ['emodb', 'goemotions', 'ravdess']
    """
    return sorted(
        {one for names in manifest["sources"].fillna(manifest["corpus"]).dropna() for one in names.split("+")}
    )


def scripted(manifest: pd.DataFrame) -> pd.Series[bool]:
    """Whether each utterance has fixed wording: a script that is no improvised situation.

    Example:
        >>> rows = [{"utterance": name, "text": "so", "script": name} for name in ("script01", "impro03")]
        >>> scripted(make_manifest(rows, source="example")).tolist()
        [True, False]
    """
    script = manifest["script"]
    return (script.notna() & ~script.str.startswith("impro").fillna(False)).astype(bool)


def parts(manifest: pd.DataFrame) -> dict[str, str]:
    """The corpus of each utterance; of one corpus whether it is `scripted` or, without fixed wording, `improvised`.

    Example:
        >>> rows = [{"utterance": name, "text": "so", "script": name} for name in ("script01", "impro03")]
        >>> parts(make_manifest(rows, source="example"))
        {'script01': 'scripted', 'impro03': 'improvised'}
    """
    several = manifest["corpus"].nunique() > 1
    part = manifest["corpus"] if several else scripted(manifest).map({True: "scripted", False: "improvised"})
    return dict(zip(manifest["utterance"], part, strict=True))


def vote_fractions(
    manifest: pd.DataFrame, classes: Sequence[str], *, merge: Mapping[str, str]
) -> Mapping[str, tuple[float, ...]]:
    """Fraction of each class in the annotators' votes, for utterances with a vote for some class.

    Args:
        manifest: With column `votes`.
        classes: In the order of the fractions; votes for anything else do not count.
        merge: Labels that count as another.

    Raises:
        ManifestError: No utterance has such a vote, or votes are no JSON object of numbers.

    Example:
        >>> rows = [{"utterance": "a", "text": "hm", "votes": '{"sad": 2, "bored": 1, "angry": 1}'}]
        >>> vote_fractions(make_manifest(rows, source="example"), ("angry", "sad"), merge={"bored": "sad"})
        {'a': (0.25, 0.75)}
    """
    found = {}
    spelt = {key(name): name for name in classes}
    merged = {key(old): key(new) for old, new in merge.items()}
    voted = manifest[["utterance", "votes"]].dropna()
    for utterance, text in zip(voted["utterance"], voted["votes"], strict=True):
        counts = dict.fromkeys(classes, 0.0)
        try:
            votes = {str(label): float(count) for label, count in json.loads(text).items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise ManifestError(
                f"column 'votes' of utterance {utterance!r} is {text!r}",
                remedy='write a JSON object such as {"sad": 2}',
            ) from error
        for label, count in votes.items():
            name = merged.get(key(label), key(label))
            if name in spelt and 0 < count < float("inf"):
                counts[spelt[name]] += count
        if total := sum(counts.values()):
            found[str(utterance)] = tuple(count / total for count in counts.values())
    if not found:
        raise ManifestError(
            "no utterance has votes for these emotions", where="train.soft_labels", remedy="set it to false"
        )
    return found


def text_sources(manifest: pd.DataFrame) -> dict[str, int]:
    """Sources of transcripts, with numbers of utterances.

    Example:
        >>> rows = [{"utterance": "a", "text": "so", "text_source": "sphinx"}, {"utterance": "b", "text": "so"}]
        >>> text_sources(make_manifest(rows, source="example"))
        {'not stated': 1, 'sphinx': 1}
    """
    # A recogniser may have found no words.
    transcribed = manifest["text"].notna() | manifest["text_source"].notna()
    counts = manifest["text_source"][transcribed].fillna(UNSTATED).value_counts()
    return {str(source): int(counts[source]) for source in sorted(counts.index)}


def utterances(manifest: pd.DataFrame) -> Iterator[Utterance]:
    """Iterate over the utterances of a manifest.

    Example:
        >>> manifest = make_manifest([{"utterance": "a", "text": "hello"}], source="example")
        >>> next(utterances(manifest)).text
        'hello'
    """
    names = ["utterance", "audio", "start", "end", "text", "label", "speaker"]
    columns = [manifest[name].astype("object").where(manifest[name].notna(), None) for name in names]
    for name, audio, start, end, text, label, speaker in zip(*columns, strict=True):
        yield Utterance(
            utterance=name,
            audio=None if audio is None else Path(audio),
            start=start or 0.0,
            end=end,
            text=text,
            label=label,
            speaker=speaker,
        )
