"""The interface of recognisers, the built-in ones, and the user's own."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from emofuse.errors import EncoderError
from emofuse.outside import code_hash, is_outside, load_class, options_of, with_model, without_model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RECOGNISERS: Mapping[str, str] = {
    "whisper": "emofuse.asr.whisper:WhisperRecogniser",
    "sphinx": "emofuse.asr.sphinx:SphinxRecogniser",
}
"""Recognisers by short name."""

NO_RECOGNISER = "none"


class Recogniser(ABC):
    """A speech recogniser.

    A subclass takes no arguments, or those of `model`, `device` and `local` that its `__init__` names.

    Attributes:
        name: Name in messages.
        languages: ISO 639-1 codes of its transcripts; None for any.
        parallel: Whether several processes, each with its own recogniser, are faster than one.
        path: Path of a class outside the package; empty for built-in ones.

    Example:
        >>> class Same(Recogniser):
        ...     name = "same"
        ...     def transcribe(self, clip):
        ...         return "oh no"
        >>> Same().source, Same().languages
        ('same', None)
    """

    name: ClassVar[str]
    languages: tuple[str, ...] | None = None
    parallel: ClassVar[bool] = False
    path: str = ""

    @property
    def source(self) -> str:
        """Its name in the manifest's column `text_source`."""
        return self.name

    @property
    def key(self) -> str:
        """A key that changes with its transcripts."""
        return f"{self.path} {code_hash(type(self))}" if self.path else self.source

    @abstractmethod
    def transcribe(self, clip: NDArray[np.float32]) -> str:
        """The transcript of a 16 kHz mono clip `(samples,)`; empty if there are no words."""


def load_recogniser(choice: str | None, *, model: str | None = None, device: str = "cpu") -> Recogniser | None:
    """Load a recogniser by its name or path; None for no recogniser.

    Args:
        choice: `whisper`, `sphinx`, the path to a class of the user's own, or `none`; None takes whisper where it is
            installed with a model in the cache, else none.
        model: Name, Hub id or folder, for recognisers with a choice of models, such as whisper.
        device: Torch device.

    Raises:
        SettingsError: There is no such recogniser, or it has no model to choose.
        EncoderError: It cannot be loaded.

    Example:
        >>> load_recogniser("sphinx").name, load_recogniser("none")
        ('sphinx', None)
    """
    if choice == NO_RECOGNISER or (choice is None and importlib.util.find_spec("faster_whisper") is None):
        return None
    found: type[Recogniser] = load_class(choice or "whisper", RECOGNISERS, kind="recogniser", base=Recogniser)
    # Download nothing unless the user asks for it.
    offered = {"device": device, "local": choice is None and model is None}
    try:
        recogniser = found(**options_of(found, kind="recogniser", asked={"model": model}, offered=offered))
    except EncoderError:
        if offered["local"]:
            return None
        raise
    if choice is not None and is_outside(choice):
        recogniser.path = with_model(choice, model)
    return recogniser


def load_again(path: str) -> Recogniser | None:
    """Load a recogniser in another process, by its `path` or, if built in, its name."""
    choice, model = without_model(path)
    return load_recogniser(choice, model=model)
