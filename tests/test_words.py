from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch

from emofuse.encoders import WordPieces
from emofuse.errors import EncoderError

TEXTS = [
    "I can't believe it, you are so happy today!",
    "Why are you always so angry with me?",
    "Nothing happened. I was happier before.",
    "Das ist schön, über alle Maßen schön.",
    "So sad, so very sad; I believed you.",
] * 3


def test_padding_and_unknown_come_first() -> None:
    pieces = WordPieces.fit(TEXTS, size=120, max_tokens=16)
    assert pieces.pieces[:2] == ("[PAD]", "[UNK]")
    assert pieces.size == len(set(pieces.pieces)) <= 120


def test_case_does_not_matter_and_letters_with_marks_stay() -> None:
    pieces = WordPieces.fit(TEXTS, size=200, max_tokens=16)
    upper, lower = pieces.encode(["SO SCHÖN", "so schön"])
    assert upper.equal(lower)
    assert not lower.equal(pieces.encode(["so schon"])[0])
    assert upper.dtype == torch.int64


def test_frequent_words_are_one_piece_and_new_words_are_put_together() -> None:
    pieces = WordPieces.fit(TEXTS, size=300, max_tokens=16)
    assert len(pieces.encode(["happy"])[0]) == 1
    spelled = [pieces.pieces[index] for index in pieces.encode(["happened"])[0]]
    assert "".join(piece.removeprefix("##") for piece in spelled) == "happened"
    new = [pieces.pieces[index] for index in pieces.encode(["sadder"])[0]]
    assert len(new) > 1
    assert "".join(piece.removeprefix("##") for piece in new) == "sadder"


def test_unknown_signs_and_empty_texts_are_unknown() -> None:
    pieces = WordPieces.fit(TEXTS, size=200, max_tokens=16)
    assert [ids.tolist() for ids in pieces.encode(["", "   ", "中"])] == [[1], [1], [1]]
    assert pieces.encode([]) == []


def test_padding_never_comes_out_of_a_text() -> None:
    pieces = WordPieces.fit([*TEXTS, "[PAD] pad"], size=200, max_tokens=64)
    assert all(0 not in ids for ids in pieces.encode([*TEXTS, "[PAD]"]))


def test_long_texts_are_cut() -> None:
    pieces = WordPieces.fit(TEXTS, size=200, max_tokens=5)
    whole = WordPieces(pieces.pieces, max_tokens=100)
    text = " ".join(TEXTS)
    assert pieces.encode([text])[0].equal(whole.encode([text])[0][:5])


def test_a_script_with_more_signs_than_room_still_fits() -> None:
    texts = ["".join(chr(0x4E00 + i) for i in range(400)), "一一一 二"]
    pieces = WordPieces.fit(texts, size=60, max_tokens=16)
    assert pieces.size <= 60
    assert pieces.encode(["一"])[0].tolist() != [1]


def test_saving_keeps_every_id(tmp_path: Path) -> None:
    pieces = WordPieces.fit(TEXTS, size=150, max_tokens=7)
    pieces.save(tmp_path / "words.json")
    again = WordPieces.load(tmp_path / "words.json")
    assert again.pieces == pieces.pieces
    assert again.max_tokens == 7
    assert all(a.equal(b) for a, b in zip(again.encode(TEXTS), pieces.encode(TEXTS), strict=True))


def test_every_process_learns_the_same_vocabulary() -> None:
    # The trainer's hash tables are seeded once a process, so only another process can show a difference.
    program = (
        "import random; from emofuse.encoders.words import WordPieces; draw = random.Random(0);"
        "texts = [''.join(draw.choice('abcdefghijklmnop ') for _ in range(60)) for _ in range(150)];"
        "print('|'.join(WordPieces.fit(texts, size=300, max_tokens=8).pieces))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, env=environment).stdout
    with redirect_stdout(io.StringIO()) as own:
        exec(program, {})  # noqa: S102
    assert other.decode() == own.getvalue()


@pytest.mark.parametrize("texts", [[], ["", "  "]])
def test_no_words_no_vocabulary(texts: list[str]) -> None:
    with pytest.raises(EncoderError, match="hold no words"):
        WordPieces.fit(texts, size=100, max_tokens=8)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        json.dumps({"format": "other", "max_tokens": 4, "pieces": ["[PAD]", "[UNK]"]}),
        json.dumps({"format": "emofuse-word-pieces-1", "max_tokens": 4, "pieces": ["a", "b"]}),
        json.dumps({"format": "emofuse-word-pieces-1", "max_tokens": 0, "pieces": ["[PAD]", "[UNK]"]}),
    ],
)
def test_a_file_that_is_no_vocabulary_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "words.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(EncoderError, match=r"words\.json.*WordPieces\.save"):
        WordPieces.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"gone\.json"):
        WordPieces.load(tmp_path / "gone.json")
