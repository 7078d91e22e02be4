"""The toy task of marked tokens needs an alignment, and nothing but an alignment."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from emofuse.testing.toy import CLASSES, MarkedTokens, marked_tokens


def pooled(task: MarkedTokens) -> np.ndarray:
    parts = [task.speech.mean(1), task.speech.max(1), task.text.mean(1), task.text.max(1)]
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize(
    "feature_set",
    [lambda task: task.text.argmax(2), lambda task: task.speech[:, :, 0], pooled],
    ids=["text alone", "speech alone", "pooled vectors"],
)
def test_without_an_alignment_nothing_beats_chance(feature_set) -> None:  # type: ignore[no-untyped-def]
    train, test = marked_tokens(3000, seed=0), marked_tokens(3000, seed=1)
    model = HistGradientBoostingClassifier(max_iter=20).fit(feature_set(train), train.labels)
    # Three standard errors of chance are 0.024.
    assert abs(model.score(feature_set(test), test.labels) - 1 / CLASSES) < 0.024


def test_the_marked_token_is_the_label() -> None:
    task = marked_tokens(1000, seed=3)
    loudest = task.speech[:, :, 0].reshape(1000, 12, 4).mean(2).argmax(1)
    assert (loudest == task.marked).mean() > 0.99
    tokens = task.text.argmax(2)
    assert (tokens[np.arange(1000), task.marked] == task.labels).all()
    assert all((np.sort(row[row < CLASSES]) == np.arange(CLASSES)).all() for row in tokens)


def test_a_seed_decides_everything() -> None:
    one, same, other = marked_tokens(50, seed=5), marked_tokens(50, seed=5), marked_tokens(50, seed=6)
    assert np.array_equal(one.speech, same.speech)
    assert np.array_equal(one.labels, same.labels)
    assert not np.array_equal(one.labels, other.labels)
