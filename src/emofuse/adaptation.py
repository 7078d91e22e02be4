"""A model of the user's own recordings, on the built-in speech encoder, beside the built-in model on the same ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from emofuse.audio import LONGEST_UTTERANCE, read_audio
from emofuse.corpora import read_corpus
from emofuse.errors import EmofuseError, ManifestError, SettingsError
from emofuse.experiment import Outcome, run
from emofuse.inference.predictor import load
from emofuse.manifest import read_manifest, utterances
from emofuse.names import key
from emofuse.plan import resolve
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
        own: Its figures, on recordings that its training did not see.
        builtin: Those of the built-in model, by voice alone, on the recordings whose label it knows; None without such.
        comparison: Own minus built-in model, where both know the same labels.
    """

    outcome: Outcome
    own: AnyEntry
    builtin: AnyEntry | None
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
    plan = resolve(recipe)
    if [model.name for model in plan.models] != ["speech"] or plan.task.values:
        raise SettingsError(
            "own recordings are adapted to by one model, `speech`, that predicts classes",
            where=recipe.name,
            remedy="leave out these settings, or use `emofuse run`",
        )
    rows = read_corpus("table", table, columns=columns).manifest
    if mute := sorted(rows["utterance"][rows["audio"].isna()]):
        raise ManifestError(
            f"{len(mute)} rows have no audio, such as {mute[0]!r}",
            where=table,
            remedy="fill in column audio, or leave these rows out",
        )
    outcome = run(
        recipe, "table", table, out, columns=columns, jobs=jobs, device=device, command=command, progress=progress
    )
    scores = read_scores(out / "scores.parquet").of("speech")
    own = replace(scores, frame=scores.frame.assign(model=OWN))
    theirs = _builtin(own, read_manifest(out / MANIFEST), device=device, progress=progress)
    comparison = None
    if theirs is not None and set(own.classes) == set(theirs.classes):
        both = own.frame["utterance"].isin(theirs.frame["utterance"])
        (found,) = corrected([paired_difference(replace(own, frame=own.frame[both]), theirs)])
        comparison = Comparison(first=OWN, second=BUILTIN, **found)
    return Adapted(
        outcome=outcome,
        own=evaluate(own)[OWN],
        builtin=None if theirs is None else evaluate(theirs)[BUILTIN],
        comparison=comparison,
    )


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
            # Training has read it, so that it has gone or changed since.
            continue
    if not found:
        return None
    frame = rows.merge(pd.DataFrame(found), on="utterance")
    return make_scores(frame, source="the built-in model", model=BUILTIN)
