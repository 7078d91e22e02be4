"""Errors, as a program that uses the package catches them."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from emofuse import errors
from emofuse.corpora import read_corpus
from emofuse.errors import EmofuseError, ManifestError, OutputError
from emofuse.files import appended
from emofuse.locks import alone_in

BUILT_IN = {"OutputError": OSError, "TrainingError": RuntimeError}
KINDS = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, EmofuseError)]


@pytest.mark.parametrize("kind", [one for one in KINDS if one is not EmofuseError])
def test_each_is_the_built_in_error_that_fits(kind: type[EmofuseError]) -> None:
    for caught in (BUILT_IN.get(kind.__name__, ValueError), EmofuseError, kind):
        with pytest.raises(caught) as found:
            raise kind("it is empty", where="a", remedy="fill it")
        # Worker processes send them home.
        again = pickle.loads(pickle.dumps(found.value))  # noqa: S301
        assert type(again) is kind
        assert str(again) == str(found.value) == "a: it is empty; fill it."
        assert again.advice == "it is empty; fill it"


def test_there_are_as_many_as_were_tested() -> None:
    assert len(KINDS) == 12


def test_a_folder_in_use_says_so_and_not_that_it_cannot_be_written(tmp_path: Path) -> None:
    from threading import Thread

    found: list[str] = []

    def other() -> None:
        try:
            with alone_in(tmp_path):
                pass
        except OutputError as error:
            found.append(str(error))

    with alone_in(tmp_path):
        thread = Thread(target=other)
        thread.start()
        thread.join()
    assert len(found) == 1
    assert found[0].startswith(f"{tmp_path}: another command is working here")


def test_what_happens_while_a_journal_is_open_is_not_the_journals(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"^the disk of another"), appended(tmp_path / "journal") as _:
        raise OutputError("the disk of another is full", remedy="empty it")


def test_what_is_wrong_with_a_table_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("[]\n")
    with pytest.raises(ManifestError, match="row 1 is not a JSON object"):
        read_corpus("table", path)
