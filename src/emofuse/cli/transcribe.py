"""The verb that writes down what is said: `emofuse transcribe`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emofuse.cli.options import check_device_name, check_manifest, check_one_of, check_output
from emofuse.errors import SettingsError


def transcribe(
    manifest: Annotated[Path, typer.Argument(help="Manifest, from `emofuse prepare`.")],
    out: Annotated[Path, typer.Option(help="Manifest to write (.parquet); what is heard is kept beside it.")],
    asr: Annotated[str, typer.Option(help="Who writes down the words: sphinx (English) or whisper.")] = "sphinx",
    model: Annotated[str | None, typer.Option(help="For whisper: a name, Hub id or folder.")] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="For sphinx: parallel processes (default: one a core).")
    ] = None,
    device: Annotated[str, typer.Option(help="For whisper, where to compute: cpu, cuda.")] = "cpu",
) -> None:
    """Write a manifest with what a recogniser hears in the place of its transcripts."""
    if out.resolve() == manifest.resolve():
        raise SettingsError("the reference would be lost", where="--out", remedy="write another manifest")
    check_one_of(asr, ("sphinx", "whisper"), "recogniser", where="--asr")
    check_manifest(manifest)
    check_output(out, folder=False)
    check_device_name(device)
    from emofuse.asr import load_transcriber, transcribe_manifest
    from emofuse.cli.console import Bars, finish, say
    from emofuse.manifest import read_manifest

    transcriber = load_transcriber(asr, model=model, device=device)
    if transcriber is None:
        raise SettingsError("no recogniser was chosen", where="--asr", remedy="use sphinx or whisper")
    with Bars() as bars:
        done = transcribe_manifest(read_manifest(manifest), transcriber, out, jobs=jobs, progress=bars)
    own = done.manifest["text_source"].fillna("").str.startswith(transcriber.name)
    words = int(own.sum())
    say(f"{out}: the words of {words} utterances are those of {transcriber.name}; {done.computed} sounds heard now")
    finish({name: error.advice for name, error in done.failed.items()}, done=words > 0)
