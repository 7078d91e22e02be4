"""Ensembles from score tables: what their temperatures and weights are learned from, and the controls beside them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import entropy
from sklearn.metrics import balanced_accuracy_score

from emofuse.errors import ScoresError
from emofuse.plan import EnsemblePlan, Plan, resolve
from emofuse.protocols import FINAL
from emofuse.recipe import Recipe
from emofuse.scoring.fuse import Fusion, combine, cross_fits, fuse
from emofuse.scoring.table import Scores, make_scores
from emofuse.training.ensembles import choose_controls, extra_seeds, fuse_members, fuse_seeds, seeds_of

CLASSES = ("angry", "happy", "sad")
SINGLE = ("speech", "text")
EARLY = ("early-frame", "early-phone", "early-syllable", "early-word")
NETWORKS = (*SINGLE, *EARLY)
SEEDS = (0, 1)


def late(**how: Any) -> dict[str, Any]:
    return {"name": "late", "of": SINGLE, "rule": "product", **how}


def plan(*ensembles: Mapping[str, Any], models: Sequence[str] = NETWORKS, seeds: Sequence[int] = SEEDS) -> Plan:
    return resolve(Recipe.model_validate(
        {"name": "made", "models": list(models), "seeds": list(seeds), "ensembles": ensembles}
    ))  # fmt: skip


def levels(*, calibrate: bool = True, **how: Any) -> Plan:
    """Both levels, fused within and then with each other."""
    early = {"name": "multi-granularity", "of": EARLY}
    whole = {"name": "multi-level", "of": ("multi-granularity", "late"), "calibrate": calibrate}
    return plan(early, late(**how), whole)


def tuned(final: str) -> Plan:
    """An ensemble of levels, or of all models, with weights that are searched."""
    if final == "levels":
        return levels(weights="tuned")
    return plan(late(weights="tuned"), {"name": "multi-level", "of": (*EARLY, "late"), "weights": "tuned"})


def table(
    model: str, draw: int, *, seeds: Sequence[int] = SEEDS, folds: int = 3, skill: float = 1.0, sharp: float = 1.0
) -> Scores:
    """Answers of one network about nine speakers, three in each fold; the same utterances whatever the draw."""
    rng = np.random.default_rng(draw)
    rows = [
        {"model": model, "seed": seed, "fold": f"fold-{speaker % folds}", "utterance": f"s{speaker}-{number}",
         "label": CLASSES[(speaker + number) % 3], "speaker": f"s{speaker}"}
        for seed in seeds for speaker in range(9) for number in range(4)
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    logits = rng.normal(size=(len(frame), 3))
    logits[np.arange(len(frame)), frame["label"].map(CLASSES.index)] += skill
    raised = np.exp(sharp * logits)
    frame[list(CLASSES)] = raised / raised.sum(1, keepdims=True)
    return make_scores(frame, source="made")


def tables(names: Sequence[str] = NETWORKS, *, start: int = 0, **how: Any) -> dict[str, Scores]:
    return {name: table(name, start + number, **how) for number, name in enumerate(names)}


def swapped(scores: Scores, rows: Any, *, draw: int = 99) -> Scores:
    """Other labels and posteriors in some rows."""
    frame, rng = scores.frame.copy(), np.random.default_rng(draw)
    frame.loc[rows, list(CLASSES)] = rng.dirichlet(np.ones(3), int(rows.sum()))
    frame.loc[rows, "label"] = np.random.default_rng(1).permutation(frame.loc[rows, "label"])
    return Scores(frame, scores.classes)


# What a fold may learn from


def test_a_fold_learns_from_speakers_that_it_does_not_test() -> None:
    scores = table("speech", 0)
    found = {fold: (test, others) for fold, test, others in cross_fits(scores)}
    assert list(found) == ["fold-0", "fold-1", "fold-2"]
    for fold, (test, others) in found.items():
        assert list(test) == list(scores.frame["fold"] == fold)
        assert list(others) == [not one for one in test]


def test_a_speaker_in_two_folds_is_learned_from_in_neither() -> None:
    frame = table("speech", 0).frame
    frame.loc[frame["utterance"] == "s1-0", "fold"] = "fold-0"
    for _, test, others in cross_fits(Scores(frame, CLASSES)):
        assert set(frame["speaker"][test]).isdisjoint(frame["speaker"][others])
        assert others.any()


def test_where_all_speakers_are_in_every_fold_only_utterances_are_kept_out() -> None:
    frame = table("speech", 0).frame
    frame["fold"] = "fold-" + frame["utterance"].str[-1]
    for _, test, others in cross_fits(Scores(frame, CLASSES)):
        assert list(others) == [not one for one in test]


def test_one_fold_leaves_nothing_to_learn_from() -> None:
    assert [others.any() for _, _, others in cross_fits(table("speech", 0, folds=1))] == [False]


@pytest.mark.parametrize("final", ["levels", "models"])
def test_how_a_fold_is_fused_does_not_depend_on_what_it_tests(final: str) -> None:
    settings = tuned(final)
    whole, held_out = tables(), tables(start=50)
    _, before = fuse_members(settings, whole, held_out)
    moved = False
    for fold in ("fold-0", "fold-1", "fold-2"):
        changed = {kind: swapped(one, one.frame["fold"] == fold) for kind, one in whole.items()}
        _, after = fuse_members(settings, changed, tables(start=70))
        for kind in before:
            assert after[kind][fold] == before[kind][fold]
            moved |= any(after[kind][other] != before[kind][other] for other in before[kind] if other != fold)
    assert moved


def test_with_one_fold_its_validation_part_teaches_it_and_its_test_part_the_kept_model() -> None:
    settings = tuned("levels")
    whole, held_out = tables(folds=1), tables(start=50, folds=1)
    _, before = fuse_members(settings, whole, held_out)
    everything = whole["speech"].frame["fold"] == "fold-0"
    _, tested = fuse_members(settings, {kind: swapped(one, everything) for kind, one in whole.items()}, held_out)
    _, validated = fuse_members(settings, whole, {kind: swapped(one, everything) for kind, one in held_out.items()})
    for kind in before:
        assert tested[kind]["fold-0"] == before[kind]["fold-0"]
        assert validated[kind][FINAL] == before[kind][FINAL]
    assert tested["multi-level"][FINAL] != before["multi-level"][FINAL]
    assert validated["multi-level"]["fold-0"] != before["multi-level"]["fold-0"]


def test_the_temperature_is_that_of_the_models_that_are_used() -> None:
    """Refitted models are more confident than those that chose the epochs; what these would need is of no use."""
    tested, validated = tables(sharp=2.5), tables()
    _, how = fuse_members(levels(), tested, validated)
    _, mild = fuse_members(levels(), validated, tested)
    for fold, found in how["multi-level"].items():
        # A product of posteriors is as much sharper as its factors are.
        assert found.temperatures[1] == pytest.approx(2.5 * mild["multi-level"][fold].temperatures[1], rel=1e-3)


def softened(posteriors: Any, temperature: float) -> Any:
    raised = posteriors ** (1 / temperature)
    return raised / raised.sum(1, keepdims=True)


def test_the_final_system_is_the_mean_of_both_calibrated_levels() -> None:
    whole = tables(sharp=1.7)
    fused, how = fuse_members(levels(), whole, tables(start=50))
    by_name = {one.models[0]: one for one in fused}
    answers: Mapping[str, Any] = {kind: one.posteriors() for kind, one in whole.items()}
    late = np.sqrt(answers["speech"] * answers["text"])
    late /= late.sum(1, keepdims=True)
    early = np.mean([answers[kind] for kind in EARLY], axis=0)
    np.testing.assert_allclose(by_name["late"].posteriors(), late, atol=1e-9)
    np.testing.assert_allclose(by_name["multi-granularity"].posteriors(), early, atol=1e-9)
    truth, folds = whole["speech"].labels(), whole["speech"].frame["fold"].to_numpy()
    grid = np.geomspace(1 / 20, 20, 1000)
    for fold in (*np.unique(folds), FINAL):
        found = how["multi-level"][fold]
        assert (found.rule, found.weights) == ("mean", (0.5, 0.5))
        others = folds != fold
        # Of so many labels one more is thought to be wrong (Platt, 1999).
        right = 1 - 1 / (others.sum() + 2)
        targets = np.where(np.eye(3)[truth[others]] > 0, right, (1 - right) / 2)
        best = []
        for level in (early, late):
            raised = level[others] ** (1 / grid[:, None, None])
            lost = entropy(targets, raised / raised.sum(2, keepdims=True), axis=2).sum(1)
            best.append(grid[int(lost.argmin())])
        assert found.temperatures == pytest.approx(best, rel=0.01)
        if fold != FINAL:
            expected = (softened(early, found.temperatures[0]) + softened(late, found.temperatures[1])) / 2
            rows = folds == fold
            np.testing.assert_allclose(by_name["multi-level"].posteriors()[rows], expected[rows], atol=1e-9)


def test_weights_of_all_models_are_searched_on_the_simplex_of_all_models() -> None:
    settings = tuned("models")
    whole = tables()
    fused, how = fuse_members(settings, whole, tables(start=50))
    first = whole["speech"]
    truth, folds = first.labels(), first.frame["fold"].to_numpy()
    grid = [np.array(steps) / 5 for steps in itertools.product(range(6), repeat=5) if sum(steps) == 5]
    for fold in np.unique(folds):
        late = how["late"][fold](np.stack([whole[kind].posteriors() for kind in SINGLE]))
        levels = [*(whole[kind].posteriors() for kind in EARLY), late]

        def ua(weights: Any, others: Any = folds != fold, levels: Any = levels) -> float:
            total = np.tensordot(weights, np.stack(levels)[:, others], axes=1)
            return float(balanced_accuracy_score(truth[others], total.argmax(1)))

        found = how["multi-level"][fold]
        assert ua(found.weights) == pytest.approx(max(map(ua, grid)))
        assert found.temperatures == (1.0,) * 5
        rows = folds == fold
        np.testing.assert_allclose(
            fused[-1].posteriors()[rows], np.tensordot(found.weights, np.stack(levels)[:, rows], axes=1), atol=1e-9
        )


def test_equal_weights_ask_nobody() -> None:
    _, how = fuse_members(plan(late(), models=SINGLE), tables(SINGLE), tables(SINGLE, start=50))
    plain = Fusion("product", weights=(0.5, 0.5), temperatures=(1.0, 1.0))
    assert how == {"late": dict.fromkeys(("fold-0", "fold-1", "fold-2", FINAL), plain)}


def test_weights_that_are_given_are_kept() -> None:
    whole = tables(SINGLE)
    [fused], how = fuse_members(plan(late(weights=(3, 1), rule="mean"), models=SINGLE), whole, whole)
    assert {found.weights for found in how["late"].values()} == {(0.75, 0.25)}
    expected = 0.75 * whole["speech"].posteriors() + 0.25 * whole["text"].posteriors()
    np.testing.assert_allclose(fused.posteriors(), expected, atol=1e-9)


def test_an_ensemble_of_ensembles_holds_their_networks() -> None:
    found = {one.name: one.networks for one in levels().ensembles}
    assert found == {"multi-granularity": EARLY, "late": SINGLE, "multi-level": (*EARLY, *SINGLE)}


# What is not finite


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_member_that_is_not_finite_is_refused_by_name(value: float) -> None:
    whole = tables()
    frame = whole["early-word"].frame.copy()
    frame.loc[3, "happy"] = value
    broken = {**whole, "early-word": Scores(frame, CLASSES)}
    with pytest.raises(ScoresError, match="the outputs of early-word are not finite numbers"):
        fuse_members(levels(), broken, tables(start=50))
    with pytest.raises(ScoresError, match="the outputs of early-word are not finite numbers"):
        fuse([whole["speech"], broken["early-word"]])


def test_zeros_ones_and_weights_of_zero_fuse_without_a_warning() -> None:
    certain = np.stack([np.eye(3)[[0, 0]], np.eye(3)[[1, 0]]])
    for rule, weights, temperatures in itertools.product(
        ("mean", "product"), ((0.5, 0.5), (1, 0)), ((1.0, 1.0), (3.0, 0.5))
    ):
        with np.errstate(all="raise", under="ignore"):
            fused = combine(certain, weights, rule=rule, temperatures=temperatures)  # type: ignore[arg-type]
        assert np.isfinite(fused).all()
        np.testing.assert_allclose(fused.sum(1), 1)
        np.testing.assert_allclose(fused[1], np.eye(3)[0], atol=1e-9)
        if weights == (1, 0):
            np.testing.assert_allclose(fused[0], np.eye(3)[0], atol=1e-9)


# Controls


def test_controls_are_the_best_network_and_speech_with_as_many_seeds() -> None:
    validated = tables()
    validated["early-phone"] = table("early-phone", 7, skill=9.0)
    found = choose_controls(levels(), validated)
    names = {kind: [one.name for one in several] for kind, several in found.items()}
    assert names["multi-granularity"] == ["early-phone x 4", "speech x 4"]
    assert names["multi-level"] == ["early-phone x 6", "speech x 6"]
    assert names["late"][-1] == "speech x 2"
    assert found["multi-level"][0].calibrate
    assert not found["multi-granularity"][0].calibrate
    assert choose_controls(replace(levels(), controls=False), validated) == {}


def control(seeds: int, *, calibrate: bool = False, of: Sequence[int] = SEEDS) -> tuple[EnsemblePlan, Plan]:
    """So many seeds of speech, beside ensembles of some seeds."""
    entry = {"name": f"speech x {seeds}", "of": ["speech"], "seeds": seeds, "calibrate": calibrate}
    whole = plan(entry, models=["speech"], seeds=of)
    return whole.ensembles[0], whole


def test_extra_seeds_are_the_smallest_that_the_recipe_has_not() -> None:
    assert seeds_of(*control(6, of=(2, 5, 0))) == (2, 5, 0, 1, 3, 4)
    assert seeds_of(*control(2, of=(2, 5, 0))) == (2, 5, 0)
    six, whole = control(6, of=(2, 5, 0))
    assert extra_seeds(whole, [six, control(4)[0]]) == [("speech", seed) for seed in (1, 3, 4)]


def seed_of(scores: Scores, seed: int) -> Any:
    return scores.frame[scores.frame["seed"] == seed][list(CLASSES)].to_numpy()


def test_a_control_is_the_mean_of_its_seeds() -> None:
    tested = table("speech", 3, seeds=range(3))
    fused = fuse_seeds(*control(2, of=range(3)), tested, tested)
    assert fused.models == ("speech x 2",)
    for seed, drawn in enumerate(((0, 1), (1, 2), (2, 0))):
        expected = np.mean([seed_of(tested, one) for one in drawn], axis=0)
        np.testing.assert_allclose(seed_of(fused, seed), expected, atol=1e-12)


def test_a_control_that_needs_every_seed_stands_once() -> None:
    tested = table("speech", 3, seeds=(4, 0, 1))
    fused = fuse_seeds(*control(3, of=(4,)), tested, tested)
    assert list(fused.frame["seed"].unique()) == [4]
    expected = np.mean([seed_of(tested, one) for one in (4, 0, 1)], axis=0)
    np.testing.assert_allclose(seed_of(fused, 4), expected, atol=1e-12)


def test_a_control_is_calibrated_out_of_fold_as_its_ensemble_is() -> None:
    tested = table("speech", 3, seeds=(0, 1), sharp=3.0)
    plain = fuse_seeds(*control(2, of=(0,)), tested, tested)
    calibrated = control(2, calibrate=True, of=(0,))
    before = fuse_seeds(*calibrated, tested, tested)
    assert before.posteriors().max(1).mean() < plain.posteriors().max(1).mean() - 0.05
    inside = tested.frame["fold"] == "fold-1"
    other = swapped(tested, inside)
    labels = tested.frame["label"].where(~inside, other.frame["label"])
    after = fuse_seeds(*calibrated, Scores(tested.frame.assign(label=labels), CLASSES), tested)
    rows = before.frame["fold"] == "fold-1"
    np.testing.assert_array_equal(before.posteriors()[rows], after.posteriors()[rows])
