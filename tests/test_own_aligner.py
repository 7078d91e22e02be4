"""An aligner of the user's own, from the table of alignments to prediction."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import soundfile

from emofuse.align import run
from emofuse.align.again import aligner_again
from emofuse.align.base import ALIGNERS, Aligner, align_clip, aligner_class, load_aligner
from emofuse.align.run import align_manifest
from emofuse.align.table import read_alignments
from emofuse.audio import SAMPLING_RATE
from emofuse.errors import AlignmentError, SettingsError
from emofuse.manifest import make_manifest
from emofuse.recipe import load_recipe
from emofuse.testing import tone

CODE = """
import os
from emofuse.align.base import Aligner
from emofuse.types import Segment

class Even(Aligner):
    name = "even"
    languages = ("de",)

    def __init__(self, model: str = "plain") -> None:
        self.model = model

    def align(self, clip, text, *, language=None):
        words = text.split()
        step = len(clip) / 16000 / len(words)
        self.doubt = "all words are as long" if len(words) > 1 else None
        return {"word": tuple(Segment(start=i * step, end=(i + 1) * step, label=w) for i, w in enumerate(words))}

class Parallel(Even):
    parallel = True

    def align(self, clip, text, *, language=None):
        return super().align(clip, f"{text} {os.getpid()}")

class Backwards(Even):
    def align(self, clip, text, *, language=None):
        return {"word": super().align(clip, text)["word"][::-1]}

class Foreign(Even):
    def align(self, clip, text, *, language=None):
        return {"Wort": ()}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my aligners.py"
    path.write_text(CODE)
    return path


@pytest.fixture
def manifest(tmp_path: Path) -> pd.DataFrame:
    rows = []
    for name, language in (("a", "de"), ("b", None), ("c", "fr")):
        soundfile.write(tmp_path / f"{name}.wav", tone(1.0, seed=ord(name)), SAMPLING_RATE)
        audio = str(tmp_path / f"{name}.wav")
        rows.append({"utterance": name, "audio": audio, "text": "oh no", "language": language, "duration": 1.0})
    return make_manifest(rows, source="test")


def test_it_aligns_a_manifest(file: Path, manifest: pd.DataFrame, tmp_path: Path) -> None:
    out = tmp_path / "alignments.parquet"
    found = align_manifest(manifest, out, aligner=f"{file}:Even", jobs=1)
    assert [one.start for one in found["a"].tiers["word"]] == [0.0, 0.5]
    assert found["b"].note == "all words are as long"
    assert "the language is fr, and even knows de only" in str(found["c"].problem)
    assert {one.source for one in read_alignments(out).values()} == {f"{file}:Even"}


def test_it_may_work_in_several_processes(file: Path, manifest: pd.DataFrame) -> None:
    found = align_manifest(manifest.iloc[:2], aligner=f"{file}:Parallel", jobs=2)
    here = align_manifest(manifest.iloc[:2], aligner=f"{file}:Parallel", jobs=1)
    theirs, ours = ({one.tiers["word"][2].label for one in those.values()} for those in (found, here))
    assert theirs.isdisjoint(ours)
    assert len(ours) == 1


def test_what_it_made_is_kept_until_its_code_changes(file: Path, manifest: pd.DataFrame, tmp_path: Path) -> None:
    out, rows = tmp_path / "alignments.parquet", manifest.iloc[:1]
    first = align_manifest(rows, out, aligner=f"{file}:Parallel", jobs=1)

    def refuse(*_: object) -> None:
        raise AssertionError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_by", refuse)
        assert align_manifest(rows, out, aligner=f"{file}:Parallel", jobs=1) == first
        file.write_text(CODE + "# Changed.")
        with pytest.raises(AssertionError):
            align_manifest(rows, out, aligner=f"{file}:Parallel", jobs=1)


@pytest.mark.parametrize(("name", "what"), [("Backwards", "before the segment"), ("Foreign", "has a tier 'Wort'")])
def test_what_makes_no_sense_is_a_problem_of_the_utterance(file: Path, name: str, what: str) -> None:
    found = align_clip(load_aligner(f"{file}:{name}"), tone(1.0, seed=0), "oh no")
    assert what in str(found.problem)
    assert not found.tiers


def test_prediction_aligns_with_it_again_if_it_is_trusted(file: Path) -> None:
    trained = load_aligner(f"{file}:Even", model="special")
    sources = {trained.source: 9, "shipped": 1}
    with pytest.raises(AlignmentError, match=r"my aligners.py:Even.*not emofuse's own.*trust=True"):
        aligner_again(sources)
    again = aligner_again(sources, trust=True)
    assert again is not None
    assert type(again) is type(trained)
    assert vars(again) == vars(trained)
    assert again.source == trained.source
    file.unlink()
    with pytest.raises(SettingsError, match="there is no 'Odd'"):
        aligner_again({f"{file}:Odd": 1}, trust=True)


def test_a_strangers_model_runs_no_code_under_our_name(file: Path) -> None:
    with pytest.raises(AlignmentError, match="not emofuse's own"):
        aligner_again({f"emofuse.align/../{file}:Even": 1})


def test_a_recipe_names_it() -> None:
    assert load_recipe("fusion").align.aligner == "auto"
    recipe = load_recipe("fusion", overrides=["align.aligner=mine.py:Even", "align.model=x"], command="run")
    assert (recipe.align.aligner, recipe.align.model) == ("mine.py:Even", "x")
    with pytest.raises(SettingsError, match=r"does not read setting align\.aligner"):
        load_recipe("fusion", overrides=["align.aligner=sphinx"], command="train")


@pytest.mark.parametrize("name", ALIGNERS)
def test_each_of_ours_meets_the_contract(name: str) -> None:
    assert issubclass(aligner_class(name), Aligner)
    assert aligner_class(name).name == name
