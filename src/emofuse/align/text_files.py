"""Helpers of the readers of alignment files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from emofuse.delimited import decoded
from emofuse.errors import AlignmentError
from emofuse.files import stand_in
from emofuse.types import Segment

_LARGEST = 64 << 20  # Bytes; far more than any text file of alignments.
# Seconds of overlap due to rounding, where beginning and length are rounded to hundredths separately.
_SLACK = 0.01 + 1e-6


def read_text(path: Path) -> str:
    """Read a text file: UTF-16 with a byte order mark, else UTF-8, else Latin 1.

    Args:
        path: The file.

    Raises:
        AlignmentError: The file is absent, a folder, empty, too large or no text.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise AlignmentError("the file is too large for alignments", where=path, remedy="check what it is")
        content = path.read_bytes()
        instead = stand_in(path)
    except FileNotFoundError as error:
        raise AlignmentError("no such file", where=path, remedy="check the path") from error
    except OSError as error:
        raise AlignmentError(f"the file cannot be read ({error.strerror})", where=path, remedy="check it") from error
    if not content.strip():
        raise AlignmentError("the file is empty", where=path, remedy="align again, or get it again")
    if instead is not None:
        raise AlignmentError(instead[0], where=path, remedy=instead[1])
    try:
        return decoded(content, "latin-1")[0]
    except ValueError as error:
        raise AlignmentError("this is not a text file", where=path, remedy="align again, or get it again") from error


def seconds(cell: str, *, where: str, scale: float = 1.0) -> float:
    """Read a time of a text file.

    Raises:
        AlignmentError: It is not a number of zero or more.

    Example:
        >>> seconds("12", where="a.wdseg, line 2", scale=0.01)
        0.12
    """
    try:
        value = float(cell) * scale if not set(cell) - set("0123456789.+-eE") else math.nan
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise AlignmentError(f"{cell[:40]!r} is no time", where=where, remedy="it must be a number of zero or more")
    return value


def in_order(segments: Sequence[Segment], path: Path, *, what: str = "the file") -> tuple[Segment, ...]:
    """Check that segments follow each other; an overlap of up to 10 ms is rounding.

    The earlier segment then ends where the later one begins.

    Raises:
        AlignmentError: A segment ends before it begins, or two overlap.
    """
    found: list[Segment] = []
    for segment in segments:
        start = segment.start
        if found and start < found[-1].end:
            before = found[-1]
            if before.end - start > _SLACK:
                raise AlignmentError(
                    f"{what} has {segment.label[:40]!r} at {start:g} s, before the segment ahead of it ends",
                    where=path,
                    remedy="align again, or fix the times",
                )
            start = max(start, before.start)
            found[-1] = Segment(start=before.start, end=start, label=before.label)
        if segment.end < start or start < 0:
            raise AlignmentError(
                f"{what} has {segment.label[:40]!r} from {start:g} to {segment.end:g} s",
                where=path,
                remedy="align again, or fix the times",
            )
        found.append(Segment(start=start, end=segment.end, label=segment.label.strip()))
    return tuple(found)
