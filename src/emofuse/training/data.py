"""Data of trials: locations of features, and readers that each process makes from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from emofuse.encoders.words import Subwords
from emofuse.errors import ManifestError
from emofuse.features.dataset import Dataset, Reader, feature_reader
from emofuse.features.extras import EXTRAS, Facts
from emofuse.features.reference import Handfuls
from emofuse.features.store import FeatureKey, FeatureSet
from emofuse.manifest import utterances, vote_fractions
from emofuse.models.base import Shapes
from emofuse.plan import ModelPlan, Plan, pools_frames, shapes_of
from emofuse.protocols import Protocol
from emofuse.settings import Granularity, SpeechSettings, TextSettings
from emofuse.task import Classification, Regression, Task
from emofuse.types import EncoderSpecification

CLUSTERS = ("speaker", "session", "dialogue")


def check_modalities(manifest: pd.DataFrame, modalities: Iterable[str]) -> None:
    """Check that a manifest has the models' inputs.

    Raises:
        ManifestError: An utterance lacks audio, or all of them text.
    """
    silent = manifest["audio"].isna()
    if "speech" in modalities and silent.any():
        raise ManifestError(
            f"utterance {manifest['utterance'][silent].iloc[0]!r} has no audio",
            remedy="use a recipe or model that reads text only, such as `text`",
        )
    if "text" in modalities and manifest["text"].isna().all():
        raise ManifestError(
            "no utterance has text", remedy="use a recipe or model that reads speech only, such as `speech`"
        )


def task_of(plan: Plan, protocol: Protocol) -> Task:
    """The task of a plan for a protocol's utterances."""
    if plan.task.values:
        return Regression(plan.task.values, plan.task.loss)
    return Classification(protocol.classes)


def facts_of(manifest: pd.DataFrame, plan: Plan, protocol: Protocol) -> dict[str, Facts]:
    """Facts about every utterance, from which extras and targets are made.

    Raises:
        ManifestError: A model learns from votes, and there are none.
    """
    classes, merge = protocol.classes, plan.protocol.merge
    asked = {extra for one in plan.models for extra in one.inputs.extras}
    votes = vote_fractions(manifest, classes, merge=merge) if plan.learns_votes or "votes" in asked else {}
    columns = {one.removeprefix("values."): one for one in manifest.columns if one.startswith("values.")}
    known = manifest.set_index("utterance")
    values = {
        name: {one: float(row[column]) for one, column in columns.items()}
        for name, row in known[list(columns.values())].to_dict("index").items()
    }
    gender = known["gender"].dropna().to_dict() if "gender" in known else {}
    return {
        row.utterance: Facts(
            text=row.text or "",
            gender=gender.get(row.utterance),
            votes=votes.get(row.utterance, ()),
            values=values.get(row.utterance, {}),
        )
        for row in utterances(manifest)
    }


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Everything a trial needs, small enough to be sent to another process.

    Attributes:
        task: The task.
        truth: Class index, or values, of every utterance.
        clusters: Speaker, session and dialogue of every utterance, indexed by utterance.
        store: Folder of the feature store.
        speech_settings: Settings of speech features.
        text_settings: Settings of text features.
        speech: Feature sets of speech by granularity.
        speech_keys: Content key of every utterance's audio.
        bounds: Bounds of steps in frames, by granularity and content key, where models pool frames.
        text: Feature sets of the text by granularity; empty where subwords are trained with the model.
        text_keys: Content key of every utterance's text.
        facts: Transcripts, and sources of extras.
    """

    task: Task
    truth: Mapping[str, int | tuple[float, ...]]
    clusters: pd.DataFrame
    store: Path
    speech_settings: SpeechSettings
    text_settings: TextSettings
    speech: Mapping[str, FeatureKey] = field(default_factory=dict)
    speech_keys: Mapping[str, str] = field(default_factory=dict)
    bounds: Mapping[str, Mapping[str, NDArray[np.int32]]] = field(default_factory=dict)
    text: Mapping[str, FeatureKey] = field(default_factory=dict)
    text_keys: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Facts] = field(default_factory=dict)

    @cached_property
    def content_keys(self) -> Mapping[str, str]:
        """Key of every utterance's audio without its alignment."""
        return {name: key.partition("+")[0] for name, key in self.speech_keys.items()}

    def __getstate__(self) -> dict[str, Any]:
        # Readers are not sent: every process opens the store itself.
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @property
    def encoders(self) -> dict[str, EncoderSpecification]:
        """Specification of each modality's encoder, if any."""
        found = {"speech": self.speech, "text": self.text}
        return {modality: next(iter(keys.values())).specification for modality, keys in found.items() if keys}

    def subwords(self, model: ModelPlan, names: Sequence[str]) -> Subwords | None:
        """Learn subwords from the transcripts of training utterances, where the model trains its own."""
        if self.text or "text" not in model.inputs.modalities:
            return None
        settings = self.text_settings
        return Subwords.fit(
            [self.facts[name].text for name in names], size=settings.vocabulary, max_tokens=settings.max_tokens
        )

    def shapes(self, model: ModelPlan, subwords: Subwords | None) -> Shapes:
        """Shapes of the model's inputs."""
        size = subwords.size if subwords is not None else None
        return shapes_of(model.inputs, self.speech_settings, self.encoders, subwords=size)

    def dataset(
        self, model: ModelPlan, names: Sequence[str], subwords: Subwords | None, *, handfuls: Handfuls | None = None
    ) -> Dataset:
        """Utterances with the model's inputs, and references where they are drawn."""
        readers: dict[str, Reader] = {}
        bounds, steps = None, model.inputs.steps
        if steps and pools_frames(model.inputs, self.speech_settings):
            # All granularities that the model pools are stored as the same frames.
            readers["speech"] = self._speech_readers[steps[-1]]
            bounds = self._bounds_reader(steps)
        elif steps:
            readers["speech"] = _in_a_row([self._speech_readers[step] for step in steps])
        if model.inputs.text and subwords is not None:
            readers["text"] = self._subword_reader(subwords)
        elif model.inputs.text:
            readers["text"] = self._text_readers[model.inputs.text.step]
        return Dataset(
            names,
            {name: self.truth[name] for name in names},
            readers,
            bounds=bounds,
            targets=self.target if model.train.soft_labels else None,
            extras={extra: self._extra_reader(extra) for extra in model.inputs.extras},
            references=handfuls,
        )

    def handfuls(self, model: ModelPlan, names: Sequence[str], **how: Any) -> Handfuls | None:
        """Draws references of utterances from each other; None for a model that takes none.

        Args:
            model: The model.
            names: The utterances.
            **how: See `Handfuls`.
        """
        if not model.takes_references:
            return None
        known = self.clusters["speaker"].reindex(list(names)).dropna()
        speakers = dict(zip(map(str, known.index), map(str, known), strict=True))
        return Handfuls(self._speech_readers[model.inputs.steps[-1]], speakers, **how)

    def target(self, name: str) -> torch.Tensor:
        """Fraction of each class in the target of an utterance: its votes, or else its label."""
        alone = [float(index == self.truth[name]) for index in range(self.task.outputs)]
        return torch.tensor(list(self.facts[name].votes) or alone)

    def truths(self, names: Sequence[str]) -> NDArray[Any]:
        """Class indices `(utterances,)`, or values `(utterances, values)`."""
        return np.array([self.truth[name] for name in names])

    def _bounds_reader(self, steps: Sequence[Granularity]) -> Reader:
        def read(name: str) -> torch.Tensor:
            key = self.speech_keys[name]
            return torch.from_numpy(np.concatenate([self.bounds[step][key] for step in steps]))

        return read

    def _subword_reader(self, subwords: Subwords) -> Reader:
        def read(name: str) -> torch.Tensor:
            return subwords.encode([self.facts[name].text])[0]

        return read

    def _extra_reader(self, extra: str) -> Reader:
        def read(name: str) -> torch.Tensor:
            return EXTRAS[extra](self.facts[name])

        return read

    @cached_property
    def _speech_readers(self) -> dict[str, Reader]:
        return {
            name: feature_reader(FeatureSet(self.store, key), self.speech_keys) for name, key in self.speech.items()
        }

    @cached_property
    def _text_readers(self) -> dict[str, Reader]:
        return {name: feature_reader(FeatureSet(self.store, key), self.text_keys) for name, key in self.text.items()}


def _in_a_row(readers: Sequence[Reader]) -> Reader:
    if len(readers) == 1:
        return readers[0]

    def read(name: str) -> torch.Tensor:
        return torch.cat([reader(name) for reader in readers], dim=1)

    return read
