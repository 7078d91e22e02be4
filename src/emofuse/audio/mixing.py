"""Mix channels to mono; silent, opposed and different channels are detected."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_FAINT = 1e-3  # Power relative to the loudest channel below which a channel is left out: -30 dB.
_ALIKE = 0.8  # The same, above which it is as good as the loudest: -1 dB.
_OPPOSED = 0.8  # Power of the mean relative to independent channels: two correlate below -0.2.
_DIFFERENT = 0.3  # Mean correlation below which channels hold different audio.


class Mixer:
    """Mixes blocks of frames to one channel and collects statistics of the channels.

    Args:
        channels: Number of channels.
        used: Channels to average; all by default.

    Example:
        >>> tone = np.sin(np.arange(100) / 3)
        >>> mixer = Mixer(2)
        >>> float(abs(mixer.mix(np.stack([tone, -tone], axis=1))).max())
        0.0
        >>> mixer.verdict()
        ((0,), ('the 2 channels are of opposite phase and would cancel, so channel 1 was used alone',))
    """

    def __init__(self, channels: int, *, used: tuple[int, ...] | None = None) -> None:
        self.channels = channels
        self._used = None if used is None else list(used)
        self._count = 0
        self._sums = np.zeros(channels + 1)
        self._squares = np.zeros(channels + 1)

    def mix(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """Average the channels of a block, `(frames, channels)` to `(frames,)`."""
        if self.channels == 1:
            return block[:, 0]
        if self._used is not None:
            return np.asarray(block[:, self._used].mean(axis=1, dtype=np.float64), dtype=np.float32)
        # In float64, sums and squares of float32 do not overflow.
        mean = block.mean(axis=1, dtype=np.float64)
        both = np.concatenate([block, mean[:, None]], axis=1, dtype=np.float64)
        self._count += len(block)
        self._sums += both.sum(axis=0)
        self._squares += np.einsum("ij,ij->j", both, both)
        return np.asarray(mean, dtype=np.float32)

    def verdict(self) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Channels to average, and notes, after the last block."""
        everything = tuple(range(self.channels))
        if self.channels == 1 or self._used is not None or not self._count:
            return everything, ()
        # A constant offset is no signal.
        powers = np.maximum(self._squares / self._count - (self._sums / self._count) ** 2, 0)
        *own, mean = powers.tolist()
        loudest = max(own)
        if loudest <= 0:
            return everything, ()
        live = tuple(channel for channel in everything if own[channel] >= _FAINT * loudest)
        ratio = mean * self.channels**2 / sum(own)
        if len(live) > 1 and ratio < _OPPOSED:
            # The first of the loudest channels within 1 dB, since noise may make one the loudest.
            best = next(channel for channel in live if own[channel] > _ALIKE * loudest)
            what = f"the {self.channels} channels are of opposite phase and would cancel"
            return (best,), (f"{what}, so channel {best + 1} was used alone",)
        if len(live) < self.channels:
            silent = self.channels - len(live)
            return live, (f"{silent} of {self.channels} channels {'is' if silent == 1 else 'are'} silent, so left out",)
        if (ratio - 1) / (self.channels - 1) < _DIFFERENT:
            what = f"the {self.channels} channels hold different audio and were averaged"
            return everything, (f"{what}, so give one of them where each has its own speaker",)
        return everything, ()
