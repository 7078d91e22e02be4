"""Checks of recognised words, and of transcripts against their recordings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from emofuse.audio.doubts import frame_levels

_JUDGED = 10  # Least number of frames.
_SILENCE = -60.0  # dBFS; the loudest frames of speech exceed it.
_LOW = -35.0
_STEADY = 3.0  # dB between loud and quiet frames; speech has ten times as much.
_LETTERS = 40.0  # Letters a second; fast speech has 20.


def is_steady(clip: NDArray[np.float32]) -> bool:
    """Whether a clip is silence or steady noise: its level is very low, or low and constant.

    Args:
        clip: Mono samples `(time,)` at 16 kHz.

    Example:
        >>> hiss = np.random.default_rng(0).normal(0, 0.01, 16000).astype(np.float32)
        >>> is_steady(hiss), is_steady(hiss * np.linspace(0, 1, 16000, dtype=np.float32))
        (True, False)
    """
    levels = frame_levels(clip)
    if len(levels) < _JUDGED:
        return False
    quiet, loud = np.quantile(levels, [0.05, 0.95])
    return bool(loud < _SILENCE or (loud < _LOW and loud - quiet < _STEADY))


def check_pace(text: str, *, seconds: float) -> list[str]:
    """Warn where a transcript is too long for its recording.

    Example:
        >>> check_pace("Oh no", seconds=0.5), len(check_pace("Nobody says all of this in half a second", seconds=0.5))
        ([], 1)
    """
    letters = sum(map(str.isalnum, text))
    if letters < _LETTERS * max(seconds, 0.5):
        return []
    return [
        f"the transcript has {letters} letters and the recording {seconds:.1f} s, faster than anybody speaks: check "
        "that they belong together"
    ]
