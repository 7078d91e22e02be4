"""Whisper's encoder on the clip's own length, without padding to thirty seconds."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from emofuse.encoders.arithmetic import inference, to_features
from emofuse.encoders.checkpoint import SAMPLING_RATE, Checkpoint, load_weights, quiet
from emofuse.encoders.layers import select_layers
from emofuse.encoders.masking import frame_mask
from emofuse.errors import EncoderError
from emofuse.settings import SpeechSettings
from emofuse.types import EncoderSpecification

FAMILIES = ("whisper",)


class WhisperFeatures:
    """Whisper's encoder: 50 frames a second.

    A clip longer than Whisper's window of thirty seconds is encoded window by window, and the frames are concatenated.
    Whisper centres frame i on sample 320 i: its first frame begins half a window before the clip.

    Args:
        model: A `WhisperEncoder` of `transformers`, with attention that takes boolean masks (`sdpa`).
        extractor: Its `WhisperFeatureExtractor`.
        specification: Its specification.
        device: The model's device.
        precision: `float32` or `bfloat16`.
    """

    def __init__(
        self,
        model: Any,
        extractor: Any,
        *,
        specification: EncoderSpecification,
        device: torch.device,
        precision: str = "float32",
    ) -> None:
        self.specification = specification
        self.model = model
        self._extractor = extractor
        self._device = device
        self._precision = precision
        self._window = model.config.max_source_positions * specification.stride

    def frames(self, samples: int) -> int:
        """Number of frames of a clip; at least one."""
        return max(1, samples // self.specification.stride)

    def encode(self, clips: Sequence[NDArray[np.float32]]) -> list[torch.Tensor]:
        """Encode clips together.

        Args:
            clips: Mono audio at 16 kHz, each `(samples,)`.

        Returns:
            One float32 tensor `(layers, frames, width)` per clip, on the CPU.
        """
        with inference(self._device, precision=self._precision):
            return [states.cpu() for states in self.states(clips)]

    def states(self, clips: Sequence[NDArray[np.float32]]) -> list[torch.Tensor]:
        """As `encode`, but on the encoder's device and with gradients for trainable weights."""
        if not clips:
            return []
        windows = [self._windows(clip) for clip in clips]
        mels = [self.log_mel(window) for parts in windows for window in parts]
        encoded = iter(self._encode_mels(mels))
        return [torch.cat([next(encoded) for _ in parts], dim=1) for parts in windows]

    @property
    def layers(self) -> list[nn.Module]:
        """Transformer layers, from input to output."""
        return list(self.model.layers)

    def thaw(self) -> None:
        """Unfreeze all weights but those of the convolutions and the sinusoidal positions."""
        self.model.requires_grad_(True)
        for fixed in (self.model.conv1, self.model.conv2, self.model.embed_positions):
            fixed.requires_grad_(False)

    def save(self, folder: Path) -> None:
        """Write the encoder as `save_pretrained` of transformers does."""
        with quiet():
            self.model.save_pretrained(folder)
        self._extractor.save_pretrained(folder)

    def log_mel(self, clip: NDArray[np.float32]) -> torch.Tensor:
        """Log-mel spectrogram of a clip of at most one window: that of the padded window, cropped to the clip.

        Returns:
            `(mels, 2 * frames)`.
        """
        hop, size = self._extractor.hop_length, self._extractor.n_fft
        # Whisper clips the spectrogram 8 decades below the maximum of the whole window. Padding is at the floor and
        # never the maximum, so it need not be computed.
        padded = min(self._window, (len(clip) + size) // hop * hop + 2 * hop)
        padded_clip = np.pad(clip, (0, padded - len(clip)))
        # The extractor multiplies matrices too, and must not do so in bfloat16.
        with torch.autocast("cpu", enabled=False):
            mel = self._extractor(padded_clip, sampling_rate=SAMPLING_RATE, padding="do_not_pad", return_tensors="np")
        features = torch.from_numpy(np.asarray(mel["input_features"][0], dtype=np.float32))
        return features[:, : 2 * self.frames(len(clip))]

    def _windows(self, clip: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        starts = range(0, max(len(clip), 1), self._window)
        windows = [clip[start : start + self._window] for start in starts]
        # `frames` counts a remainder that is shorter than a frame as one.
        return [window for i, window in enumerate(windows) if i == 0 or len(window) >= self.specification.stride]

    def _encode_mels(self, mels: list[torch.Tensor]) -> list[torch.Tensor]:
        model, selected = self.model, self.specification.selected
        lengths = [mel.shape[1] // 2 for mel in mels]
        total = max(lengths)
        batch = torch.stack([F.pad(mel, (0, 2 * total - mel.shape[1])) for mel in mels]).to(self._device)
        # Zeros after a clip's mel are what the first convolution pads with itself, and the second, with its stride of
        # two, ends on the last valid frame: neither lets padding in, unlike attention.
        hidden = F.gelu(model.conv2(F.gelu(model.conv1(batch)))).transpose(1, 2)
        hidden = hidden + model.embed_positions.weight[:total]
        mask = frame_mask(lengths, total=total, device=self._device)[:, None, None, :]
        states = [hidden]
        for layer in model.layers[: max(selected)]:
            output = layer(hidden, mask)
            hidden = output[0] if isinstance(output, tuple) else output
            states.append(hidden)
        if len(states) == self.specification.layers:
            states[-1] = model.layer_norm(hidden)
        return to_features([states[layer] for layer in selected], lengths)


def load_whisper_encoder(checkpoint: Checkpoint, settings: SpeechSettings, *, device: torch.device) -> WhisperFeatures:
    """Load the encoder alone, or that of a whole Whisper checkpoint.

    Raises:
        EncoderError: The weights, the preprocessor or the choice of layers cannot be used.
    """
    from transformers import WhisperFeatureExtractor
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = checkpoint.config
    layers = config.encoder_layers + 1
    selected = select_layers(settings.layers, layers=layers, encoder=checkpoint.name)
    extractor_class: Any = WhisperFeatureExtractor
    # Dither is random: the same clip would have different features each time.
    described = {"feature_size": config.num_mel_bins, **checkpoint.preprocessor, "dither": 0.0}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            extractor = extractor_class(**described)
    except UserWarning as error:
        raise EncoderError(
            "preprocessor_config.json describes a spectrogram with empty bands",
            where=checkpoint.name,
            remedy="take it from the checkpoint of the weights",
        ) from error
    stride = 2 * extractor.hop_length
    if extractor.feature_size != config.num_mel_bins or extractor.n_samples != config.max_source_positions * stride:
        raise EncoderError(
            "preprocessor_config.json and config.json do not describe the same spectrogram",
            where=checkpoint.name,
            remedy="take both files from the same checkpoint",
        )
    model = load_weights(
        checkpoint,
        WhisperEncoder,
        device=device,
        attn_implementation="sdpa",
        key_mapping={r"^(model\.)?encoder\.": ""},
    )
    specification = EncoderSpecification(
        name=checkpoint.name,
        family=checkpoint.family,
        modality="speech",
        revision=checkpoint.revision,
        layers=layers,
        selected=selected,
        width=config.d_model,
        sampling_rate=SAMPLING_RATE,
        stride=stride,
        receptive_field=extractor.n_fft,
        offset=-extractor.n_fft // 2,
        licence=checkpoint.card.licence,
        exposure=checkpoint.card.exposure,
    )
    return WhisperFeatures(model, extractor, specification=specification, device=device, precision=settings.precision)
