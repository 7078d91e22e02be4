"""Whisper's encoder on the clip's own length, without padding to thirty seconds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from emofuse.encoders.arithmetic import inference, to_features
from emofuse.encoders.checkpoint import SAMPLING_RATE, Checkpoint, load_weights, quiet
from emofuse.encoders.compact import CompactWhisper, load_compact
from emofuse.encoders.layers import select_layers
from emofuse.encoders.logmel import mel_filters
from emofuse.encoders.masking import frame_mask
from emofuse.errors import EncoderError
from emofuse.settings import SpeechSettings
from emofuse.types import EncoderSpecification

FAMILIES = ("whisper",)
_DEFAULTS: dict[str, Any] = {
    "feature_extractor_type": "WhisperFeatureExtractor",
    "n_fft": 400,
    "hop_length": 160,
    "chunk_length": 30,
    "sampling_rate": SAMPLING_RATE,
}


class WhisperFeatures:
    """Whisper's encoder: 50 frames a second.

    A clip longer than the encoder's window (thirty seconds of Whisper) is encoded in windows of like length, and the
    frames are concatenated.
    Whisper centres frame i on sample 320 i: its first frame begins half a window before the clip.

    Args:
        model: A `WhisperEncoder` of `transformers`, with attention that takes boolean masks (`sdpa`), or a
            `CompactWhisper`.
        preprocessor: Content of its preprocessor_config.json.
        specification: Its specification.
        device: The model's device.
        precision: `float32` or `bfloat16`.
    """

    def __init__(
        self,
        model: Any,
        preprocessor: Mapping[str, Any],
        *,
        specification: EncoderSpecification,
        device: torch.device,
        precision: str = "float32",
    ) -> None:
        self.specification = specification
        self.model = model
        self._preprocessor = preprocessor
        self._size, self._hop = preprocessor["n_fft"], preprocessor["hop_length"]
        self._filters = _filters(preprocessor, where=specification.name)
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

    def shorten(self, layers: int, *, seconds: int) -> None:
        """Keep the first transformer layers only, all chosen, and the positions of windows of some seconds."""
        model = self.model
        del model.layers[layers:]
        count = min(seconds * SAMPLING_RATE // self.specification.stride, model.config.max_source_positions)
        positions = model.embed_positions.weight.detach()[:count].clone()
        model.embed_positions = nn.Embedding(len(positions), positions.shape[1], _weight=positions, _freeze=True)
        model.config.encoder_layers, model.config.max_source_positions = layers, count
        self._window = count * self.specification.stride
        self._preprocessor = {**self._preprocessor, "chunk_length": self._window // SAMPLING_RATE}
        self.specification = replace(self.specification, layers=layers + 1, selected=tuple(range(layers + 1)))

    def save(self, folder: Path) -> None:
        """Write the encoder as `save_pretrained` of transformers does."""
        if isinstance(self.model, CompactWhisper):
            self.model.save_pretrained(folder)
        else:
            with quiet():
                self.model.save_pretrained(folder)
        text = json.dumps(dict(self._preprocessor), indent=1)
        (folder / "preprocessor_config.json").write_text(text + "\n", encoding="utf-8")

    def log_mel(self, clip: NDArray[np.float32]) -> torch.Tensor:
        """Log-mel spectrogram of a clip of at most one window: that of the padded window, cropped to the clip.

        Returns:
            `(mels, 2 * frames)`.
        """
        # Whisper clips the spectrogram 8 decades below the maximum of the whole window. Padding is at the floor and
        # never the maximum, so it need not be computed.
        padded = min(self._window, (len(clip) + self._size) // self._hop * self._hop + 2 * self._hop)
        samples = F.pad(torch.from_numpy(np.ascontiguousarray(clip)), (0, padded - len(clip)))
        # Matrices are multiplied here too, which must not be done in bfloat16.
        with torch.autocast("cpu", enabled=False):
            window = torch.hann_window(self._size)
            spectrum = torch.stft(samples, self._size, self._hop, window=window, return_complex=True)[:, :-1]
            energies = (self._filters @ spectrum.abs().square()).clamp(min=1e-10).log10()
        return (torch.maximum(energies, energies.max() - 8.0)[:, : 2 * self.frames(len(clip))] + 4.0) / 4.0

    def _windows(self, clip: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Windows of like length, each of whole frames but the last."""
        frames, most = self.frames(len(clip)), self._window // self.specification.stride
        size = math.ceil(frames / math.ceil(frames / most)) * self.specification.stride
        *starts, last = range(0, frames * self.specification.stride, size)
        return [*(clip[start : start + size] for start in starts), clip[last:]]

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
    config = checkpoint.config
    layers = config.encoder_layers + 1
    selected = select_layers(settings.layers, layers=layers, encoder=checkpoint.name)
    preprocessor = _DEFAULTS | {"feature_size": config.num_mel_bins} | checkpoint.preprocessor
    stride = 2 * preprocessor["hop_length"]
    window = preprocessor["chunk_length"] * SAMPLING_RATE
    if preprocessor["feature_size"] != config.num_mel_bins or window != config.max_source_positions * stride:
        raise EncoderError(
            "preprocessor_config.json and config.json do not describe the same spectrogram",
            where=checkpoint.name,
            remedy="take both files from the same checkpoint",
        )
    model = _load_model(checkpoint, device=device)
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
        receptive_field=preprocessor["n_fft"],
        offset=-preprocessor["n_fft"] // 2,
        licence=checkpoint.card.licence,
        exposure=checkpoint.card.exposure,
    )
    return WhisperFeatures(
        model, preprocessor, specification=specification, device=device, precision=settings.precision
    )


def _load_model(checkpoint: Checkpoint, *, device: torch.device) -> Any:
    if checkpoint.light:
        try:
            return load_compact(Path(checkpoint.place), checkpoint.config).to(device)
        except ValueError as error:
            raise EncoderError(
                f"the weights cannot be loaded ({error})",
                where=checkpoint.name,
                remedy="fetch or write the files again",
            ) from error
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    return load_weights(
        checkpoint,
        WhisperEncoder,
        device=device,
        attn_implementation="sdpa",
        key_mapping={r"^(model\.)?encoder\.": ""},
    )


def _filters(preprocessor: Mapping[str, Any], *, where: str) -> torch.Tensor:
    """Filters on the mel scale, `(mels, frequencies)`.

    Raises:
        EncoderError: One is so narrow that no frequency falls into it.
    """
    filters = mel_filters(preprocessor["feature_size"], size=preprocessor["n_fft"])
    if not filters.any(axis=0).all():
        raise EncoderError(
            "preprocessor_config.json describes a spectrogram with empty bands",
            where=where,
            remedy="take it from the checkpoint of the weights",
        )
    return torch.from_numpy(filters.T.astype(np.float32))
