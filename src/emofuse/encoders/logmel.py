"""The baseline speech encoder, without download: log-mel energies with deltas and delta-deltas."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from emofuse.encoders.checkpoint import SAMPLING_RATE
from emofuse.encoders.layers import select_layers
from emofuse.settings import SpeechSettings
from emofuse.types import EncoderSpecification

NAME = "logmel"
REVISION = "1"
MELS = 80
STRIDE = 320
WINDOW = 400
_FFT = 512
_FLOOR = 1e-10


class LogMelEncoder:
    """80 log-mel energies a frame, with delta and delta-delta: 240 numbers, 50 times a second.

    Frame i covers samples `[320 i, 320 i + 400)`. Every clip is computed alone, so batches change nothing.

    Args:
        settings: Only `layers` matters, and there is one.

    Raises:
        EncoderError: The settings choose another layer than 0.

    Example:
        >>> encoder = LogMelEncoder(SpeechSettings(encoder="logmel"))
        >>> [tuple(clip.shape) for clip in encoder.encode([np.zeros(16000, np.float32)])]
        [(1, 49, 240)]
    """

    def __init__(self, settings: SpeechSettings) -> None:
        self.specification = EncoderSpecification(
            name=NAME,
            family=NAME,
            modality="speech",
            revision=REVISION,
            layers=1,
            selected=select_layers(settings.layers, layers=1, encoder=NAME),
            width=3 * MELS,
            sampling_rate=SAMPLING_RATE,
            stride=STRIDE,
            receptive_field=WINDOW,
            licence="Apache-2.0",
        )
        # A periodic Hann window, as usual in spectral analysis.
        self._window = np.hanning(WINDOW + 1)[:-1]
        self._filters = mel_filters()

    def frames(self, samples: int) -> int:
        """Number of frames of a clip; at least one."""
        return 1 + (max(samples, WINDOW) - WINDOW) // STRIDE

    def encode(self, clips: Sequence[NDArray[np.float32]]) -> list[torch.Tensor]:
        """Encode clips.

        Args:
            clips: Mono audio at 16 kHz, each `(samples,)`.

        Returns:
            One float32 tensor `(1, frames, 240)` per clip.
        """
        return [self._encode(clip) for clip in clips]

    def _encode(self, clip: NDArray[np.float32]) -> torch.Tensor:
        padded = np.pad(clip.astype(np.float64), (0, max(0, WINDOW - len(clip))))
        frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::STRIDE] * self._window
        power = np.abs(np.fft.rfft(frames, _FFT)) ** 2
        energies = np.log(np.maximum(power @ self._filters, _FLOOR))
        slopes = deltas(energies)
        features = np.concatenate([energies, slopes, deltas(slopes)], axis=1)
        return torch.from_numpy(features.astype(np.float32))[None]


def deltas(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Slope of each column over five rows, by least squares; the first and last rows are repeated at the ends.

    Example:
        >>> deltas(np.arange(6.0)[:, None])[:, 0].round(2).tolist()
        [0.5, 0.8, 1.0, 1.0, 0.8, 0.5]
    """
    padded = np.pad(values, ((2, 2), (0, 0)), mode="edge")
    slopes: NDArray[np.float64] = (padded[3:-1] - padded[1:-3] + 2 * (padded[4:] - padded[:-4])) / 10
    return slopes


def mel_filters(mels: int = MELS, *, size: int = _FFT) -> NDArray[np.float64]:
    """Triangular filters, evenly spaced on the mel scale from 0 to 8000 Hz, each with unit area.

    Args:
        mels: How many.
        size: Points of the Fourier transform.

    Returns:
        `(frequencies, mels)`.

    Example:
        >>> mel_filters().shape
        (257, 80)
    """
    edges = _from_mel(np.linspace(_to_mel(np.array(0.0)), _to_mel(np.array(SAMPLING_RATE / 2)), mels + 2))
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    frequencies = np.linspace(0, SAMPLING_RATE / 2, size // 2 + 1)[:, None]
    rising = (frequencies - low) / (centre - low)
    falling = (high - frequencies) / (high - centre)
    filters: NDArray[np.float64] = np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)
    return filters


# Slaney's scale is linear below 1 kHz, so that no filter falls between two frequencies of the transform.
_LINEAR = 3 / 200
_KNEE = 1000.0
_LOG_STEP = 27 / np.log(6.4)


def _to_mel(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
    above = _KNEE * _LINEAR + _LOG_STEP * np.log(np.maximum(hertz, _KNEE) / _KNEE)
    return np.where(hertz < _KNEE, hertz * _LINEAR, above)


def _from_mel(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    above = _KNEE * np.exp((mels - _KNEE * _LINEAR) / _LOG_STEP)
    return np.where(mels < _KNEE * _LINEAR, mels / _LINEAR, above)
