"""Emotion from speech and text: multi-level fusion of wav2vec 2.0 and BERT, honestly evaluated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emofuse.adaptation import adapt
    from emofuse.align.run import align_manifest
    from emofuse.corpora import read_corpus
    from emofuse.errors import EmofuseError
    from emofuse.experiment import extract, run
    from emofuse.features.read import read_features
    from emofuse.inference.card import read_card
    from emofuse.inference.predictor import Predictor, load
    from emofuse.models.base import EmotionModel
    from emofuse.plan import resolve
    from emofuse.recipe import load_recipe
    from emofuse.scoring.fuse import fuse
    from emofuse.scoring.result import compare, evaluate
    from emofuse.scoring.table import read_scores
    from emofuse.types import Prediction, Utterance

__version__ = "0.1.0"

_HOMES = {
    "EmofuseError": "emofuse.errors",
    "EmotionModel": "emofuse.models.base",
    "Prediction": "emofuse.types",
    "Predictor": "emofuse.inference.predictor",
    "Utterance": "emofuse.types",
    "adapt": "emofuse.adaptation",
    "align_manifest": "emofuse.align.run",
    "compare": "emofuse.scoring.result",
    "evaluate": "emofuse.scoring.result",
    "extract": "emofuse.experiment",
    "fuse": "emofuse.scoring.fuse",
    "load": "emofuse.inference.predictor",
    "load_recipe": "emofuse.recipe",
    "read_card": "emofuse.inference.card",
    "read_corpus": "emofuse.corpora",
    "read_features": "emofuse.features.read",
    "read_scores": "emofuse.scoring.table",
    "resolve": "emofuse.plan",
    "run": "emofuse.experiment",
}
__all__ = [  # noqa: RUF022
    "__version__",
    "EmofuseError",
    "EmotionModel",
    "Prediction",
    "Predictor",
    "Utterance",
    "adapt",
    "align_manifest",
    "compare",
    "evaluate",
    "extract",
    "fuse",
    "load",
    "load_recipe",
    "read_card",
    "read_corpus",
    "read_features",
    "read_scores",
    "resolve",
    "run",
]


def __getattr__(name: str) -> Any:
    # Importing emofuse must not import torch: the command line answers --help from here.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'emofuse' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
