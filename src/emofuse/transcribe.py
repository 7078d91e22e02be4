"""What is said in a recording, for the user who has no transcript."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from emofuse.errors import EncoderError, SettingsError

Recogniser = Literal["whisper", "sphinx", "none"]
RECOGNISERS: Sequence[Recogniser] = ("whisper", "sphinx", "none")
WHISPER = "base.en"


class Transcriber(Protocol):
    """What turns a clip into words."""

    name: str

    def transcribe(self, clip: NDArray[np.float32]) -> str:
        """The words of a 16 kHz mono clip `(samples,)`; empty where none are heard."""


class SphinxTranscriber:
    """PocketSphinx with its own US English model; it needs nothing beside its package, and often mishears.

    Example:
        >>> isinstance(SphinxTranscriber().transcribe(np.zeros(16000, np.float32)), str)
        True
    """

    name = "sphinx"

    def __init__(self) -> None:
        from pocketsphinx import Decoder

        self._decoder: Any = Decoder(loglevel="FATAL")

    def transcribe(self, clip: NDArray[np.float32]) -> str:
        """See `Transcriber.transcribe`."""
        sound = (np.clip(clip, -1, 1) * 32767).astype(np.int16)
        self._decoder.start_utt()
        self._decoder.process_raw(sound.tobytes(), full_utt=True)
        self._decoder.end_utt()
        found = self._decoder.hyp()
        return "" if found is None else str(found.hypstr)


class WhisperTranscriber:
    """Whisper by faster-whisper, in the language that it hears.

    Args:
        model: A name such as `base.en`, a Hub id, or a folder in CTranslate2's format.
        device: `cpu` or `cuda`.
        local: Look in the local cache only.

    Raises:
        EncoderError: faster-whisper is not installed, or the model cannot be had.
    """

    name = "whisper"

    def __init__(self, model: str = WHISPER, *, device: str = "cpu", local: bool = False) -> None:
        try:
            from faster_whisper import WhisperModel
        except ImportError as error:
            raise EncoderError(
                "faster-whisper is not installed", where="--asr whisper", remedy='run pip install "emofuse[asr]"'
            ) from error
        try:
            self._model: Any = WhisperModel(model, device=device, compute_type="int8", local_files_only=local)
        except Exception as error:
            raise EncoderError(
                "this speech recogniser cannot be loaded",
                where=model,
                remedy="give a name such as base.en while the Hub can be reached, or a folder with --asr-model",
            ) from error

    def transcribe(self, clip: NDArray[np.float32]) -> str:
        """See `Transcriber.transcribe`."""
        segments, _ = self._model.transcribe(clip, beam_size=1, condition_on_previous_text=False)
        return " ".join(segment.text.strip() for segment in segments).strip()


def load_transcriber(choice: str | None, *, model: str | None = None, device: str = "cpu") -> Transcriber | None:
    """Load a recogniser by name; None for no recogniser.

    Args:
        choice: `whisper`, `sphinx`, `none`; None takes whisper where it is installed with a model at hand, else none.
        model: For whisper: a name, Hub id or folder.
        device: For whisper: where to compute.

    Raises:
        SettingsError: No such recogniser.
        EncoderError: It cannot be had.
    """
    if choice is None:
        if importlib.util.find_spec("faster_whisper") is None:
            return None
        if model is not None:
            return WhisperTranscriber(model, device=device)
        try:
            return WhisperTranscriber(device=device, local=True)
        except EncoderError:
            return None
    if choice not in RECOGNISERS:
        raise SettingsError(
            f"{choice!r} is no recogniser", where="--asr", remedy=f"use one of {', '.join(RECOGNISERS)}"
        )
    if choice == "whisper":
        return WhisperTranscriber(model or WHISPER, device=device)
    return SphinxTranscriber() if choice == "sphinx" else None
