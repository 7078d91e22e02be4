"""One self-contained page on a run: figures, plots, leakage, worst mistakes, and what is needed to repeat it."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd

from emofuse.errors import ScoresError
from emofuse.escape import one_line
from emofuse.files import written_atomically
from emofuse.manifest import read_manifest, scripted
from emofuse.progress import Progress, Silent, track
from emofuse.report import plots
from emofuse.report.figures import Figure, figures
from emofuse.report.mistakes import LONGEST, RANKED, Mistake, worst_mistakes
from emofuse.report.paper_table import table_files
from emofuse.report.plots import Plot
from emofuse.report.tables import (
    KINDS,
    comparisons,
    context_of,
    control_notes,
    encoder_rows,
    figure,
    fusion_rows,
    interval,
    percent,
    protocol_rows,
    setting_rows,
)
from emofuse.scoring.record import AGAIN, RESULT, AnyEntry, Copies, Leakage, Result, read_result
from emofuse.scoring.result import caution, counted
from emofuse.scoring.table import Scores, read_scores

_REPEATED = 0.99  # Fraction of test transcripts seen in training from which a corpus counts as fixed sentences.
_BEYOND_CHANCE = 0.05  # Agreement of labels, as a fraction of the way from chance to certainty, that counts as chance.


def write_report(run: Path, *, progress: Progress = Silent()) -> Path:
    """Write the page, the paper's table in three styles and the plots into a run folder, from the tables there.

    They are `report.html`, `table.md`, `table.tex`, `table.html` and `plots/*.png`.

    The page needs nothing beside itself: styles, plots and clips are inside, and no script is used.

    Args:
        run: A folder with `result.json`, `scores.parquet` and `manifest.parquet`.
        progress: Reports each model.

    Returns:
        The page.

    Raises:
        ScoresError: The folder, its result or its scores are missing or broken, or do not belong together.
        ManifestError: The manifest is missing or broken.
        OutputError: The folder cannot be written to.
    """
    loaded = _read(run)
    files: dict[str, bytes] = {}
    sections: list[_Section] = []
    stems: set[str] = set()
    for model in track(loaded.result.models, "Report", total=len(loaded.result.models), progress=progress):
        section = _model_section(loaded, model)
        sections.append(section)
        stem = _stem(model)
        # Two names may become one, also where a file system takes no notice of capitals.
        while stem.lower() in stems:
            stem += "-"
        stems.add(stem.lower())
        files |= {f"plots/{stem}-{one.name}.png": one.plot.png for one in section.figures}
    files |= table_files(loaded.result)
    files["report.html"] = _render(loaded, sections).encode("utf-8")
    _write(run, files)
    return run / "report.html"


@dataclass(frozen=True)
class _Run:
    result: Result
    scores: Scores
    manifest: pd.DataFrame

    @property
    def chance(self) -> float:
        """How often two utterances drawn blindly carry the same label."""
        if not self.scores.classes:
            return 0.0
        labels = self.scores.frame.drop_duplicates("utterance")["label"]
        return float((labels.value_counts(normalize=True) ** 2).sum())


@dataclass(frozen=True)
class _Section:
    """What the page shows of one model."""

    name: str
    figures: tuple[Figure, ...]
    mistakes: list[Mistake]


def _read(run: Path) -> _Run:
    if not run.is_dir():
        raise ScoresError("no such run folder", where=run, remedy="check the path, or make it with `emofuse run`")
    result = read_result(run)
    scores = read_scores(run / "scores.parquet")
    for model, entry in result.models.items():
        # Plots and mistakes are drawn from the scores, tables from the result: both must be of the same predictions.
        known = model in scores.models and scores.kind is entry.kind and list(scores.names) == entry.names
        if not known or not _agree(entry, scores.of(model)):
            raise ScoresError(
                f"the figures of model {model!r} do not come from scores.parquet", where=run / RESULT, remedy=AGAIN
            )
    return _Run(result, scores, read_manifest(run / "manifest.parquet"))


def _agree(entry: AnyEntry, scores: Scores) -> bool:
    seeds = pd.factorize(scores.frame["seed"])[0].astype(np.int64)
    return scores.kind.agrees(entry, scores.truth(), scores.outputs(), seeds)


def _write(run: Path, files: Mapping[str, bytes]) -> None:
    # All are written before the first gets its name.
    with ExitStack() as stack:
        for name, content in files.items():
            stack.enter_context(written_atomically(run / name)).write_bytes(content)


def _stem(name: str) -> str:
    """A file name for a model or modality, whatever its own name holds."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.") or "model"


def _model_section(run: _Run, model: str) -> _Section:
    scores = run.scores.of(model)
    drawn = list(figures(run.result.models[model], scores))
    for modality, trials in run.result.layer_weights.get(model, {}).items():
        if trials and len(trials[0]) > 1:
            drawn.append(
                Figure(
                    f"layers-{_stem(modality)}",
                    f"Learned layer weights, {one_line(modality)}: mean over {_count(len(trials), 'trained model')}, "
                    "standard deviation (black), extremes (orange); dotted: all layers alike.",
                    plots.layer_plot(trials, _layers(run, modality, trials, model=model)),
                )
            )
    if learned := run.result.curves.get(model):
        drawn.append(
            Figure(
                "learning",
                f"Learning curves of {_count(len(learned), 'trial')} (a fold and a seed each; thick: their mean).",
                plots.learning_plot(learned),
            )
        )
    return _Section(model, tuple(drawn), worst_mistakes(scores, run.manifest))


def _layers(run: _Run, modality: str, trials: Sequence[Sequence[float]], *, model: str) -> list[int]:
    """Number of each weighted layer in its encoder."""
    if len({len(trial) for trial in trials}) != 1:
        raise ScoresError(
            f"the {modality} layer weights of model {model!r} differ in number", where=RESULT, remedy=AGAIN
        )
    selected = run.result.encoders[modality].selected if modality in run.result.encoders else []
    return selected if len(selected) == len(trials[0]) else list(range(len(trials[0])))


def _render(run: _Run, sections: Sequence[_Section]) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    kind, result = run.scores.kind, run.result
    shown = {"figure": partial(figure, kind=kind), "interval": partial(interval, kind=kind)}
    environment.filters.update(percent=percent, line=one_line, **shown)
    environment.globals.update(data_uri=_data_uri)
    template = resources.files("emofuse.report").joinpath("page.html").read_text(encoding="utf-8")
    leakage, empty_words = _leakage(run)
    return environment.from_string(template).render(
        title=result.name or "Emotion recognition",
        corpus=result.corpus or "unnamed corpus",
        summary=_summary(run),
        warnings=_warnings(run, empty_words=empty_words),
        notes=result.notes,
        kind=kind,
        titles=kind.titles,
        ranked=RANKED[kind],
        models=result.models,
        parts=result.parts,
        comparisons=comparisons(result),
        controls=control_notes(result),
        empty_words=empty_words,
        definitions=kind.definitions,
        intervals=_intervals(run),
        sections=sections,
        fusions=fusion_rows(result),
        leakage=leakage,
        longest=LONGEST,
        skipped=result.skipped,
        protocol=protocol_rows(result),
        encoders=encoder_rows(result),
        recipe=list(setting_rows(result.recipe)),
        command=result.command,
        versions=result.versions,
    )


def _data_uri(plot: Plot) -> str:
    return "data:image/png;base64," + base64.b64encode(plot.png).decode("ascii")


def _count(number: int, thing: str) -> str:
    """A number with its noun.

    Example:
        >>> _count(1, "seed"), _count(8, "class")
        ('1 seed', '8 classes')
    """
    plural = thing + ("es" if thing.endswith("s") else "s")
    return f"{number} {thing if number == 1 else plural}"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _summary(run: _Run) -> str:
    result, first = run.result, run.result.first
    names = [one_line(name) for name in result.models]
    kind = result.protocol.kind
    split = f" ({KINDS.get(kind, kind)})" if kind else ""
    subject = f"The model {names[0]} was" if len(names) == 1 else f"The models {_and(names)} were each"
    speakers = "" if first.cluster != "speaker" else f" of {counted(first.clusters, 'speaker')}"
    text = (
        f"{subject} trained with {_count(len(first.seeds), 'seed')} in {_count(first.folds, 'fold')}{split} and "
        f"tested on {_count(first.utterances, 'utterance')}{speakers}{_predicted(run.scores)}."
    )
    if "text" in result.encoders and result.text_sources:
        text += f" Transcripts: {_and([one_line(name) for name in result.text_sources])}."
    if result.context:
        text += f" The text encoder also reads {context_of(result)}."
    return text


def _predicted(scores: Scores) -> str:
    """What the models predict, in words."""
    if scores.classes:
        return f" in {_count(len(scores.classes), 'class')}"
    return f", whose {_and([one_line(name) for name in scores.values])} they predict"


def _intervals(run: _Run) -> list[str]:
    """How the intervals were made, and how far they can be trusted."""
    first = run.result.first
    cluster, over = first.cluster, counted(first.clusters, first.cluster)
    pairs = len(run.result.comparisons)
    lines = [
        f"Intervals of one model cover 95 %: Student's t over {over}, {run.scores.kind.scales}, with what each adds to "
        f"the metric, all its utterances and seeds together. They show how much the figures would move with other "
        f"{cluster}s, not with another corpus.",
        "Seed SD is the standard deviation between trainings that differ in their random seed only.",
        f"Comparisons are sign-flip tests over the same {over}: under chance, which of two models is which could be "
        "exchanged in each. The interval holds all differences that this test does not reject at 5 %. p is two-sided; "
        f"beside it is Holm's correction over the {_count(pairs, 'comparison')} of each metric, by which a difference "
        "is called higher.",
    ]
    if ties := {name: entry.ties for name, entry in run.result.models.items() if entry.ties}:
        counts = ", ".join(f"{one_line(name)} {count}" for name, count in ties.items())
        lines.append(f"Answers in which classes tie count in equal parts for each of them: {counts} of {first.rows}.")
    return lines


def _leakage(run: _Run) -> tuple[list[str], str]:
    """What training and test share, in words; and a caution where its words say nothing about the label."""
    found = run.result.protocol.leakage
    if not found:
        return [], ""
    lines = []
    for column in ("speaker", "dialogue"):
        shared = getattr(found, f"{column}s")
        if run.manifest[column].isna().all():
            lines.append(f"{column.capitalize()}s are not known in this corpus, so it is not known what is shared.")
        elif shared:
            lines.append(f"Up to {_count(shared, column)} of a fold's test part also occur in its training part.")
        else:
            lines.append(f"No {column} of a test part occurs in training.")
    if found.scripts is not None and scripted(run.manifest).any():
        if found.scripts:
            lines.append(
                f"Up to {_count(found.scripts, 'script')} whose words were given occur in a fold's test part and in "
                "its training part; --set protocol.apart=script makes folds that share none."
            )
        else:
            lines.append("No script of a test part whose words were given occurs in training.")
    lines += _validation_leakage(found, run.manifest)
    exact, near, chance = found.exact, found.near, run.chance
    empty = False
    if exact is None or exact.fraction is None:
        lines.append("There are no transcripts to compare.")
        return lines, ""
    lines.append(
        f"{percent(exact.fraction)} % of the test transcripts occur in training word for word"
        f"{_agreeing(exact, chance)}."
    )
    if near is None:
        lines.append("Near-duplicates were not counted: there are too many transcripts.")
    elif near.fraction == 0:
        lines.append("No other test transcript occurs there almost word for word.")
    elif near.fraction is not None:
        lines.append(f"Another {percent(near.fraction)} % occur there almost word for word{_agreeing(near, chance)}.")
    if exact.fraction >= _REPEATED and exact.agreement is not None:
        empty = (exact.agreement - chance) / max(1 - chance, 1e-9) < _BEYOND_CHANCE
        if not empty:
            lines.append(
                "Practically every transcript was seen in training, more often than by chance with the same label: a "
                "model of words can answer from memory, and its figures do not hold for new sentences."
            )
    return lines, EMPTY_WORDS if empty else ""


def _validation_leakage(found: Leakage, manifest: pd.DataFrame) -> list[str]:
    """What validation, which chooses the epoch, shares with training: in the folds, and in the split of kept models."""
    lines = []
    for part, name in ((found.validation, "a fold"), (found.final, "the kept models")):
        if part is None:
            continue
        known = [column for column in ("speaker", "dialogue") if manifest[column].notna().any()]
        known += ["script"] if scripted(manifest).any() else []
        shared = {one: getattr(part, f"{one}s") for one in known}
        counts = [f"up to {_count(count, one)}" if count else f"no {one}" for one, count in shared.items()]
        if part.exact and part.exact.fraction is not None:
            counts.append(f"{percent(part.exact.fraction)} % of its transcripts word for word")
        if part.near and part.near.fraction:
            counts.append(f"another {percent(part.near.fraction)} % almost so")
        if counts:
            lines.append(f"The validation part of {name} shares with its training part: {', '.join(counts)}.")
    return lines


def _agreeing(part: Copies, chance: float) -> str:
    if part.agreement is None:
        return ""
    text = (
        f"; those copies carry the same label in {percent(part.agreement)} % of cases (by chance: {percent(chance)} %)"
    )
    if part.lookup is not None:
        text += f", and to answer with their most frequent label is right in {percent(part.lookup)} %"
    return text


EMPTY_WORDS = (
    "Every transcript of the test parts occurs in training, with labels that agree no more often than by chance: the "
    "words carry no label information in this corpus. It cannot show what fusing speech with text gains."
)


def _warnings(run: _Run, *, empty_words: str) -> list[str]:
    lines = [empty_words] if empty_words else []
    leakage = run.result.protocol.leakage
    if leakage and leakage.speakers:
        lines.append(
            f"This split is not speaker-independent: up to {_count(leakage.speakers, 'speaker')} are in training and "
            "test."
        )
    corpora = run.result.sources or [name for name in run.result.corpus.split(", ") if name]
    for modality, encoder in run.result.encoders.items():
        if seen := [one_line(one) for one in corpora if any(_same_corpus(one, name) for name in encoder.exposure)]:
            lines.append(
                f"The {modality} encoder {one_line(encoder.name)} is known to have seen {_and(seen)} "
                "in its own training: its figures on this corpus are optimistic."
            )
    if few := caution(run.result.first):
        lines.append(f"{few[0].upper()}{few[1:]}.")
    return lines


def _same_corpus(corpus: str, exposure: str) -> bool:
    """Whether an exposure names the corpus, alone or within a longer remark.

    Example:
        >>> _same_corpus("emodb", "Emo-DB"), _same_corpus("iemocap", "IEMOCAP (train)"), _same_corpus("mine", "mined")
        (True, True, False)
    """
    ours, theirs = (re.sub(r"[\W_]+", "", name.lower()) for name in (corpus, exposure))
    words = re.findall(r"[^\W_]+", exposure.lower())
    return bool(ours) and (ours == theirs or ours in words)
