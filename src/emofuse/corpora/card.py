"""Cards of corpora, and the check of files against them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emofuse.errors import EmofuseError, ManifestError, SettingsError
from emofuse.inputs import nearest

Row = dict[str, Any]

NONE = "none"
"""Name of an absent value in counts."""

GENDERS: Mapping[str, str] = {"F": "female", "M": "male"}
"""Manifest names of genders, by the publishers' first letter."""

DIMENSIONS = ("valence", "arousal", "dominance")
"""The usual dimensions; arousal is also called activation."""

_SHOWN = 6  # Most items in a message.


def listed(items: Sequence[str]) -> str:
    """The first several, and how many more.

    Example:
        >>> listed(["a", "b"]), listed("abcdefgh")
        ('a, b', 'a, b, c, d, e, f and 2 more')
    """
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more


@dataclass(frozen=True, kw_only=True)
class CorpusCard:
    """A corpus as its publishers describe it.

    Attributes:
        name: Name on the command line and in the manifest's column `corpus`.
        title: Full name.
        languages: ISO 639-1 codes.
        modalities: `speech`, `text` or both.
        labels: Emotions, as the manifest spells them.
        values: Rated dimensions, `NAME` of the manifest's columns `values.NAME`.
        licence: Terms of use.
        where: How to get it.
        citation: What to cite.
        utterances: Their number; None if it varies.
        speakers: Their number; None if it varies or is unknown.
        note: A caution for readers of results.
        counts: Utterances for each value of a manifest column, or of several such as `session+label`, whose values
            have a plus in between too.
        options: Options of the reader and their values; the first is the default.
        sources: Corpora that it combines.
        folds: Speakers tested in each published fold; empty where there are none.
        by_session: Whether sessions are dialogues of two actors, where the convention is to leave one session out.
        alignments: Path, as in `emofuse.outside`, of a function that reads the shipped alignments: it takes an
            utterance's audio file and its duration in seconds and returns segments by tier; None if there are none.

    Example:
        >>> card = CorpusCard(name="tiny", title="Tiny", languages=("en",), modalities=("text",),
        ...     labels=("happy", "sad"), licence="CC0", where="nowhere", citation="none", utterances=2,
        ...     counts={"label": {"happy": 1, "sad": 1}})
        >>> card.differences([{"label": "happy"}])
        'found 1 of 2 utterances (label sad: 0 of 1)'
    """

    name: str
    title: str
    languages: tuple[str, ...]
    modalities: tuple[str, ...]
    labels: tuple[str, ...]
    licence: str
    where: str
    citation: str
    utterances: int | None = None
    speakers: int | None = None
    note: str = ""
    values: tuple[str, ...] = ()
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    folds: tuple[tuple[str, ...], ...] = ()
    by_session: bool = False
    alignments: str | None = None

    def chosen(self, options: Mapping[str, str]) -> dict[str, str]:
        """A value for every option: the given one, or the default.

        Raises:
            SettingsError: The corpus has no such option or value.
        """
        for name, value in options.items():
            if name not in self.options:
                remedy = nearest(name, self.options) if self.options else "leave it out, as it has none"
                raise SettingsError(f"{self.name} has no option {name!r}", remedy=remedy)
            if value not in self.options[name]:
                raise SettingsError(
                    f"option {name} of {self.name} is {value!r}", remedy=nearest(value, self.options[name])
                )
        return {name: options.get(name, values[0]) for name, values in self.options.items()}

    def differences(self, rows: list[Row]) -> str:
        """Differences between rows and expected counts, as text; empty if there are none."""
        wrong = []
        for name, expected in self.counts.items():
            columns = name.split("+")
            found = Counter("+".join(str(row.get(column) or NONE) for column in columns) for row in rows)
            for value in sorted(expected.keys() | found.keys()):
                if found[value] != expected.get(value, 0):
                    parts = zip(columns, value.split("+", len(columns) - 1), strict=True)
                    what = " and ".join(f"{column} {part}" for column, part in parts)
                    wrong.append(f"{what}: {found[value]} of {expected.get(value, 0)}")
        if not wrong and self.utterances in (None, len(rows)):
            return ""
        return f"found {len(rows)} of {self.utterances} utterances" + (f" ({listed(wrong)})" if wrong else "")

    def folder(self, root: Path, *inside: str) -> Path:
        """The corpus's folder, as an absolute path: `root` itself, or the folder in it with the corpus's name.

        Args:
            root: The user's path.
            inside: Subfolders of the publisher's archive to enter if they exist.

        Raises:
            ManifestError: There is no such folder.
        """
        # Do not resolve links: a download cache links names with an ending to files without one.
        root = Path(os.path.abspath(root.expanduser()))
        if not root.is_dir():
            what = "this is not a folder" if root.exists() else "no such folder"
            raise ManifestError(what, where=root, remedy=f"name the folder of {self.title}; {self.where}")
        root = own if (own := self.own_folder(root)).is_dir() else root
        for name in inside:
            root = root / name if (root / name).is_dir() else root
        return root

    def own_folder(self, root: Path) -> Path:
        """The folder in `root` with the corpus's name, which may have an underscore for its hyphen."""
        underscored = root / self.name.replace("-", "_")
        return underscored if underscored.is_dir() else root / self.name

    def absent(self, folder: Path, what: str) -> ManifestError:
        """The error for a folder that holds nothing of the corpus."""
        return ManifestError(
            f"there is no {what} here", where=folder, remedy=f"name the folder of {self.title}; {self.where}"
        )


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A corpus as its folder lists it, before any recording is opened.

    Attributes:
        rows: One mapping of manifest columns an utterance.
        source: Their origin, for error messages.
        notes: Remarks for the reader.
        skipped: One error for each file or row that is missing or damaged.
        card: The card of this choice of options, if it differs from the corpus's own.
    """

    rows: list[Row]
    source: Path
    notes: tuple[str, ...] = ()
    skipped: tuple[EmofuseError, ...] = ()
    card: CorpusCard | None = None

    def incomplete(self, differences: str) -> str:
        """What is missing or damaged, as text; empty if nothing is.

        Args:
            differences: From the card.
        """
        if not self.skipped:
            return differences
        inside = f"{self.source}{os.sep}"
        names = [f"{str(error.where).removeprefix(inside)} ({error.what})" for error in self.skipped]
        found = f"{len(names)} missing or damaged: {listed(names)}"
        return f"{differences}; {found}" if differences else found
