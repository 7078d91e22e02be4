"""What a kind of input says about itself, and what may come of a case."""

from __future__ import annotations

import json
import math
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import Any

from emofuse.errors import EmofuseError

PARAMETERS = "case.json"
"""What a case asks for beside its files: a flat JSON object."""


class Wrong(Exception):  # noqa: N818
    """An answer or an error that is not as it should be."""


class Kind(ABC):
    """One kind of input.

    A case is a folder of the files that are new in it. Where its parameter `whole` names a folder of the seeds, it is
    laid over a copy of that before the question is asked, without the files that `removed` lists.
    """

    name: str

    def preparations(self, seeds: Path) -> list[Callable[[], Any]]:
        """What writes the files that cases are made from; each is called in a process of its own and may fail."""
        return []

    @abstractmethod
    def make(self, chance: Random, seeds: Path, case: Path) -> dict[str, Any]:
        """Write the files of one case; return its parameters."""

    @abstractmethod
    def ask(self, place: Path, parameters: dict[str, Any]) -> None:
        """Do with the files what a user would; raises an EmofuseError, or `Wrong` for an answer that is none."""

    def write(self, chance: Random, seeds: Path, case: Path) -> None:
        """One case with its parameters."""
        case.mkdir(parents=True)
        (case / PARAMETERS).write_text(json.dumps(self.make(chance, seeds, case)), encoding="utf-8")

    def answer(self, seeds: Path, case: Path, scratch: Path) -> str:
        """Lay out a case and ask: `answer` or `refused`."""
        parameters = json.loads((case / PARAMETERS).read_text(encoding="utf-8"))
        if scratch.exists():
            shutil.rmtree(scratch)
        if "whole" in parameters:
            shutil.copytree(seeds / parameters["whole"], scratch, copy_function=_link)
        for path in files_of(case):
            target = scratch / path.relative_to(case)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            shutil.copyfile(path, target)
        for name in parameters.get("removed", ()):
            (scratch / name).unlink(missing_ok=True)
        try:
            self.ask(scratch, parameters)
        except EmofuseError as error:
            check_error(error)
            return "refused"
        return "answer"


def files_of(case: Path) -> list[Path]:
    """Files of a case without its parameters."""
    return sorted(path for path in case.rglob("*") if path.is_file() and path.name not in (PARAMETERS, "why.txt"))


def _link(source: str, target: str) -> None:
    # Seeds are replaced in a case, never written into.
    Path(target).hardlink_to(source)


def check_error(error: EmofuseError) -> None:
    """One sentence that says what was wrong and what to do."""
    message = str(error)
    # Other control characters are escaped where they are shown.
    if "\n" in message or "\r" in message:
        raise Wrong(f"the message has several lines: {message!r}")
    if len(error.what) < 6 or len(error.remedy) < 4 or not message.endswith("."):
        raise Wrong(f"the message is no sentence with a remedy: {message!r}")
    if len(message) > 2000:
        raise Wrong(f"the message has {len(message)} characters: {message[:200]!r}")


def check_errors(errors: Iterable[EmofuseError]) -> None:
    """The same of all that were left out."""
    for error in errors:
        check_error(error)


def require(condition: bool, what: str) -> None:
    """Raise `Wrong` with `what` unless the condition holds."""
    if not condition:
        raise Wrong(what)


def check_posteriors(posteriors: dict[str, float]) -> None:
    """Finite numbers from 0 to 1 that sum to 1."""
    values = list(posteriors.values())
    require(all(isinstance(one, float) and math.isfinite(one) and 0 <= one <= 1 for one in values), f"{posteriors}")
    require(abs(sum(values) - 1) < 1e-4, f"{posteriors} sum to {sum(values)}")
