"""The command that writes down what is said: `emofuse transcribe`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emofuse.cli.options import check_device_name, check_manifest, check_output
from emofuse.errors import SettingsError


def transcribe(
    manifest: Annotated[Path, typer.Argument(help="Manifest, from `emofuse prepare`.")],
    out: Annotated[Path, typer.Option(help="Manifest to write (.parquet); the words are kept beside it too.")],
    asr: Annotated[
        str, typer.Option(help="Who writes down the words: sphinx (English), whisper, or path/to/file.py:Class.")
    ] = "sphinx",
    model: Annotated[str | None, typer.Option(help="For whisper: a name, Hub id or folder.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Parallel processes (default: one a core).")] = None,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda.")] = "cpu",
) -> None:
    """Write a manifest with the words of a recogniser in the place of its transcripts."""
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
    say(f"{out}: {words} utterances with the words of {recogniser.source}; {done.computed} recordings transcribed now")
    finish({name: error.advice for name, error in done.failed.items()}, done=words > 0)
