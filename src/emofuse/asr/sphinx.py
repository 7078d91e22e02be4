"""PocketSphinx as a recogniser of English."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from emofuse.asr.base import Recogniser


class SphinxRecogniser(Recogniser):
    """PocketSphinx with its own US English model; it needs no download, and makes many errors.

    Example:
        >>> isinstance(SphinxRecogniser().transcribe(np.zeros(16000, np.float32)), str)
        True
    """

    name = "sphinx"
    languages = ("en",)
    parallel = True

    def __init__(self) -> None:
        from pocketsphinx import Decoder

        self._decoder: Any = Decoder(loglevel="FATAL")

    def transcribe(self, clip: NDArray[np.float32]) -> str:
        """See `Recogniser.transcribe`."""
        samples = (np.clip(clip, -1, 1) * 32767).astype(np.int16)
        # Reset the frontend, whose mean includes a frame of the last utterance.
        self._decoder.reinit_feat()
        self._decoder.start_utt()
        self._decoder.process_raw(samples.tobytes(), full_utt=True)
        self._decoder.end_utt()
        found = self._decoder.hyp()
        return "" if found is None else str(found.hypstr)
