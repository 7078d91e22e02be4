"""The commands `emofuse distill speech` and `emofuse distill text`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emofuse.cli.options import Device, LogOption, check_corpus, check_device_name, check_output
from emofuse.errors import SettingsError

app = typer.Typer(no_args_is_help=True, help="Distil a small encoder from a large one.")

Out = Annotated[Path, typer.Option(help="Folder to work in; an interrupted run resumes there.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting: steps=100.")]
Licence = Annotated[str, typer.Option(help="Licence of the weights, as the data requires.")]


@app.command()
def speech(
    recordings: Annotated[
        list[str], typer.Argument(metavar="NAME=FOLDER...", help="Folders of recordings, by the corpus's name.")
    ],
    teacher: Annotated[str, typer.Option(help="Any speech encoder: a Hub id or a folder.")],
    out: Out,
    start: Annotated[Path | None, typer.Option(help="Folder of an earlier distillation to start from.")] = None,
    licence: Licence = "unknown",
    settings: Set = None,
    device: Device = "cpu",
    log: LogOption = None,
) -> None:
    """Distil a speech encoder from recordings; labels and transcripts are not read."""
    from emofuse.distill.settings import SpeechStudentSettings
    from emofuse.settings import settings_from

    folders: dict[str, Path] = {}
    for one in recordings:
        name, equals, folder = one.partition("=")
        if not equals or not name or not folder:
            raise SettingsError(f"{one!r} is not NAME=FOLDER", remedy='write, say, "nEMO (CC BY-NC-SA 4.0)=data/nemo"')
        folders[name] = Path(folder)
        if not Path(folder).is_dir():
            raise SettingsError("there is no such folder", where=folder, remedy="check the path")
    chosen = settings_from(SpeechStudentSettings, settings or [])
    check_output(out, folder=True)
    check_device_name(device)
    from emofuse.cli.console import Bars, finish, say, typed_command
    from emofuse.distill.speech import distill_speech

    with Bars() as bars:
        made = distill_speech(
            folders,
            teacher,
            out,
            settings=chosen,
            licence=licence,
            command=typed_command(),
            start=start,
            device=device,
            log=log,
            progress=bars,
        )
    last = ", ".join(f"{name} {value:.3f}" for name, value in made.history[-1].items() if name != "epoch")
    say(f"{made.folder}: {made.seconds / 3600:.1f} h of audio, {last}")
    finish({str(error.where): error.advice for error in made.skipped})


@app.command()
def text(
    root: Annotated[Path, typer.Option(help="Folder of GoEmotions.")],
    teacher: Annotated[str, typer.Option(help="A BERT: a Hub id or a folder.")],
    out: Out,
    licence: Licence = "unknown",
    partial: Annotated[bool, typer.Option("--partial", help="Accept an incomplete corpus.")] = False,
    settings: Set = None,
    device: Device = "cpu",
    log: LogOption = None,
) -> None:
    """Distil a text encoder on GoEmotions; its test split is not read."""
    from emofuse.distill.settings import TextStudentSettings
    from emofuse.settings import settings_from

    chosen = settings_from(TextStudentSettings, settings or [])
    check_corpus("goemotions", root)
    check_output(out, folder=True)
    check_device_name(device)
    from emofuse.cli.console import Bars, say, typed_command
    from emofuse.distill.text import distill_text

    with Bars() as bars:
        made = distill_text(
            root,
            teacher,
            out,
            settings=chosen,
            partial=partial,
            licence=licence,
            command=typed_command(),
            device=device,
            log=log,
            progress=bars,
        )
    for entry in made.history:
        say(
            f"{entry['part']}, epoch {entry['epoch']}: loss {entry['loss']:.3f}, "
            f"dev macro-F1 {entry['validation_macro_f1']:.3f}"
        )
    say(f"{made.folder}   tuned teacher: {made.teacher}")
