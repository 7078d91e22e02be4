"""Load classes and functions by short name, or by the path to the user's own."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from emofuse.errors import SettingsError
from emofuse.inputs import nearest, short

_MODEL = " model="
_OURS = re.compile(r"emofuse(\.\w+)*:\w+", re.ASCII)

OWN = "package.module:Name or path/to/file.py:Name"
"""Form of the user's own names."""


def is_outside(name: str) -> bool:
    """Whether a name is a path outside this package, whose code runs when it is loaded.

    Example:
        >>> is_outside("sphinx"), is_outside("emofuse.align.sphinx:SphinxAligner"), is_outside("mine.py:MyAligner")
        (False, False, True)
    """
    # An untrusted checkpoint may name `emofuse.x/../../theirs.py:Model`.
    return ":" in name and not _OURS.fullmatch(name)


def full_name(name: str) -> str:
    """A name that is valid in every folder: the path of a file becomes absolute.

    Example:
        >>> full_name("sphinx"), full_name("mine.py:MyAligner").endswith("mine.py:MyAligner")
        ('sphinx', True)
    """
    module, _, member = name.rpartition(":")
    return f"{os.path.abspath(os.path.expanduser(module))}:{member}" if module.endswith(".py") else name


def with_model(name: str, model: str | None) -> str:
    """A name and its model, as one text.

    Example:
        >>> with_model("my.module:Aligner", "a/model"), without_model("my.module:Aligner model=a/model")
        ('my.module:Aligner model=a/model', ('my.module:Aligner', 'a/model'))
    """
    return full_name(name) + (f"{_MODEL}{model}" if model else "")


def without_model(text: str) -> tuple[str, str | None]:
    """The name and the model of `with_model`."""
    name, _, model = text.partition(_MODEL)
    return name, model or None


def load_class(name: str, table: Mapping[str, str], *, kind: str, base: type) -> type[Any]:
    """Load a class by its short name, or one of the user's own by its path.

    Args:
        name: A name of the table, or `package.module:Name`, or `path/to/file.py:Name`.
        table: The path of each short name.
        kind: Kind of class, for messages, such as `aligner`.
        base: Its interface, whose abstract methods and class variables without a value it must define.

    Returns:
        The class; the same one for the same name.

    Raises:
        SettingsError: The name is unknown, cannot be imported, or the class does not implement the interface.

    Example:
        >>> load_class("ordered", {"ordered": "collections:OrderedDict"}, kind="table", base=dict)
        <class 'collections.OrderedDict'>
        >>> load_class("odrered", {"ordered": "collections:OrderedDict"}, kind="table", base=dict)
        Traceback (most recent call last):
        emofuse.errors.SettingsError: there is no table 'odrered' (known: ordered); did you mean ordered, or name one \
of your own as package.module:Name or path/to/file.py:Name.
    """
    found = load_object(table.get(name, name), kind=kind, known=table)
    if not inspect.isclass(found):
        raise SettingsError(f"this is no class but a {type(found).__name__}", where=name, remedy=f"name a {kind} class")
    contract = f"{base.__module__}.{base.__name__}"
    if not issubclass(found, base):
        raise SettingsError(f"this class is no {kind}", where=name, remedy=f"make it a subclass of {contract}")
    if lacking := _lacking(found, base):
        raise SettingsError(f"this {kind} lacks {', '.join(lacking)}", where=name, remedy=f"see {contract}")
    return found


def options_of(found: type, *, kind: str, asked: Mapping[str, Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a class: all that the user gave, and of the offered ones those that its `__init__` takes.

    Args:
        found: The class.
        kind: Kind of class, for messages.
        asked: The user's values by name; None for none.
        offered: Further values by name.

    Raises:
        SettingsError: It takes no argument of a name that was given, or needs one that was not.

    Example:
        >>> options_of(SettingsError, kind="error", asked={"what": "a", "where": None}, offered={"device": "cpu"})
        {'what': 'a'}
    """
    parameters = inspect.signature(found).parameters
    values = {name: value for name, value in asked.items() if value is not None}
    if strange := [name for name in values if name not in parameters]:
        raise SettingsError(
            f"this {kind} has no {strange[0]} to choose", where=found.__name__, remedy=f"leave out the {strange[0]}"
        )
    needed = [name for name in asked if name in parameters and parameters[name].default is inspect.Parameter.empty]
    if lacking := [name for name in needed if name not in values]:
        raise SettingsError(f"no {lacking[0]} is named", where=found.__name__, remedy=f"name the {kind}'s {lacking[0]}")
    return values | {name: value for name, value in offered.items() if name in parameters}


def code_hash(found: type) -> str:
    """Hash of the file that defines a class, for cache keys; empty without a file.

    Example:
        >>> code_hash(int), len(code_hash(SettingsError))
        ('', 16)
    """
    file = getattr(sys.modules.get(found.__module__), "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] if file else ""


def load_object(name: str, *, kind: str, known: Mapping[str, Any]) -> Any:
    """Load an object by its path.

    Args:
        name: `package.module:Name`, or `path/to/file.py:Name`.
        kind: Expected kind, for messages.
        known: Short names that the user may have meant.

    Raises:
        SettingsError: It is no path, or cannot be imported.

    Example:
        >>> load_object("math:pi", kind="number", known={})
        3.141592653589793
    """
    place, _, member = name.rpartition(":")
    if not place or not member:
        remedy = f"{nearest(name, known)}, or name one of your own as {OWN}" if known else f"name it as {OWN}"
        names = f" (known: {', '.join(known)})" if known else ""
        raise SettingsError(f"there is no {kind} {short(name)!r}{names}", remedy=remedy)
    try:
        module = _file(Path(os.path.abspath(os.path.expanduser(place)))) if place.endswith(".py") else _module(place)
    # The user's code may raise anything, and a script without a guard may exit.
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {str(error).strip() or 'no message'}"
        raise SettingsError(
            f"{kind} cannot be imported ({reason})", where=name, remedy=f"check the path, which is {OWN}, and its code"
        ) from error
    try:
        return getattr(module, member)
    except AttributeError as error:
        mine = [one for one in vars(module) if not one.startswith("_")]
        remedy = nearest(member, mine) if mine else "define it there"
        raise SettingsError(f"there is no {short(member)!r} in it", where=name, remedy=remedy) from error


def _lacking(found: type, base: type) -> list[str]:
    """Required methods and class attributes that a subclass lacks."""
    declared = {
        name
        for one in base.__mro__
        for name, kind in inspect.get_annotations(one).items()
        if str(kind).startswith("ClassVar") and not hasattr(found, name)
    }
    return sorted(declared.union(getattr(found, "__abstractmethods__", ())))


def _module(name: str) -> ModuleType:
    # A command's path lacks the working folder, where the user's modules are.
    with _importing_from(Path.cwd()):
        return importlib.import_module(name)


def _file(path: Path) -> ModuleType:
    """Import a file under a name from its path, so that each process has one module per file."""
    name = f"emofuse_outside_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pydantic look up the module of a class while it is made.
    sys.modules[name] = module
    try:
        with _importing_from(path.parent):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """Add a folder to the end of the import path."""
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
