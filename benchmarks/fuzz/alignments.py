"""Alignments: TextGrids, CTMs, the files of IEMOCAP and EmoDB, JSON and our own table."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.fuzz.contract import Kind, require
from benchmarks.fuzz.damage import spoiled, spoiled_text

from emofuse.align.readers import read_emodb, read_iemocap
from emofuse.align.shipped import AlignmentFiles, within
from emofuse.align.table import read_alignments, read_keys, write_alignments
from emofuse.align.textgrid import read_textgrid, write_textgrid
from emofuse.align.writers import write_files
from emofuse.types import TIERS, Alignment, Segment, Tier, Utterance

_SHORT = '''File type = "ooTextFile"
Object class = "TextGrid"

0
2.5
<exists>
2
"IntervalTier"
"words"
0
2.5
2
0
0.5
""
0.5
1.25
"say ""ah"""
"TextTier"
"bell"
0
2.5
1
1.5
"ding"
'''
_LAUT = """signal wochenAO
type 0
color 125
separator ;
nfields 1
#
 0.08 -1 _t
 0.11 -1 !t\t+asp
 0.14 -1 E6
 0.2 -1 .
"""
_SYLLABLES = "0.080080\tder\n0.244195\tla\n0.427094\t(\n0.643428\tliegt\n1.841390\t.\n"
_WORDS = """\t SFrm  EFrm    SegAScr Word
\t0 37 -53234 <s>
\t38 64 -92134 EXCUSE
\t65 80 -1 ME(2)
\t81 90 -3 </s>
 Total score: -173
"""
_SYSEG = "    38    52 IH_K\n    53    64 S K Y UW Z\n    65    80 M IY\n"
_PHONES = """\t SFrm EFrm SegAScr Phone
\t0 37 -5 SIL
\t38 45 -1 IH SIL K b
\t46 64 -1 K IH S i
\t65 80 -1 M SIL IY b
 Total score: -8
"""
_LABELS = ("W ER D", 'say "ah"', "hello", "AH", "é", "5", "a[2]:", "0.5", "'s")


def _alignment(chance: Random, labels: tuple[str, ...]) -> Alignment:
    tiers: dict[Tier, tuple[Segment, ...]] = {}
    for tier in TIERS:
        if chance.random() < 0.8:
            marks = sorted(chance.sample(range(30000), chance.randint(2, 8)))
            spans = itertools.pairwise(marks)
            tiers[tier] = tuple(
                Segment(start=start / 1e4, end=end / 1e4, label=chance.choice(labels)) for start, end in spans
            )
    return Alignment(utterance="a", tiers=tiers, source="sphinx")


def _check(tiers: Mapping[Tier, tuple[Segment, ...]], *, duration: float | None = None) -> None:
    for tier, segments in tiers.items():
        require(tier in TIERS, f"there is a tier {tier!r}")
        last = 0.0
        for one in segments:
            require(math.isfinite(one.start) and math.isfinite(one.end), f"times are not finite: {one}")
            require(0 <= one.start <= one.end and last <= one.start, f"segments are out of order: {one} after {last}")
            require(duration is None or one.end <= duration + 1e-6, f"{one} ends after {duration} s")
            require(isinstance(one.label, str) and bool(one.label.strip()), f"the label is {one.label!r}")
            last = one.start


class Alignments(Kind):
    """Files of one utterance, made by a writer or as a corpus ships them, and damaged."""

    name = "alignments"

    def make(self, chance: Random, seeds: Path, case: Path) -> dict[str, Any]:
        """One sort of file, of which at least one is damaged."""
        sort = chance.choice(("textgrid", "textgrid", "ctm", "ctm", "iemocap", "emodb", "table"))
        # A CTM has no place for a label of two words.
        alignment = _alignment(chance, _LABELS[2:] if sort == "ctm" else _LABELS)
        if sort == "textgrid":
            write_textgrid(alignment.tiers, case / "a.TextGrid", duration=3.0)
            if chance.random() < 0.4:
                (case / "a.TextGrid").write_text(_SHORT, encoding="utf-8")
        elif sort == "ctm":
            write_files([alignment], case, style=sort)
        elif sort == "iemocap":
            for ending, text in (("wdseg", _WORDS), ("syseg", _SYSEG), ("phseg", _PHONES)):
                if chance.random() < 0.8:
                    (case / f"a.{ending}").write_text(text, encoding="utf-8")
        elif sort == "emodb":
            for name, text in (("lablaut/a.lablaut", _LAUT), ("silb/a.silb", _SYLLABLES)):
                (case / name).parent.mkdir()
                (case / name).write_text(text, encoding="utf-8")
        else:
            write_alignments([alignment], case / "a.parquet", keys={"a": "x"})
        for path in sorted(path for path in case.rglob("*") if path.is_file()):
            if chance.random() < 0.7:
                raw = path.read_bytes()
                broken = spoiled(raw, chance) if sort == "table" else spoiled_text(raw.decode(), chance)
                path.write_bytes(broken)
        return {"sort": sort}

    def ask(self, place: Path, parameters: dict[str, Any]) -> None:
        """Read them with the reader of their sort, and as a folder of another aligner's files."""
        sort = parameters["sort"]
        if sort == "table":
            read_keys(place / "a.parquet")
            for alignment in read_alignments(place / "a.parquet").values():
                _check(alignment.tiers)
        elif sort == "iemocap":
            _check(within(read_iemocap(place / "a"), 0.9), duration=0.9)
        elif sort == "emodb":
            _check(read_emodb(place, "a", duration=1.5), duration=1.5)
        else:
            for path in place.glob("*.TextGrid"):
                _check(read_textgrid(path))
            found = AlignmentFiles(place).read(Utterance(utterance="a"), duration=3.0)
            _check(found, duration=3.0)
