"""Coverage of alignments, and reasons for failures."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from emofuse.types import TIERS, Alignment, Tier

_SHOWN = 3  # Most names in a line.


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Coverage of an alignment.

    Attributes:
        utterances: Their number.
        aligned: Number of utterances with segments, by tier.
        problems: Names of utterances without segments, by reason.
        notes: Names of utterances with doubtful segments, by reason.
        sources: Number of aligned utterances by `Alignment.source`.
        lacking: Number of aligned utterances without segments in a tier, by tier and source.
    """

    utterances: int
    aligned: Mapping[Tier, int]
    problems: Mapping[str, tuple[str, ...]]
    notes: Mapping[str, tuple[str, ...]]
    sources: Mapping[str, int]
    lacking: Mapping[Tier, Mapping[str, int]]

    def fraction(self, tier: Tier) -> float:
        """Fraction of the utterances with segments in a tier."""
        return self.aligned[tier] / self.utterances if self.utterances else 0.0

    def summary(self) -> str:
        """One line: percentages by tier, and numbers of utterances by aligner."""
        fractions = ", ".join(f"{tier} {100 * self.fraction(tier):.1f} %" for tier in TIERS)
        sources = f" ({_counted(self.sources)})" if self.sources else ""
        return f"{self.utterances} utterances, aligned by {fractions}{sources}"

    def reasons(self) -> list[str]:
        """One line per problem, the most frequent first."""
        return _lines("not aligned", self.problems)

    def doubts(self) -> list[str]:
        """One line per note, the most frequent first."""
        return _lines("doubtful", self.notes)

    def lacks(self) -> list[str]:
        """One line per tier that some aligned utterances lack."""
        whole = self.utterances - sum(map(len, self.problems.values()))
        return [
            f"{tier}: {sum(sources.values())} of {whole} aligned utterances have none ({_counted(sources)})"
            for tier, sources in self.lacking.items()
        ]


def _lines(what: str, found: Mapping[str, tuple[str, ...]]) -> list[str]:
    often = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        f"{len(names)} {what}: {reason} ({', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})"
        for reason, names in often
    ]


def _counted(sources: Mapping[str, int]) -> str:
    return ", ".join(f"{source} {count}" for source, count in sources.items())


def coverage(alignments: Iterable[Alignment]) -> Coverage:
    """Count aligned utterances.

    Example:
        >>> failed = Alignment(utterance="a", tiers={}, source="sphinx", problem="no such file; check the path")
        >>> from emofuse.types import Segment
        >>> word = Segment(start=0.0, end=0.2, label="oh")
        >>> found = coverage([failed, Alignment(utterance="b", tiers={"word": (word,)}, source="shipped")])
        >>> found.summary()
        '2 utterances, aligned by word 50.0 %, syllable 0.0 %, phone 0.0 % (shipped 1)'
        >>> found.reasons()
        ['1 not aligned: no such file; check the path (a)']
        >>> found.lacks()[1]
        'phone: 1 of 1 aligned utterances have none (shipped 1)'
    """
    count = 0
    aligned: dict[Tier, int] = dict.fromkeys(TIERS, 0)
    problems: dict[str, list[str]] = defaultdict(list)
    notes: dict[str, list[str]] = defaultdict(list)
    sources: Counter[str] = Counter()
    lacking: dict[Tier, Counter[str]] = {tier: Counter() for tier in TIERS}
    for alignment in alignments:
        count += 1
        for tier in TIERS:
            there = bool(alignment.tiers.get(tier))
            aligned[tier] += there
            lacking[tier][alignment.source] += not there and alignment.problem is None
        sources[alignment.source] += any(alignment.tiers.values())
        if alignment.problem is not None:
            problems[alignment.problem].append(alignment.utterance)
        if alignment.note is not None:
            notes[alignment.note].append(alignment.utterance)
    return Coverage(
        utterances=count,
        aligned=aligned,
        problems={reason: tuple(names) for reason, names in problems.items()},
        notes={reason: tuple(names) for reason, names in notes.items()},
        sources=_sorted(sources),
        lacking={tier: _sorted(counts) for tier, counts in lacking.items() if counts.total()},
    )


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return {source: counts[source] for source in sorted(counts) if counts[source]}
