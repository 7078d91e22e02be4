"""Figures as text: what a reader finds in the page's tables, and the same table for a paper or a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from emofuse import escape
from emofuse.scoring.inference import TOO_FEW
from emofuse.scoring.kinds import CLASSES, Kind
from emofuse.scoring.record import Difference, Estimate, Result

KINDS: Mapping[str, str] = {
    "session": "leaving one session out",
    "speaker": "leaving one speaker out",
    "corpus": "leaving one corpus out",
    "speakers": "folds by speaker",
    "fixed": "fixed lists of speakers",
    "split": "the corpus's own training, development and test parts",
    "stratified": "folds of utterances, stratified by label",
}
"""Kinds of protocol in words."""

NOTHING = "-"


@dataclass(frozen=True)
class Comparison:
    """One row of the paired comparisons, ready to be read."""

    models: str
    metric: str
    difference: str
    interval: str
    p: str
    holm: str
    reading: str


def percent(value: float | None) -> str:
    """A fraction between 0 and 1 in percent, with one decimal.

    Example:
        >>> percent(0.6349), percent(None)
        ('63.5', '-')
    """
    return NOTHING if value is None or math.isnan(value) else f"{100 * value:.1f}"


def figure(value: float | None, *, kind: Kind = CLASSES) -> str:
    """A metric as it is shown, or that it is not known.

    Example:
        >>> figure(0.6349), figure(None)
        ('63.5', '-')
    """
    return NOTHING if value is None or math.isnan(value) else kind.figure(value)


def interval(estimate: Estimate, *, kind: Kind = CLASSES) -> str:
    """The interval of an estimate.

    Example:
        >>> interval(Estimate(value=0.5, low=0.412, high=0.59))
        '[41.2, 59.0]'
    """
    return f"[{kind.figure(estimate.low)}, {kind.figure(estimate.high)}]"


def in_words(result: Result, model: str) -> str:
    """What a model of a run was measured to reach, in a sentence; empty if nothing was tested."""
    entry = result.models.get(model)
    if entry is None:
        return ""
    kind = result.kind
    reached = f"{kind.titles[kind.decisive]} {figure(entry[kind.decisive].value, kind=kind)} {kind.unit}".rstrip()
    folds = KINDS.get(str(result.protocol.kind), "cross-validation")
    return f"{reached} {interval(entry[kind.decisive], kind=kind)} on {result.corpus or 'its data'}, {folds}"


def signed_interval(gap: Difference, *, kind: Kind = CLASSES) -> str:
    """The interval of a difference, or why there is none.

    Example:
        >>> test = {"p": 0.2, "holm": 0.2, "clusters": 8, "cluster": "speaker", "reading": "within noise"}
        >>> signed_interval(Difference(value=0.01, low=-0.01, high=0.031, **test))
        '[-1.0, +3.1]'
    """
    low, high = gap.low, gap.high
    return TOO_FEW if low is None or high is None else f"[{kind.signed(low)}, {kind.signed(high)}]"


def comparisons(result: Result) -> list[Comparison]:
    """The paired comparisons of a result, each with a plain reading of its test."""
    rows = []
    for pair in result.comparisons:
        first, second, kind = pair.first, pair.second, pair.kind
        words = {"higher": f"{first} is higher than {second}", "lower": f"{second} is higher than {first}"}
        for name, title in kind.titles.items():
            if found := pair.differences.get(name):
                reading = words.get(found.reading, found.reading)
                bounds = signed_interval(found, kind=kind)
                numbers = (kind.signed(found.value), bounds, _p(found.p), _p(found.holm))
                rows.append(Comparison(f"{first} minus {second}", title, *numbers, reading))
    return rows


def control_notes(result: Result) -> list[str]:
    """What each ensemble adds over its control, in words; nothing where there are no controls.

    Example:
        >>> gap = {"value": 0.012, "low": -0.004, "high": 0.03, "p": 0.2, "holm": 0.4, "reading": "within noise",
        ...        "clusters": 8, "cluster": "speaker"}
        >>> control_notes(Result(models={}, comparisons=[{"first": "late", "second": "speech x 2", "ua": gap}],
        ...     controls={"late": {"members": 2, "best": "speech", "controls": ["speech x 2"]}}))[1]
        'late adds +1.2 points of UA [-0.4, +3.0] over speech x 2: within noise'
    """
    notes = [
        "controls are the mean of one network with as many seeds as an ensemble has members, the best in validation "
        "first: what an ensemble adds is what it adds over them"
    ]
    for pair in result.comparisons:
        kind, gap = pair.kind, pair.differences.get(pair.kind.decisive)
        if gap and pair.first in result.controls and pair.second in result.controls[pair.first].controls:
            # Where there is no interval, the reading says why.
            within = "" if gap.low is None else f" {signed_interval(gap, kind=kind)}"
            points = f" {kind.points} of" if kind.points else " of"
            added = f"{kind.signed(gap.value)}{points} {kind.titles[kind.decisive]}{within}"
            notes.append(f"{pair.first} adds {added} over {pair.second}: {gap.reading}")
    return notes if result.controls else []


def fusion_rows(result: Result) -> list[tuple[str, str, str, str]]:
    """Weights and temperatures of the members of ensembles, by fold; one row where all are alike."""
    rows = []
    for model, fused in result.fused.items():
        found = [(name, _listed(one.weights), _listed(one.temperatures)) for name, one in fused.folds.items()]
        if len(found) > 1 and len({tuple(values) for _, *values in found}) == 1:
            found = [("every fold", *found[0][1:])]
        rows += [(model, *one) for one in found]
    return rows


def _listed(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:.2f}" for number in numbers)


def protocol_rows(result: Result) -> list[tuple[str, str]]:
    """How the corpus was split, name and value."""
    protocol = result.protocol
    kind = protocol.kind or "not stated"
    rows = [
        ("Kind", f"{kind}: {KINDS[kind]}" if kind in KINDS else kind),
        ("Fingerprint", protocol.fingerprint),
        ("Folds", protocol.folds),
        ("Classes", protocol.classes or None),
        ("Values", protocol.values or None),
        ("Utterances", protocol.utterances),
        ("Speakers", protocol.speakers),
        ("Labels kept", protocol.labels or "all" if protocol.classes else None),
        ("Labels merged", protocol.merge or "none" if protocol.classes else None),
        ("Kept apart", f"{protocol.apart}s: no fold trains on one that it tests" if protocol.apart else None),
        ("Transcripts", result.text_sources or None),
        ("Dialogue context", context_of(result)),
    ]
    return [(name, _plain(value)) for name, value in rows if value is not None] if protocol.folds else []


def context_of(result: Result) -> str | None:
    """What the text encoder reads beside an utterance's own words; None where no text is read.

    Example:
        >>> context_of(Result(models={}, context=2, encoders={"text": {"name": "words"}}))
        'up to 2 earlier utterances of the dialogue'
    """
    if "text" not in result.encoders:
        return None
    count = result.context
    return f"up to {count} earlier utterance{'s' if count > 1 else ''} of the dialogue" if count else "none"


def encoder_rows(result: Result) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Modality, name and known facts of each encoder."""
    described = []
    for modality, encoder in result.encoders.items():
        if encoder.name == "words":
            described.append((modality, encoder.name, [("Trained on", "the training parts only")]))
            continue
        facts = [
            ("Revision", encoder.revision),
            ("Licence", encoder.licence or "unknown"),
            ("Known exposure", encoder.exposure or "none is known, which does not mean that there is none"),
            ("Family", encoder.family),
            ("Layers", _ranges(encoder.selected) or encoder.layers),
            ("Width", encoder.width),
            ("Sampling rate, Hz", encoder.sampling_rate or None),
            ("Stride, samples", encoder.stride or None),
        ]
        rows = [(title, _plain(value)) for title, value in facts if value is not None]
        described.append((modality, encoder.name, rows))
    return described


def _ranges(numbers: Sequence[int]) -> str:
    """Numbers in short.

    Example:
        >>> _ranges([0, 1, 2, 3]), _ranges([6]), _ranges([2, 4])
        ('0 to 3', '6', '2, 4')
    """
    if len(numbers) > 2 and list(numbers) == list(range(numbers[0], numbers[0] + len(numbers))):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(str(number) for number in numbers)


def setting_rows(values: Mapping[str, Any], *, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as dotted names and values.

    Example:
        >>> list(setting_rows({"train": {"epochs": 5}, "seeds": [0, 1]}))
        [('train.epochs', '5'), ('seeds', '0, 1')]
    """
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from setting_rows(value, prefix=f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _plain(value)


def _plain(value: Any) -> str:
    if value is None or value == [] or value == {} or value == ():
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} → {_plain(entry)}" for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        nested = any(isinstance(entry, (list, tuple, Mapping)) for entry in value)
        return ("; " if nested else ", ").join(_plain(entry) for entry in value)
    return str(value)


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def markdown(rows: list[list[str]]) -> str:
    """Rows, the first of which is the header, as a Markdown table."""
    lines = [" | ".join(map(escape.markdown_cell, row)) for row in rows]
    lines.insert(1, " | ".join(["---", *["---:"] * (len(rows[0]) - 1)]))
    return "\n".join(f"| {line} |" for line in lines)


def latex(rows: list[list[str]], *, unit: str = "") -> str:
    """Rows, the first of which is the header, as a LaTeX `tabular` of the package booktabs."""
    lines = [" & ".join(map(escape.latex, row)) + r" \\" for row in rows]
    begin = rf"\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}"
    body = [r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
    return "\n".join(
        [f"% needs the package booktabs; {unit and f'{unit}, '}95 % intervals", begin, *body, r"\end{tabular}"]
    )
