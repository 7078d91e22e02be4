"""What verbs in different files share: a recipe, and how a corpus is read, from options."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from emofuse.errors import SettingsError

if TYPE_CHECKING:
    from emofuse.settings import Recipe


def recipe_of(
    name: str, overrides: list[str] | None, speech: str | None, text: str | None, seeds: str | None
) -> Recipe:
    """A recipe by name or file, with the options that override it."""
    from emofuse.settings import load_recipe

    flags = [f"speech.encoder={json.dumps(speech)}"] if speech else []
    flags += [f"text.encoder={json.dumps(text)}"] if text else []
    flags += [f"seeds=[{seeds}]"] if seeds else []
    return load_recipe(name, overrides=[*flags, *(overrides or [])])


def reading_of(partial: bool, column: list[str] | None, option: list[str] | None) -> dict[str, Any]:
    """How a corpus is read, as `read_corpus` takes it, from the options of a verb."""
    return {
        "partial": partial,
        "columns": _pairs(column, "--column", "OURS=YOURS", "label=emotion"),
        "options": _pairs(option, "--option", "NAME=VALUE", "labels=six"),
    }


def _pairs(pairs: list[str] | None, flag: str, form: str, example: str) -> Mapping[str, str] | None:
    """What an option names as often as one likes, such as `OURS=YOURS`."""
    if not pairs:
        return None
    values = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name or not value:
            raise SettingsError(f"{pair!r} is not {form}", where=flag, remedy=f"write, say, {example}")
        values[name] = value
    return values
