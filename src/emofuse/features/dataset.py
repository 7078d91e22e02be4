"""Batches for training: stored features and labels as padded tensors with masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence

from emofuse.errors import StoreError, TrainingError
from emofuse.features.store import View

CONSTANT = 0.1
"""Fraction of the median deviation of its layer and kind up to which a feature counts as constant.

The smallest seen of a feature that carries something is 0.14; bands above those of telephone speech reach 0.07."""
ROUNDING = 1e-6


@dataclass(frozen=True)
class Batch:
    """Utterances as tensors.

    Attributes:
        inputs: What a model's `forward` takes by name: `speech` `(batch, layers, steps, width)`, `text`
            `(batch, layers, tokens, width)` or `(batch, tokens)` of word-piece ids, and their masks
            `speech_mask`, `text_mask` `(batch, steps)`, True where there is something. Where the model pools frames
            to segments, `speech` holds frames, `speech_bounds` `(batch, segments, 2)` says which of them a segment
            has, `(0, 0)` for padding, and `speech_mask` is `(batch, segments)`.
        labels: Index of the true class, `(batch,)`.
        targets: What is learnt: the labels, or the share of each class, `(batch, classes)`.
        names: The utterances.
    """

    inputs: Mapping[str, torch.Tensor]
    labels: torch.Tensor
    targets: torch.Tensor
    names: tuple[str, ...]


Reader = Callable[[str], torch.Tensor]


class Dataset:
    """Utterances with labels and a reader for each stream.

    Args:
        names: Utterances, in order.
        labels: Class index of each utterance.
        streams: For `speech` and `text`, what reads an utterance's features or word pieces.
        bounds: What reads the bounds of an utterance's segments, `(segments, 2)`, where the model pools its frames.
        shares: Share of each class in what is learnt of an utterance, `(classes,)`; None to learn its label.
    """

    def __init__(
        self,
        names: Sequence[str],
        labels: Mapping[str, int],
        streams: Mapping[str, Reader],
        *,
        bounds: Reader | None = None,
        shares: Reader | None = None,
    ) -> None:
        self.names = tuple(names)
        self.labels = torch.tensor([labels[name] for name in names], dtype=torch.long)
        self.streams, self.bounds, self.shares = streams, bounds, shares

    def __len__(self) -> int:
        return len(self.names)

    def __add__(self, other: Dataset) -> Dataset:
        both = (*self.names, *other.names)
        values = torch.cat([self.labels, other.labels]).tolist()
        return Dataset(both, dict(zip(both, values, strict=True)), self.streams, bounds=self.bounds, shares=self.shares)

    def batch(self, indices: Sequence[int]) -> Batch:
        """The utterances at some places, padded to the longest of them."""
        names = tuple(self.names[index] for index in indices)
        inputs: dict[str, torch.Tensor] = {}
        for stream, read in self.streams.items():
            inputs[stream], inputs[f"{stream}_mask"] = pad([read(name) for name in names])
        if self.bounds is not None:
            inputs["speech_bounds"], inputs["speech_mask"] = pad_bounds([self.bounds(name) for name in names])
        labels = self.labels[list(indices)]
        targets = labels if self.shares is None else torch.stack([self.shares(name) for name in names])
        return Batch(inputs, labels, targets, names)

    def batches(self, size: int, *, generator: torch.Generator | None = None) -> Iterator[Batch]:
        """All utterances once: shuffled by a generator, or in order."""
        order = range(len(self)) if generator is None else torch.randperm(len(self), generator=generator).tolist()
        for start in range(0, len(self), size):
            yield self.batch(list(order[start : start + size]))


def pad(items: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Stack sequences of different length with a mask.

    Args:
        items: `(layers, steps, width)` each of any float type, or `(steps,)` of ids.

    Returns:
        Values padded with zeros, float32 or ids, and the mask `(batch, steps)`, True where there is something.

    Example:
        >>> values, mask = pad([torch.tensor([5, 6]), torch.tensor([7])])
        >>> values.tolist(), mask.tolist()
        ([[5, 6], [7, 0]], [[True, True], [True, False]])
    """
    axis = 0 if items[0].dim() == 1 else 1
    lengths = torch.tensor([item.shape[axis] for item in items])
    longest = int(lengths.max())
    shape = list(items[0].shape)
    shape[axis] = longest
    # Halves become floats while they are copied, not in a copy of their own.
    kind = torch.float32 if items[0].is_floating_point() else items[0].dtype
    values = torch.empty((len(items), *shape), dtype=kind)
    for row, item in zip(values, items, strict=True):
        length = item.shape[axis]
        row.narrow(axis, 0, length).copy_(item)
        row.narrow(axis, length, longest - length).zero_()
    return values, torch.arange(longest) < lengths[:, None]


def pad_bounds(items: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Stack bounds `(segments, 2)` of different length, padded with `(0, 0)`, with a mask `(batch, segments)`.

    Example:
        >>> bounds, mask = pad_bounds([torch.tensor([[0, 2], [2, 5]]), torch.tensor([[0, 4]])])
        >>> bounds.tolist(), mask.tolist()
        ([[[0, 2], [2, 5]], [[0, 4], [0, 0]]], [[True, True], [True, False]])
    """
    bounds = pad_sequence(list(items), batch_first=True)
    return bounds, bounds[..., 1] > 0


def view_reader(view: View, keys: Mapping[str, str]) -> Reader:
    """Read an utterance's features from a view, memory-mapped float16.

    Nothing is kept: the system's page cache serves all processes that map the store, a cache in each would not.

    Raises:
        StoreError: (on reading) an utterance has no features.
    """

    def read(name: str) -> torch.Tensor:
        if name not in keys:
            raise StoreError(
                f"utterance {name!r} has no features", where=view.folder, remedy="run `emofuse extract` on its corpus"
            )
        return torch.from_numpy(view.read(keys[name]))

    return read


def fit_statistics(dataset: Dataset, stream: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of a stream over all steps of a dataset, `(layers, width)` each.

    Raises:
        TrainingError: Features of an utterance are not finite, as in a store that was damaged.
    """
    read = dataset.streams[stream]
    found = statistics_of(read(name) for name in dataset.names)
    if not all(one.isfinite().all() for one in found):
        name = next((name for name in dataset.names if not read(name).isfinite().all()), dataset.names[0])
        raise TrainingError(
            f"{stream} features of utterance {name!r} are not finite",
            remedy="remove the feature store, and the same command computes it anew",
        )
    return found


def statistics_of(items: Iterable[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation over all steps of sequences `(layers, steps, width)`; `(layers, width)` each."""
    count, total, squares = 0, torch.zeros(()).double(), torch.zeros(()).double()
    for item in items:
        values = item.double()
        count += values.shape[1]
        total = total + values.sum(1)
        squares = squares + values.square().sum(1)
    mean = total / count
    return mean.float(), (squares / count - mean.square()).clamp(min=0).sqrt().float()


def without_constants(mean: torch.Tensor, deviation: torch.Tensor, *, kinds: int = 1) -> torch.Tensor:
    """Deviations `(layers, width)`, 0 for features that are constant, by the scale of their layer and kind.

    A constant feature carries nothing, and its deviation is rounding: divided by that, any other value of it that comes
    later, as from another microphone, would outweigh all other features.

    Args:
        mean: Means, `(layers, width)`.
        deviation: Standard deviations, `(layers, width)`.
        kinds: How many kinds of features stand one after another, each of a scale of its own.

    Example:
        >>> without_constants(torch.zeros(1, 4), torch.tensor([[1.0, 2.0, 3.0, 1e-4]])).tolist()
        [[1.0, 2.0, 3.0, 0.0]]
    """
    by_kind = deviation.reshape(len(deviation), kinds, -1)
    varies = by_kind > ROUNDING * mean.reshape(by_kind.shape).abs()
    # The median of those that vary: of the bands of telephone speech nearly half do not.
    floor = CONSTANT * by_kind.where(varies, torch.nan).nanmedian(-1, keepdim=True).values
    return by_kind.where(varies & (by_kind > floor), 0.0).reshape(deviation.shape)
