"""The command `emofuse adapt`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emofuse.cli.options import (
    Column,
    Device,
    Jobs,
    Seeds,
    Set,
    check_corpus,
    check_device_name,
    check_output,
    reading_of,
    recipe_of,
)


def adapt(
    table: Annotated[Path, typer.Option(help="Table of your recordings: audio, label, and speaker where known.")],
    out: Annotated[Path, typer.Option(help="Folder for the model; finished work is skipped.")],
    column: Column = None,
    seeds: Seeds = None,
    settings: Set = None,
    jobs: Jobs = None,
    device: Device = "cpu",
) -> None:
    """Train a model of your own recordings, and compare the built-in model on them."""
    chosen = recipe_of("adapt", settings, None, None, seeds, command="run")
    check_corpus("table", table, option="--table")
    check_device_name(device)
    check_output(out, folder=True)
    from emofuse.adaptation import BUILTIN, OWN
    from emofuse.adaptation import adapt as adapt_model
    from emofuse.cli.console import Bars, finish, say, show_comparisons, show_results, typed_command, warn

    with Bars() as bars:
        found = adapt_model(
            chosen,
            table,
            out,
            columns=reading_of(False, column, None)["columns"],
            jobs=jobs,
            device=device,
            command=typed_command(),
            progress=bars,
        )
    show_results({OWN: found.own})
    if found.builtin is None:
        say("The built-in model knows none of these labels.")
    else:
        show_results({BUILTIN: found.builtin})
        known, given = found.builtin.utterances, found.own.utterances
        if known < given:
            say(f"The built-in model knows the labels of {known} of {given} recordings.")
        say("Its figure means nothing on recordings of its own training; `emofuse info` names them.")
    if found.comparison is not None:
        show_comparisons([found.comparison])
    for note in found.outcome.result.notes:
        warn(f"Note: {note}")
    say(f"report: {out / 'report.html'}   model: {out}")
    finish(found.outcome.skipped)
