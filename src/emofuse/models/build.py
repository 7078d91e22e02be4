"""From settings to a model."""

from __future__ import annotations

from dataclasses import dataclass

from emofuse.models.front import LayerMix, SegmentMix, WordEmbedding
from emofuse.models.fusion import ConcatModel, EarlyFusion
from emofuse.models.streams import EmotionModel, Front, SpeechModel, TextModel
from emofuse.settings import ModelKind, ModelSettings


@dataclass(frozen=True)
class InputShape:
    """What a stream's features look like: hidden states of some width, or ids of a vocabulary.

    Attributes:
        layers: Hidden states (0: ids, whose embedding is trained with the model).
        width: Numbers a step, or words of the vocabulary.
        segments: Whether frames come with the bounds of segments, to which the model pools them.
        kinds: How many kinds of numbers stand one after another in a step, each of a scale of its own.
    """

    layers: int
    width: int
    segments: bool = False
    kinds: int = 1

    def front(self, width: int) -> Front:
        """The layer that reads this input; `width` is that of a trained embedding."""
        if not self.layers:
            return WordEmbedding(self.width, width)
        mix = SegmentMix if self.segments else LayerMix
        return mix(self.layers, self.width, kinds=self.kinds)


def build_model(
    kind: ModelKind, settings: ModelSettings, *, classes: int, speech: InputShape | None, text: InputShape | None
) -> EmotionModel:
    """Build one model that is trained, with fresh weights.

    Args:
        kind: Which model.
        settings: Its shape.
        classes: Number of emotions.
        speech: Shape of speech features; None where the model takes none.
        text: Shape of text features; None where the model takes none.

    Example:
        >>> build_model("early-frame", ModelSettings(), classes=4, speech=InputShape(13, 768),
        ...             text=InputShape(13, 768)).streams
        ('speech', 'text')
    """
    width, dropout, pooling = settings.width, settings.dropout, settings.pooling

    if kind == "speech" and speech is not None:
        return SpeechModel(speech.front(width), width=width, classes=classes, dropout=dropout, pooling=pooling)
    if kind == "text" and text is not None:
        return TextModel(text.front(width), width=width, classes=classes, dropout=dropout, pooling=pooling)
    if kind != "concat" and not kind.startswith("early"):
        raise ValueError(f"{kind} lacks its input, or is joined from others")
    if speech is None or text is None:
        raise ValueError(f"{kind} takes both streams")
    fronts = speech.front(width), text.front(width)
    if kind == "concat":
        return ConcatModel(*fronts, width=width, classes=classes, dropout=dropout, pooling=pooling)
    return EarlyFusion(
        *fronts,
        width=width,
        classes=classes,
        heads=settings.heads,
        layers=settings.layers,
        dropout=dropout,
        pooling=pooling,
        attention_dropout=settings.attention_dropout,
    )
