"""Alignments as files that other tools read: TextGrid, CTM, JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Literal, get_args

from emofuse.align.textgrid import NAMES, write_textgrid
from emofuse.errors import AlignmentError
from emofuse.files import write_text
from emofuse.types import TIERS, Alignment, Segment, Tier

Format = Literal["textgrid", "ctm", "json"]
FORMATS: tuple[Format, ...] = get_args(Format)


def write_files(
    alignments: Iterable[Alignment], folder: Path, *, style: Format, durations: Mapping[str, float] | None = None
) -> list[Path]:
    r"""Write alignments as files.

    Args:
        alignments: Those that have segments are written; the others are left out.
        folder: Where to write: for `textgrid` and `json` a file an utterance, for `ctm` a file a tier.
        style: `textgrid`, `ctm` or `json`.
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
    if style == "ctm":
        return _write_ctm(there, folder)
    written = []
    for alignment in there:
        path = _place(folder, alignment.utterance, ".TextGrid" if style == "textgrid" else ".json")
        if style == "textgrid":
            write_textgrid(alignment.tiers, path, duration=(durations or {}).get(alignment.utterance, 0.0))
        else:
            write_text(path, json.dumps(_as_json(alignment), indent=1, ensure_ascii=False) + "\n", sync=False)
        written.append(path)
    return written


def read_json(path: Path) -> Alignment:
    """Read what `write_files` wrote as JSON.

    Raises:
        AlignmentError: The file is absent or is something else.
    """
    from emofuse.align.text_files import in_order, read_text

    text = read_text(path)
    try:
        values = json.loads(text)
        tiers = {
            tier: in_order(
                [
                    Segment(start=_time(one["start"]), end=_time(one["end"]), label=_word(one["label"]))
                    for one in values["tiers"][tier]
                ],
                path,
            )
            for tier in TIERS
            if tier in values["tiers"]
        }
        name, source = _word(values["utterance"]), _word(values["source"])
        problem, note = (None if values[key] is None else _word(values[key]) for key in ("problem", "note"))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise AlignmentError(
            "this is not an alignment as JSON", where=path, remedy="write it anew with `emofuse align --write json`"
        ) from error
    return Alignment(utterance=name, tiers=tiers, source=source, problem=problem, note=note)


def _time(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise ValueError(value)
    return float(value)


def _word(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _as_json(alignment: Alignment) -> dict[str, object]:
    tiers = {tier: [asdict(segment) for segment in segments] for tier, segments in alignment.tiers.items()}
    return {
        "utterance": alignment.utterance,
        "source": alignment.source,
        "problem": alignment.problem,
        "note": alignment.note,
        "tiers": tiers,
    }


def _place(folder: Path, name: str, ending: str) -> Path:
    """A slash in a name is a folder; none may lead elsewhere."""
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\0" in part or "\\" in part for part in parts):
        raise AlignmentError(
            f"the utterance's name {name!r} cannot be that of a file", where=folder, remedy="rename it in the manifest"
        )
    return folder.joinpath(*parts[:-1], parts[-1] + ending)


def _write_ctm(alignments: list[Alignment], folder: Path) -> list[Path]:
    written = []
    for tier in TIERS:
        lines = [
            _line(alignment.utterance, segment, tier)
            for alignment in alignments
            for segment in alignment.tiers.get(tier, ())
        ]
        if lines:
            path = folder / f"{NAMES[tier][0]}.ctm"
            write_text(path, "".join(line + "\n" for line in lines), sync=False)
            written.append(path)
    return written


def _line(name: str, segment: Segment, tier: Tier) -> str:
    label = "_".join(segment.label.split()) if tier == "syllable" else segment.label
    for cell in (name, label):
        if not cell.isprintable() or len(cell.split()) != 1 or cell.startswith(";;"):
            raise AlignmentError(f"{cell!r} cannot stand in a CTM", remedy="write TextGrid or JSON instead")
    return f"{name} 1 {segment.start!r} {round(segment.end - segment.start, 9)!r} {label}"
