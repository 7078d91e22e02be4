"""The baseline text frontend: subwords of the training texts, embedded by the model itself."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from emofuse.errors import EncoderError
from emofuse.files import write_text

NAME = "words"
PADDING = "[PAD]"
UNKNOWN = "[UNK]"
_PREFIX = "##"
_FORMAT = "emofuse-subwords-1"


class Subwords:
    """Lower-cased texts as subword ids; id 0 is padding, id 1 is unknown.

    Args:
        subwords: The vocabulary in the order of ids, `[PAD]` and `[UNK]` first.
        max_tokens: Longest text in subwords; the rest is left out.

    Example:
        >>> subwords = Subwords.fit(["so good", "so bad"], size=50, max_tokens=8)
        >>> subwords.encode(["So GOOD", ""])[1].tolist()
        [1]
    """

    def __init__(self, subwords: Sequence[str], *, max_tokens: int) -> None:
        self.subwords = tuple(subwords)
        self.max_tokens = max_tokens
        self._unknown = self.subwords.index(UNKNOWN)
        vocabulary = {subword: index for index, subword in enumerate(self.subwords)}
        self._tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN, continuing_subword_prefix=_PREFIX))
        self._tokenizer.normalizer = _normalizer()
        self._tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()

    @classmethod
    def fit(cls, texts: Iterable[str], *, size: int, max_tokens: int) -> Subwords:
        """Learn a vocabulary from training texts; the same texts always give the same one.

        Args:
            texts: The training part's texts, and no others.
            size: Most subwords, padding and unknown included.
            max_tokens: Longest text in subwords.

        Raises:
            EncoderError: The texts hold no words, or the size is too small for one letter.
        """
        words = _count_words(texts)
        letters: Counter[str] = Counter()
        for word, count in words.items():
            for letter in _letters(word):
                letters[letter] += count
        room = size - 2
        # Drop rare characters of a large script, or the vocabulary would exceed its size.
        kept = {letter for letter, _ in sorted(letters.items(), key=lambda item: (-item[1], item[0]))[:room]}
        lines = sorted(word for word in words if kept.issuperset(_letters(word)))
        if not lines:
            raise EncoderError(
                "no subwords can be learned: the training texts hold no words that fit the vocabulary",
                where=NAME,
                remedy="train on utterances with transcripts, with a larger vocabulary",
            )
        tokenizer = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        # The trainer breaks ties between merges by letter ids, whose order depends on a hash seed that differs between
        # processes. Letters that are given in advance have a fixed order.
        trainer = trainers.WordPieceTrainer(
            vocab_size=size,
            min_frequency=2,
            special_tokens=[PADDING, UNKNOWN, *sorted(kept)],
            continuing_subword_prefix=_PREFIX,
            show_progress=False,
        )
        repeated = (" ".join([word] * words[word]) for word in lines)
        tokenizer.train_from_iterator(repeated, trainer)
        vocabulary = tokenizer.get_vocab()
        return cls(sorted(vocabulary, key=vocabulary.__getitem__), max_tokens=max_tokens)

    @property
    def size(self) -> int:
        """Number of subwords."""
        return len(self.subwords)

    def encode(self, texts: Sequence[str]) -> list[torch.Tensor]:
        """Turn texts into ids.

        Returns:
            One int64 tensor `(tokens,)` per text; an empty text is one `[UNK]`.
        """
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [torch.tensor(encoding.ids[: self.max_tokens] or [self._unknown]) for encoding in encodings]

    def beyond(self, texts: Sequence[str]) -> list[int]:
        """Number of subwords of each text that are left out."""
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [max(0, len(encoding.ids) - self.max_tokens) for encoding in encodings]

    def save(self, path: str | Path) -> None:
        """Write the vocabulary to one JSON file."""
        values = {"format": _FORMAT, "max_tokens": self.max_tokens, "subwords": self.subwords}
        write_text(Path(path), json.dumps(values, ensure_ascii=False, indent=0) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Subwords:
        """Read a vocabulary that `save` has written.

        Raises:
            EncoderError: There is no such file, or it is not such a vocabulary.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            subwords, max_tokens = values["subwords"], values["max_tokens"]
            valid = values["format"] == _FORMAT and subwords[:2] == [PADDING, UNKNOWN]
            valid &= type(max_tokens) is int and max_tokens > 0
            valid &= all(isinstance(one, str) for one in subwords) and len(set(subwords)) == len(subwords)
            "".join(subwords).encode()
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise _damaged(path) from error
        if not valid:
            raise _damaged(path)
        return cls(subwords, max_tokens=max_tokens)


def _damaged(path: str | Path) -> EncoderError:
    return EncoderError(
        "this is not a vocabulary of subwords", where=path, remedy="give the file that Subwords.save wrote"
    )


def _normalizer() -> normalizers.Normalizer:
    return normalizers.BertNormalizer(lowercase=True, strip_accents=False)


def _count_words(texts: Iterable[str]) -> Counter[str]:
    normalizer, splitter = _normalizer(), pre_tokenizers.BertPreTokenizer()
    return Counter(
        word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)) if word.strip()
    )


def _letters(word: str) -> list[str]:
    return [letter if position == 0 else _PREFIX + letter for position, letter in enumerate(word)]
