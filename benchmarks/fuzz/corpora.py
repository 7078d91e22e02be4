"""Published corpora in miniature, with damage in their tables, transcripts, recordings and names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.fuzz.contract import Kind, check_errors, require
from benchmarks.fuzz.damage import WORDS, spoiled, spoiled_text
from tests.test_more_corpora import MAKERS, make_audio

from emofuse.corpora import CORPORA, read_corpus
from emofuse.manifest import check_manifest
from emofuse.testing.corpora import miniature_iemocap


def _ravdess(root: Path) -> None:
    for actor in (1, 2):
        for emotion in range(1, 9):
            make_audio(root / f"Actor_{actor:02}/03-01-{emotion:02}-01-01-01-{actor:02}.wav")


def _emodb(root: Path) -> None:
    for name in ("03a01Fa", "03a01Nc", "16b10Lb", "14a02Wa"):
        make_audio(root / "wav" / f"{name}.wav")


def _nemo(root: Path) -> None:
    lines = ["file_id\temotion\traw_text\tnormalized_text\tspeaker_id\tgender\tage"]
    for speaker, emotion in (("EB0", "anger"), ("EB0", "fear"), ("WR0", "surprised")):
        make_audio(root / "samples" / f"{speaker}_{emotion}_7.wav")
        lines.append(f"{speaker}_{emotion}_7.wav\t{emotion}\tTak, \u017c\u00f3\u0142w.\ttak\t{speaker}\tfemale\t27")
    (root / "data.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _goemotions(root: Path) -> None:
    (root / "emotions.txt").write_text("\n".join(CORPORA["goemotions"].labels), encoding="utf-8")
    for part in ("train", "dev", "test"):
        (root / f"{part}.tsv").write_text(f"My, my.\t27\t{part}a\nNo!\t2,3\t{part}b\n", encoding="utf-8")


def _iemocap(root: Path) -> None:
    miniature_iemocap(root)


_MAKERS: dict[str, Callable[[Path], Any]] = {
    **MAKERS, "iemocap": _iemocap, "ravdess": _ravdess, "emodb": _emodb, "nemo": _nemo, "goemotions": _goemotions,
}  # fmt: skip


class Corpora(Kind):
    """Folders as their publishers ship them."""

    name = "corpora"

    def preparations(self, seeds: Path) -> list[Callable[[], Any]]:
        """Each corpus in miniature."""

        def write(name: str) -> Callable[[], Any]:
            (seeds / name).mkdir(parents=True, exist_ok=True)
            return lambda: _MAKERS[name](seeds / name)

        return [write(name) for name in _MAKERS]

    def make(self, chance: Random, seeds: Path, case: Path) -> dict[str, Any]:
        """Up to three files are damaged, renamed, moved or lost; tables and transcripts more often than recordings."""
        whole = chance.choice(sorted(_MAKERS))
        found = sorted(path for path in (seeds / whole).rglob("*") if path.is_file())
        texts = [path for path in found if path.suffix not in (".wav", ".mp4")]
        removed = []
        for _ in range(chance.randint(1, 3)):
            path = chance.choice(texts if texts and chance.random() < 0.75 else found)
            name, raw = path.relative_to(seeds / whole), path.read_bytes()
            way = chance.random()
            if way < 0.08:
                removed.append(str(name))
                continue
            if way < 0.2:
                # Under a name that is not its own.
                removed.append(str(name))
                word = chance.choice(WORDS[:30]).replace("/", "").replace("\0", "")
                other = chance.choice((name.stem[:-1], name.stem + word, name.stem.lower(), name.stem[::-1])) or "x"
                name = name.with_name(other + chance.choice((name.suffix, name.suffix.upper(), ".txt")))
            elif path in texts:
                try:
                    raw = spoiled_text(raw.decode("utf-8"), chance)
                except UnicodeDecodeError:
                    raw = spoiled(raw, chance)
            else:
                raw = spoiled(raw, chance)
            (case / name).parent.mkdir(parents=True, exist_ok=True)
            (case / name).write_bytes(raw)
        known = CORPORA[whole].options
        options = {name: chance.choice(values) for name, values in known.items() if chance.random() < 0.3}
        return {"whole": whole, "removed": removed, "options": options, "partial": chance.random() < 0.9}

    def ask(self, place: Path, parameters: dict[str, Any]) -> None:
        """Read it, and check what was read and what was left out."""
        corpus = read_corpus(parameters["whole"], place, partial=parameters["partial"], options=parameters["options"])
        check_errors(corpus.skipped)
        corpus.unread(place)
        require(len(corpus.manifest) > 0, "the manifest is empty")
        check_manifest(corpus.manifest, source=place)
