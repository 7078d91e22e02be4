"""The whole chain, and its parts: corpus to manifest, features, folds x seeds, scores, result, kept models."""

from __future__ import annotations

import json
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
from emofuse.encoders import SpeechEncoder, TextEncoder, is_trained_with_model, load_speech_encoder, load_text_encoder
from emofuse.encoders.words import WordPieces
from emofuse.errors import AlignmentError, EmofuseError, EncoderError, ManifestError, SettingsError
from emofuse.features.extract import Extracted, cut_notes, extract_speech, extract_text
from emofuse.files import write_text
from emofuse.keep import keep_models
from emofuse.locks import alone
from emofuse.manifest import (
    check_place,
    parts,
    read_manifest,
    sources_of,
    text_sources,
    utterances,
    vote_shares,
    write_manifest,
)
from emofuse.models.device import check_device
from emofuse.progress import Progress, Silent
from emofuse.protocols import FINAL, Protocol, check_split, classes_of, make_protocol, save_protocol
from emofuse.report import write_report
from emofuse.scoring.result import compare, evaluate, evaluate_parts, tested_fingerprint, versions
from emofuse.scoring.table import Scores, join_scores, read_scores, write_scores
from emofuse.settings import ModelKind, Recipe, SpeechSettings, TextSettings
from emofuse.training.ensembles import Control, choose_controls, extra_seeds, join_control, join_members, joining_notes
from emofuse.training.folder import MANIFEST, RESULT, UNITS, check_corpus, check_frozen
from emofuse.training.material import (
    Material,
    check_streams,
    granularities_of,
    streams_of,
    text_granularity_of,
    trained_kinds,
)
from emofuse.training.units import Unit, read_unit, run_units
from emofuse.types import TIERS, Alignment, Fold
from emofuse.workers import process_count

ALIGNMENTS, STORE = "alignments.parquet", "features"
SINGLE = ("speech", "text")


@dataclass(frozen=True, kw_only=True)
class Features:
    """Stored features of a manifest, and what could not be used.

    Attributes:
        store: Folder of the feature store.
        speech: What speech extraction left; None where no model reads speech.
        text: What text extraction left; None where no model reads text, or word pieces are trained.
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
    result: Mapping[str, Any]
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
    manifest: pd.DataFrame, recipe: Recipe, out: Path, *, jobs: int | None = None, progress: Progress = Silent()
) -> Mapping[str, Alignment]:
    """Align a manifest where a model of the recipe reads words, syllables or phones, and write the table `out`.

    Unless the recipe names an aligner, utterances of a corpus that ships alignments are aligned as it ships them, where
    their words are the reference's, and all others by Sphinx. Frames stand for the segments of those that cannot be
    aligned, such as those whose shipped files are absent. What `out` holds already is kept.

    Raises:
        AlignmentError: `out` is something else.
    """
    if not _tiers(recipe):
        return {}
    by = recipe.align
    return align_manifest(manifest, out, aligner=by.aligner, model=by.model, jobs=jobs, progress=progress)


def _tiers(recipe: Recipe) -> list[str]:
    """Tiers of the alignment that some model of the recipe reads."""
    read = {step for kind in trained_kinds(recipe) for step in granularities_of(kind, recipe)}
    return [tier for tier in TIERS if tier in read]


@dataclass(frozen=True, kw_only=True)
class Encoders:
    """The encoders of a recipe; None where no model reads the stream, or word pieces are trained with the model."""

    speech: SpeechEncoder | None
    text: TextEncoder | None


def load_encoders(recipe: Recipe, *, device: str = "cpu") -> Encoders:
    """Load the encoders that a recipe reads.

    Raises:
        EncoderError: One cannot be had; the remedy names what is always at hand.
    """
    streams = {stream for kind in trained_kinds(recipe) for stream in streams_of(kind)}
    reads_text = "text" in streams and not is_trained_with_model(recipe.text.encoder)
    check_encoder_settings(recipe, streams)
    with builtin_named(streams):
        return Encoders(
            speech=load_speech_encoder(recipe.speech, device=device) if "speech" in streams else None,
            text=load_text_encoder(recipe.text, device=device) if reads_text else None,
        )


def check_encoder_settings(recipe: Recipe, streams: Iterable[str]) -> None:
    """See that no setting is asked of an encoder that has nothing of the sort.

    Raises:
        SettingsError: One is.
    """
    for stream in sorted(streams):
        settings: SpeechSettings | TextSettings = recipe.speech if stream == "speech" else recipe.text
        encoder = settings.encoder
        fixed = encoder in ("logmel", "words")
        given = []
        if settings.revision and (fixed or encoder.startswith("builtin:") or Path(encoder).expanduser().is_dir()):
            given.append("revision")
        given += ["layers"] if encoder == "words" and settings.layers != "all" else []
        given += ["precision"] if encoder == "logmel" and recipe.speech.precision != "float32" else []
        if given:
            raise SettingsError(
                f"encoder {encoder} has no {given[0]} to choose", where=f"{stream}.{given[0]}", remedy="leave it out"
            )


@contextmanager
def builtin_named(streams: Iterable[str]) -> Iterator[None]:
    """Name the encoders that are always at hand in the remedy for one that is not."""
    try:
        yield
    except EncoderError as error:
        if str(error.where).startswith("builtin:"):
            raise
        ours = " ".join(f"--{stream}-encoder builtin:{stream}" for stream in sorted(streams))
        remedy = f"{error.remedy}, or use what comes with emofuse: {ours}"
        raise EncoderError(error.what, where=error.where, remedy=remedy) from error


def check_recipe(manifest: pd.DataFrame, recipe: Recipe, *, kind: ModelKind | None = None) -> None:
    """See that a manifest has what a recipe needs of it, before anything is computed.

    Args:
        manifest: What would be run on.
        recipe: The experiment.
        kind: The model that is tuned with its encoders; by default those that the recipe trains on stored features.

    Raises:
        ManifestError: It lacks sound, text or votes.
        ProtocolError: It lacks labels, or cannot be split.
    """
    check_streams(manifest, (kind,) if kind else trained_kinds(recipe))
    check_split(manifest, recipe.protocol)
    check_labels(manifest, recipe, kind=kind)


def check_labels(manifest: pd.DataFrame, recipe: Recipe, *, kind: ModelKind | None = None) -> None:
    """See that the labels and votes that a recipe names are in a manifest, where that is labelled at all.

    Raises:
        ManifestError: There are no votes.
        ProtocolError: Nobody has such a label.
    """
    if manifest["label"].isna().all():
        return
    soft = learns_votes(recipe, kind)
    if soft or recipe.protocol.labels or recipe.protocol.merge:
        classes = classes_of(manifest, recipe.protocol)
        if soft:
            vote_shares(manifest, classes, merge=recipe.protocol.merge)


def learns_votes(recipe: Recipe, kind: ModelKind | None = None) -> bool:
    """Whether some model learns from votes: one that is tuned with its encoders, or those on stored features."""
    if kind:
        return bool(recipe.finetune_of(kind).soft_labels)
    return any(recipe.train_of(one).soft_labels for one in trained_kinds(recipe))


def extract(
    manifest: pd.DataFrame,
    recipe: Recipe,
    store: Path,
    *,
    alignments: Mapping[str, Alignment] | None = None,
    encoders: Encoders | None = None,
    device: str = "cpu",
    progress: Progress = Silent(),
) -> Features:
    """Bring the store up to what a recipe reads of a manifest.

    An utterance without an alignment keeps its frames where a model reads phones, syllables or words.

    Args:
        manifest: What is encoded; where it is labelled, labels and votes that the recipe names must be there.
        recipe: The experiment.
        store: Folder of the feature store.
        alignments: By utterance, where models read phones, syllables or words.
        encoders: What encodes, where they are loaded already.
        device: Where to compute.
        progress: Told how far the work is.

    Raises:
        EncoderError: An encoder cannot be had.
        StoreError: The store is damaged, full or in use.
        ManifestError: No utterance has the stream that the recipe reads.
        AlignmentError: The recipe reads segments and there are no alignments.
    """
    check_device(device)
    kinds = trained_kinds(recipe)
    check_streams(manifest, kinds)
    check_labels(manifest, recipe)
    if alignments is None and _tiers(recipe):
        raise AlignmentError(
            f"the recipe reads {', '.join(_tiers(recipe))} segments and no alignment is given",
            remedy="run `emofuse align` and name its table with --alignments",
        )
    found = _coverage(manifest, alignments) if alignments is not None and _tiers(recipe) else None
    encoders = encoders or load_encoders(recipe, device=device)
    speech = text = None
    if encoders.speech is not None:
        granularities = sorted(
            {one for kind in kinds if "speech" in streams_of(kind) for one in granularities_of(kind, recipe)}
        )
        speech = extract_speech(
            manifest,
            encoders.speech,
            recipe.speech,
            store=store,
            granularities=granularities,
            alignments=alignments,
            progress=progress,
        )
    if encoders.text is not None:
        steps = sorted({text_granularity_of(kind) for kind in kinds if "text" in streams_of(kind)})
        text = extract_text(manifest, encoders.text, recipe.text, store=store, granularities=steps, progress=progress)
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
def train(
    manifest: pd.DataFrame,
    recipe: Recipe,
    features: Features,
    out: Path,
    *,
    jobs: int | None = None,
    device: str = "cpu",
    command: str = "",
    notes: Sequence[str] = (),
    skipped: Mapping[str, str] | None = None,
    progress: Progress = Silent(),
) -> Outcome:
    """Cross-validate every model of a recipe, keep one of each trained on all speakers, and write what came out.

    Writes `protocol.json`, `scores.parquet`, `result.json` and `models/<model>/` into the run folder; units that
    are done are not run again.

    Raises:
        ProtocolError: The corpus cannot be split as asked.
        SettingsError: The folder holds a run on another corpus, or one whose encoders are tuned.
        TrainingError: A training diverged; all others are done.
    """
    check_device(device)
    check_frozen(out)
    check_corpus(out, manifest)
    left_out = {**(skipped or {}), **{name: error.advice for name, error in features.failed.items()}}
    usable = manifest[~manifest["utterance"].isin(list(features.failed))].reset_index(drop=True)
    if usable.empty:
        raise ManifestError("no utterance can be used", remedy="see the reasons above and fix the recordings")
    protocol = make_protocol(usable, recipe.protocol)
    save_protocol(protocol, out / "protocol.json")
    material = _material(usable, recipe, protocol, features)
    kinds = trained_kinds(recipe)
    folds = [(fold, seed) for fold in protocol.folds for seed in recipe.seeds]
    final = (protocol.final, recipe.seeds[0])
    units = [Unit(kind, *split) for kind in kinds for split in [*folds, final]]
    run_units(units, material, out / UNITS, jobs=process_count(jobs, device=device), device=device, progress=progress)

    tested = {kind: _unit_scores(kind, folds, out, "scores") for kind in kinds}
    validated = {kind: _unit_scores(kind, folds, out, "validation") for kind in kinds}
    ensembles, joinings = join_members(recipe, tested, validated)
    controls = choose_controls(recipe, validated)
    extra = [Unit(kind, fold, seed) for kind, seed in extra_seeds(recipe, controls) for fold in protocol.folds]
    run_units(extra, material, out / UNITS, jobs=process_count(jobs, device=device), device=device, progress=progress)
    scores = join_scores([*tested.values(), *ensembles, *_control_scores(controls, recipe, protocol, out)])
    write_scores(scores, out / "scores.parquet")
    result = {
        "name": recipe.name,
        "corpus": ", ".join(sorted(usable["corpus"].dropna().unique())),
        "sources": sources_of(usable),
        "models": evaluate(scores),
        "parts": evaluate_parts(scores, parts(usable)),
        "comparisons": _comparisons(scores, controls),
        "controls": {
            kind: {"members": several[0].members, "best": several[0].kind, "controls": [one.name for one in several]}
            for kind, several in controls.items()
        },
        "protocol": {
            **protocol.settings.model_dump(mode="json"),
            "fingerprint": protocol.fingerprint,
            "tested_fingerprint": tested_fingerprint(scores),
            "classes": list(protocol.classes),
            "folds": len(protocol.folds),
            "utterances": len(protocol.labels),
            "speakers": int(usable["speaker"].nunique()),
            "leakage": protocol.leakage,
        },
        "text_sources": text_sources(usable[usable["utterance"].isin(list(protocol.labels))]),
        "context": recipe.text.context,
        "languages": _languages(usable),
        "encoders": _encoders(features, recipe),
        "layer_weights": _layer_weights(units, out),
        "joined": {kind: {name: asdict(one) for name, one in found.items()} for kind, found in joinings.items()},
        "recipe": recipe.model_dump(mode="json"),
        "skipped": [{"utterance": name, "reason": reason} for name, reason in left_out.items()],
        "alignment": None if features.alignment is None else asdict(features.alignment),
        "notes": [
            *notes,
            *features.notes,
            *_cut_notes(usable, [out / UNITS / unit.folder / "words.json" for unit in units]),
            *protocol.notes,
            *_alignment_notes(features.alignment),
            *joining_notes(recipe, folds=len(protocol.folds)),
        ],
        "corpus_notes": list(notes),
        "versions": versions(),
        "command": command,
    }
    keep_models(units, material, {kind: found[FINAL] for kind, found in joinings.items()}, result, out)
    write_text(out / RESULT, json.dumps(result, indent=1, ensure_ascii=False))
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
    partial: bool = False,
    columns: Mapping[str, str] | None = None,
    options: Mapping[str, str] | None = None,
    command: str = "",
    progress: Progress = Silent(),
) -> Outcome:
    """Run a recipe on a corpus from sound files to report; what is already done is skipped.

    Args:
        recipe: The experiment.
        corpus: A name in `emofuse.corpora.CORPORA`.
        root: The corpus's folder (for `table` the file).
        out: The run folder.
        store: Feature store, to share one between runs; by default inside the run folder.
        alignments: By utterance, where models read phones, syllables or words; by default they are made.
        jobs: Parallel processes; by default one a core.
        device: Where to compute, as torch names it.
        partial: Accept an incomplete corpus.
        columns: For `table`: the table's name for a manifest column.
        options: What is read of the corpus, as its card offers it.
        command: What the user typed, for the report.
        progress: Told how far the work is.

    Raises:
        EmofuseError: The first thing that a person has to mend; `out` may hold a run on another corpus.
    """
    check_device(device)
    check_frozen(out)
    found = read_corpus(corpus, root, partial=partial, columns=columns, options=options, progress=progress)
    check_corpus(out, found.manifest)
    check_recipe(found.manifest, recipe)
    encoders = load_encoders(recipe, device=device)
    write_manifest(found.manifest, out / MANIFEST)
    manifest = read_manifest(out / MANIFEST)
    if alignments is None:
        alignments = align(manifest, recipe, out / ALIGNMENTS, jobs=jobs, progress=progress)
    features = extract(
        manifest,
        recipe,
        store or out / STORE,
        alignments=alignments,
        encoders=encoders,
        device=device,
        progress=progress,
    )
    outcome = train(
        manifest,
        recipe,
        features,
        out,
        jobs=jobs,
        device=device,
        command=command,
        notes=found.notes,
        skipped=found.unread(root),
        progress=progress,
    )
    write_report(out, progress=progress)
    return outcome


def _material(manifest: pd.DataFrame, recipe: Recipe, protocol: Protocol, features: Features) -> Material:
    material = Material(
        recipe=recipe,
        classes=protocol.classes,
        labels=protocol.labels,
        clusters=manifest.set_index("utterance")[["speaker", "session", "dialogue"]].astype("object"),
        store=features.store,
        texts={row.utterance: row.text or "" for row in utterances(manifest)},
    )
    if learns_votes(recipe):
        material = replace(material, votes=vote_shares(manifest, protocol.classes, merge=recipe.protocol.merge))
    if features.speech is not None:
        views = {name: view.key for name, view in features.speech.views.items()}
        bounds = features.speech.bounds
        material = replace(material, speech=views, speech_keys=features.speech.keys, bounds=bounds)
    if features.text is not None:
        texts = {name: view.key for name, view in features.text.views.items()}
        material = replace(material, text=texts, text_keys=features.text.keys)
    return material


def _cut_notes(manifest: pd.DataFrame, learned: Iterable[Path]) -> list[str]:
    """A line where texts are longer than what models read of them that learn word pieces."""
    # Of all that were learned from parts of the same texts, one will do.
    pieces = next((WordPieces.load(path) for path in learned if path.exists()), None)
    texts = {row.utterance: row.text or "" for row in utterances(manifest)}
    return count_notes(cut_notes(pieces, texts)) if pieces else []


def _languages(manifest: pd.DataFrame) -> list[str]:
    """The languages of the words; none where not all are known."""
    spoken = manifest.loc[manifest["text"].notna(), "language"]
    return sorted(map(str, spoken.unique())) if len(spoken) and spoken.notna().all() else []


def _alignment_notes(found: Coverage | None) -> list[str]:
    if found is None:
        return []
    reasons = [f"{reason}; frames stand for its segments" for reason in found.reasons()]
    return [found.summary(), *reasons, *found.doubts(), *found.lacks()]


def _unit_scores(kind: ModelKind, splits: Sequence[tuple[Fold, int]], out: Path, part: str) -> Scores:
    """Scores of one network in several folds and seeds, on their `validation` or test part (`scores`)."""
    return join_scores([read_scores(out / UNITS / Unit(kind, *split).folder / f"{part}.parquet") for split in splits])


def _control_scores(
    controls: Mapping[ModelKind, Sequence[Control]], recipe: Recipe, protocol: Protocol, out: Path
) -> Iterator[Scores]:
    """Scores of every control, each once."""
    for one in dict.fromkeys(control for several in controls.values() for control in several):
        splits = [(fold, seed) for fold in protocol.folds for seed in one.seeds(recipe)]
        tested, validated = (_unit_scores(one.kind, splits, out, part) for part in ("scores", "validation"))
        yield join_control(one, recipe, tested, validated)


def _comparisons(scores: Scores, controls: Mapping[ModelKind, Sequence[Control]]) -> list[dict[str, Any]]:
    """Paired differences of every ensemble from its controls, of fused models from single streams and each other."""
    apart = {control.name for several in controls.values() for control in several}
    singles = [name for name in scores.models if name in SINGLE]
    fused = [name for name in scores.models if name not in SINGLE and name not in apart]
    pairs = [(str(kind), control.name) for kind, several in controls.items() for control in several]
    pairs += [(first, second) for first in fused for second in singles]
    pairs += [(second, first) for number, first in enumerate(fused) for second in fused[number + 1 :]]
    return compare(scores, pairs)


def _encoders(features: Features, recipe: Recipe) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for stream, extracted in (("speech", features.speech), ("text", features.text)):
        if extracted is not None:
            view = next(iter(extracted.views.values()))
            found[stream] = asdict(view.key.specification)
    if any("text" in streams_of(kind) for kind in trained_kinds(recipe)) and features.text is None:
        found["text"] = {"name": recipe.text.encoder}
    return found


def _layer_weights(units: Iterable[Unit], out: Path) -> dict[str, dict[str, list[list[float]]]]:
    found: dict[str, dict[str, list[list[float]]]] = {}
    for unit in units:
        if unit.fold.test:
            for stream, weights in read_unit(out / UNITS / unit.folder)["layer_weights"].items():
                if len(weights) > 1:
                    found.setdefault(unit.kind, {}).setdefault(stream, []).append(weights)
    return found
