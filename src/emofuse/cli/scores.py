"""The commands on score tables: `evaluate`, `compare` and `fuse`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emofuse.cli.options import Json
from emofuse.errors import ScoresError

if TYPE_CHECKING:
    from emofuse.scoring.table import Scores

Cluster = Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of clusters, instead of the speaker.")]


def evaluate(
    scores: Annotated[str, typer.Argument(help="Score table (.parquet or .csv), or FILE:MODEL.")],
    cluster: Cluster = None,
    as_json: Json = False,
) -> None:
    """Print the metrics of any score table."""
    from emofuse.cli.console import show_json, show_results, warn
    from emofuse.scoring.result import describe

    found = _scores(scores, cluster)
    result = describe(found)
    if as_json:
        show_json(result.model_dump(mode="json", exclude_unset=True))
        return
    show_results(result.models)
    for note in found.notes:
        warn(f"Note: {note}.")


def compare(
    first: Annotated[str, typer.Argument(help="Score table, or FILE:MODEL where it holds several models.")],
    second: Annotated[str, typer.Argument(help="Another one of the same utterances.")],
    cluster: Cluster = None,
    as_json: Json = False,
) -> None:
    """Test whether the first scores higher than the second: sign flips over speakers, or another column."""
    from emofuse.cli.console import show_comparisons, show_json, warn
    from emofuse.scoring.inference import paired_difference
    from emofuse.scoring.record import Comparison
    from emofuse.scoring.result import corrected

    one, two = _one_model(first, cluster), _one_model(second, cluster)
    notes = [f"{place}: {note}" for place, table in ((first, one), (second, two)) for note in table.notes]
    gaps = paired_difference(one, two)
    found = Comparison(first=first, second=second, **corrected([gaps])[0])
    if as_json:
        gap = gaps[one.kind.decisive]
        over = {"cluster": gap.cluster, "clusters": gap.clusters}
        show_json({**over, **found.model_dump(mode="json"), "notes": notes})
        return
    show_comparisons([found.model_copy(update=dict(zip(("first", "second"), _apart(first, second), strict=True)))])
    for note in notes:
        warn(f"Note: {note}.")


def _apart(first: str, second: str) -> tuple[str, str]:
    """Two paths without their common folders.

    Example:
        >>> _apart("runs/2026/a/scores.parquet", "runs/2026/b/scores.parquet")
        ('…/a/scores.parquet', '…/b/scores.parquet')
    """
    one, two = Path(first).parts, Path(second).parts
    same = next((at for at, pair in enumerate(zip(one, two, strict=False)) if pair[0] != pair[1]), 0)
    if same < 2:
        return first, second
    return str(Path("…", *one[same:])), str(Path("…", *two[same:]))


def fuse(
    tables: Annotated[list[str], typer.Argument(help="Score tables of one model each, or FILE:MODEL.")],
    out: Annotated[Path, typer.Option(help="Where to write the fused scores (.parquet, .csv or .tsv).")],
    rule: Annotated[
        str | None,
        typer.Option(
            help="mean, product, bayes, weights=W1,W2,... or tuned (out of fold).",
            show_default="product of posteriors, mean of values",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Fuse the posteriors or values of score tables, also those of other tools."""
    from emofuse.files import check_ending
    from emofuse.scoring.fuse import fuse as fuse_scores
    from emofuse.scoring.result import describe
    from emofuse.scoring.table import ENDINGS, write_scores

    check_ending(out, ENDINGS, what="scores")
    if any(out.resolve() == _place(table)[0].resolve() for table in tables):
        raise ScoresError("the fused scores would replace a table", where=out, remedy="choose another --out")
    fused, done = fuse_scores([_one_model(table) for table in tables], rule=rule)
    write_scores(fused, out)
    result = describe(fused)
    from emofuse.cli.console import say, show_json, show_results, warn

    if as_json:
        show_json({**result.model_dump(mode="json", exclude_unset=True), "fusion": done})
        return
    show_results(result.models)
    for note in fused.notes:
        warn(f"Note: {note}.")
    weights = done["weights"]
    listed = (
        "; ".join(f"fold {fold}: {_listed(one)}" for fold, one in weights.items())
        if isinstance(weights, dict)
        else _listed(weights)
    )
    say(f"rule: {done['rule']}; weights: {listed}; written to {out}")


def _listed(weights: Iterable[float]) -> str:
    return ", ".join(f"{weight:.2f}" for weight in weights)


def _scores(place: str, cluster: str | None = None) -> Scores:
    """A table, or one of its models by FILE:MODEL."""
    from emofuse.scoring.table import read_scores

    path, model = _place(place)
    scores = read_scores(path, by=cluster)
    return scores if model is None else scores.of(model)


def _place(place: str) -> tuple[Path, str | None]:
    """File and model of FILE or FILE:MODEL."""
    path, colon, model = place.rpartition(":")
    if colon and not Path(place).exists() and Path(path).exists():
        return Path(path), model
    return Path(place), None


def _one_model(place: str, cluster: str | None = None) -> Scores:
    scores = _scores(place, cluster)
    if len(scores.models) > 1:
        raise ScoresError(
            f"the table holds the models {', '.join(scores.models)}", where=place, remedy=f"pick one as {place}:MODEL"
        )
    return scores


COMMANDS = (evaluate, compare, fuse)
