"""Ensembles: models joined from the scores of others, and the controls that they must beat."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
from numpy.typing import NDArray

from emofuse.protocols import FINAL
from emofuse.scoring.fuse import Array, Joining, cross_fits, fit_joining
from emofuse.scoring.metrics import answers, confusion, unweighted_accuracy
from emofuse.scoring.table import Scores, join_scores
from emofuse.settings import ModelKind, Recipe
from emofuse.training.material import joined_kinds, members_of, parts_of, trained_kinds

Joinings = dict[ModelKind, Joining]


def is_calibrated(kind: ModelKind, recipe: Recipe) -> bool:
    """Whether the members of an ensemble are calibrated before they are joined.

    Networks of both streams are more confident than they are right, a product of posteriors less: averaged as they
    are, the early level would outweigh the late one.
    """
    return kind == "multi-level" and recipe.model.final == "levels"


def join_members(
    recipe: Recipe, tested: Mapping[ModelKind, Scores], validated: Mapping[ModelKind, Scores]
) -> tuple[list[Scores], dict[ModelKind, dict[str, Joining]]]:
    """Join the test scores of networks into those of every ensemble of a recipe.

    Weights and temperatures of a fold are learned from the test scores of the other folds (see `cross_fits`), those of
    the models that are kept from the test scores of all folds: always answers of models that were trained as the
    one that is used was, refitted where it is, about utterances that they had not seen. A protocol of one fold has no
    other: there its validation part, which also chose the epochs, is the only one left for the fold itself.

    Args:
        recipe: Which ensembles, and how they are joined.
        tested: Test scores of each network, rows in the same order.
        validated: Validation scores of each network, rows in the same order.

    Returns:
        Scores of each ensemble, and how it was joined, by fold; `final` for the model that is kept.
    """
    kinds = trained_kinds(recipe)
    first, held_out = tested[kinds[0]], validated[kinds[0]]
    posteriors = {kind: tested[kind].posteriors() for kind in kinds}
    validation = {kind: validated[kind].posteriors() for kind in kinds}
    labels = first.labels()
    joined = {kind: np.empty((len(labels), len(first.classes))) for kind in joined_kinds(recipe)}
    how: dict[ModelKind, dict[str, Joining]] = {kind: {} for kind in joined}

    def learn(known: Mapping[ModelKind, Array], truth: NDArray[np.int64], *, fold: str) -> Joinings:
        found: Joinings = {}
        for kind in joined:
            settings = recipe.model
            found[kind] = fit_joining(
                _stacked(kind, recipe, known, found),
                truth,
                # The final system is a mean of posteriors; how speech and text alone are joined is its own choice.
                rule=settings.late_rule if kind == "late" else "mean",
                tuned=settings.late_weights == "tuned",
                calibrated=is_calibrated(kind, recipe),
            )
            how[kind][fold] = found[kind]
        return found

    for fold, test, others in cross_fits(first):
        rows = others if others.any() else (held_out.frame["fold"] == fold).to_numpy()
        source, truth = (posteriors, labels) if others.any() else (validation, held_out.labels())
        found = learn({kind: values[rows] for kind, values in source.items()}, truth[rows], fold=fold)
        for kind in joined:
            stacked = _stacked(kind, recipe, {name: values[test] for name, values in posteriors.items()}, found)
            joined[kind][test] = found[kind](stacked, names=parts_of(kind, recipe))
    learn(posteriors, labels, fold=FINAL)
    return [_scores(first, kind, values) for kind, values in joined.items()], how


def joining_notes(recipe: Recipe, *, folds: int) -> list[str]:
    """What must be said where a protocol has one fold only, and there is none to learn from."""
    tuned = recipe.model.late_weights == "tuned"
    learned = [kind for kind in joined_kinds(recipe) if tuned or is_calibrated(kind, recipe)]
    if folds > 1 or not learned:
        return []
    return [
        f"there are no other folds, so the weights or temperatures of {', '.join(learned)} were learned on the "
        "validation part, which chose the epochs too"
    ]


def _stacked(
    kind: ModelKind, recipe: Recipe, posteriors: Mapping[ModelKind, Array], found: Mapping[ModelKind, Joining]
) -> Array:
    """Posteriors of the members of an ensemble, `(members, rows, classes)`, where members are ensembles too."""
    parts = parts_of(kind, recipe)
    return np.stack(
        [
            posteriors[part]
            if part in posteriors
            else found[part](_stacked(part, recipe, posteriors, found), names=parts_of(part, recipe))
            for part in parts
        ]
    )


def _scores(like: Scores, model: str, posteriors: Array) -> Scores:
    frame = like.frame.assign(model=model)
    frame[list(like.classes)] = posteriors
    return Scores(frame, like.classes)


@dataclass(frozen=True)
class Control:
    """The same network trained with several seeds and averaged: what an ensemble of as many networks must beat.

    Attributes:
        kind: The network.
        members: Number of seeds.
        calibrated: Whether its members are calibrated, as those of the ensemble are.
    """

    kind: ModelKind
    members: int
    calibrated: bool

    @property
    def name(self) -> str:
        """Its name in tables."""
        return f"{self.kind} x {self.members}"

    def seeds(self, recipe: Recipe) -> tuple[int, ...]:
        """Seeds to train: the recipe's, and the smallest others where these are too few."""
        extra = (seed for seed in count() if seed not in recipe.seeds)
        return (*recipe.seeds, *islice(extra, max(0, self.members - len(recipe.seeds))))


def choose_controls(recipe: Recipe, validated: Mapping[ModelKind, Scores]) -> dict[ModelKind, tuple[Control, ...]]:
    """The controls of each ensemble: its best network, and `speech`, each with as many seeds as it has networks.

    The best network is that of the highest validation UA, averaged over folds and seeds; no test score is read.

    Args:
        recipe: Which ensembles there are.
        validated: Validation scores of each network.
    """
    if not recipe.controls:
        return {}
    ua = {kind: _validation_ua(scores) for kind, scores in validated.items()}
    return {
        kind: tuple(
            Control(one, len(members_of(kind)), is_calibrated(kind, recipe))
            for one in dict.fromkeys((max(members_of(kind), key=ua.__getitem__), "speech"))
            if one in ua
        )
        for kind in joined_kinds(recipe)
    }


def extra_seeds(recipe: Recipe, controls: Mapping[ModelKind, Iterable[Control]]) -> list[tuple[ModelKind, int]]:
    """Networks that are trained for controls alone, with their seeds, each once."""
    needed = {(one.kind, seed) for several in controls.values() for one in several for seed in one.seeds(recipe)}
    return sorted((kind, seed) for kind, seed in needed if seed not in recipe.seeds)


def _validation_ua(scores: Scores) -> float:
    labels, given, classes = scores.labels(), answers(scores.posteriors()), len(scores.classes)
    units = scores.frame.groupby(["seed", "fold"], sort=True).indices.values()
    return float(
        np.mean([unweighted_accuracy(confusion(labels[rows], given[rows], classes=classes)) for rows in units])
    )


def join_control(control: Control, recipe: Recipe, tested: Scores, validated: Scores) -> Scores:
    """Join the scores of one network's seeds into those of the mean of their posteriors.

    It stands once for each seed of the recipe, where that can be done with different seeds each time; where the
    control needs all of them at once it stands for the first.

    Args:
        control: Which network, and how many seeds.
        recipe: Its seeds are those of the ensemble.
        tested: Test scores of the network with every seed of the control.
        validated: Its validation scores.
    """
    pool = control.seeds(recipe)
    tables = {seed: _of_seed(tested, seed) for seed in pool}
    held_out = {seed: _of_seed(validated, seed) for seed in pool}
    joined = []
    for number, seed in enumerate(recipe.seeds if control.members < len(pool) else recipe.seeds[:1]):
        drawn = [pool[(number + step) % len(pool)] for step in range(control.members)]
        first = tables[drawn[0]]
        posteriors, known = (np.stack([some[one].posteriors() for one in drawn]) for some in (tables, held_out))
        values = np.empty(posteriors.shape[1:])
        for fold, test, others in cross_fits(first):
            if others.any():
                rows, source, truth = others, posteriors, first.labels()
            else:
                rows, source = (held_out[drawn[0]].frame["fold"] == fold).to_numpy(), known
                truth = held_out[drawn[0]].labels()
            how = fit_joining(source[:, rows], truth[rows], rule="mean", calibrated=control.calibrated)
            values[test] = how(posteriors[:, test], names=[control.kind] * control.members)
        joined.append(_scores(Scores(first.frame.assign(seed=seed), first.classes), control.name, values))
    return join_scores(joined)


def _of_seed(scores: Scores, seed: int) -> Scores:
    return Scores(scores.frame[scores.frame["seed"] == seed].reset_index(drop=True), scores.classes)
