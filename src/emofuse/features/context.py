"""Dialogue context: what was said before an utterance, and never what comes after it."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from emofuse.errors import ManifestError


def earlier_texts(manifest: pd.DataFrame, count: int) -> Mapping[str, tuple[str, ...]]:
    """Words of the utterances that came before each one in its dialogue, the oldest first.

    A dialogue's rows stand in the order in which they are said; where all of them are stretches of one sound file,
    their `start` decides. Only what the manifest holds can be context: if utterances were left out by their label,
    so are their words. An utterance without words takes its place among the earlier ones and adds nothing.

    Args:
        manifest: Of whole dialogues.
        count: Most earlier utterances for each.

    Returns:
        Earlier texts by utterance, for those that have any.

    Raises:
        ManifestError: There are no dialogues.

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
        texts = [text.strip() for text in dialogue["text"].fillna("")]
        for place, name in enumerate(dialogue["utterance"]):
            if earlier := tuple(text for text in texts[max(0, place - count) : place] if text):
                found[str(name)] = earlier
    return found
