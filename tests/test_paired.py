"""The artificial benchmark: voices and comments of the same label."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile

from emofuse.audio import SAMPLING_RATE
from emofuse.corpora import CORPORA, read_corpus
from emofuse.errors import ManifestError
from emofuse.manifest import read_manifest, sources_of, write_manifest
from emofuse.protocols import make_protocol
from emofuse.settings import ProtocolSettings
from emofuse.testing import tone

SHARED = Path(__file__).parents[2] / "shared" / "data"
# Codes of RAVDESS, and GoEmotions' numbers of the same emotions.
EMOTIONS = {"01": "27", "02": "27", "03": "17", "04": "25", "05": "2", "06": "14"}
CLASSES = {"01": "neutral", "02": "neutral", "03": "happy", "04": "sad", "05": "angry"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    voices, words = tmp_path / "ravdess", tmp_path / "goemotions"
    voices.mkdir()
    words.mkdir()
    for actor in range(1, 5):
        for code in EMOTIONS:
            soundfile.write(voices / f"03-01-{code}-01-01-01-0{actor}.wav", tone(0.2, seed=actor), SAMPLING_RATE)
    (words / "labels.txt").write_text("\n".join(CORPORA["goemotions"].labels))
    lines = [f"comment {number} of {label}\t{label}\tid{label}x{number}"
             for label in set(EMOTIONS.values()) for number in range(9)]  # fmt: skip
    (words / "dev.tsv").write_text("\n".join([*lines, "comment 0 of 2\t2\tagain"]))
    (words / "train.tsv").write_text("seen in training\t2\tid")
    return tmp_path


def test_every_clip_has_a_comment_of_its_label_that_no_other_has(root: Path) -> None:
    found = read_corpus("paired", root)
    manifest = found.manifest
    assert len(manifest) == 4 * len(CLASSES)
    assert manifest["text"].is_unique
    for row in manifest.to_dict("records"):
        code = Path(row["audio"]).name[6:8]
        assert row["label"] == CLASSES[code]
        assert row["text"].endswith(f"of {EMOTIONS[code]}")
        assert row["spoken"] == "Kids are talking by the door"
    assert "seen in training" not in set(manifest["text"])
    assert any("artificial" in note for note in found.notes)
    assert read_corpus("paired", root).manifest.equals(manifest)


@pytest.mark.parametrize("stated", [None, "ravdess"])
def test_it_warns_of_what_it_is_made_of_and_not_of_what_it_could_be_made_of(root: Path, stated: str | None) -> None:
    options = {} if stated is None else {"voices": stated}
    manifest = read_corpus("paired", root, options=options).manifest
    assert sources_of(manifest) == ["goemotions", "ravdess"]
    write_manifest(manifest, root / "manifest.parquet")
    assert sources_of(read_manifest(root / "manifest.parquet")) == ["goemotions", "ravdess"]


def test_too_few_comments_are_reported(root: Path) -> None:
    table = root / "goemotions" / "dev.tsv"
    table.write_text("\n".join(line for line in table.read_text().split("\n") if "\t25\t" not in line))
    with pytest.raises(ManifestError, match="no sad comment"):
        read_corpus("paired", root)


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the recordings in {SHARED} are not at hand")
@pytest.mark.parametrize(("voices", "count"), [("ravdess", 864), ("nemo", 2480), ("emodb", 339)])
def test_folds_share_neither_speaker_nor_sentence(voices: str, count: int) -> None:
    manifest = read_corpus("paired", SHARED, options={"voices": voices}).manifest
    assert len(manifest) == count
    by_name = manifest.set_index("utterance")
    for fold in make_protocol(manifest, ProtocolSettings(kind="speakers", folds=3, validation_groups=1)).folds:
        parts = [by_name.loc[list(names)] for names in (fold.train, fold.validation, fold.test)]
        for column in ("speaker", "text"):
            values = [set(part[column]) for part in parts]
            assert not values[0] & values[2]
            assert not values[0] & values[1]
            assert not values[1] & values[2]
