"""How students are made: one settings object for each."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from emofuse.settings import Fraction, Settings

Positive = Annotated[float, Field(gt=0)]


class SpeechStudentSettings(Settings):
    """How a speech student is distilled.

    Attributes:
        teacher_layers: Hidden states of the teacher to predict. Whisper-small's 5 and 6 carry most of its emotion.
        precision: Arithmetic of teacher and student.
        layers: Transformer layers of the student: the first ones of the teacher, further trained.
        kept: Fraction of the teacher's own weights that the student keeps: at the end both are averaged, as by WiSE-FT
            (Wortsman et al., CVPR 2022), since training on few hours costs generality.
        stored: How the student's matrices are stored; `int8` has one scale a row, and takes half of the space.
        longest: Longest clip in seconds; longer recordings are cut.
        views: Fraction of the recordings that get a copy at another pitch and tempo, for the teacher too.
        semitones: Most that such a copy is raised or lowered.
        tempo: Most that it is sped up or slowed down, as a fraction.
        noisy: Fraction of the clips that are augmented in training; the teacher gets them clean.
        descriptor: Weight of the loss on descriptors of whole clips beside that on frames.
        components: Numbers that describe a clip.
        batch_seconds: Seconds of audio in one batch.
        accumulate: Batches to one step of the optimiser.
        steps: Steps in all.
        learning_rate: Peak of AdamW's rate.
        weight_decay: AdamW's decay.
        warmup: Fraction of the steps in which the rate rises.
        held_out: Fraction of the recordings that are held out to monitor the loss.
        save_every: Steps between checkpoints.
        seed: Of everything random.
    """

    teacher_layers: str = "5,6"
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    layers: int = Field(default=3, ge=1)
    kept: float = Field(default=0.6, ge=0, le=1)
    stored: Literal["float16", "int8"] = "float16"
    longest: Positive = 6.0
    views: float = Field(default=0.5, ge=0, le=1)
    semitones: float = Field(default=3.0, ge=0)
    tempo: Fraction = 0.15
    noisy: Fraction = 0.5
    descriptor: float = Field(default=20.0, ge=0)
    components: int = Field(default=128, ge=1)
    batch_seconds: Positive = 24.0
    accumulate: int = Field(default=1, ge=1)
    steps: int = Field(default=6000, ge=1)
    learning_rate: Positive = 3e-4
    weight_decay: float = Field(default=1e-2, ge=0)
    warmup: Fraction = 0.05
    held_out: Fraction = 0.03
    save_every: int = Field(default=250, ge=1)
    seed: int = 0


class TextStudentSettings(Settings):
    """How a text student is distilled.

    Attributes:
        width: Width of the student.
        layers: Its transformer layers.
        heads: Its attention heads.
        max_tokens: Longest text, in tokens.
        teacher_epochs: Epochs of the teacher's tuning on the labels.
        teacher_rate: Peak rate of that tuning.
        epochs: Epochs of the student.
        batch_size: Texts a step.
        learning_rate: Peak of AdamW's rate.
        weight_decay: AdamW's decay.
        warmup: Fraction of the steps in which the rate rises.
        label_share: Weight of the true labels beside the teacher's.
        precision: Arithmetic of teacher and student.
        seed: Of everything random.
    """

    width: int = Field(default=256, ge=16)
    layers: int = Field(default=4, ge=1)
    heads: int = Field(default=4, ge=1)
    max_tokens: int = Field(default=48, ge=8, le=512)
    teacher_epochs: int = Field(default=2, ge=1)
    teacher_rate: Positive = 1e-4
    epochs: int = Field(default=4, ge=1)
    batch_size: int = Field(default=64, ge=1)
    learning_rate: Positive = 8e-4
    weight_decay: float = Field(default=1e-2, ge=0)
    warmup: Fraction = 0.1
    label_share: float = Field(default=0.5, ge=0, le=1)
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    seed: int = 0
