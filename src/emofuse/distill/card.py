"""The model card of a student, with the header that the Hub and emofuse read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel

from emofuse.files import write_text
from emofuse.scoring.result import versions


def write_card(
    folder: Path,
    *,
    title: str,
    licence: str,
    heard: Sequence[str],
    facts: Mapping[str, str],
    settings: BaseModel,
    command: str,
) -> None:
    """Write README.md beside a student's weights.

    Args:
        folder: Of the student.
        title: First line.
        licence: Of the weights, which follows from their data's.
        heard: What the weights have seen, with licences; `NAME (licence)` is split for the header.
        facts: Paragraphs by heading.
        settings: What it was made with.
        command: What makes it again.
    """
    lines = ["---", f"license: {licence.lower().replace(' ', '-')}", "datasets:"]
    lines += [f"- {name.partition(' (')[0]}" for name in heard]
    lines += ["library_name: transformers", "---", "", f"# {title}", ""]
    for heading, text in facts.items():
        lines += [f"## {heading}", "", text, ""]
    lines += ["## Data", "", *(f"- {name}" for name in heard), "", f"Licence of these weights: {licence}.", ""]
    lines += ["## Settings", "", ", ".join(f"{name} {value}" for name, value in settings.model_dump().items()), ""]
    known = ", ".join(f"{name} {value}" for name, value in versions().items() if name != "platform")
    lines += ["## Again", "", "```bash", command, "```", "", f"Versions: {known}.", ""]
    write_text(folder / "README.md", "\n".join(lines))
