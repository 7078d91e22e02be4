"""Speech and text encoders: from the Hugging Face Hub, a local folder, or built in.

Whatever the family, the features of a clip or text are the same alone and in any batch, up to rounding.

Example:
    >>> import numpy as np
    >>> encoder = load_speech_encoder(SpeechSettings(encoder="logmel"))
    >>> encoder.specification.frame_rate, encoder.frames(16000)
    (50.0, 49)
    >>> encoder.encode([np.zeros(16000, np.float32)])[0].shape
    torch.Size([1, 49, 240])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from emofuse.encoders import logmel, text, waveform, whisper, words
from emofuse.encoders.checkpoint import BUILTIN, open_checkpoint
from emofuse.encoders.words import Subwords
from emofuse.errors import EncoderError
from emofuse.settings import SpeechSettings, TextSettings
from emofuse.types import EncoderSpecification

_TRIED = 1600  # Samples.

Encoder = TypeVar("Encoder", bound="SpeechEncoder | TextEncoder")

__all__ = [
    "SpeechEncoder",
    "Subwords",
    "TextEncoder",
    "TrainableEncoder",
    "is_trained_with_model",
    "load_speech_encoder",
    "load_text_encoder",
    "load_trainable_encoder",
]


class SpeechEncoder(Protocol):
    """What turns clips into frames."""

    specification: EncoderSpecification

    def frames(self, samples: int) -> int:
        """Frames of a clip of that many samples; one at least."""

    def encode(self, clips: Sequence[NDArray[np.float32]]) -> list[torch.Tensor]:
        """Encode 16 kHz mono clips together.

        Args:
            clips: Each `(samples,)`; one that is too short for a frame is padded with silence to one.

        Returns:
            One float32 CPU tensor `(selected layers, frames, width)` a clip.
        """


class TextEncoder(Protocol):
    """What turns texts into tokens; it reads `max_tokens` of each, special ones counted."""

    specification: EncoderSpecification
    max_tokens: int

    def encode(self, texts: Sequence[str], *, earlier: Sequence[Sequence[str]] = ()) -> list[torch.Tensor]:
        """Encode texts together; an empty text is allowed.

        Args:
            texts: What is said.
            earlier: For each text what was said before it, the oldest first; empty for no context at all. It is read
                before the text, and has no tokens of its own in what is returned.

        Returns:
            One float32 CPU tensor `(selected layers, tokens, width)` a text, special tokens kept.
        """

    def word_of_tokens(self, texts: Sequence[str]) -> list[list[int | None]]:
        """Which word of its text each token is of, counted as the spaces part them; None for special tokens."""

    def beyond(self, texts: Sequence[str]) -> list[int]:
        """How many tokens of each text are beyond `max_tokens`, and left out."""


class TrainableEncoder(Protocol):
    """An encoder with weights of its own, of either modality, as fine-tuning needs it.

    Attributes:
        specification: What the encoder publishes.
        model: The module of `transformers`, on its device.
    """

    specification: EncoderSpecification
    model: Any

    @property
    def layers(self) -> list[nn.Module]:
        """Transformer layers, the one next to the input first."""

    def states(self, items: Sequence[Any], /) -> list[torch.Tensor]:
        """What `encode` gives, on the encoder's device and with gradients where its weights are trained."""

    def thaw(self) -> None:
        """Let all weights be trained but those of convolutions that read audio."""

    def save(self, folder: Path) -> None:
        """Write the encoder so that the settings can name the folder."""


def load_trainable_encoder(settings: SpeechSettings | TextSettings, *, device: str = "cpu") -> TrainableEncoder:
    """Load an encoder that fine-tuning can train; a built-in one as its like in `transformers`.

    Raises:
        EncoderError: As `load_speech_encoder` and `load_text_encoder`, or it has no weights to train.

    Example:
        >>> load_trainable_encoder(SpeechSettings(encoder="logmel"))
        Traceback (most recent call last):
        emofuse.errors.EncoderError: logmel: it has no weights that could be tuned; name another encoder.
    """
    if settings.encoder in (logmel.NAME, words.NAME):
        raise EncoderError(
            "it has no weights that could be tuned", where=settings.encoder, remedy="name another encoder"
        )
    loaded: Any
    if isinstance(settings, TextSettings):
        loaded = load_text_encoder(settings, device=device)
    else:
        loaded = _load_speech_encoder(settings, device=device, light=False)
    encoder: TrainableEncoder = loaded
    return encoder


def load_speech_encoder(settings: SpeechSettings, *, device: str = "cpu", download: bool = True) -> SpeechEncoder:
    """Load the speech encoder that the settings name: `logmel`, a Hub id, or a local folder.

    Args:
        settings: Encoder, revision, layers and precision.
        device: Where it shall compute, as torch names it.
        download: Whether what is not in its cache may be downloaded from the Hub.

    Raises:
        EncoderError: Not found, not reachable, of an unsupported family, damaged, made for another sampling rate,
            or without the chosen layers.
    """
    return _load_speech_encoder(settings, device=device, light=True, download=download)


def _load_speech_encoder(settings: SpeechSettings, *, device: str, light: bool, download: bool = True) -> SpeechEncoder:
    if settings.encoder == logmel.NAME:
        return logmel.LogMelEncoder(settings)
    checkpoint = open_checkpoint(
        settings.encoder,
        revision=settings.revision,
        families=(*waveform.FAMILIES, *whisper.FAMILIES),
        preprocessed=True,
        light=light,
        download=download,
    )
    load: Callable[..., SpeechEncoder] = waveform.load_waveform_encoder
    if checkpoint.family in whisper.FAMILIES:
        load = whisper.load_whisper_encoder
    loading = partial(load, checkpoint, settings, device=torch.device(device))
    return _tried(loading, np.zeros(_TRIED, np.float32), name=checkpoint.name)


def load_text_encoder(settings: TextSettings, *, device: str = "cpu", download: bool = True) -> TextEncoder:
    """Load the text encoder that the settings name: a Hub id or a local folder.

    Args:
        settings: Encoder, revision, layers and longest text.
        device: Where it shall compute, as torch names it.
        download: Whether what is not in its cache may be downloaded from the Hub.

    Raises:
        EncoderError: Not found, not reachable, of an unsupported family, damaged, without the chosen layers; or
            `words`, which is no encoder by itself.

    Example:
        >>> load_text_encoder(TextSettings(encoder="words"))
        Traceback (most recent call last):
        emofuse.errors.EncoderError: words: the model itself trains this one; fit Subwords on the training texts.
    """
    if is_trained_with_model(settings.encoder):
        raise EncoderError(
            "the model itself trains this one", where=settings.encoder, remedy="fit Subwords on the training texts"
        )
    checkpoint = open_checkpoint(
        settings.encoder, revision=settings.revision, families=text.FAMILIES, download=download
    )
    loading = partial(text.load_transformer_text_encoder, checkpoint, settings, device=torch.device(device))
    return _tried(loading, "a", name=checkpoint.name)


def _tried(load: Callable[[], Encoder], item: Any, *, name: str) -> Encoder:
    """Load an encoder and see that it can be computed: its folder may hold settings that no weights contradict."""
    try:
        encoder = load()
        if not name.startswith(BUILTIN):
            encoder.encode([item])
    except EncoderError:
        raise
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise EncoderError(
            f"it cannot be computed ({reason})", where=name, remedy="copy the whole folder again from its source"
        ) from error
    return encoder


def is_trained_with_model(encoder: str) -> bool:
    """Whether an encoder has no weights of its own and is trained with the model.

    Example:
        >>> is_trained_with_model("words"), is_trained_with_model("bert-base-uncased")
        (True, False)
    """
    return encoder == words.NAME
