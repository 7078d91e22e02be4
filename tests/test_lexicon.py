"""Word lists in the formats of their publishers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from emofuse.errors import SettingsError
from emofuse.features.lexicon import normalised, read_lexicon, word_id


def written(folder: Path, *lines: str) -> Path:
    path = folder / "list.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_afinn(tmp_path: Path) -> None:
    path = written(tmp_path, "abandon\t-2", "superb\t5", "cool stuff\t3", "", "thus\t0")
    assert read_lexicon(path) == {"abandon": 0.4, "superb": 1.0, "cool stuff": 0.6, "thus": 0.0}


def test_vader(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "great\t3.1\t0.7\t[2, 4, 4, 4, 3, 3, 3, 3, 3, 2]",
        "Awful\t-2.0\t1.2\t[-2, -2, -1, -3, -3, -2, -1, -3, -2, -1]",
    )
    assert read_lexicon(path) == pytest.approx({"great": 0.775, "awful": 0.5})


def test_nrc_vad(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "Word\tValence\tArousal\tDominance",
        "love\t1.000\t0.519\t0.673",
        "table\t0.5\t0.1\t0.4",
        "rage\t0\t1\t1",
    )
    found = read_lexicon(path)
    assert found["love"] == pytest.approx((math.sqrt(0.25 + 0.2595**2) - 0.06467) / 0.607468)
    # Below the least and above the greatest of the published list.
    assert found["table"] == 0
    assert found["rage"] == 1


def test_what_is_no_lexicon_is_refused_by_its_line(tmp_path: Path) -> None:
    for line in (
        "sad",
        "sad\tvery",
        "sad\t6",
        "sad\t0.1\t0.2",
        "sad\t0.1\t0.2\t1.5",
        "sad\t5\t0.1\t[5, 5]",
        "sad\tnan",
    ):
        with pytest.raises(SettingsError, match=r"list\.txt, line 2: .*; give lines of word and score \(AFINN\)"):
            read_lexicon(written(tmp_path, "glad\t3", line))
    with pytest.raises(SettingsError, match=r"list\.txt: the lexicon holds no word"):
        read_lexicon(written(tmp_path, "word\tscore"))
    for path in (tmp_path / "none.txt", tmp_path, Path("/dev/zero")):
        with pytest.raises(SettingsError, match=f"{path.name}: the lexicon cannot be read; name a text file in UTF-8"):
            read_lexicon(path)


def test_words_are_found_as_they_are_said() -> None:
    assert [normalised(one) for one in ("Don't", '"Great!"', "(sad)", "...", "GOOD-")] == [
        "don't",
        "great",
        "sad",
        "...",
        "good",
    ]
    ids = [word_id(one) for one in ("happy", "Happy,", "sad", "...")]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3
    assert all(0 <= one < 2**63 for one in ids)
