"""The stored features of a run as arrays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from emofuse.align.table import read_alignments
from emofuse.errors import ScoresError, StoreError
from emofuse.features.extract import audio_keys, text_keys
from emofuse.features.store import FeatureKey, FeatureSet
from emofuse.manifest import read_manifest
from emofuse.scoring.record import read_result
from emofuse.types import EncoderSpecification

_AGAIN = "name the folder that `emofuse run` wrote"


def read_features(
    run: Path | str, modality: Literal["speech", "text"], *, step: str | None = None, store: Path | str | None = None
) -> tuple[list[str], list[NDArray[np.float32]]]:
    """Read the features of a run's utterances.

    Args:
        run: The run folder.
        modality: `speech` or `text`.
        step: Kind of step: `frame`, `utterance`, `phone-mean`, `token`, ...; needed if several are stored.
        store: The feature store, if it is outside the run folder.

    Returns:
        Names of utterances, in the manifest's order, and features of each, `(layers, steps, width)`: one step if
        the step is the utterance.

    Raises:
        StoreError: There is no finished run, it stored no such features, or several kinds of them.

    Example:
        >>> read_features("no-such-run", "speech")
        Traceback (most recent call last):
        emofuse.errors.StoreError: no-such-run: there is no finished run here; name the folder that `emofuse run` wrote.
    """
    run = Path(run)
    try:
        result = read_result(run)
    except ScoresError as error:
        raise StoreError("there is no finished run here", where=run, remedy=_AGAIN) from error
    revision = result.encoders[modality].revision if modality in result.encoders else None
    place = Path(store) if store else run / "features"
    feature_set = _choose(_views(place, modality, revision), step, place)
    manifest = read_manifest(run / "manifest.parquet")
    if modality == "text":
        keys = text_keys(manifest, context=result.context)
    else:
        aligned = run / "alignments.parquet"
        keys, _ = audio_keys(manifest, read_alignments(aligned) if feature_set.key.aligned and aligned.exists() else {})
    there = [(name, key) for name, key in keys.items() if key in feature_set]
    return [name for name, _ in there], [feature_set.read(key).astype(np.float32) for _, key in there]


def _views(store: Path, modality: str, revision: Any) -> Iterator[FeatureSet]:
    for about in sorted(store.glob(f"{modality}-*/about.json")):
        try:
            values = json.loads(about.read_text(encoding="utf-8"))
            key = FeatureKey(**{**values, "specification": EncoderSpecification(**values["specification"])})
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise StoreError("this is no description of features", where=about, remedy="extract them again") from error
        if key.specification.revision == revision:
            yield FeatureSet(store, key)


def _choose(feature_sets: Iterator[FeatureSet], step: str | None, place: Path) -> FeatureSet:
    found = {feature_set.key.granularity: feature_set for feature_set in feature_sets}
    chosen = [feature_set for name, feature_set in found.items() if step in (None, name)]
    if len(chosen) != 1:
        what = "there are no such features" if not chosen else "there are several kinds of features"
        remedy = f"choose step from {', '.join(found)}" if found else "run a recipe that reads this modality"
        raise StoreError(what, where=place, remedy=remedy)
    return chosen[0]
