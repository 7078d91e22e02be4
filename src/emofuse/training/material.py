"""What units train on: where the features of every utterance lie, and the readers made from it in each process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from emofuse.encoders.words import WordPieces
from emofuse.features.dataset import Dataset, Reader, view_reader
from emofuse.features.store import View, ViewKey
from emofuse.models import InputShape
from emofuse.settings import Granularity, ModelKind, Recipe

CLUSTERS = ("speaker", "session", "dialogue")


def granularity_of(kind: ModelKind, recipe: Recipe) -> Granularity:
    """Which view of the speech features a model reads: co-attention needs frames."""
    return "frame" if kind == "early" else recipe.model.speech_granularity


def streams_of(kind: ModelKind) -> tuple[str, ...]:
    """Which streams a model reads."""
    return (kind,) if kind in ("speech", "text") else ("speech", "text")


def trained_kinds(recipe: Recipe) -> tuple[ModelKind, ...]:
    """The models that a recipe has to train: `late` is joined from speech and text, which it brings with it."""
    wanted = [kind for kind in recipe.models if kind != "late"]
    parts: list[ModelKind] = ["speech", "text"] if "late" in recipe.models else []
    return tuple(dict.fromkeys([*(kind for kind in parts if kind not in wanted), *wanted]))


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
        text: View of the text; None where word pieces are trained with the model.
        text_keys: Content key of every utterance's text.
        texts: The words, where word pieces are trained.
    """

    recipe: Recipe
    classes: tuple[str, ...]
    labels: Mapping[str, str]
    clusters: pd.DataFrame
    store: Path
    speech: Mapping[str, ViewKey] = field(default_factory=dict)
    speech_keys: Mapping[str, str] = field(default_factory=dict)
    text: ViewKey | None = None
    text_keys: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        # Readers stay behind: every process opens the store for itself.
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def word_pieces(self, kind: ModelKind, names: Sequence[str]) -> WordPieces | None:
        """Learn word pieces from the words of training utterances, where the model trains its own."""
        if self.text is not None or "text" not in streams_of(kind):
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
        key = self.text if stream == "text" else self.speech[granularity_of(kind, self.recipe)]
        assert key is not None  # noqa: S101
        return InputShape(len(key.specification.selected), key.specification.width)

    def dataset(self, kind: ModelKind, names: Sequence[str], pieces: WordPieces | None) -> Dataset:
        """Utterances with what the model reads of them."""
        index = {name: number for number, name in enumerate(self.classes)}
        labels = {name: index[self.labels[name]] for name in names}
        readers: dict[str, Reader] = {}
        for stream in streams_of(kind):
            if stream == "speech":
                readers[stream] = self._speech_readers[granularity_of(kind, self.recipe)]
            elif pieces is not None:
                readers[stream] = self._piece_reader(pieces)
            else:
                assert self._text_reader is not None  # noqa: S101
                readers[stream] = self._text_reader
        return Dataset(names, labels, readers)

    def _piece_reader(self, pieces: WordPieces) -> Reader:
        def read(name: str) -> torch.Tensor:
            return pieces.encode([self.texts[name]])[0]

        return read

    @cached_property
    def _speech_readers(self) -> dict[str, Reader]:
        return {name: view_reader(View(self.store, key), self.speech_keys) for name, key in self.speech.items()}

    @cached_property
    def _text_reader(self) -> Reader | None:
        return None if self.text is None else view_reader(View(self.store, self.text), self.text_keys)
