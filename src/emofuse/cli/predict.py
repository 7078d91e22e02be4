"""The command `emofuse predict`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emofuse.cli.options import check_device_name, check_model, check_one_of
from emofuse.errors import AlignmentError, SettingsError
from emofuse.inference.writers import WRITERS
from emofuse.inputs import check_confidence, check_text, read_transcript, refuse_address

if TYPE_CHECKING:
    from emofuse.inference.predictor import Predictor

STYLES = ("table", *WRITERS)


def predict(
    files: Annotated[
        list[str] | None, typer.Argument(help="Recordings; none where a text model predicts from --text.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Folder of a trained model, such as RUN/models/late, or `large`, on Whisper-small's encoder, which is "
            "fetched once (default: the built-in one)."
        ),
    ] = None,
    speech_encoder: Annotated[
        str | None, typer.Option(help="Folder of the model's speech encoder, where it cannot be fetched.")
    ] = None,
    text: Annotated[list[str] | None, typer.Option(help="Transcript: one for all files, or one for each.")] = None,
    transcript: Annotated[
        list[Path] | None,
        typer.Option(help="Text file with the transcript; or a folder with a .txt of each recording's name."),
    ] = None,
    alignments: Annotated[
        Path | None,
        typer.Option(
            help="For models that read words, syllables or phones: table of `emofuse align`, CTM, or folder of "
            "TextGrids, by the names of the recordings (default: the aligner of training)."
        ),
    ] = None,
    asr: Annotated[
        str | None,
        typer.Option(
            help="Recogniser for recordings without a transcript: whisper, sphinx, path/to/file.py:Class, none "
            "(default: whisper if available)."
        ),
    ] = None,
    asr_model: Annotated[str | None, typer.Option(help="For whisper: a name, Hub id or folder.")] = None,
    min_confidence: Annotated[
        float, typer.Option(help="Posterior below which the label is `uncertain`; 0 for always a label.")
    ] = 0.0,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            help="Clips of the same speaker or recording, five or more, without labels, whose mean is taken away: "
            "files or folders, `batch` for the files themselves, or `recording` for those of each file's folder."
        ),
    ] = None,
    style: Annotated[str, typer.Option("--format", help="table, json or csv.")] = "table",
    device: Annotated[str, typer.Option(help="Device: cpu, cuda, mps.")] = "cpu",
    trust: Annotated[
        bool, typer.Option("--trust", help="Load classes from outside emofuse, which runs their code.")
    ] = False,
) -> None:
    """Predict the emotion of recordings, and print each at once."""
    from emofuse.cli.console import STOPPED, Bars, answer_writer, finish, show_skipped, warn
    from emofuse.types import Prediction

    check_one_of(style, STYLES, "format", where="--format")
    check_device_name(device)
    check_confidence(min_confidence)
    sources = list(files or ())
    for name in sources:
        refuse_address(name)
    texts = _texts(sources, text, transcript)
    if model is not None:
        check_model(model)
    if alignments is not None and not alignments.exists():
        raise AlignmentError("no such file or folder", where=alignments, remedy="make it with `emofuse align`")
    absent = [name for name in sources if _is_absent(name)]
    if absent and len(absent) == len(sources):
        finish(dict.fromkeys(absent, "no such file; check the path"), done=False)
    from emofuse.align.again import GivenAlignments
    from emofuse.inference.predictor import load

    found = None if alignments is None else list(map(GivenAlignments(alignments).of, sources))
    predictor = load(
        model,
        asr=asr,
        asr_model=asr_model,
        speech_encoder=speech_encoder,
        min_confidence=min_confidence,
        device=device,
        trust=trust,
    )
    parts = _parts(sources, reference or [])
    skipped: dict[str, str] = {}
    done = seen = 0
    writer = answer_writer(style, classes=predictor.classes, sources=sources)
    try:
        # On a terminal the lines themselves show the progress.
        with Bars(hidden=sys.stdout.isatty()) as bars:
            for clips, first, last in parts:
                _adapt(predictor, clips, alone=len(parts) == 1)
                answers = predictor.predict_many(
                    sources[first:last] or [None],
                    texts=texts if texts is None or len(texts) == 1 else texts[first:last],
                    alignments=None if found is None else found[first:last],
                    progress=bars,
                )
                for answer in answers:
                    if isinstance(answer, Prediction):
                        writer.add(answer)
                        done += 1
                    else:
                        name = sources[seen] if sources else f"text {seen + 1}"
                        # The error may be in another file, which is named too.
                        of_it = answer.where in (None, name, str(Path(name)), repr(str(Path(name))))
                        skipped[name] = answer.advice if of_it else str(answer).rstrip(".")
                    seen += 1
    except KeyboardInterrupt:
        writer.close()
        show_skipped(skipped)
        warn(f"Stopped after {seen} of {max(len(sources), len(texts or ()))} files; their answers are above.")
        raise typer.Exit(STOPPED) from None
    writer.close()
    finish(skipped, done=done > 0)


def info(
    model: Annotated[
        str | None, typer.Argument(help="Folder of a trained model, or `large` (default: the built-in one).")
    ] = None,
) -> None:
    """Print a model's card: its data, measured accuracy, limits and licences."""
    from emofuse.cli.console import say
    from emofuse.inference.card import read_card

    for line in read_card(model).splitlines():
        say(line)


def _parts(sources: Sequence[str], reference: Sequence[str]) -> list[tuple[list[str], int, int | None]]:
    """Files that share a reference: its clips, the first file and the one after the last, None for all."""
    from emofuse.audio import audio_files

    if list(reference) == ["recording"]:
        folders = [Path(name).parent for name in sources]
        clips = {folder: [name for name in sources if Path(name).parent == folder] for folder in folders}
        edges = [place for place, folder in enumerate(folders) if not place or folder != folders[place - 1]]
        return [(clips[folders[first]], first, last) for first, last in pairwise([*edges, len(sources)])]
    if list(reference) == ["batch"]:
        return [(list(sources), 0, None)]
    given: list[str] = []
    for name in reference:
        refuse_address(name)
        given += map(str, audio_files(name)) if os.path.isdir(name) else [name]
    return [(given, 0, None)]


def _adapt(predictor: Predictor, clips: list[str], *, alone: bool) -> None:
    """Take a reference; where several recordings have their own, one without enough clips is predicted without."""
    from emofuse.cli.console import show_skipped, warn

    predictor.reference = None
    if not clips:
        return
    try:
        found = predictor.adapt(clips)
    except SettingsError as error:
        if alone:
            raise
        warn(f"{Path(clips[0]).parent} has no reference: {error.what}.")
        return
    show_skipped({str(error.where): error.advice for error in found.skipped})


def _is_absent(name: str) -> bool:
    try:
        os.lstat(name)
    except OSError as error:
        return isinstance(error, (FileNotFoundError, NotADirectoryError))
    return False


def _texts(files: Sequence[str], given: list[str] | None, transcripts: list[Path] | None) -> list[str | None] | None:
    """The transcript of each file, from options; None without."""
    if given and transcripts:
        raise SettingsError("both are given", where="--text and --transcript", remedy="leave out one")
    if given:
        for words in given:
            check_text(words)
        _check_count(len(given), files)
        return list(given)
    if not transcripts:
        if not files:
            raise SettingsError("neither a recording nor a text is given", remedy="name a file, or give --text")
        return None
    if len(transcripts) == 1 and transcripts[0].is_dir():
        places = [transcripts[0] / f"{Path(name).stem}.txt" for name in files]
        if not any(place.is_file() for place in places):
            raise SettingsError(
                "the folder has no .txt of a recording's name", where=transcripts[0], remedy="name them alike"
            )
        return [read_transcript(place) if place.is_file() else None for place in places]
    if len(transcripts) == 1 and len(files) > 1:
        raise SettingsError(
            f"one transcript is given for {len(files)} recordings",
            where="--transcript",
            remedy="name a folder with a .txt of each recording's name, or one file for each",
        )
    _check_count(len(transcripts), files)
    return [read_transcript(path) for path in transcripts]


def _check_count(texts: int, files: Sequence[str]) -> None:
    if files and texts not in (1, len(files)):
        raise SettingsError(
            f"{texts} texts were given for {len(files)} files", remedy="give one text, or one for each file"
        )
