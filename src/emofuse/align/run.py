"""Align a manifest, in parallel; an interrupted run resumes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emofuse.align.base import READ, Aligner, align_clip, aligner_class, load_aligner
from emofuse.align.ctc import model_revision
from emofuse.align.fit import check_words
from emofuse.align.shipped import AlignmentFiles, read_shipped, ships_alignments
from emofuse.align.table import read_alignments, read_keys, write_alignments
from emofuse.audio import audio_duration, content_key, read_audio
from emofuse.audio.notes import count_notes
from emofuse.errors import AlignmentError, AudioError, EmofuseError, SettingsError
from emofuse.files import check_ending
from emofuse.locks import alone
from emofuse.manifest import REFERENCE, utterances
from emofuse.outside import code_hash, full_name, is_outside, options_of
from emofuse.progress import Progress, Silent
from emofuse.settings import fingerprint
from emofuse.types import Alignment, Utterance
from emofuse.workers import in_processes, process_count

if TYPE_CHECKING:
    import pandas as pd

LABEL = "Aligning"

_Aligned = tuple[Alignment, tuple[str, ...]]
"""An alignment, and notes on the recording."""

_VERSION = 3  # Changes where the same audio and words give another alignment.
_SAVE_EVERY = 30.0  # Seconds.


@dataclass(frozen=True, kw_only=True)
class _Task:
    """An utterance, further facts from the manifest, and its aligner."""

    utterance: Utterance
    corpus: str | None
    language: str | None
    aligner: str


@alone("out", folder=False)
def align_manifest(
    manifest: pd.DataFrame,
    out: Path | None = None,
    *,
    aligner: str = "auto",
    model: str | None = None,
    files: Path | None = None,
    jobs: int | None = None,
    device: str = "cpu",
    progress: Progress = Silent(),
) -> dict[str, Alignment]:
    """Align every utterance of a manifest with its transcript.

    An utterance that cannot be aligned gets an alignment without segments that states the problem.

    Args:
        manifest: One row per utterance.
        out: Table of alignments, written repeatedly and at the end. Its alignments of the same audio, words, aligner
            and weights are kept; failed ones are tried again.
        aligner: `sphinx`, `ctc`, `shipped`, `auto` (see `usual_aligners`), or the path to a class of the user's own
            (see `emofuse.outside`).
        model: For `ctc`: a Hub id or a folder.
        files: Another aligner's TextGrids or CTM, instead of an aligner.
        jobs: Processes of aligners that are faster in parallel, such as Sphinx; by default one per core.
        device: Torch device.
        progress: Reports each utterance.

    Returns:
        Alignments by utterance, in the manifest's order.

    Raises:
        SettingsError: The options contradict each other.
        EncoderError: The CTC model cannot be loaded.
        AlignmentError: `files` holds no alignments, or `out` is no table of alignments.
        OutputError: The ending of `out` is that of another kind of file.

    Example:
        >>> from emofuse.manifest import make_manifest
        >>> manifest = make_manifest([{"utterance": "a", "text": "hello"}], source="example")
        >>> align_manifest(manifest)["a"].problem
        'there is no audio; align recordings only'
    """
    _check(aligner, model, files)
    if out is not None:
        check_ending(out, ("", ".parquet"), what="alignments")
    tasks = list(_tasks(manifest, aligner))
    version = _version(aligner, model)
    keys = {} if files else {task.utterance.utterance: key for task in tasks if (key := _cache_key(task, version))}
    done = _kept(out, keys)
    others = {name: one for name, one in _there(out).items() if name not in {t.utterance.utterance for t in tasks}}
    todo = [task for task in tasks if task.utterance.utterance not in done]
    elsewhere = {name: key for name, key in _kept_keys(out).items() if name in others} if out is not None else {}
    progress.start(LABEL, len(tasks))
    progress.advance(LABEL, len(tasks) - len(todo))
    notes: dict[str, tuple[str, ...]] = {}
    saved = time.monotonic()

    def save() -> None:
        if out is not None:
            held = [done[name] for task in tasks if (name := task.utterance.utterance) in done]
            write_alignments([*held, *others.values()], out, keys={**elsewhere, **keys})

    try:
        for alignment, remarks in _align(todo, model=model, files=files, jobs=process_count(jobs), device=device):
            done[alignment.utterance] = alignment
            notes[alignment.utterance] = remarks
            progress.advance(LABEL)
            if time.monotonic() - saved > _SAVE_EVERY:
                save()
                saved = time.monotonic()
    finally:
        progress.finish(LABEL)
        save()
    for line in count_notes(notes):
        progress.note(line)
    return {task.utterance.utterance: done[task.utterance.utterance] for task in tasks}


def usual_aligners(manifest: pd.DataFrame) -> list[str]:
    """Default aligner of each utterance: alignments that the corpus ships, if any, else Sphinx.

    Shipped alignments are of the reference transcript. They do not fit a recognised one.

    Example:
        >>> from emofuse.manifest import make_manifest
        >>> rows = [{"utterance": source, "corpus": "emodb", "text": "so", "text_source": source}
        ...         for source in ("reference", "whisper base")]
        >>> usual_aligners(make_manifest(rows, source="example"))
        ['shipped', 'sphinx']
    """
    ships = manifest["corpus"].fillna("").map(ships_alignments).astype(bool)
    # Where `spoken` differs from the text, the text was not recognised from this recording.
    given = manifest["spoken"].notna() | (manifest["text_source"].fillna(REFERENCE) == REFERENCE)
    return ["shipped" if one else "sphinx" for one in ships & given]


def _check(aligner: str, model: str | None, files: Path | None) -> None:
    if files is not None and aligner not in READ:
        raise SettingsError(
            f"alignments are either read or made by {aligner}", where="--from", remedy="leave out --aligner"
        )
    if aligner not in READ:
        # Check first that it exists; its model does not matter yet.
        options_of(aligner_class(aligner), kind="aligner", asked={"model": model}, offered={})
    elif model:
        raise SettingsError("no aligner with a model is named", where="--model", remedy="add --aligner ctc")


def _tasks(manifest: pd.DataFrame, aligner: str) -> Iterator[_Task]:
    # The spoken words may differ from what the models read.
    manifest = manifest.assign(text=manifest["spoken"].fillna(manifest["text"]))
    about = [
        manifest[name].astype("object").where(manifest[name].notna(), None).tolist() for name in ("corpus", "language")
    ]
    chosen = usual_aligners(manifest) if aligner == "auto" else [aligner] * len(manifest)
    for utterance, corpus, language, own in zip(utterances(manifest), *about, chosen, strict=True):
        yield _Task(utterance=utterance, corpus=corpus, language=language, aligner=own)


def _version(aligner: str, model: str | None) -> Any:
    """Changes with the weights of an aligner, and with the code of the user's own."""
    if aligner == "ctc":
        return model_revision(model or "")
    return [model, code_hash(aligner_class(aligner))] if is_outside(aligner) else None


def _cache_key(task: _Task, version: Any) -> str | None:
    """Cache key of an alignment; None if it is read from files or cannot be known."""
    one = task.utterance
    if task.aligner == "shipped" or one.audio is None:
        return None
    try:
        audio = content_key(one.audio, start=one.start, end=one.end)
    except AudioError:
        return None
    return fingerprint(_VERSION, full_name(task.aligner), version, audio, one.text, task.language)


def _there(out: Path | None) -> dict[str, Alignment]:
    return read_alignments(out) if out is not None and out.exists() else {}


def _kept_keys(out: Path) -> dict[str, str]:
    return read_keys(out) if out.exists() else {}


def _kept(out: Path | None, keys: Mapping[str, str]) -> dict[str, Alignment]:
    if out is None or not out.exists():
        return {}
    before = _kept_keys(out)
    return {
        name: alignment
        for name, alignment in _there(out).items()
        if alignment.problem is None and name in keys and before.get(name) == keys[name]
    }


def _align(
    tasks: Sequence[_Task], *, model: str | None, files: Path | None, jobs: int, device: str
) -> Iterator[_Aligned]:
    read = AlignmentFiles(files) if files is not None else None
    if read is not None:
        yield from (_from_files(read, task) for task in tasks)
        return
    yield from (_attempt(task, _from_corpus, source="shipped") for task in tasks if task.aligner == "shipped")
    for choice in dict.fromkeys(task.aligner for task in tasks if task.aligner != "shipped"):
        mine = [task for task in tasks if task.aligner == choice]
        if aligner_class(choice).parallel:
            work, crashed = (partial(one, choice, model, device) for one in (_in_process, _crashed))
            yield from in_processes(work, mine, jobs=jobs, crashed=crashed)
        else:
            aligner = load_aligner(choice, model=model, device=device)
            yield from (_by(aligner, task) for task in mine)


def _attempt(task: _Task, work: Callable[[_Task], Mapping[Any, Any]], *, source: str) -> _Aligned:
    name = task.utterance.utterance
    try:
        tiers = work(task)
        note = check_words(task.utterance.text, tiers, language=task.language)
    except EmofuseError as error:
        return Alignment(utterance=name, tiers={}, source=source, problem=error.advice), ()
    return Alignment(utterance=name, tiers=tiers, source=source, note=note), ()


def _by(aligner: Aligner, task: _Task) -> _Aligned:
    one = task.utterance
    try:
        if one.audio is None:
            raise AlignmentError("there is no audio", remedy="align recordings only")
        recording = read_audio(one.audio, start=one.start, end=one.end, longest=aligner.longest)
    except EmofuseError as error:
        return Alignment(utterance=one.utterance, tiers={}, source=aligner.source, problem=error.advice), ()
    found = align_clip(aligner, recording.samples, one.text, language=task.language)
    return replace(found, utterance=one.utterance), recording.notes


def _from_corpus(task: _Task) -> Mapping[Any, Any]:
    return read_shipped(task.utterance, corpus=task.corpus, duration=_duration(task.utterance))


def _from_files(files: AlignmentFiles, task: _Task) -> _Aligned:
    found, notes = _attempt(
        task, lambda task: files.read(task.utterance, duration=_duration(task.utterance)), source=files.source
    )
    return (found if found.note or found.problem else replace(found, note=files.doubt)), notes


def _duration(one: Utterance) -> float:
    if one.audio is None:
        raise AlignmentError("there is no audio", remedy="align recordings only")
    return audio_duration(one.audio, start=one.start, end=one.end)


@cache
def _loaded(choice: str, model: str | None, device: str) -> Aligner:
    return load_aligner(choice, model=model, device=device)


def _in_process(choice: str, model: str | None, device: str, task: _Task) -> _Aligned:
    """Align in another process, which loads the aligner once."""
    return _by(_loaded(choice, model, device), task)


def _crashed(choice: str, model: str | None, device: str, task: _Task) -> _Aligned:
    problem = "the aligner crashed on this recording; check it, or make more memory free"
    return Alignment(utterance=task.utterance.utterance, tiers={}, source=full_name(choice), problem=problem), ()
