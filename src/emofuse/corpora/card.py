"""What is known about a corpus before its files are read, and the check of the files against it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emofuse.errors import ManifestError

Row = dict[str, Any]

_SHOWN = 6  # Differences that one message lists.


@dataclass(frozen=True, kw_only=True)
class CorpusCard:
    """A corpus as its publishers describe it.

    Attributes:
        name: Name on the command line and in the manifest's column `corpus`.
        title: Full name.
        languages: ISO 639-1 codes.
        streams: `speech`, `text` or both.
        labels: Emotions, as the manifest spells them.
        licence: Terms of use.
        where: How to get it.
        citation: What to cite.
        utterances: How many there are; None where that is open.
        speakers: How many there are; None where that is open or not known.
        note: What a reader of results must know.
        counts: Utterances for each value of a manifest column.

    Example:
        >>> card = CorpusCard(name="tiny", title="Tiny", languages=("en",), streams=("text",), labels=("happy", "sad"),
        ...     licence="CC0", where="nowhere", citation="none", utterances=2, counts={"label": {"happy": 1, "sad": 1}})
        >>> card.differences([{"label": "happy"}])
        'found 1 of 2 utterances (label sad: 0 of 1)'
    """

    name: str
    title: str
    languages: tuple[str, ...]
    streams: tuple[str, ...]
    labels: tuple[str, ...]
    licence: str
    where: str
    citation: str
    utterances: int | None = None
    speakers: int | None = None
    note: str = ""
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def differences(self, rows: list[Row]) -> str:
        """How rows differ from what is expected, in words; empty where they do not."""
        wrong = []
        for column, expected in self.counts.items():
            found = Counter(str(row[column]) for row in rows)
            for value in sorted(expected.keys() | found.keys()):
                if found[value] != expected.get(value, 0):
                    wrong.append(f"{column} {value}: {found[value]} of {expected.get(value, 0)}")
        if not wrong and self.utterances in (None, len(rows)):
            return ""
        shown = ", ".join(wrong[:_SHOWN]) + (f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else "")
        return f"found {len(rows)} of {self.utterances} utterances" + (f" ({shown})" if shown else "")

    def folder(self, root: Path) -> Path:
        """The corpus's folder, as an absolute path: `root` itself, or the folder in it that bears the corpus's name.

        Raises:
            ManifestError: There is no such folder.
        """
        # Links are left as they are: a download cache links names with an ending to contents without one.
        root = Path(os.path.abspath(root.expanduser()))
        if not root.is_dir():
            what = "this is not a folder" if root.exists() else "no such folder"
            raise ManifestError(what, where=root, remedy=f"name the folder of {self.title}; {self.where}")
        return root / self.name if (root / self.name).is_dir() else root

    def absent(self, folder: Path, what: str) -> ManifestError:
        """The error for a folder that holds nothing of the corpus."""
        return ManifestError(
            f"there is no {what} here", where=folder, remedy=f"name the folder of {self.title}; {self.where}"
        )


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A corpus as its folder lists it, before any sound file is opened.

    Attributes:
        rows: One mapping of manifest columns an utterance.
        source: Where they come from, for error messages.
        notes: Remarks for the reader.
    """

    rows: list[Row]
    source: Path
    notes: tuple[str, ...] = ()
