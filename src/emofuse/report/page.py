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
from typing import Any

import numpy as np
import pandas as pd

from emofuse.errors import ScoresError
from emofuse.escape import one_line
from emofuse.files import read_json, written_atomically
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
from emofuse.scoring.record import AGAIN, check_result
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
    for model in track(loaded.models, "Report", total=len(loaded.models), progress=progress):
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
    result: Mapping[str, Any]
    models: Mapping[str, Mapping[str, Any]]
    scores: Scores
    manifest: pd.DataFrame

    @property
    def chance(self) -> float:
        """How often two utterances drawn blindly carry the same label."""
        if not self.scores.classes:
            return 0.0
        labels = self.scores.frame.drop_duplicates("utterance")["label"]
        return float((labels.value_counts(normalize=True) ** 2).sum())

    def section(self, name: str) -> Mapping[str, Any]:
        """A part of the result that may be absent."""
        return self.result.get(name) or {}


@dataclass(frozen=True)
class _Section:
    """What the page shows of one model."""

    name: str
    figures: tuple[Figure, ...]
    mistakes: list[Mistake]


def _read(run: Path) -> _Run:
    if not run.is_dir():
        raise ScoresError("no such run folder", where=run, remedy="check the path, or make it with `emofuse run`")
    path = run / "result.json"
    try:
        result = read_json(path)
    except FileNotFoundError as error:
        raise ScoresError("there is no result.json in this folder", where=run, remedy=AGAIN) from error
    except (OSError, ValueError) as error:
        raise ScoresError(f"this cannot be read as JSON ({error})", where=path, remedy=AGAIN) from error
    models = check_result(result, where=path)["models"]
    scores = read_scores(run / "scores.parquet")
    for model, entry in models.items():
        # Plots and mistakes are drawn from the scores, tables from the result: both must be of the same predictions.
        known = model in scores.models and list(scores.names) == entry.get(scores.kind.noun)
        if not known or not _agree(entry, scores.of(model)):
            raise ScoresError(
                f"the figures of model {model!r} do not come from scores.parquet", where=path, remedy=AGAIN
            )
    return _Run(result, models, scores, read_manifest(run / "manifest.parquet"))


def _agree(entry: Mapping[str, Any], scores: Scores) -> bool:
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
    drawn = list(figures(run.models[model], scores))
    for modality, trials in (run.section("layer_weights").get(model) or {}).items():
        if trials and len(trials[0]) > 1:
            drawn.append(
                Figure(
                    f"layers-{_stem(modality)}",
                    f"Learned layer weights, {one_line(modality)}: mean over {_count(len(trials), 'trained model')}, "
                    "standard deviation (black), extremes (orange); dotted: all layers alike.",
                    plots.layer_plot(trials, _layers(run, modality, trials, model=model)),
                )
            )
    if trials := run.section("curves").get(model):
        drawn.append(
            Figure(
                "learning",
                f"Learning curves of {_count(len(trials), 'trial')} (a fold and a seed each; thick: their mean).",
                plots.learning_plot(trials),
            )
        )
    return _Section(model, tuple(drawn), worst_mistakes(scores, run.manifest))


def _layers(run: _Run, modality: str, trials: Sequence[Sequence[float]], *, model: str) -> list[int]:
    """Number of each weighted layer in its encoder."""
    if len({len(trial) for trial in trials}) != 1:
        raise ScoresError(
            f"the {modality} layer weights of model {model!r} differ in number", where="result.json", remedy=AGAIN
        )
    selected = (run.section("encoders").get(modality) or {}).get("selected") or ()
    return list(selected) if len(selected) == len(trials[0]) else list(range(len(trials[0])))


def _render(run: _Run, sections: Sequence[_Section]) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    kind = run.scores.kind
    shown = {"figure": partial(figure, kind=kind), "interval": partial(interval, kind=kind)}
    environment.filters.update(percent=percent, line=one_line, **shown)
    environment.globals.update(data_uri=_data_uri)
    template = resources.files("emofuse.report").joinpath("page.html").read_text(encoding="utf-8")
    leakage, empty_words = _leakage(run)
    return environment.from_string(template).render(
        title=str(run.result.get("name") or "Emotion recognition"),
        corpus=str(run.result.get("corpus") or "unnamed corpus"),
        summary=_summary(run),
        warnings=_warnings(run, empty_words=empty_words),
        notes=[str(note) for note in run.section("notes")],
        kind=kind,
        titles=kind.titles,
        ranked=RANKED[kind],
        models=run.models,
        parts=run.section("parts"),
        comparisons=comparisons(run.result),
        controls=control_notes(run.result),
        empty_words=empty_words,
        definitions=kind.definitions,
        intervals=_intervals(run),
        sections=sections,
        joinings=fusion_rows(run.result),
        leakage=leakage,
        longest=LONGEST,
        skipped=run.section("skipped"),
        protocol=protocol_rows(run.result),
        encoders=encoder_rows(run.result),
        recipe=list(setting_rows(run.section("recipe"))),
        command=str(run.result.get("command") or ""),
        versions=run.section("versions"),
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
    first = next(iter(run.models.values()))
    names = [one_line(name) for name in run.models]
    kind = run.section("protocol").get("kind")
    split = f" ({KINDS.get(kind, kind)})" if kind else ""
    subject = f"The model {names[0]} was" if len(names) == 1 else f"The models {_and(names)} were each"
    speakers = "" if first["cluster"] != "speaker" else f" of {counted(first['clusters'], 'speaker')}"
    told = (
        f"{subject} trained with {_count(len(first['seeds']), 'seed')} in {_count(first['folds'], 'fold')}{split} and "
        f"tested on {_count(first['utterances'], 'utterance')}{speakers}{_predicted(run.scores)}."
    )
    if run.section("encoders").get("text") and run.section("text_sources"):
        told += f" Transcripts: {_and([one_line(name) for name in run.section('text_sources')])}."
    if run.result.get("context"):
        told += f" The text encoder also reads {context_of(run.result)}."
    return told


def _predicted(scores: Scores) -> str:
    """What the models predict, in words."""
    if scores.classes:
        return f" in {_count(len(scores.classes), 'class')}"
    return f", whose {_and([one_line(name) for name in scores.values])} they predict"


def _intervals(run: _Run) -> list[str]:
    """How the intervals were made, and how far they can be trusted."""
    first = next(iter(run.models.values()))
    cluster, over = first["cluster"], counted(first["clusters"], first["cluster"])
    pairs = len(run.section("comparisons"))
    told = [
        f"Intervals of one model cover 95 %: Student's t over {over}, {run.scores.kind.scales}, with what each adds to "
        f"the metric, all its utterances and seeds together. They show how much the figures would move with other "
        f"{cluster}s, not with another corpus.",
        "Seed SD is the standard deviation between trainings that differ in their random seed only.",
        f"Comparisons are sign-flip tests over the same {over}: under chance, which of two models is which could be "
        "exchanged in each. The interval holds all differences that this test does not reject at 5 %. p is two-sided; "
        f"beside it is Holm's correction over the {_count(pairs, 'comparison')} of each metric, by which a difference "
        "is called higher.",
    ]
    if ties := {name: entry["ties"] for name, entry in run.models.items() if entry.get("ties")}:
        counts = ", ".join(f"{one_line(name)} {count}" for name, count in ties.items())
        told.append(f"Answers in which classes tie count in equal parts for each of them: {counts} of {first['rows']}.")
    return told


def _leakage(run: _Run) -> tuple[list[str], str]:
    """What training and test share, in words; and a caution where its words say nothing about the label."""
    found = run.section("protocol").get("leakage")
    if not found:
        return [], ""
    told = []
    for column in ("speaker", "dialogue"):
        shared = found.get(f"{column}s")
        if run.manifest[column].isna().all():
            told.append(f"{column.capitalize()}s are not known in this corpus, so it is not known what is shared.")
        elif shared:
            told.append(f"Up to {_count(shared, column)} of a fold's test part also occur in its training part.")
        else:
            told.append(f"No {column} of a test part occurs in training.")
    if "scripts" in found and scripted(run.manifest).any():
        if found["scripts"]:
            told.append(
                f"Up to {_count(found['scripts'], 'script')} whose words were given occur in a fold's test part and in "
                "its training part; --set protocol.apart=script makes folds that share none."
            )
        else:
            told.append("No script of a test part whose words were given occurs in training.")
    told += _validation_leakage(found, run.manifest)
    exact, near, chance = found.get("exact") or {}, found.get("near"), run.chance
    share, agreement = exact.get("share"), exact.get("agreement")
    empty = False
    if share is None:
        told.append("There are no transcripts to compare.")
        return told, ""
    told.append(
        f"{percent(share)} % of the test transcripts occur in training word for word{_agreeing(exact, chance)}."
    )
    if near is None:
        told.append("Near-duplicates were not counted: there are too many transcripts.")
    elif near["share"] == 0:
        told.append("No other test transcript occurs there almost word for word.")
    elif near["share"] is not None:
        told.append(f"Another {percent(near['share'])} % occur there almost word for word{_agreeing(near, chance)}.")
    if share >= _REPEATED and agreement is not None:
        empty = (agreement - chance) / max(1 - chance, 1e-9) < _BEYOND_CHANCE
        if not empty:
            told.append(
                "Practically every transcript was seen in training, more often than by chance with the same label: a "
                "model of words can answer from memory, and its figures do not hold for new sentences."
            )
    return told, EMPTY_WORDS if empty else ""


def _validation_leakage(found: Mapping[str, Any], manifest: pd.DataFrame) -> list[str]:
    """What validation, which chooses the epoch, shares with training: in the folds, and in the split of kept models."""
    told = []
    for key, name in (("validation", "a fold"), ("final", "the kept models")):
        part = found.get(key)
        if not part:
            continue
        known = [column for column in ("speaker", "dialogue") if manifest[column].notna().any()]
        known += ["script"] if scripted(manifest).any() else []
        counts = [f"up to {_count(part[f'{one}s'], one)}" if part[f"{one}s"] else f"no {one}" for one in known]
        share, near = (part.get("exact") or {}).get("share"), (part.get("near") or {}).get("share")
        counts += [f"{percent(share)} % of its transcripts word for word"] if share is not None else []
        counts += [f"another {percent(near)} % almost so"] if near else []
        if counts:
            told.append(f"The validation part of {name} shares with its training part: {', '.join(counts)}.")
    return told


def _agreeing(part: Mapping[str, float | None], chance: float) -> str:
    agreement = part.get("agreement")
    if agreement is None:
        return ""
    told = f"; those copies carry the same label in {percent(agreement)} % of cases (by chance: {percent(chance)} %)"
    if part.get("lookup") is not None:
        told += f", and to answer with their most frequent label is right in {percent(part['lookup'])} %"
    return told


EMPTY_WORDS = (
    "Every transcript of the test parts occurs in training, with labels that agree no more often than by chance: the "
    "words carry no label information in this corpus. It cannot show what fusing speech with text gains."
)


def _warnings(run: _Run, *, empty_words: str) -> list[str]:
    told = [empty_words] if empty_words else []
    if found := (run.section("protocol").get("leakage") or {}).get("speakers"):
        told.append(
            f"This split is not speaker-independent: up to {_count(found, 'speaker')} are in training and test."
        )
    corpora = run.section("sources") or [name for name in str(run.result.get("corpus") or "").split(", ") if name]
    for modality, encoder in run.section("encoders").items():
        exposure = [str(name) for name in encoder.get("exposure") or ()]
        if seen := [one_line(corpus) for corpus in corpora if any(_same_corpus(corpus, name) for name in exposure)]:
            told.append(
                f"The {modality} encoder {one_line(encoder.get('name', ''))} is known to have seen {_and(seen)} "
                "in its own training: its figures on this corpus are optimistic."
            )
    if few := caution(next(iter(run.models.values()))):
        told.append(f"{few[0].upper()}{few[1:]}.")
    return told


def _same_corpus(corpus: str, exposure: str) -> bool:
    """Whether an exposure names the corpus, alone or within a longer remark.

    Example:
        >>> _same_corpus("emodb", "Emo-DB"), _same_corpus("iemocap", "IEMOCAP (train)"), _same_corpus("mine", "mined")
        (True, True, False)
    """
    ours, theirs = (re.sub(r"[\W_]+", "", name.lower()) for name in (corpus, exposure))
    words = re.findall(r"[^\W_]+", exposure.lower())
    return bool(ours) and (ours == theirs or ours in words)
