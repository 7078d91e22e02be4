"""Values that stages exchange."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

Tier = Literal["word", "syllable", "phone"]
TIERS: tuple[Tier, ...] = get_args(Tier)
"""Tiers of an alignment, from the longest segments to the shortest."""

Log = Literal["tensorboard"]
"""Logs of training beside its own history."""


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """One utterance of a manifest: a span of a recording, its transcript and its labels.

    Attributes:
        utterance: Name, unique in its manifest.
        audio: Audio file; None for text-only corpora.
        start: Beginning of the utterance in the file, in seconds.
        end: Its end, in seconds; None for the end of the file.
        text: Transcript, or None.
        label: Emotion, or None if unknown.
        speaker: Speaker, or None.
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
    """A segment of an utterance.

    Attributes:
        start: Beginning, in seconds from the beginning of the utterance.
        end: End.
        label: The word, the syllable's phones with spaces between, or the phone.
    """

    start: float
    end: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """Times of the words, syllables and phones of an utterance.

    Attributes:
        utterance: Its name in the manifest.
        tiers: Segments of each known tier, sorted; pauses are left out.
        source: The aligner: `sphinx`, `ctc` with model and revision, or the kind of file that it was read from.
        problem: Why there are no segments; None if there are some.
        note: Why segments are doubtful; None if they are not.
    """

    utterance: str
    tiers: Mapping[Tier, tuple[Segment, ...]]
    source: str
    problem: str | None = None
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class EncoderSpecification:
    """Specification of an encoder: its layers, width, timing and origin.

    Attributes:
        name: Hub id, folder name or baseline name.
        family: Architecture, as `config.model_type` names it (`wav2vec2`, `whisper`, `bert`, `logmel`).
        modality: `speech` or `text`.
        revision: Commit or content hash of the weights; features are stored under it.
        layers: Number of hidden states, the input projection included.
        selected: Hidden states in its features, in order.
        width: Numbers per frame or token.
        sampling_rate: In Hz (speech only).
        stride: Samples between frames (speech only).
        receptive_field: Samples of a frame's receptive field before attention (speech only).
        offset: First sample of the first frame's receptive field; negative if the encoder pads.
        licence: The weights' licence, where known.
        exposure: Corpora that the weights are known to have been trained on.

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
        """Number of kinds of features in a frame: energies and deltas of log-mel, else one."""
        return 3 if self.family == "logmel" else 1

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.sampling_rate / self.stride

    def frame_centre(self, frame: int) -> float:
        """Centre of a frame, in seconds."""
        return (frame * self.stride + self.offset + self.receptive_field / 2) / self.sampling_rate


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Names of the utterances of one split; the trainer is given `train` and `validation`, never `test`."""

    name: str
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


UNCERTAIN = "uncertain"
"""Label where no class is probable enough."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A model's prediction for one utterance.

    Attributes:
        label: The most probable class, or `uncertain`; empty where values are predicted.
        posteriors: Probability of every class by name; they sum to 1.
        values: Predicted values by name, such as valence; empty where a class is predicted.
        modalities: Modalities that were used: `speech`, `text` or both.
        source: The file.
        text: The transcript that was used, if any.
        notes: Remarks, such as a modality that was left out.
        measured: What the model was measured to reach, see `emofuse info`.
    """

    label: str = ""
    posteriors: dict[str, float] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    modalities: tuple[str, ...] = ()
    source: str | None = None
    text: str | None = None
    notes: tuple[str, ...] = field(default=())
    measured: str = ""

    @property
    def scores(self) -> dict[str, float]:
        """Posteriors of classes, or predicted values, by name."""
        return {**self.posteriors, **self.values}
