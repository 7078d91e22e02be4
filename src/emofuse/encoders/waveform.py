"""Speech encoders on waveforms: wav2vec 2.0, HuBERT, WavLM and data2vec-audio."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from emofuse.encoders.arithmetic import inference, to_features
from emofuse.encoders.checkpoint import SAMPLING_RATE, Checkpoint, load_weights, quiet
from emofuse.encoders.layers import select_layers
from emofuse.encoders.masking import MaskedGroupNorm, ValidLengths, frame_mask, mask_convolution_inputs
from emofuse.errors import EncoderError
from emofuse.settings import SpeechSettings
from emofuse.types import EncoderSpecification

FAMILIES = ("wav2vec2", "hubert", "wavlm", "data2vec-audio")


class WaveformEncoder:
    """A self-supervised speech encoder whose features do not depend on the batch.

    Args:
        model: A model of `transformers` from one of `FAMILIES`; its padding-sensitive layers are replaced in place.
        specification: Its specification.
        normalise: Whether each clip is scaled to zero mean and unit variance first.
        device: The model's device.
        precision: `float32` or `bfloat16`.
    """

    def __init__(
        self,
        model: Any,
        *,
        specification: EncoderSpecification,
        normalise: bool,
        device: torch.device,
        precision: str = "float32",
    ) -> None:
        self.specification = specification
        self.model = model
        self._normalise = normalise
        self._device = device
        self._precision = precision
        self._masks_time = bool(getattr(model.config, "apply_spec_augment", True))
        self._convolutions = tuple(zip(model.config.conv_kernel, model.config.conv_stride, strict=True))
        self._after_first = ValidLengths()
        self._after_all = ValidLengths()
        first = model.feature_extractor.conv_layers[0]
        if isinstance(getattr(first, "layer_norm", None), nn.GroupNorm):
            first.layer_norm = MaskedGroupNorm(first.layer_norm, self._after_first)
        mask_convolution_inputs(model.encoder.pos_conv_embed, self._after_all)
        # An adapter shortens the last hidden state only; frames must have the same times in every layer.
        model.adapter = None

    def frames(self, samples: int) -> int:
        """Number of frames of a clip; at least one."""
        return self._lengths(samples)[-1]

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
        lengths = [max(len(clip), self.specification.receptive_field) for clip in clips]
        samples = torch.zeros(len(clips), max(lengths))
        for row, clip in zip(samples, clips, strict=True):
            row[: len(clip)] = torch.from_numpy(normalise(clip) if self._normalise else clip)
        frames = [self._lengths(length) for length in lengths]
        self._after_first.set([counts[0] for counts in frames])
        self._after_all.set([counts[-1] for counts in frames])
        if self.model.training:
            # SpecAugment in transformers fails on a batch that is shorter than one of its masks.
            longest = max(self._after_all.frames)
            self.model.config.apply_spec_augment = self._masks_time and longest >= self.model.config.mask_time_length
        output = self.model(
            samples.to(self._device),
            attention_mask=frame_mask(lengths, total=samples.shape[1], device=self._device).long(),
            output_hidden_states=True,
        )
        # The last entry includes the final layer norm in some versions of transformers only; here it always does.
        states = [*output.hidden_states[:-1], output.last_hidden_state]
        return to_features([states[layer] for layer in self.specification.selected], list(self._after_all.frames))

    @property
    def layers(self) -> list[nn.Module]:
        """Transformer layers, from input to output."""
        return list(self.model.encoder.layers)

    def thaw(self) -> None:
        """Unfreeze all weights but those of the convolutional frontend."""
        self.model.requires_grad_(True)
        self.model.feature_extractor._freeze_parameters()
        # LayerDrop leaves out the hidden state of a skipped layer, which would shift the indices of the others.
        self.model.config.layerdrop = 0.0

    def shorten(self, layers: int, *, seconds: int) -> None:
        """Keep the first transformer layers only, all chosen; a clip of any length is one window."""
        del self.model.encoder.layers[layers:]
        self.model.config.num_hidden_layers = layers
        self.specification = replace(self.specification, layers=layers + 1, selected=tuple(range(layers + 1)))

    def save(self, folder: Path) -> None:
        """Write the encoder as `save_pretrained` does, with the original names of its weights."""
        config, first = self.model.config, self.model.feature_extractor.conv_layers[0]
        config.apply_spec_augment = self._masks_time
        if getattr(config, "add_adapter", False):
            config.add_adapter = False
        masked = getattr(first, "layer_norm", None)
        if isinstance(masked, MaskedGroupNorm):
            first.layer_norm = masked.norm
        try:
            with quiet():
                self.model.save_pretrained(folder)
        finally:
            if isinstance(masked, MaskedGroupNorm):
                first.layer_norm = masked
        write_preprocessor(folder, normalise=self._normalise)

    def _lengths(self, samples: int) -> list[int]:
        counts = []
        length = max(samples, self.specification.receptive_field)
        for kernel, stride in self._convolutions:
            length = (length - kernel) // stride + 1
            counts.append(length)
        return counts


def normalise(clip: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale a clip to zero mean and unit variance, as these families' feature extractors do.

    Example:
        >>> normalise(np.array([1.0, 3.0], np.float32)).round(3).tolist()
        [-1.0, 1.0]
    """
    if not clip.size:
        return clip
    scaled: NDArray[np.float32] = (clip - clip.mean()) / np.sqrt(clip.var() + 1e-7)
    return scaled


def write_preprocessor(folder: Path, *, normalise: bool = True) -> None:
    """Write the `preprocessor_config.json` of these families."""
    values = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "do_normalize": normalise,
        "feature_size": 1,
        "padding_value": 0.0,
        "return_attention_mask": True,
        "sampling_rate": SAMPLING_RATE,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def frame_geometry(config: Any) -> tuple[int, int]:
    """Receptive field and stride of a frame, in samples, from the convolutions of a configuration."""
    receptive_field, stride = 1, 1
    for kernel, step in zip(config.conv_kernel, config.conv_stride, strict=True):
        receptive_field += (kernel - 1) * stride
        stride *= step
    return receptive_field, stride


def load_waveform_encoder(checkpoint: Checkpoint, settings: SpeechSettings, *, device: torch.device) -> WaveformEncoder:
    """Load an encoder of one of `FAMILIES`.

    Raises:
        EncoderError: The weights or the choice of layers cannot be used.
    """
    from transformers import AutoModel

    if checkpoint.family == "wavlm":
        # WavLM's attention uses a boolean and a float mask; torch applies both, but warns.
        warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask", category=UserWarning)
    config = checkpoint.config
    layers = config.num_hidden_layers + 1
    selected = select_layers(settings.layers, layers=layers, encoder=checkpoint.name)
    receptive_field, stride = frame_geometry(config)
    if checkpoint.preprocessor.get("feature_size", 1) != 1:
        raise EncoderError(
            "the preprocessor does not hand over plain mono audio",
            where=checkpoint.name,
            remedy="use a checkpoint whose preprocessor_config.json has feature_size 1",
        )
    specification = EncoderSpecification(
        name=checkpoint.name,
        family=checkpoint.family,
        modality="speech",
        revision=checkpoint.revision,
        layers=layers,
        selected=selected,
        width=config.hidden_size,
        sampling_rate=SAMPLING_RATE,
        stride=stride,
        receptive_field=receptive_field,
        licence=checkpoint.card.licence,
        exposure=checkpoint.card.exposure,
    )
    return WaveformEncoder(
        load_weights(checkpoint, AutoModel, device=device, trust_remote_code=False),
        specification=specification,
        normalise=bool(checkpoint.preprocessor.get("do_normalize", True)),
        device=device,
        precision=settings.precision,
    )
