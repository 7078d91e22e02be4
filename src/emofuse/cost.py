"""Estimate the time, disk and memory of a run, from a few seconds of audio and a few training steps."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from emofuse.align.base import READ, aligner_class, knows
from emofuse.align.run import align_manifest, usual_aligners
from emofuse.align.table import read_alignments
from emofuse.audio import SAMPLING_RATE
from emofuse.encoders import load_speech_encoder, load_text_encoder
from emofuse.experiment import ALIGNMENTS, STORE, check_plan
from emofuse.features.dataset import Batch, pad_extra
from emofuse.features.extract import speech_key, text_key
from emofuse.features.extras import EXTRAS, Facts
from emofuse.features.segments import is_pooled_in_model
from emofuse.features.store import FeatureKey, FeatureSet
from emofuse.files import read_json
from emofuse.plan import ModelPlan, Plan, pools_frames, shapes_of, speech_shape, step_width
from emofuse.protocols import Protocol, make_protocol
from emofuse.scoring.record import RESULT
from emofuse.seeds import kept_random_state, one_thread
from emofuse.settings import AlignSettings, Granularity, SpeechSettings
from emofuse.task import Task
from emofuse.training.data import task_of
from emofuse.training.folder import TRIALS, check_corpus
from emofuse.training.trials import Trial, read_trial
from emofuse.types import EncoderSpecification

PROBE_SECONDS = 5.0
PROBE_TEXTS = 16
SUBWORDS = 100
STEPS = 3
RATES = {"phone": 12.0, "syllable": 5.0, "word": 3.0}
"""Segments a second of read English speech, pauses included."""
DONE = "done already"
HALF = 2  # Bytes per stored number.


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a run.

    Attributes:
        name: Its name.
        what: What it will do.
        seconds: Most time; with early stopping about a third of it.
        disk: Bytes that it will write.
    """

    name: str
    what: str
    seconds: float = 0.0
    disk: int = 0


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The stages of a run and its memory.

    Attributes:
        stages: In order.
        memory: Peak bytes, over all processes.
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
def estimate(
    manifest: pd.DataFrame,
    plan: Plan,
    *,
    jobs: int,
    device: str = "cpu",
    out: Path | None = None,
    store: Path | None = None,
) -> Cost:
    """Estimate the cost of a plan on a manifest.

    Args:
        manifest: The corpus.
        plan: The experiment.
        jobs: Parallel processes.
        device: Torch device.
        out: The run folder; finished work there costs nothing. None for a new run.
        store: The feature store; None for that of the run folder.

    Raises:
        ManifestError: The manifest lacks the audio, text or votes that the recipe reads.
        EncoderError: An encoder cannot be loaded.
        ProtocolError: The manifest cannot be split as the recipe says.
        SettingsError: The folder holds a run on another corpus.
    """
    check_plan(manifest, plan)
    if out is not None:
        check_corpus(out, manifest)
        store = store or out / STORE
    protocol = make_protocol(manifest, plan.protocol, values=plan.task.values)
    seconds = float(manifest["duration"].fillna(0).sum())
    stages = [Stage(name="manifest", what=f"{len(manifest)} utterances, {seconds / 3600:.2f} h")]
    speech = text = None
    aligned = 0.0
    if plan.tiers:
        aligned, stage = _align(manifest, plan.align, jobs, out)
        stages.append(stage)
    if plan.steps:
        speech, stage = _speech(seconds, len(manifest), plan, aligned, device, store)
        stages.append(stage)
    if plan.text_steps and not plan.trains_subwords:
        text, stage = _text(manifest, plan, device, store)
        stages.append(stage)
    trials = len(protocol.folds) * len(plan.seeds) + 1
    splits = [*((fold, seed) for fold in protocol.folds for seed in plan.seeds), (protocol.final, plan.seeds[0])]
    known = out if out is not None and _is_of(out, plan, protocol) else None
    largest = max(len(fold.train) for fold in protocol.folds)
    words = float(np.mean([len(str(text).split()) for text in manifest["text"].fillna("")]))
    task = task_of(plan, protocol)
    costs: dict[str, float] = {}
    for model in plan.models:
        probe = _Probe(model, plan, task, speech, text, seconds / len(manifest), aligned, words, device)
        settings = model.train
        count = -(-largest // settings.batch_size) * settings.epochs * (2 if settings.refit else 1)
        with one_thread():
            costs[model.name] = _timed(probe.step) * count
        done = known and sum(bool(read_trial(known / TRIALS / Trial(model, *split).folder)) for split in splits)
        left = trials - (done or 0)
        what = f"{left} models, at most {settings.epochs} epochs each" if left else DONE
        what += f"; {done} are {DONE}" if done and left else ""
        stages.append(Stage(name=model.name, what=what, seconds=costs[model.name] * left / max(1, min(jobs, left))))
    for one in plan.ensembles:
        stages.append(Stage(name=one.name, what=f"fuses {', '.join(one.of)}"))
    if any(one.seeds or plan.controls for one in plan.ensembles):
        done = known is not None and (known / RESULT).exists()
        stages.append(_controls(plan, costs, folds=len(protocol.folds), jobs=jobs, done=done))
    stages.append(Stage(name="report", what="metrics, paired tests, tables, page, kept models"))
    # Every process needs this one's memory.
    return Cost(stages=tuple(stages), memory=_held() * (1 + (jobs if jobs > 1 else 0)))


def _is_of(out: Path, plan: Plan, protocol: Protocol) -> bool:
    """Whether a folder's models were trained by this recipe on these folds, as far as known."""
    try:
        split = read_json(out / "protocol.json")["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    try:
        before = read_json(out / RESULT)["recipe"]
    except (OSError, ValueError, KeyError, TypeError):
        before = dict(plan.recipe)  # It was interrupted before it had a result.
    return bool(split == protocol.fingerprint and before == dict(plan.recipe))


def _held() -> int:
    """Peak memory of this process in bytes."""
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


def _controls(plan: Plan, costs: Mapping[str, float], *, folds: int, jobs: int, done: bool) -> Stage:
    """Extra trials of controls, at the cost of each ensemble's most expensive network."""
    extra: dict[str, int] = {}
    for one in plan.ensembles:
        lacking = len(one.networks) - len(plan.seeds)
        names = {max(one.networks, key=costs.__getitem__), *(() if one.seeds else ("speech",))} & costs.keys()
        for name in names if one.seeds or plan.controls else ():
            extra[name] = max(extra.get(name, 0), lacking)
    if done:
        return Stage(name="controls", what=DONE)
    trials = folds * sum(extra.values())
    seconds = folds * sum(costs[name] * count for name, count in extra.items())
    what = f"{trials} models more, each with a seed of its own" if trials else "of seeds that are trained anyway"
    return Stage(name="controls", what=what, seconds=seconds / max(1, min(jobs, trials)))


def _align(manifest: pd.DataFrame, by: AlignSettings, jobs: int, out: Path | None) -> tuple[float, Stage]:
    """The fraction of utterances that can be aligned, and its cost."""
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
    """Seconds per second of audio in one process, measured on a few utterances."""
    durations = manifest["duration"].fillna(0)
    probe = manifest[durations.cumsum() - durations < PROBE_SECONDS]
    seconds = float(probe["duration"].fillna(0).sum())
    if not seconds:
        return 0.0
    return _timed(lambda: align_manifest(probe, None, aligner=by.aligner, model=by.model, jobs=1), goes=1) / seconds


def _speech(
    seconds: float, utterances: int, plan: Plan, aligned: float, device: str, store: Path | None
) -> tuple[EncoderSpecification, Stage]:
    settings, steps = plan.speech, plan.steps
    encoder = load_speech_encoder(settings, device=device)
    clip = np.random.default_rng(0).normal(size=round(PROBE_SECONDS * SAMPLING_RATE)).astype(np.float32)
    taken = _timed(lambda: encoder.encode([clip])) / PROBE_SECONDS
    one = encoder.specification
    apart = [step for step in steps if not is_pooled_in_model(settings, step)]
    disk = 0
    for step in apart:
        count = float(utterances) if step == "utterance" else seconds * _rate(step, one, settings, aligned)
        disk += round(count * len(one.selected) * step_width(step, settings, one) * HALF)
    if len(apart) < len(steps) and not (apart and settings.frames_per_step == 1):
        # Features that models pool themselves are stored once, as frames.
        disk += round(seconds * one.frame_rate * len(one.selected) * one.width * HALF)
    left = 1 - _there(store, [speech_key(encoder, settings, step) for step in steps], utterances)
    what = f"{one.name} at {', '.join(steps)}, {1 / taken:.0f} times as fast as speech" if left else DONE
    return one, Stage(name="speech features", what=what, seconds=seconds * taken * left, disk=round(disk * left))


def _there(store: Path | None, keys: Sequence[FeatureKey], count: int) -> float:
    """The fraction of contents that a store holds in all feature sets."""
    if store is None:
        return 0.0
    return min(1.0, min(len(FeatureSet(store, key)) for key in keys) / max(1, count))


def _rate(step: Granularity, encoder: EncoderSpecification, settings: SpeechSettings, aligned: float) -> float:
    """Steps a second, as some utterances keep their frames."""
    frames = encoder.frame_rate / settings.frames_per_step
    return aligned * RATES[step] + (1 - aligned) * frames if step in RATES else frames


def _text(manifest: pd.DataFrame, plan: Plan, device: str, store: Path | None) -> tuple[EncoderSpecification, Stage]:
    steps = plan.text_steps
    encoder = load_text_encoder(plan.text, device=device)
    texts = manifest["text"].dropna().unique()
    probe = [str(one) for one in texts[:PROBE_TEXTS]]
    taken = _timed(lambda: encoder.encode(probe)) / max(1, len(probe))
    one = encoder.specification
    tokens = sum(values.shape[1] for values in encoder.encode(probe)) / max(1, len(probe))
    disk = round(len(texts) * tokens * len(one.selected) * one.width * HALF * len(steps))
    left = 1 - _there(store, [text_key(encoder, plan.text, step) for step in steps], len(texts))
    what = f"{one.name}, {len(texts)} different texts" if left else DONE
    return one, Stage(name="text features", what=what, seconds=taken * len(texts) * left, disk=round(disk * left))


class _Probe:
    """One training step on random inputs of the right shape."""

    def __init__(
        self,
        model: ModelPlan,
        plan: Plan,
        task: Task,
        speech: EncoderSpecification | None,
        text: EncoderSpecification | None,
        seconds: float,
        aligned: float,
        words: float,
        device: str,
    ) -> None:
        size, inputs = model.train.batch_size, model.inputs
        given: dict[str, Any] = {}
        if inputs.speech and speech is not None:
            shape = speech_shape(inputs, plan.speech, speech)
            counts = [
                1.0 if step == "utterance" else seconds * _rate(step, speech, plan.speech, aligned)
                for step in inputs.steps
            ]
            steps = max(1, round(sum(counts)))
            frames = steps
            if pools_frames(inputs, plan.speech):
                frames = max(1, round(seconds * speech.frame_rate))
                first = torch.linspace(0, frames - 1, steps).long()
                last = torch.cat([first[1:], torch.tensor([frames])]).clamp(min=first + 1)
                given["speech_bounds"] = torch.stack([first, last], dim=-1).expand(size, -1, -1)
            given["speech"] = torch.randn(size, shape.layers, frames, shape.width)
            given["speech_mask"] = torch.ones(size, steps, dtype=torch.bool)
        if inputs.text:
            steps = max(1, round(words * 1.3) + 2)
            layers = (size, len(text.selected), steps, text.width) if text else (size, steps)
            given["text"] = torch.randn(layers) if text else torch.ones(layers, dtype=torch.long)
            given["text_mask"] = torch.ones(size, steps, dtype=torch.bool)
        facts = Facts(text="word " * round(words))
        given["extras"] = {name: pad_extra([EXTRAS[name](facts)] * size) for name in inputs.extras}
        encoders = {name: one for name, one in (("speech", speech), ("text", text)) if one}
        truth = torch.zeros(size, dtype=torch.long) if not plan.task.values else torch.zeros(size, task.outputs)
        shapes = shapes_of(inputs, plan.speech, encoders, subwords=SUBWORDS if plan.trains_subwords else None)
        self.batch = Batch(**given, truth=truth, targets=truth).to(device)
        self.model = model.build(shapes, task.fitted(truth, model.train)).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters())

    def step(self) -> None:
        self.optimizer.zero_grad()
        losses = self.model.losses(self.model(self.batch), self.batch, progress=0.5)
        loss = torch.stack(list(losses.values())).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        # Accelerators run asynchronously; reading a number waits for them.
        loss.item()


def _timed(work: Callable[[], object], *, goes: int = STEPS) -> float:
    """Seconds of one call; the first does not count, since it fills caches."""
    work()
    times = []
    for _ in range(goes):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)
