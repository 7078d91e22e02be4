"""Figures as text: what a reader finds in the page's tables, and the same table for a paper or a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AllowInfNan, BaseModel, Strict, ValidationError, field_validator

from emofuse import escape
from emofuse.errors import ScoresError, SettingsError
from emofuse.escape import one_line
from emofuse.inputs import nearest
from emofuse.scoring.inference import TOO_FEW

Style = Literal["markdown", "latex", "text"]

TITLES: Mapping[str, str] = {"ua": "UA", "wa": "WA", "macro_f1": "macro-F1"}
"""The metrics in the order of the page, by their key in `result.json`."""

KINDS: Mapping[str, str] = {
    "session": "leaving one session out",
    "speaker": "leaving one speaker out",
    "speakers": "folds by speaker",
    "fixed": "fixed lists of speakers",
    "split": "the corpus's own training, development and test parts",
}
"""Kinds of protocol in words."""

NOTHING = "-"

AGAIN = "make the run again with `emofuse run`"
"""Remedy for a run whose files are broken."""

Number = Annotated[float, Strict(), AllowInfNan(False)]


class _Part(BaseModel):
    """The shape of a part of `result.json`; what the report does not read is let pass."""


class _Metrics(_Part):
    wa: Number | None
    ua: Number | None
    macro_f1: Number | None


class _Estimate(_Part):
    value: Number
    low: Number
    high: Number


class _Entry(_Part):
    wa: _Estimate
    ua: _Estimate
    macro_f1: _Estimate
    fold_mean: _Metrics
    seed_sd: _Metrics
    ece: Number
    recall: dict[str, Number | None]
    confusion: list[list[Number]]
    classes: list[str]
    utterances: int
    seeds: list[int]
    folds: int
    cluster: str
    clusters: int
    ties: int = 0
    rows: int = 0


class _Difference(_Part):
    value: Number
    low: Number | None
    high: Number | None
    p: Number
    holm: Number
    clusters: int
    cluster: str
    reading: str


class _Pair(_Part):
    first: str
    second: str
    wa: _Difference | None = None
    ua: _Difference | None = None
    macro_f1: _Difference | None = None


class _Copies(_Part):
    share: Number | None
    agreement: Number | None
    lookup: Number | None = None


class _Leakage(_Part):
    speakers: int = 0
    dialogues: int = 0
    scripts: int = 0
    exact: _Copies | None = None
    near: _Copies | None = None
    validation: _Leakage | None = None
    final: _Leakage | None = None


class _Protocol(_Part):
    kind: str | None = None
    apart: str | None = None
    leakage: _Leakage | None = None


class _Encoder(_Part):
    name: str
    exposure: list[str] | None = None
    selected: list[int] | None = None


class _Fold(_Part):
    weights: list[Number]
    temperatures: list[Number]


class _Fused(_Part):
    of: list[str]
    folds: dict[str, _Fold]


class _Controls(_Part):
    members: int
    best: str
    controls: list[str]


class _Alignment(_Part):
    utterances: int
    aligned: dict[str, int]


class _Skipped(_Part):
    utterance: str
    reason: str


class _Result(_Part):
    name: str = ""
    corpus: str = ""
    sources: list[str] | None = None
    models: dict[str, _Entry]
    parts: dict[str, dict[str, _Entry]] | None = None
    text_sources: dict[str, int] | None = None
    context: int = 0
    comparisons: list[_Pair] | None = None
    protocol: _Protocol | None = None
    encoders: dict[str, _Encoder] | None = None
    layer_weights: dict[str, dict[str, list[list[Number]]]] | None = None
    curves: dict[str, list[dict[str, list[Number]]]] | None = None
    fused: dict[str, _Fused] | None = None
    certainty: dict[str, str] | None = None
    modalities: dict[str, list[str]] | None = None
    tiers: dict[str, list[str]] | None = None
    controls: dict[str, _Controls] | None = None
    recipe: dict[str, Any] | None = None
    skipped: list[_Skipped] | None = None
    alignment: _Alignment | None = None
    notes: list[str] | None = None
    versions: dict[str, Any] | None = None
    command: str = ""

    @field_validator("models")
    @classmethod
    def _some(cls, models: dict[str, _Entry]) -> dict[str, _Entry]:
        if not models:
            raise ValueError("there are none")
        return models


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
    """A share between 0 and 1 in percent, with one decimal.

    Example:
        >>> percent(0.6349), percent(None)
        ('63.5', '-')
    """
    return NOTHING if value is None or math.isnan(value) else f"{100 * value:.1f}"


def interval(estimate: Mapping[str, float]) -> str:
    """The interval of an estimate in percent.

    Example:
        >>> interval({"value": 0.5, "low": 0.412, "high": 0.59})
        '[41.2, 59.0]'
    """
    return f"[{percent(estimate['low'])}, {percent(estimate['high'])}]"


def signed_interval(gap: Mapping[str, Any]) -> str:
    """The interval of a difference in points, or why there is none.

    Example:
        >>> signed_interval({"low": -0.01, "high": 0.031}), signed_interval({"low": None, "high": None})
        ('[-1.0, +3.1]', 'too few clusters to tell')
    """
    low, high = gap["low"], gap["high"]
    return TOO_FEW if low is None or high is None else f"[{signed(low)}, {signed(high)}]"


def check_result(result: object, *, where: str | Path | None = None) -> Mapping[str, Any]:
    """The content of a `result.json`, checked to hold what tables and page read.

    Raises:
        ScoresError: A part is missing or of another kind; the message names it.

    Example:
        >>> check_result({"models": {}})
        Traceback (most recent call last):
        ...
        emofuse.errors.ScoresError: models: there are none; make the run again with `emofuse run`.
    """
    try:
        _Result.model_validate(result)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "result"
        message = str(first["msg"]).removeprefix("Value error, ")
        place = name if where is None else f"{where}: {name}"
        raise ScoresError(message[:1].lower() + message[1:], where=place, remedy=AGAIN) from error
    assert isinstance(result, Mapping)  # noqa: S101 - the schema has just said so
    return result


def results_table(result: Mapping[str, Any], *, style: Style) -> str:
    """The main table of a result: models in rows, percent with 95 % intervals.

    Args:
        result: Content of `result.json`.
        style: `markdown`, `latex` (a `tabular` that uses the booktabs package) or `text` (for a terminal).

    Raises:
        ScoresError: The result lacks a figure.
        SettingsError: Another style.

    Example:
        >>> estimate = {"value": 0.5, "low": 0.4, "high": 0.6}
        >>> entry = {"wa": estimate, "ua": estimate, "macro_f1": estimate, "ece": 0.1, "recall": {}, "confusion": [],
        ...          "fold_mean": {"wa": 0.5, "ua": 0.5, "macro_f1": 0.5}, "classes": [], "utterances": 9,
        ...          "seed_sd": {"wa": None, "ua": 0.012, "macro_f1": 0.01}, "seeds": [0, 1], "folds": 3,
        ...          "cluster": "speaker", "clusters": 3}
        >>> print(results_table({"models": {"speech": entry}}, style="text"))
        Model                  WA                 UA           macro-F1   ECE  seed SD of UA
        speech  50.0 [40.0, 60.0]  50.0 [40.0, 60.0]  50.0 [40.0, 60.0]  10.0            1.2
    """
    writers: Mapping[str, Callable[[list[list[str]]], str]] = {"markdown": markdown, "latex": latex, "text": _text}
    if style not in writers:
        raise SettingsError(f"no table style is called {style!r}", remedy=nearest(style, writers))
    columns = ("wa", "ua", "macro_f1")
    rows = [["Model", *(TITLES[name] for name in columns), "ECE", "seed SD of UA"]]
    for model, entry in check_result(result)["models"].items():
        figures = [f"{percent(entry[name]['value'])} {interval(entry[name])}" for name in columns]
        rows.append([one_line(model), *figures, percent(entry["ece"]), percent(entry["seed_sd"]["ua"])])
    return writers[style](rows)


def comparisons(result: Mapping[str, Any]) -> list[Comparison]:
    """The paired comparisons of a result, each with a plain reading of its test.

    Example:
        >>> gap = {"value": 0.02, "low": -0.01, "high": 0.05, "p": 0.2, "holm": 0.2, "reading": "within noise"}
        >>> comparisons({"comparisons": [{"first": "late", "second": "speech", "ua": gap}]})[0].interval
        '[-1.0, +5.0]'
    """
    rows = []
    for pair in result.get("comparisons") or ():
        first, second = str(pair["first"]), str(pair["second"])
        words = {"higher": f"{first} is higher than {second}", "lower": f"{second} is higher than {first}"}
        for name, title in TITLES.items():
            if found := pair.get(name):
                reading = words.get(found["reading"], found["reading"])
                numbers = (signed(found["value"]), signed_interval(found), _p(found["p"]), _p(found["holm"]))
                rows.append(Comparison(f"{first} minus {second}", title, *numbers, reading))
    return rows


def control_notes(result: Mapping[str, Any]) -> list[str]:
    """What each ensemble adds over its control, in words; nothing where there are no controls.

    Example:
        >>> gap = {"value": 0.012, "low": -0.004, "high": 0.03, "p": 0.2, "holm": 0.4, "reading": "within noise"}
        >>> control_notes({"controls": {"late": {"members": 2, "best": "speech", "controls": ["speech x 2"]}},
        ...                "comparisons": [{"first": "late", "second": "speech x 2", "ua": gap}]})[1]
        'late adds +1.2 points of UA [-0.4, +3.0] over speech x 2: within noise'
        >>> gap |= {"low": None, "high": None, "reading": "too few clusters to tell"}
        >>> control_notes({"controls": {"late": {"members": 2, "best": "speech", "controls": ["speech x 2"]}},
        ...                "comparisons": [{"first": "late", "second": "speech x 2", "ua": gap}]})[1]
        'late adds +1.2 points of UA over speech x 2: too few clusters to tell'
    """
    controls = result.get("controls") or {}
    notes = [
        "controls are the mean of one network with as many seeds as an ensemble joins networks, the best by validation "
        "UA first: what an ensemble adds is what it adds over them"
    ]
    for pair in result.get("comparisons") or ():
        first, second, gap = pair["first"], pair["second"], pair.get("ua")
        if gap and second in controls.get(first, {"controls": ()})["controls"]:
            # Where there is no interval, the reading says why.
            within = "" if gap["low"] is None else f" {signed_interval(gap)}"
            added = f"{signed(gap['value'])} points of UA{within}"
            notes.append(f"{first} adds {added} over {second}: {gap['reading']}")
    return notes if controls else []


def fusion_rows(result: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Weights and temperatures of the members of ensembles, by fold; one row where all are alike."""
    rows = []
    for model, fused in (result.get("fused") or {}).items():
        folds = fused["folds"].items()
        found = [(name, _listed(one["weights"]), _listed(one["temperatures"])) for name, one in folds]
        if len(found) > 1 and len({tuple(values) for _, *values in found}) == 1:
            found = [("every fold", *found[0][1:])]
        rows += [(model, *one) for one in found]
    return rows


def _listed(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:.2f}" for number in numbers)


def protocol_rows(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How the corpus was split, name and value."""
    told = result.get("protocol") or {}
    kind = told.get("kind") or "not stated"
    rows = [
        ("Kind", f"{kind}: {KINDS[kind]}" if kind in KINDS else kind),
        ("Fingerprint", told.get("fingerprint")),
        ("Folds", told.get("folds")),
        ("Classes", told.get("classes")),
        ("Utterances", told.get("utterances")),
        ("Speakers", told.get("speakers")),
        ("Labels kept", told.get("labels") or "all"),
        ("Labels merged", told.get("merge") or "none"),
        ("Kept apart", f"{apart}s: no fold trains on one that it tests" if (apart := told.get("apart")) else None),
        ("Transcripts", result.get("text_sources") or None),
        ("Dialogue context", context_of(result)),
    ]
    return [(name, _plain(value)) for name, value in rows if value is not None] if told else []


def context_of(result: Mapping[str, Any]) -> str | None:
    """What the text encoder reads beside an utterance's own words; None where no text is read.

    Example:
        >>> context_of({"context": 2, "encoders": {"text": {}}})
        'up to 2 earlier utterances of the dialogue'
    """
    if "text" not in (result.get("encoders") or {}):
        return None
    count = result.get("context") or 0
    return f"up to {count} earlier utterance{'s' if count > 1 else ''} of the dialogue" if count else "none"


def encoder_rows(result: Mapping[str, Any]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Stream, name and known facts of each encoder."""
    described = []
    for stream, encoder in (result.get("encoders") or {}).items():
        name = str(encoder.get("name", ""))
        if name == "words":
            described.append((stream, name, [("Trained on", "the training parts only")]))
            continue
        facts = [
            ("Revision", encoder.get("revision")),
            ("Licence", encoder.get("licence") or "unknown"),
            ("Known exposure", encoder.get("exposure") or "none is known, which does not mean that there is none"),
            ("Family", encoder.get("family")),
            ("Layers", _ranges(encoder.get("selected") or ()) or encoder.get("layers")),
            ("Width", encoder.get("width")),
            ("Sampling rate, Hz", encoder.get("sampling_rate") or None),
            ("Stride, samples", encoder.get("stride") or None),
        ]
        rows = [(title, _plain(value)) for title, value in facts if value is not None]
        described.append((stream, name, rows))
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


def signed(value: float) -> str:
    """A difference in points with its sign.

    Example:
        >>> signed(0.0123), signed(-0.0001)
        ('+1.2', '0.0')
    """
    # Rounded first, so that a difference too small to be shown carries no sign.
    points = round(100 * value, 1)
    return f"{points:+.1f}" if points else "0.0"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def markdown(rows: list[list[str]]) -> str:
    """Rows, the first of which is the header, as a Markdown table."""
    lines = [" | ".join(map(escape.markdown_cell, row)) for row in rows]
    lines.insert(1, " | ".join(["---", *["---:"] * (len(rows[0]) - 1)]))
    return "\n".join(f"| {line} |" for line in lines)


def latex(rows: list[list[str]]) -> str:
    """Rows, the first of which is the header, as a LaTeX `tabular` of the package booktabs."""
    lines = [" & ".join(map(escape.latex, row)) + r" \\" for row in rows]
    begin = rf"\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}"
    body = [r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
    return "\n".join(["% needs the package booktabs; percent, 95 % intervals", begin, *body, r"\end{tabular}"])


def _text(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
