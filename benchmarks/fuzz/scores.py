"""Tables of scores, ours and other tools', through `read_scores`, `evaluate`, `fuse` and `paired_difference`."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd
from benchmarks.fuzz.contract import Kind, Wrong, require
from benchmarks.fuzz.damage import WORDS, spoiled, spoiled_text

from emofuse.scoring.fuse import fuse
from emofuse.scoring.inference import paired_difference
from emofuse.scoring.kinds import SUM_TOLERANCE
from emofuse.scoring.result import evaluate
from emofuse.scoring.table import read_scores, write_scores

_CLASSES = ("angry", "happy", "sad", "seed2", "neutral", "0", "é", "=cmd", "a|b")


def _frame(chance: Random) -> pd.DataFrame:
    generator = np.random.default_rng(chance.getrandbits(32))
    classes = chance.sample(_CLASSES, chance.randint(2, 5))
    models = ["speech", "text"][: chance.randint(1, 2)]
    speakers = chance.choice((1, 2, 3, 6))
    seeds, count = chance.choice((1, 1, 2)), chance.choice((1, 3, 12, 40))
    rows = []
    for model in models:
        for seed in range(seeds):
            for number in range(count):
                weights = generator.dirichlet(np.ones(len(classes)) * chance.choice((0.05, 1.0, 5.0)))
                row: dict[str, Any] = {"utterance": f"u{number}", "label": classes[number % len(classes)]}
                row |= {"speaker": f"s{number % speakers}", "model": model, "seed": seed, "fold": str(number % 3)}
                rows.append(row | dict(zip(classes, weights.tolist(), strict=True)))
    frame = pd.DataFrame(rows)
    for name in ("speaker", "model", "seed", "fold", "label", "utterance"):
        if chance.random() < 0.03:
            del frame[name]
    if chance.random() < 0.3:
        name = chance.choice(list(frame.columns))
        values = (*WORDS[:14], 0.0, 1.0, -0.0, math.nan, math.inf, 1e-320, 2, None, True)
        frame[name] = frame[name].astype("object")
        frame.loc[chance.randrange(len(frame)), name] = chance.choice(values)
    if chance.random() < 0.1:
        frame[chance.choice(WORDS[:30]) or "x"] = chance.choice((1, "a", 0.25, None))
    if chance.random() < 0.1:
        numbers = frame.select_dtypes("number").columns
        frame[numbers] = frame[numbers] * chance.choice((0, 1.0001, 100, -1, 1e300))
    return frame


class Scores(Kind):
    """One or two tables in a case."""

    name = "scores"

    def make(self, chance: Random, seeds: Path, case: Path) -> dict[str, Any]:
        """Tables as CSV, TSV or Parquet, mostly damaged."""
        for number in range(chance.choice((1, 1, 2))):
            frame = _frame(chance)
            ending = chance.choice(("csv", "csv", "tsv", "parquet", "txt"))
            if ending == "parquet":
                out = io.BytesIO()
                frame = frame.astype({name: "str" for name in frame.columns if frame[name].dtype == object})
                frame.to_parquet(out)
                content = out.getvalue()
                content = spoiled(content, chance) if chance.random() < 0.4 else content
            else:
                decimal, separator = chance.choice(((".", ","), (".", ","), (",", ";"), (".", "\t"), (".", ";")))
                text = frame.to_csv(index=chance.random() < 0.1, sep=separator, decimal=decimal)
                content = spoiled_text(text, chance) if chance.random() < 0.35 else text.encode()
            (case / f"scores{number}.{ending}").write_bytes(content)
        return {"rule": chance.choice(("product", "mean", "tuned", "weights=1,2"))}

    def ask(self, place: Path, parameters: dict[str, Any]) -> None:
        """Read, judge, compare, fuse, and write again."""
        tables = [read_scores(path) for path in sorted(place.iterdir())]
        for table in tables:
            frame = table.frame[list(table.classes)].to_numpy()
            require(bool(np.isfinite(frame).all()), "posteriors are not finite")
            try:
                json.dumps([one.model_dump() for one in evaluate(table).values()], allow_nan=False)
            except ValueError as error:
                raise Wrong(f"a result is not finite: {evaluate(table)}") from error
        first = tables[0]
        write_scores(first, place / "again.parquet")
        again = read_scores(place / "again.parquet").frame
        pd.testing.assert_frame_equal(*(one.astype("object").where(one.notna(), None) for one in (again, first.frame)))
        singles = [table.of(model) for table in tables for model in table.models]
        if len(singles) > 1:
            for estimate in paired_difference(singles[0], singles[1]).values():
                require(math.isfinite(estimate.value), f"{estimate}")
            fused, _ = fuse(singles[:2], rule=parameters["rule"])
            # Tables may hold rounded posteriors, whose mean is as near to 1 in sum.
            near = SUM_TOLERANCE * len(fused.classes)
            require(bool(np.allclose(fused.posteriors().sum(axis=1), 1, atol=near)), "fused posteriors do not sum to 1")
