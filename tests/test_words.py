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

from emofuse.encoders import Subwords
from emofuse.errors import EncoderError

TEXTS = [
    "I can't believe it, you are so happy today!",
    "Why are you always so angry with me?",
    "Nothing happened. I was happier before.",
    "Das ist schön, über alle Maßen schön.",
    "So sad, so very sad; I believed you.",
] * 3


def test_padding_and_unknown_come_first() -> None:
    subwords = Subwords.fit(TEXTS, size=120, max_tokens=16)
    assert subwords.subwords[:2] == ("[PAD]", "[UNK]")
    assert subwords.size == len(set(subwords.subwords)) <= 120


def test_case_does_not_matter_and_letters_with_marks_stay() -> None:
    subwords = Subwords.fit(TEXTS, size=200, max_tokens=16)
    upper, lower = subwords.encode(["SO SCHÖN", "so schön"])
    assert upper.equal(lower)
    assert not lower.equal(subwords.encode(["so schon"])[0])
    assert upper.dtype == torch.int64


def test_frequent_words_are_one_subword_and_new_words_are_composed() -> None:
    subwords = Subwords.fit(TEXTS, size=300, max_tokens=16)
    assert len(subwords.encode(["happy"])[0]) == 1
    spelled = [subwords.subwords[index] for index in subwords.encode(["happened"])[0]]
    assert "".join(one.removeprefix("##") for one in spelled) == "happened"
    new = [subwords.subwords[index] for index in subwords.encode(["sadder"])[0]]
    assert len(new) > 1
    assert "".join(one.removeprefix("##") for one in new) == "sadder"


def test_unknown_signs_and_empty_texts_are_unknown() -> None:
    subwords = Subwords.fit(TEXTS, size=200, max_tokens=16)
    assert [ids.tolist() for ids in subwords.encode(["", "   ", "中"])] == [[1], [1], [1]]
    assert subwords.encode([]) == []


def test_padding_never_comes_out_of_a_text() -> None:
    subwords = Subwords.fit([*TEXTS, "[PAD] pad"], size=200, max_tokens=64)
    assert all(0 not in ids for ids in subwords.encode([*TEXTS, "[PAD]"]))


def test_long_texts_are_cut() -> None:
    subwords = Subwords.fit(TEXTS, size=200, max_tokens=5)
    whole = Subwords(subwords.subwords, max_tokens=100)
    text = " ".join(TEXTS)
    assert subwords.encode([text])[0].equal(whole.encode([text])[0][:5])


def test_a_script_with_more_signs_than_room_still_fits() -> None:
    texts = ["".join(chr(0x4E00 + i) for i in range(400)), "一一一 二"]
    subwords = Subwords.fit(texts, size=60, max_tokens=16)
    assert subwords.size <= 60
    assert subwords.encode(["一"])[0].tolist() != [1]


def test_saving_keeps_every_id(tmp_path: Path) -> None:
    subwords = Subwords.fit(TEXTS, size=150, max_tokens=7)
    subwords.save(tmp_path / "words.json")
    again = Subwords.load(tmp_path / "words.json")
    assert again.subwords == subwords.subwords
    assert again.max_tokens == 7
    assert all(a.equal(b) for a, b in zip(again.encode(TEXTS), subwords.encode(TEXTS), strict=True))


def test_every_process_learns_the_same_vocabulary() -> None:
    # The trainer's hash tables are seeded once a process, so only another process can show a difference.
    program = (
        "import random; from emofuse.encoders.words import Subwords; draw = random.Random(0);"
        "texts = [''.join(draw.choice('abcdefghijklmnop ') for _ in range(60)) for _ in range(150)];"
        "print('|'.join(Subwords.fit(texts, size=300, max_tokens=8).subwords))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, env=environment).stdout
    with redirect_stdout(io.StringIO()) as own:
        exec(program, {})  # noqa: S102
    assert other.decode() == own.getvalue()


@pytest.mark.parametrize("texts", [[], ["", "  "]])
def test_no_words_no_vocabulary(texts: list[str]) -> None:
    with pytest.raises(EncoderError, match="hold no words"):
        Subwords.fit(texts, size=100, max_tokens=8)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        json.dumps({"format": "other", "max_tokens": 4, "subwords": ["[PAD]", "[UNK]"]}),
        json.dumps({"format": "emofuse-subwords-1", "max_tokens": 4, "subwords": ["a", "b"]}),
        json.dumps({"format": "emofuse-subwords-1", "max_tokens": 0, "subwords": ["[PAD]", "[UNK]"]}),
    ],
)
def test_a_file_that_is_no_vocabulary_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "words.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(EncoderError, match=r"words\.json.*Subwords\.save"):
        Subwords.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"gone\.json"):
        Subwords.load(tmp_path / "gone.json")
