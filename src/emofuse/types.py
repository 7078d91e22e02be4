"""The plain values that pass between stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

Tier = Literal["word", "syllable", "phone"]
TIERS: tuple[Tier, ...] = get_args(Tier)
"""Tiers of an alignment, from the longest segments to the shortest."""

Log = Literal["tensorboard"]
"""What training can write of each epoch beside its own history."""


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """One utterance of a manifest: a stretch of a recording, its words, and what is known about it.

    Attributes:
        utterance: Name, unique in its manifest.
        audio: Audio file; None for text-only corpora.
        start: Where the utterance begins in the file, in seconds.
        end: Where it ends, in seconds; None for the end of the file.
        text: Transcript, or None.
        label: Emotion, or None where it is not known.
        speaker: Who speaks, or None.
    """

    utterance: str
    audio: Path | None = None
    start: float = 0.0
    end: float | None = None
    text: str | None = None
    label: str | None = None
    speaker: str | None = None


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A stretch of an utterance and what is said in it.

    Attributes:
        start: Where it begins, in seconds from the beginning of the utterance.
        end: Where it ends.
        label: The word, the syllable's phones joined by spaces, or the phone.
    """

    start: float
    end: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """When the words, syllables and phones of an utterance are said.

    Attributes:
        utterance: Its name in the manifest.
        tiers: Segments of each tier that is known, in the order of time; pauses are left out.
        source: Who aligned it: `sphinx`, `ctc` with model and revision, or the kind of file that it was read from.
        problem: Why there are no segments, for the reader; None where there are.
        note: What is doubtful about the segments; None where nothing is.
    """

    utterance: str
    tiers: Mapping[Tier, tuple[Segment, ...]]
    source: str
    problem: str | None = None
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class EncoderSpecification:
    """What an encoder publishes about itself; whatever turns time into frames reads it here.

    Attributes:
        name: Hub id, folder name or baseline name.
        family: Architecture, as `config.model_type` names it (`wav2vec2`, `whisper`, `bert`, `logmel`).
        modality: `speech` or `text`.
        revision: Commit or content hash of the weights; features are stored under it.
        layers: Number of hidden states that the encoder has, its input projection counted.
        selected: Which of them its features hold, in order.
        width: Numbers a frame or token.
        sampling_rate: In Hz (speech only).
        stride: Samples between frames (speech only).
        receptive_field: Samples that a frame sees before attention (speech only).
        offset: Sample at which the first frame's receptive field begins; below zero where the encoder pads.
        licence: The weights' licence, where known.
        exposure: Corpora whose audio or text the weights are known to have seen.

    Example:
        >>> specification = EncoderSpecification(
        ...     name="logmel", family="logmel", modality="speech", revision="1", layers=1, selected=(0,), width=240,
        ...     sampling_rate=16000, stride=320, receptive_field=400)
        >>> specification.frame_rate, specification.frame_centre(1)
        (50.0, 0.0325)
    """

    name: str
    family: str
    modality: str
    revision: str
    layers: int
    selected: tuple[int, ...]
    width: int
    sampling_rate: int = 0
    stride: int = 0
    receptive_field: int = 0
    offset: int = 0
    licence: str = "unknown"
    exposure: tuple[str, ...] = ()

    @property
    def kinds(self) -> int:
        """How many kinds of numbers stand one after another in a frame: energies and slopes of log-mel, else one."""
        return 3 if self.family == "logmel" else 1

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.sampling_rate / self.stride

    def frame_centre(self, frame: int) -> float:
        """Time of the middle of a frame, in seconds."""
        return (frame * self.stride + self.offset + self.receptive_field / 2) / self.sampling_rate


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Names of the utterances of one split; the trainer is given `train` and `validation`, never `test`."""

    name: str
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a model says of one utterance.

    Attributes:
        label: The most probable class; empty where values are predicted.
        posteriors: Probability of every class by name; they sum to 1.
        values: Predicted values by name, such as valence; empty where a class is predicted.
        modalities: What the answer rests on: `speech`, `text` or both.
        source: The file that was predicted.
        text: The transcript that was used, if any.
        notes: Remarks for the reader, such as a modality that was left out.
    """

    label: str = ""
    posteriors: dict[str, float] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    modalities: tuple[str, ...] = ()
    source: str | None = None
    text: str | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def scores(self) -> dict[str, float]:
        """Posteriors of classes, or predicted values, by name."""
        return {**self.posteriors, **self.values}
