"""Synthesise a small corpus in which half of the emotion is in the voice and half in the text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import soundfile
import soxr
from scipy.ndimage import uniform_filter1d

from emofuse.demo.sentences import sentences
from emofuse.errors import EmofuseError
from emofuse.files import read_json, write_text, written_atomically
from emofuse.progress import Progress, Silent, track
from emofuse.seeds import derive_seed

Array = npt.NDArray[np.float32]

SAMPLING_RATE = 16000
NOISE = 0.06
"""Fraction of a class's utterances with a misleading voice, and fraction with a misleading text."""

RECIPE = 1
"""Increased whenever the same seed gives other audio or sentences, so that a resumed corpus is never a mixture."""

# In Hz: the median pitch of the synthesiser's only voice, from which all speakers are derived.
_SOURCE_PITCH = 190.0
# Below this, a frame counts as unvoiced.
_VOICED = 40.0
_THREADS = 2
_SILENT = Silent()


@dataclass(frozen=True, kw_only=True)
class _Emotion:
    arousal: str
    valence: str


@dataclass(frozen=True, kw_only=True)
class _Manner:
    """Prosody of a speaker, or its change by arousal.

    Attributes:
        pitch: Shift in semitones.
        span: Factor on the pitch range.
        speed: Factor on the speaking rate.
        level: In dB; for a speaker, of full scale.
        tilt: Spectral tilt in dB an octave; more is brighter, as in pressed speech.
    """

    pitch: float
    span: float
    speed: float
    level: float
    tilt: float

    def with_change(self, change: _Manner) -> _Manner:
        return _Manner(
            pitch=self.pitch + change.pitch,
            span=self.span * change.span,
            speed=self.speed * change.speed,
            level=self.level + change.level,
            tilt=self.tilt + change.tilt,
        )


@dataclass(frozen=True, kw_only=True)
class _Speaker:
    """A speaker: `formants` is the factor on resonance frequencies, lower for a longer vocal tract."""

    name: str
    formants: float
    habit: _Manner


@dataclass(frozen=True, kw_only=True)
class _Line:
    utterance: str
    text: str
    label: str
    speaker: _Speaker
    arousal: str


_EMOTIONS = {
    "angry": _Emotion(arousal="high", valence="negative"),
    "happy": _Emotion(arousal="high", valence="positive"),
    "neutral": _Emotion(arousal="low", valence="positive"),
    "sad": _Emotion(arousal="low", valence="negative"),
}
_OTHER = {"high": "low", "low": "high", "negative": "positive", "positive": "negative"}
_AROUSAL = {
    "high": _Manner(pitch=2.5, span=1.35, speed=1.13, level=3.5, tilt=2.0),
    "low": _Manner(pitch=-2.0, span=0.7, speed=0.92, level=-3.5, tilt=-2.0),
}


def _speaker(
    name: str, formants: float, pitch: float, span: float, speed: float, level: float, tilt: float
) -> _Speaker:
    habit = _Manner(pitch=pitch, span=span, speed=speed, level=level, tilt=tilt)
    return _Speaker(name=name, formants=formants, habit=habit)


_SPEAKERS = (
    _speaker("f1", 1.00, 0.0, 1.00, 1.00, -23.0, 0.0),
    _speaker("f2", 1.04, 2.0, 1.10, 1.05, -22.0, 0.6),
    _speaker("f3", 0.96, -1.5, 0.90, 0.96, -24.0, -0.6),
    _speaker("f4", 1.07, 1.0, 0.95, 1.02, -23.5, -0.3),
    _speaker("m1", 0.87, -9.0, 1.00, 1.00, -23.0, 0.0),
    _speaker("m2", 0.84, -11.0, 0.90, 0.95, -22.0, 0.4),
    _speaker("m3", 0.90, -7.5, 1.10, 1.04, -24.0, 0.6),
    _speaker("m4", 0.86, -10.0, 1.05, 0.98, -22.5, -0.6),
)


def make_demo_corpus(out: Path, *, utterances_per_class: int = 15, seed: int = 0, progress: Progress = _SILENT) -> Path:
    """Synthesise a corpus of 8 voices and 4 emotions, to try the pipeline without licensed data.

    The voice carries arousal only (angry and happy from neutral and sad), the text carries valence only (angry and sad
    from happy and neutral), and a few utterances mislead in either modality; so a model has to combine the two. No two
    speakers share a sentence. On one machine the same arguments give the same files; after an interruption, call it
    again.

    Args:
        out: Folder for `audio/*.wav` (16 kHz) and `corpus.csv`.
        utterances_per_class: Utterances of each speaker and emotion.
        seed: Seed of sentences and voices.
        progress: Reports each utterance.

    Returns:
        The path of `corpus.csv`, a table with the columns `utterance`, `audio` (relative to the table), `text`,
        `label`, `speaker`, `text_source` and `language`.

    Raises:
        EmofuseError: The speech synthesiser is not installed, `utterances_per_class` is not positive, or the folder
            holds a corpus that was made with other arguments.
    """
    if utterances_per_class < 1:
        raise EmofuseError(
            f"utterances_per_class is {utterances_per_class}", where="demo corpus", remedy="set 1 or more"
        )
    audio = out / "audio"
    lines = _plan(utterances_per_class=utterances_per_class, seed=seed)
    missing = [line for line in lines if not (audio / f"{line.utterance}.wav").is_file()]
    synthesiser: Any = _load_synthesiser() if missing else None
    _claim(out, {"recipe": RECIPE, "seed": seed, "utterances_per_class": utterances_per_class})

    def speak(line: _Line, phonemes: str) -> None:
        samples = _speak(synthesiser, phonemes, line, seed=seed)
        with written_atomically(audio / f"{line.utterance}.wav") as part:
            soundfile.write(part, samples, SAMPLING_RATE, subtype="PCM_16", format="WAV")

    # Threads suffice: ONNX Runtime and NumPy take most of the time, without the interpreter's lock.
    pool = ThreadPoolExecutor(_THREADS)
    try:
        # The synthesiser's text frontend may not be thread-safe, so it stays in this thread.
        spoken = pool.map(speak, missing, [" ".join(synthesiser.phonemize(line.text)) for line in missing])
        for _ in track(spoken, "Speaking the demo corpus", total=len(missing), progress=progress):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
    return _write_table(lines, out / "corpus.csv")


def _load_synthesiser() -> Any:
    try:
        from hibari import Hibari

        return Hibari()
    except ImportError as error:
        raise EmofuseError(
            f"the speech synthesiser cannot be imported ({error})",
            where="demo corpus",
            remedy="run pip install hibari-tts==0.2.1",
        ) from error


def _claim(out: Path, arguments: dict[str, int]) -> None:
    """Store the arguments, since files of other arguments would count as finished."""
    note = out / "demo.json"
    if not note.is_file():
        write_text(note, json.dumps(arguments) + "\n")
        return
    try:
        found = read_json(note)
    except ValueError:
        found = "unreadable"
    if found != arguments:
        raise EmofuseError(
            f"the folder holds a demo corpus made with {found}, not {arguments}",
            where=out,
            remedy="choose another folder or remove this one",
        )


def _write_table(lines: list[_Line], path: Path) -> Path:
    rows = [
        {
            "utterance": line.utterance,
            "audio": f"audio/{line.utterance}.wav",
            "text": line.text,
            "label": line.label,
            "speaker": line.speaker.name,
            "text_source": "reference",
            "language": "en",
        }
        for line in lines
    ]
    with written_atomically(path) as part:
        pd.DataFrame(rows).to_csv(part, index=False, lineterminator="\n")
    return path


def _plan(*, utterances_per_class: int, seed: int) -> list[_Line]:
    rng = np.random.default_rng(derive_seed(seed, "demo", "plan"))
    own: dict[tuple[str, str], Iterator[str]] = {}
    for valence in ("negative", "positive"):
        pool = [str(sentence) for sentence in rng.permutation(sentences(valence))]
        for index, speaker in enumerate(_SPEAKERS):
            own[speaker.name, valence] = _repeat(pool[index :: len(_SPEAKERS)])

    number = len(_SPEAKERS) * utterances_per_class
    misleading = round(NOISE * number)
    lines = []
    for label, emotion in _EMOTIONS.items():
        wrong_voice = set(rng.permutation(number)[:misleading].tolist())
        wrong_words = set(rng.permutation(number)[:misleading].tolist())
        for index in range(number):
            speaker = _SPEAKERS[index // utterances_per_class]
            valence = _OTHER[emotion.valence] if index in wrong_words else emotion.valence
            lines.append(
                _Line(
                    utterance=f"{speaker.name}_{label}_{index % utterances_per_class:03d}",
                    text=next(own[speaker.name, valence]),
                    label=label,
                    speaker=speaker,
                    arousal=_OTHER[emotion.arousal] if index in wrong_voice else emotion.arousal,
                )
            )
    return sorted(lines, key=lambda line: line.utterance)


def _repeat(own: list[str]) -> Iterator[str]:
    """Repeat from the beginning: a large corpus repeats a speaker's own sentences, never another speaker's."""
    while True:
        yield from own


def _speak(synthesiser: Any, phonemes: str, line: _Line, *, seed: int) -> Array:
    """Synthesise a line in its speaker's voice.

    The synthesiser is a source-filter model: a pitch track, the spectrum of the harmonics, and that of the rest. Each
    is modified before synthesis, with fewer artefacts than in a finished recording.
    """
    from hibari import dsp

    rng = np.random.default_rng(derive_seed(seed, "demo", line.utterance))
    jitter = _Manner(
        pitch=rng.normal(0, 0.8),
        span=np.exp(rng.normal(0, 0.1)),
        speed=np.exp(rng.normal(0, 0.05)),
        level=rng.normal(0, 1.0),
        tilt=rng.normal(0, 0.5),
    )
    manner = line.speaker.habit.with_change(_AROUSAL[line.arousal]).with_change(jitter)

    ids = np.asarray([synthesiser.ids(phonemes)], np.int64)
    outputs = synthesiser.sess.run(None, {"ids": ids, "speed": np.asarray([manner.speed], np.float32)})
    harmonic, harmonic_phase, noise, rest, rest_phase, pitch = (output[0] for output in outputs)

    moved = _FrequencyWarp(bins=len(harmonic), factor=line.speaker.formants)
    tilt = _tilt(len(harmonic), slope=manner.tilt, bandwidth=dsp.SR / 2)
    # The network places sharp notches between the harmonics of its own pitch; at another pitch they would be audible.
    harmonic = uniform_filter1d(harmonic, 5, axis=0)
    samples = dsp.synth(
        moved.magnitude(harmonic) + tilt,
        moved.nearest(harmonic_phase),
        moved.magnitude(noise) + tilt,
        moved.magnitude(rest) + tilt,
        moved.phase(rest_phase, turn=2 * np.pi * dsp.HOP / dsp.N_FFT),
        _move_pitch(pitch, manner=manner),
        rng,
    )
    voiced = np.repeat(pitch > _VOICED, dsp.HOP)
    # Without silences and consonants, or the level would depend on the text.
    loudness = np.sqrt(np.mean(np.square(samples[voiced])) + 1e-12)
    samples = soxr.resample(samples * (10 ** (manner.level / 20) / loudness), dsp.SR, SAMPLING_RATE, quality="VHQ")
    return np.asarray(samples * min(1.0, 0.9 / np.abs(samples).max()), np.float32)


def _move_pitch(pitch: Array, *, manner: _Manner) -> Array:
    centre = _SOURCE_PITCH * 2 ** (manner.pitch / 12)
    # A low voice must stay voiced.
    moved = np.clip(centre * (np.maximum(pitch, 1.0) / _SOURCE_PITCH) ** manner.span, 1.5 * _VOICED, 500.0)
    return np.asarray(np.where(pitch > _VOICED, moved, 0.0), np.float32)


def _tilt(bins: int, *, slope: float, bandwidth: float) -> Array:
    """Log gains, flat up to 500 Hz, then rising by `slope` dB an octave."""
    octaves = np.log2(np.maximum(np.linspace(0, bandwidth, bins), 500.0) / 500.0)
    return np.asarray((octaves * slope * np.log(10) / 20)[:, None], np.float32)


class _FrequencyWarp:
    """Move frequency f to `factor` x f, as with another vocal tract length."""

    def __init__(self, *, bins: int, factor: float) -> None:
        position = np.minimum(np.arange(bins) / factor, bins - 1)
        self._below: npt.NDArray[np.intp] = np.minimum(position.astype(np.intp), bins - 2)
        self._weight: Array = (position - self._below)[:, None].astype(np.float32)
        self._nearest: npt.NDArray[np.intp] = np.rint(position).astype(np.intp)

    def magnitude(self, log_magnitude: Array) -> Array:
        below, above = log_magnitude[self._below], log_magnitude[self._below + 1]
        return np.asarray(below + (above - below) * self._weight, np.float32)

    def nearest(self, values: Array) -> Array:
        """For phases, which wrap around and cannot be averaged."""
        return np.asarray(values[self._nearest], np.float32)

    def phase(self, phase: Array, *, turn: float) -> Array:
        """Also turn each bin as its new frequency needs (`turn` a bin and frame), or frames would cancel out."""
        moved = (np.arange(len(phase)) - self._nearest)[:, None]
        turned = np.mod(moved * np.arange(phase.shape[1]) * turn, 2 * np.pi)
        return np.asarray(phase[self._nearest] + turned, np.float32)
