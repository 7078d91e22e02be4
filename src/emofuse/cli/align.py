"""The command `emofuse align`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emofuse.cli.options import check_device_name, check_manifest, check_one_of, check_output
from emofuse.errors import SettingsError


def align(
    manifest: Annotated[Path, typer.Argument(help="Manifest, from `emofuse prepare`.")],
    out: Annotated[Path, typer.Option(help="Table of alignments (.parquet); its alignments are kept.")],
    aligner: Annotated[
        str,
        typer.Option(
            help="sphinx (English), ctc, shipped, auto (alignments that the corpus ships, else sphinx), or "
            "path/to/file.py:Class."
        ),
    ] = "auto",
    model: Annotated[str | None, typer.Option(help="For ctc: the Hub id or folder of a CTC model.")] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="Read another aligner's TextGrids (folder) or CTM instead.")
    ] = None,
    write: Annotated[str | None, typer.Option(help="Also write files: textgrid, ctm or json.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where to write them.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Parallel processes (default: one per core).")] = None,
    device: Annotated[str, typer.Option(help="For ctc: device, cpu, cuda or mps.")] = "cpu",
) -> None:
    """Align words, syllables and phones of a corpus with its recordings."""
    check_device_name(device)
    from emofuse.align.writers import WRITERS, write_files

    if write is not None:
        check_one_of(write, WRITERS, "format", where="--write")
    if (write is None) != (folder is None):
        raise SettingsError("one is given without the other", where="--write and --folder", remedy="give both")
    check_manifest(manifest)
    check_output(out, folder=False)
    from emofuse.align.coverage import coverage
    from emofuse.align.run import align_manifest
    from emofuse.cli.console import SOME_SKIPPED, Bars, say, warn
    from emofuse.manifest import read_manifest

    table = read_manifest(manifest)
    with Bars() as bars:
        found = align_manifest(
            table,
            out,
            aligner=aligner,
            model=model,
            files=source,
            jobs=jobs,
            device=device,
            progress=bars,
        )
    if write is not None and folder is not None:
        known = table[table["duration"].notna()]
        durations = dict(zip(known["utterance"], known["duration"].astype(float), strict=True))
        files = write_files(found.values(), folder, style=write, durations=durations)
        say(f"{folder}: {len(files)} files")
    counted = coverage(found.values())
    say(f"{out}: {counted.summary()}")
    for line in [*counted.reasons(), *counted.doubts(), *counted.lacks()]:
        warn(line)
    if counted.problems:
        raise typer.Exit(SOME_SKIPPED)
