"""Recipes damaged as text and as values, and settings given by `--set`."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.fuzz.contract import Kind, require
from benchmarks.fuzz.damage import WORDS, spoiled_text, spoiled_value

from emofuse.plan import resolve
from emofuse.recipe import Recipe, load_recipe, recipe_from, recipe_names
from emofuse.settings import fingerprint


def _texts() -> list[str]:
    folder = resources.files("emofuse") / "recipes"
    return [(folder / f"{name}.toml").read_text(encoding="utf-8") for name in recipe_names()]


def _paths(values: dict[str, Any], before: str = "") -> list[str]:
    found = []
    for name, value in values.items():
        found += _paths(value, f"{before}{name}.") if isinstance(value, dict) else [f"{before}{name}"]
    return found


class Recipes(Kind):
    """Recipes as files, as stored JSON, and with overrides."""

    name = "recipes"

    def make(self, chance: Random, seeds: Path, case: Path) -> dict[str, Any]:
        """A recipe that ships, or all settings of one, and damage."""
        overrides = []
        whole = load_recipe(chance.choice(recipe_names())).model_dump(mode="json")
        if chance.random() < 0.6:
            text = chance.choice(_texts())
            content = spoiled_text(text, chance) if chance.random() < 0.8 else text.encode()
            (case / "mine.toml").write_bytes(content)
            for _ in range(chance.choice((0, 0, 1, 2))):
                key = chance.choice(_paths(whole))
                key = chance.choice((key, key, key[:-1], key + ".x", key.partition(".")[0], key.replace(".", "..")))
                overrides.append(chance.choice((f"{key}={chance.choice(WORDS)}", key, f"={key}", f"{key}=3")))
        else:
            (case / "stored.json").write_text(json.dumps(spoiled_value(whole, chance, most=3)), encoding="utf-8")
        return {"overrides": overrides}

    def ask(self, place: Path, parameters: dict[str, Any]) -> None:
        """Load it; what loads must be the same when it is stored and loaded again."""
        (path,) = place.iterdir()
        if path.suffix == ".toml":
            recipe = load_recipe(str(path), overrides=parameters["overrides"])
        else:
            recipe = recipe_from(json.loads(path.read_text(encoding="utf-8")), source=str(path))
        require(isinstance(recipe, Recipe), "no recipe came")
        stored = json.loads(recipe.model_dump_json())
        require(recipe_from(stored, source="again") == recipe, "the recipe changes when it is stored")
        require(len(fingerprint(recipe)) > 8, "no fingerprint")
        resolve(recipe)
