"""The sentences of the demo corpus: two pools, bad news and good news, that share topics and sentence shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

_TOPICS: Mapping[str, Sequence[str]] = {
    "event": ("concert", "dinner", "holiday", "interview", "meeting", "party", "show", "wedding"),
    "food": ("bread", "chicken", "pasta", "pizza", "rice", "soup"),
    "person": ("brother", "cousin", "doctor", "landlord", "sister", "teacher"),
    "place": ("bedroom", "garden", "house", "kitchen", "office"),
    "thing": ("camera", "laptop", "phone", "radio", "watch"),
    "work": ("essay", "project", "report", "speech", "story"),
}

_MOODS: Mapping[str, Sequence[str]] = {
    "negative": ("dreadful", "horrible", "miserable", "rotten", "terrible"),
    "positive": ("delightful", "lovely", "perfect", "pleasant", "wonderful"),
}

_SHARED: Sequence[str] = (
    "The {event} was {mood} from start to end.",
    "It was a {mood} {event} for all of us.",
    "They served us {mood} {food} at lunch.",
    "The {food} was {mood} once again.",
    "My {person} told me some {mood} news.",
    "My {person} was in a {mood} mood last night.",
    "Our {place} is really {mood} these days.",
    "It was a {mood} day in the {place}.",
    "My {thing} makes a {mood} sound.",
    "Everyone thought my {work} was {mood}.",
)

_OWN: Mapping[str, Sequence[str]] = {
    "negative": (
        "Everything went wrong at the {event}.",
        "I hated every minute of the {event}.",
        "Nobody came to the {event} last night.",
        "The {food} was cold and tasted bad.",
        "There was no {food} left for us.",
        "My {person} lied to me about the money.",
        "My {person} forgot my birthday this year.",
        "My {person} broke the promise again.",
        "The {place} smells bad and feels wrong.",
        "I really hated the {place} last year.",
        "Someone broke my {thing} last night.",
        "I lost my {thing} on the way home.",
        "I failed because of that {work}.",
        "Nobody wanted to read my {work}.",
    ),
    "positive": (
        "Everything went well at the {event}.",
        "I loved every minute of the {event}.",
        "Everybody came to the {event} last night.",
        "The {food} was warm and tasted good.",
        "There was plenty of {food} for us.",
        "My {person} helped me with the money.",
        "My {person} remembered my birthday this year.",
        "My {person} kept the promise again.",
        "The {place} smells good and feels right.",
        "I really loved the {place} last year.",
        "Someone fixed my {thing} last night.",
        "I found my {thing} on the way home.",
        "I passed because of that {work}.",
        "Everybody wanted to read my {work}.",
    ),
}


def sentences(valence: str) -> list[str]:
    """All the sentences of one pool, in a fixed order.

    Args:
        valence: `negative` or `positive`.

    Example:
        >>> sentences("negative")[0], len(sentences("negative")), len(sentences("positive"))
        ('The concert was dreadful from start to end.', 384, 384)
    """
    return [
        template.format_map({slot: topic, "mood": mood})
        for template in (*_SHARED, *_OWN[valence])
        for slot, topics in _TOPICS.items()
        if f"{{{slot}}}" in template
        for topic, mood in product(topics, _MOODS[valence] if "{mood}" in template else ("",))
    ]
