"""Notes on many recordings, counted by text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_SHOWN = 3  # Most names in a line.


def count_notes(notes: Mapping[str, Sequence[str]]) -> list[str]:
    """One line per kind of note, the most frequent first; notes of one kind differ in numbers only.

    Args:
        notes: Of each recording, by name.

    Example:
        >>> count_notes({"a": ["2 bytes were not read"], "b": ["9 bytes were not read"], "c": []})
        ['2 recordings (a, b): 2 bytes were not read, or the like']
    """
    kinds: dict[str, dict[str, str]] = {}
    for name, texts in notes.items():
        for text in texts:
            kinds.setdefault(re.sub(r"\d+(\.\d+)?", "#", text), {})[name] = text
    lines = []
    for found in sorted(kinds.values(), key=len, reverse=True):
        first, *others = dict.fromkeys(found.values())
        names = ", ".join([*list(found)[:_SHOWN], *["..."] * (len(found) > _SHOWN)])
        count = f"{len(found)} recording{'s' if len(found) > 1 else ''}"
        lines.append(f"{count} ({names}): {first}{', or the like' if others else ''}")
    return lines
