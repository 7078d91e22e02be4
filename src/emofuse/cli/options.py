"""Shared options: recipes and corpora, checked before anything heavy is loaded."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emofuse.errors import AlignmentError, CheckpointError, ManifestError, SettingsError
from emofuse.inputs import nearest, refuse_address
from emofuse.outside import is_outside
from emofuse.types import Log

if TYPE_CHECKING:
    from emofuse.recipe import Command, Recipe


RecipeName = Annotated[
    str, typer.Argument(help="Name of a built-in recipe, such as speech, text or fusion, or a .toml.")
]
Corpus = Annotated[str, typer.Option(help="Name of a corpus (see `emofuse corpora`), or path/to/file.py:read.")]
Root = Annotated[Path, typer.Option(help="Folder of the corpus; for `table` the file.")]
Jobs = Annotated[int | None, typer.Option(min=1, help="Parallel processes (default: one per core).")]
Device = Annotated[str, typer.Option(help="Device: cpu, cuda, mps.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, such as train.epochs=5.")
]
SpeechEncoder = Annotated[str | None, typer.Option(help="logmel, a Hub id or a folder; overrides the recipe.")]
TextEncoder = Annotated[str | None, typer.Option(help="words, a Hub id or a folder; overrides the recipe.")]
Seeds = Annotated[str | None, typer.Option(help="Seeds, such as 0,1,2; overrides the recipe.")]
Partial = Annotated[bool, typer.Option("--partial", help="Accept an incomplete corpus.")]
Column = Annotated[
    list[str] | None,
    typer.Option("--column", metavar="OURS=YOURS", help="For a table: map a column, such as label=emotion."),
]
Option = Annotated[
    list[str] | None,
    typer.Option(
        "--option", metavar="NAME=VALUE", help="Option of the corpus, such as labels=six; see `emofuse corpora`."
    ),
]
Alignments = Annotated[
    Path | None, typer.Option(help="Table from `emofuse align`, for models that read words, syllables or phones.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
LogOption = Annotated[
    Log | None, typer.Option("--log", help="Write each epoch's losses and metrics as tensorboard files.")
]


def recipe_of(
    name: str,
    overrides: list[str] | None,
    speech: str | None,
    text: str | None,
    seeds: str | None,
    *,
    command: Command,
    aligner: str | None = None,
) -> Recipe:
    """A recipe by name or file, with the options that override it."""
    from emofuse.recipe import load_recipe

    flags = [f"speech.encoder={json.dumps(speech, ensure_ascii=False)}"] if speech else []
    flags += [f"text.encoder={json.dumps(text, ensure_ascii=False)}"] if text else []
    flags += [f"align.aligner={json.dumps(aligner, ensure_ascii=False)}"] if aligner else []
    flags += [f"seeds=[{seeds}]"] if seeds else []
    return load_recipe(name, overrides=[*flags, *(overrides or [])], command=command)


def reading_of(partial: bool, column: list[str] | None, option: list[str] | None) -> dict[str, Any]:
    """Arguments of `read_corpus` from a command's options."""
    return {
        "partial": partial,
        "columns": _pairs(column, "--column", "OURS=YOURS", "label=emotion"),
        "options": _pairs(option, "--option", "NAME=VALUE", "labels=six"),
    }


def _pairs(pairs: list[str] | None, flag: str, form: str, example: str) -> Mapping[str, str] | None:
    """Values of a repeatable option, such as `OURS=YOURS`."""
    if not pairs:
        return None
    values = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name or not value:
            raise SettingsError(f"{pair!r} is not {form}", where=flag, remedy=f"write, say, {example}")
        values[name] = value
    return values


def check_one_of(value: str, names: Iterable[str], what: str, *, where: str) -> None:
    """Refuse an unknown value of an option, and name the nearest."""
    known = list(names)
    if value not in known:
        raise SettingsError(f"{value!r} is no {what}", where=where, remedy=nearest(value, known))


def check_device_name(device: str) -> None:
    """Refuse an invalid device name; torch checks later whether the machine has it."""
    if not re.fullmatch(r"(cpu|cuda|mps|xpu)(:\d+)?", device):
        raise SettingsError(
            f"device {device!r} cannot be used here", remedy="use cpu, or see what `emofuse doctor` finds"
        )


def check_corpus(name: str, root: Path, *, option: str = "--root") -> None:
    """Refuse an unknown corpus, or a missing folder."""
    from emofuse.corpora import CORPORA

    for one in name.split("+"):
        if one not in CORPORA and not is_outside(one):
            raise ManifestError(f"no corpus is called {one!r}", remedy=nearest(one, CORPORA))
    refuse_address(root, where=option)
    if not root.exists():
        what = "table" if name == "table" else "folder"
        raise ManifestError(f"no such {what}", where=root, remedy="check the path")


def check_model(folder: str) -> None:
    """Refuse a folder without a trained model."""
    from emofuse.inference.card import model_folder

    if not os.path.isfile(os.path.join(model_folder(folder), "settings.json")):
        raise CheckpointError(
            "the model folder has no settings.json" if os.path.isdir(folder) else "there is no such folder",
            where=folder,
            remedy="name a folder that emofuse has trained",
        )


def check_manifest(path: Path) -> None:
    """Refuse a missing manifest."""
    if not path.is_file():
        raise ManifestError("no such manifest", where=path, remedy="make one with `emofuse prepare`")


def check_alignments(path: Path | None) -> None:
    """Refuse a missing table of alignments."""
    if path is not None and not path.is_file():
        raise AlignmentError("no such table", where=path, remedy="make it with `emofuse align`")


def check_output(path: Path, *, folder: bool, option: str = "--out") -> None:
    """Refuse an unwritable output before the work starts."""
    if path.exists() and path.is_dir() != folder:
        raise SettingsError(
            "this is a file, and a folder is wanted" if folder else "this is a folder, and a file is wanted",
            where=f"{option} {path}",
            remedy="name another place",
        )
    there = next((place for place in (path, *path.parents) if place.exists()), Path())
    if there.is_file() and there != path:
        raise SettingsError(
            f"{there} is a file, so nothing can be written below it", where=option, remedy="name another place"
        )
    if not os.access(there, os.W_OK):
        raise SettingsError(f"{there} cannot be written to", where=option, remedy="check its permissions")
