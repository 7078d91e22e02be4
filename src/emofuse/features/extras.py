"""Extras of a batch: inputs besides features of speech and text, by name."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from emofuse.errors import SettingsError
from emofuse.features.lexicon import word_id
from emofuse.inputs import nearest

CHARACTERS = " 'abcdefghijklmnopqrstuvwxyz"
"""Characters of transcripts; id 0 is CTC's blank."""
GENDERS = ("female", "male")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Facts about one utterance, from which its extras are made.

    Attributes:
        text: Its transcript.
        gender: Gender of its speaker; None if unknown.
        votes: Fraction of each class in the annotators' votes; empty if there are none.
        values: Its values by name.
    """

    text: str = ""
    gender: str | None = None
    votes: Sequence[float] = ()
    values: Mapping[str, float] = field(default_factory=dict)


def characters(facts: Facts) -> torch.Tensor:
    """Ids of the normalised transcript's characters, `(length,)`: letters without accents, space and apostrophe.

    Example:
        >>> characters(Facts(text="Né!")).tolist()
        [16, 7]
    """
    plain = unicodedata.normalize("NFKD", facts.text.casefold())
    return torch.tensor([CHARACTERS.index(one) + 1 for one in plain if one in CHARACTERS], dtype=torch.long)


def gender(facts: Facts) -> torch.Tensor:
    """0 for a female speaker, 1 for a male one, -1 if unknown, `()`."""
    return torch.tensor(GENDERS.index(facts.gender) if facts.gender in GENDERS else -1)


def votes(facts: Facts) -> torch.Tensor:
    """Fraction of each class in the annotators' votes, `(classes,)`; empty if there are none."""
    return torch.tensor(list(facts.votes), dtype=torch.float32)


def values(facts: Facts) -> torch.Tensor:
    """Values of the utterance in the order of their names, `(values,)`."""
    return torch.tensor([facts.values[name] for name in sorted(facts.values)], dtype=torch.float32)


def words(facts: Facts) -> torch.Tensor:
    """Ids of whitespace-separated words, `(words,)`, by `lexicon.word_id`.

    Example:
        >>> words(Facts(text="so sad, so"))[0] == words(Facts(text="So?"))[0]
        tensor(True)
    """
    return torch.tensor([word_id(word) for word in facts.text.split()], dtype=torch.long)


EXTRAS: Mapping[str, Callable[[Facts], torch.Tensor]] = {
    "characters": characters,
    "gender": gender,
    "votes": votes,
    "values": values,
    "words": words,
}
"""Extras by name, as functions of an utterance's facts."""

SIZES = {"characters": len(CHARACTERS) + 1, "gender": len(GENDERS)}


def check_extras(names: Sequence[str], *, where: str) -> None:
    """Check that all extras that a model requires exist.

    Raises:
        SettingsError: One does not.
    """
    for name in names:
        if name not in EXTRAS:
            raise SettingsError(f"there is no extra {name!r}", where=where, remedy=nearest(name, EXTRAS))


def extra_sizes(names: Sequence[str]) -> dict[str, int]:
    """Number of ids of each extra that holds ids."""
    return {name: SIZES[name] for name in names if name in SIZES}
