"""Inputs of a model's networks in prediction: a clip and words, as training made them."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from emofuse.align.again import aligner_again
from emofuse.align.base import Aligner, align_clip
from emofuse.align.fit import check_words
from emofuse.audio.process import start_decoder
from emofuse.checkpoint import Checkpoint
from emofuse.encoders import SpeechEncoder, Subwords, TextEncoder, load_speech_encoder, load_text_encoder
from emofuse.errors import AlignmentError, CheckpointError, EmofuseError, SettingsError
from emofuse.features.dataset import pad, pad_bounds
from emofuse.features.extract import features_of, to_steps, to_words
from emofuse.features.segments import step_bounds
from emofuse.plan import ModelPlan, pools_frames
from emofuse.types import Alignment

Read = dict[str, dict[str, torch.Tensor]]
"""Inputs of each network from a modality, by the names of `Batch`."""


class NetworkInputs:
    """Encodes clips and words for every network of a model.

    Args:
        checkpoint: The model.
        speech_encoder: Folder of the speech encoder, where it is not where the model names it.
        device: Torch device.
        trust: Also load an aligner from outside the package, which runs its code.
        download: Whether an encoder of the Hub may be fetched.

    Attributes:
        notes: Remarks on the encoders.

    Raises:
        CheckpointError: An encoder is not the one that the model was trained on.
        EncoderError: An encoder cannot be loaded.
        SettingsError: A speech encoder is named, and the model reads no speech.
    """

    def __init__(
        self, checkpoint: Checkpoint, *, speech_encoder: str | None, device: str, trust: bool, download: bool
    ) -> None:
        self.checkpoint, self.device, self._trust = checkpoint, device, trust
        self.notes: tuple[str, ...] = ()
        self._aligner: Aligner | EmofuseError | None = None
        self.speech_encoder: SpeechEncoder | None = None
        if "speech" in checkpoint.modalities:
            start_decoder()
            named = {} if speech_encoder is None else {"encoder": str(speech_encoder), "revision": None}
            settings = checkpoint.speech.model_copy(update=named)
            self.speech_encoder = load_speech_encoder(settings, device=device, download=download)
            self._check("speech", self.speech_encoder, named=bool(named))
        elif speech_encoder is not None:
            raise SettingsError(
                f"the {checkpoint.name} model reads no speech", where="speech_encoder", remedy="leave it out"
            )

    @cached_property
    def _text_encoder(self) -> TextEncoder:
        # Where speech alone suffices, loading the text encoder would double the time to the first prediction;
        # `predict_many` loads it before the first file if there is text.
        encoder = load_text_encoder(self.checkpoint.text, device=self.device, download=False)
        self._check("text", encoder)
        return encoder

    def text_reader(self) -> TextEncoder | Subwords:
        """What reads words; the encoder is loaded once it is needed."""
        return self._text_encoder if self.checkpoint.subwords is None else self.checkpoint.subwords

    @property
    def read_segments(self) -> bool:
        """Whether a network reads words, syllables or phones."""
        return any(one.inputs.tiers for one in self.checkpoint.networks.values())

    def _check(self, modality: str, encoder: SpeechEncoder | TextEncoder, *, named: bool = False) -> None:
        wanted, found = self.checkpoint.encoders[modality], encoder.specification
        alike = (wanted.family, wanted.selected, wanted.width) == (found.family, found.selected, found.width)
        if alike and named and wanted.revision != found.revision:
            ours, theirs = found.revision[:12], wanted.revision[:12]
            self.notes = (f"the {modality} encoder has revision {ours}, and the model names {theirs}",)
        elif not alike or wanted.revision != found.revision:
            raise CheckpointError(
                f"the {modality} encoder has revision {found.revision[:12]}, and the model was trained on "
                f"{wanted.revision[:12]}",
                where=found.name,
                remedy="put back the encoder that the model was trained on, or train again",
            )

    def aligner(self) -> Aligner | None:
        """The aligner of training; None if it had none.

        Raises:
            AlignmentError: It cannot be run here.
            EncoderError: The CTC model that aligned training cannot be loaded.
        """
        # Loaded once, when needed: the dictionary takes as long as a small encoder.
        if self._aligner is None:
            try:
                self._aligner = aligner_again(self.checkpoint.alignment, device=self.device, trust=self._trust)
            except EmofuseError as error:
                self._aligner = error
        if isinstance(self._aligner, EmofuseError):
            raise self._aligner
        return self._aligner

    def align(
        self, clip: NDArray[np.float32], text: str | None, given: Alignment | None
    ) -> tuple[Alignment | None, list[str]]:
        """The given alignment, or one by the aligner of training, and notes."""
        sources = self.checkpoint.alignment or {}
        trained = ", ".join(f"{name} {100 * count / sum(sources.values()):.0f} %" for name, count in sources.items())
        aligner = None if given else self.aligner()
        if given is None and aligner is None:
            return None, ["the model was trained without alignments, so frames stand for segments"]
        if given is None:
            assert aligner is not None  # noqa: S101
            languages = self.checkpoint.text_languages
            language = languages[0] if len(languages) == 1 and languages != ("en",) else None
            given = align_clip(aligner, clip, text or "", language=language)
        else:
            try:
                given = replace(given, note=check_words(text, given.tiers, language=None) or given.note)
            except AlignmentError as error:
                given = replace(given, tiers={}, problem=error.what)
        notes = [given.note] if given.note else []
        if given.problem:
            notes.append(f"not aligned, so frames stand for segments: {given.problem}")
        elif sources and set(sources) != {given.source}:
            notes.append(f"boundaries are from {given.source}, and in training they were from {trained}")
        return given, notes

    def speech(self, clip: NDArray[np.float32], alignment: Alignment | None) -> Read:
        """Inputs of each network from a clip: steps, or frames and bounds where it pools them."""
        assert self.speech_encoder is not None  # noqa: S101
        settings, encoder = self.checkpoint.speech, self.speech_encoder.specification
        frames = self.speech_encoder.encode([clip])[0]
        inputs = {}
        for name, network in self._readers("speech"):
            steps = network.inputs.steps
            if pools_frames(network.inputs, settings):
                count = frames.shape[1]
                bounds = [
                    step_bounds(encoder, settings, frames=count, granularity=step, alignment=alignment)
                    for step in steps
                ]
                padded, mask = pad_bounds([torch.cat(bounds)])
                inputs[name] = _one("speech", torch.from_numpy(features_of(frames)))
                inputs[name] |= {"speech_bounds": padded, "speech_mask": mask}
            else:
                values = [to_steps(frames, encoder, settings, granularity=step, alignment=alignment) for step in steps]
                inputs[name] = _one("speech", torch.from_numpy(features_of(torch.cat(values, dim=1))))
        return inputs

    def text(self, text: str) -> Read:
        """Inputs of each network from words."""
        readers = self._readers("text")
        if self.checkpoint.subwords is not None:
            return dict.fromkeys(dict(readers), _one("text", self.checkpoint.subwords.encode([text])[0]))
        encoder = self._text_encoder
        tokens = encoder.encode([text])[0]
        wanted = {name: network.inputs.text.step for name, network in readers if network.inputs.text}
        steps = {"token": tokens}
        if "word" in wanted.values():
            steps["word"] = to_words(tokens, encoder.word_of_tokens([text])[0])
        read = {step: _one("text", torch.from_numpy(features_of(values))) for step, values in steps.items()}
        return {name: read[step] for name, step in wanted.items()}

    def _readers(self, modality: str) -> list[tuple[str, ModelPlan]]:
        """The networks that read a modality."""
        networks = self.checkpoint.networks.items()
        return [(name, network) for name, network in networks if modality in network.inputs.modalities]


def _one(modality: str, values: torch.Tensor) -> dict[str, torch.Tensor]:
    padded, mask = pad([values])
    return {modality: padded, f"{modality}_mask": mask}
