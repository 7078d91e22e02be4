"""Write alignments as TextGrid, CTM or JSON."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import ClassVar

from emofuse.align.textgrid import NAMES, as_textgrid
from emofuse.errors import AlignmentError
from emofuse.files import write_text
from emofuse.types import TIERS, Alignment, Segment, Tier


class AlignmentWriter(ABC):
    """A writer of alignments."""

    extension: ClassVar[str]

    @abstractmethod
    def contents(self, alignments: Sequence[Alignment], durations: Mapping[str, float]) -> Mapping[str, str]:
        """The text of each file by its name, without the extension.

        Args:
            alignments: Those that have segments.
            durations: Of utterances in seconds, where known.

        Raises:
            AlignmentError: The format cannot hold a name or a label.
        """


class TextGridWriter(AlignmentWriter):
    """A TextGrid an utterance."""

    extension = ".TextGrid"

    def contents(self, alignments: Sequence[Alignment], durations: Mapping[str, float]) -> Mapping[str, str]:
        """See `AlignmentWriter.contents`."""
        return {one.utterance: as_textgrid(one.tiers, duration=durations.get(one.utterance, 0.0)) for one in alignments}


class JsonAlignmentWriter(AlignmentWriter):
    """A JSON object an utterance."""

    extension = ".json"

    def contents(self, alignments: Sequence[Alignment], durations: Mapping[str, float]) -> Mapping[str, str]:
        """See `AlignmentWriter.contents`."""
        return {one.utterance: json.dumps(asdict(one), indent=1, ensure_ascii=False) + "\n" for one in alignments}


class CtmWriter(AlignmentWriter):
    """A CTM a tier."""

    extension = ".ctm"

    def contents(self, alignments: Sequence[Alignment], durations: Mapping[str, float]) -> Mapping[str, str]:
        """See `AlignmentWriter.contents`."""
        lines = {
            NAMES[tier][0]: [_line(one.utterance, part, tier) for one in alignments for part in one.tiers.get(tier, ())]
            for tier in TIERS
        }
        return {name: "".join(line + "\n" for line in found) for name, found in lines.items() if found}


WRITERS: Mapping[str, type[AlignmentWriter]] = {
    "textgrid": TextGridWriter,
    "ctm": CtmWriter,
    "json": JsonAlignmentWriter,
}
"""Writers of alignments by short name."""


def write_files(
    alignments: Iterable[Alignment], folder: Path, *, style: str, durations: Mapping[str, float] | None = None
) -> list[Path]:
    r"""Write alignments as files.

    Args:
        alignments: Those that have segments are written; the others are left out.
        folder: Where to write: for `textgrid` and `json` a file an utterance, for `ctm` a file a tier.
        style: A name in `WRITERS`.
        durations: Of the utterances in seconds, for the end of TextGrids.

    Returns:
        The files.

    Raises:
        AlignmentError: An utterance's name cannot be the name of a file in the folder, or a word in a CTM.

    Example:
        >>> import tempfile
        >>> word = Segment(start=0.1, end=0.4, label="hello")
        >>> alignment = Alignment(utterance="a", tiers={"word": (word,)}, source="sphinx")
        >>> paths = write_files([alignment], Path(tempfile.mkdtemp()), style="ctm")
        >>> paths[0].name, paths[0].read_text()
        ('words.ctm', 'a 1 0.1 0.3 hello\n')
    """
    there = [alignment for alignment in alignments if any(alignment.tiers.values())]
    writer = WRITERS[style]()
    written = []
    for name, content in writer.contents(there, durations or {}).items():
        written.append(_place(folder, name, writer.extension))
        write_text(written[-1], content, sync=False)
    return written


def _place(folder: Path, name: str, ending: str) -> Path:
    """A slash in a name is a folder; none may lead elsewhere."""
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\0" in part or "\\" in part for part in parts):
        raise AlignmentError(
            f"the utterance's name {name!r} cannot be that of a file", where=folder, remedy="rename it in the manifest"
        )
    return folder.joinpath(*parts[:-1], parts[-1] + ending)


def _line(name: str, segment: Segment, tier: Tier) -> str:
    label = "_".join(segment.label.split()) if tier == "syllable" else segment.label
    for cell in (name, label):
        if not cell.isprintable() or len(cell.split()) != 1 or cell.startswith(";;"):
            raise AlignmentError(f"{cell!r} cannot stand in a CTM", remedy="write TextGrid or JSON instead")
    return f"{name} 1 {segment.start!r} {round(segment.end - segment.start, 9)!r} {label}"
