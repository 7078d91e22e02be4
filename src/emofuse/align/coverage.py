"""How much of a corpus is aligned, and why the rest is not."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from emofuse.types import TIERS, Alignment, Tier

_SHOWN = 3  # Names that a line lists.


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """What came of an alignment.

    Attributes:
        utterances: How many there are.
        aligned: How many have segments, by tier.
        problems: Names of those that have none, by reason.
        notes: Names of those whose segments are doubtful, by reason.
        sources: How many of those that have segments have them from whom, see `Alignment.source`.
        lacking: How many have no segments in a tier though there was no problem, by tier and source.
    """

    utterances: int
    aligned: Mapping[Tier, int]
    problems: Mapping[str, tuple[str, ...]]
    notes: Mapping[str, tuple[str, ...]]
    sources: Mapping[str, int]
    lacking: Mapping[Tier, Mapping[str, int]]

    def share(self, tier: Tier) -> float:
        """Fraction of the utterances that have segments in a tier."""
        return self.aligned[tier] / self.utterances if self.utterances else 0.0

    def summary(self) -> str:
        """One line: percentages by tier, and how many utterances were aligned by whom."""
        shares = ", ".join(f"{tier} {100 * self.share(tier):.1f} %" for tier in TIERS)
        sources = f" ({_counted(self.sources)})" if self.sources else ""
        return f"{self.utterances} utterances, aligned by {shares}{sources}"

    def reasons(self) -> list[str]:
        """One line a problem, the most frequent first."""
        return _lines("not aligned", self.problems)

    def doubts(self) -> list[str]:
        """One line a reason to doubt segments, the most frequent first."""
        return _lines("doubtful", self.notes)

    def lacks(self) -> list[str]:
        """One line a tier that some utterances lack though they are aligned otherwise."""
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
    """Count what is aligned.

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
