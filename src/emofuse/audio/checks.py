"""Checks of samples."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emofuse.errors import AudioError

SAMPLING_RATE = 16000
"""Sampling rate of everything that `load_audio` returns, in Hz."""

SHORTEST = 0.025
"""Shortest recording that can be used, in seconds: one analysis window of the speech encoders."""

LONGEST = 3 * 3600.0
"""Longest recording that is loaded at once, in seconds: it takes 0.7 GB."""

LONGEST_FILE = 8 * 3600.0
"""Longest file, in seconds, of a format that must be decoded from its beginning for any part."""

LONGEST_UTTERANCE = 300.0
"""Longest utterance for speech encoders, in seconds, since their time grows with its square."""

RATES = (4000, 768000)
"""Accepted sampling rates, in Hz: a damaged header can state any, and memory grows with it."""

SLACK = 0.01
"""Seconds that a span may exceed the end, since tables round times."""

_QUIETEST = 2e-5  # Range of samples, below one step of 16-bit audio (3e-5).
_HIGHEST = 8.0  # No resampler, codec or mixer exceeds full scale that far.
_HIGH = 2.0
_AT_PEAK = 0.9999  # Fraction of the peak.
_RUN = 3  # Samples at the peak one after another; a wave that is not clipped has two.
_AUDIBLE = 0.05  # Peak; below it runs come from rounding to 16 bits.
_CLIPPED = 0.001  # Fraction of the samples.


class Clipping:
    """Counts samples in runs at the positive or negative peak, over blocks at the recording's own rate.

    Resampling rounds such runs, so that they cannot be found later.

    Example:
        >>> wave = np.sin(np.arange(16000) / 20)
        >>> clean, hard = Clipping(), Clipping()
        >>> clean.see(wave)
        >>> hard.see(np.clip(2 * wave, -1, 1))
        >>> clean.fraction, round(hard.fraction, 2)
        (0.0, 0.67)
    """

    def __init__(self) -> None:
        self._samples = 0
        self._peaks, self._counts = [_AUDIBLE, _AUDIBLE], [0, 0]

    def see(self, block: NDArray[Any]) -> None:
        """Count a block, `(samples,)`."""
        self._samples += len(block)
        for number, side in enumerate((block, -block)):
            top = float(side.max())
            if top * _AT_PEAK > self._peaks[number]:
                self._peaks[number], self._counts[number] = top, 0
            if top >= _AT_PEAK * self._peaks[number]:
                edges = np.flatnonzero(np.diff(side >= _AT_PEAK * self._peaks[number], prepend=False, append=False))
                lengths = edges[1::2] - edges[::2]
                self._counts[number] += int(lengths[lengths >= _RUN].sum())

    @property
    def fraction(self) -> float:
        """Fraction of all samples."""
        return sum(self._counts) / max(1, self._samples)


class Levels:
    """Checks blocks of mono samples.

    Args:
        where: The file, for messages.

    Raises:
        AudioError: Samples are not finite, or so far out of range that they are damaged or on another scale.
    """

    def __init__(self, where: Path | str) -> None:
        self._where = where
        self._low, self._high = math.inf, -math.inf
        self._clipping = Clipping()

    def check(self, block: NDArray[np.float32]) -> tuple[float, float]:
        """Lowest and highest sample of a block of any shape."""
        if not block.size:
            return 0.0, 0.0
        low, high = float(block.min()), float(block.max())
        if not math.isfinite(low) or not math.isfinite(high):
            raise AudioError(
                "some samples are NaN or infinite",
                where=self._where,
                remedy="save it again as 16-bit or clipped samples",
            )
        if max(-low, high) > _HIGHEST:
            raise AudioError(
                f"samples reach {max(-low, high):.3g} where full scale is 1",
                where=self._where,
                remedy="divide 16-bit values by 32768, or save it again without damaged samples",
            )
        return low, high

    def see(self, block: NDArray[np.float32]) -> None:
        """Check a block, `(samples,)`, and update the peak and what is clipped."""
        if block.size:
            low, high = self.check(block)
            self._low, self._high = min(self._low, low), max(self._high, high)
            self._clipping.see(block)

    def check_loud(self) -> tuple[str, ...]:
        """Refuse silence after the last block, and return notes."""
        peak = max(-self._low, self._high)
        if self._high - self._low < _QUIETEST:
            what = "the audio is silent" + (f" (its highest sample is {peak:.1g} of full scale)" if peak > 0 else "")
            raise AudioError(what, where=self._where, remedy="check the microphone or channel, or leave it out")
        notes = [f"samples reach {peak:.1f} times full scale"] if peak > _HIGH else []
        if self._clipping.fraction > _CLIPPED:
            notes.append(f"the audio is clipped: {100 * self._clipping.fraction:.1f} % of its samples are at the peak")
        return tuple(notes)


def too_short(where: Path | str, seconds: float) -> AudioError:
    """The error for a recording below `SHORTEST`."""
    return AudioError(
        f"only {1000 * seconds:.1f} ms of audio",
        where=where,
        remedy=f"leave it out, since at least {1000 * SHORTEST:.0f} ms are needed",
    )


def too_long(where: Path | str, longest: float, seconds: float | None = None) -> AudioError:
    """The error for a recording that is too long."""
    limit = f"{longest / 3600:g} hours" if longest >= 3600 else f"{longest / 60:g} minutes"
    what = f"the audio is longer than {limit}"
    if seconds is not None:
        what += f" ({seconds / 3600:.1f} hours)" if seconds >= 3600 else f" ({seconds / 60:.1f} minutes)"
    return AudioError(what, where=where, remedy="cut it into utterances, or give the start and end of each")


def outside(where: Path | str, start: float, end: float | None) -> AudioError:
    """The error for a span outside its file."""
    span = f"from {start:g} s on" if end is None else f"from {start:g} to {end:g} s"
    return AudioError(f"the span {span} lies outside the audio", where=where, remedy="correct its start and end")


def no_samples(where: Path | str) -> AudioError:
    """The error for an empty recording."""
    return AudioError("the file holds no samples", where=where, remedy="record it again or leave it out")


def cut_short(where: Path | str) -> AudioError:
    """The error for a truncated file."""
    return AudioError("the file is cut short", where=where, remedy="copy it again from its source")


def damaged(where: Path | str, what: str = "the audio is damaged or cut short") -> AudioError:
    """The error for a file that cannot be decoded."""
    return AudioError(what, where=where, remedy="copy it again from its source")


def check_rate(where: Path | str, rate: int) -> None:
    """Refuse an impossible sampling rate.

    Raises:
        AudioError: It is such a rate.
    """
    if not RATES[0] <= rate <= RATES[1]:
        raise AudioError(
            f"its header says {rate} Hz",
            where=where,
            remedy=f"convert it to a rate between {RATES[0]} and {RATES[1]} Hz",
        )
