"""What a run will do and cost, measured on a few seconds of sound and a few steps of training before it starts."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from emofuse.align.base import READ, aligner_class, knows
from emofuse.align.run import align_manifest, usual_aligners
from emofuse.align.table import read_alignments
from emofuse.audio import SAMPLING_RATE
from emofuse.encoders import is_trained_with_model, load_speech_encoder, load_text_encoder
from emofuse.experiment import ALIGNMENTS, STORE, check_recipe
from emofuse.features.extract import speech_key, text_key
from emofuse.features.segments import is_pooled_in_model
from emofuse.features.store import View, ViewKey
from emofuse.files import read_json
from emofuse.models import InputShape, build_model
from emofuse.protocols import Protocol, make_protocol
from emofuse.seeds import kept_random_state
from emofuse.settings import AlignSettings, Granularity, ModelKind, Recipe, TextGranularity
from emofuse.training.folder import RESULT, UNITS, check_corpus
from emofuse.training.material import (
    granularities_of,
    joined_kinds,
    members_of,
    speech_shape,
    step_width,
    streams_of,
    text_granularity_of,
    trained_kinds,
)
from emofuse.training.units import Unit, one_thread, read_unit
from emofuse.types import TIERS, EncoderSpecification

PROBE_SECONDS = 5.0
PROBE_TEXTS = 16
STEPS = 3
RATES = {"phone": 12.0, "syllable": 5.0, "word": 3.0}
"""Segments a second of speech, pauses counted; what English read aloud has."""
DONE = "done already"
HALF = 2  # Bytes of a stored number.


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a run.

    Attributes:
        name: What it is called.
        what: What it will do.
        seconds: How long, at most; the stages that early stopping shortens take a third of it or so.
        disk: Bytes that it will write.
    """

    name: str
    what: str
    seconds: float = 0.0
    disk: int = 0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The stages of a run and the memory that it takes.

    Attributes:
        stages: In their order.
        memory: Bytes at the most, over all processes.
    """

    stages: tuple[Stage, ...]
    memory: int

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def disk(self) -> int:
        """Bytes that all stages write."""
        return sum(stage.disk for stage in self.stages)


@kept_random_state()
def make_plan(
    manifest: pd.DataFrame,
    recipe: Recipe,
    *,
    jobs: int,
    device: str = "cpu",
    out: Path | None = None,
    store: Path | None = None,
) -> Plan:
    """Measure what a recipe would cost on a manifest.

    Args:
        manifest: What would be run on.
        recipe: The experiment.
        jobs: Parallel processes.
        device: Where it would be computed.
        out: The run folder; what is done there costs nothing. None: as if nothing were done.
        store: The feature store; None is that of the run folder.

    Raises:
        ManifestError: The manifest lacks the sound, text or votes that the recipe reads.
        EncoderError: An encoder cannot be had.
        ProtocolError: The manifest cannot be split as the recipe asks.
        SettingsError: The folder holds a run on another corpus.
    """
    kinds = trained_kinds(recipe)
    check_recipe(manifest, recipe)
    if out is not None:
        check_corpus(out, manifest)
        store = store or out / STORE
    protocol = make_protocol(manifest, recipe.protocol)
    seconds = float(manifest["duration"].fillna(0).sum())
    stages = [Stage(name="manifest", what=f"{len(manifest)} utterances, {seconds / 3600:.2f} h")]
    speech = text = None
    steps = {one for kind in kinds if "speech" in streams_of(kind) for one in granularities_of(kind, recipe)}
    aligned = 0.0
    if steps & set(TIERS):
        aligned, stage = _align(manifest, recipe.align, jobs, out)
        stages.append(stage)
    if steps:
        speech, stage = _speech(seconds, len(manifest), sorted(steps), recipe, aligned, device, store)
        stages.append(stage)
    if any("text" in streams_of(kind) for kind in kinds) and not is_trained_with_model(recipe.text.encoder):
        text, stage = _text(manifest, sorted({text_granularity_of(kind) for kind in kinds}), recipe, device, store)
        stages.append(stage)
    units = len(protocol.folds) * len(recipe.seeds) + 1
    splits = [*((fold, seed) for fold in protocol.folds for seed in recipe.seeds), (protocol.final, recipe.seeds[0])]
    known = out if out is not None and _is_of(out, recipe, protocol) else None
    largest = max(len(fold.train) for fold in protocol.folds)
    words = float(np.mean([len(str(text).split()) for text in manifest["text"].fillna("")]))
    costs: dict[ModelKind, float] = {}
    for kind in kinds:
        shape = _Shape(
            kind, recipe, speech, text, seconds / len(manifest), aligned, words, len(protocol.classes), device
        )
        settings = recipe.train_of(kind)
        count = -(-largest // settings.batch_size) * settings.epochs * (2 if settings.refit else 1)
        with one_thread():
            costs[kind] = _timed(shape.step) * count
        done = known and sum(bool(read_unit(known / UNITS / Unit(kind, *split).folder)) for split in splits)
        left = units - (done or 0)
        what = f"{left} models, at most {settings.epochs} epochs each" if left else DONE
        what += f"; {done} are {DONE}" if done and left else ""
        stages.append(Stage(name=kind, what=what, seconds=costs[kind] * left / max(1, min(jobs, left))))
    for kind in joined_kinds(recipe):
        stages.append(Stage(name=kind, what="posteriors joined"))
    if recipe.controls and joined_kinds(recipe):
        done = known is not None and (known / RESULT).exists()
        stages.append(_controls(recipe, costs, folds=len(protocol.folds), jobs=jobs, done=done))
    stages.append(Stage(name="report", what="metrics, paired tests, tables, page, kept models"))
    # Every process holds what this one does now.
    return Plan(stages=tuple(stages), memory=_held() * (1 + (jobs if jobs > 1 else 0)))


def _is_of(out: Path, recipe: Recipe, protocol: Protocol) -> bool:
    """Whether what a folder holds was trained by this recipe, on these folds, as far as it is known."""
    try:
        split = read_json(out / "protocol.json")["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    try:
        before = read_json(out / RESULT)["recipe"]
    except (OSError, ValueError, KeyError, TypeError):
        before = recipe.model_dump(mode="json")  # It was cut off before it had a result.
    return bool(split == protocol.fingerprint and before == recipe.model_dump(mode="json"))


def _held() -> int:
    """Bytes that this process has held at the most."""
    if sys.platform == "win32":
        import ctypes

        # PROCESS_MEMORY_COUNTERS: two numbers of 4 bytes, then eight of the machine's size, the first of them the peak.
        counters = (ctypes.c_size_t * 9)()
        ctypes.windll.kernel32.K32GetProcessMemoryInfo(
            ctypes.c_void_p(ctypes.windll.kernel32.GetCurrentProcess()), counters, ctypes.sizeof(counters)
        )
        return int(counters[8 // ctypes.sizeof(ctypes.c_size_t)])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _controls(recipe: Recipe, costs: Mapping[ModelKind, float], *, folds: int, jobs: int, done: bool) -> Stage:
    """What the controls of ensembles train besides, where the best network of each is the one that costs most."""
    extra: dict[ModelKind, int] = {}
    for kind in joined_kinds(recipe):
        dearest = max(members_of(kind), key=costs.__getitem__)
        for one in (dearest, "speech") if "speech" in costs else (dearest,):
            lacking = len(members_of(kind)) - len(recipe.seeds)
            extra[one] = max(extra.get(one, 0), lacking)
    if done:
        return Stage(name="controls", what=DONE)
    units = folds * sum(max(0, count) for count in extra.values())
    seconds = folds * sum(costs[kind] * max(0, count) for kind, count in extra.items())
    what = f"{units} models more, each with a seed of its own" if units else "of seeds that are trained anyway"
    return Stage(name="controls", what=what, seconds=seconds / max(1, min(jobs, units)))


def _align(manifest: pd.DataFrame, by: AlignSettings, jobs: int, out: Path | None) -> tuple[float, Stage]:
    """The fraction of utterances that somebody can align, and what that takes."""
    chosen = usual_aligners(manifest) if by.aligner == "auto" else [by.aligner] * len(manifest)
    shipped = np.array(chosen) == "shipped"
    aligner = aligner_class("sphinx" if by.aligner in READ else by.aligner)
    languages = manifest["language"].astype("object").where(manifest["language"].notna(), None)
    known = languages.map(lambda language: knows(aligner.languages, language), na_action=None).astype(bool)
    count = int((shipped | known).sum())
    what = f"words, syllables and phones of {count} utterances"
    if foreign := len(manifest) - count:
        what += f"; {foreign} keep their frames, since {aligner.name} does not know their language"
    table = out / ALIGNMENTS if out is not None else None
    there = set(read_alignments(table)) if table is not None and table.exists() else set()
    todo = manifest[known & ~shipped & ~manifest["utterance"].isin(there)]
    if not len(todo) and there:
        what = f"{what}; {DONE}"
    seconds = float(todo["duration"].fillna(0).sum())
    return count / len(manifest), Stage(
        name="align", what=what, seconds=seconds * _pace(todo, by) / (jobs if aligner.parallel else 1)
    )


def _pace(manifest: pd.DataFrame, by: AlignSettings) -> float:
    """Seconds that one process needs for a second of sound, measured on a few utterances."""
    durations = manifest["duration"].fillna(0)
    probe = manifest[durations.cumsum() - durations < PROBE_SECONDS]
    seconds = float(probe["duration"].fillna(0).sum())
    if not seconds:
        return 0.0
    return _timed(lambda: align_manifest(probe, None, aligner=by.aligner, model=by.model, jobs=1), goes=1) / seconds


def _speech(
    seconds: float,
    utterances: int,
    steps: list[Granularity],
    recipe: Recipe,
    aligned: float,
    device: str,
    store: Path | None,
) -> tuple[EncoderSpecification, Stage]:
    encoder = load_speech_encoder(recipe.speech, device=device)
    clip = np.random.default_rng(0).normal(size=round(PROBE_SECONDS * SAMPLING_RATE)).astype(np.float32)
    taken = _timed(lambda: encoder.encode([clip])) / PROBE_SECONDS
    one = encoder.specification
    apart = [step for step in steps if not is_pooled_in_model(recipe.speech, step)]
    disk = 0
    for step in apart:
        count = float(utterances) if step == "utterance" else seconds * _rate(step, one, recipe, aligned)
        disk += round(count * len(one.selected) * step_width(step, recipe, one) * HALF)
    if len(apart) < len(steps) and not (apart and recipe.speech.frames_per_step == 1):
        # What models pool themselves is stored once, as every frame.
        disk += round(seconds * one.frame_rate * len(one.selected) * one.width * HALF)
    left = 1 - _there(store, [speech_key(encoder, recipe.speech, step) for step in steps], utterances)
    what = f"{one.name} at {', '.join(steps)}, {1 / taken:.0f} times as fast as speech" if left else DONE
    return one, Stage(name="speech features", what=what, seconds=seconds * taken * left, disk=round(disk * left))


def _there(store: Path | None, keys: Sequence[ViewKey], count: int) -> float:
    """The fraction of so many contents that a store holds in all views."""
    if store is None:
        return 0.0
    return min(1.0, min(len(View(store, key)) for key in keys) / max(1, count))


def _rate(step: Granularity, encoder: EncoderSpecification, recipe: Recipe, aligned: float) -> float:
    """Steps a second, where some utterances keep their frames."""
    frames = encoder.frame_rate / recipe.speech.frames_per_step
    return aligned * RATES[step] + (1 - aligned) * frames if step in RATES else frames


def _text(
    manifest: pd.DataFrame, steps: list[TextGranularity], recipe: Recipe, device: str, store: Path | None
) -> tuple[EncoderSpecification, Stage]:
    encoder = load_text_encoder(recipe.text, device=device)
    texts = manifest["text"].dropna().unique()
    probe = [str(one) for one in texts[:PROBE_TEXTS]]
    taken = _timed(lambda: encoder.encode(probe)) / max(1, len(probe))
    one = encoder.specification
    tokens = sum(values.shape[1] for values in encoder.encode(probe)) / max(1, len(probe))
    disk = round(len(texts) * tokens * len(one.selected) * one.width * HALF * len(steps))
    left = 1 - _there(store, [text_key(encoder, recipe.text, step) for step in steps], len(texts))
    what = f"{one.name}, {len(texts)} different texts" if left else DONE
    return one, Stage(name="text features", what=what, seconds=taken * len(texts) * left, disk=round(disk * left))


class _Shape:
    """One step of training on numbers of the right shape."""

    def __init__(
        self,
        kind: ModelKind,
        recipe: Recipe,
        speech: EncoderSpecification | None,
        text: EncoderSpecification | None,
        seconds: float,
        aligned: float,
        words: float,
        classes: int,
        device: str,
    ) -> None:
        settings = recipe.train_of(kind)
        self.inputs: dict[str, torch.Tensor] = {}
        shapes: dict[str, InputShape | None] = {"speech": None, "text": None}
        size = settings.batch_size
        if "speech" in streams_of(kind) and speech is not None:
            heard = speech_shape(kind, recipe, speech)
            shapes["speech"] = heard
            found = granularities_of(kind, recipe)
            count = sum(1.0 if one == "utterance" else seconds * _rate(one, speech, recipe, aligned) for one in found)
            steps = max(1, round(count))
            frames = steps
            if heard.segments:
                frames = max(1, round(seconds * speech.frame_rate))
                first = torch.linspace(0, frames - 1, steps).long()
                last = torch.cat([first[1:], torch.tensor([frames])]).clamp(min=first + 1)
                self.inputs["speech_bounds"] = torch.stack([first, last], dim=-1).expand(size, -1, -1)
            self.inputs["speech"] = torch.randn(size, heard.layers, frames, heard.width)
            self.inputs["speech_mask"] = torch.ones(size, steps, dtype=torch.bool)
        if "text" in streams_of(kind):
            steps = max(1, round(words * 1.3) + 2)
            shapes["text"] = InputShape(len(text.selected), text.width) if text else InputShape(0, 100)
            shape = (size, len(text.selected), steps, text.width) if text else (size, steps)
            self.inputs["text"] = torch.randn(shape) if text else torch.ones(shape, dtype=torch.long)
            self.inputs["text_mask"] = torch.ones(size, steps, dtype=torch.bool)
        self.inputs = {name: value.to(device) for name, value in self.inputs.items()}
        model = build_model(kind, recipe.model, classes=classes, speech=shapes["speech"], text=shapes["text"])
        self.model = model.to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.labels = torch.zeros(size, dtype=torch.long, device=device)

    def step(self) -> None:
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(**self.inputs), self.labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        # An accelerator is only handed its work; a number that is asked back waits until all of it is done.
        loss.item()


def _timed(work: Callable[[], object], *, goes: int = STEPS) -> float:
    """Seconds of one go, the first of which does not count: it fills caches."""
    work()
    times = []
    for _ in range(goes):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)
