"""Ensembles: the scores of several models fused, and the controls that they must beat."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import count, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emofuse.plan import EnsemblePlan, Plan
from emofuse.protocols import FINAL
from emofuse.scoring.fuse import Array, Fusion, cross_fits, fit_fusion
from emofuse.scoring.table import Scores, join_scores
from emofuse.training.trials import referred_name


def fuse_members(
    plan: Plan, tested: Mapping[str, Scores], validated: Mapping[str, Scores]
) -> tuple[list[Scores], dict[str, dict[str, Fusion]]]:
    """Fuse the test scores of networks for every ensemble of different models.

    Weights and temperatures of a fold are learned from the test scores of the other folds (see `cross_fits`), those of
    the kept models from the test scores of all folds: predictions for unseen utterances, by models that were trained
    (and refitted) like the one in use. A single fold uses its validation part, which also chose the epochs.

    Args:
        plan: Which ensembles, and how they are fused.
        tested: Test scores of each network, rows in the same order.
        validated: Validation scores of each network, rows in the same order.

    Returns:
        Scores of each ensemble, and its fusion by fold; `final` for the kept model.
    """
    first, held_out = (next(iter(tables.values())) for tables in (tested, validated))
    outputs = {name: scores.outputs() for name, scores in tested.items()}
    validation = {name: scores.outputs() for name, scores in validated.items()}
    truth = first.truth()
    ensembles = [one for one in plan.ensembles if one.seeds is None]
    fused = {one.name: np.empty(outputs[first.models[0]].shape) for one in ensembles}
    how: dict[str, dict[str, Fusion]] = {name: {} for name in fused}

    def learn(known: Mapping[str, Array], wanted: NDArray[Any], *, fold: str) -> dict[str, Fusion]:
        found: dict[str, Fusion] = {}
        values = dict(known)
        for one in ensembles:
            stacked = np.stack([values[member] for member in one.of])
            how[one.name][fold] = found[one.name] = fit_ensemble(one, stacked, wanted)
            values[one.name] = found[one.name](stacked, names=one.of)
        return found

    for fold, test, others in cross_fits(first):
        rows = others if others.any() else (held_out.frame["fold"] == fold).to_numpy()
        source, wanted = (outputs, truth) if others.any() else (validation, held_out.truth())
        found = learn({name: values[rows] for name, values in source.items()}, wanted[rows], fold=fold)
        values = {name: one[test] for name, one in outputs.items()}
        for one in ensembles:
            values[one.name] = found[one.name](np.stack([values[member] for member in one.of]), names=one.of)
            fused[one.name][test] = values[one.name]
    learn(outputs, truth, fold=FINAL)
    return [_scores(first, name, values) for name, values in fused.items()], how


def fuse_referred(plan: Plan, referred: Mapping[str, Scores], how: Mapping[str, Mapping[str, Fusion]]) -> list[Scores]:
    """Scores with references, and those of ensembles of them, fused as without.

    Args:
        plan: Which ensembles.
        referred: Scores of networks with references, rows in the same order.
        how: Fusion of each ensemble by fold.
    """
    outputs = {name: scores.outputs() for name, scores in referred.items()}
    first = next(iter(referred.values()), None)
    for one in plan.ensembles:
        if first is None or one.seeds is not None or not set(one.of) <= outputs.keys():
            continue
        values, folds = np.stack([outputs[member] for member in one.of]), first.frame["fold"].to_numpy(dtype=str)
        outputs[one.name] = np.empty(values.shape[1:])
        for fold in sorted(set(folds)):
            rows = folds == fold
            outputs[one.name][rows] = how[one.name][fold](values[:, rows], names=one.of)
    return [_scores(first, referred_name(name), values) for name, values in outputs.items() if first is not None]


def fit_ensemble(one: EnsemblePlan, outputs: Array, truth: NDArray[Any]) -> Fusion:
    """Fit the fusion of an ensemble, on predictions that are not reported.

    Args:
        one: The ensemble.
        outputs: Posteriors or values of its members, `(members, rows, outputs)`.
        truth: Class indices, `(rows,)`, or values.
    """
    if isinstance(one.weights, tuple):
        fixed = np.asarray(one.weights) / sum(one.weights)
        found = fit_fusion(outputs, truth, rule=one.rule, calibrated=one.calibrate)
        return replace(found, weights=tuple(fixed.tolist()))
    return fit_fusion(outputs, truth, rule=one.rule, tuned=one.weights == "tuned", calibrated=one.calibrate)


def fusion_notes(plan: Plan, *, folds: int) -> list[str]:
    """The caution for a protocol of one fold, without other folds to learn from."""
    learned = [one.name for one in plan.ensembles if one.weights == "tuned" or one.calibrate]
    if folds > 1 or not learned:
        return []
    return [
        f"there are no other folds, so the weights or temperatures of {', '.join(learned)} were learned on the "
        "validation part, which chose the epochs too"
    ]


def _scores(like: Scores, model: str, outputs: Array) -> Scores:
    frame = like.frame.assign(model=model)
    frame[list(like.names)] = outputs
    return replace(like, frame=frame)


def seeds_of(control: EnsemblePlan, plan: Plan) -> tuple[int, ...]:
    """Seeds of a control's network: the plan's, and the smallest others if these are too few."""
    extra = (seed for seed in count() if seed not in plan.seeds)
    return (*plan.seeds, *islice(extra, max(0, (control.seeds or 0) - len(plan.seeds))))


def choose_controls(plan: Plan, validated: Mapping[str, Scores]) -> dict[str, tuple[EnsemblePlan, ...]]:
    """The controls of each ensemble: its best network, and `speech`, each with as many seeds as it has networks.

    The best network has the highest validation UA, or CCC, averaged over folds and seeds; test scores are not read.

    Args:
        plan: Which ensembles there are.
        validated: Validation scores of each network.
    """
    if not plan.controls:
        return {}
    value = {name: _validation_metric(scores) for name, scores in validated.items()}
    return {
        one.name: tuple(
            _control(name, len(one.networks), calibrate=one.calibrate)
            for name in dict.fromkeys((max(one.networks, key=value.__getitem__), "speech"))
            if name in value
        )
        for one in plan.ensembles
        if one.seeds is None and len(one.networks) > 1
    }


def _control(network: str, seeds: int, *, calibrate: bool) -> EnsemblePlan:
    return EnsemblePlan(
        name=f"{network} x {seeds}",
        of=(network,),
        networks=(network,) * seeds,
        calibrate=calibrate,
        seeds=seeds,
        certainty="control",
    )


def extra_seeds(plan: Plan, controls: Iterable[EnsemblePlan]) -> list[tuple[str, int]]:
    """Networks and seeds that are trained for controls only, each once."""
    needed = {(one.of[0], seed) for one in controls for seed in seeds_of(one, plan)}
    return sorted((name, seed) for name, seed in needed if seed not in plan.seeds)


def _validation_metric(scores: Scores) -> float:
    truth, outputs, kind = scores.truth(), scores.outputs(), scores.kind
    trials = scores.frame.groupby(["seed", "fold"], sort=True).indices.values()
    return float(np.mean([kind.metrics(truth[rows], outputs[rows])[kind.decisive] for rows in trials]))


def fuse_seeds(control: EnsemblePlan, plan: Plan, tested: Scores, validated: Scores) -> Scores:
    """Fuse one network's seeds by the mean of their posteriors.

    There is one fusion per seed of the plan if each can use different seeds; a control that needs all seeds is fused
    once, as the first.

    Args:
        control: Which network, and how many seeds.
        plan: Its seeds are those of the ensemble.
        tested: Test scores of the network with every seed of the control.
        validated: Its validation scores.
    """
    pool, members = seeds_of(control, plan), control.seeds or 1
    tables = {seed: _of_seed(tested, seed) for seed in pool}
    held_out = {seed: _of_seed(validated, seed) for seed in pool}
    fused = []
    for number, seed in enumerate(plan.seeds if members < len(pool) else plan.seeds[:1]):
        drawn = [pool[(number + step) % len(pool)] for step in range(members)]
        first = tables[drawn[0]]
        outputs, known = (np.stack([some[one].outputs() for one in drawn]) for some in (tables, held_out))
        values = np.empty(outputs.shape[1:])
        for fold, test, others in cross_fits(first):
            if others.any():
                rows, source, truth = others, outputs, first.truth()
            else:
                rows, source = (held_out[drawn[0]].frame["fold"] == fold).to_numpy(), known
                truth = held_out[drawn[0]].truth()
            how = fit_ensemble(control, source[:, rows], truth[rows])
            values[test] = how(outputs[:, test], names=control.of * members)
        fused.append(_scores(replace(first, frame=first.frame.assign(seed=seed)), control.name, values))
    return join_scores(fused)


def _of_seed(scores: Scores, seed: int) -> Scores:
    return replace(scores, frame=scores.frame[scores.frame["seed"] == seed].reset_index(drop=True))
