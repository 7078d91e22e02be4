"""How close alignments come to known phone times, how many utterances can be aligned, and how fast.

    python benchmarks/alignment.py flite --texts sentences.tsv [--count 100] [--voices slt,rms,awb,kal16]
    python benchmarks/alignment.py hibari [--count 60]
    python benchmarks/alignment.py lab arctic_a0009.wav arctic_a0009_phone.lab "He turned sharply ..."
    python benchmarks/alignment.py corpus ravdess --root data/ravdess [--one-in 3]
    python benchmarks/alignment.py corpus table --root sentences.tsv --audio speech/{}.opus [--count 500]

`flite` is the synthesiser of that name (Debian's package), which reports the times at which it sets its phones; the
texts come from a table with a column `text`. `hibari` is the synthesiser of the demo extra; the times that its network
plans, exposed with the onnx package, come in steps of 25 ms and give spaces and stress marks a part of their own, so
read its 50 ms. `lab` takes a recording with an HTS label file.

Fractions are over the starts and ends of all reference words and phones; a phone that the aligner's pronunciation lacks
counts as wrong. The figures are of every second utterance; whatever was chosen was chosen on the others. Fractions are
given as they are, and less the median error of the others: a constant lag between the reference and the aligner.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import soxr

from emofuse.align.normalise import spoken_words
from emofuse.align.pronounce import pronounce
from emofuse.align.sphinx import SphinxAligner
from emofuse.align.syllables import VOWELS, plain
from emofuse.audio import SAMPLING_RATE, load_audio
from emofuse.corpora import read_corpus
from emofuse.demo.sentences import sentences
from emofuse.errors import EmofuseError
from emofuse.manifest import make_manifest, utterances
from emofuse.types import TIERS, Segment

TOLERANCES = (0.02, 0.05)
SAME = {"AX": "AH", "IX": "IH", "AXR": "ER", "NX": "N", "EL": "L", "EM": "M", "EN": "N", "DX": "T"}
PAUSES = frozenset({"pau", "sil", "x", "SIL", ""})
IPA = {
    "A": "EY", "I": "AY", "O": "OW", "Q": "OW", "T": "T", "W": "AW", "Y": "OY", "a": "AA", "b": "B", "d": "D",
    "e": "EH", "f": "F", "h": "HH", "i": "IY", "j": "Y", "k": "K", "l": "L", "m": "M", "n": "N", "p": "P", "r": "R",
    "s": "S", "t": "T", "u": "UW", "v": "V", "w": "W", "z": "Z", "ɑ": "AA", "ɐ": "AH", "ɒ": "AA", "æ": "AE",
    "ɔ": "AO", "ð": "DH", "ʤ": "JH", "ə": "AH", "ᵊ": "AH", "ᵻ": "IH", "ɛ": "EH", "ɜ": "ER", "ɡ": "G", "ɪ": "IH",
    "ŋ": "NG", "θ": "TH", "ɹ": "R", "ɾ": "T", "ʃ": "SH", "ʧ": "CH", "ʊ": "UH", "ʌ": "AH", "ʒ": "ZH",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A clip whose phone times are known."""

    name: str
    clip: np.ndarray
    text: str
    phones: Sequence[Segment]


def folded(label: str) -> str:
    bare = plain(label)
    return SAME.get(bare, bare)


def cost(one: str, other: str) -> float:
    if folded(one) == folded(other):
        return 0.0
    return 0.5 if (folded(one) in VOWELS) == (folded(other) in VOWELS) else 1.5


def matched(ours: Sequence[str], theirs: Sequence[str]) -> list[tuple[int | None, int | None]]:
    """Pairs of places by edit distance over phones; None where the other side lacks one."""
    table = np.zeros((len(ours) + 1, len(theirs) + 1))
    table[:, 0], table[0] = np.arange(len(ours) + 1) * 0.6, np.arange(len(theirs) + 1) * 0.6
    for row, one in enumerate(ours, start=1):
        for column, other in enumerate(theirs, start=1):
            table[row, column] = min(
                table[row - 1, column - 1] + cost(one, other),
                table[row - 1, column] + 0.6,
                table[row, column - 1] + 0.6,
            )
    pairs: list[tuple[int | None, int | None]] = []
    row, column = len(ours), len(theirs)
    while row or column:
        if (
            row
            and column
            and table[row, column] == table[row - 1, column - 1] + cost(ours[row - 1], theirs[column - 1])
        ):
            row, column = row - 1, column - 1
            pairs.append((row, column))
        elif row and table[row, column] == table[row - 1, column] + 0.6:
            row -= 1
            pairs.append((row, None))
        else:
            column -= 1
            pairs.append((None, column))
    return pairs[::-1]


def reference_words(reference: Reference) -> list[list[Segment]]:
    """The reference's phones by word, found by the words' pronunciations."""
    words = spoken_words(reference.text)
    said = [(phone, number) for number, word in enumerate(words) for phone in pronounce(word)]
    found: list[list[Segment]] = [[] for _ in words]
    last = 0
    for ours, theirs in matched([phone for phone, _ in said], [phone.label for phone in reference.phones]):
        last = last if ours is None else said[ours][1]
        if theirs is not None:
            found[last].append(reference.phones[theirs])
    return found


def errors(reference: Reference, aligner: SphinxAligner) -> tuple[list[float], list[float]]:
    """Signed errors, in seconds, of the boundaries of words and of phones; infinite where there is no such phone."""
    tiers = aligner.align(reference.clip, reference.text)
    words, phones = [], []
    for word, theirs in zip(tiers["word"], reference_words(reference), strict=True):
        if not theirs:
            words += [np.inf, np.inf]
            continue
        words += [word.start - theirs[0].start, word.end - theirs[-1].end]
        ours = [one for one in tiers["phone"] if one.start >= word.start and one.end <= word.end]
        for our, their in matched([one.label for one in ours], [one.label for one in theirs]):
            if their is not None:
                known = our is not None
                phones.append(ours[our].start - theirs[their].start if known else np.inf)  # type: ignore[index]
                phones.append(ours[our].end - theirs[their].end if known else np.inf)  # type: ignore[index]
    return words, phones


def from_flite(texts: Sequence[str], voice: str) -> Iterator[Reference]:
    with tempfile.TemporaryDirectory() as folder:
        audio = Path(folder) / "said.wav"
        for number, text in enumerate(texts):
            command = ["flite", "-psdur", "-voice", voice, "-t", text, "-o", str(audio)]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            phones, before = [], 0.0
            for label, end in re.findall(r"(\S+?):([\d.]+)", printed):
                if label not in PAUSES:
                    phones.append(Segment(start=before, end=float(end), label=label))
                before = float(end)
            yield Reference(name=f"{voice}{number}", clip=load_audio(audio), text=text, phones=phones)


def from_hibari(texts: Sequence[str]) -> Iterator[Reference]:
    import onnx
    import onnxruntime
    from hibari import Hibari, dsp

    voice = Hibari()
    graph = onnx.load(voice.model_path)
    durations = next(node.input[0] for node in graph.graph.node if node.op_type == "CumSum")
    graph.graph.output.append(onnx.helper.make_tensor_value_info(durations, onnx.TensorProto.INT64, None))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    for number, text in enumerate(texts):
        spoken = " ".join(voice.phonemize(text))
        signs = ["", *(sign for sign in spoken if sign in voice.vocab), ""]
        ids = np.asarray([voice.ids(spoken)], np.int64)
        *outputs, steps = session.run(None, {"ids": ids, "speed": np.ones(1, np.float32)})
        samples = dsp.synth(*(output[0] for output in outputs), np.random.default_rng(number))
        frames = outputs[0].shape[2] / int(np.sum(steps))
        # A frame of the synthesiser is centred at its time, so it begins half a frame earlier.
        ends = (np.cumsum(steps) * frames - 0.5) * dsp.HOP / dsp.SR
        phones: list[Segment] = []
        start = 0.0
        for sign, end in zip(signs, ends.tolist(), strict=True):
            if sign == "ɹ" and phones and phones[-1].label == "ɜ" and phones[-1].end == start:
                phones[-1] = Segment(start=phones[-1].start, end=end, label="ɜ")
            elif sign in IPA:
                phones.append(Segment(start=start, end=end, label=sign))
            elif sign in "ˈˌ" and sign:
                continue  # A stress mark's time goes to the phone that it stands before.
            start = end
        phones = [Segment(start=one.start, end=one.end, label=IPA[one.label]) for one in phones]
        clip = soxr.resample(samples, dsp.SR, SAMPLING_RATE)
        yield Reference(name=f"hibari{number}", clip=clip, text=text, phones=phones)


def from_lab(audio: Path, labels: Path, text: str) -> Reference:
    phones = []
    for line in labels.read_text(encoding="utf-8").splitlines():
        start, end, context = line.split()
        label = re.search(r"-(.+?)\+", context)
        name = label[1] if label else context
        if name not in PAUSES:
            phones.append(Segment(start=int(start) / 1e7, end=int(end) / 1e7, label=name))
    return Reference(name=audio.stem, clip=load_audio(audio), text=text, phones=phones)


def measured(references: Sequence[Reference]) -> tuple[list[float], list[float], int]:
    aligner = SphinxAligner()
    words: list[float] = []
    phones: list[float] = []
    failed = 0
    for reference in references:
        try:
            of_words, of_phones = errors(reference, aligner)
        except EmofuseError as error:
            failed += 1
            print(f"{reference.name}: {error}", file=sys.stderr)
            continue
        words += of_words
        phones += of_phones
    return words, phones, failed


def show_fractions(references: Sequence[Reference]) -> None:
    chosen, shown = (references[::2], references[1::2]) if len(references) > 1 else ([], references)
    shift = float(np.median([gap for gap in measured(chosen)[1] if np.isfinite(gap)])) if chosen else 0.0
    words, phones, failed = measured(shown)
    seconds = sum(len(reference.clip) for reference in shown) / SAMPLING_RATE
    print(f"{len(shown)} utterances, {seconds:.0f} s, {failed} not aligned")
    for name, gaps in (("word", words), ("phone", phones)):
        middle = 1000 * np.median([gap for gap in gaps if np.isfinite(gap)])
        print(f"{len(gaps)} {name} boundaries: {fractions(gaps, 0.0)}; median error {middle:+.0f} ms")
        if chosen:
            print(f"    less {1000 * shift:+.0f} ms, the median of the others: {fractions(gaps, shift)}")


def fractions(gaps: Sequence[float], shift: float) -> str:
    close = np.abs(np.asarray(gaps) - shift)
    return ", ".join(
        f"{100 * np.mean(close <= limit + 1e-9):.1f} % within {1000 * limit:.0f} ms" for limit in TOLERANCES
    )


def show_coverage(manifest: pd.DataFrame) -> None:
    aligner = SphinxAligner()
    clips = []
    for row in utterances(manifest):
        assert row.audio is not None  # noqa: S101
        assert row.text is not None  # noqa: S101
        clips.append((row, load_audio(row.audio, start=row.start, end=row.end)))
    problems: Counter[str] = Counter()
    counts = dict.fromkeys(TIERS, 0)
    started = time.process_time()
    for row, clip in clips:
        try:
            tiers = aligner.align(clip, row.text or "")
        except EmofuseError as error:
            problems[error.what] += 1
            continue
        for tier in TIERS:
            counts[tier] += bool(tiers[tier])
    taken = time.process_time() - started
    seconds = sum(len(clip) for _, clip in clips) / SAMPLING_RATE
    print(f"{len(clips)} utterances, {seconds / 3600:.2f} h, {seconds / taken:.0f} x real time on one core")
    print(", ".join(f"{tier} {100 * count / len(clips):.1f} %" for tier, count in counts.items()))
    for what, count in problems.most_common():
        print(f"{count} x {what}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("flite", "hibari", "lab", "corpus"))
    parser.add_argument("names", nargs="*")
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--voices", default="slt,rms,awb,kal16")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--audio")
    parser.add_argument("--one-in", type=int, default=1, help="take one utterance in N, drawn at random")
    options = parser.parse_args()
    if options.what == "flite":
        table = pd.read_csv(options.texts, sep="\t", dtype=str)
        texts = sorted({text for text in table["text"] if 4 <= len(text.split()) <= 20})
        drawn = [str(text) for text in np.random.default_rng(0).permutation(texts)[: options.count]]
        for voice in options.voices.split(","):
            print(f"flite {voice}:")
            show_fractions(list(from_flite(drawn, voice)))
    elif options.what == "hibari":
        pool = [*sentences("negative"), *sentences("positive")]
        drawn = [str(text) for text in np.random.default_rng(0).permutation(pool)[: options.count]]
        show_fractions(list(from_hibari(drawn)))
    elif options.what == "lab":
        audio, labels, text = options.names
        show_fractions([from_lab(Path(audio), Path(labels), text)])
    else:
        if options.audio:
            table = pd.read_csv(options.root, sep="\t", dtype=str)
            rows = [
                {"utterance": name, "text": text, "audio": options.audio.format(name)}
                for name, text in zip(table["utterance"], table["text"], strict=True)
            ]
            manifest = make_manifest(rows, source=options.root).sample(options.count, random_state=0)
        else:
            manifest = read_corpus(options.names[0], options.root).manifest
            manifest = manifest.sample(len(manifest) // options.one_in, random_state=0)
        show_coverage(manifest)


if __name__ == "__main__":
    main()
