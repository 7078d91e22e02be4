"""A model of the user's own recordings, on the built-in speech encoder, beside the built-in model on the same ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from emofuse.audio import LONGEST_UTTERANCE, read_audio
from emofuse.errors import EmofuseError
from emofuse.experiment import Outcome, run
from emofuse.inference.predictor import load
from emofuse.manifest import read_manifest, utterances
from emofuse.names import key
from emofuse.progress import Progress, Silent, track
from emofuse.recipe import Recipe
from emofuse.scoring.inference import paired_difference
from emofuse.scoring.record import AnyEntry, Comparison
from emofuse.scoring.result import corrected, evaluate
from emofuse.scoring.table import Scores, make_scores, read_scores
from emofuse.training.folder import MANIFEST

OWN, BUILTIN = "own", "built-in"
"""Names of the two models in the result."""


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """A model of own recordings, and how it compares.

    Attributes:
        outcome: Of its run; the kept model is in `models/speech` of the run folder.
        models: Figures by model, on recordings that its training did not see. Those of the built-in model, by voice
            alone, are on the recordings whose label it knows; without such there are none.
        comparison: Own minus built-in model, where both know the same labels.
    """

    outcome: Outcome
    models: Mapping[str, AnyEntry]
    comparison: Comparison | None


def adapt(
    recipe: Recipe,
    table: Path,
    out: Path,
    *,
    columns: Mapping[str, str] | None = None,
    jobs: int | None = None,
    device: str = "cpu",
    command: str = "",
    progress: Progress = Silent(),
) -> Adapted:
    """Train a model of a table's recordings, test it by cross-validation, and compare the built-in model.

    Folds are of speakers where the table names them, else of utterances, which is noted as optimistic.

    Args:
        recipe: A recipe with the model `speech`, such as `adapt`.
        table: Table with `audio` and `label`, and `speaker` where known.
        out: Run folder.
        columns: The table's name for a manifest column, where it differs.
        jobs: Parallel processes; by default one a core.
        device: Where to compute, as torch names it.
        command: What the user typed, for the report.
        progress: Reports progress.

    Raises:
        EmofuseError: The first thing that a person has to fix.
    """
    outcome = run(
        recipe, "table", table, out, columns=columns, jobs=jobs, device=device, command=command, progress=progress
    )
    own = _named(read_scores(out / "scores.parquet").of("speech"), OWN)
    models = {OWN: evaluate(own)[OWN]}
    theirs = _builtin(own, read_manifest(out / MANIFEST), device=device, progress=progress)
    if theirs is None:
        return Adapted(outcome=outcome, models=models, comparison=None)
    models[BUILTIN] = evaluate(theirs)[BUILTIN]
    comparison = None
    if set(own.classes) == set(theirs.classes):
        (found,) = corrected([paired_difference(own, theirs)])
        comparison = Comparison(first=OWN, second=BUILTIN, **found)
    return Adapted(outcome=outcome, models=models, comparison=comparison)


def _named(scores: Scores, name: str) -> Scores:
    return Scores(scores.frame.assign(model=name), scores.classes)


def _builtin(own: Scores, manifest: pd.DataFrame, *, device: str, progress: Progress) -> Scores | None:
    """Scores of the built-in model for the tested recordings whose label it knows; None without such."""
    predictor = load(asr="none", device=device)
    spelt = {key(name): name for name in own.classes}
    classes = {name: spelt.get(key(name), name) for name in predictor.classes}
    known = own.frame[own.frame["label"].isin(classes.values())].drop_duplicates("utterance")
    rows = known[[column for column in known.columns if column not in (*own.classes, "seed", "model")]]
    recordings = {one.utterance: one for one in utterances(manifest)}
    found = []
    for name in track(rows["utterance"], "Predicting", total=len(rows), progress=progress):
        one = recordings[name]
        assert one.audio is not None  # noqa: S101  # It was tested by its sound.
        try:
            clip = read_audio(one.audio, start=one.start, end=one.end, longest=LONGEST_UTTERANCE).samples
            posteriors = predictor.predict(clip).posteriors
            found.append({"utterance": name, **{classes[label]: value for label, value in posteriors.items()}})
        except EmofuseError:
            # The own model read it, at training; a file that has gone since counts for neither.
            continue
    if not found:
        return None
    frame = rows.merge(pd.DataFrame(found), on="utterance")
    return make_scores(frame, source="the built-in model", model=BUILTIN)
