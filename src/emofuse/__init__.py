"""Emotion from speech and words: multi-level fusion of wav2vec 2.0 and BERT, honestly evaluated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emofuse.inference.predictor import Predictor, load
    from emofuse.types import Prediction, Utterance

__version__ = "0.1.0"
__all__ = ["Prediction", "Predictor", "Utterance", "__version__", "load"]

_HOMES = {
    "Predictor": "emofuse.inference.predictor",
    "load": "emofuse.inference.predictor",
    "Prediction": "emofuse.types",
    "Utterance": "emofuse.types",
}


def __getattr__(name: str) -> Any:
    # Importing emofuse must not import torch: the command line answers --help from here.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'emofuse' has no attribute {name!r}")
