"""Late fusion: combine the posteriors, or the predicted values, of separately trained models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emofuse.errors import ScoresError
from emofuse.scoring.calibrate import apply_temperature, fit_temperature, logs_of
from emofuse.scoring.kinds import CLASSES, Kind
from emofuse.scoring.table import ALL, NAMES, Scores, alike, differing, over_seeds, show_apart

Rule = Literal["mean", "product", "bayes"]
Silence = tuple[int, float]
"""A class of a model's posteriors that says nothing of the others' classes, and how much of it does: words that are
neutral do not make the voice neutral."""
Array = NDArray[np.float64]
STEPS = {2: 20, 3: 20, 4: 10}
KEY = ["seed", "fold", "utterance"]


def combine(
    outputs: Array,
    weights: Sequence[float] | Array,
    *,
    rule: Rule,
    temperatures: Sequence[float] | None = None,
    silences: Sequence[Silence | None] = (),
    names: Sequence[str] = (),
) -> Array:
    """Fuse the outputs of several models, `(models, rows, classes or values)` to `(rows, classes or values)`.

    This is the only place where outputs are fused: score tables, kept models and prediction all call it.

    Args:
        outputs: Posteriors or values of each model.
        weights: Of each model, zero or more; their ratios count.
        rule: `mean` is the weighted arithmetic mean, `product` the renormalised weighted geometric mean, and `bayes`
            takes posteriors as independent evidence under equal priors (the product rule of Kittler et al., TPAMI
            1998, eq. 8): what agrees gets surer, and even posteriors change nothing. Values have a mean only.
        temperatures: Calibrate each model's posteriors first; None, or 1, leaves them unchanged.
        silences: Of each model, what of its posteriors is spread evenly over all classes, after calibration.
        names: Of the models, for errors.

    Raises:
        ScoresError: An output is not finite.

    Example:
        >>> combine(np.array([[[0.8, 0.2]], [[0.4, 0.6]]]), [0.5, 0.5], rule="mean").round(3).tolist()
        [[0.6, 0.4]]
    """
    finite = np.isfinite(outputs).all(axis=(1, 2))
    if not finite.all():
        number = int(finite.argmin())
        raise ScoresError(
            f"the outputs of {names[number] if names else f'model {number + 1}'} are not finite numbers",
            remedy="leave this model out, or train it again with a smaller learning rate",
        )
    if temperatures is not None:
        outputs = np.stack([apply_temperature(one, value) for one, value in zip(outputs, temperatures, strict=True)])
    if silences:
        outputs = np.stack([one if s is None else spread(one, s) for one, s in zip(outputs, silences, strict=True)])
    weight = np.asarray(weights, dtype=np.float64)
    if rule == "mean":
        return np.asarray(np.tensordot(weight, outputs, axes=1) / weight.sum())
    power = len(outputs) if rule == "bayes" else 1
    logs = np.tensordot(power * weight / weight.sum(), logs_of(outputs), axes=1)
    raised = np.exp(logs - logs.max(-1, keepdims=True))
    return np.asarray(raised / raised.sum(-1, keepdims=True))


def spread(posteriors: Array, silence: Silence) -> Array:
    """Spread a fraction of one class evenly over all classes.

    Example:
        >>> spread(np.array([[0.2, 0.8]]), (1, 0.5)).tolist()
        [[0.4, 0.6]]
    """
    place, fraction = silence
    found: Array = posteriors + fraction * posteriors[..., [place]] / posteriors.shape[-1]
    found[..., place] -= fraction * posteriors[..., place]
    return found


@dataclass(frozen=True)
class Fusion:
    """How the outputs of an ensemble's members are fused.

    Attributes:
        rule: See `combine`.
        weights: One per member, in order.
        temperatures: One per member; all 1 for values.
        silences: One per member, or none at all.
    """

    rule: Rule
    weights: tuple[float, ...]
    temperatures: tuple[float, ...]
    silences: tuple[Silence | None, ...] = ()

    def __call__(self, outputs: Array, *, names: Sequence[str] = ()) -> Array:
        """Fuse the outputs of the members, `(members, rows, classes or values)`."""
        return combine(
            outputs,
            self.weights,
            rule=self.rule,
            temperatures=self.temperatures,
            silences=self.silences,
            names=names,
        )


def fit_fusion(
    outputs: Array, truth: Any, *, rule: Rule, tuned: bool = False, calibrated: bool = False, kind: Kind = CLASSES
) -> Fusion:
    """Fit a fusion on outputs that are not the reported ones (see `cross_fits`).

    Args:
        outputs: `(models, rows, classes or values)`, of utterances that were in no model's training.
        truth: Index of the true class `(rows,)`, or true values `(rows, values)`.
        rule: Rule of fusion.
        tuned: Search weights; else they are equal.
        calibrated: Fit a temperature for each model.
        kind: Kind of outputs, see `Scores.kind`.

    Raises:
        ScoresError: The kind of outputs does not support the rule or calibration.

    Example:
        >>> fit_fusion(np.array([[[0.8, 0.2]], [[0.4, 0.6]]]), np.array([0]), rule="mean").weights
        (0.5, 0.5)
    """
    check_rule(rule, kind=kind, where="rule")
    if calibrated and not kind.calibrated:
        raise ScoresError(f"{kind.noun} have no temperature", where="calibrate", remedy="set it to false")
    models = len(outputs)
    temperatures = tuple([1.0] * models)
    if calibrated:
        temperatures = tuple(fit_temperature(one, truth) for one in outputs)
    weights = tuple([1 / models] * models)
    if tuned:
        scaled = np.stack([apply_temperature(one, value) for one, value in zip(outputs, temperatures, strict=True)])
        weights = search_weights(scaled, truth, rule=rule, kind=kind)
    return Fusion(rule, weights, temperatures)


def cross_fits(scores: Scores) -> Iterator[tuple[str, NDArray[np.bool_], NDArray[np.bool_]]]:
    """Each fold with its rows, and the rows from which its weights and temperatures may be learned.

    These are the test rows of the other folds, of all seeds: predictions of models that were trained in the same way,
    for other speakers (or dialogues, if speakers are unknown) than the fold's. If every other row has a speaker of the
    fold, as in speaker-dependent splits, only the fold's utterances are excluded. In repeated cross-validation they
    are excluded from all repetitions. With one fold no row is left.

    The other folds' models were trained on this fold's test utterances, and their predictions may depend slightly on
    these labels. The effect on one number per member is negligible; only a nested cross-validation would exclude it.

    Yields:
        The fold, a mask of its rows, and a mask of the rows to learn from.
    """
    folds = scores.frame["fold"].to_numpy(dtype=str)
    for fold in sorted(set(folds)):
        test = folds == fold
        others = np.zeros_like(test)
        for column in dict.fromkeys((scores.cluster, "utterance")):
            if not others.any():
                names = scores.frame[column].to_numpy(dtype=str)
                others = ~np.isin(names, names[test])
        yield str(fold), test, others


def simplex(models: int, steps: int) -> Iterator[tuple[float, ...]]:
    """All weights of a grid on the simplex: non-negative, summing to 1.

    Example:
        >>> list(simplex(2, 2))
        [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)]
    """

    def parts(left: int, places: int) -> Iterator[tuple[int, ...]]:
        if places == 1:
            yield (left,)
            return
        for taken in range(left + 1):
            for rest in parts(left - taken, places - 1):
                yield (taken, *rest)

    for counts in parts(steps, models):
        yield tuple(count / steps for count in counts)


def search_weights(outputs: Array, truth: Any, *, rule: Rule, kind: Kind = CLASSES) -> tuple[float, ...]:
    """Weights with the best UA, or CCC, on the given rows, which must not be the reported ones.

    Candidates are equal weights and a grid. On a tie, the weights nearest to equal win, so that small sets do not
    select extremes by chance; then the first of the grid.

    The arguments are those of `fit_fusion`.
    """
    models = len(outputs)
    equal = tuple([1 / models] * models)
    best, found = (-2.0, 0.0), equal
    for weights in (equal, *simplex(models, STEPS.get(models, 5))):
        reached = kind.metrics(truth, combine(outputs, weights, rule=rule))[kind.decisive]
        rank = (round(reached, 9), -round(sum(weight * weight for weight in weights), 9))
        if rank > best:
            best, found = rank, weights
    return found


def check_rule(rule: str, *, kind: Kind, where: str) -> None:
    """Refuse a rule that a kind of outputs does not support.

    Raises:
        ScoresError: It is not.
    """
    if rule not in kind.rules:
        raise ScoresError(f"{kind.noun} cannot be fused by {rule}", where=where, remedy="use mean, or weights of one")


def parse_rule(text: str, *, models: int, kind: Kind = CLASSES) -> tuple[Rule, tuple[float, ...] | None]:
    """Read `mean`, `product`, `bayes`, `weights=0.3,0.7` or `tuned` (weights None).

    Raises:
        ScoresError: Another word, a rule for another kind of outputs, or a wrong number of weights.

    Example:
        >>> parse_rule("weights=0.3,0.7", models=2)
        ('mean', (0.3, 0.7))
    """
    even = tuple([1 / models] * models)
    for rule in get_args(Rule):
        if text == rule:
            check_rule(text, kind=kind, where="--rule")
            return rule, even
    if text == "tuned":
        return "mean", None
    if text.startswith("weights="):
        try:
            weights = tuple(float(part) for part in text.removeprefix("weights=").split(","))
        except ValueError:
            weights = ()
        if len(weights) == models and min(weights) >= 0 and 0 < sum(weights) < float("inf"):
            return "mean", weights
        raise ScoresError(
            f"{text!r} does not give {models} weights of zero or more",
            where="--rule",
            remedy=f"write weights={','.join(str(round(value, 2)) for value in even)}, one a table",
        )
    raise ScoresError(
        f"{text!r} is not a rule", where="--rule", remedy="use mean, product, bayes, tuned or weights=W1,W2,..."
    )


def fuse(tables: Sequence[Scores], *, rule: str | None = None, name: str = "fused") -> tuple[Scores, dict[str, Any]]:
    """Fuse the score tables of several models, one model a table.

    `tuned` learns the weights of each fold from the other folds only, see `cross_fits`.

    Args:
        tables: One table per model; rows are matched by seed, fold and utterance. A table with a single seed is
            fused with every seed of the others, and one without folds takes those of the others.
        rule: `mean`, `product` or `bayes` (of posteriors alone), `tuned`, or `weights=W1,W2,...` of a mean; by default
            the product of posteriors, and the mean of values.
        name: Name of the fused model.

    Returns:
        The fused scores, and the rule and its weights (by fold if tuned).

    Raises:
        ScoresError: The tables do not score the same rows with the same labels, an output is not finite, the rule is
            not for values, or a fold leaves `tuned` nothing to learn from.
    """
    if len(tables) < 2:
        raise ScoresError("late fusion needs at least two tables", remedy="name two or more score tables")
    aligned, outputs = _align(tables)
    kind, truth = aligned.kind, aligned.truth()
    rule = rule or kind.rules[0]
    fusion, weights = parse_rule(rule, models=len(tables), kind=kind)
    if weights is not None:
        fused = combine(outputs, weights, rule=fusion, names=[table.models[0] for table in tables])
        done: dict[str, Any] = {"rule": rule, "weights": list(weights)}
    else:
        fused, chosen = np.empty(outputs.shape[1:]), {}
        for fold, test, others in cross_fits(aligned):
            if not others.any():
                raise ScoresError(
                    f"fold {fold!r} tests every utterance there is, and tuning on what is reported is not honest",
                    where="--rule tuned",
                    remedy="give a table with folds of different utterances, or use mean, product, bayes or weights=",
                )
            how = fit_fusion(outputs[:, others], truth[others], rule=fusion, tuned=True, kind=kind)
            chosen[fold], fused[test] = how.weights, how(outputs[:, test])
        done = {"rule": "tuned, out of fold", "weights": {fold: list(value) for fold, value in chosen.items()}}
    frame = aligned.frame.assign(model=name)
    frame[list(aligned.names)] = fused
    return replace(aligned, frame=frame), done


def _align(tables: Sequence[Scores]) -> tuple[Scores, Array]:
    """Match rows; return the first table's rows, and all outputs `(models, rows, classes or values)`."""
    for table in tables:
        if len(table.models) > 1:
            raise ScoresError(
                f"a table holds several models ({', '.join(table.models)})", remedy="pick one as FILE:MODEL"
            )
    tables = alike(tables)
    kind, columns = tables[0].kind, list(tables[0].names)
    whole = _with_folds(over_seeds([table.frame for table in tables]))
    frames = [frame.set_index(KEY).sort_index() for frame in whole]
    first = frames[0]
    for number, frame in enumerate(frames[1:], start=2):
        if not frame.index.equals(first.index):
            missing = len(first.index.symmetric_difference(frame.index))
            ours, theirs = (set(one.index.get_level_values("utterance")) for one in (first, frame))
            apart = show_apart(sorted(ours - theirs), theirs - ours)
            apart = f", such as {min(ours - theirs)!r}{apart}" if apart else ""
            raise ScoresError(
                f"tables 1 and {number} differ in {missing} rows of seed, fold and utterance{apart}",
                remedy="score the same utterances in the same folds",
            )
        if wrong := differing(first, frame, kind.true_columns(columns)):
            ours, theirs = (one[wrong[0]].tolist()[wrong[1]] for one in (first, frame))
            raise ScoresError(
                f"utterance {first.index[wrong[1]][2]!r} is {ours!r} in table 1 and {theirs!r} in table {number}",
                remedy="use the same labels in all tables",
            )
        for column in ("speaker", "session", "dialogue"):
            if column not in first.columns and column in frame.columns:
                first[column] = frame[column]
    outputs = np.stack([frame[columns].to_numpy(dtype=np.float64) for frame in frames])
    rows = first.reset_index()
    names = [column for column in NAMES if column in rows.columns]
    notes = dict.fromkeys(note for table in tables for note in table.notes)
    rows = rows[[*names, *kind.number_columns(columns)]]
    return Scores(rows, tuple(columns), notes=tuple(notes), kind=kind), outputs


def _with_folds(frames: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
    """Add the folds of the first table with folds to tables without."""
    bare = [set(frame["fold"]) == {ALL} for frame in frames]
    if all(bare) or not any(bare):
        return list(frames)
    known = frames[bare.index(False)].set_index(["seed", "utterance"])["fold"]
    if not known.index.is_unique:
        raise ScoresError(
            f"table {bare.index(True) + 1} has no folds, and table {bare.index(False) + 1} tests utterance "
            f"{known.index[known.index.duplicated()][0][1]!r} in several",
            remedy="add the column fold",
        )

    def folds(frame: pd.DataFrame) -> pd.Series[str]:
        return known.reindex(pd.MultiIndex.from_frame(frame[["seed", "utterance"]])).fillna(ALL)

    return [
        frame.assign(fold=folds(frame).to_numpy()) if without else frame
        for frame, without in zip(frames, bare, strict=True)
    ]
