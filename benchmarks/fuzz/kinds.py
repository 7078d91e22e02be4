"""Every kind of input."""

from __future__ import annotations

from benchmarks.fuzz.alignments import Alignments
from benchmarks.fuzz.audio import Audio
from benchmarks.fuzz.contract import Kind
from benchmarks.fuzz.corpora import Corpora
from benchmarks.fuzz.folders import Encoders, Models, Stores
from benchmarks.fuzz.recipes import Recipes
from benchmarks.fuzz.scores import Scores
from benchmarks.fuzz.tables import Tables

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (Alignments(), Corpora(), Encoders(), Models(), Stores(), Audio(), Tables(), Recipes(), Scores())
}
