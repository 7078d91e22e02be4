"""Dialogue context: the texts before an utterance, never those after it."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pandas as pd

from emofuse.errors import ManifestError


def earlier_texts(manifest: pd.DataFrame, count: int) -> Mapping[str, tuple[str, ...]]:
    """Texts of the utterances that precede each one in its dialogue, the oldest first.

    A dialogue's rows are in order of time; if all are spans of one recording, by their `start`. Texts of left-out
    utterances, such as those without a chosen label, count if column `omitted` holds them. An utterance
    without a text keeps its place among the earlier ones and adds nothing.

    Args:
        manifest: Of whole dialogues.
        count: Most earlier utterances for each.

    Returns:
        Earlier texts by utterance, for those that have any.

    Raises:
        ManifestError: There are no dialogues, or `omitted` is no JSON list of strings.

    Example:
        >>> from emofuse.manifest import make_manifest
        >>> rows = [{"utterance": name, "text": name * 2, "dialogue": place} for name, place in zip("abcd", "1121")]
        >>> earlier_texts(make_manifest(rows, source="example"), 2)
        {'b': ('aa',), 'd': ('aa', 'bb')}
    """
    if manifest["dialogue"].isna().all():
        raise ManifestError(
            "no utterance is part of a dialogue, so none has a context",
            remedy="fill in column 'dialogue', or set text.context to 0",
        )
    found: dict[str, tuple[str, ...]] = {}
    for _, dialogue in manifest[manifest["dialogue"].notna()].groupby("dialogue", sort=False):
        # Times of different files do not compare.
        if dialogue["start"].notna().all() and dialogue["audio"].nunique(dropna=False) == 1:
            dialogue = dialogue.sort_values("start", kind="stable")
        said: list[str] = []
        rows = zip(dialogue["utterance"], dialogue["text"].fillna(""), dialogue["omitted"].fillna("[]"), strict=True)
        for name, text, omitted in rows:
            said += _omitted(str(name), omitted)
            if earlier := tuple(one for one in said[max(0, len(said) - count) :] if one):
                found[str(name)] = earlier
            said.append(text.strip())
    return found


def _omitted(name: str, text: str) -> list[str]:
    try:
        texts = json.loads(text)
    except ValueError:
        texts = None
    if not isinstance(texts, list) or not all(isinstance(one, str) for one in texts):
        raise ManifestError(
            f"column 'omitted' of utterance {name!r} is {text!r}", remedy='write a JSON list such as ["Are you ready?"]'
        )
    return [one.strip() for one in texts]
