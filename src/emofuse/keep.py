"""The models that a run keeps, each a folder that predicts by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from emofuse.checkpoint import Checkpoint, joined_checkpoint, save_checkpoint
from emofuse.encoders.words import WordPieces
from emofuse.files import plain_name
from emofuse.models import build_model
from emofuse.report.model_card import model_card
from emofuse.scoring.fuse import Joining
from emofuse.settings import ModelKind
from emofuse.training.folder import UNITS, remove_models
from emofuse.training.material import Material, joined_kinds
from emofuse.training.units import Unit

MODELS = "models"


def keep_models(
    units: Sequence[Unit], material: Material, how: Mapping[ModelKind, Joining], result: Mapping[str, Any], out: Path
) -> None:
    """Make a checkpoint folder of every final unit, and of every ensemble of them, and remove those of earlier recipes.

    Args:
        units: What was trained; those that test nothing are kept.
        material: What they were trained on.
        how: How each ensemble is joined.
        result: Content of `result.json`.
        out: The run folder.
    """
    final = [unit for unit in units if not unit.fold.test]
    kept = {unit.kind: _final_checkpoint(unit, material, result["protocol"]["fingerprint"], out) for unit in final}
    for kind in joined_kinds(material.recipe):
        kept[kind] = joined_checkpoint(kind, kept, how[kind])
    for kind, checkpoint in kept.items():
        if kind in material.recipe.models:
            about = replace(
                checkpoint,
                alignment=(result["alignment"] or {}).get("sources"),
                text_languages=tuple(result["languages"]),
            )
            save_checkpoint(about, out / MODELS / kind, card=model_card(kind, result))
    remove_models(out / MODELS, but=material.recipe.models)


def _final_checkpoint(unit: Unit, material: Material, fingerprint: str, out: Path) -> Checkpoint:
    from safetensors.torch import load_file

    folder = out / UNITS / unit.folder
    pieces = WordPieces.load(folder / "words.json") if (folder / "words.json").exists() else None
    speech, text = material.shapes(unit.kind, pieces)
    model = build_model(unit.kind, material.recipe.model, classes=len(material.classes), speech=speech, text=text)
    with plain_name(folder / "model.safetensors") as place:
        model.load_state_dict(load_file(place))
    encoders = {}
    if speech is not None:
        encoders["speech"] = next(iter(material.speech.values())).specification
    if text is not None and material.text:
        encoders["text"] = next(iter(material.text.values())).specification
    return Checkpoint(
        kind=unit.kind,
        model=model.eval(),
        classes=material.classes,
        recipe=material.recipe,
        encoders=encoders,
        pieces=pieces,
        protocol=fingerprint,
    )
