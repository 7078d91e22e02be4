"""Every figure against an independent reference; every impossible table refused by row and column."""

from __future__ import annotations

import csv
import importlib.util
import io
import itertools
import json
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import logit
from scipy.stats import t as student
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score, recall_score

from emofuse.delimited import WINDOWS
from emofuse.errors import OutputError, ScoresError
from emofuse.names import key
from emofuse.scoring import inference, result
from emofuse.scoring.fuse import STEPS, combine, fuse, parse_rule, search_weights, simplex
from emofuse.scoring.inference import intervals, paired_difference
from emofuse.scoring.metrics import (
    METRICS,
    confident,
    confusion,
    expected_calibration_error,
    macro_f1,
    recall,
    reliability,
    unweighted_accuracy,
    weighted_accuracy,
)
from emofuse.scoring.result import evaluate
from emofuse.scoring.table import NAMES, Scores, join_scores, make_scores, read_scores, write_scores

few = settings(deadline=None, derandomize=True, max_examples=60)
Labels = NDArray[np.int64]
CLASSES = ("angry", "happy", "sad")


@st.composite
def answers(draw: st.DrawFn) -> tuple[int, Labels, Labels]:
    """Number of classes, true and predicted; some classes never occur, some are never predicted."""
    classes = draw(st.integers(2, 6))
    some = st.lists(st.integers(0, classes - 1), min_size=1, max_size=classes, unique=True)
    true, said = draw(some), draw(some)
    pairs = draw(st.lists(st.tuples(st.sampled_from(true), st.sampled_from(said)), min_size=1, max_size=40))
    labels, predictions = np.array(pairs, dtype=np.int64).T
    return classes, labels, predictions


def posteriors_of(generator: np.random.Generator, rows: int, classes: int) -> NDArray[np.float64]:
    return generator.dirichlet(np.ones(classes), rows)


def table(
    *,
    speakers: int = 6,
    utterances: int = 8,
    seeds: Sequence[int] = (0, 1),
    classes: Sequence[str] = CLASSES,
    model: str = "one",
    skill: float = 1.0,
    draw: int = 0,
    labels: int = 0,
) -> pd.DataFrame:
    """A made-up table; `labels` seeds the labels, `draw` what the model says of them."""
    truth = np.random.default_rng(labels).integers(0, len(classes), speakers * utterances)
    generator, rows = np.random.default_rng(draw), []
    for seed in seeds:
        logits = generator.standard_normal((len(truth), len(classes)))
        logits[np.arange(len(truth)), truth] += skill
        values = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        for number, (label, row) in enumerate(zip(truth, values, strict=True)):
            speaker = number // utterances
            rows.append(
                {
                    "model": model,
                    "seed": seed,
                    "fold": f"fold-{speaker % 3}",
                    "utterance": f"{number:04d}",
                    "label": classes[label],
                    "speaker": f"s{speaker}",
                    **dict(zip(classes, row.tolist(), strict=True)),
                }
            )
    return pd.DataFrame(rows)


def scores(**options: Any) -> Scores:
    return make_scores(table(**options), source="test")


# Metrics.


@few
@given(answers())
def test_metrics_are_those_of_scikit_learn(case: tuple[int, Labels, Labels]) -> None:
    classes, labels, predictions = case
    matrix = confusion(labels, predictions, classes=classes)
    occurring = sorted(set(labels.tolist()))
    np.testing.assert_array_equal(matrix, confusion_matrix(labels, predictions, labels=range(classes)))
    assert weighted_accuracy(matrix) == pytest.approx(accuracy_score(labels, predictions))
    expected = recall_score(labels, predictions, labels=occurring, average=None, zero_division=0.0)
    assert unweighted_accuracy(matrix) == pytest.approx(expected.mean())
    if set(predictions.tolist()) <= set(occurring) and len(occurring) > 1:  # It warns of others.
        assert unweighted_accuracy(matrix) == pytest.approx(balanced_accuracy_score(labels, predictions))
    f1 = f1_score(labels, predictions, labels=occurring, average="macro", zero_division=0.0)
    assert macro_f1(matrix) == pytest.approx(f1)
    recalls = recall(matrix)
    np.testing.assert_allclose(recalls[occurring], expected)
    assert np.isnan(np.delete(recalls, occurring)).all()


@few
@given(st.lists(answers(), min_size=1, max_size=4))
def test_many_matrices_at_once_give_what_each_gives(cases: list[tuple[int, Labels, Labels]]) -> None:
    matrices = np.stack([confusion(labels, predictions, classes=6) for _, labels, predictions in cases])
    for metric in METRICS.values():
        np.testing.assert_allclose(metric(matrices), [metric(matrix) for matrix in matrices])


def test_a_table_made_by_hand_has_the_values_worked_out_by_hand() -> None:
    # angry: 3 of 4 right, happy: 1 of 2, sad: 0 of 1; one angry is called sad, one happy and the sad one angry.
    matrix = np.array([[3, 0, 1], [1, 1, 0], [1, 0, 0]], dtype=float)
    assert weighted_accuracy(matrix) == pytest.approx(4 / 7)
    assert unweighted_accuracy(matrix) == pytest.approx((3 / 4 + 1 / 2 + 0) / 3)
    assert macro_f1(matrix) == pytest.approx((2 * 3 / (4 + 5) + 2 * 1 / (2 + 1) + 0) / 3)


def test_always_the_largest_class_is_good_by_wa_and_chance_by_ua() -> None:
    matrix = np.array([[90, 0], [10, 0]], dtype=float)
    assert weighted_accuracy(matrix) == pytest.approx(0.9)
    assert unweighted_accuracy(matrix) == pytest.approx(0.5)


def test_a_class_that_does_not_occur_counts_in_no_mean() -> None:
    matrix = np.array([[2, 0, 0], [0, 1, 1], [0, 0, 0]], dtype=float)
    assert unweighted_accuracy(matrix) == pytest.approx((1 + 1 / 2) / 2)
    assert macro_f1(matrix) == pytest.approx((1 + 2 / 3) / 2)


@few
@given(rows=st.integers(1, 60), classes=st.integers(2, 5), bins=st.integers(1, 20), seed=st.integers(0, 1000))
def test_the_calibration_error_is_that_of_a_plain_loop(rows: int, classes: int, bins: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    posteriors = posteriors_of(generator, rows, classes)
    labels = generator.integers(0, classes, rows)
    gap = 0.0
    for number in range(bins):
        inside = [
            (max(row), row.index(max(row)) == label)
            for row, label in zip(posteriors.tolist(), labels.tolist(), strict=True)
            if number / bins <= max(row) < (number + 1) / bins
        ]
        if inside:
            confidence = sum(value for value, _ in inside) / len(inside)
            accuracy = sum(right for _, right in inside) / len(inside)
            gap += len(inside) / rows * abs(accuracy - confidence)
    assert expected_calibration_error(posteriors, labels, bins=bins) == pytest.approx(gap)


@few
@given(rows=st.integers(1, 40), classes=st.integers(2, 5), seed=st.integers(0, 99))
def test_confident_answers_are_those_of_a_plain_loop(rows: int, classes: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    posteriors = posteriors_of(generator, rows, classes) ** 4
    posteriors /= posteriors.sum(1, keepdims=True)
    labels = generator.integers(0, classes, rows)
    table = zip(posteriors.tolist(), labels.tolist(), strict=True)
    right = [row.index(max(row)) == label for row, label in table if max(row) > 0.7]
    coverage, accuracy = confident(posteriors, labels)
    assert coverage == pytest.approx(len(right) / rows)
    assert accuracy == (pytest.approx(sum(right) / len(right)) if right else None)


def test_certain_answers_fall_in_the_last_bin() -> None:
    posteriors = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    confidence, accuracy, count = reliability(posteriors, np.array([0, 1, 1, 0]), bins=10)
    assert (confidence[-1], accuracy[-1], count[-1]) == (1.0, 0.75, 4.0)
    assert np.isnan(accuracy[:-1]).all()
    assert expected_calibration_error(posteriors, np.array([0, 1, 1, 0]), bins=10) == pytest.approx(0.25)


# Intervals and tests.


def slow_values(frame: pd.DataFrame, classes: Sequence[str]) -> dict[str, float]:
    """Metrics, averaged over the seeds, of single answers."""
    said = frame[list(classes)].to_numpy().argmax(1)
    labels = frame["label"].map({name: number for number, name in enumerate(classes)}).to_numpy(dtype=np.int64)
    seeds = [(frame["seed"] == seed).to_numpy() for seed in sorted(set(frame["seed"]))]
    matrices = [confusion(labels[rows], said[rows], classes=len(classes)) for rows in seeds]
    return {name: float(np.mean([metric(one) for one in matrices])) for name, metric in METRICS.items()}


def own_speakers(frame: pd.DataFrame, *, each: int = 2) -> pd.DataFrame:
    """Rows of a table in which each seed tests some speakers of its own choice, as other tools split at random."""
    speakers, parts = sorted(set(frame["speaker"])), []
    for seed, rows in frame.groupby("seed"):
        chosen = np.random.default_rng(int(str(seed))).choice(speakers, each, replace=False)
        parts.append(rows[rows["speaker"].isin(chosen)])
    return pd.concat(parts, ignore_index=True)


def same_speakers(frame: pd.DataFrame) -> pd.DataFrame:
    return frame


@pytest.mark.parametrize("tested", [same_speakers, own_speakers])
def test_p_is_that_of_every_exchange_of_answers(tested: Any) -> None:
    many: dict[str, Any] = {"speakers": 7, "utterances": 20, "seeds": (0, 1, 2)}
    one, two = tested(table(**many, skill=1.3)), tested(table(**many, draw=1, model="two"))
    classes, speakers = make_scores(one, source="test").classes, sorted(set(one["speaker"]))
    gaps: dict[str, list[float]] = {name: [] for name in METRICS}
    for flips in itertools.product((False, True), repeat=len(speakers)):
        flipped = one["speaker"].isin([name for name, flip in zip(speakers, flips, strict=True) if flip])
        ours, theirs = one.where(~flipped, two), two.where(~flipped, one)
        first, second = slow_values(ours, classes), slow_values(theirs, classes)
        for name in METRICS:
            gaps[name].append(first[name] - second[name])
    found = paired_difference(make_scores(one, source="1"), make_scores(two, source="2"))
    for name, gap in found.items():
        seen = gaps[name][0]
        p = np.mean(np.abs(gaps[name]) >= abs(seen) - 1e-12)
        assert gap.value == pytest.approx(seen)
        # Macro-F1 is linearised at what was seen.
        assert gap.p == pytest.approx(p, abs=1e-12 if name != "macro_f1" else 0.1)
        assert (gap.cluster, gap.clusters) == ("speaker", len(speakers))


def slow_p(gains: NDArray[np.float64], weights: NDArray[np.float64], difference: float) -> float:
    """How often flips of what each cluster is beyond a difference sum to as much as what was seen."""
    beyond = gains - difference * weights
    sums = [abs(float(np.dot(signs, beyond))) for signs in itertools.product((1, -1), repeat=len(beyond))]
    return float(np.mean(np.array(sums) >= sums[0] - 1e-12))


@pytest.mark.parametrize("draw", range(6))
@pytest.mark.parametrize("clusters", [6, 9, 11])
def test_an_interval_holds_what_its_test_does_not_reject_and_nothing_else(clusters: int, draw: int) -> None:
    generator = np.random.default_rng(draw)
    weights = generator.dirichlet(np.full(clusters, 3.0))
    gains = weights * (0.03 + 0.05 * generator.standard_normal(clusters))
    ((low, high, p),) = inference._flip_test(gains[:, None], weights[:, None])
    assert low is not None
    assert high is not None
    assert p == pytest.approx(slow_p(gains, weights, 0.0))
    assert (low > 0 or high < 0) == (p <= 0.05)
    for inside in np.linspace(low, high, 7):
        assert slow_p(gains, weights, float(inside)) > 0.05
    for outside in (low - 1e-6, high + 1e-6, low - 0.1, high + 0.1):
        assert slow_p(gains, weights, outside) <= 0.05


@few
@given(seed=st.integers(0, 10**6), clusters=st.integers(6, 40), scale=st.sampled_from([0.02, 0.04, 0.06]))
def test_interval_and_test_never_contradict_each_other(seed: int, clusters: int, scale: float) -> None:
    generator = np.random.default_rng(seed)
    weights = generator.dirichlet(np.full(clusters, 2.0))[:, None]
    # Rounded, so that clusters are alike and sums tie.
    gains = np.round(weights * (0.02 + scale * generator.standard_normal((clusters, 1))), 3)
    ((low, high, p),) = inference._flip_test(gains, weights)
    assert low is not None
    assert high is not None
    assert low <= gains.sum() / weights.sum() <= high
    assert (low > 0 or high < 0) == (p <= 0.05)


def test_drawn_flips_are_close_to_all_of_them_and_to_the_normal_of_many() -> None:
    generator = np.random.default_rng(0)
    for clusters in (13, 300):
        weights = np.full((clusters, 1), 1 / clusters)
        gains = weights * (0.5 / np.sqrt(clusters) + 0.3 * generator.standard_normal((clusters, 1)))
        if clusters <= inference.EXACT:
            ((low, high, p),) = inference._flip_test(gains, weights)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(inference, "EXACT", 5)
                ((other_low, other_high, other_p),) = inference._flip_test(gains, weights)
        else:
            ((low, high, p),) = inference._flip_test(gains, weights)
            other_low, other_high, other_p = inference._normal(gains[:, 0], weights[:, 0])
        assert p == pytest.approx(other_p, abs=0.01)
        assert (low, high) == pytest.approx((other_low, other_high), abs=0.015)


def test_the_jackknife_of_wa_is_that_of_leaving_speakers_out() -> None:
    frame, better = table(speakers=9, seeds=(0,)), table(speakers=9, seeds=(0,), skill=4)
    frame = frame.where(frame["speaker"] < "s4", better)
    frame = frame[~frame["utterance"].isin([f"{n:04d}" for n in range(5)])]
    ours = make_scores(frame, source="test")
    whole = slow_values(frame, ours.classes)
    left = [slow_values(frame[frame["speaker"] != name], ours.classes) for name in sorted(set(frame["speaker"]))]
    for name, tolerance in (("wa", 1e-9), ("ua", 0.1), ("macro_f1", 0.15)):
        value = whole[name]
        error = np.sqrt(8 / 9 * sum((one[name] - value) ** 2 for one in left))
        sizes = frame["speaker"].value_counts(normalize=True)
        half = student.ppf(0.975, 1 / (sizes**2).sum() - 1) * error / (value * (1 - value))
        found = intervals(ours)[name]
        assert found.value == pytest.approx(value)
        assert logit(value) - logit(found.low) == pytest.approx(half, rel=tolerance)
        assert logit(found.high) - logit(value) == pytest.approx(half, rel=tolerance)


def test_speakers_are_those_of_each_row_where_seeds_share_the_names_of_utterances() -> None:
    """A tool that numbers the rows of every split again has an utterance 0 in each, of another speaker."""
    frame = own_speakers(table(speakers=8, seeds=range(4)))
    numbered = frame.assign(utterance=[f"{n}" for n in frame.groupby("seed").cumcount()])
    assert intervals(make_scores(numbered, source="test")) == intervals(make_scores(frame, source="test"))


simulation = importlib.util.spec_from_file_location(
    "intervals", Path(__file__).parents[1] / "benchmarks" / "intervals.py"
)


@pytest.fixture(scope="module")
def simulated() -> Any:
    """The benchmark of levels, of which the tests run a short form."""
    assert simulation is not None
    assert simulation.loader is not None
    module = importlib.util.module_from_spec(simulation)
    sys.modules["intervals"] = module  # Where dataclasses look for their types.
    simulation.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("clusters", "unequal", "seeds", "apart", "tables"),
    [
        (6, False, 1, False, 1000),
        (6, True, 3, True, 700),
        (8, True, 1, True, 1000),
        (10, False, 3, False, 600),
        (12, True, 1, True, 300),
        (24, False, 1, True, 60),
    ],
)
def test_tests_reject_a_true_null_as_often_as_they_say(
    clusters: int, unequal: bool, seeds: int, apart: bool, tables: int, simulated: Any
) -> None:
    """The bootstrap over speakers that stood here rejected in 6 to 15 % of them; see benchmarks/intervals.py."""
    case = simulated.Case(clusters, unequal, seeds, apart)
    found = simulated.rejections(case, tables, before=False)
    patterns = 2.0 ** min(clusters, inference.EXACT)
    level = 2 * np.floor(0.025 * patterns) / patterns
    error = 3 * np.sqrt(level * (1 - level) / tables)
    for name in METRICS:
        assert found[name] <= max(0.07, level + error), name
        # WA moves in whole utterances, so that two systems often are alike in a speaker, whose flip then says nothing.
        assert name == "wa" or found[name] >= level - error, name


@pytest.mark.parametrize(
    ("clusters", "unequal", "tables"), [(4, False, 800), (6, True, 800), (12, True, 600), (24, False, 400)]
)
def test_intervals_hold_the_truth_as_often_as_they_say(
    clusters: int, unequal: bool, tables: int, simulated: Any
) -> None:
    found = simulated.coverage(simulated.Case(clusters, unequal), tables, before=False)
    for name in METRICS:
        assert 0.93 <= found[name] <= 0.99, name


def test_below_six_clusters_there_is_no_interval_of_a_difference_but_words() -> None:
    good, poor = (scores(skill=skill, speakers=5, utterances=40, draw=skill) for skill in (9, 0))
    gap = paired_difference(good, poor)["ua"]
    assert (gap.low, gap.high, gap.p) == (None, None, 2 / 2**5)
    assert result.corrected([paired_difference(good, poor)])[0]["ua"].reading == "too few clusters to tell"
    assert "too few clusters to tell" in result.caution(evaluate(good)["one"])
    six = paired_difference(
        scores(skill=9, speakers=6, utterances=40), scores(skill=0, draw=1, speakers=6, utterances=40)
    )
    assert six["ua"].low is not None
    assert six["ua"].low > 0
    assert result.corrected([six])[0]["ua"].reading == "higher"


def test_holm_is_that_of_statsmodels_formula() -> None:
    ps = [0.03, 0.001, 0.04, 0.01, 0.9]
    # Worked out by hand: 5 * 0.001, 4 * 0.01, then 3 * 0.03, which 2 * 0.04 may not fall below, and 0.9.
    assert inference.holm(ps) == pytest.approx([0.09, 0.005, 0.09, 0.04, 0.9])
    assert inference.holm([]) == []


def test_always_right_is_not_certain() -> None:
    """An interval of no width says that one more speaker could change nothing."""
    for skill, end in ((60.0, "high"), (-60.0, "low")):
        found = intervals(scores(skill=skill, speakers=6))["ua"]
        assert getattr(found, end) == found.value
        assert 0.4 < found.high - found.low < 0.6  # 0.025 ** (1 / 6) is 0.54.


def test_one_speaker_alone_cannot_make_an_interval_of_no_width() -> None:
    alone = scores(speakers=1, utterances=40)
    assert alone.cluster == "utterance"
    wa = intervals(alone)["wa"]
    assert wa.low < wa.value < wa.high


def test_clusters_are_speakers_else_dialogues_else_utterances() -> None:
    frame = table()
    frame["dialogue"] = [f"d{int(name) // 5}" for name in frame["utterance"]]
    assert make_scores(frame, source="test").cluster == "speaker"
    assert make_scores(frame.drop(columns="speaker"), source="test").cluster == "dialogue"
    frame.loc[3, "speaker"] = None
    lacking = make_scores(frame, source="test")
    assert lacking.cluster == "dialogue"
    assert lacking.notes == ("speaker is empty in 1 of 96 rows, so that dialogues are the clusters",)
    assert make_scores(frame.drop(columns=["speaker", "dialogue"]), source="test").cluster == "utterance"


def test_a_model_does_not_differ_from_itself() -> None:
    same = scores(speakers=6)
    for gap in paired_difference(same, same).values():
        assert (gap.value, gap.low, gap.high, gap.p) == (0.0, 0.0, 0.0, 1.0)


def test_a_clearly_better_model_is_better_and_the_other_way_round_worse() -> None:
    good, poor = scores(skill=3.0, speakers=12), scores(skill=0.0, draw=1, speakers=12)
    for forth, back in zip(paired_difference(good, poor).values(), paired_difference(poor, good).values(), strict=True):
        assert 0 < forth.low < forth.value < forth.high
        assert forth.p < 0.01
        assert (back.value, back.p) == pytest.approx((-forth.value, forth.p))
        assert (back.low, back.high) == pytest.approx((-forth.high, -forth.low))


def test_pairing_sees_what_separate_intervals_cannot() -> None:
    one, two = table(speakers=20, skill=1.0, seeds=(0,)), table(speakers=20, skill=1.0, seeds=(0,))
    wrong = two.index[(two[list(CLASSES)].idxmax(axis=1) != two["label"])][::8]
    for row in wrong:
        two.loc[row, list(CLASSES)] = [float(name == two.loc[row, "label"]) for name in CLASSES]
    first, second = make_scores(two, source="2"), make_scores(one, source="1")
    gap = paired_difference(first, second)["wa"]
    assert gap.low > 0
    assert intervals(second)["wa"].high > intervals(first)["wa"].low


def test_classes_in_another_order_and_other_rows_order_change_no_difference() -> None:
    one, two = table(), table(draw=1)
    shuffled = two.sample(frac=1, random_state=0)[[*two.columns[:6], "sad", "angry", "happy"]]
    expected = paired_difference(make_scores(one, source="1"), make_scores(two, source="2"))
    assert paired_difference(make_scores(one, source="1"), make_scores(shuffled, source="3")) == expected


def test_a_table_without_speakers_is_compared_by_the_speakers_of_the_other() -> None:
    one, two = scores(), table(draw=1)
    bare = make_scores(two.drop(columns="speaker"), source="2")
    expected = paired_difference(one, make_scores(two, source="2"))
    assert paired_difference(one, bare) == expected
    assert paired_difference(bare, one)["wa"].low == pytest.approx(-expected["wa"].high)


def test_a_table_of_one_seed_is_compared_with_every_seed_of_the_other() -> None:
    many, single = scores(seeds=(3, 5, 7)), table(seeds=(0,), draw=1)
    again = pd.concat([single.assign(seed=seed) for seed in (3, 5, 7)])
    expected = paired_difference(many, make_scores(again, source="2"))
    assert paired_difference(many, make_scores(single, source="2")) == expected
    assert paired_difference(make_scores(single, source="2"), many)["ua"].value == -expected["ua"].value


def test_what_cannot_be_compared_is_refused() -> None:
    one = table()
    fewer = make_scores(one[~one["utterance"].isin(["0001", "0002", "0003"])], source="2")
    message = r"^6 rows are in one table only, such as utterance '0001' of seed 0; score the same utterances in every"
    with pytest.raises(ScoresError, match=message):
        paired_difference(make_scores(one, source="1"), fewer)
    lacking = make_scores(one[(one["seed"] == 0) | (one["utterance"] > "0003")], source="3")
    for pair in ((make_scores(one, source="1"), lacking), (lacking, make_scores(one, source="1"))):
        with pytest.raises(ScoresError, match=r"^4 rows are in one table only, such as utterance '0000' of seed 1;"):
            paired_difference(*pair)
    with pytest.raises(
        ScoresError, match=r"'0000' of seed 0; the other has '0000.wav', which differs in '.wav' for ''; "
    ):
        paired_difference(
            make_scores(one, source="1"), make_scores(one.assign(utterance=one["utterance"] + ".wav"), source="4")
        )
    with pytest.raises(
        ScoresError, match=r"different classes: angry, happy, sad, and angry, happy, neutral; give all tables"
    ):
        paired_difference(make_scores(one, source="1"), scores(classes=("angry", "happy", "neutral")))
    other = one.copy()
    other.loc[other["utterance"] == "0007", "label"] = "sad" if one["label"][7] != "sad" else "happy"
    with pytest.raises(ScoresError, match=r"^utterance '0007' has two labels, '\w+' and '\w+'; use the same labels"):
        paired_difference(make_scores(one, source="1"), make_scores(other, source="2"))


# Late fusion.


@few
@given(
    models=st.integers(2, 4),
    rows=st.integers(1, 10),
    classes=st.integers(2, 5),
    seed=st.integers(0, 1000),
    zeros=st.booleans(),
)
def test_fusion_is_that_of_a_plain_loop(models: int, rows: int, classes: int, seed: int, zeros: bool) -> None:
    generator = np.random.default_rng(seed)
    posteriors = generator.dirichlet(np.ones(classes), (models, rows))
    weights = generator.dirichlet(np.ones(models)) * generator.uniform(0.5, 3)
    if zeros:
        posteriors[0, 0] = np.eye(classes)[0]
        posteriors[1, 0] = np.eye(classes)[1]
    mean, product = (combine(posteriors, weights, rule=rule) for rule in ("mean", "product"))  # type: ignore[arg-type]
    for row in range(rows):
        added, multiplied = [0.0] * classes, [1.0] * classes
        for column in range(classes):
            for model in range(models):
                value = float(posteriors[model, row, column])
                added[column] += weights[model] * value / weights.sum()
                multiplied[column] *= max(value, float(np.finfo(np.float64).tiny)) ** (weights[model] / weights.sum())
        np.testing.assert_allclose(mean[row], added, atol=1e-12)
        np.testing.assert_allclose(product[row], np.array(multiplied) / sum(multiplied), rtol=1e-9, atol=1e-12)
    for fused in (mean, product):
        np.testing.assert_allclose(fused.sum(-1), 1)


@pytest.mark.parametrize(("models", "steps"), [(2, 20), (3, 20), (4, 10), (3, 1)])
def test_the_grid_holds_every_weighting_once(models: int, steps: int) -> None:
    grid = list(simplex(models, steps))
    every = {parts for parts in itertools.product(range(steps + 1), repeat=models) if sum(parts) == steps}
    assert len(grid) == len(set(grid)) == len(every)
    assert {tuple(round(weight * steps) for weight in weights) for weights in grid} == every


@pytest.mark.parametrize("rule", ["mean", "product", "bayes"])
@pytest.mark.parametrize("models", [2, 3, 4])
@pytest.mark.parametrize("seed", range(4))
def test_searched_weights_are_the_best_and_most_even_of_all(rule: Any, models: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, 60)
    posteriors = generator.dirichlet(np.ones(3), (models, 60))
    posteriors[0, np.arange(60), labels] += 0.3
    posteriors /= posteriors.sum(-1, keepdims=True)

    def ua(weights: Sequence[float]) -> float:
        said = combine(posteriors, weights, rule=rule).argmax(-1)
        return float(round(balanced_accuracy_score(labels, said), 9))

    steps = STEPS[models]
    grid = [
        np.array(parts) / steps for parts in itertools.product(range(steps + 1), repeat=models) if sum(parts) == steps
    ]
    grid.append(np.full(models, 1 / models))
    reached = [ua(weights) for weights in grid]
    best = max(reached)
    found = search_weights(posteriors, labels, rule=rule)
    assert ua(found) == best
    # Nothing that is as good lies nearer to equal weights.
    away = min(
        float(np.linalg.norm(weights - 1 / models)) for weights, one in zip(grid, reached, strict=True) if one == best
    )
    assert np.linalg.norm(np.array(found) - 1 / models) == pytest.approx(away)
    assert sum(found) == pytest.approx(1)


@pytest.mark.parametrize("rule", ["mean", "product", "bayes"])
@pytest.mark.parametrize("models", [2, 3, 4, 5])
def test_models_that_answer_alike_are_weighed_alike(rule: Any, models: int) -> None:
    one = scores()
    posteriors = np.stack([one.posteriors()] * models)
    assert search_weights(posteriors, one.labels(), rule=rule) == (1 / models,) * models


@given(seed=st.integers(0, 1000), models=st.integers(2, 4))
def test_independent_evidence_is_multiplied(seed: int, models: int) -> None:
    rng = np.random.default_rng(seed)
    # Features of each model given the class, and posteriors under equal priors: their joint posterior is known.
    likelihoods = rng.random((models, 5, 3)) + 0.01
    posteriors = likelihoods / likelihoods.sum(-1, keepdims=True)
    joint = likelihoods.prod(0)
    even = [1 / models] * models
    np.testing.assert_allclose(combine(posteriors, even, rule="bayes"), joint / joint.sum(-1, keepdims=True))
    beside = np.concatenate([posteriors[:1], np.full((models - 1, 5, 3), 1 / 3)])
    np.testing.assert_allclose(combine(beside, even, rule="bayes"), posteriors[0])


def test_a_model_that_knows_nothing_gets_little_weight() -> None:
    one, two = scores(skill=4.0, speakers=20), scores(skill=0.0, draw=1, speakers=20)
    posteriors = np.stack([one.posteriors(), two.posteriors()])
    assert search_weights(posteriors, one.labels(), rule="mean")[0] > 0.5


@pytest.mark.parametrize(("rule", "weights"), [("mean", (0.5, 0.5)), ("weights=3,1", (0.75, 0.25))])
def test_fusion_by_weights_is_that_of_a_plain_loop(rule: str, weights: tuple[float, float]) -> None:
    one, two = table(), table(draw=1, model="two")
    fused, done = fuse([make_scores(one, source="1"), make_scores(two, source="2")], rule=rule, name="late")
    assert fused.models == ("late",)
    assert len(fused.frame) == len(one)
    assert done["rule"] == rule
    rows = {
        (seed, name): values
        for seed, name, *values in zip(one["seed"], one["utterance"], *(one[c] for c in CLASSES), strict=True)
    }
    others = {
        (seed, name): values
        for seed, name, *values in zip(two["seed"], two["utterance"], *(two[c] for c in CLASSES), strict=True)
    }
    for row in fused.frame.to_dict("records"):
        place = (row["seed"], row["utterance"])
        expected = [weights[0] * a + weights[1] * b for a, b in zip(rows[place], others[place], strict=True)]
        assert [row[name] for name in CLASSES] == pytest.approx(expected)
    wrong = fused.frame.merge(one, on=["seed", "fold", "utterance"], suffixes=("", "_one"))
    assert (wrong["label"] == wrong["label_one"]).all()
    assert (wrong["speaker"] == wrong["speaker_one"]).all()


def test_the_product_is_the_default_and_made_of_both() -> None:
    one, two = scores(), scores(draw=1, model="two")
    fused, _ = fuse([one, two])
    order = ["seed", "fold", "utterance"]
    first, second = (values.frame.sort_values(order)[list(one.classes)].to_numpy() for values in (one, two))
    expected = np.sqrt(first * second)
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(fused.frame.sort_values(order)[list(one.classes)].to_numpy(), expected)


def test_tuned_weights_of_a_fold_come_from_the_other_folds_alone() -> None:
    one, two = table(skill=1.0, speakers=9), table(skill=1.0, draw=1, model="two", speakers=9)

    def weights(first: pd.DataFrame, second: pd.DataFrame) -> dict[str, list[float]]:
        _, done = fuse([make_scores(first, source="1"), make_scores(second, source="2")], rule="tuned")
        assert done["rule"] == "tuned, out of fold"
        found = done["weights"]
        assert isinstance(found, dict)
        return found

    before = weights(one, two)
    assert set(before) == {"fold-0", "fold-1", "fold-2"}
    moved = False
    for fold in before:
        for seed in range(6):
            # Labels and posteriors of the fold change beyond recognition; its own weights must not.
            generator = np.random.default_rng(seed)
            inside = one["fold"] == fold
            by_name = {name: generator.choice(CLASSES) for name in one.loc[inside, "utterance"].unique()}
            changed = []
            for frame in (one, two):
                copy = frame.copy()
                copy.loc[inside, "label"] = copy.loc[inside, "utterance"].map(by_name)
                copy.loc[inside, list(CLASSES)] = posteriors_of(generator, int(inside.sum()), 3)
                changed.append(copy)
            after = weights(*changed)
            assert after[fold] == before[fold]
            moved |= any(after[other] != before[other] for other in before)
    assert moved


def test_tuned_weights_are_those_of_a_search_over_the_other_folds() -> None:
    one, two = scores(speakers=9), scores(draw=1, model="two", speakers=9)
    fused, done = fuse([one, two], rule="tuned")
    weights = done["weights"]
    assert isinstance(weights, dict)
    order = ["seed", "fold", "utterance"]
    frames = [values.frame.sort_values(order, ignore_index=True) for values in (one, two)]
    posteriors = np.stack([frame[list(one.classes)].to_numpy() for frame in frames])
    labels = frames[0]["label"].map(one.classes.index).to_numpy()
    for fold, found in weights.items():
        outside = (frames[0]["fold"] != fold).to_numpy()
        assert tuple(found) == search_weights(posteriors[:, outside], labels[outside], rule="mean")
        rows = fused.frame[fused.frame["fold"] == fold].sort_values(order)[list(one.classes)].to_numpy()
        np.testing.assert_allclose(rows, combine(posteriors[:, ~outside], found, rule="mean"))


def repeated(frame: pd.DataFrame) -> pd.DataFrame:
    """Every utterance tested twice, in folds drawn again."""
    speakers = frame["speaker"].str.removeprefix("s").astype(int)
    folds = (("rep1", speakers % 3), ("rep2", speakers // 3))
    return pd.concat([frame.assign(fold=[f"{name}-{n}" for n in fold]) for name, fold in folds], ignore_index=True)


def test_tuned_weights_of_repeated_folds_come_from_no_utterance_that_the_fold_tests() -> None:
    one, two = repeated(table(speakers=9)), repeated(table(speakers=9, draw=1, model="two"))
    _, done = fuse([make_scores(one, source="1"), make_scores(two, source="2")], rule="tuned")
    assert len(done["weights"]) == 6
    posteriors = np.stack([frame[list(CLASSES)].to_numpy() for frame in (one, two)])
    labels, differs = one["label"].map(CLASSES.index).to_numpy(), False
    for fold, found in done["weights"].items():
        tested = set(one["utterance"][one["fold"] == fold])
        rows = ~one["utterance"].isin(tested).to_numpy()
        assert tuple(found) == search_weights(posteriors[:, rows], labels[rows], rule="mean")
        others = (one["fold"] != fold).to_numpy()
        differs |= tuple(found) != search_weights(posteriors[:, others], labels[others], rule="mean")
    assert differs, "to learn from all other folds must give other weights, or this proves nothing"


@pytest.mark.parametrize("folds", [("test",), ("first", "second")])
def test_tuning_where_a_fold_tests_all_is_refused(folds: Sequence[str]) -> None:
    frame = pd.concat([table().assign(fold=fold) for fold in folds], ignore_index=True)
    message = f"^--rule tuned: fold '{folds[0]}' tests every utterance there is, .* not honest; give a table"
    with pytest.raises(ScoresError, match=message):
        fuse([make_scores(frame, source="1"), make_scores(frame, source="2")], rule="tuned")


def test_a_table_of_one_seed_is_fused_with_every_seed_of_the_others() -> None:
    many, single = scores(seeds=(3, 5, 7)), scores(seeds=(0,), draw=1, model="text")
    for tables in ([many, single], [single, many]):
        fused, _ = fuse(tables, rule="mean")
        assert sorted(fused.frame["seed"].unique()) == [3, 5, 7]
        assert len(fused.frame) == len(many.frame)
    text = single.frame.set_index("utterance")["sad"]
    own = many.frame.set_index(["seed", "utterance"])["sad"]
    for row in fused.frame.to_dict("records"):
        expected = (own[(row["seed"], row["utterance"])] + text[row["utterance"]]) / 2
        assert row["sad"] == pytest.approx(expected)


@pytest.mark.parametrize("bare", [0, 1])
@pytest.mark.parametrize("rule", ["mean", "tuned"])
def test_a_table_without_folds_takes_those_of_the_other(bare: int, rule: str) -> None:
    frames = [table(), table(draw=1, model="two").sample(frac=1, random_state=0)]
    expected, how = fuse([make_scores(frame, source="x") for frame in frames], rule=rule)
    frames[bare] = frames[bare].drop(columns="fold")
    found, done = fuse([make_scores(frame, source="x") for frame in frames], rule=rule)
    pd.testing.assert_frame_equal(found.frame, expected.frame)
    assert done == how
    # One seed of a foreign table goes with every seed of ours.
    frames[bare] = frames[bare][frames[bare]["seed"] == 0].drop(columns="seed")
    found, _ = fuse([make_scores(frame, source="x") for frame in frames], rule=rule)
    assert found.frame["fold"].tolist() == expected.frame["fold"].tolist()


def test_a_table_without_folds_cannot_take_them_where_they_are_several() -> None:
    one = table(seeds=[0])
    twice = pd.concat([one, one.assign(fold="again")], ignore_index=True)
    bare = make_scores(one.drop(columns="fold"), source="2")
    with pytest.raises(ScoresError, match=r"table 2 has no folds, and table 1 tests utterance .* in several"):
        fuse([make_scores(twice, source="1"), bare])
    with pytest.raises(ScoresError, match="differ in 2 rows"):
        fuse([make_scores(one[2:], source="1"), bare])


def test_rows_that_two_tables_share_are_not_counted_twice() -> None:
    one = scores()
    name = one.frame["utterance"].iloc[0]
    with pytest.raises(ScoresError, match=f"utterance '{name}' is scored twice by model 'one', seed 0, fold 'fold-0'"):
        join_scores([one, scores(model="two"), Scores(one.frame[:1], one.classes)])


def test_what_cannot_be_fused_is_refused() -> None:
    one = table()
    ours = make_scores(one, source="1")
    with pytest.raises(ScoresError, match="at least two tables"):
        fuse([ours])
    with pytest.raises(ScoresError, match=r"^tables 1 and 2 differ in 4 rows .*; score the same utterances"):
        fuse([ours, make_scores(one[~one["utterance"].isin(["0001", "0002"])], source="2")])
    with pytest.raises(ScoresError, match="different classes"):
        fuse([ours, scores(classes=("angry", "happy", "neutral"))])
    with pytest.raises(ScoresError, match=r"several models \(one, two\); pick one as FILE:MODEL"):
        fuse([ours, join_scores([ours, scores(model="two")])])
    other = one.copy()
    true, false = one["label"][7], "sad" if one["label"][7] != "sad" else "happy"
    other.loc[other["utterance"] == "0007", "label"] = false
    with pytest.raises(ScoresError, match=f"^utterance '0007' is '{true}' in table 1 and '{false}' in table 2"):
        fuse([ours, make_scores(other, source="2")])


@pytest.mark.parametrize(
    "text",
    ["best", "weights=", "weights=1", "weights=1,2,3", "weights=a,b", "weights=-1,2", "weights=0,0", "weights=nan,1"],
)
def test_a_rule_that_makes_no_sense_is_refused_with_one_that_does(text: str) -> None:
    with pytest.raises(ScoresError, match=r"^--rule: .*; (write weights=0\.5,0\.5, one a table|use mean, product)"):
        parse_rule(text, models=2)


# Tables.


def test_a_table_of_another_tool_is_fused_with_ours(tmp_path: Path) -> None:
    one, two = table(), table(seeds=(0,), draw=1)
    write_scores(make_scores(one, source="1"), tmp_path / "ours.parquet")
    foreign = two.assign(text='he said, "no"', correct=True).rename(columns={})
    foreign = foreign[["utterance", "text", "sad", "angry", "happy", "fold", "correct", "label"]]
    foreign.to_csv(tmp_path / "theirs.csv", index=False)
    ours, theirs = read_scores(tmp_path / "ours.parquet"), read_scores(tmp_path / "theirs.csv")
    assert theirs.models == ("theirs",)
    assert theirs.classes == ("sad", "angry", "happy")
    assert theirs.frame["utterance"].tolist() == two["utterance"].tolist()
    fused, _ = fuse([theirs, ours], rule="mean")
    expected, _ = fuse([make_scores(two, source="2"), ours], rule="mean")
    key = ["seed", "fold", "utterance"]
    pd.testing.assert_frame_equal(
        fused.frame.sort_values(key, ignore_index=True)[[*key, *ours.classes, "speaker"]],
        expected.frame.sort_values(key, ignore_index=True)[[*key, *ours.classes, "speaker"]],
        check_dtype=False,
    )
    assert fused.cluster == "speaker"


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_row_numbers_and_a_byte_order_mark_do_no_harm(suffix: str, tmp_path: Path) -> None:
    frame = table().head(8)
    path = tmp_path / f"scores{suffix}"
    frame.to_csv(path, sep="\t" if suffix == ".tsv" else ",", encoding="utf-8-sig")
    assert read_scores(path).classes == ("angry", "happy", "sad")
    pd.testing.assert_frame_equal(read_scores(path).frame, make_scores(frame, source="x").frame, check_dtype=False)


DIALECTS = {
    "what Excel says of its separator": lambda text: ("sep=;\r\n" + text.replace(",", ";")).encode("utf-8-sig"),
    "Unicode text of Excel": lambda text: text.replace(",", "\t").encode("utf-16"),
    "UTF-16 without a mark": lambda text: text.encode("utf-16-le"),
    "Windows-1252": lambda text: text.encode("cp1252"),
    "ends of lines of old Macintoshes": lambda text: text.replace("\n", "\r").encode(),
    "spaces and quotes": lambda text: text.replace(",Ärger", ', "Ärger"').encode(),
    "a hyphen that is not seen": lambda text: text.replace(",Ärger", ',"Är\u00adger"').encode(),
}


@pytest.mark.parametrize("kind", DIALECTS)
def test_a_table_in_a_dialect_is_the_same_table(kind: str, tmp_path: Path) -> None:
    text = "utterance,label,Ärger,joy\na,Ärger,0.75,0.25\nb,joy,0.5,0.5\nc,Ärger,0.25,0.75\n"
    (tmp_path / "a.csv").write_bytes(DIALECTS[kind](text))
    found = read_scores(tmp_path / "a.csv")
    assert found.classes == ("Ärger", "joy")
    assert found.frame["label"].tolist() == ["Ärger", "joy", "Ärger"]
    assert found.posteriors().tolist() == [[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]]
    assert [note for note in found.notes if "Windows-1252" in note] == [WINDOWS] * (kind == "Windows-1252")


def test_clusters_are_found_under_any_spelling_of_their_column() -> None:
    frame = pd.DataFrame({"utterance": ["a", "b"], "label": ["x", "y"], " Room": [1, 2], "x": [1, 0], "y": [0, 1]})
    assert make_scores(frame, source="test", by="room").cluster == "Room"
    with pytest.raises(ScoresError, match="column 'rom' is missing; did you mean Room"):
        make_scores(frame, source="test", by="rom")


def test_names_such_as_na_and_none_are_names(tmp_path: Path) -> None:
    rows = [("NA", "None", "nan", 0.75, 0.25), ("null", "joy", "NA", 0.25, 0.75), ("0012", "joy", "", 0.5, 0.5)]
    frame = pd.DataFrame(rows, columns=["utterance", "label", "speaker", "None", "joy"])
    frame.to_csv(tmp_path / "a.csv", index=False)
    found = read_scores(tmp_path / "a.csv")
    assert found.frame["utterance"].tolist() == ["NA", "null", "0012"]
    assert found.frame["label"].tolist() == ["None", "joy", "joy"]
    assert found.frame["speaker"].tolist() == ["nan", "NA", None]


def test_a_number_and_its_text_are_one_name_whatever_the_type_of_the_column() -> None:
    speakers = pd.Series([1, "1", "b", None])
    frame = pd.DataFrame({"utterance": list("abcd"), "label": list("xyxy"), "x": [1.0] * 4, "y": [0.0] * 4})
    for column in (speakers, speakers.astype("category")):
        found = make_scores(frame.assign(speaker=column), source="test").frame["speaker"]
        assert found.tolist() == ["1", "1", "b", None]


def test_classes_may_be_numbered() -> None:
    frame = pd.DataFrame({"utterance": [7, 8], "label": [0, 1], 0: [0.75, 0.5], 1: [0.25, 0.5]})
    found = make_scores(frame, source="test")
    assert found.classes == ("0", "1")
    assert found.labels().tolist() == [0, 1]
    np.testing.assert_array_equal(found.posteriors(), [[0.75, 0.25], [0.5, 0.5]])


names = st.text(st.characters(exclude_categories=("Cs", "Cc", "Cf", "Zl", "Zp", "Zs")), min_size=1, max_size=5)


@settings(few, max_examples=25)
@given(data=st.data(), suffix=st.sampled_from([".parquet", ".csv", ".tsv"]))
def test_a_table_survives_writing_and_reading(
    data: st.DataObject, suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    generator = np.random.default_rng(data.draw(st.integers(0, 1000)))
    classes = data.draw(
        st.lists(names, min_size=2, max_size=4, unique_by=key).filter(lambda c: not {*NAMES} & {*map(key, c)})
    )
    utterances = data.draw(st.lists(names, min_size=1, max_size=6, unique=True))
    rows = len(utterances)
    frame = pd.DataFrame(
        {
            "model": data.draw(names),
            "seed": data.draw(st.integers(0, 10**6)),
            "fold": data.draw(names),
            "utterance": utterances,
            "label": [data.draw(st.sampled_from(classes)) for _ in range(rows)],
            "speaker": [data.draw(st.none() | names) for _ in range(rows)],
        }
    )
    frame[classes] = posteriors_of(generator, rows, len(classes))
    before = make_scores(frame, source="test")
    path = tmp_path_factory.mktemp("scores") / f"scores{suffix}"
    write_scores(before, path)
    after = read_scores(path)
    assert after.classes == before.classes
    # Older versions of pandas read the last bit of a number from text otherwise.
    np.testing.assert_allclose(after.posteriors(), before.posteriors(), rtol=0 if suffix == ".parquet" else 1e-14)
    pd.testing.assert_frame_equal(
        after.frame.drop(columns=classes), before.frame.drop(columns=classes), check_dtype=False
    )
    assert list(path.parent.iterdir()) == [path]


HOSTILE = ("=1+1", "+x", "-x", "@x", "'=x", "''+x", "a,b", 'a"b', "a;b", "|", "'tis", "ordinary")


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv", ".CSV"])
def test_no_cell_of_a_written_table_is_a_formula_and_all_are_read_back(suffix: str, tmp_path: Path) -> None:
    rows = len(HOSTILE)
    frame = pd.DataFrame({"utterance": HOSTILE, "speaker": HOSTILE, "label": HOSTILE, "fold": "-1", "model": "=m"})
    frame[list(HOSTILE)] = np.eye(rows)
    before = make_scores(frame, source="test")
    write_scores(before, tmp_path / f"scores{suffix}")
    after = read_scores(tmp_path / f"scores{suffix}")
    assert after.classes == before.classes == HOSTILE
    pd.testing.assert_frame_equal(after.frame, before.frame, check_dtype=False)
    if suffix != ".parquet":
        text = (tmp_path / f"scores{suffix}").read_text(encoding="utf-8")
        cells = [
            cell for row in csv.reader(io.StringIO(text), delimiter="\t" if suffix == ".tsv" else ",") for cell in row
        ]
        assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]


@pytest.mark.parametrize("name", ["scores.xlsx", "scores", "scores.csv.gz", "scores.json"])
def test_scores_are_written_as_their_ending_says_or_not_at_all(name: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot be written as .*; let the name end in .parquet, .csv, .tsv"):
        write_scores(scores(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


PLAIN = [("a", "1", "happy", 0.75, 0.25), ("b", "2", "sad", 0.125, 0.875), ("c", "2", "sad", 1.0, 0.0)]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("decimal", [".", ","])
@pytest.mark.parametrize("space", ["", " "])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_every_dialect_of_a_table_is_read_alike(
    separator: str, decimal: str, space: str, end: str, mark: bytes, tmp_path: Path
) -> None:
    def cell(value: object) -> str:
        text = str(value).replace(".", decimal) if isinstance(value, float) else str(value)
        return f'"{text}"' if separator in text else text

    lines = [("utterance", "Fold ", "label", "happy", "sad"), *PLAIN]
    text = end.join((separator + space).join(map(cell, line)) for line in lines) + end
    (tmp_path / "t.csv").write_bytes(mark + text.encode())
    frame = pd.DataFrame(PLAIN, columns=["utterance", "fold", "label", "happy", "sad"])
    expected = make_scores(frame, source="test", model="t").frame
    pd.testing.assert_frame_equal(read_scores(tmp_path / "t.csv").frame, expected, check_dtype=False)


def test_columns_and_cells_that_do_not_match_are_reported_and_not_shifted(tmp_path: Path) -> None:
    head = "utterance,label,happy,sad"
    for text, message in {
        f"{head}\na,happy,1,0,0\n": "rows have more cells than the header; put cells",
        f"{head}\na, \xad,1,0\n": "row 1, column 'label' is empty",
        f"{head}\na,happy,1\nb,sad,0,1\n": "row 1, column 'sad' is not a probability",
        f"{head},sad\na,happy,1,0,0\n": "column 'sad' occurs twice",
        f"{head},SAD\na,happy,1,0,0\n": "the columns 'sad', 'SAD' are one name",
        "utterance;lable;happy;sad\na;happy;1;0\n": "column 'label' is missing; add it; there are 'utterance', 'lable'",
        "\n\n": "cannot be read as a table",
        f"{head}\n": "the table has no rows",
    }.items():
        (tmp_path / "t.csv").write_text(text)
        with pytest.raises(ScoresError, match=message):
            read_scores(tmp_path / "t.csv")


SPELT = pd.DataFrame(
    {
        "utterance": ["a ", "b", "c", "d"],
        "label": ["fr\u00f6hlich", "fro\u0308hlich", " Traurig", "traurig"],
        "speaker": ["Anna", "anna ", "Zoe\u0308", "Zo\u00eb"],
        "fr\u00f6hlich ": [0.9, 0.8, 0.1, 0.2],
        "traurig": [0.1, 0.2, 0.9, 0.8],
    }
)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_one_name_is_one_name_and_it_is_said_once(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"t{suffix}"
    SPELT.to_parquet(path) if suffix == ".parquet" else SPELT.to_csv(path, index=False)
    found = read_scores(path)
    assert found.classes == ("fr\u00f6hlich", "traurig")
    assert found.frame["label"].tolist() == ["fr\u00f6hlich"] * 2 + ["traurig"] * 2
    assert found.frame["utterance"].tolist() == ["a", "b", "c", "d"]
    assert found.frame["speaker"].nunique() == 2
    assert len(found.notes) == 2
    assert evaluate(found)["t"]["wa"].value == 1.0
    assert result.describe(found).notes == list(found.notes)


def test_tables_that_spell_names_otherwise_are_compared_and_fused() -> None:
    one, frame = scores(speakers=6), table(speakers=6, draw=1, model="two")
    other = frame.rename(columns={"angry": "Angry", "sad": "SAD"})
    other["label"] = other["label"].str.upper() + " "
    theirs, plain = make_scores(other, source="2"), make_scores(frame, source="2")
    assert theirs.classes == ("Angry", "happy", "SAD")
    assert paired_difference(one, theirs) == paired_difference(one, plain)
    pd.testing.assert_frame_equal(fuse([one, theirs])[0].frame, fuse([one, plain])[0].frame)
    pd.testing.assert_frame_equal(join_scores([one, theirs]).frame, join_scores([one, plain]).frame)


@pytest.mark.parametrize("column", ["dialogue", "session", "room", "Number of the room"])
def test_any_column_may_be_the_clusters(column: str, tmp_path: Path) -> None:
    places = {name: 100 + int(name) // 4 for name in table()["utterance"]}
    paths = [tmp_path / "one.csv", tmp_path / "two.csv"]
    for path, draw in zip(paths, (0, 1), strict=True):
        frame = table(draw=draw)
        frame.assign(**{column: frame["utterance"].map(places)}).to_csv(path, index=False)
    gap = paired_difference(*(read_scores(path, by=column) for path in paths))["ua"]
    named = [table(draw=draw).assign(speaker=table()["utterance"].map(places)) for draw in (0, 1)]
    expected = paired_difference(*(make_scores(frame, source="test") for frame in named))["ua"]
    assert (gap.value, gap.low, gap.high, gap.p) == (expected.value, expected.low, expected.high, expected.p)
    assert (gap.cluster, gap.clusters) == (column, 12)
    with pytest.raises(ScoresError, match="column 'floor' is missing; use one of model, "):
        read_scores(paths[0], by="floor")


# Ties.


def tied(*, columns: Sequence[str] = CLASSES) -> pd.DataFrame:
    """Posteriors of three annotators' votes, which tie in many ways; columns in any order."""
    generator = np.random.default_rng(0)
    frame = table(speakers=6)
    frame[list(CLASSES)] = generator.multinomial(2, [0.4, 0.3, 0.3], len(frame)) / 2
    return frame[[*frame.columns[:6], *columns]]


def test_figures_do_not_depend_on_the_order_of_columns() -> None:
    found = [
        evaluate(make_scores(tied(columns=order), source="test"))["one"] for order in itertools.permutations(CLASSES)
    ]
    for entry in found[1:]:
        for name in ("wa", "ua", "macro_f1", "fold_mean", "seed_sd"):
            assert entry[name] == pytest.approx(found[0][name]), name
        assert entry.ece == pytest.approx(found[0].ece)
        assert entry.recall == pytest.approx(found[0].recall)
        assert entry.ties == found[0].ties > 0
        assert sum(map(sum, entry.confusion)) == pytest.approx(entry.rows)
    turned = [make_scores(tied(columns=order), source="test") for order in (CLASSES, CLASSES[::-1])]
    gaps = paired_difference(*turned)
    assert {(gap.value, gap.p) for gap in gaps.values()} == {(0.0, 1.0)}


def test_a_tie_counts_as_what_guessing_among_its_classes_gives_on_average() -> None:
    frame = tied()
    best = frame[list(CLASSES)].to_numpy()
    best = best == best.max(1, keepdims=True)
    hit = best[np.arange(len(frame)), frame["label"].map(CLASSES.index)] / best.sum(1)
    entry = evaluate(make_scores(frame, source="test"))["one"]
    assert entry["wa"].value == pytest.approx(hit.mean())
    assert entry.recall == pytest.approx(pd.Series(hit).groupby(frame["label"]).mean().to_dict())
    assert entry.ties == int((best.sum(1) > 1).sum())


def test_fused_votes_tie_in_whatever_order_their_classes_stand() -> None:
    def votes(draw: int, order: Sequence[str]) -> Scores:
        frame = table(draw=draw)
        frame[list(CLASSES)] = np.eye(3)[frame[list(CLASSES)].to_numpy().argmax(1)]
        return make_scores(frame[[*frame.columns[:6], *order]], source="test", model="m")

    for rule in ("mean", "product", "tuned"):
        one, two = (
            evaluate(fuse([votes(0, order), votes(1, order)], rule=rule)[0])["fused"]
            for order in (CLASSES, CLASSES[::-1])
        )
        for name in METRICS:
            assert one[name].model_dump() == pytest.approx(two[name].model_dump()), (rule, name)


# Numbers that are none.


@few
@given(
    rows=st.integers(1, 12),
    speakers=st.integers(1, 7),
    classes=st.integers(2, 4),
    occurring=st.integers(1, 4),
    sure=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_nothing_that_is_no_number_comes_out(
    rows: int, speakers: int, classes: int, occurring: int, sure: bool, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, min(occurring, classes), rows)
    frames = []
    for _ in range(2):
        values = posteriors_of(generator, rows, classes)
        values = np.eye(classes)[values.argmax(1)] if sure else values
        frame = pd.DataFrame(values, columns=[f"c{n}" for n in range(classes)])
        frame["utterance"], frame["label"] = [f"u{n}" for n in range(rows)], [f"c{n}" for n in labels]
        frame["speaker"] = [f"s{n % speakers}" for n in range(rows)]
        frames.append(make_scores(frame, source="test"))
    found = evaluate(frames[0])["model"]
    json.dumps(found.model_dump(), allow_nan=False)
    for name in METRICS:
        assert 0 <= found[name].low <= found[name].value <= found[name].high <= 1
    for gap in result.corrected([paired_difference(*frames)])[0].values():
        json.dumps(gap.model_dump(), allow_nan=False)


def test_a_million_rows_without_speakers_need_little_more_than_the_table() -> None:
    """A bootstrap held 32 KB a row."""
    rows = 60_000
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, rows)
    parts = [np.eye(4)[generator.integers(0, 4, rows)] for _ in range(2)]
    alone, once = np.arange(rows), np.zeros(rows, dtype=np.int64)
    tracemalloc.start()
    inference.estimates(labels, parts[0], seeds=once, clusters=alone)
    inference.differences(labels, parts[0], parts[1], seeds=once, clusters=alone)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2000 * rows


def spoiled(column: str, row: int, value: object) -> pd.DataFrame:
    frame = table().astype({column: "object"}) if column in table() else table()
    frame.loc[row, column] = value
    return frame


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (table().drop(columns="utterance"), r"column 'utterance' is missing; add it"),
        (table().drop(columns="label"), r"column 'label' is missing; add it"),
        (table().head(0), r"the table has no rows; check"),
        (
            table().drop(columns=["happy", "sad"]).assign(label="angry"),
            r"there are fewer than two columns of posteriors; add",
        ),
        (spoiled("utterance", 4, None), r"row 5, column 'utterance' is empty; fill it in"),
        (spoiled("label", 2, None), r"row 3, column 'label' is empty; fill it in"),
        (spoiled("fold", 2, None), r"row 3, column 'fold' is empty; fill it in"),
        (spoiled("label", 6, "bored"), r"row 7, column 'label' is not one of the classes angry, happy, sad; give"),
        (spoiled("seed", 1, "two"), r"row 2, column 'seed' is not a whole number; number"),
        (spoiled("seed", 1, np.inf), r"row 2, column 'seed' is not a whole number; number"),
        (spoiled("seed", 1, 1e300), r"row 2, column 'seed' is not a whole number; number"),
        (spoiled("happy", 3, "inf"), r"row 4, column 'happy' is not a probability; write"),
        (spoiled("seed", 1, 1.5), r"row 2, column 'seed' is not a whole number; number"),
        (spoiled("happy", 3, np.nan), r"row 4, column 'happy' is not a probability; write posteriors between 0"),
        (spoiled("happy", 3, -0.1), r"row 4, column 'happy' is not a probability; write"),
        (spoiled("happy", 3, 7.0), r"row 4, column 'happy' is not a probability; write"),
        (spoiled("happy", 3, np.inf), r"row 4, column 'happy' is not a probability; write"),
        (spoiled("happy", 0, "0,3,"), r"row 1, column 'happy' is not a probability; write"),
        (
            table().assign(sad=0.0, angry=0.25, happy=0.25),
            r"row 1, column 'angry \+ happy \+ sad' is not 1 in sum; norm",
        ),
        (pd.concat([table(), table().iloc[[9]]]), r"row 97, column 'utterance' is there twice for its model, seed"),
    ],
)
def test_an_impossible_table_is_refused_by_row_and_column(frame: pd.DataFrame, message: str) -> None:
    with pytest.raises(ScoresError, match=f"^my table: {message}"):
        make_scores(frame, source="my table")


def test_a_column_without_numbers_is_no_class(tmp_path: Path) -> None:
    assert make_scores(table().assign(valence=np.nan), source="test").classes == CLASSES
    with pytest.raises(ScoresError, match=r"this is a folder; name the table in it"):
        read_scores(tmp_path)


def test_rounding_of_posteriors_is_forgiven() -> None:
    rounded = table().round(3)
    assert make_scores(rounded, source="test").classes == CLASSES


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.csv", None, "no such score table; check the path"),
        ("empty.csv", b"", "cannot be read as a table"),
        ("long.csv", b"utterance,label,joy,sad\na,joy,1,0\nb,joy,1,0,5\n", "cannot be read as a table"),
        ("text.parquet", b"hello", "cannot be read as a table"),
        ("zeros.csv", b"utterance,label,sad,joy\na\0,joy,0,1\n", "this is not text"),
    ],
)
def test_a_file_that_is_no_table_is_named(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ScoresError, match=message) as caught:
        read_scores(tmp_path / name)
    assert caught.value.where == str(tmp_path / name)
    assert caught.value.remedy


def test_asking_for_a_model_that_is_not_there_names_those_that_are() -> None:
    both = join_scores([scores(), scores(model="two", draw=1)])
    assert both.models == ("one", "two")
    pd.testing.assert_frame_equal(both.of("two").frame, scores(model="two", draw=1).frame)
    with pytest.raises(ScoresError, match="no model is called 'three'; use one of one, two"):
        both.of("three")


def test_tables_are_fused_by_the_names_of_their_classes() -> None:
    one = scores()
    frame = table(model="two", draw=1)
    other = make_scores(frame[[*frame.columns[:6], "sad", "angry", "happy"]], source="2")
    both = join_scores([one, other])
    np.testing.assert_array_equal(both.of("two").posteriors(), frame[list(one.classes)].to_numpy())
    with pytest.raises(ScoresError, match=r"different classes: angry, happy, sad, and .*; give"):
        join_scores([one, scores(classes=("angry", "happy", "neutral"))])


# Results.


def test_a_result_holds_what_the_table_says() -> None:
    frame = table(speakers=6, seeds=(0, 4))
    both = join_scores([make_scores(frame, source="1"), scores(model="two", draw=1, speakers=6, seeds=(0, 4))])
    found = evaluate(both)
    assert list(found) == ["one", "two"]
    entry = found["one"]
    said = frame[list(CLASSES)].idxmax(axis=1)
    frame = frame.assign(right=(said == frame["label"]).astype(float))
    by_seed = frame.groupby("seed")["right"].mean()
    assert entry["wa"].value == pytest.approx(by_seed.mean())
    assert entry.seed_sd["wa"] == pytest.approx(by_seed.std())
    assert entry.fold_mean["wa"] == pytest.approx(frame.groupby(["seed", "fold"])["right"].mean().mean())
    uas = [balanced_accuracy_score(rows["label"], said[rows.index]) for _, rows in frame.groupby("seed")]
    assert entry["ua"].value == pytest.approx(np.mean(uas))
    recalls = recall_score(frame["label"], said, labels=CLASSES, average=None)
    assert list(entry.recall.values()) == pytest.approx(recalls.tolist())
    assert entry.confusion == confusion_matrix(frame["label"], said, labels=CLASSES).tolist()
    one = both.of("one")
    assert entry.confusion == confusion(one.labels(), one.answers(), classes=len(CLASSES)).tolist()
    assert (entry.utterances, entry.seeds, entry.folds) == (48, [0, 4], 3)
    assert (entry.cluster, entry.clusters) == ("speaker", 6)
    assert evaluate(scores(seeds=(1,)))["one"].seed_sd["wa"] is None


def test_the_fingerprint_of_what_was_tested_changes_with_a_label_or_fold_only() -> None:
    frame = table()
    mark = result.tested_fingerprint(make_scores(frame, source="1"))
    assert result.tested_fingerprint(scores(model="other", draw=9, seeds=(5,))) == mark
    assert result.tested_fingerprint(make_scores(frame.sample(frac=1, random_state=0), source="1")) == mark
    for column, value in (("label", "sad" if frame["label"][0] != "sad" else "happy"), ("fold", "fold-9")):
        other = frame.copy()
        other.loc[other["utterance"] == "0000", column] = value
        assert result.tested_fingerprint(make_scores(other, source="1")) != mark
