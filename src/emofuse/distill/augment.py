"""Augmentation that preserves the emotion: noise, rooms, gain and telephone bands."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, fftconvolve, sosfilt

from emofuse.audio import SAMPLING_RATE

Clip = NDArray[np.float32]


def disturb(clip: Clip, rng: np.random.Generator) -> Clip:
    """Change a clip as a telephone line, a room or a crowd would, and keep its length and timing.

    Args:
        clip: 16 kHz mono, `(samples,)`.
        rng: Decides which disturbances and how strong.

    Returns:
        Finite samples of the same length.

    Example:
        >>> disturb(np.ones(16000, np.float32), np.random.default_rng(0)).shape
        (16000,)
    """
    if rng.random() < 0.4:
        clip = in_room(clip, seconds=float(rng.uniform(0.1, 0.6)), rng=rng)
    if rng.random() < 0.6:
        clip = with_noise(clip, decibels=float(rng.uniform(3, 30)), slope=float(rng.uniform(0, 2)), rng=rng)
    if rng.random() < 0.3:
        clip = through_line(clip, low=float(rng.uniform(50, 350)), high=float(rng.uniform(3000, 7000)))
    return np.asarray(clip * 10 ** (rng.uniform(-12, 6) / 20), dtype=np.float32)


def with_noise(clip: Clip, *, decibels: float, slope: float, rng: np.random.Generator) -> Clip:
    """Add noise whose power falls with frequency to the power of `slope`, at a signal-to-noise ratio."""
    spectrum = np.fft.rfft(rng.standard_normal(len(clip)))
    spectrum *= np.maximum(np.arange(len(spectrum)), 1.0) ** (-slope / 2)
    noise = np.fft.irfft(spectrum, len(clip))
    gain = np.sqrt(np.mean(np.square(clip)) / (np.mean(np.square(noise)) + 1e-20)) * 10 ** (-decibels / 20)
    return np.asarray(clip + gain * noise, dtype=np.float32)


def in_room(clip: Clip, *, seconds: float, rng: np.random.Generator) -> Clip:
    """Add the echo of a synthetic room: decaying noise (60 dB in `seconds`) after the direct path."""
    time = np.arange(max(2, int(seconds * SAMPLING_RATE))) / SAMPLING_RATE
    response = rng.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    response *= rng.uniform(0.1, 0.6) / (np.linalg.norm(response) + 1e-12)
    response[0] = 1.0
    return np.asarray(fftconvolve(clip, response)[: len(clip)], dtype=np.float32)


def through_line(clip: Clip, *, low: float, high: float) -> Clip:
    """Keep a band of frequencies, in Hz, as a telephone or a codec does."""
    sections = butter(4, [low, high], btype="bandpass", fs=SAMPLING_RATE, output="sos")
    return np.asarray(sosfilt(sections, clip), dtype=np.float32)
