"""Classes of the user's own, named by their path."""

from __future__ import annotations

import subprocess
import sys
from abc import ABC, abstractmethod
from multiprocessing import get_context
from pathlib import Path
from typing import ClassVar

import pytest

from emofuse.errors import SettingsError
from emofuse.outside import code_hash, full_name, is_outside, load_class, load_object, options_of


class Greeter(ABC):
    """A contract of one attribute and one method."""

    language: ClassVar[str]
    polite: ClassVar[bool] = True

    @abstractmethod
    def greet(self) -> str:
        """Say hello."""


class Keyed:
    """Something that is made with a key."""

    def __init__(self, key: str, *, device: str = "") -> None:
        self.key, self.device = key, device


TABLE = {"polite": "greeters:Polite"}
CODE = """
from dataclasses import dataclass
from test_outside import Greeter

@dataclass
class Polite(Greeter):
    name: str = "sir"
    language = "en"

    def greet(self) -> str:
        return f"good day, {self.name}"

class Mute(Greeter):
    language = "en"

class Odd(Greeter):
    def greet(self) -> str:
        return "hello"

class Stranger:
    pass

def function():
    pass
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(CODE)
    return path


def load(name: str) -> type[Greeter]:
    return load_class(name, TABLE, kind="greeter", base=Greeter)


def greeting(name: str) -> str:
    return load(name)().greet()


def test_a_class_in_a_file_is_loaded_once(file: Path) -> None:
    found = load(f"{file}:Polite")
    assert found().greet() == "good day, sir"
    assert load(f"{file}:Polite") is found
    assert found.__module__ in sys.modules


def test_a_file_beside_the_command_is_found_as_a_module(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file.parent / "my_greeters.py").write_text(CODE)
    with pytest.raises(SettingsError, match="No module named 'my_greeters'"):
        load("my_greeters:Polite")
    monkeypatch.chdir(file.parent)
    before = list(sys.path)
    assert load("my_greeters:Polite")().greet() == "good day, sir"
    assert load("mine.py:Polite") is load(f"{file}:Polite")
    assert sys.path == before


def test_a_file_may_import_its_neighbours(file: Path) -> None:
    (file.parent / "uses.py").write_text("from mine import Polite\nclass Own(Polite):\n    pass\n")
    assert load(f"{file.parent / 'uses.py'}:Own")().greet() == "good day, sir"


def test_another_process_imports_it_anew(file: Path) -> None:
    with get_context("spawn").Pool(1) as pool:
        assert pool.apply(greeting, (f"{file}:Polite",)) == "good day, sir"


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(SettingsError) as refused:
        load("polit")
    assert str(refused.value) == (
        "there is no greeter 'polit' (known: polite); did you mean polite, or name one of your own as "
        "package.module:Name or path/to/file.py:Name."
    )


@pytest.mark.parametrize(
    ("member", "what"),
    [
        ("Mute", "this greeter lacks greet"),
        ("Odd", r"this greeter lacks language; see .*Greeter"),
        ("Stranger", r"this class is no greeter; make it a subclass of .*Greeter"),
        ("function", "this is no class but a function"),
        ("Polit", "there is no 'Polit' in it; did you mean Polite"),
    ],
)
def test_what_does_not_meet_the_contract_is_refused(file: Path, member: str, what: str) -> None:
    with pytest.raises(SettingsError, match=what):
        load(f"{file}:{member}")


def test_a_class_is_made_with_what_it_takes(file: Path) -> None:
    def options(**asked: str | None) -> dict[str, object]:
        return options_of(load(f"{file}:Polite"), kind="greeter", asked=asked, offered={"device": "cpu"})

    assert options(name="madam") == {"name": "madam"}
    assert options(name=None) == {}
    with pytest.raises(SettingsError, match="Polite: this greeter has no model to choose; leave out the model"):
        options(model="x")
    with pytest.raises(SettingsError, match="Keyed: no key is named; name the greeter's key"):
        options_of(Keyed, kind="greeter", asked={"key": None}, offered={})
    found = options_of(Keyed, kind="greeter", asked={"key": "a"}, offered={"device": "cpu", "speed": 1})
    assert found == {"key": "a", "device": "cpu"}


def test_a_changed_file_has_another_hash(file: Path) -> None:
    before = code_hash(load(f"{file}:Polite"))
    assert before == code_hash(load(f"{file}:Polite"))
    file.write_text(CODE + "# More.")
    assert code_hash(load(f"{file}:Polite")) != before


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("import nowhere_at_all", "No module named 'nowhere_at_all'"),
        ("class A(", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("import sys\nsys.exit(3)", "SystemExit"),
    ],
)
def test_code_that_fails_is_refused_and_may_be_fixed(tmp_path: Path, code: str, what: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(code)
    with pytest.raises(SettingsError, match=what) as refused:
        load(f"{path}:Polite")
    assert "\n" not in str(refused.value)
    path.write_text(CODE)
    assert load(f"{path}:Polite")().greet() == "good day, sir"


@pytest.mark.parametrize("name", ["", ":", ":Polite", "mine.py:", "nofile.py:Polite", "a b/x.py:A", ".:A", "..a:B"])
def test_odd_names_are_refused(name: str) -> None:
    with pytest.raises(SettingsError):
        load_object(name, kind="greeter", known=TABLE)


def test_what_is_ours_needs_no_trust(tmp_path: Path) -> None:
    assert not is_outside("polite")
    assert not is_outside("emofuse.errors:SettingsError")
    assert is_outside("emofuse.align/../../theirs.py:Polite")
    assert is_outside("emofuse.align.py/theirs.py:Polite")
    assert is_outside("emofuse_other:Polite")
    assert is_outside("C:\\mine.py:Polite")
    assert full_name("my_greeters:Polite") == "my_greeters:Polite"
    assert Path(full_name("mine.py:Polite")).is_absolute()


def test_loading_needs_nothing_heavy() -> None:
    code = "import sys, emofuse.outside; print({'torch', 'numpy', 'pydantic'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
