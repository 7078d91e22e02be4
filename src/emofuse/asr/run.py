"""Transcribe a manifest with a recogniser, in parallel; an interrupted run resumes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import pandas as pd

from emofuse.align.base import knows
from emofuse.asr.base import Recogniser, load_again
from emofuse.asr.checks import is_steady
from emofuse.audio import content_key, read_audio
from emofuse.audio.notes import count_notes
from emofuse.errors import AudioError, EmofuseError, ManifestError, SettingsError
from emofuse.files import appended
from emofuse.locks import alone
from emofuse.manifest import check_place, utterances, write_manifest
from emofuse.progress import Progress, Silent, track
from emofuse.types import Utterance
from emofuse.workers import in_processes, process_count

LABEL = "Transcribing"
IN_SILENCE = "words were recognised in silence or steady noise"
NO_WORDS = "no words were recognised"

_Done = tuple[Utterance, str | AudioError, tuple[str, ...]]
"""An utterance, its transcript or an error, and notes."""


@dataclass(frozen=True, kw_only=True)
class Transcribed:
    """A transcribed manifest.

    Attributes:
        manifest: With recognised transcripts in `text` and the recogniser in `text_source`, which also states where
            words were recognised in silence; the rest is unchanged.
        failed: Utterances whose recording or language the recogniser cannot use, and why; they have no transcript.
        computed: How many recordings were transcribed now, not found in the journal.
    """

    manifest: pd.DataFrame
    failed: Mapping[str, EmofuseError]
    computed: int


@alone("out", folder=False)
def transcribe_manifest(
    manifest: pd.DataFrame,
    recogniser: Recogniser,
    out: Path,
    *,
    jobs: int | None = None,
    progress: Progress = Silent(),
) -> Transcribed:
    """Write a manifest with recognised transcripts.

    A journal beside `out` keeps each transcript at once, by the recording's content and the recogniser's key: an
    interrupted run resumes, and only new recordings are transcribed when a manifest grows. An utterance without a
    recording, or whose recording says something else (column `spoken`), keeps its text and its source.

    Args:
        manifest: Its recordings are transcribed.
        recogniser: The recogniser.
        out: Manifest to write.
        jobs: Processes of a recogniser that is faster in parallel; by default one per core. Others use one.
        progress: Reports each recording that is read or transcribed.

    Raises:
        ManifestError: No utterance has a recording, or `out` is not a manifest of the corpus.
        SettingsError: Several processes are requested, and the recogniser works in one.
    """
    if jobs is not None and jobs > 1 and not recogniser.parallel:
        raise SettingsError(
            f"{recogniser.source} works in one process", where="--jobs", remedy="leave it out, or use --asr sphinx"
        )
    check_place(out, manifest)
    spoken = [row for row in utterances(manifest[manifest["spoken"].isna()]) if row.audio is not None]
    if not spoken:
        raise ManifestError("no utterance has a recording of its text", remedy="transcribe another manifest")
    journal = out.with_name(f"{out.name}.transcribed.jsonl")
    mine = recogniser.key
    known = _transcribed_before(journal)
    failed: dict[str, EmofuseError] = _foreign(manifest, spoken, recogniser)
    recordings: dict[str, str] = {}
    readable = [row for row in spoken if row.utterance not in failed]
    for row in track(readable, "Reading audio files", total=len(readable), progress=progress):
        try:
            recordings[row.utterance] = content_key(row.audio or "", start=row.start, end=row.end)
        except AudioError as error:
            failed[row.utterance] = error
    first = {recordings[row.utterance]: row for row in reversed(spoken) if row.utterance in recordings}
    new = [row for row in first.values() if (mine, recordings[row.utterance]) not in known][::-1]
    unusable: dict[str, AudioError] = {}
    notes: dict[str, tuple[str, ...]] = {}
    progress.start(LABEL, len(first))
    progress.advance(LABEL, len(first) - len(new))
    try:
        with appended(journal) as file:
            for row, found, remarks in _transcribe(new, recogniser, jobs=process_count(jobs)):
                recording = recordings[row.utterance]
                notes[row.utterance] = remarks
                if isinstance(found, AudioError):
                    unusable[recording] = found
                else:
                    line = {"recogniser": mine, "recording": recording, "text": found, "silence": IN_SILENCE in remarks}
                    # Begin a new line, since an interrupted run may have left half a line.
                    file.write(f"\n{json.dumps(line)}\n")
                    file.flush()
                    known[mine, recording] = (found, IN_SILENCE in remarks)
                progress.advance(LABEL)
    finally:
        progress.finish(LABEL)
    failed |= {name: unusable[recording] for name, recording in recordings.items() if recording in unusable}
    texts = {name: known[mine, recording] for name, recording in recordings.items() if recording not in unusable}
    for name, (text, silent) in texts.items():
        said = (IN_SILENCE,) if silent else () if text else (NO_WORDS,)
        notes[name] = tuple(dict.fromkeys((*notes.get(name, ()), *said)))
    for note in count_notes(notes):
        progress.note(f"{recogniser.source}: {note}")
    order = {row.utterance: place for place, row in enumerate(spoken)}
    failed = dict(sorted(failed.items(), key=lambda one: order[one[0]]))
    read_anew = manifest["utterance"].isin([row.utterance for row in spoken])
    names = manifest["utterance"]
    written = manifest.assign(
        text=manifest["text"].mask(read_anew, names.map({name: text or None for name, (text, _) in texts.items()})),
        text_source=manifest["text_source"].mask(
            read_anew,
            names.map(
                {
                    name: f"{recogniser.source}, in silence" if silent else recogniser.source
                    for name, (_, silent) in texts.items()
                }
            ),
        ),
        # Speech between these utterances has not been transcribed.
        omitted=None,
    ).astype({"text": "string", "text_source": "string", "omitted": "string"})
    write_manifest(written, out)
    return Transcribed(manifest=written, failed=failed, computed=len(new) - len(unusable))


def _foreign(manifest: pd.DataFrame, rows: Sequence[Utterance], recogniser: Recogniser) -> dict[str, EmofuseError]:
    """Utterances in a language that the recogniser does not know."""
    languages = manifest.set_index("utterance")["language"].dropna()
    known = ", ".join(recogniser.languages or ())
    remedy = "use --asr whisper with a model of many languages, such as base"
    return {
        row.utterance: SettingsError(
            f"the language is {languages[row.utterance]}, and {recogniser.source} knows {known} only",
            where=row.audio,
            remedy=remedy,
        )
        for row in rows
        if not knows(recogniser.languages, languages.get(row.utterance))
    }


def _transcribe(rows: Sequence[Utterance], recogniser: Recogniser, *, jobs: int) -> Iterator[_Done]:
    """The transcript of each recording, or an error, in order of completion."""
    if recogniser.parallel and min(jobs, len(rows)) > 1:
        work = partial(_in_process, recogniser.path or recogniser.name)
        yield from in_processes(work, rows, jobs=jobs, crashed=_crashed)
    else:
        yield from (_one(row, recogniser) for row in rows)


def _one(row: Utterance, recogniser: Recogniser) -> _Done:
    try:
        audio = read_audio(row.audio or "", start=row.start, end=row.end)
        text = recogniser.transcribe(audio.samples)
        silent = bool(text) and is_steady(audio.samples)
        return row, text, (*audio.notes, *([IN_SILENCE] * silent))
    except AudioError as error:
        return row, error, ()


_loaded = cache(load_again)


def _in_process(path: str, row: Utterance) -> _Done:
    """Transcribe in another process, which loads the recogniser once."""
    recogniser = _loaded(path)
    assert recogniser is not None  # noqa: S101
    return _one(row, recogniser)


def _crashed(row: Utterance) -> _Done:
    remedy = "check the recording, or make more memory free"
    return row, AudioError("the recogniser crashed on this recording", where=row.audio, remedy=remedy), ()


def _transcribed_before(journal: Path) -> dict[tuple[str, str], tuple[str, bool]]:
    """Transcripts, and whether they were recognised in silence, by recogniser and recording."""
    known: dict[tuple[str, str], tuple[str, bool]] = {}
    if journal.exists():
        with journal.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                # A killed process may have left half a line; its recording is transcribed again.
                with suppress(ValueError, KeyError, TypeError):
                    one = json.loads(line)
                    known[one["recogniser"], one["recording"]] = (str(one["text"]), one.get("silence") is True)
    return known
