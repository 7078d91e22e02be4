"""What units train on: where the features of every utterance lie, and the readers made from it in each process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from emofuse.encoders.words import WordPieces
from emofuse.errors import ManifestError
from emofuse.features.dataset import Dataset, Reader, view_reader
from emofuse.features.segments import is_pooled_in_model
from emofuse.features.store import View, ViewKey
from emofuse.models import InputShape
from emofuse.settings import Granularity, ModelKind, Recipe, TextGranularity
from emofuse.types import EncoderSpecification

CLUSTERS = ("speaker", "session", "dialogue")


EARLY: tuple[ModelKind, ...] = ("early-frame", "early-phone", "early-syllable", "early-word")
PARTS: Mapping[ModelKind, tuple[ModelKind, ...]] = {
    "late": ("speech", "text"),
    "multi-granularity": EARLY,
    "multi-level": ("multi-granularity", "late"),
}
"""Models that are joined from the posteriors of others, and of which; a recipe may join the last from all models."""

_EARLY_STEPS: Mapping[ModelKind, tuple[Granularity, ...]] = {
    "early-frame": ("frame",),
    "early-phone": ("phone",),
    "early-syllable": ("syllable",),
    "early-word": ("word",),
    "early-joint": ("frame", "phone", "syllable", "word"),
}


def granularities_of(kind: ModelKind, recipe: Recipe) -> tuple[Granularity, ...]:
    """Which views of the speech features a model reads; steps of several follow one another in one sequence."""
    return _EARLY_STEPS.get(kind) or (recipe.model.speech_granularity,)


def pools_frames(kind: ModelKind, recipe: Recipe) -> bool:
    """Whether a model is given frames and the bounds of its steps; of several granularities, all of them are."""
    return any(is_pooled_in_model(recipe.speech, one) for one in granularities_of(kind, recipe))


def speech_shape(kind: ModelKind, recipe: Recipe, encoder: EncoderSpecification) -> InputShape:
    """What a model reads of speech."""
    width = step_width(granularities_of(kind, recipe)[0], recipe, encoder)
    # Pooled by mean and deviation, each kind comes twice.
    kinds = encoder.kinds * (width // encoder.width)
    return InputShape(len(encoder.selected), width, segments=pools_frames(kind, recipe), kinds=kinds)


def step_width(granularity: Granularity, recipe: Recipe, encoder: EncoderSpecification) -> int:
    """Numbers a step of speech at a granularity."""
    return encoder.width * (2 if recipe.speech.segments == "mean+std" and granularity != "frame" else 1)


def text_granularity_of(kind: ModelKind) -> TextGranularity:
    """What a step of the text is: where speech comes in words, words too."""
    return "word" if kind == "early-word" else "token"


def streams_of(kind: ModelKind) -> tuple[str, ...]:
    """Which streams a model reads."""
    return (kind,) if kind in ("speech", "text") else ("speech", "text")


def check_streams(manifest: pd.DataFrame, kinds: Iterable[ModelKind]) -> None:
    """See that a manifest has what models read.

    Raises:
        ManifestError: An utterance lacks sound, or all of them text.
    """
    streams = {stream for kind in kinds for stream in streams_of(kind)}
    silent = manifest["audio"].isna()
    if "speech" in streams and silent.any():
        raise ManifestError(
            f"utterance {manifest['utterance'][silent].iloc[0]!r} has no audio",
            remedy="use a recipe or model that reads text only, such as `text`",
        )
    if "text" in streams and manifest["text"].isna().all():
        raise ManifestError(
            "no utterance has text", remedy="use a recipe or model that reads speech only, such as `speech`"
        )


def trained_kinds(recipe: Recipe) -> tuple[ModelKind, ...]:
    """The models that a recipe has to train; those that are joined bring their parts with them."""
    wanted = _with_parts(recipe.models)
    return tuple(kind for kind in get_args(ModelKind) if kind in wanted and kind not in PARTS)


def joined_kinds(recipe: Recipe) -> tuple[ModelKind, ...]:
    """The models that a recipe joins from others, parts before what they are part of."""
    wanted = _with_parts(recipe.models)
    return tuple(kind for kind in PARTS if kind in wanted)


def parts_of(kind: ModelKind, recipe: Recipe) -> tuple[ModelKind, ...]:
    """The models that a model is joined from under a recipe, in the order of its weights; none where it is trained."""
    if kind == "multi-level" and recipe.model.final == "models":
        return (*EARLY, "late")
    return PARTS.get(kind, ())


def members_of(kind: ModelKind) -> tuple[ModelKind, ...]:
    """The networks inside a model, each with an input of its own; a network is its own only member."""
    return tuple(one for part in PARTS[kind] for one in members_of(part)) if kind in PARTS else (kind,)


def _with_parts(kinds: Iterable[ModelKind]) -> set[ModelKind]:
    return {one for kind in kinds for one in (kind, *_with_parts(PARTS.get(kind, ())))}


@dataclass(frozen=True, kw_only=True)
class Material:
    """Everything a unit needs, small enough to be sent to another process.

    Attributes:
        recipe: The experiment.
        classes: Emotions, in the order of the models' outputs.
        labels: Class of every utterance.
        clusters: Speaker, session and dialogue of every utterance, indexed by utterance.
        store: Folder of the feature store.
        speech: Views of speech by granularity.
        speech_keys: Content key of every utterance's audio.
        bounds: Which frames belong to each step, by granularity and content key, where models pool frames.
        text: Views of the text by granularity; none where word pieces are trained with the model.
        text_keys: Content key of every utterance's text.
        texts: The words, where word pieces are trained.
        votes: Share of each class in the annotators' votes, of utterances that have any, for soft labels.
    """

    recipe: Recipe
    classes: tuple[str, ...]
    labels: Mapping[str, str]
    clusters: pd.DataFrame
    store: Path
    speech: Mapping[str, ViewKey] = field(default_factory=dict)
    speech_keys: Mapping[str, str] = field(default_factory=dict)
    bounds: Mapping[str, Mapping[str, NDArray[np.int32]]] = field(default_factory=dict)
    text: Mapping[str, ViewKey] = field(default_factory=dict)
    text_keys: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    votes: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @cached_property
    def content_keys(self) -> Mapping[str, str]:
        """Key of every utterance's audio without its alignment."""
        return {name: key.partition("+")[0] for name, key in self.speech_keys.items()}

    def __getstate__(self) -> dict[str, Any]:
        # Readers stay behind: every process opens the store for itself.
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def word_pieces(self, kind: ModelKind, names: Sequence[str]) -> WordPieces | None:
        """Learn word pieces from the words of training utterances, where the model trains its own."""
        if self.text or "text" not in streams_of(kind):
            return None
        settings = self.recipe
        return WordPieces.fit(
            [self.texts[name] for name in names], size=settings.model.vocabulary, max_tokens=settings.text.max_tokens
        )

    def shapes(self, kind: ModelKind, pieces: WordPieces | None) -> tuple[InputShape | None, InputShape | None]:
        """What the model's speech and text inputs look like; None for a stream that it does not take."""
        return self._shape(kind, "speech", pieces), self._shape(kind, "text", pieces)

    def _shape(self, kind: ModelKind, stream: str, pieces: WordPieces | None) -> InputShape | None:
        if stream not in streams_of(kind):
            return None
        if stream == "text" and pieces is not None:
            return InputShape(0, pieces.size)
        if stream == "text":
            encoder = self.text[text_granularity_of(kind)].specification
            return InputShape(len(encoder.selected), encoder.width)
        encoder = self.speech[granularities_of(kind, self.recipe)[0]].specification
        return speech_shape(kind, self.recipe, encoder)

    def dataset(self, kind: ModelKind, names: Sequence[str], pieces: WordPieces | None) -> Dataset:
        """Utterances with what the model reads of them."""
        index = {name: number for number, name in enumerate(self.classes)}
        labels = {name: index[self.labels[name]] for name in names}
        readers: dict[str, Reader] = {}
        bounds = None
        for stream in streams_of(kind):
            found = granularities_of(kind, self.recipe)
            if stream == "speech" and pools_frames(kind, self.recipe):
                # All that is pooled is stored as the same frames.
                readers[stream] = self._speech_readers[found[-1]]
                bounds = self._bounds_reader(found)
            elif stream == "speech":
                readers[stream] = _in_a_row([self._speech_readers[one] for one in found])
            elif pieces is not None:
                readers[stream] = self._piece_reader(pieces)
            else:
                readers[stream] = self._text_readers[text_granularity_of(kind)]
        shares = self.target if self.recipe.train_of(kind).soft_labels else None
        return Dataset(names, labels, readers, bounds=bounds, shares=shares)

    def target(self, name: str) -> torch.Tensor:
        """Fraction of each class in what is learnt of an utterance: its votes, or where it has none its label."""
        alone = [float(one == self.labels[name]) for one in self.classes]
        return torch.tensor(self.votes.get(name, alone))

    def _bounds_reader(self, granularities: Sequence[Granularity]) -> Reader:
        def read(name: str) -> torch.Tensor:
            key = self.speech_keys[name]
            return torch.from_numpy(np.concatenate([self.bounds[one][key] for one in granularities]))

        return read

    def _piece_reader(self, pieces: WordPieces) -> Reader:
        def read(name: str) -> torch.Tensor:
            return pieces.encode([self.texts[name]])[0]

        return read

    @cached_property
    def _speech_readers(self) -> dict[str, Reader]:
        return {name: view_reader(View(self.store, key), self.speech_keys) for name, key in self.speech.items()}

    @cached_property
    def _text_readers(self) -> dict[str, Reader]:
        return {name: view_reader(View(self.store, key), self.text_keys) for name, key in self.text.items()}


def _in_a_row(readers: Sequence[Reader]) -> Reader:
    if len(readers) == 1:
        return readers[0]

    def read(name: str) -> torch.Tensor:
        return torch.cat([reader(name) for reader in readers], dim=1)

    return read
