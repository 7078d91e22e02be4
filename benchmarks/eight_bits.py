"""Whether a model's answers hold when its speech encoder's weights are rounded to eight bits, or were before.

Every matrix gets a uniform random error of up to half a step of eight bits, with one scale a row: the size of the
rounding that weights in eight bits have had. Prints how often the label stays, and how far posteriors move.

    python benchmarks/eight_bits.py FOLDER --model large --speech-encoder whisper-small [--clips 100] [--seeds 3]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from emofuse import Prediction, Predictor, load
from emofuse.audio import audio_files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of recordings")
    parser.add_argument("--model", help="as for `emofuse predict`")
    parser.add_argument("--speech-encoder", help="as for `emofuse predict`")
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    found = audio_files(asked.folder)
    clips = [found[place] for place in np.random.default_rng(0).permutation(len(found))[: asked.clips]]
    predictor = load(asked.model, asr="none", speech_encoder=asked.speech_encoder)
    before = answers(predictor, clips)
    encoder = predictor._networks.speech_encoder.model  # type: ignore[union-attr]
    whole = {name: value.clone() for name, value in encoder.state_dict().items()}
    for seed in range(asked.seeds):
        generator = torch.Generator().manual_seed(seed)
        rounded = {}
        for name, value in whole.items():
            step = value.flatten(1).abs().amax(1) / 127 if value.ndim > 1 else torch.zeros(len(value))
            error = torch.rand(value.shape, generator=generator) - 0.5
            rounded[name] = value + error * step.view(-1, *[1] * (value.ndim - 1))
        encoder.load_state_dict(rounded)
        after = answers(predictor, clips)
        same = (before.argmax(1) == after.argmax(1)).mean()
        moved = np.abs(before - after).max(1)
        print(
            f"seed {seed}: {len(clips)} clips, {100 * same:.1f} % keep their label; the posterior that moves most "
            f"moves by {moved.mean():.3f} on average, {moved.max():.3f} at most"
        )


def answers(predictor: Predictor, clips: list[Path]) -> np.ndarray:
    """Posteriors of each clip, `(clips, classes)`."""
    found = [one for one in predictor.predict_many(clips) if isinstance(one, Prediction)]
    return np.array([list(one.posteriors.values()) for one in found])


if __name__ == "__main__":
    main()
