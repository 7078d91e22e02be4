"""The command `emofuse finetune`, alone or under `accelerate launch -m emofuse finetune ...`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from emofuse.cli.options import (
    Column,
    Corpus,
    LogOption,
    Option,
    Partial,
    RecipeName,
    Root,
    Seeds,
    check_corpus,
    check_device_name,
    check_output,
    reading_of,
    recipe_of,
)
from emofuse.errors import EmofuseError

STOPPED_ALREADY = 2


def finetune(
    recipe: RecipeName,
    corpus: Corpus,
    root: Root,
    out: Annotated[Path, typer.Option(help="Run folder; finished work is skipped.")],
    model: Annotated[
        str, typer.Option(help="Model of the recipe on top of the encoders, such as speech or early-frame.")
    ] = "early-frame",
    fold: Annotated[
        list[str] | None,
        typer.Option(help="Fold to train, as protocol.json names it, or final for the kept model (default: all)."),
    ] = None,
    keep_folds: Annotated[bool, typer.Option("--keep-folds", help="Keep the tuned encoders of each fold too.")] = False,
    speech_encoder: Annotated[str | None, typer.Option(help="A Hub id or a folder; overrides the recipe.")] = None,
    text_encoder: Annotated[str | None, typer.Option(help="A Hub id or a folder; overrides the recipe.")] = None,
    seeds: Seeds = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, such as finetune.epochs=5."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps (default: a GPU where there is one).")] = None,
    log: LogOption = None,
    partial: Partial = False,
    column: Column = None,
    option: Option = None,
) -> None:
    """Train encoders and model together, end to end; runs on many devices under `accelerate launch`."""
    # Before torch is loaded, and by one process only.
    if os.environ.get("RANK", "0") == "0":
        recipe_of(recipe, settings, speech_encoder, text_encoder, seeds, command="finetune")
        check_corpus(corpus, root)
        check_output(out, folder=True)
        check_device_name(device or "cpu")
    from emofuse.cli.console import Bars, finish, say, show_results, typed_command
    from emofuse.corpora import read_corpus
    from emofuse.finetune.run import finetune as tune
    from emofuse.plan import resolve
    from emofuse.progress import Silent
    from emofuse.training.processes import Processes

    processes = Processes(device)
    try:
        chosen = recipe_of(recipe, settings, speech_encoder, text_encoder, seeds, command="finetune")
        with Bars() as bars:
            progress = bars if processes.main else Silent()
            found = read_corpus(
                corpus,
                root,
                **reading_of(partial, column, option),
                progress=progress,
            )
            outcome = tune(
                found.manifest,
                resolve(chosen),
                out,
                model=model,
                folds=fold or (),
                keep_folds=keep_folds,
                processes=processes,
                log=log,
                command=typed_command(),
                notes=found.notes,
                skipped=found.unread(root),
                progress=progress,
            )
    except EmofuseError:
        # All processes find the same error, which is reported once.
        if processes.main:
            raise
        raise typer.Exit(STOPPED_ALREADY) from None
    finally:
        processes.close()
    if processes.main:
        if outcome.result.models:
            show_results(outcome.result.models)
        # A single fold has no kept model, and the kept model alone no scores.
        made = {"scores": out / "scores.parquet", "models": out / "models"}
        say("   ".join(f"{what}: {place}" for what, place in made.items() if place.exists()))
        finish(outcome.skipped)
