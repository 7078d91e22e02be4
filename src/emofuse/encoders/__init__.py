"""Speech and text encoders: from the Hugging Face Hub, a local folder, or built in.

Features of a clip or text do not depend on its batch, up to rounding.

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
from typing import Any, Protocol, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from emofuse.encoders import logmel, text, waveform, whisper, words
from emofuse.encoders.checkpoint import BUILTIN, open_checkpoint
from emofuse.encoders.words import Subwords
from emofuse.errors import EncoderError
from emofuse.seeds import kept_random_state
from emofuse.settings import SpeechSettings, TextSettings
from emofuse.types import EncoderSpecification

_TRIED = 1600  # Samples.

Encoder = TypeVar("Encoder", bound="SpeechEncoder | TextEncoder")

__all__ = [
    "SpeechEncoder",
    "Subwords",
    "TextEncoder",
    "TrainableEncoder",
    "TrainableSpeechEncoder",
    "is_trained_with_model",
    "load_speech_encoder",
    "load_text_encoder",
    "load_trainable_encoder",
]


class SpeechEncoder(Protocol):
    """A speech encoder: clips to frames."""

    specification: EncoderSpecification

    def frames(self, samples: int) -> int:
        """Number of frames of a clip; at least one."""

    def encode(self, clips: Sequence[NDArray[np.float32]]) -> list[torch.Tensor]:
        """Encode 16 kHz mono clips together.

        Args:
            clips: Each `(samples,)`; one that is shorter than a frame is padded with silence.

        Returns:
            One float32 CPU tensor `(selected layers, frames, width)` per clip.
        """


class TextEncoder(Protocol):
    """A text encoder: texts to tokens. It reads at most `max_tokens` of each, special tokens included."""

    specification: EncoderSpecification
    max_tokens: int

    def encode(self, texts: Sequence[str], *, earlier: Sequence[Sequence[str]] = ()) -> list[torch.Tensor]:
        """Encode texts together; an empty text is allowed.

        Args:
            texts: The transcripts.
            earlier: The preceding texts of each text, the oldest first; empty for no context. They are context only:
                none of their tokens is returned.

        Returns:
            One float32 CPU tensor `(selected layers, tokens, width)` per text, special tokens included.
        """

    def word_of_tokens(self, texts: Sequence[str]) -> list[list[int | None]]:
        """Index of each token's whitespace-separated word; None for special tokens."""

    def beyond(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each text that exceed `max_tokens` and are left out."""


class TrainableEncoder(Protocol):
    """A speech or text encoder with weights, for fine-tuning.

    Attributes:
        specification: Its specification.
        model: The module of `transformers`, on its device.
    """

    specification: EncoderSpecification
    model: Any

    @property
    def layers(self) -> list[nn.Module]:
        """Transformer layers, from input to output."""

    def states(self, items: Sequence[Any], /) -> list[torch.Tensor]:
        """As `encode`, but on the encoder's device and with gradients for trainable weights."""

    def thaw(self) -> None:
        """Unfreeze all weights but those of the convolutional frontend."""

    def save(self, folder: Path) -> None:
        """Write the encoder to a folder that settings can name."""


class TrainableSpeechEncoder(TrainableEncoder, Protocol):
    """A speech encoder with weights, as the beginning of a smaller one."""

    def shorten(self, layers: int, *, seconds: int) -> None:
        """Keep the first transformer layers only, all chosen, and read windows of at most some seconds."""


@overload
def load_trainable_encoder(settings: SpeechSettings, *, device: str = "cpu") -> TrainableSpeechEncoder: ...


@overload
def load_trainable_encoder(settings: SpeechSettings | TextSettings, *, device: str = "cpu") -> TrainableEncoder: ...


@kept_random_state()
def load_trainable_encoder(settings: SpeechSettings | TextSettings, *, device: str = "cpu") -> TrainableEncoder:
    """Load an encoder for training.

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
        loaded = load_speech_encoder(settings, device=device)
    encoder: TrainableEncoder = loaded
    return encoder


@kept_random_state()
def load_speech_encoder(settings: SpeechSettings, *, device: str = "cpu", download: bool = True) -> SpeechEncoder:
    """Load the speech encoder that the settings name: `logmel`, a Hub id, or a local folder.

    Args:
        settings: Encoder, revision, layers and precision.
        device: Torch device.
        download: Whether to download from the Hub what is not cached.

    Raises:
        EncoderError: Not found, not reachable, of an unsupported family, damaged, made for another sampling rate,
            or without the chosen layers.
    """
    if settings.encoder == logmel.NAME:
        return logmel.LogMelEncoder(settings)
    checkpoint = open_checkpoint(
        settings.encoder,
        revision=settings.revision,
        families=(*waveform.FAMILIES, *whisper.FAMILIES),
        preprocessed=True,
        download=download,
    )
    load: Callable[..., SpeechEncoder] = waveform.load_waveform_encoder
    if checkpoint.family in whisper.FAMILIES:
        load = whisper.load_whisper_encoder
    loading = partial(load, checkpoint, settings, device=torch.device(device))
    return _tried(loading, np.zeros(_TRIED, np.float32), name=checkpoint.name)


@kept_random_state()
def load_text_encoder(settings: TextSettings, *, device: str = "cpu", download: bool = True) -> TextEncoder:
    """Load the text encoder that the settings name: a Hub id or a local folder.

    Args:
        settings: Encoder, revision, layers and longest text.
        device: Torch device.
        download: Whether to download from the Hub what is not cached.

    Raises:
        EncoderError: Not found, not reachable, of an unsupported family, damaged, without the chosen layers; or
            `words`, which is trained with the model.

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
    """Load an encoder and run it once: some wrong settings show only then."""
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
