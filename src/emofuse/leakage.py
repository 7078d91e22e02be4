"""Leakage: what the parts of a split share."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from emofuse.manifest import scripted
from emofuse.types import Fold

NEAR = 0.8
LARGEST = 20_000


def leakage(frame: pd.DataFrame, folds: Sequence[Fold], *, final: Fold | None = None) -> dict[str, Any]:
    """Measure what test utterances share with training and validation utterances.

    Args:
        frame: Manifest rows that are used.
        folds: The splits.
        final: The split of the kept model, without a test part.

    Returns:
        `speakers`, `dialogues`, `scripts`: the maximum over folds; scripts are those with fixed wording.
        `exact`, `near`: over all test utterances with a transcript, the `fraction` whose transcript occurs
        in training (near: with a cosine of character n-grams of at least 0.8, not exactly); `agreement`, how often
        those copies have the same label; and `lookup`, how often the most frequent label of the copies is right (ties
        are drawn at random). Both are None for regression. `near` is None where there are too many transcripts to
        compare. `validation` is the same for validation and training utterances, `final` for those of the final split.

    Example:
        >>> from emofuse.manifest import make_manifest
        >>> rows = [{"utterance": text, "text": text, "label": "sad"} for text in ("Oh no!", "oh, no")]
        >>> frame = make_manifest(rows, source="example")
        >>> leakage(frame, [Fold(name="1", train=("Oh no!",), validation=(), test=("oh, no",))])["exact"]
        {'fraction': 1.0, 'agreement': 1.0, 'lookup': 1.0}
    """
    rows = frame.assign(script=frame["script"].where(scripted(frame))).set_index("utterance")
    known = {column: rows[column].dropna().to_dict() for column in ("speaker", "dialogue", "script", "label")}
    words = {str(name): normalise(text) for name, text in rows["text"].dropna().items()}
    neighbours = _neighbours(sorted({text for text in words.values() if text}))

    def shared(pairs: Iterable[tuple[Sequence[str], Sequence[str]]]) -> dict[str, Any]:
        return _shared(known, words, neighbours, pairs)

    found = shared((fold.test, (*fold.train, *fold.validation)) for fold in folds)
    found["validation"] = shared((fold.validation, fold.train) for fold in folds)
    if final is not None:
        found["final"] = shared([(final.validation, final.train)])
    return found


def _shared(
    known: Mapping[str, Mapping[Any, str]],
    words: Mapping[str, str],
    neighbours: Mapping[str, Sequence[str]] | None,
    pairs: Iterable[tuple[Sequence[str], Sequence[str]]],
) -> dict[str, Any]:
    """What the first part of each pair shares with the second."""
    labels = known["label"]
    exact, near = _Tally(), _Tally()
    shared = {"speaker": 0, "dialogue": 0, "script": 0}
    for part, seen in pairs:
        for column in shared:
            ours, theirs = ({known[column].get(name) for name in names} for names in (part, seen))
            shared[column] = max(shared[column], len((ours & theirs) - {None}))
        copies_of: dict[str, Counter[str | None]] = defaultdict(Counter)
        for name in seen:
            if words.get(name):
                copies_of[words[name]][labels.get(name)] += 1
        for name in part:
            text = words.get(name)
            if not text:
                continue
            exact.add(copies_of.get(text), labels.get(name))
            if neighbours is not None:
                copies = sum((copies_of[other] for other in neighbours[text] if other in copies_of), Counter())
                near.add(copies if text not in copies_of else None, labels.get(name))
    return {
        **{f"{column}s": count for column, count in shared.items()},
        "exact": exact.summary(),
        "near": None if neighbours is None else near.summary(),
    }


def normalise(text: str) -> str:
    """Lower case, no punctuation, single spaces.

    Example:
        >>> normalise("Well,  I don't!")
        "well i don't"
    """
    return " ".join(re.sub(r"[^\w']+", " ", text.lower()).split())


class _Tally:
    def __init__(self) -> None:
        self.all = 0
        self.found = 0
        self.labelled = 0
        self.agreement = 0.0
        self.lookup = 0.0

    def add(self, copies: Counter[str | None] | None, label: str | None) -> None:
        self.all += 1
        self.found += bool(copies)
        if copies and label is not None:
            self.labelled += 1
            self.agreement += copies[label] / sum(copies.values())
            most = max(copies.values())
            self.lookup += (copies[label] == most) / sum(count == most for count in copies.values())

    def summary(self) -> dict[str, float | None]:
        return {
            "fraction": self.found / self.all if self.all else None,
            "agreement": self.agreement / self.labelled if self.labelled else None,
            "lookup": self.lookup / self.labelled if self.labelled else None,
        }


def _neighbours(texts: list[str]) -> dict[str, list[str]] | None:
    """Near-duplicates of each distinct transcript; None where there are too many transcripts."""
    if len(texts) > LARGEST:
        return None
    result: dict[str, list[str]] = {text: [] for text in texts}
    if len(texts) < 2:
        return result
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5)).fit_transform(texts).tocsr()
    for start in range(0, len(texts), 1000):
        close = (vectors[start : start + 1000] @ vectors.T).tocoo()
        near = close.data >= NEAR
        for row, column in zip(close.row[near], close.col[near], strict=True):
            if start + row != column:
                result[texts[start + row]].append(texts[column])
    return result
