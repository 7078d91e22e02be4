"""The model card of a student, with the header that the Hub and emofuse read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel

from emofuse.escape import code_block, markdown
from emofuse.files import write_text
from emofuse.scoring.result import versions

_PLAIN = r"[A-Za-z][\w .-]*"


def write_card(
    folder: Path,
    *,
    title: str,
    licence: str,
    exposure: Sequence[str],
    facts: Mapping[str, str],
    settings: BaseModel,
    command: str,
) -> None:
    """Write README.md beside a student's weights.

    Args:
        folder: Of the student.
        title: First line.
        licence: Of the weights, which follows from their data's.
        exposure: What the weights have seen, with licences; `NAME (licence)` is split for the header.
        facts: Paragraphs by heading.
        settings: What it was made with.
        command: What makes it again.
    """
    names = [name.partition(" (")[0] for name in exposure]
    lines = ["---", f"license: {licence.lower().replace(' ', '-')}", "datasets:"]
    # JSON is YAML, so that no name of a corpus becomes another entry.
    lines += [f"- {name if re.fullmatch(_PLAIN, name) else json.dumps(name)}" for name in names]
    lines += ["library_name: transformers", "---", "", f"# {markdown(title)}", ""]
    for heading, text in facts.items():
        lines += [f"## {heading}", "", text, ""]
    lines += [
        "## Data",
        "",
        *(f"- {markdown(name)}" for name in exposure),
        "",
        f"Licence of these weights: {licence}.",
        "",
    ]
    lines += ["## Settings", "", ", ".join(f"{name} {value}" for name, value in settings.model_dump().items()), ""]
    known = ", ".join(f"{name} {value}" for name, value in versions().items() if name != "platform")
    lines += ["## Again", "", *code_block(command, "bash"), "", f"Versions: {known}.", ""]
    write_text(folder / "README.md", "\n".join(lines))
