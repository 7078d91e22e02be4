"""Licences and training corpora of well-known checkpoints.

Only statements of the weights' publishers are listed; the licence of any other encoder is `unknown`, not free.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Card:
    """Licence and training corpora of one checkpoint."""

    licence: str = "unknown"
    exposure: tuple[str, ...] = ()


_LIBRISPEECH = ("LibriSpeech",)
_LIBRI_LIGHT = ("Libri-Light",)
_BOOKS_AND_WIKI = ("BookCorpus", "English Wikipedia")
_WHISPER = Card("MIT", ("web audio that its publisher does not list",))

_APACHE: dict[str, tuple[str, ...]] = {
    "facebook/wav2vec2-base": _LIBRISPEECH,
    "facebook/wav2vec2-base-960h": _LIBRISPEECH,
    "facebook/wav2vec2-large": _LIBRISPEECH,
    "facebook/wav2vec2-large-lv60": _LIBRI_LIGHT,
    "facebook/wav2vec2-large-robust": ("Libri-Light", "Common Voice", "Switchboard", "Fisher"),
    "facebook/hubert-base-ls960": _LIBRISPEECH,
    "facebook/hubert-large-ll60k": _LIBRI_LIGHT,
    "facebook/data2vec-audio-base": _LIBRISPEECH,
    "google-bert/bert-base-uncased": _BOOKS_AND_WIKI,
    "google-bert/bert-base-cased": _BOOKS_AND_WIKI,
    "google-bert/bert-large-uncased": _BOOKS_AND_WIKI,
    "distilbert/distilbert-base-uncased": _BOOKS_AND_WIKI,
    "sentence-transformers/all-MiniLM-L6-v2": ("Reddit comments", "S2ORC", "WikiAnswers", "Stack Exchange", "others"),
    "sentence-transformers/all-mpnet-base-v2": ("Reddit comments", "S2ORC", "WikiAnswers", "Stack Exchange", "others"),
}

_CARDS: dict[str, Card] = {
    **{name: Card("Apache-2.0", exposure) for name, exposure in _APACHE.items()},
    "FacebookAI/roberta-base": Card("MIT", (*_BOOKS_AND_WIKI, "CC-News", "OpenWebText", "Stories")),
    "microsoft/wavlm-base": Card(exposure=_LIBRISPEECH),
    "microsoft/wavlm-base-plus": Card(exposure=("Libri-Light", "GigaSpeech", "VoxPopuli")),
    "microsoft/wavlm-large": Card(exposure=("Libri-Light", "GigaSpeech", "VoxPopuli")),
}

# Old names, without an owner, that the Hub still accepts.
_FORMER_NAMES = {
    "bert-base-uncased": "google-bert/bert-base-uncased",
    "bert-base-cased": "google-bert/bert-base-cased",
    "bert-large-uncased": "google-bert/bert-large-uncased",
    "distilbert-base-uncased": "distilbert/distilbert-base-uncased",
    "roberta-base": "FacebookAI/roberta-base",
}


def find_card(name: str) -> Card:
    """The card of a Hub id; an empty one if it is not listed.

    Example:
        >>> find_card("bert-base-uncased").exposure
        ('BookCorpus', 'English Wikipedia')
        >>> find_card("someone/some-model").licence
        'unknown'
    """
    if name.startswith("openai/whisper-"):
        return _WHISPER
    return _CARDS.get(_FORMER_NAMES.get(name, name), Card())


def read_card(folder: Path) -> Card | None:
    """The card in a folder's README.md: `license` and `datasets` of its YAML header."""
    from huggingface_hub import metadata_load

    readme = folder / "README.md"
    try:
        values = metadata_load(readme) if readme.is_file() else None
    except ValueError:
        return None
    if not isinstance(values, dict) or not isinstance(values.get("license"), str):
        return None
    datasets = values.get("datasets")
    return Card(values["license"], tuple(map(str, datasets)) if isinstance(datasets, list) else ())
