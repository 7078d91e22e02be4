"""What a reference of the speaker's own clips is worth, by the number of its clips and by what they are.

Corpora that training left out are answered alone, with clips as they come, and with clips of which nine in ten are
neutral, as in real calls; both without labels. Features must be there: name the folder of a finished run of
`default-speech`, and the same recipe and store.

    python benchmarks/references.py runs/default-speech
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from emofuse.experiment import extract, training_data
from emofuse.features.dataset import Dataset, Reader
from emofuse.features.reference import Handfuls
from emofuse.manifest import read_manifest
from emofuse.plan import resolve
from emofuse.progress import Silent
from emofuse.protocols import make_protocol
from emofuse.recipe import Recipe
from emofuse.scoring.metrics import confusion, unweighted_accuracy
from emofuse.scoring.record import read_result
from emofuse.seeds import derive_seed
from emofuse.training.folder import MANIFEST
from emofuse.training.loop import fit, predict_scores

COUNTS = (2, 5, 10, 20, 40)


class MostlyNeutral(Handfuls):
    """Handfuls of which nine in ten clips are neutral, for speakers with so many."""

    def __init__(self, read: Reader, speakers: Mapping[str, str], neutral: set[str], *, seed: int, count: int) -> None:
        super().__init__(read, speakers, seed=seed, clips=(count, count))
        self.neutral, self.count = neutral, count

    def __call__(self, names: Sequence[str]) -> torch.Tensor:
        """See `Handfuls`."""
        rng = np.random.default_rng(derive_seed(self.seed, "reference", *names))
        found = []
        for name in names:
            own = [one for one in self._others[self.speakers[name]] if one != name]
            calm, other = ([one for one in own if (one in self.neutral) == wanted] for wanted in (True, False))
            few = max(1, round(self.count / 10)) if calm else self.count
            drawn = [*rng.permutation(calm)[: self.count - few], *rng.permutation(other)[:few]]
            found.append(torch.stack([self._mean(str(one)) for one in drawn]).mean(0))
        return torch.stack(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run of default-speech")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", type=Path, help="its feature store, where that is elsewhere")
    asked = parser.parse_args()
    plan = resolve(Recipe.model_validate(read_result(asked.run).recipe))
    manifest = read_manifest(asked.run / MANIFEST)
    features = extract(manifest, plan, asked.store or asked.run / "features", progress=Silent())
    protocol = make_protocol(manifest, plan.protocol)
    data = training_data(manifest, plan, protocol, features)
    model = plan.models[0]
    neutral = {name for name, label in protocol.labels.items() if label == "neutral"}
    reached: dict[str, list[float]] = {}
    for fold in protocol.folds:
        known = (*fold.train, *fold.validation)
        drawn = data.handfuls(model, known, seed=asked.seed, fraction=model.train.references)
        shapes = data.shapes(model, None)
        trained = fit(
            lambda task, shapes=shapes: model.build(shapes, task),  # type: ignore[misc]
            data.dataset(model, fold.train, None, handfuls=drawn),
            data.dataset(model, fold.validation, None),
            model.train,
            task=data.task,
            seed=derive_seed(asked.seed, model.name, fold.name),
        ).model
        truth = data.truths(fold.test)

        def ua(dataset: Dataset) -> float:
            said = predict_scores(trained, dataset).argmax(1)  # noqa: B023
            return 100 * float(unweighted_accuracy(confusion(truth, said, classes=len(protocol.classes))))  # noqa: B023

        reached.setdefault("alone", []).append(ua(data.dataset(model, fold.test, None)))
        for count in COUNTS:
            some = data.handfuls(model, fold.test, seed=asked.seed, clips=(count, count))
            if some is None:
                raise SystemExit("the run's model takes no references")
            calm = MostlyNeutral(some.read, some.speakers, neutral, seed=asked.seed, count=count)
            for name, handfuls in ((f"{count} as they come", some), (f"{count}, nine in ten neutral", calm)):
                reached.setdefault(name, []).append(ua(data.dataset(model, fold.test, None, handfuls=handfuls)))
        print(fold.name, {name: round(values[-1], 1) for name, values in reached.items()}, flush=True)
    print(f"\nMean UA over {len(protocol.folds)} folds, seed {asked.seed}")
    for name, values in reached.items():
        print(f"  {name:28s} {np.mean(values):.1f}")


if __name__ == "__main__":
    main()
