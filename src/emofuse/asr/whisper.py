"""Whisper as a recogniser of many languages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emofuse.asr.base import Recogniser
from emofuse.encoders.hub import check_id, check_reachable
from emofuse.errors import EncoderError

WHISPER = "base.en"


class WhisperRecogniser(Recogniser):
    """Whisper by faster-whisper, in the spoken language.

    Args:
        model: A name such as `base.en`, a Hub id, or a folder in CTranslate2's format.
        device: `cpu` or `cuda`.
        local: Look in the local cache only.

    Raises:
        EncoderError: faster-whisper is not installed, or the model cannot be loaded.
    """

    name = "whisper"

    def __init__(self, model: str = WHISPER, *, device: str = "cpu", local: bool = False) -> None:
        try:
            from faster_whisper import WhisperModel, available_models
        except ImportError as error:
            raise EncoderError(
                "faster-whisper is not installed", where="--asr whisper", remedy="run pip install faster-whisper"
            ) from error
        # Try the cache before the Hub.
        for ask in (False,) if local or Path(model).is_dir() else (False, True):
            if ask:
                if model not in available_models():
                    check_id(model)
                check_reachable(model)
            try:
                self._model: Any = WhisperModel(model, device=device, compute_type="int8", local_files_only=not ask)
                break
            except Exception as error:
                reason = error
        else:
            raise EncoderError(
                "this speech recogniser cannot be loaded",
                where=model,
                remedy="give a name such as base.en while the Hub can be reached, or a folder",
            ) from reason
        # The source names the model, since transcripts depend on it.
        self._source = f"whisper {Path(model).name}"
        self.languages = None if self._model.model.is_multilingual else ("en",)

    @property
    def source(self) -> str:
        """See `Recogniser.source`."""
        return self._source

    def transcribe(self, clip: NDArray[np.float32]) -> str:
        """See `Recogniser.transcribe`."""
        segments, _ = self._model.transcribe(clip, beam_size=1, condition_on_previous_text=False)
        return " ".join(segment.text.strip() for segment in segments).strip()
