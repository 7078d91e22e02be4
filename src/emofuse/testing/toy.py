"""A task that only a model can solve that aligns speech and text, made of numbers: for tests of fusion models."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TOKENS = 12
STEPS = 48
WIDTH = 16
CLASSES = 4

_SPAN = STEPS // TOKENS
_LOUDNESS = 4.0


@dataclass(frozen=True)
class MarkedTokens:
    """Utterances whose emotion is the token that the voice marks.

    The text has 12 tokens. Each emotion is named by exactly one of them, the other eight are neutral. The speech has
    4 steps a token; it is noise, and louder in one feature while the token is said that names the emotion. Text alone,
    speech alone, and any two vectors pooled from them without the other say nothing about the label: chance is 1/4.
    A model that knows neither positions nor windows cannot align them either.

    Attributes:
        speech: `(utterances, 48, 16)`, float32.
        text: `(utterances, 12, 16)`, float32.
        labels: `(utterances,)`, 0 to 3.
        marked: The token that carries the label, `(utterances,)`.

    Example:
        >>> task = marked_tokens(100, seed=1)
        >>> task.speech.shape, task.text.shape, np.unique(task.labels).tolist()
        ((100, 48, 16), (100, 12, 16), [0, 1, 2, 3])
        >>> said = task.text[np.arange(100), task.marked]
        >>> bool((said.argmax(1) == task.labels).all())
        True
    """

    speech: NDArray[np.float32]
    text: NDArray[np.float32]
    labels: NDArray[np.int64]
    marked: NDArray[np.int64]


def marked_tokens(utterances: int = 2000, *, seed: int = 0) -> MarkedTokens:
    """Make utterances of the task.

    What stands for a token or for the mark is the same under every seed, so a model can be trained with one seed and
    tested with another.

    Args:
        utterances: How many.
        seed: Of everything that is drawn.
    """
    generator = np.random.default_rng(seed)
    # Tokens 0 to 3 name the emotions, 4 to 11 are neutral and may repeat.
    said = generator.integers(CLASSES, TOKENS, (utterances, TOKENS))
    places = generator.permuted(np.tile(np.arange(TOKENS), (utterances, 1)), axis=1)[:, :CLASSES]
    rows = np.arange(utterances)
    said[rows[:, None], places] = np.arange(CLASSES)
    labels = generator.integers(0, CLASSES, utterances)
    marked = places[rows, labels]

    speech = generator.standard_normal((utterances, STEPS, WIDTH))
    spans = marked[:, None] * _SPAN + np.arange(_SPAN)
    speech[rows[:, None], spans, 0] += _LOUDNESS
    text = _LOUDNESS * np.eye(WIDTH)[said]
    return MarkedTokens(speech.astype(np.float32), text.astype(np.float32), labels, marked)
