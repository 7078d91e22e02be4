"""The command line: commands that call the same public functions as a program would."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.exceptions import TyperException

from emofuse import __version__
from emofuse.cli import adapt as cli_adapt
from emofuse.cli import align as cli_align
from emofuse.cli import distill as cli_distill
from emofuse.cli import finetune as cli_finetune
from emofuse.cli import predict as cli_predict
from emofuse.cli import scores as cli_scores
from emofuse.cli import transcribe as cli_transcribe
from emofuse.cli.options import (
    Alignments,
    Column,
    Corpus,
    Device,
    Jobs,
    Json,
    LogOption,
    Option,
    Partial,
    RecipeName,
    Root,
    Seeds,
    Set,
    SpeechEncoder,
    TextEncoder,
    check_alignments,
    check_corpus,
    check_device_name,
    check_manifest,
    check_output,
    reading_of,
    recipe_of,
)
from emofuse.errors import EmofuseError, ManifestError
from emofuse.inference.card import measured
from emofuse.terminal import harmless, let_go, make_ready

if TYPE_CHECKING:
    from emofuse.recipe import Recipe
    from emofuse.scoring.record import Result

# Everything heavy is imported inside the commands, so that --help answers at once.

app = typer.Typer(
    name="emofuse",
    help="Emotion from speech and text: multi-level fusion of wav2vec 2.0 and BERT, honestly evaluated.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.command()(cli_align.align)
app.command()(cli_transcribe.transcribe)
app.add_typer(cli_distill.app, name="distill")


MISUSED = 2
SHOWN = 4
STOPPED = 130
RESUMED = ("run", "adapt", "align", "transcribe", "extract", "train", "finetune", "distill", "demo")
"""Commands that resume where they were stopped."""


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def run(
    recipe: RecipeName,
    corpus: Corpus,
    root: Root,
    out: Annotated[Path, typer.Option(help="Run folder; finished work is skipped.")],
    store: Annotated[Path | None, typer.Option(help="Feature store to share between runs.")] = None,
    speech_encoder: SpeechEncoder = None,
    text_encoder: TextEncoder = None,
    seeds: Seeds = None,
    settings: Set = None,
    alignments: Alignments = None,
    aligner: Annotated[
        str | None, typer.Option(help="auto, sphinx, ctc, shipped, or path/to/file.py:Class; overrides the recipe.")
    ] = None,
    jobs: Jobs = None,
    device: Device = "cpu",
    log: LogOption = None,
    partial: Partial = False,
    column: Column = None,
    option: Option = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only print the plan and its cost.")] = False,
) -> None:
    """Run the whole chain: manifest, alignment, features, folds x seeds, scores, report, kept models."""
    chosen = recipe_of(recipe, settings, speech_encoder, text_encoder, seeds, command="run", aligner=aligner)
    check_corpus(corpus, root)
    check_device_name(device)
    check_alignments(alignments)
    if plan:
        _show_plan(
            chosen,
            corpus,
            root,
            **reading_of(partial, column, option),
            jobs=jobs,
            device=device,
            out=out,
            store=store,
        )
        return
    check_output(out, folder=True)
    from emofuse.align.table import read_alignments
    from emofuse.cli.console import Bars, finish, typed_command
    from emofuse.experiment import run as run_recipe

    with Bars() as bars:
        outcome = run_recipe(
            chosen,
            corpus,
            root,
            out,
            store=store,
            alignments=read_alignments(alignments) if alignments else None,
            jobs=jobs,
            device=device,
            log=log,
            **reading_of(partial, column, option),
            command=typed_command(),
            progress=bars,
        )
    _show_outcome(outcome.result, outcome.out)
    finish(outcome.skipped)


def _show_plan(
    chosen: Recipe,
    corpus: str,
    root: Path,
    *,
    jobs: int | None,
    device: str,
    out: Path,
    store: Path | None,
    **reading: Any,
) -> None:
    from emofuse.cli.console import Bars, show_cost
    from emofuse.corpora import read_corpus
    from emofuse.cost import estimate
    from emofuse.plan import resolve
    from emofuse.workers import process_count

    with Bars() as bars:
        manifest = read_corpus(corpus, root, progress=bars, **reading).manifest
        jobs = process_count(jobs, device=device)
        found = estimate(manifest, resolve(chosen), jobs=jobs, device=device, out=out, store=store)
    show_cost(found)


@app.command()
def prepare(
    corpus: Corpus,
    root: Root,
    out: Annotated[Path, typer.Option(help="Manifest to write (.parquet).")],
    partial: Partial = False,
    column: Column = None,
    option: Option = None,
) -> None:
    """Read a corpus into a manifest."""
    check_corpus(corpus, root)
    check_output(out, folder=False)
    from emofuse.cli.console import Bars, finish, say, warn
    from emofuse.experiment import prepare as prepare_manifest

    with Bars() as bars:
        found = prepare_manifest(
            corpus,
            root,
            out,
            **reading_of(partial, column, option),
            progress=bars,
        )
    manifest = found.manifest
    hours = float(manifest["duration"].fillna(0).sum()) / 3600
    say(
        f"{out}: {len(manifest)} utterances, {manifest['speaker'].nunique()} speakers, {hours:.2f} h, labels "
        f"{', '.join(f'{name} {count}' for name, count in manifest['label'].value_counts().items())}"
    )
    for note in found.notes:
        warn(f"Note: {note}")
    finish({str(error.where): error.advice for error in found.skipped})


@app.command()
def extract(
    recipe: RecipeName,
    manifest: Annotated[Path, typer.Option(help="Manifest, from `emofuse prepare`.")],
    store: Annotated[Path, typer.Option(help="Feature store to fill; existing features are kept.")],
    speech_encoder: SpeechEncoder = None,
    text_encoder: TextEncoder = None,
    settings: Set = None,
    alignments: Alignments = None,
    device: Device = "cpu",
) -> None:
    """Compute the features that a recipe reads."""
    chosen = recipe_of(recipe, settings, speech_encoder, text_encoder, None, command="extract")
    check_manifest(manifest)
    check_output(store, folder=True, option="--store")
    check_alignments(alignments)
    check_device_name(device)
    from emofuse.align.table import read_alignments
    from emofuse.cli.console import Bars, finish, say, warn
    from emofuse.experiment import extract as extract_features
    from emofuse.manifest import read_manifest
    from emofuse.plan import resolve

    with Bars() as bars:
        features = extract_features(
            read_manifest(manifest),
            resolve(chosen),
            store,
            alignments=read_alignments(alignments) if alignments else None,
            device=device,
            progress=bars,
        )
    for modality, found in (("speech", features.speech), ("text", features.text)):
        if found is not None:
            say(
                f"{modality}: {found.computed} computed now, {len(found.keys)} utterances have features, "
                f"{100 * found.padding:.1f} % of the batches was padding"
            )
    for note in features.notes:
        warn(f"Note: {note}.")
    finish({name: error.advice for name, error in features.failed.items()})


@app.command()
def train(
    recipe: RecipeName,
    manifest: Annotated[Path, typer.Option(help="Manifest, from `emofuse prepare`.")],
    store: Annotated[Path, typer.Option(help="Feature store; missing features are computed first.")],
    out: Annotated[Path, typer.Option(help="Run folder; finished trials are skipped.")],
    speech_encoder: SpeechEncoder = None,
    text_encoder: TextEncoder = None,
    seeds: Seeds = None,
    settings: Set = None,
    alignments: Alignments = None,
    jobs: Jobs = None,
    device: Device = "cpu",
    log: LogOption = None,
) -> None:
    """Cross-validate a recipe's models and keep one of each, from all speakers."""
    chosen = recipe_of(recipe, settings, speech_encoder, text_encoder, seeds, command="train")
    check_manifest(manifest)
    check_output(store, folder=True, option="--store")
    check_output(out, folder=True)
    check_alignments(alignments)
    check_device_name(device)
    from emofuse.align.table import read_alignments
    from emofuse.cli.console import Bars, finish, typed_command
    from emofuse.experiment import check_plan
    from emofuse.experiment import extract as extract_features
    from emofuse.experiment import train as train_models
    from emofuse.locks import alone_in
    from emofuse.manifest import read_manifest, write_manifest
    from emofuse.plan import resolve
    from emofuse.training.folder import MANIFEST, check_frozen
    from emofuse.training.folder import check_corpus as check_corpus_of

    planned = resolve(chosen)
    table = read_manifest(manifest)
    with Bars() as bars, alone_in(out):
        check_frozen(out)
        check_corpus_of(out, table)
        check_plan(table, planned)
        write_manifest(table, out / MANIFEST)
        found = read_alignments(alignments) if alignments else None
        features = extract_features(table, planned, store, alignments=found, device=device, progress=bars)
        outcome = train_models(
            table, planned, features, out, jobs=jobs, device=device, log=log, command=typed_command(), progress=bars
        )
    _show_outcome(outcome.result, None)
    finish(outcome.skipped)


for command in (cli_adapt.adapt, cli_finetune.finetune, *cli_scores.COMMANDS, cli_predict.info):
    app.command()(command)
app.command(epilog=f"The built-in model reached, {measured()}.")(cli_predict.predict)


@app.command()
def join(
    speech_run: Annotated[Path, typer.Argument(help="Run folder with a speech model.")],
    text_run: Annotated[Path, typer.Argument(help="Run folder with a text model of the same classes.")],
    out: Annotated[Path, typer.Option(help="Folder for the fused model.")],
    hub: Annotated[
        str | None,
        typer.Option(help="ID@COMMIT that the speech encoder is fetched from for prediction (default: it is copied)."),
    ] = None,
) -> None:
    """Combine a speech and a text model of two corpora in late fusion, calibrated on held-out predictions."""
    check_output(out, folder=True)
    from emofuse.cli.console import say
    from emofuse.combine import combine_models

    combine_models(speech_run, text_run, out, hub=hub)
    say(f"{out}: late fusion; the model card {out / 'README.md'} has figures")


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="Run folder.")]) -> None:
    """Write the HTML report and the plots of a run."""
    if not (folder / "result.json").is_file():
        raise ManifestError("this holds no finished run", where=folder, remedy="name the folder of one")
    from emofuse.cli.console import Bars, say
    from emofuse.report import write_report

    with Bars() as bars:
        page = write_report(folder, progress=bars)
    say(str(page))


@app.command()
def corpora(as_json: Json = False) -> None:
    """List the supported corpora, with licence and source."""
    from dataclasses import asdict

    from emofuse.cli.console import show_json
    from emofuse.corpora import CORPORA

    if as_json:
        show_json({name: asdict(card) for name, card in CORPORA.items()})
        return
    from emofuse.cli.console import show_corpora

    show_corpora(CORPORA)


@app.command()
def doctor() -> None:
    """Check the installation and state what to fix."""
    from emofuse.cli.console import show_checks
    from emofuse.doctor import examine

    checks = examine()
    show_checks(checks)
    if any(check.ok is False for check in checks):
        raise typer.Exit(1)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for corpus, run and report.")] = Path("demo"),
    recordings: Annotated[
        Path | None, typer.Option(help="Folder of recordings; the built-in model predicts a few of them.")
    ] = None,
    jobs: Jobs = None,
) -> None:
    """Synthesise a small corpus, run speech, text, late and early-frame on it, report, and predict."""
    check_output(out, folder=True)
    from emofuse.audio import audio_files
    from emofuse.cli.console import Bars, finish, say, show_predictions, typed_command
    from emofuse.demo import make_demo_corpus
    from emofuse.experiment import run as run_recipe
    from emofuse.inference.predictor import load
    from emofuse.keep import MODELS
    from emofuse.manifest import read_manifest, utterances
    from emofuse.training.folder import MANIFEST
    from emofuse.types import Prediction

    with Bars() as bars:
        table = make_demo_corpus(out / "corpus", progress=bars)
        outcome = run_recipe(
            recipe_of("demo", None, None, None, None, command="run"),
            "table",
            table,
            out / "run",
            jobs=jobs,
            command=typed_command(),
            progress=bars,
        )
    _show_outcome(outcome.result, outcome.out)
    last = list(utterances(read_manifest(outcome.out / MANIFEST)))[-1]
    folder = outcome.out / MODELS / "late"
    say("")
    say(f'emofuse predict {last.audio} --text "{last.text}" --model {folder}')
    show_predictions([load(folder).predict(last.audio, text=last.text)])
    if recordings is not None:
        found = audio_files(recordings)
        # Drawn at random, since corpora list recordings in a periodic order.
        chosen = random.Random(0).sample(found, min(SHOWN, len(found)))  # noqa: S311
        say("")
        say(f"emofuse predict {' '.join(map(str, chosen))}")
        answers = load().predict_many(chosen)
        show_predictions([answer for answer in answers if isinstance(answer, Prediction)])
    finish(outcome.skipped)


def _show_outcome(result: Result, page: Path | None) -> None:
    from emofuse.cli.console import say, show_comparisons, show_results, warn
    from emofuse.report.tables import control_notes

    show_results(result.models)
    show_comparisons(result.comparisons)
    for note in control_notes(result):
        say(note)
    for note in result.notes:
        warn(f"Note: {note}")
    if page is not None:
        say(f"report: {page / 'report.html'}   models: {page / 'models'}")


def main() -> NoReturn:
    """Run the command line; errors that the user can fix end with status 2 and one sentence."""
    make_ready()
    command = sys.argv[1] if sys.argv[1:] else ""
    try:
        status = app(standalone_mode=False)
        sys.stdout.flush()
    except EmofuseError as error:
        _fail(str(error))
    except TyperException as error:
        # A missing or misspelt option; typer's own display of it takes six lines. Without a command it showed the help.
        sentence = error.format_message().strip().rstrip(".")
        if not sentence:
            raise SystemExit(MISUSED) from None
        known = {command.callback.__name__ for command in app.registered_commands if command.callback} | {"distill"}
        _fail(f"{sentence}; `emofuse {command + ' ' if command in known else ''}--help` lists what there is.")
    except BrokenPipeError:
        # The reader has closed the pipe, as `head` does.
        let_go()
        raise SystemExit(MISUSED) from None
    except OSError as error:
        place = os.fsdecode(error.filename) if error.filename else "what is printed, or a file"
        _fail(f"{place}: {error.strerror or error}; check path, permissions and disk.")
    except (ImportError, SystemError) as error:
        # Libraries report a lack of memory in different ways.
        reason = str(error).partition("\n")[0]
        _fail(f"a library cannot be loaded ({reason}); make memory free, or install emofuse again.")
    except MemoryError:
        _fail("the memory ran out; work on less at once, or free some.")
    # typer turns an interruption into this status, silently.
    if status == STOPPED and command in RESUMED:
        typer.echo("Stopped; the same command goes on from here.", err=True)
    raise SystemExit(status)


def _fail(sentence: str) -> NoReturn:
    typer.echo(harmless(sentence), err=True)
    let_go()
    raise SystemExit(MISUSED)


if __name__ == "__main__":
    main()
