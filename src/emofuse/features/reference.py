"""References: the mean features of other clips of a speaker, in place of those of the training part.

What a clip sounds like is mostly its speaker and channel. Where several clips of one speaker are at hand, without
labels, their mean takes both away.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np
import torch

from emofuse.features.dataset import Reader
from emofuse.seeds import derive_seed

FEWEST, MOST = 5, 20
"""Clips of a reference in training; prediction takes as many as there are, and at least the fewest."""
TESTED = 10
"""Clips of a reference in evaluation."""


class Handfuls:
    """Draws clips of the speaker of each utterance, and averages their features.

    Args:
        read: Reader of an utterance's speech features, `(layers, steps, width)`.
        speakers: Speaker of each utterance that may be drawn.
        seed: Of the draws; the same utterances in the same order have the same references.
        fraction: Of the utterances that have a reference.
        clips: Fewest and most clips of a reference.

    Example:
        >>> values = {name: torch.full((1, 1, 1), float(name)) for name in "123"}
        >>> handfuls = Handfuls(values.__getitem__, dict.fromkeys("123", "anna"), seed=0, clips=(1, 2))
        >>> 2.0 <= float(handfuls(["1"])) <= 3.0
        True
    """

    def __init__(
        self,
        read: Reader,
        speakers: Mapping[str, str],
        *,
        seed: int,
        fraction: float = 1.0,
        clips: tuple[int, int] = (FEWEST, MOST),
    ) -> None:
        self.read, self.speakers, self.seed, self.fraction, self.clips = read, speakers, seed, fraction, clips
        self._means: dict[str, torch.Tensor] = {}

    @cached_property
    def _others(self) -> Mapping[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name, speaker in self.speakers.items():
            found.setdefault(speaker, []).append(name)
        return found

    def __call__(self, names: Sequence[str]) -> torch.Tensor:
        """References of some utterances, `(utterances, layers, width)`, NaN for those without."""
        rng = np.random.default_rng(derive_seed(self.seed, "reference", *names))
        nothing = torch.full_like(self._mean(names[0]), torch.nan)
        found = []
        for name in names:
            others = [one for one in self._others.get(self.speakers.get(name, ""), ()) if one != name]
            count = min(int(rng.integers(self.clips[0], self.clips[1] + 1)), len(others))
            if rng.random() >= self.fraction or not count:
                found.append(nothing)
            else:
                found.append(mean_of(self._mean(others[place]) for place in rng.choice(len(others), count, False)))
        return torch.stack(found)

    def _mean(self, name: str) -> torch.Tensor:
        if name not in self._means:
            self._means[name] = self.read(name).float().mean(1).half()
        return self._means[name].float()


def mean_of(clips: Iterable[torch.Tensor]) -> torch.Tensor:
    """Mean over clips, each of the same weight."""
    return torch.stack(list(clips)).mean(0)
