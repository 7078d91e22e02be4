"""How fast extraction is beside a plain `transformers` loop over the same clips, in the same run.

    python benchmarks/extraction.py [--clips 24]

Weights are random at wav2vec2-base's size: speed does not depend on their values, and nothing has to be downloaded.
Read the ratios; absolute times say little on a shared machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers

from emofuse.encoders import SpeechEncoder, load_speech_encoder
from emofuse.features.batching import padding_fraction, plan_batches
from emofuse.settings import SpeechSettings
from emofuse.testing import tone

FLOP_PER_SECOND = 14.3e9
"""Of audio, wav2vec2-base: convolutions 4.9, linears 8.5, the rest 0.9."""


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def peak() -> float:
    left, right = torch.randn(2048, 2048), torch.randn(2048, 2048)
    left @ right
    return 2 * 2048**3 * 5 / seconds(lambda: [left @ right for _ in range(5)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=24)
    count = parser.parse_args().clips
    lengths = np.random.default_rng(0).uniform(1.5, 6.0, count)
    clips = [tone(float(length), seed=number) for number, length in enumerate(lengths)]
    with tempfile.TemporaryDirectory() as folder:
        transformers.Wav2Vec2Model(transformers.Wav2Vec2Config()).save_pretrained(folder)
        plain = transformers.Wav2Vec2Model.from_pretrained(folder).eval()
        settings = SpeechSettings(encoder=str(Path(folder)))
        encoder = load_speech_encoder(settings)
        student = load_speech_encoder(SpeechSettings(encoder="builtin:speech"))

        def plain_loop() -> None:
            with torch.inference_mode():
                for clip in clips:
                    plain(torch.from_numpy(clip)[None], output_hidden_states=True)

        groups = plan_batches(list(lengths), budget=settings.batch_seconds)

        def ours(encoder: SpeechEncoder) -> None:
            for group in groups:
                encoder.encode([clips[index] for index in group])

        encoder.encode(clips[:1])
        student.encode(clips[:1])
        plain(torch.from_numpy(clips[0])[None])
        slow, fast = seconds(plain_loop), seconds(lambda: ours(encoder))
        small, top = seconds(lambda: ours(student)), peak()
    audio = float(lengths.sum())
    print(f"plain transformers loop: {audio / slow:.1f} x real time")
    print(f"emofuse, wav2vec2-base, batches of at most {settings.batch_seconds:.0f} s: {audio / fast:.1f} x real time")
    print(f"ratio: {slow / fast:.2f}")
    print(f"builtin:speech, the same batches: {audio / small:.1f} x real time, {fast / small:.1f} times wav2vec2-base")
    print(f"padding: {100 * padding_fraction(list(lengths), groups):.1f} %")
    print(
        f"fraction of this machine's measured matrix-product peak: {100 * FLOP_PER_SECOND * audio / fast / top:.0f} %"
    )


if __name__ == "__main__":
    main()
