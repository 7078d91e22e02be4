"""Values in place of classes: their metrics, intervals and tests, and tables that are read, compared and fused."""

from __future__ import annotations

import itertools
import json
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic_core import to_jsonable_python as plain
from scipy import stats
from typer.testing import CliRunner

from emofuse.cli.app import app
from emofuse.errors import ScoresError
from emofuse.manifest import make_manifest, write_manifest
from emofuse.report import write_report
from emofuse.report.mistakes import worst_mistakes
from emofuse.report.model_card import model_card
from emofuse.report.paper_table import paper_table
from emofuse.report.plots import scatter_plot
from emofuse.scoring.fuse import Fusion, combine, fit_fusion, fuse
from emofuse.scoring.inference import differences, estimates, intervals, paired_difference
from emofuse.scoring.kinds import VALUES
from emofuse.scoring.record import check_result
from emofuse.scoring.regression import concordance, influences, mean_absolute_error, pearson
from emofuse.scoring.result import compare, describe, evaluate
from emofuse.scoring.table import Scores, join_scores, make_scores, read_scores, write_scores

Array = NDArray[np.float64]
METRICS = ("ccc", "pearson", "mae")


def draw(seed: int, *, rows: int = 60, values: int = 1, slope: float = 0.7, bias: float = 0.2) -> tuple[Array, Array]:
    generator = np.random.default_rng(seed)
    truth = generator.normal(3, 1, (rows, values))
    return truth, bias + slope * truth + generator.normal(0, 0.6, (rows, values))


def table(
    model: str = "speech", *, seed: int = 0, speakers: int = 8, seeds: int = 2, names: tuple[str, ...] = ("valence",),
    noise: float = 0.6,
) -> pd.DataFrame:  # fmt: skip
    """Six utterances a speaker, each speaker a fold, whose predictions err by speaker too."""
    truth = np.random.default_rng(99).normal(3, 1, (6 * speakers, len(names)))
    generator = np.random.default_rng(seed)
    frames = []
    for number in range(seeds):
        own = np.repeat(generator.normal(0, 0.3, (speakers, 1)), 6, axis=0)
        said = 0.6 + 0.8 * truth + own + generator.normal(0, noise, truth.shape)
        frames.append(
            pd.DataFrame(
                {
                    "model": model,
                    "seed": number,
                    "utterance": [f"u{row:03d}" for row in range(len(truth))],
                    "fold": [f"f{row // 6}" for row in range(len(truth))],
                    "speaker": [f"s{row // 6}" for row in range(len(truth))],
                    **{f"label.{name}": truth[:, place] for place, name in enumerate(names)},
                    **{name: said[:, place] for place, name in enumerate(names)},
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def scores(model: str = "speech", **options: Any) -> Scores:
    return make_scores(table(model, **options), source="test")


# Metrics.


def slow_concordance(truth: list[float], predicted: list[float]) -> float:
    """Lin (1989), equation by equation."""
    n = len(truth)
    one, two = sum(truth) / n, sum(predicted) / n
    first = sum((value - one) ** 2 for value in truth) / n
    second = sum((value - two) ** 2 for value in predicted) / n
    both = sum((a - one) * (b - two) for a, b in zip(truth, predicted, strict=True)) / n
    below = first + second + (one - two) ** 2
    return 2 * both / below if below else 0.0


@settings(deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), rows=st.integers(3, 40), slope=st.floats(-2, 2), bias=st.floats(-5, 5))
def test_metrics_are_those_of_scipy_and_of_plain_loops(seed: int, rows: int, slope: float, bias: float) -> None:
    truth, predicted = draw(seed, rows=rows, values=2, slope=slope, bias=bias)
    for place in range(2):
        one, two = truth[:, place], predicted[:, place]
        assert pearson(truth, predicted)[place] == pytest.approx(stats.pearsonr(one, two)[0])
        assert concordance(truth, predicted)[place] == pytest.approx(slow_concordance(one.tolist(), two.tolist()))
        errors = [abs(a - b) for a, b in zip(one.tolist(), two.tolist(), strict=True)]
        assert mean_absolute_error(truth, predicted)[place] == pytest.approx(sum(errors) / rows)
        assert float(concordance(one, two)) == pytest.approx(concordance(truth, predicted)[place])


def test_the_concordance_of_a_shift_and_a_scale_is_the_one_worked_out_by_hand() -> None:
    truth = np.array([1.0, 2.0, 3.0, 4.0])
    # Variance 1.25: a shift by 1 gives 2.5 / (2.5 + 1), twice the values 5 / (1.25 + 5 + 2.5²).
    assert float(concordance(truth, truth + 1)) == pytest.approx(2.5 / 3.5)
    assert float(concordance(truth, 2 * truth)) == pytest.approx(5 / 12.5)
    assert float(concordance(truth, -truth)) == pytest.approx(-2.5 / (2.5 + 25))


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e9 + 0.1, -3e-7])
def test_constant_predictions_or_truths_have_no_correlation_and_give_no_warning(constant: float) -> None:
    truth, _ = draw(0, rows=7)
    same = np.full_like(truth, constant) * (1 + np.array([[0, 1, 0, 1, 0, 1, 0]]).T * 1e-16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for one, two in ((truth, same), (same, truth), (same, same)):
            assert float(pearson(one, two)[0]) == 0
            assert float(concordance(one, two)[0]) == 0
            assert all((change == 0).all() for change in influences(one, two).values())
        frame = pd.DataFrame({"utterance": list("abcdefg"), "speaker": list("1122334"), "label.x": truth[:, 0]})
        found = evaluate(make_scores(frame.assign(x=constant), source="x", model="mean"))["mean"]
    assert (found["ccc"].value, found["pearson"].value) == (0, 0)
    assert found["mae"].low < found["mae"].value < found["mae"].high
    json.dumps(plain(found), allow_nan=False)


@pytest.mark.parametrize(("metric", "slow"), [("pearson", lambda a, b: stats.pearsonr(a, b)[0]),
                                              ("ccc", slow_concordance)])  # fmt: skip
def test_a_row_moves_a_metric_by_its_influence(metric: str, slow: Any) -> None:
    truth, predicted = draw(3, rows=400)
    found = influences(truth, predicted)[metric][:, 0]
    whole = slow(truth[:, 0].tolist(), predicted[:, 0].tolist())
    for row in (0, 17, 300):
        kept = np.arange(400) != row
        without = slow(truth[kept, 0].tolist(), predicted[kept, 0].tolist())
        # Leaving one of n rows out takes its influence away n - 1 times smaller, to first order.
        assert 399 * (whole - without) == pytest.approx(found[row], rel=0.03, abs=0.01)
    assert found.sum() == pytest.approx(0, abs=1e-9)


# Intervals and tests.


def arrays(seed: int, *, clusters: int, size: int, values: int = 1) -> tuple[Array, Array, NDArray[np.int64]]:
    """Truth, a model that errs by cluster as by row, and clusters."""
    generator = np.random.default_rng(seed)
    number = np.repeat(np.arange(clusters), size)
    truth = generator.normal(size=(clusters * size, values)) + generator.normal(0, 0.5, (clusters, values))[number]
    own = generator.normal(0, 0.4, (clusters, values))[number]
    return truth, 0.7 * truth + own + generator.normal(0, 0.5, truth.shape), number


def estimate(truth: Array, predicted: Array, clusters: NDArray[np.int64]) -> Any:
    return estimates(truth, predicted, seeds=np.zeros(len(truth), dtype=np.int64), clusters=clusters, kind=VALUES)


def test_the_width_of_an_interval_is_that_of_the_jackknife_over_clusters() -> None:
    truth, predicted, clusters = arrays(0, clusters=40, size=6)
    found = estimate(truth, predicted, clusters)
    whole, backs = {}, {"ccc": np.arctanh, "pearson": np.arctanh, "mae": np.log}
    for name, metric in {"ccc": concordance, "pearson": pearson, "mae": mean_absolute_error}.items():
        whole[name] = float(metric(truth, predicted)[0])
        left = np.array([float(metric(truth[clusters != one], predicted[clusters != one])[0]) for one in range(40)])
        half = stats.t.ppf(0.975, 39) * np.sqrt(39 / 40 * np.sum((left - left.mean()) ** 2))
        assert found[name].value == pytest.approx(whole[name])
        slope = {"ccc": 1 / (1 - whole[name] ** 2), "pearson": 1 / (1 - whole[name] ** 2), "mae": 1 / whole[name]}[name]
        ours = [backs[name](bound) for bound in (found[name].low, found[name].high)]
        assert ours[1] - ours[0] == pytest.approx(2 * half * slope, rel=0.05)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    truth, predicted, _ = arrays(1, clusters=20_000, size=5)
    functions = {"ccc": concordance, "pearson": pearson, "mae": mean_absolute_error}
    right = {name: function(truth, predicted)[0] for name, function in functions.items()}
    inside = dict.fromkeys(METRICS, 0)
    for seed in range(400):
        for name, one in estimate(*arrays(100 + seed, clusters=12, size=5)).items():
            inside[name] += one.low <= right[name] <= one.high
    for name in METRICS:
        assert 0.91 <= inside[name] / 400 <= 0.985, name


@pytest.mark.parametrize("clusters", [8, pytest.param(20, marks=pytest.mark.slow)])
def test_tests_reject_a_true_null_as_often_as_they_say(clusters: int) -> None:
    rejected = dict.fromkeys(METRICS, 0)
    for seed in range(300):
        truth, one, number = arrays(seed, clusters=clusters, size=5)
        generator = np.random.default_rng(10_000 + seed)
        two = 0.7 * truth + generator.normal(0, 0.4, (clusters, 1))[number] + generator.normal(0, 0.5, truth.shape)
        found = differences(truth, one, two, seeds=0 * number, clusters=number, kind=VALUES)
        for name in METRICS:
            rejected[name] += found[name].p <= 0.05
    # Of 300 tests at 5 %, 15 reject on average; 26 or more in one time of 200.
    assert max(rejected.values()) <= 25, rejected


@pytest.mark.parametrize("seed", range(4))
def test_p_is_close_to_that_of_all_exchanges_of_the_models(seed: int) -> None:
    """Every pattern of clusters in which the two models are exchanged, with the metric computed again."""
    truth, one, number = arrays(seed, clusters=9, size=30)
    two = 0.75 * truth + np.random.default_rng(50 + seed).normal(0, 0.6, truth.shape)
    found = differences(truth, one, two, seeds=0 * number, clusters=number, kind=VALUES)
    for name, metric in {"ccc": concordance, "pearson": pearson, "mae": mean_absolute_error}.items():
        gap = float(metric(truth, one)[0] - metric(truth, two)[0])
        assert found[name].value == pytest.approx(gap)
        as_large = []
        for flips in itertools.product([False, True], repeat=9):
            swapped = np.array(flips)[number][:, None]
            ours, theirs = np.where(swapped, two, one), np.where(swapped, one, two)
            as_large.append(abs(float(metric(truth, ours)[0] - metric(truth, theirs)[0])) >= abs(gap) - 1e-12)
        assert found[name].p == pytest.approx(np.mean(as_large), abs=0.02 if name != "mae" else 1e-9)


def test_a_model_that_is_better_everywhere_is_found_so() -> None:
    found = paired_difference(scores(noise=0.1), scores("worse", seed=1, noise=1.5))
    assert found["ccc"].value > 0 > found["mae"].value
    for name in METRICS:
        assert found[name].p < 0.05
        low, high = found[name].low, found[name].high
        assert low is not None
        assert high is not None
        assert not low <= 0 <= high
        assert low <= found[name].value <= high
    same = paired_difference(scores(), scores("copy"))
    assert {(gap.value, gap.p) for gap in same.values()} == {(0.0, 1.0)}


def test_exact_predictions_and_few_clusters_give_finite_figures() -> None:
    frame = table(seeds=1).assign(valence=lambda one: one["label.valence"])
    found = evaluate(make_scores(frame, source="x", model="m"))["speech"]
    assert [found[name].value for name in METRICS] == pytest.approx([1, 1, 0])
    one = intervals(make_scores(table(seeds=1).assign(room="a"), source="x", by="room"))
    assert (one["ccc"].low, one["ccc"].high, one["mae"].low) == (-1, 1, 0)
    assert one["mae"].value < one["mae"].high < 10


# Results.


def test_a_result_holds_each_value_and_their_mean_over_seeds() -> None:
    frame = table(names=("valence", "arousal"), seeds=3)
    found = evaluate(make_scores(frame, source="test"))["speech"]
    for metric, function in {"ccc": slow_concordance, "mae": None, "pearson": None}.items():
        per_value = {}
        for name in ("valence", "arousal"):
            figures = []
            for _, rows in frame.groupby("seed"):
                one, two = rows[f"label.{name}"].to_numpy(), rows[name].to_numpy()
                if metric == "mae":
                    figures.append(float(np.mean(np.abs(one - two))))
                else:
                    figures.append(function(list(one), list(two)) if function else stats.pearsonr(one, two)[0])
            per_value[name] = float(np.mean(figures))
            assert found.dimensions[name][metric].value == pytest.approx(per_value[name])
        assert found[metric].value == pytest.approx(np.mean(list(per_value.values())))
        assert found[metric].low < found[metric].value < found[metric].high
    assert found.values == ["valence", "arousal"]
    assert (found.utterances, found.seeds, found.folds, found.clusters) == (48, [0, 1, 2], 8, 8)
    assert found.seed_sd["ccc"] > 0
    assert set(found.fold_mean) == set(METRICS)


def test_a_table_of_values_is_described_and_compared() -> None:
    both = join_scores([scores(noise=0.2), scores("worse", seed=1, noise=1.2)])
    reported = describe(both)
    assert reported.protocol.values == ["valence"]
    assert not reported.protocol.classes
    (pair,) = compare(both, [("speech", "worse")])
    assert pair["ccc"].reading == "higher"
    assert pair["mae"].reading == "lower"
    changed = both.frame.assign(**{"label.valence": both.frame["label.valence"] + 0.5})
    assert describe(replace(both, frame=changed)).protocol.fingerprint != reported.protocol.fingerprint


# Tables.


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".tsv"])
def test_a_table_of_values_survives_writing_and_reading(tmp_path: Path, ending: str) -> None:
    before = scores(names=("=valence", "arousal"))
    assert before.values == ("=valence", "arousal")
    assert before.classes == ()
    write_scores(before, tmp_path / f"scores{ending}")
    after = read_scores(tmp_path / f"scores{ending}")
    pd.testing.assert_frame_equal(after.frame, before.frame, check_dtype=False)
    assert after.names == before.names
    np.testing.assert_array_equal(after.outputs(), before.frame[["=valence", "arousal"]].to_numpy())
    np.testing.assert_array_equal(after.truth(), before.frame[["label.=valence", "label.arousal"]].to_numpy())


def test_values_with_decimal_commas_are_read_and_other_columns_left_out(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("utterance;Label.belief;belief;mood\na;-2,5;1,25;3\nb;0;-1;4\n")
    found = read_scores(tmp_path / "t.csv")
    assert found.names == ("belief",)
    assert found.truth().tolist() == [[-2.5], [0.0]]
    assert found.outputs().tolist() == [[1.25], [-1.0]]
    assert list(found.frame.columns) == ["model", "seed", "fold", "utterance", "label.belief", "belief"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "sad"}, r"both 'label', of classes, and 'label\.x', of a value; keep one"),
        ({"label.y": 1.0}, r"column 'y' is missing, where there is 'label\.y'"),
        ({"x": [1.0, np.nan]}, r"row 2, column 'x' is not a number"),
        ({"x": [np.inf, 1.0]}, r"row 1, column 'x' is not a number"),
        ({"label.x": ["high", 1.0]}, r"row 1, column 'label\.x' is not a number"),
        ({"label.speaker": 1.0, "speaker": "a"}, r"the value 'speaker' has the name of another column"),
        ({"utterance": "a"}, r"row 2, column 'utterance' is there twice"),
        ({"X": 2.0, "label.X": 2.0}, r"the columns 'x', 'X' are one name"),
    ],
)
def test_an_impossible_table_of_values_is_refused(change: dict[str, Any], message: str) -> None:
    frame = pd.DataFrame({"utterance": ["a", "b"], "label.x": [1.0, 2.0], "x": [1.5, 2.5]}).assign(**change)
    with pytest.raises(ScoresError, match=message):
        make_scores(frame, source="t.csv")


def test_a_table_of_values_has_no_posteriors() -> None:
    for method in ("posteriors", "labels", "answers"):
        with pytest.raises(ScoresError, match=r"holds values \('valence'\), not posteriors"):
            getattr(scores(), method)()


def test_tables_of_two_kinds_or_of_other_values_are_not_put_together() -> None:
    classes = pd.DataFrame({"utterance": ["a"], "label": ["x"], "x": [0.9], "y": [0.1]})
    for one, two, message in (
        (scores(), make_scores(classes, source="c"), "one table holds values and another classes"),
        (scores(), scores("two", names=("arousal",)), "different values: valence, and arousal"),
    ):
        for together in (lambda a, b: join_scores([a, b]), paired_difference, lambda a, b: fuse([a, b])):
            with pytest.raises(ScoresError, match=message):
                together(one, two)
    moved = table("two").assign(**{"label.valence": lambda frame: frame["label.valence"] + 0.01})
    for together in (paired_difference, lambda a, b: fuse([a, b])):
        with pytest.raises(ScoresError, match="utterance 'u000'"):
            together(scores(), make_scores(moved, source="x"))


def test_values_that_are_spelt_otherwise_are_matched() -> None:
    other = table("two", seed=1).rename(columns={"valence": "Valence", "label.valence": "label.Valence"})
    fused, _ = fuse([scores(), make_scores(other, source="x")])
    assert fused.names == ("valence",)


# Fusion.


def test_values_are_fused_by_their_mean() -> None:
    one, two = scores(), scores("two", seed=1)
    for rule, weights in ((None, (0.5, 0.5)), ("mean", (0.5, 0.5)), ("weights=1,3", (0.25, 0.75))):
        fused, done = fuse([one, two], rule=rule)
        expected = weights[0] * one.frame["valence"] + weights[1] * two.frame["valence"]
        ours = fused.frame.sort_values(["seed", "utterance"])["valence"].to_numpy()
        np.testing.assert_allclose(ours, expected.to_numpy())
        assert fused.values == ("valence",)
        assert done["rule"] == (rule or "mean")
    with pytest.raises(ScoresError, match=r"--rule: values cannot be fused by product; use mean"):
        fuse([one, two], rule="product")


def test_weights_of_values_are_tuned_by_ccc_on_other_folds() -> None:
    good, bad = scores(noise=0.05), scores("bad", seed=1, noise=3)
    fused, done = fuse([good, bad], rule="tuned")
    assert min(weights[0] for weights in done["weights"].values()) >= 0.9
    assert evaluate(fused)["fused"]["ccc"].value > evaluate(fuse([good, bad])[0])["fused"]["ccc"].value
    # The labels of a fold do not reach its own weights.
    frame = good.frame.copy()
    frame.loc[frame["fold"] == "f3", "label.valence"] *= -5
    other = replace(bad, frame=bad.frame.assign(**{"label.valence": frame["label.valence"]}))
    again = fuse([replace(good, frame=frame), other], rule="tuned")[1]
    assert again["weights"]["f3"] == done["weights"]["f3"]


def test_one_joining_serves_ensembles_of_values() -> None:
    one, two = scores(), scores("two", seed=1)
    outputs = np.stack([one.outputs(), two.outputs()])
    how = fit_fusion(outputs, one.truth(), rule="mean", kind=one.kind)
    assert how == Fusion("mean", (0.5, 0.5), (1.0, 1.0))
    np.testing.assert_allclose(how(outputs), (one.outputs() + two.outputs()) / 2)
    np.testing.assert_allclose(combine(outputs, [1, 3], rule="mean"), (one.outputs() + 3 * two.outputs()) / 4)
    for options, message in (({"rule": "product"}, "cannot be fused by product"),
                             ({"rule": "mean", "calibrated": True}, "have no temperature")):  # fmt: skip
        with pytest.raises(ScoresError, match=message):
            fit_fusion(outputs, one.truth(), kind=one.kind, **options)  # type: ignore[arg-type]


# Commands.


def test_commands_take_tables_of_values(tmp_path: Path, emo: Callable[..., Any]) -> None:
    for name, options in (("one", {"noise": 0.1}), ("two", {"seed": 1, "noise": 1.5})):
        write_scores(scores(name, names=("valence", "arousal"), **options), tmp_path / f"{name}.csv")  # type: ignore[arg-type]
    one, two, out = (str(tmp_path / f"{name}.csv") for name in ("one", "two", "out"))
    shown = emo("evaluate", one, folder=tmp_path)
    assert shown.returncode == 0, shown.stderr
    ccc = evaluate(read_scores(tmp_path / "one.csv"))["one"]
    assert f"{ccc['ccc'].value:.3f} [{ccc['ccc'].low:.3f}, {ccc['ccc'].high:.3f}]" in shown.stdout
    assert f"{ccc.dimensions['arousal']['mae'].value:.3f}" in shown.stdout
    assert "one, arousal" in shown.stdout
    assert "%" not in shown.stdout.replace("95 %", "")
    reported = json.loads(CliRunner().invoke(app, ["compare", one, two, "--json"]).stdout)
    assert reported["ccc"]["reading"] == "higher"
    assert reported["mae"]["reading"] == "lower"
    shown = emo("compare", one, two, folder=tmp_path)
    assert f"+{reported['ccc']['value']:.3f}" in shown.stdout
    assert f"{reported['mae']['value']:.3f}" in shown.stdout
    fused = CliRunner().invoke(app, ["fuse", one, two, "--out", out])
    assert fused.exit_code == 0, fused.output
    assert "rule: mean" in fused.output
    refused = CliRunner().invoke(app, ["fuse", one, two, "--out", out, "--rule", "product"])
    assert "values cannot be fused by product" in str(refused.exception)


# Reports.


def value_run(run: Path) -> dict[str, Any]:
    """A run folder of two models of two values."""
    names = ("valence", "arousal")
    both = join_scores([scores(names=names, noise=1.0), scores("late", seed=1, names=names, noise=0.3)])
    write_scores(both, run / "scores.parquet")
    rows = both.frame.drop_duplicates("utterance")[["utterance", "speaker"]].assign(text="so it is", corpus="mine")
    write_manifest(make_manifest(rows, source="test"), run / "manifest.parquet")
    result = {
        "name": "Two values",
        "corpus": "mine",
        "sources": [],
        "models": plain(evaluate(both)),
        "comparisons": plain(compare(both, [("late", "speech")])),
        "controls": {"late": {"members": 2, "best": "speech", "controls": ["speech"]}},
        "protocol": {"kind": "speaker", "fingerprint": "0", "folds": 8, "values": list(names), "utterances": 48,
                     "speakers": 8, "leakage": {"exact": {"fraction": 1.0, "agreement": None}, "near": None}},
        "fused": {"late": {"of": ["speech"], "folds": {"final": {"weights": [1.0], "temperatures": [1.0]}}}},
        "modalities": {"speech": ["speech"]},
        "encoders": {},
    }  # fmt: skip
    (run / "result.json").write_text(json.dumps(result))
    return result


def test_the_report_of_a_regression_shows_its_figures_and_scatter_plots(tmp_path: Path) -> None:
    result = value_run(tmp_path)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    plain = unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>", "", page, flags=re.S))))
    for entry in result["models"].values():
        for one in (*(entry[key] for key in METRICS), *(entry["dimensions"]["arousal"][key] for key in METRICS)):
            assert f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]" in plain
    gap = result["comparisons"][0]["ccc"]
    assert f"late adds {gap['value']:+.3f} of CCC [{gap['low']:+.3f}, {gap['high']:+.3f}] over speech" in plain
    assert "whose valence and arousal they predict" in plain
    assert "Lin 1989" in plain
    for word in ("Chance", "ECE", "Confusion", "Recall", "percent. "):
        assert word not in plain, word
    plots = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert plots == [f"{model}-{name}.png" for model in ("late", "speech")
                     for name in ("scatter-1", "scatter-2", "speakers")]  # fmt: skip


def test_a_scatter_plot_is_described_in_words_and_drawn_of_constant_predictions() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot = scatter_plot(np.array([1.0, 3.0]), np.array([2.0, 2.0]), name="valence", ccc=0.0)
        scatter_plot(np.array([2.0]), np.array([2.0]), name="$x$", ccc=0.0)
    assert plot.png.startswith(b"\x89PNG")
    assert "of 2 utterances; truth from 1 to 3, predictions from 2 to 2; CCC 0.000" in plot.alt


def test_the_paper_table_of_values_has_ccc_first(tmp_path: Path) -> None:
    result = value_run(tmp_path)
    lines = paper_table(check_result(result), style="markdown").splitlines()
    header = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert header == ["Model", "CCC", "Pearson r", "MAE", "CCC over speech", "CCC over late", "CCC over its control",
                      "Reconstruction"]  # fmt: skip
    gap = result["comparisons"][0]["ccc"]
    assert f"{gap['value']:+.3f}" in lines[3]
    assert "valence, arousal" in "\n".join(lines)
    assert paper_table(check_result(result), style="latex").startswith("% needs the package booktabs; 95 % intervals")


def test_the_card_of_a_model_of_values_says_what_it_predicts(tmp_path: Path) -> None:
    result = value_run(tmp_path)
    card = model_card("speech", check_result(result))
    assert "- **Values**: valence, arousal" in card
    assert "Classes" not in card
    one = result["models"]["speech"]["dimensions"]["arousal"]["mae"]
    assert f"| MAE of arousal | {one['value']:.3f} | {one['low']:.3f} to {one['high']:.3f} |" in card


def test_the_worst_mistakes_of_values_are_the_largest_errors() -> None:
    frame = pd.DataFrame(
        {"utterance": list("abc") * 2, "seed": [0] * 3 + [1] * 3, "label.x": [0.0, 2.0, 4.0] * 2,
         "label.y": [0.0, 100.0, 200.0] * 2, "x": [0.0, 4.0, 4.5, 0.0, 2.0, 4.5], "y": [0, 100, 240, 0, 100, 240]}
    )  # fmt: skip
    manifest = make_manifest([{"utterance": name, "text": name} for name in "abc"], source="test")
    found = worst_mistakes(make_scores(frame, source="test"), manifest, count=2)
    # In standard deviations of truth (1.633 and 81.65): c is off by 0.5 and 40, b on average by 1 and 0.
    assert [one.utterance for one in found] == ["c", "b"]
    assert found[0].size == pytest.approx((0.5 / 1.63299 + 40 / 81.6497) / 2, rel=1e-4)
    assert (found[1].label, found[1].predicted) == ("x 2, y 100", "x 3, y 100")


def test_figures_of_values_that_are_not_those_of_the_scores_are_refused(tmp_path: Path) -> None:
    result = value_run(tmp_path)
    for change, message in (
        (lambda entry: entry["ccc"].update(value=0.1), "do not come from scores"),
        (lambda entry: entry.update(values=["valence", "belief"]), "do not come from scores"),
        (lambda entry: entry["mae"].pop("low"), r"models\.late\.mae\.low"),
        (lambda entry: entry["dimensions"]["arousal"].pop("pearson"), r"models\.late\.dimensions\.arousal\.pearson"),
    ):
        changed = json.loads(json.dumps(result))
        change(changed["models"]["late"])
        (tmp_path / "result.json").write_text(json.dumps(changed))
        with pytest.raises(ScoresError, match=message):
            write_report(tmp_path)
