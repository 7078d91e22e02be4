"""The whole chain, and its parts: corpus to manifest, features, folds x seeds, scores, result, kept models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from emofuse.align.coverage import Coverage, coverage
from emofuse.align.run import align_manifest
from emofuse.audio.notes import count_notes
from emofuse.corpora import Corpus, read_corpus
from emofuse.encoders import SpeechEncoder, TextEncoder, load_speech_encoder, load_text_encoder
from emofuse.encoders.words import Subwords
from emofuse.errors import AlignmentError, EmofuseError, EncoderError, ManifestError, SettingsError
from emofuse.features.extract import Extracted, cut_notes, extract_speech, extract_text
from emofuse.features.reference import TESTED
from emofuse.keep import keep_models
from emofuse.locks import alone
from emofuse.manifest import (
    check_place,
    read_manifest,
    utterances,
    vote_fractions,
    write_manifest,
)
from emofuse.models.device import check_device
from emofuse.plan import EnsemblePlan, Plan, resolve
from emofuse.progress import Progress, Silent
from emofuse.protocols import FINAL, Protocol, check_split, classes_of, make_protocol, save_protocol
from emofuse.recipe import Recipe
from emofuse.report import write_report
from emofuse.scoring.record import Comparison, Result
from emofuse.scoring.result import compare
from emofuse.scoring.table import Scores, join_scores, read_scores, write_scores
from emofuse.seeds import kept_random_state
from emofuse.settings import SpeechSettings, TextSettings
from emofuse.training.data import TrainingData, check_modalities, facts_of, task_of
from emofuse.training.ensembles import (
    choose_controls,
    extra_seeds,
    fuse_members,
    fuse_referred,
    fuse_seeds,
    fusion_notes,
    seeds_of,
)
from emofuse.training.folder import MANIFEST, TRIALS, check_corpus, check_frozen
from emofuse.training.logs import check_log
from emofuse.training.summary import summarise
from emofuse.training.trials import REFERRED, Trial, curves, layer_mixes, run_trials
from emofuse.types import Alignment, Fold, Log
from emofuse.workers import process_count

ALIGNMENTS, STORE = "alignments.parquet", "features"


@dataclass(frozen=True, kw_only=True)
class Features:
    """Stored features of a manifest, and what could not be used.

    Attributes:
        store: Folder of the feature store.
        speech: What speech extraction left; None where no model reads speech.
        text: What text extraction left; None where no model reads text, or subwords are trained.
        alignment: How much of the manifest is aligned; None where no model reads segments.
    """

    store: Path
    speech: Extracted | None
    text: Extracted | None
    alignment: Coverage | None = None

    @property
    def failed(self) -> Mapping[str, EmofuseError]:
        """Utterances whose sound or text cannot be used, and why."""
        return {name: error for one in (self.text, self.speech) if one for name, error in one.failed.items()}

    @property
    def notes(self) -> list[str]:
        """What the reader should know of the recordings and texts, counted."""
        return [line for one in (self.speech, self.text) if one for line in count_notes(one.notes)]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run leaves for its caller.

    Attributes:
        out: The run folder.
        result: Content of `result.json`.
        skipped: Utterances that were left out, and why.
    """

    out: Path
    result: Result
    skipped: Mapping[str, str]


def prepare(
    corpus: str,
    root: Path,
    out: Path,
    *,
    partial: bool = False,
    columns: Mapping[str, str] | None = None,
    options: Mapping[str, str] | None = None,
    progress: Progress = Silent(),
) -> Corpus:
    """Read a corpus and write its manifest to the file `out`.

    Raises:
        ManifestError: The corpus is not there or not complete, or `out` is something else than its manifest.
        SettingsError: The corpus has no such option.
    """
    check_place(out)
    found = read_corpus(corpus, root, partial=partial, columns=columns, options=options, progress=progress)
    check_place(out, found.manifest)
    write_manifest(found.manifest, out)
    return found


def align(
    manifest: pd.DataFrame, plan: Plan, out: Path, *, jobs: int | None = None, progress: Progress = Silent()
) -> Mapping[str, Alignment]:
    """Align a manifest where a model of the plan reads words, syllables or phones, and write the table `out`.

    Unless the recipe names an aligner, utterances of a corpus that ships alignments are aligned as it ships them, where
    their words are the reference's, and all others by Sphinx. Frames stand for the segments of those that cannot be
    aligned, such as those whose shipped files are absent. What `out` holds already is kept.

    Raises:
        AlignmentError: `out` is something else.
    """
    if not plan.tiers:
        return {}
    by = plan.align
    return align_manifest(manifest, out, aligner=by.aligner, model=by.model, jobs=jobs, progress=progress)


@dataclass(frozen=True, kw_only=True)
class Encoders:
    """The encoders of a recipe; None where no model reads the modality, or subwords are trained with the model."""

    speech: SpeechEncoder | None
    text: TextEncoder | None


def load_encoders(plan: Plan, *, device: str = "cpu") -> Encoders:
    """Load the encoders that a plan reads.

    Raises:
        EncoderError: One cannot be had; the remedy names what is always at hand.
    """
    check_encoder_settings(plan.speech, plan.text, plan.modalities)
    with builtin_named(plan.modalities):
        return Encoders(
            speech=load_speech_encoder(plan.speech, device=device) if "speech" in plan.modalities else None,
            text=load_text_encoder(plan.text, device=device)
            if "text" in plan.modalities and not plan.trains_subwords
            else None,
        )


def check_encoder_settings(speech: SpeechSettings, text: TextSettings, modalities: Iterable[str]) -> None:
    """See that no setting is given to an encoder that does not have it.

    Raises:
        SettingsError: One is.
    """
    for modality in sorted(modalities):
        settings: SpeechSettings | TextSettings = speech if modality == "speech" else text
        encoder = settings.encoder
        fixed = encoder in ("logmel", "words")
        given = []
        if settings.revision and (fixed or encoder.startswith("builtin:") or Path(encoder).expanduser().is_dir()):
            given.append("revision")
        given += ["layers"] if encoder == "words" and settings.layers != "all" else []
        given += ["precision"] if encoder == "logmel" and speech.precision != "float32" else []
        if given:
            raise SettingsError(
                f"encoder {encoder} has no {given[0]} to choose", where=f"{modality}.{given[0]}", remedy="leave it out"
            )


@contextmanager
def builtin_named(modalities: Iterable[str]) -> Iterator[None]:
    """Name the encoders that are always at hand in the remedy for one that is not."""
    try:
        yield
    except EncoderError as error:
        if str(error.where).startswith("builtin:"):
            raise
        ours = " ".join(f"--{one}-encoder builtin:{one}" for one in sorted(modalities))
        remedy = f"{error.remedy}, or use what comes with emofuse: {ours}"
        raise EncoderError(error.what, where=error.where, remedy=remedy) from error


def check_plan(manifest: pd.DataFrame, plan: Plan) -> None:
    """See that a manifest has what a plan needs of it, before anything is computed.

    Raises:
        ManifestError: It lacks audio, text, values or votes.
        ProtocolError: It lacks labels, or cannot be split.
    """
    check_modalities(manifest, plan.modalities)
    check_split(manifest, plan.protocol, values=plan.task.values)
    check_targets(manifest, plan)


def check_targets(manifest: pd.DataFrame, plan: Plan) -> None:
    """See that the labels and votes that a plan names are in a manifest, where that is labelled at all.

    Raises:
        ManifestError: There are no votes.
        ProtocolError: No utterance has such a label.
    """
    if plan.task.values or manifest["label"].isna().all():
        return
    if plan.learns_votes or plan.protocol.labels or plan.protocol.merge:
        classes = classes_of(manifest, plan.protocol)
        if plan.learns_votes:
            vote_fractions(manifest, classes, merge=plan.protocol.merge)


def extract(
    manifest: pd.DataFrame,
    plan: Plan,
    store: Path,
    *,
    alignments: Mapping[str, Alignment] | None = None,
    encoders: Encoders | None = None,
    device: str = "cpu",
    progress: Progress = Silent(),
) -> Features:
    """Bring the store up to what a plan reads of a manifest.

    An utterance without an alignment keeps its frames where a model reads phones, syllables or words.

    Args:
        manifest: What is encoded; where it is labelled, labels and votes that the plan names must be there.
        plan: The experiment.
        store: Folder of the feature store.
        alignments: By utterance, where models read phones, syllables or words.
        encoders: What encodes, where they are loaded already.
        device: Where to compute.
        progress: Reports progress.

    Raises:
        EncoderError: An encoder cannot be had.
        StoreError: The store is damaged, full or in use.
        ManifestError: No utterance has the modality that the recipe reads.
        AlignmentError: The recipe reads segments and there are no alignments.
    """
    check_device(device)
    check_modalities(manifest, plan.modalities)
    check_targets(manifest, plan)
    if alignments is None and plan.tiers:
        raise AlignmentError(
            f"the recipe reads {', '.join(plan.tiers)} segments and no alignment is given",
            remedy="run `emofuse align` and name its table with --alignments",
        )
    found = _coverage(manifest, alignments) if alignments is not None and plan.tiers else None
    encoders = encoders or load_encoders(plan, device=device)
    speech = text = None
    if encoders.speech is not None:
        speech = extract_speech(
            manifest,
            encoders.speech,
            plan.speech,
            store=store,
            granularities=plan.steps,
            alignments=alignments,
            progress=progress,
        )
    if encoders.text is not None:
        text = extract_text(
            manifest, encoders.text, plan.text, store=store, granularities=plan.text_steps, progress=progress
        )
    return Features(store=store, speech=speech, text=text, alignment=found)


def _coverage(manifest: pd.DataFrame, alignments: Mapping[str, Alignment]) -> Coverage:
    """How much of a manifest is aligned, whatever else the table of alignments holds.

    Raises:
        AlignmentError: The table is of other utterances.
    """
    names = [str(name) for name in manifest["utterance"]]
    if not any(name in alignments for name in names):
        raise AlignmentError(
            f"no utterance of the manifest, such as {names[0]!r}, is in the table of alignments",
            remedy="name the table that `emofuse align` made of this manifest",
        )
    absent = Alignment(utterance="", tiers={}, source="", problem="it is not in the table of alignments")
    return coverage(alignments.get(name) or replace(absent, utterance=name) for name in names)


@alone("out")
@kept_random_state()
def train(
    manifest: pd.DataFrame,
    plan: Plan,
    features: Features,
    out: Path,
    *,
    jobs: int | None = None,
    device: str = "cpu",
    log: Log | None = None,
    command: str = "",
    notes: Sequence[str] = (),
    skipped: Mapping[str, str] | None = None,
    progress: Progress = Silent(),
) -> Outcome:
    """Cross-validate every model of a plan, keep one of each trained on all speakers, and write what came out.

    Writes `protocol.json`, `scores.parquet`, `result.json` and `models/<model>/` into the run folder; trials
    that are done are not run again.

    Raises:
        ProtocolError: The corpus cannot be split as the settings say.
        SettingsError: The folder holds a run on another corpus, or one whose encoders are tuned.
        TrainingError: A training diverged; all others are done.
    """
    check_device(device)
    check_log(log)
    check_frozen(out)
    check_corpus(out, manifest)
    left_out = {**(skipped or {}), **{name: error.advice for name, error in features.failed.items()}}
    usable = manifest[~manifest["utterance"].isin(list(features.failed))].reset_index(drop=True)
    if usable.empty:
        raise ManifestError("no utterance can be used", remedy="see the reasons above and fix the recordings")
    protocol = make_protocol(usable, plan.protocol, values=plan.task.values)
    save_protocol(protocol, out / "protocol.json")
    data = training_data(usable, plan, protocol, features)
    splits = [(fold, seed) for fold in protocol.folds for seed in plan.seeds]
    trials = [Trial(model, *split) for model in plan.models for split in [*splits, (protocol.final, plan.seeds[0])]]
    jobs = process_count(jobs, device=device)
    run_trials(trials, data, out / TRIALS, jobs=jobs, device=device, log=log, progress=progress)

    tested = {model.name: _trial_scores(plan, model.name, splits, out, "scores") for model in plan.models}
    validated = {model.name: _trial_scores(plan, model.name, splits, out, "validation") for model in plan.models}
    ensembles, fusions = fuse_members(plan, tested, validated)
    controls = choose_controls(plan, validated)
    asked = [one for one in plan.ensembles if one.seeds]
    distinct = list(
        {one.name: one for one in [*asked, *(one for found in controls.values() for one in found)]}.values()
    )
    extra = [
        Trial(plan.model(name), fold, seed) for name, seed in extra_seeds(plan, distinct) for fold in protocol.folds
    ]
    run_trials(extra, data, out / TRIALS, jobs=jobs, device=device, log=log, progress=progress)
    over_seeds = [_control_scores(one, plan, protocol, out) for one in distinct]
    referred = {
        one.name: _trial_scores(plan, one.name, splits, out, REFERRED) for one in plan.models if one.takes_references
    }
    scores = join_scores([*tested.values(), *ensembles, *fuse_referred(plan, referred, fusions), *over_seeds])
    write_scores(scores, out / "scores.parquet")
    result = summarise(
        plan,
        protocol,
        usable,
        scores,
        skipped=left_out,
        name=plan.title,
        comparisons=_comparisons(scores, plan, controls),
        controls={
            name: {"members": several[0].seeds, "best": several[0].of[0], "controls": [one.name for one in several]}
            for name, several in controls.items()
        },
        certainty={one.name: one.certainty for one in plan.models}
        | {one.name: one.certainty for one in (*plan.ensembles, *distinct)},
        modalities={one.name: one.inputs.modalities for one in plan.models},
        tiers={one.name: one.inputs.tiers for one in plan.models},
        context=plan.text.context,
        languages=_languages(usable),
        encoders=_encoders(features, plan),
        layer_weights=layer_mixes(trials, out / TRIALS),
        curves=curves(trials, out / TRIALS),
        fused={
            one.name: {"of": one.of, "folds": {fold: asdict(how) for fold, how in fusions[one.name].items()}}
            for one in plan.ensembles
            if one.name in fusions
        },
        alignment=None if features.alignment is None else asdict(features.alignment),
        notes=[
            *notes,
            *features.notes,
            *_cut_notes(usable, [out / TRIALS / trial.folder / "words.json" for trial in trials]),
            *protocol.notes,
            *_alignment_notes(features.alignment),
            *fusion_notes(plan, folds=len(protocol.folds)),
            *_reference_notes(plan),
        ],
        corpus_notes=notes,
        command=command,
    )
    keep_models(plan, trials, data, {name: found[FINAL] for name, found in fusions.items()}, result, out)
    result.write(out)
    return Outcome(out=out, result=result, skipped=left_out)


@alone("out")
def run(
    recipe: Recipe,
    corpus: str,
    root: Path,
    out: Path,
    *,
    store: Path | None = None,
    alignments: Mapping[str, Alignment] | None = None,
    jobs: int | None = None,
    device: str = "cpu",
    log: Log | None = None,
    partial: bool = False,
    columns: Mapping[str, str] | None = None,
    options: Mapping[str, str] | None = None,
    command: str = "",
    progress: Progress = Silent(),
) -> Outcome:
    """Run a recipe on a corpus from recordings to report; what is already done is skipped.

    Args:
        recipe: The experiment.
        corpus: A name in `emofuse.corpora.CORPORA`.
        root: The corpus's folder (for `table` the file).
        out: The run folder.
        store: Feature store, to share one between runs; by default inside the run folder.
        alignments: By utterance, where models read phones, syllables or words; by default they are made.
        jobs: Parallel processes; by default one a core.
        device: Where to compute, as torch names it.
        log: What to write of each epoch into the trials' folders, such as `tensorboard`.
        partial: Accept an incomplete corpus.
        columns: For `table`: the table's name for a manifest column.
        options: What is read of the corpus, as its card offers it.
        command: What the user typed, for the report.
        progress: Reports progress.

    Raises:
        EmofuseError: The first thing that a person has to fix; `out` may hold a run on another corpus.
    """
    check_device(device)
    check_log(log)
    check_frozen(out)
    plan = resolve(recipe)
    found = read_corpus(corpus, root, partial=partial, columns=columns, options=options, progress=progress)
    check_corpus(out, found.manifest)
    check_plan(found.manifest, plan)
    encoders = load_encoders(plan, device=device)
    write_manifest(found.manifest, out / MANIFEST)
    manifest = read_manifest(out / MANIFEST)
    used = _used(manifest, plan)
    if alignments is None:
        alignments = align(used, plan, out / ALIGNMENTS, jobs=jobs, progress=progress)
    features = extract(
        used,
        plan,
        store or out / STORE,
        alignments=alignments,
        encoders=encoders,
        device=device,
        progress=progress,
    )
    outcome = train(
        manifest,
        plan,
        features,
        out,
        jobs=jobs,
        device=device,
        log=log,
        command=command,
        notes=found.notes,
        skipped=found.unread(root),
        progress=progress,
    )
    write_report(out, progress=progress)
    return outcome


def _used(manifest: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """The utterances that a plan trains or tests on; all where others are context of theirs."""
    if plan.text.context:
        return manifest
    names = make_protocol(manifest, plan.protocol, values=plan.task.values).utterances
    return manifest[manifest["utterance"].isin(names)].reset_index(drop=True)


def training_data(manifest: pd.DataFrame, plan: Plan, protocol: Protocol, features: Features) -> TrainingData:
    """What every trial of a plan reads."""
    data = TrainingData(
        task=task_of(plan, protocol),
        truth=protocol.truth,
        clusters=manifest.set_index("utterance")[["speaker", "session", "dialogue"]].astype("object"),
        store=features.store,
        speech_settings=plan.speech,
        text_settings=plan.text,
        facts=facts_of(manifest, plan, protocol),
    )
    if features.speech is not None:
        feature_sets = {name: feature_set.key for name, feature_set in features.speech.feature_sets.items()}
        bounds = features.speech.bounds
        data = replace(data, speech=feature_sets, speech_keys=features.speech.keys, bounds=bounds)
    if features.text is not None:
        texts = {name: feature_set.key for name, feature_set in features.text.feature_sets.items()}
        data = replace(data, text=texts, text_keys=features.text.keys)
    return data


def _cut_notes(manifest: pd.DataFrame, learned: Iterable[Path]) -> list[str]:
    """A line where texts are longer than what models read of them that learn subwords."""
    # Of all that were learned from parts of the same texts, one will do.
    subwords = next((Subwords.load(path) for path in learned if path.exists()), None)
    texts = {row.utterance: row.text or "" for row in utterances(manifest)}
    return count_notes(cut_notes(subwords, texts)) if subwords else []


def _reference_notes(plan: Plan) -> list[str]:
    """What scores with references are."""
    if not any(one.takes_references for one in plan.models):
        return []
    return [
        f"{TESTED} clips as reference: each utterance is centred on the mean features of {TESTED} random other test "
        "clips of its speaker, without their labels."
    ]


def _languages(manifest: pd.DataFrame) -> list[str]:
    """The languages of the words; none where not all are known."""
    spoken = manifest.loc[manifest["text"].notna(), "language"]
    return sorted(map(str, spoken.unique())) if len(spoken) and spoken.notna().all() else []


def _alignment_notes(found: Coverage | None) -> list[str]:
    if found is None:
        return []
    reasons = [f"{reason}; frames stand for its segments" for reason in found.reasons()]
    return [found.summary(), *reasons, *found.doubts(), *found.lacks()]


def _trial_scores(plan: Plan, name: str, splits: Sequence[tuple[Fold, int]], out: Path, part: str) -> Scores:
    """Scores of one network in several folds and seeds, on their `validation` or test part (`scores`)."""
    model = plan.model(name)
    return join_scores(
        [read_scores(out / TRIALS / Trial(model, *split).folder / f"{part}.parquet") for split in splits]
    )


def _control_scores(one: EnsemblePlan, plan: Plan, protocol: Protocol, out: Path) -> Scores:
    splits = [(fold, seed) for fold in protocol.folds for seed in seeds_of(one, plan)]
    tested, validated = (_trial_scores(plan, one.of[0], splits, out, part) for part in ("scores", "validation"))
    return fuse_seeds(one, plan, tested, validated)


def _comparisons(scores: Scores, plan: Plan, controls: Mapping[str, Sequence[EnsemblePlan]]) -> list[Comparison]:
    """Paired differences of every ensemble from its controls, of fused models from single modalities and each other."""
    singles = [one.name for one in plan.models if len(one.inputs.modalities) == 1]
    calibrated = [one.name for one in plan.ensembles if len(one.networks) == 1]
    fused = [name for name in plan.names if name not in (*singles, *calibrated)]
    pairs = [(name, control.name) for name, several in controls.items() for control in several]
    pairs += [(first, second) for first in fused for second in singles]
    pairs += [(second, first) for number, first in enumerate(fused) for second in fused[number + 1 :]]
    return compare(scores, pairs)


def _encoders(features: Features, plan: Plan) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for modality, extracted in (("speech", features.speech), ("text", features.text)):
        if extracted is not None:
            feature_set = next(iter(extracted.feature_sets.values()))
            found[modality] = asdict(feature_set.key.specification)
    if plan.trains_subwords:
        found["text"] = {"name": plan.text.encoder}
    return found
