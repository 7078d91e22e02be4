"""Move boundaries at a pause to the speech: phone models detect pauses late."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from emofuse.align.syllables import plain
from emofuse.audio import SAMPLING_RATE
from emofuse.types import Segment

_STEP = 16  # Samples between levels: 1 ms.
_WINDOW = 160  # Samples per level.
_LOUD = 95  # Percentile of the levels that counts as loud.
# dB below loud that count as silence, less for an end, which fades; chosen on half of benchmarks/alignment.py's speech.
_QUIET_START, _QUIET_END = 45.0, 40.0
_SHORTEST = 0.03  # Shortest phone that remains, in seconds.
_CLOSED = frozenset({"P", "T", "K", "B", "D", "G", "CH", "JH"})  # They begin with silence.


def trim_to_speech(words: Sequence[Sequence[Segment]], clip: NDArray[np.float32]) -> list[list[Segment]]:
    """Trim silence from phones beside a pause, and from the first and last phone.

    Args:
        words: ARPAbet phones of each word, in order; words without a pause between them are adjacent.
        clip: The audio, `(time,)` at 16 kHz.

    Returns:
        The same phones; only boundaries at pauses have moved, inwards.

    Example:
        >>> clip = np.concatenate([np.zeros(8000), np.sin(np.arange(8000)), np.zeros(8000)]).astype(np.float32)
        >>> [[phone]] = trim_to_speech([[Segment(start=0.1, end=1.4, label="AH")]], clip)
        >>> round(phone.start, 2), round(phone.end, 2)
        (0.5, 1.0)
    """
    sums = np.concatenate([[0.0], np.cumsum(np.square(clip, dtype=np.float64))])
    middles = np.arange(0, len(clip), _STEP)
    low, high = np.maximum(middles - _WINDOW // 2, 0), np.minimum(middles + _WINDOW // 2, len(clip))
    powers = (sums[high] - sums[low]) / (high - low)
    loud = np.percentile(powers, _LOUD)
    after, before = (powers > loud * 10 ** (-quiet / 10) for quiet in (_QUIET_START, _QUIET_END))
    found = [list(phones) for phones in words]
    for number, phones in enumerate(found):
        if number == 0 or words[number - 1][-1].end < phones[0].start:
            phones[0] = _later(phones[0], after)
        if number + 1 == len(found) or phones[-1].end < words[number + 1][0].start:
            phones[-1] = _earlier(phones[-1], before)
    return found


def _later(phone: Segment, loud: NDArray[np.bool_]) -> Segment:
    if plain(phone.label) in _CLOSED:
        return phone
    start, last = _place(phone.start), _place(phone.end - _SHORTEST)
    sounding = np.flatnonzero(loud[start:last])
    moved = start + int(sounding[0]) if len(sounding) else last
    return phone if moved <= start else Segment(start=_seconds(moved), end=phone.end, label=phone.label)


def _earlier(phone: Segment, loud: NDArray[np.bool_]) -> Segment:
    first, end = _place(phone.start + _SHORTEST), _place(phone.end)
    sounding = np.flatnonzero(loud[first:end])
    moved = first + int(sounding[-1]) + 1 if len(sounding) else first
    return phone if moved >= end else Segment(start=phone.start, end=_seconds(moved), label=phone.label)


def _place(time: float) -> int:
    return round(time * SAMPLING_RATE / _STEP)


def _seconds(place: int) -> float:
    return round(place * _STEP / SAMPLING_RATE, 4)
