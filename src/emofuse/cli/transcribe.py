"""The command `emofuse transcribe`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emofuse.cli.options import check_device_name, check_manifest, check_output
from emofuse.errors import SettingsError


def transcribe(
    manifest: Annotated[Path, typer.Argument(help="Manifest, from `emofuse prepare`.")],
    out: Annotated[Path, typer.Option(help="Manifest to write (.parquet), with a journal of transcripts beside it.")],
    asr: Annotated[
        str, typer.Option(help="Recogniser: sphinx (English), whisper, or path/to/file.py:Class.")
    ] = "sphinx",
    model: Annotated[str | None, typer.Option(help="For whisper: a name, Hub id or folder.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Parallel processes (default: one per core).")] = None,
    device: Annotated[str, typer.Option(help="Device: cpu, cuda.")] = "cpu",
) -> None:
    """Replace the transcripts of a manifest by those of a recogniser."""
    if out.resolve() == manifest.resolve():
        raise SettingsError("the reference would be lost", where="--out", remedy="write another manifest")
    check_manifest(manifest)
    check_output(out, folder=False)
    check_device_name(device)
    from emofuse.asr.base import load_recogniser
    from emofuse.asr.run import transcribe_manifest
    from emofuse.cli.console import Bars, finish, say
    from emofuse.manifest import read_manifest

    recogniser = load_recogniser(asr, model=model, device=device)
    if recogniser is None:
        raise SettingsError("no recogniser was chosen", where="--asr", remedy="use sphinx or whisper")
    with Bars() as bars:
        done = transcribe_manifest(read_manifest(manifest), recogniser, out, jobs=jobs, progress=bars)
    own = done.manifest["text_source"].fillna("").str.startswith(recogniser.source)
    words = int(own.sum())
    say(f"{out}: {words} utterances with transcripts by {recogniser.source}; {done.computed} transcribed now")
    finish({name: error.advice for name, error in done.failed.items()}, done=words > 0)
