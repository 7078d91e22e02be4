"""Unify names that differ by spaces, case or Unicode form."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping

_INVISIBLE = dict.fromkeys(
    (0x00AD, 0x061C, 0x200B, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2060, 0x206A), 0xFEFF)
)
"""Soft hyphen, zero-width space, direction and byte order marks and others, which come with copied text."""

_SHOWN = 3


def tidy(name: str) -> str:
    r"""A name in composed Unicode (NFC), without spaces around it and with single spaces within.

    Example:
        >>> tidy(" Zoe\u0308  Meier\u00a0") == "Zo\u00eb Meier"
        True
    """
    if name.isascii() and name.isprintable() and " " not in name:
        return name
    return " ".join(unicodedata.normalize("NFC", name.translate(_INVISIBLE)).split())


def key(name: str) -> str:
    r"""The same for all spellings of one name: case and compatible forms of characters set aside.

    Example:
        >>> key("STRASSE ") == key("Stra\u00dfe") == key("\uff33trasse")
        True
    """
    return tidy(unicodedata.normalize("NFKC", tidy(name)).casefold())


def unify(
    names: Iterable[str] | Mapping[str, int], *, what: str, known: Iterable[str] = ()
) -> tuple[dict[str, str], list[str]]:
    """One spelling of each name, and a note on several spellings.

    A spelling in `known` is preferred, else the most frequent one, else the first.

    Args:
        names: All values of a column with repetitions, or their counts.
        what: Kind of name, in the singular, for the note.
        known: Correct spellings, such as the classes of a table.

    Returns:
        The spelling to use for each value, and at most one note.

    Example:
        >>> unify(["anna", "anna", "Anna ", "bob"], what="speaker")[1]
        ["speaker 'anna' is also spelt 'Anna '"]
    """
    counts = Counter(names)
    clean: Counter[str] = Counter()
    for name, count in counts.items():
        clean[tidy(name)] += count
    right = {key(name): name for name in reversed(list(known))}
    groups: dict[str, list[str]] = {}
    for name in counts:
        groups.setdefault(key(name), []).append(name)
    found: dict[str, str] = {}
    also = []
    for one, spellings in groups.items():
        chosen = right.get(one) or max(map(tidy, spellings), key=lambda name: clean[name])
        found |= dict.fromkeys(spellings, chosen)
        if others := [name for name in spellings if name != chosen]:
            also.append(f"{what} {chosen!r} is also spelt {', '.join(map(_shown, others[:_SHOWN]))}")
    if len(also) > _SHOWN:
        also = [*also[:_SHOWN], f"{len(also) - _SHOWN} more likewise"]
    return found, ["; ".join(also)] if also else []


def _shown(name: str) -> str:
    """A spelling, with code points if it looks like another."""
    return repr(name) if unicodedata.is_normalized("NFC", name) and name.isprintable() else ascii(name)
