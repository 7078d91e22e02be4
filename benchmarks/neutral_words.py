"""Whether words that say nothing mute the voice, and what words that say something add.

Answers of a left-out-corpora run from the voice are fused as the joined model does it, with each clip's own sentence
(which is neutral in RAVDESS and CREMA-D), and with a random comment of the same label from the text run's test part.

    python benchmarks/neutral_words.py runs/default-speech runs/default-text model
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from emofuse import load
from emofuse.manifest import read_manifest
from emofuse.models.ensemble import Ensemble
from emofuse.scoring.fuse import Fusion
from emofuse.scoring.metrics import confusion, unweighted_accuracy
from emofuse.scoring.table import read_scores
from emofuse.training.folder import MANIFEST


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech_run", type=Path)
    parser.add_argument("text_run", type=Path)
    parser.add_argument("model", type=Path, help="what `emofuse join` made of both")
    asked = parser.parse_args()
    predictor = load(asked.model, asr="none")
    fusion = predictor.checkpoint.model
    if not isinstance(fusion, Ensemble):
        raise SystemExit("this is no joined model")
    scores = read_scores(asked.speech_run / "scores.parquet").of("speech")
    voice, labels = scores.posteriors(), scores.labels()
    known = read_manifest(asked.speech_run / MANIFEST).set_index("utterance")[["corpus", "text", "language"]]
    rows = known.reindex(scores.frame["utterance"])
    # Predictions from words alone are calibrated already.
    how = replace(fusion.how, temperatures=(fusion.how.temperatures[0], 1.0))
    texts = read_scores(asked.text_run / "scores.parquet").of("text")
    calibrated = Fusion("mean", (1.0,), fusion.how.temperatures[1:])(texts.posteriors()[None])
    rng = np.random.default_rng(0)
    comments = calibrated[[rng.choice(np.flatnonzero(texts.labels() == label)) for label in labels]]

    def ua(posteriors: np.ndarray, chosen: np.ndarray) -> float:
        found = confusion(labels[chosen], posteriors[chosen].argmax(1), classes=len(scores.classes))
        return 100 * float(unweighted_accuracy(found))

    for corpus in ("ravdess", "crema-d"):
        chosen = (rows["corpus"] == corpus).to_numpy(dtype=bool)
        said = {text: list(predictor.predict(text=text).posteriors.values()) for text in set(rows["text"][chosen])}
        own = np.array([said.get(text, [0.25] * 4) for text in rows["text"]])
        print(
            f"{corpus}: voice alone {ua(voice, chosen):.1f}, with its own neutral sentence "
            f"{ua(how(np.stack([voice, own])), chosen):.1f} (were neutral words taken for a neutral voice: "
            f"{ua(replace(how, silences=())(np.stack([voice, own])), chosen):.1f}), with a comment of the same label "
            f"{ua(how(np.stack([voice, comments])), chosen):.1f}, such a comment alone {ua(comments, chosen):.1f}"
        )


if __name__ == "__main__":
    main()
