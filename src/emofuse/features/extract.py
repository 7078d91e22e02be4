"""Extraction: encode every utterance of a manifest once, into the store; an interrupted run resumes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from emofuse.audio import LONGEST_UTTERANCE, SAMPLING_RATE, Recording, audio_duration, content_key, read_audio
from emofuse.encoders import SpeechEncoder, Subwords, TextEncoder
from emofuse.errors import AudioError, EmofuseError
from emofuse.features.batching import padding_fraction, plan_batches
from emofuse.features.context import earlier_texts
from emofuse.features.pooling import pool_frames
from emofuse.features.segments import frame_bounds, is_pooled_in_model, pool_segments, step_bounds
from emofuse.features.store import FeatureKey, FeatureSet, fits
from emofuse.files import read_json, write_text
from emofuse.locks import clear
from emofuse.manifest import utterances
from emofuse.progress import Progress, Silent, track
from emofuse.settings import Granularity, SpeechSettings, TextGranularity, TextSettings, fingerprint
from emofuse.types import TIERS, Alignment, EncoderSpecification, Utterance

SHARD_SECONDS = 300.0
SHARD_TEXTS = 4096
DECODERS = 4
NOTES = "notes.json"


@dataclass(frozen=True)
class Extracted:
    """Result of an extraction.

    Attributes:
        feature_sets: The feature sets of the store, by granularity; the same one for all that a model pools itself.
        keys: Content key of every utterance with features.
        failed: Errors of utterances without features.
        computed: Number of newly computed features.
        padding: Fraction of the computed batches that was padding.
        bounds: If models pool frames themselves, by granularity and content key: first frame of each step and the one
            after the last, `(steps, 2)`.
        notes: Notes on recordings or texts, by utterance.
    """

    feature_sets: Mapping[str, FeatureSet]
    keys: Mapping[str, str]
    failed: Mapping[str, EmofuseError]
    computed: int
    padding: float
    bounds: Mapping[str, Mapping[str, NDArray[np.int32]]] = field(default_factory=dict)
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def extract_speech(
    manifest: pd.DataFrame,
    encoder: SpeechEncoder,
    settings: SpeechSettings,
    *,
    store: Path,
    granularities: Sequence[Granularity] = ("frame",),
    alignments: Mapping[str, Alignment] | None = None,
    progress: Progress = Silent(),
) -> Extracted:
    """Encode the audio of a manifest, at all granularities at once.

    At a tier of the alignment a step is a segment; an utterance without segments keeps its frames. For learned pooling
    single frames are stored, once for all granularities, and the bounds are returned.

    Features are keyed by content, so equal clips are encoded once and a second run computes only new ones. A killed run
    resumes after its last complete shard, with the same batches, and so gives the same bytes.

    Raises:
        StoreError: The store is damaged, full, or being written by another process.
    """
    wanted = {name: speech_key(encoder, settings, name) for name in granularities}
    # Granularities that are stored alike share a feature set: two in one folder would wait for each other's lock.
    stored = {key: name for name, key in wanted.items()}
    opened = {key: FeatureSet(store, key) for key in stored}
    feature_sets = {name: opened[key] for name, key in wanted.items()}
    aligned = alignments or {} if set(granularities) & set(TIERS) else {}
    rows = {row.utterance: row for row in utterances(manifest) if row.audio is not None}
    keys, failed = audio_keys(manifest, aligned, progress=progress)
    spoken: dict[str, Utterance] = {}
    for name, key in keys.items():
        spoken.setdefault(key, rows[name])
    durations = dict(zip(manifest["utterance"], manifest["duration"].fillna(0.0), strict=True))

    notes = _read_notes(store)

    def encode(batch: Sequence[str], decoders: ThreadPoolExecutor) -> list[dict[str, NDArray[np.float32]]]:
        clips: dict[str, NDArray[np.float32]] = {}
        for key, clip in zip(batch, decoders.map(lambda name: _decode(spoken[name]), batch), strict=True):
            if isinstance(clip, AudioError):
                failed.update({name: clip for name, other in keys.items() if other == key})
            else:
                clips[key] = clip.samples
                if clip.notes:
                    notes[key] = clip.notes
                    _write_notes(store, notes)
        encoded = dict(zip(clips, encoder.encode(list(clips.values())), strict=True)) if clips else {}
        return [
            {
                key: to_steps(
                    values,
                    encoder.specification,
                    settings,
                    granularity=name,
                    alignment=aligned.get(spoken[key].utterance),
                ).numpy()
                for key, values in encoded.items()
            }
            for name in stored.values()
        ]

    sizes = {key: _seconds(row, float(durations[row.utterance])) for key, row in spoken.items()}
    with ThreadPoolExecutor(DECODERS) as decoders:
        computed, padding, unfit = _fill(
            list(opened.values()),
            sizes,
            lambda batch: encode(batch, decoders),
            store=store,
            budget=settings.batch_seconds,
            shard=SHARD_SECONDS,
            label="Encoding speech",
            progress=progress,
        )
    failed.update({name: unfit[key] for name, key in keys.items() if key in unfit})
    kept = {name: key for name, key in keys.items() if name not in failed}
    bounds: dict[str, dict[str, NDArray[np.int32]]] = {}
    pooled = [feature_set for name, feature_set in feature_sets.items() if is_pooled_in_model(settings, name)]
    for name in granularities if pooled else ():
        bounds[name] = {
            key: step_bounds(
                encoder.specification,
                settings,
                frames=pooled[0].steps(key),
                granularity=name,
                alignment=aligned.get(spoken[key].utterance),
            ).numpy()
            for key in set(kept.values())
        }
    return Extracted(
        {str(name): feature_set for name, feature_set in feature_sets.items()},
        kept,
        failed,
        computed,
        padding,
        bounds,
        {name: notes[key] for name, key in kept.items() if key in notes},
    )


def to_steps(
    frames: torch.Tensor,
    encoder: EncoderSpecification,
    settings: SpeechSettings,
    *,
    granularity: Granularity,
    alignment: Alignment | None,
) -> torch.Tensor:
    """Steps of one utterance at a granularity, from its encoder's frames.

    Args:
        frames: `(layers, frames, width)`.
        encoder: Specification of the frames' encoder.
        settings: Pooling of frames and segments.
        granularity: Granularity of steps.
        alignment: The alignment; without segments, a tier's steps are those of `frame`.

    Returns:
        `(layers, steps, width)`; twice as wide for a tier with `mean+std`. All frames if the model pools them by
        `step_bounds`.
    """
    if is_pooled_in_model(settings, granularity):
        return frames
    if granularity == "frame" or (granularity == "utterance" and settings.segments == "mean"):
        return pool_frames(frames, granularity=granularity, frames_per_step=settings.frames_per_step)
    if granularity == "utterance":
        whole = torch.tensor([[0, frames.shape[1]]]).expand(len(frames), 1, 2)
        return pool_segments(frames, whole, kind=settings.segments)
    segments = alignment.tiers.get(granularity, ()) if alignment else ()
    if not segments:
        steps = pool_frames(frames, granularity="frame", frames_per_step=settings.frames_per_step)
        return torch.cat([steps, torch.zeros_like(steps)], dim=-1) if settings.segments == "mean+std" else steps
    bounds = frame_bounds(segments, encoder, frames=frames.shape[1])
    return pool_segments(frames, bounds.expand(len(frames), -1, -1), kind=settings.segments)


def extract_text(
    manifest: pd.DataFrame,
    encoder: TextEncoder,
    settings: TextSettings,
    *,
    store: Path,
    granularities: Sequence[TextGranularity] = ("token",),
    progress: Progress = Silent(),
) -> Extracted:
    """Encode the transcripts of a manifest; each distinct text once, a missing one as empty.

    At the granularity `word` a step is the average of a word's tokens; special tokens keep their steps. With dialogue
    context the encoder reads the earlier utterances first, and returns steps of the utterance's own text; the same text
    in another context is another entry.

    Raises:
        StoreError: The store is damaged, full, or being written by another process.
    """
    feature_sets = {name: FeatureSet(store, text_key(encoder, settings, name)) for name in granularities}
    texts = _texts(manifest)
    earlier = earlier_texts(manifest, settings.context) if settings.context else {}
    keys = text_keys(manifest, context=settings.context)
    contents = {keys[name]: (text, earlier.get(name, ())) for name, text in texts.items()}

    def encode(batch: Sequence[str]) -> list[dict[str, NDArray[np.float32]]]:
        written, before = zip(*(contents[key] for key in batch), strict=True)
        encoded = encoder.encode(written, earlier=before if any(before) else ())
        found = {"token": encoded}
        if "word" in feature_sets:
            words = encoder.word_of_tokens(written)
            found["word"] = [to_words(values, one) for values, one in zip(encoded, words, strict=True)]
        return [{key: one.numpy() for key, one in zip(batch, found[name], strict=True)} for name in feature_sets]

    sizes = {key: float(len(text) + 1 + sum(map(len, before))) for key, (text, before) in contents.items()}
    longest = max(sizes.values(), default=1.0)
    computed, padding, unfit = _fill(
        list(feature_sets.values()),
        sizes,
        encode,
        store=store,
        budget=settings.batch_size * min(longest, 80.0),
        shard=SHARD_TEXTS * 40.0,
        label="Encoding text",
        progress=progress,
    )
    notes = cut_notes(encoder, texts)
    failed = {name: unfit[key] for name, key in keys.items() if key in unfit}
    kept = {name: key for name, key in keys.items() if name not in failed}
    return Extracted(
        {str(name): feature_set for name, feature_set in feature_sets.items()},
        kept,
        failed,
        computed,
        padding,
        notes=notes,
    )


def cut_notes(encoder: TextEncoder | Subwords, texts: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """A note on each text that is longer than the encoder's limit, by utterance.

    Example:
        >>> subwords = Subwords(["[PAD]", "[UNK]", "so"], max_tokens=2)
        >>> cut_notes(subwords, {"a": "so", "b": "so so so"})
        {'b': ('the text is longer than the 2 tokens that are read, and its last 1 were left out',)}
    """
    beyond = dict(zip(texts, encoder.beyond(list(texts.values())), strict=True))
    said = "the text is longer than the {} tokens that are read, and its last {} were left out"
    return {name: (said.format(encoder.max_tokens, count),) for name, count in beyond.items() if count}


def to_words(tokens: torch.Tensor, words: Sequence[int | None]) -> torch.Tensor:
    """Average the tokens of each word; special tokens keep their steps.

    Args:
        tokens: `(layers, tokens, width)`.
        words: Word of each token; None for special tokens.

    Returns:
        `(layers, steps, width)`.

    Example:
        >>> to_words(torch.tensor([[[0.0], [1.0], [3.0], [7.0], [0.5]]]), [None, 0, 0, 1, None])[0, :, 0].tolist()
        [0.0, 2.0, 7.0, 0.5]
    """
    edges = [place for place, word in enumerate(words) if place == 0 or word is None or word != words[place - 1]]
    bounds = torch.tensor([*pairwise([*edges, len(words)])], dtype=torch.long)
    return pool_segments(tokens, bounds.expand(len(tokens), -1, -1))


def _texts(manifest: pd.DataFrame) -> dict[str, str]:
    return {row.utterance: row.text or "" for row in utterances(manifest)}


def text_keys(manifest: pd.DataFrame, *, context: int = 0) -> dict[str, str]:
    """Content key of every utterance's text and context."""
    earlier = earlier_texts(manifest, context) if context else {}
    return {name: _text_key(text, earlier.get(name, ())) for name, text in _texts(manifest).items()}


def _text_key(text: str, earlier: Sequence[str]) -> str:
    key = sha256(text.encode()).hexdigest()
    return f"{key}-{fingerprint(list(earlier))}" if earlier else key


def text_key(encoder: TextEncoder, settings: TextSettings, granularity: TextGranularity) -> FeatureKey:
    """Feature set of a text encoder at a granularity."""
    return FeatureKey(specification=encoder.specification, granularity=granularity, limit=settings.max_tokens)


def speech_key(encoder: SpeechEncoder, settings: SpeechSettings, granularity: Granularity) -> FeatureKey:
    """Feature set of a speech encoder at a granularity."""
    if is_pooled_in_model(settings, granularity):
        return FeatureKey(specification=encoder.specification, granularity="frame", precision=settings.precision)
    plain = granularity == "frame" or (granularity == "utterance" and settings.segments == "mean")
    return FeatureKey(
        specification=encoder.specification,
        granularity=granularity if plain else f"{granularity}-{settings.segments}",
        frames_per_step=_run(settings, granularity),
        precision=settings.precision,
    )


def _run(settings: SpeechSettings, granularity: Granularity) -> int:
    # An utterance without alignment keeps its frames.
    return 1 if granularity == "utterance" else settings.frames_per_step


def audio_keys(
    manifest: pd.DataFrame, alignments: Mapping[str, Alignment], *, progress: Progress = Silent()
) -> tuple[dict[str, str], dict[str, EmofuseError]]:
    """Content key of every utterance's audio and alignment, and errors of others."""
    rows = [row for row in utterances(manifest) if row.audio is not None]
    keys: dict[str, str] = {}
    failed: dict[str, EmofuseError] = {}
    with ThreadPoolExecutor(DECODERS) as pool:
        found = track(pool.map(_key, rows), "Reading audio files", total=len(rows), progress=progress)
        for row, key in zip(rows, found, strict=True):
            if isinstance(key, AudioError):
                failed[row.utterance] = key
            else:
                keys[row.utterance] = key + _alignment_key(alignments.get(row.utterance))
    return keys, failed


def _alignment_key(alignment: Alignment | None) -> str:
    if alignment is None or not alignment.tiers:
        return ""
    tiers = {tier: [[segment.start, segment.end] for segment in segments] for tier, segments in alignment.tiers.items()}
    return f"+{fingerprint(tiers)}"


def _key(row: Utterance) -> str | AudioError:
    try:
        return content_key(row.audio or "", start=row.start, end=row.end)
    except AudioError as error:
        return error


def _seconds(row: Utterance, known: float) -> float:
    """Duration of an utterance, from its file where the manifest does not state it."""
    if known > 0:
        return known
    try:
        return audio_duration(row.audio or "", start=row.start, end=row.end)
    except AudioError:
        return 1 / SAMPLING_RATE  # Decoding will raise the error.


def _decode(row: Utterance) -> Recording | AudioError:
    try:
        return read_audio(row.audio or "", start=row.start, end=row.end, longest=LONGEST_UTTERANCE)
    except AudioError as error:
        return error


def _read_notes(store: Path) -> dict[str, tuple[str, ...]]:
    """Notes on recordings by content key, also for a run that computes nothing."""
    try:
        found = read_json(store / NOTES)
        return {str(key): tuple(map(str, notes)) for key, notes in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _write_notes(store: Path, notes: Mapping[str, tuple[str, ...]]) -> None:
    write_text(store / NOTES, json.dumps(notes, ensure_ascii=False, sort_keys=True))


def _fill(
    feature_sets: Sequence[FeatureSet],
    sizes: Mapping[str, float],
    encode: Callable[[Sequence[str]], Sequence[Mapping[str, NDArray[np.float32]]]],
    *,
    store: Path,
    budget: float,
    shard: float,
    label: str,
    progress: Progress,
) -> tuple[int, float, dict[str, EmofuseError]]:
    """Complete every feature set for all keys of `sizes`, shard by shard.

    Returns:
        Number of computed features, the padding, and errors of keys whose features cannot be stored.
    """
    unfit: dict[str, EmofuseError] = {}
    plan = store / f"plan-{fingerprint([feature_set.key.folder for feature_set in feature_sets])}.json"

    def missing() -> list[str]:
        return sorted(key for key in sizes if not all(key in feature_set for feature_set in feature_sets))

    def finished(batches: list[list[str]]) -> bool:
        # An utterance exists only if its shard was written; unreadable ones may be missing.
        return any(all(key in feature_set for feature_set in feature_sets) for batch in batches for key in batch)

    def compute(shards: list[list[list[str]]]) -> list[list[str]]:
        """Execute a plan; return the newly computed batches."""
        todo = [batches for batches in shards if not finished(batches)]
        progress.start(label, sum(sizes[key] for batches in todo for batch in batches for key in batch))
        try:
            for batches in todo:
                parts: list[dict[str, NDArray[np.float32]]] = [{} for _ in feature_sets]
                for batch in batches:
                    encoded = encode(batch)
                    for feature_set, one in zip(feature_sets, encoded, strict=True):
                        unfit.update({key: feature_set.unfit("its features") for key in one if not fits(one[key])})
                    for part, one in zip(parts, encoded, strict=True):
                        part.update({key: values for key, values in one.items() if key not in unfit})
                    progress.advance(label, sum(sizes[key] for key in batch))
                for feature_set, part in zip(feature_sets, parts, strict=True):
                    feature_set.write(part)
        finally:
            progress.finish(label)
        return [batch for batches in todo for batch in batches]

    if not missing() and not plan.exists():
        # Nothing to write, so runs that share a finished store need not wait for one another.
        for feature_set in feature_sets:
            clear(feature_set.folder)
        return 0, 0.0, {}
    with ExitStack() as locks:
        for feature_set in feature_sets:
            locks.enter_context(feature_set.writing(progress=progress))
        done = compute(_load_plan(plan, sizes, budget=budget))
        tried = {key for batch in done for key in batch}
        fresh = [key for key in missing() if key not in tried]
        shards = _plan_shards(fresh, sizes, budget=budget, shard=shard)
        _save_plan(plan, shards, budget=budget)
        done += compute(shards)
        plan.unlink()
    numbers = {key: number for number, key in enumerate(key for batch in done for key in batch)}
    padding = padding_fraction([sizes[key] for key in numbers], [[numbers[key] for key in batch] for batch in done])
    return sum(all(key in feature_set for feature_set in feature_sets) for key in numbers), padding, unfit


def _plan_shards(
    keys: Sequence[str], sizes: Mapping[str, float], *, budget: float, shard: float
) -> list[list[list[str]]]:
    shards: list[list[list[str]]] = []
    filled = shard
    for group in plan_batches([sizes[key] for key in keys], budget=budget):
        if filled >= shard:
            shards.append([])
            filled = 0.0
        batch = [keys[index] for index in group]
        shards[-1].append(batch)
        filled += sum(sizes[key] for key in batch)
    return shards


def _load_plan(path: Path, sizes: Mapping[str, float], *, budget: float) -> list[list[list[str]]]:
    """The plan of an interrupted run, if its utterances and budget are still wanted.

    Batches affect features in the last bits, so a resumed run keeps them. A smaller budget makes a new plan: the first
    run may have run out of memory.
    """
    try:
        plan = read_json(path)
        shards: list[list[list[str]]] = plan["shards"] if plan["budget"] == budget else []
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return shards if {key for batches in shards for batch in batches for key in batch} <= sizes.keys() else []


def _save_plan(path: Path, shards: list[list[list[str]]], *, budget: float) -> None:
    write_text(path, json.dumps({"budget": budget, "shards": shards}))


def features_of(values: torch.Tensor) -> NDArray[np.float32]:
    """Features as stored, `(layers, steps, width)`: rounded to float16."""
    return values.to(torch.float16).to(torch.float32).numpy()
