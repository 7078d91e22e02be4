"""Batches for training: stored features and labels as padded tensors with masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from emofuse.errors import SettingsError, StoreError, TrainingError
from emofuse.features.store import FeatureSet

CONSTANT = 0.1
"""A feature counts as constant up to this fraction of the median deviation of its layer and kind.

The smallest fraction of an informative feature was 0.14; frequency bands above telephone speech reach 0.07."""
ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch of utterances.

    Attributes:
        names: The utterances.
        speech: Hidden states `(batch, layers, steps, width)`, or frames if the model pools them itself.
        speech_mask: `(batch, steps)`, True where valid.
        speech_bounds: If the model pools frames: first frame of each step and the one after the last,
            `(batch, steps, 2)`, `(0, 0)` for padding.
        speech_reference: Means of speech features over other clips of each speaker, `(batch, layers, width)`, in place
            of those of the training part; NaN where there are none.
        text: Hidden states `(batch, layers, tokens, width)`, or ids `(batch, tokens)` of subwords that are trained
            with the model.
        text_mask: `(batch, tokens)`, True where valid.
        truth: Index of the true class `(batch,)`, or the true values `(batch, values)`; None in prediction.
        targets: Training targets: the truth, or the fraction of each class in the votes, `(batch, classes)`.
        extras: Further inputs by name, padded with -1 (integers) or NaN; see `features.extras`.
    """

    names: tuple[str, ...] = ()
    speech: torch.Tensor | None = None
    speech_mask: torch.Tensor | None = None
    speech_bounds: torch.Tensor | None = None
    speech_reference: torch.Tensor | None = None
    text: torch.Tensor | None = None
    text_mask: torch.Tensor | None = None
    truth: torch.Tensor | None = None
    targets: torch.Tensor | None = None
    extras: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def of(self, modality: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Features and mask of a modality.

        Raises:
            SettingsError: The batch lacks them.
        """
        values, mask = (self.speech, self.speech_mask) if modality == "speech" else (self.text, self.text_mask)
        if values is None or mask is None:
            raise SettingsError(
                f"the model needs {modality} and its mask", remedy=f"give the batch {modality} and {modality}_mask"
            )
        return values, mask

    def known(self) -> torch.Tensor:
        """Targets, in training.

        Raises:
            SettingsError: The batch has none, as in prediction.
        """
        if self.targets is None:
            raise SettingsError("a loss needs targets, and the batch has none", remedy="give the batch targets")
        return self.targets

    def to(self, device: str | torch.device) -> Batch:
        """The same on another device."""
        held = {one.name: getattr(self, one.name) for one in fields(self)}
        tensors: dict[str, Any] = {
            name: value.to(device) for name, value in held.items() if isinstance(value, torch.Tensor)
        }
        extras = {name: value.to(device) for name, value in self.extras.items()}
        return replace(self, **tensors, extras=extras)


Reader = Callable[[str], torch.Tensor]
References = Callable[[Sequence[str]], torch.Tensor]
"""References of several utterances, `(utterances, layers, width)`."""


class Dataset:
    """Utterances with their truth and readers of a model's inputs.

    Args:
        names: Utterances, in order.
        truth: Class index of each, or its values.
        readers: Readers of an utterance's features or subwords, for `speech` and `text`.
        bounds: Reader of the bounds of an utterance's steps, `(steps, 2)`, if the model pools frames.
        targets: Reader of an utterance's targets, if they differ from the truth.
        extras: Readers of extras, by name.
        references: Draws each utterance's reference of other clips; None for none.
    """

    def __init__(
        self,
        names: Sequence[str],
        truth: Mapping[str, int | Sequence[float]],
        readers: Mapping[str, Reader],
        *,
        bounds: Reader | None = None,
        targets: Reader | None = None,
        extras: Mapping[str, Reader] | None = None,
        references: References | None = None,
    ) -> None:
        self.names = tuple(names)
        self.truth = torch.tensor([truth[name] for name in names])
        self.readers, self.bounds, self.targets = readers, bounds, targets
        self.extras = extras or {}
        self.references = references

    def __len__(self) -> int:
        return len(self.names)

    def __add__(self, other: Dataset) -> Dataset:
        both = copy(self)
        both.names, both.truth = (*self.names, *other.names), torch.cat([self.truth, other.truth])
        return both

    def batch(self, indices: Sequence[int]) -> Batch:
        """The utterances at some indices, padded to the longest."""
        names = tuple(self.names[index] for index in indices)
        found: dict[str, Any] = {}
        for modality, read in self.readers.items():
            found[modality], found[f"{modality}_mask"] = pad([read(name) for name in names])
        if self.bounds is not None:
            found["speech_bounds"], found["speech_mask"] = pad_bounds([self.bounds(name) for name in names])
        truth = self.truth[list(indices)]
        targets = truth if self.targets is None else torch.stack([self.targets(name) for name in names])
        extras = {extra: pad_extra([read(name) for name in names]) for extra, read in self.extras.items()}
        if self.references is not None:
            found["speech_reference"] = self.references(names)
        return Batch(names=names, truth=truth, targets=targets, extras=extras, **found)

    def batches(self, size: int) -> Iterator[Batch]:
        """All utterances once, in order."""
        for start in range(0, len(self), size):
            yield self.batch(range(start, min(start + size, len(self))))


def pad_extra(items: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stack tensors whose first axis may differ in length, padded with -1 (integers) or NaN.

    Example:
        >>> pad_extra([torch.tensor([3, 4]), torch.tensor([5])]).tolist()
        [[3, 4], [5, -1]]
    """
    if not items[0].dim():
        return torch.stack(list(items))
    value = float("nan") if items[0].is_floating_point() else -1
    return pad_sequence(list(items), batch_first=True, padding_value=value)


def pad(items: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Stack sequences of different length with a mask.

    Args:
        items: `(layers, steps, width)` each of any float type, or `(steps,)` of ids.

    Returns:
        Values padded with zeros, float32 or ids, and the mask `(batch, steps)`, True where valid.

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
    # float16 is converted while copying, without another copy.
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


def feature_reader(feature_set: FeatureSet, keys: Mapping[str, str]) -> Reader:
    """Read an utterance's features from a feature set, memory-mapped float16.

    Nothing is cached here: the system's page cache serves all processes that map the store.

    Raises:
        StoreError: (on reading) an utterance has no features.
    """

    def read(name: str) -> torch.Tensor:
        if name not in keys:
            raise StoreError(
                f"utterance {name!r} has no features",
                where=feature_set.folder,
                remedy="run `emofuse extract` on its corpus",
            )
        return torch.from_numpy(feature_set.read(keys[name]))

    return read


def fit_statistics(dataset: Dataset, modality: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of a modality over all steps of a dataset, `(layers, width)` each.

    Raises:
        TrainingError: Features of an utterance are not finite, as in a damaged store.
    """
    read = dataset.readers[modality]
    found = statistics_of(read(name) for name in dataset.names)
    if not all(one.isfinite().all() for one in found):
        name = next((name for name in dataset.names if not read(name).isfinite().all()), dataset.names[0])
        raise TrainingError(
            f"{modality} features of utterance {name!r} are not finite",
            remedy="remove the feature store, and the same command computes it again",
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
    """Deviations `(layers, width)`, with 0 for constant features, relative to their layer and kind.

    The deviation of a constant feature is rounding error: divided by it, another value, as from another microphone,
    would outweigh all other features.

    Args:
        mean: Means, `(layers, width)`.
        deviation: Standard deviations, `(layers, width)`.
        kinds: Number of kinds of features in `width`, each with its own scale.

    Example:
        >>> without_constants(torch.zeros(1, 4), torch.tensor([[1.0, 2.0, 3.0, 1e-4]])).tolist()
        [[1.0, 2.0, 3.0, 0.0]]
    """
    by_kind = deviation.reshape(len(deviation), kinds, -1)
    varies = by_kind > ROUNDING * mean.reshape(by_kind.shape).abs()
    # The median of varying ones: nearly half of the bands of telephone speech are constant.
    floor = CONSTANT * by_kind.where(varies, torch.nan).nanmedian(-1, keepdim=True).values
    return by_kind.where(varies & (by_kind > floor), 0.0).reshape(deviation.shape)
