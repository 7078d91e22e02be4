"""Late fusion of two models that were trained on different corpora, with calibrated posteriors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emofuse.checkpoint import Checkpoint, fused_checkpoint, load_checkpoint, save_checkpoint
from emofuse.corpora import CORPORA
from emofuse.errors import CheckpointError
from emofuse.escape import code_span, markdown
from emofuse.features.reference import TESTED
from emofuse.keep import MODELS
from emofuse.locks import alone
from emofuse.manifest import read_manifest
from emofuse.report.model_card import encoder_line
from emofuse.report.tables import interval, percent
from emofuse.report.tables import markdown as to_table
from emofuse.scoring.calibrate import apply_temperature, fit_temperature
from emofuse.scoring.fuse import Fusion, cross_fits
from emofuse.scoring.metrics import SURE, expected_calibration_error
from emofuse.scoring.record import Result, read_result
from emofuse.scoring.table import Scores, read_scores
from emofuse.seeds import derive_seed
from emofuse.training.folder import MANIFEST
from emofuse.training.trials import referred_name

NEUTRAL = "neutral"
FRACTIONS = tuple(step / 20 for step in range(20))


@alone("out", folder=False)
def combine_models(speech_run: Path, text_run: Path, out: Path, *, hub: str | None = None) -> Checkpoint:
    """Combine the speech model of one run and the text model of another in one late-fusion model.

    Each modality's posteriors are calibrated by a temperature (Guo et al., ICML 2017) from the test scores of all folds
    and seeds of its run, whose models were trained like the kept one, on other speakers or texts. Words that are
    neutral leave the answer to the voice, as far as pays where half of the clips have such words, see `fit_silence`.

    Args:
        speech_run: Run folder with a `speech` model.
        text_run: Run folder with a `text` model of the same classes.
        out: Folder for the fused model.
        hub: Where to fetch the speech encoder for prediction, as `ID@COMMIT`, instead of the folder that it was trained
            on, which is copied otherwise.

    Raises:
        CheckpointError: A run has no such model, or classes or shapes differ.
        ScoresError: A run has no scores of its model.
    """
    speech = load_checkpoint(speech_run / MODELS / "speech")
    text = load_checkpoint(text_run / MODELS / "text")
    if speech.task.names != text.task.names:
        raise CheckpointError(
            f"the speech model predicts {', '.join(speech.task.names)}, the text model {', '.join(text.task.names)}",
            where=text_run,
            remedy="train both with the same protocol.labels",
        )
    tested = {"speech": _tested(speech_run, speech), "text": _tested(text_run, text)}
    temperatures = tuple(round(fit_temperature(one.posteriors(), one.labels()), 4) for one in tested.values())
    fraction = fit_silence(*tested.values(), temperatures=temperatures)
    silences = () if fraction is None else (None, (speech.task.names.index(NEUTRAL), fraction))
    how = Fusion("bayes", weights=(0.5, 0.5), temperatures=temperatures, silences=silences)
    languages = read_manifest(text_run / MANIFEST)["language"].dropna().unique()
    fused = replace(
        fused_checkpoint("late", {"speech": speech, "text": text}, how),
        text=text.text,
        text_languages=tuple(sorted(map(str, languages))),
        text_sources=text.text_sources,
        measured=f"from speech alone {speech.measured}",
    )
    if hub is not None:
        name, _, revision = hub.partition("@")
        here = replace(fused.encoders["speech"], name=name, revision=revision)
        fused = replace(
            fused,
            speech=fused.speech.model_copy(update={"encoder": name, "revision": revision}),
            encoders={**fused.encoders, "speech": here},
        )
    save_checkpoint(
        fused, out, card=_card(fused, {"speech": speech_run, "text": text_run}, tested, temperatures, hub=hub)
    )
    return fused


def _tested(run: Path, checkpoint: Checkpoint) -> Scores:
    """Test scores of all folds, with classes in the model's order."""
    scores = read_scores(run / "scores.parquet").of(checkpoint.name)
    if set(scores.classes) != set(checkpoint.task.names):
        raise CheckpointError(
            f"its scores are of {', '.join(scores.classes)}, its model of {', '.join(checkpoint.task.names)}",
            where=run,
            remedy="make the run again",
        )
    return Scores(scores.frame, checkpoint.task.names)


def fit_silence(speech: Scores, text: Scores, *, temperatures: Sequence[float]) -> float | None:
    """How much of the text's neutral posterior says nothing.

    Each clip is paired at random with words of its own label, and once more with neutral words, as in
    conversations where the voice alone tells. The fraction with the smallest log loss wins.

    Args:
        speech: Test scores of speech.
        text: Test scores of text, of the same classes.
        temperatures: Of both.

    Returns:
        The fraction, or None without a neutral class.
    """
    if NEUTRAL not in speech.classes:
        return None
    neutral = speech.classes.index(NEUTRAL)
    rng = np.random.default_rng(derive_seed(0, "silence"))
    labels, words = speech.labels(), text.labels()
    own = np.array([rng.choice(np.flatnonzero(words == label)) for label in labels])
    other = rng.choice(np.flatnonzero(words == neutral), len(labels))
    outputs = np.stack([np.tile(speech.posteriors(), (2, 1)), text.posteriors()[np.concatenate([own, other])]])
    truth = np.tile(labels, 2)

    def loss(fraction: float) -> float:
        how = Fusion("bayes", (0.5, 0.5), tuple(temperatures), (None, (neutral, fraction)))
        return float(-np.log(how(outputs)[np.arange(len(truth)), truth]).mean())

    return min(FRACTIONS, key=loss)


def _calibrated(scores: Scores) -> NDArray[np.float64]:
    """Posteriors of each fold, calibrated on the other folds; a single fold on itself."""
    posteriors, labels = scores.posteriors(), scores.labels()
    found = np.empty_like(posteriors)
    for _, test, others in cross_fits(scores):
        rows = others if others.any() else test
        found[test] = apply_temperature(posteriors[test], fit_temperature(posteriors[rows], labels[rows]))
    return found


def _measured(result: Result, model: str) -> list[str]:
    """Figures of a run's model, calibrated if the run did so, with and without references, by corpus and together."""
    calibrated = [one["name"] for one in result.recipe["ensembles"] if list(one["of"]) == [model]]
    name = next(iter(calibrated), model)
    shown = {"alone": name, f"with {TESTED} other clips of the speaker as reference": referred_name(name)}
    few = result.models[name]
    header = ["Tested", "UA", "ECE", f"above {SURE:g}", "right of these"]
    lines = [f"{few.folds} folds ({result.protocol.kind}), seeds {', '.join(map(str, few.seeds))}."]
    for how, one in shown.items():
        if one not in result.models:
            continue
        entries = {**{part: entry[one] for part, entry in result.parts.items()}, "all": result.models[one]}
        rows = [
            [part, f"{percent(entry['ua'].value)} {interval(entry['ua'])}", *map(percent, entry.calibration.values())]
            for part, entry in entries.items()
        ]
        if few.folds > 1:
            rows.append(["mean of folds", percent(result.models[one].fold_mean["ua"]), "", "", ""])
        lines += ["", f"In percent, {how}:", "", to_table([header, *rows])]
    return lines


def _card(
    fused: Checkpoint,
    runs: Mapping[str, Path],
    tested: Mapping[str, Scores],
    temperatures: Sequence[float],
    *,
    hub: str | None,
) -> str:
    lines = [
        "# emofuse `late` model of two corpora",
        "",
        f"- **Classes**: {', '.join(map(markdown, fused.task.names))}",
    ]
    for (modality, run), temperature in zip(runs.items(), temperatures, strict=True):
        result = read_result(run)
        scores = tested[modality]
        before, after = (
            100 * expected_calibration_error(posteriors, scores.labels())
            for posteriors in (scores.posteriors(), _calibrated(scores))
        )
        fitted_on = "of the other folds" if scores.frame["fold"].nunique() > 1 else "of these predictions"
        names = [name for name in result.sources if name in CORPORA]
        data = ", ".join(f"{CORPORA[name].title} ({CORPORA[name].licence})" for name in names)
        merges = result.protocol.merge.items()
        merged = ", ".join(f"{markdown(old)} to {markdown(new)}" for old, new in merges) or "none"
        lines += [
            "",
            f"## {modality.capitalize()}",
            "",
            f"- **Data**: {data or markdown(result.corpus)}; {result.protocol.utterances} utterances",
            f"- **Labels merged**: {merged}; other labels are left out",
            encoder_line(modality, result.encoders[modality]),
            *([f"- **Fetched for prediction**: {code_span(hub)}"] if hub and modality == "speech" else []),
            f"- **Temperature** {temperature:.2f}, from {len(scores.frame)} predictions for utterances held out of "
            f"training: their calibration error is {before:.1f} % before, {after:.1f} % at the temperature {fitted_on}",
            f"- **Again**: {code_span(result.command)}",
            "",
            *_measured(result, modality),
        ]
    lines += [
        "",
        "## Limits",
        "",
        f"Text is read in {', '.join(map(markdown, fused.text_languages)) or 'any language'} only; in other languages "
        "speech alone is used.",
        "Acted emotion is not felt emotion, and on other speakers, languages and rooms expect less than was measured.",
        "Do not use it to decide about people. The licences of its data and encoders hold for it too.",
        "",
    ]
    return "\n".join(lines)
