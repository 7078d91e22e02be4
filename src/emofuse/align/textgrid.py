"""Praat's TextGrid, long and short, from Praat or the Montreal Forced Aligner."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from emofuse.align.text_files import in_order, read_text
from emofuse.errors import AlignmentError
from emofuse.escape import one_line
from emofuse.types import Segment, Tier

NAMES: Mapping[Tier, tuple[str, ...]] = {
    "word": ("words", "word", "ort"),
    "syllable": ("syllables", "syllable", "syl"),
    "phone": ("phones", "phone", "segments", "phonemes"),
}
"""Names of tiers; MFA adds the prefix `speaker - `. The first is written."""

PAUSES = frozenset({"", "sil", "sp", "SIL", "<eps>", "<sil>", "<p:>", "#"})

_TOKEN = re.compile(
    r'"(?P<text>(?:[^"]|"")*)"|(?<![\w.])(?P<number>[-+]?(?:[0-9]+[.,]?[0-9]*|[.,][0-9]+)(?:[eE][-+]?[0-9]+)?)(?![\w.])'
    r"|<exists>|\[[0-9]*\]"
)
_REMEDY = "write it again from Praat or the aligner"


def read_textgrid(path: Path) -> dict[Tier, tuple[Segment, ...]]:
    """Read the word, syllable and phone tiers of a TextGrid; pauses are left out.

    Args:
        path: Long or short text format, in UTF-8 or UTF-16.

    Returns:
        The tiers whose names are in `NAMES`, in any case.

    Raises:
        AlignmentError: The file is absent, no TextGrid, cut short or contradicts itself.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.TextGrid"
        >>> write_textgrid({"word": (Segment(start=0.1, end=0.4, label="hello"),)}, path, duration=1.0)
        >>> read_textgrid(path)
        {'word': (Segment(start=0.1, end=0.4, label='hello'),)}
    """
    return read_grid(path).tiers


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A TextGrid.

    Attributes:
        tiers: As from `read_textgrid`.
        start: Beginning in seconds.
        end: End in seconds.
        covers: Whether one of these tiers ends in a pause, and so covers the whole audio.
    """

    tiers: dict[Tier, tuple[Segment, ...]]
    start: float
    end: float
    covers: bool


def read_grid(path: Path) -> Grid:
    """Read a TextGrid with its times; errors as in `read_textgrid`.

    If a tier holds more intervals than it announces, as from some aligners, all are read.
    """
    text = read_text(path)
    if "ooTextFile" not in text[:200] or "TextGrid" not in text[:400]:
        raise AlignmentError("this is not a TextGrid", where=path, remedy=_REMEDY)
    tokens = _Tokens(text, path)
    start, end = tokens.number(), tokens.number()
    announced = tokens.count("tiers")
    tiers: dict[Tier, tuple[Segment, ...]] = {}
    found, covers = 0, False
    while tokens.more():
        found += 1
        kind, name = tokens.text(), tokens.text()
        if kind not in ("IntervalTier", "TextTier"):
            raise AlignmentError(f"{kind[:40]!r} is no kind of tier", where=path, remedy=_REMEDY)
        tokens.number()
        tokens.number()
        size, segments = tokens.count("intervals"), []
        while tokens.at_number():
            first = tokens.number()
            last = tokens.number() if kind == "IntervalTier" else first
            segments.append(Segment(start=first, end=last, label=tokens.text()))
        if len(segments) < size:
            raise AlignmentError(
                f"tier {name[:40]!r} announces {size} intervals and holds {len(segments)}: it breaks off",
                where=path,
                remedy=_REMEDY,
            )
        tier = _tier(name)
        if kind != "IntervalTier" or tier is None:
            continue
        if tier in tiers:
            raise AlignmentError(
                f"there are two tiers of {tier}s", where=path, remedy="keep one speaker and one tier of each"
            )
        checked = in_order(segments, path, what=f"tier {name!r}")
        covers = covers or bool(checked and checked[-1].label in PAUSES)
        tiers[tier] = tuple(segment for segment in checked if segment.label not in PAUSES)
    if found < announced:
        raise AlignmentError(
            f"the TextGrid announces {announced} tiers and holds {found}: it breaks off", where=path, remedy=_REMEDY
        )
    if not tiers:
        raise AlignmentError(
            "there is no tier of words, syllables or phones", where=path, remedy="call them words, syllables and phones"
        )
    return Grid(tiers=tiers, start=start, end=end, covers=covers)


def _tier(name: str) -> Tier | None:
    last = name.rpartition(" - ")[2].strip().lower()
    return next((tier for tier, names in NAMES.items() if last in names), None)


class _Tokens:
    """The values of a TextGrid in order; the long format adds names between the values of the short one."""

    def __init__(self, text: str, path: Path) -> None:
        body = text.split("TextGrid", 1)[1].lstrip('"')
        # Names such as `intervals [12]:` hold numbers that are no values.
        self._found = (one for one in _TOKEN.finditer(body) if one[0] != "<exists>" and not one[0].startswith("["))
        self._path = path
        self._ahead = next(self._found, None)

    def more(self) -> bool:
        """Whether there is another value."""
        return self._ahead is not None

    def at_number(self) -> bool:
        """Whether the next value is a number."""
        return self._ahead is not None and self._ahead["number"] is not None

    def _next(self, group: str) -> str:
        match = self._ahead
        if match is None:
            raise AlignmentError("the TextGrid breaks off", where=self._path, remedy=_REMEDY)
        if match[group] is None:
            raise AlignmentError(
                f"{match[0][:40]!r} is not the {'label' if group == 'text' else 'number'} that belongs here",
                where=self._path,
                remedy=_REMEDY,
            )
        self._ahead = next(self._found, None)
        return match[group]

    def text(self) -> str:
        return self._next("text").replace('""', '"')

    def number(self) -> float:
        # Some programs write a decimal comma.
        value = float(self._next("number").replace(",", "."))
        if not math.isfinite(value):
            raise AlignmentError("a time is not finite", where=self._path, remedy=_REMEDY)
        return value

    def count(self, what: str) -> int:
        value = self.number()
        if value < 0 or value != int(value):
            raise AlignmentError(f"{value} is no number of {what}", where=self._path, remedy=_REMEDY)
        return int(value)


def write_textgrid(tiers: Mapping[Tier, Sequence[Segment]], path: Path, *, duration: float) -> None:
    """Write tiers as a TextGrid in the long format, with empty intervals between segments.

    Args:
        tiers: Segments in order, without overlaps.
        path: File to write.
        duration: Of the audio, in seconds.
    """
    from emofuse.files import write_text

    write_text(path, as_textgrid(tiers, duration=duration), sync=False)


def as_textgrid(tiers: Mapping[Tier, Sequence[Segment]], *, duration: float) -> str:
    """Tiers as the text of a TextGrid, see `write_textgrid`."""
    end = max([duration, *(segment.end for segments in tiers.values() for segment in segments)])
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {end!r}"]
    lines += ["tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (tier, segments) in enumerate(tiers.items(), start=1):
        intervals = _filled(segments, end)
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{NAMES[tier][0]}"']
        lines += ["        xmin = 0", f"        xmax = {end!r}", f"        intervals: size = {len(intervals)}"]
        for place, one in enumerate(intervals, start=1):
            label = one_line(one.label).replace('"', '""')
            lines += [f"        intervals [{place}]:", f"            xmin = {one.start!r}"]
            lines += [f"            xmax = {one.end!r}", f'            text = "{label}"']
    return "\n".join(lines) + "\n"


def _filled(segments: Sequence[Segment], end: float) -> list[Segment]:
    filled: list[Segment] = []
    last = 0.0
    for segment in segments:
        if segment.start > last:
            filled.append(Segment(start=last, end=segment.start, label=""))
        filled.append(segment)
        last = segment.end
    if last < end or not filled:
        filled.append(Segment(start=last, end=end, label=""))
    return filled
