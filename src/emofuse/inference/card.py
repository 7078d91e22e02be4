"""The card of a trained model, without loading the model."""

from __future__ import annotations

import json
import os
from pathlib import Path

from emofuse.errors import CheckpointError
from emofuse.inputs import refuse_address

BUILTIN = Path(__file__).parent.parent / "builtin" / "model"
"""The built-in model: angry, happy, neutral and sad, from speech, English text, or both."""
LARGE = "large"
"""Name of the model of the same classes on Whisper-small's encoder, which is not shipped."""

_LONGEST = 1 << 20


def model_folder(folder: Path | str | None) -> Path:
    """The folder of a model: a shipped one, the folder itself, or the only model of a run folder.

    Args:
        folder: What the user named; None for the built-in model, `large` for that on Whisper-small.

    Raises:
        CheckpointError: The run folder holds several models.
    """
    if folder is None:
        return BUILTIN
    if folder == LARGE:
        return BUILTIN.with_name(LARGE)
    refuse_address(folder)
    # Unlike `Path`, this takes a name of any length.
    alone = os.path.isfile(os.path.join(folder, "settings.json")) or not os.path.isdir(folder)
    models = [] if alone else sorted(Path(folder).glob("models/*/settings.json"))
    if not models:
        return Path(folder)
    if len(models) > 1:
        names = ", ".join(str(one.parent.relative_to(folder)) for one in models)
        raise CheckpointError("this is a run of several models", where=folder, remedy=f"name one of {names}")
    return models[0].parent


def read_card(folder: Path | str | None = None) -> str:
    """The card of a model in Markdown: its data, measured accuracy, limits and licences.

    Args:
        folder: As for `load`.

    Raises:
        CheckpointError: The folder holds no card, or several models.

    Example:
        >>> "Limits" in read_card()
        True
    """
    place = model_folder(folder) / "README.md"
    try:
        # A pipe or device may have no end.
        if place.is_symlink() or not place.is_file() or place.stat().st_size > _LONGEST:
            raise OSError
        return place.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise CheckpointError(
            "there is no model card here", where=place.parent, remedy="name a folder that emofuse has trained"
        ) from error


def measured(folder: Path | str | None = None) -> str:
    """What a model was measured to reach, in a sentence, without loading it.

    Args:
        folder: As for `load`.

    Example:
        >>> "UA" in measured()
        True
    """
    values = json.loads((model_folder(folder) / "settings.json").read_text(encoding="utf-8"))
    return str(values.get("measured", ""))
