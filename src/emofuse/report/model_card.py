"""The model card that goes along with every kept model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from emofuse.corpora import CORPORA
from emofuse.escape import code_span, markdown
from emofuse.protocols import FINAL
from emofuse.scoring.result import counted
from emofuse.settings import ModelKind, recipe_from
from emofuse.training.material import PARTS, parts_of, streams_of


def model_card(kind: ModelKind, result: Mapping[str, Any]) -> str:
    """Write the card of a model from the result of the run that trained it.

    Args:
        kind: Which model.
        result: Content of `result.json`.
    """
    protocol, entry = result["protocol"], result["models"].get(kind)
    lines = [
        f"# emofuse `{kind}` model, trained on {markdown(result['corpus'] or 'a corpus without a name')}",
        "",
        f"- **Classes**: {', '.join(map(markdown, protocol['classes']))}",
        f"- **Data**: {protocol['utterances']} utterances of {protocol['speakers']} speakers",
        *(f"  - {CORPORA[name].title}: {CORPORA[name].licence}" for name in result["sources"] if name in CORPORA),
        *([_joined_from(kind, result)] if kind in PARTS else []),
        *(encoder_line(stream, one) for stream, one in result["encoders"].items() if stream in streams_of(kind)),
        f"- **Protocol**: {protocol['kind']}, {protocol['folds']} folds, "
        f"fingerprint {code_span(protocol['fingerprint'])}",
        "",
        "## How good it is",
        "",
        *(_measured(entry) if entry else ["It has not been measured: no fold was tested when it was made."]),
        "",
        "## Limits",
        "",
        "It was measured on the corpus above only: on other speakers, languages and rooms expect less.",
        f"Acted emotion is not felt emotion. {_calibration(kind, result)}",
        "Do not use it to decide about people.",
        "The licences of its data and encoders hold for it too.",
        "",
        "## Use",
        "",
        "```python",
        "import emofuse",
        "",
        'model = emofuse.load("this/folder")',
        'model.predict("clip.wav"' + (")" if kind == "speech" else ', text="what is said")'),
        "```",
        "",
    ]
    return "\n".join(lines)


def encoder_line(stream: str, encoder: Mapping[str, Any]) -> str:
    """What a card says of one encoder of `result.json`."""
    name = str(encoder["name"]).replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    if "revision" not in encoder:
        return f"- **{stream.capitalize()} encoder**: {code_span(name)}, trained with the model"
    seen = ", ".join(map(markdown, encoder["exposure"])) or "unknown"
    return (
        f"- **{stream.capitalize()} encoder**: {code_span(name)} ({markdown(encoder['family'])}), "
        f"revision {code_span(encoder['revision'][:16])}, licence {markdown(encoder['licence'])}, "
        f"known to have seen: {seen}"
    )


def _joining(kind: ModelKind, result: Mapping[str, Any]) -> Mapping[str, Any]:
    joining: Mapping[str, Any] = result["joined"][kind][FINAL]
    return joining


def _calibration(kind: ModelKind, result: Mapping[str, Any]) -> str:
    if kind not in PARTS or all(one == 1 for one in _joining(kind, result)["temperatures"]):
        return "Its probabilities are not calibrated."
    return (
        "The probabilities of its parts are calibrated by the temperatures above, on utterances that each fold tested; "
        "those of their mean are not calibrated again."
    )


def _joined_from(kind: ModelKind, result: Mapping[str, Any]) -> str:
    parts = parts_of(kind, recipe_from(result["recipe"], source="result.json"))
    how = _joining(kind, result)
    shares = [
        f"{part} (weight {weight:.2f}, temperature {temperature:.2f})"
        for part, weight, temperature in zip(parts, how["weights"], how["temperatures"], strict=True)
    ]
    return f"- **Joined from**: {', '.join(shares)}"


def _measured(entry: Mapping[str, Any]) -> list[str]:
    return [
        "Measured by cross-validation of models trained in the same way on fewer speakers; this very model has seen "
        f"all of them. 95 % intervals by Student's t over {markdown(counted(entry['clusters'], entry['cluster']))}.",
        "",
        "| metric | value | interval |",
        "|---|---|---|",
        *(_row(name, entry[key]) for name, key in (("UA", "ua"), ("WA", "wa"), ("macro-F1", "macro_f1"))),
    ]


def _row(name: str, estimate: Mapping[str, float]) -> str:
    return f"| {name} | {100 * estimate['value']:.1f} % | {100 * estimate['low']:.1f} to {100 * estimate['high']:.1f} |"
