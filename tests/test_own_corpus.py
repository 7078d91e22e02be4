"""A corpus that the user reads with a function of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile
from typer.testing import CliRunner

from emofuse.align.run import align_manifest
from emofuse.cli.app import app
from emofuse.corpora import CORPORA, read_corpus
from emofuse.errors import ManifestError, SettingsError
from emofuse.manifest import read_manifest
from emofuse.protocols import make_protocol
from emofuse.settings import ProtocolSettings
from emofuse.testing import tone

PLAIN = """
def read(root):
    for path in sorted(root.glob("*.wav")):
        speaker, label, number = path.stem.split("_")
        yield {"utterance": path.stem, "audio": path, "text": f"take {number}", "label": label, "speaker": speaker}
"""
CARDED = f"""
import pandas as pd
from emofuse.corpora.card import CorpusCard
from emofuse.types import Segment
{PLAIN.replace("def read", "def rows")}
def read(root, takes):
    frame = pd.DataFrame(rows(root))
    frame["session"] = frame["speaker"].str[0]
    return frame if takes == "all" else frame[frame["utterance"].str.endswith("_0")]

def words(audio, duration):
    return {{"word": (Segment(start=0.0, end=duration / 2, label="take"),)}}

CARD = CorpusCard(
    name="mine", title="Mine", languages=("en",), modalities=("speech", "text"), labels=("happy", "sad"),
    licence="CC0", where="here", citation="none", utterances=16, options={{"takes": ("all", "first")}},
    folds=(("a1", "b1"), ("a2", "b2")), alignments=f"{{__file__}}:words",
)
"""


@pytest.fixture(autouse=True)
def ours() -> Iterator[None]:
    before = dict(CORPORA)
    yield
    CORPORA.clear()
    CORPORA.update(before)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    for speaker in ("a1", "a2", "b1", "b2"):
        for label in ("happy", "sad"):
            for number in range(2):
                soundfile.write(folder / f"{speaker}_{label}_{number}.wav", tone(0.2, seed=number), 16000)
    return folder


def reader(folder: Path, code: str, name: str = "reads.py") -> str:
    (folder.parent / name).write_text(code)
    return f"{folder.parent / name}:read"


def test_rows_are_enough(root: Path) -> None:
    manifest = read_corpus(reader(root, PLAIN), root).manifest
    assert len(manifest) == 16
    assert set(manifest["corpus"]) == {"reads"}
    assert manifest["duration"].tolist() == pytest.approx([0.2] * 16)


def test_its_card_is_heeded(root: Path) -> None:
    name = reader(root, CARDED)
    manifest = read_corpus(name, root).manifest
    protocol = make_protocol(manifest, ProtocolSettings())
    assert protocol.settings.fixed == "published"
    assert [set(manifest.set_index("utterance").loc[list(fold.test), "speaker"]) for fold in protocol.folds] == [
        {"a1", "b1"},
        {"a2", "b2"},
    ]
    aligned = align_manifest(manifest.iloc[:1])["a1_happy_0"]
    assert aligned.source == "shipped"
    assert aligned.tiers["word"][0].end == pytest.approx(0.1)
    with pytest.raises(ManifestError, match="found 8 of 16 utterances"):
        read_corpus(name, root, options={"takes": "first"})
    first = read_corpus(name, root, options={"takes": "first"}, partial=True)
    assert len(first.manifest) == 8
    with pytest.raises(SettingsError, match="mine has no option 'take'; did you mean takes"):
        read_corpus(name, root, options={"take": "all"})


def test_it_is_combined_with_others_by_its_name(root: Path) -> None:
    other = reader(root, PLAIN, "theirs.py")
    (root.parent / "theirs").symlink_to(root)
    manifest = read_corpus(f"{reader(root, CARDED)}+{other}", root.parent).manifest
    assert manifest["corpus"].value_counts().to_dict() == {"mine": 16, "theirs": 16}
    assert manifest["utterance"].iloc[0] == "mine/a1_happy_0"


def test_the_command_reads_it(root: Path) -> None:
    out = root.parent / "manifest.parquet"
    command = ["prepare", "--corpus", reader(root, PLAIN), "--root", str(root), "--out", str(out)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert len(read_manifest(out)) == 16


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("read = 3", "this is no function"),
        (CARDED.replace('name="mine"', 'name="ravdess"'), "ravdess is a corpus of emofuse's own"),
        ("def raed(root):\n    return []", "there is no 'read' in it; did you mean raed"),
    ],
)
def test_what_is_no_reader_is_refused(root: Path, code: str, what: str) -> None:
    with pytest.raises(SettingsError, match=what):
        read_corpus(reader(root, code), root)


def test_an_unknown_name_says_how_to_name_a_reader(root: Path) -> None:
    with pytest.raises(ManifestError, match=r"did you mean ravdess, or name a reader as package.module:Name"):
        read_corpus("ravdes", root)
