"""The card of a trained model, without loading the model."""

from __future__ import annotations

from pathlib import Path

from emofuse.errors import CheckpointError
from emofuse.inputs import refuse_address

BUILTIN = Path(__file__).parent.parent / "builtin" / "model"
"""The built-in model: angry, happy, neutral and sad, from speech, English text, or both."""

_LONGEST = 1 << 20


def read_card(folder: Path | str | None = None) -> str:
    """The card of a model in Markdown: its data, measured accuracy, limits and licences.

    Args:
        folder: Folder of a trained model; None for the built-in model.

    Raises:
        CheckpointError: The folder holds no card.

    Example:
        >>> "Limits" in read_card()
        True
    """
    if folder is not None:
        refuse_address(folder)
    place = (BUILTIN if folder is None else Path(folder)) / "README.md"
    try:
        if place.is_symlink() or place.stat().st_size > _LONGEST:
            raise OSError
        return place.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        raise CheckpointError(
            "there is no model card here", where=place.parent, remedy="name a folder that emofuse has trained"
        ) from error
