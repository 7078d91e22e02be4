"""The model card that goes along with every kept model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from emofuse.corpora import CORPORA
from emofuse.escape import code_span, markdown
from emofuse.protocols import FINAL
from emofuse.scoring.kinds import Kind, kind_with
from emofuse.scoring.result import counted


def model_card(model: str, result: Mapping[str, Any]) -> str:
    """Write the card of a model from the result of the run that trained it.

    Args:
        model: Which model.
        result: Content of `result.json`.
    """
    protocol, entry = result["protocol"], result["models"].get(model)
    lines = [
        f"# emofuse {code_span(model)} model, trained on {markdown(result['corpus'] or 'a corpus without a name')}",
        "",
        *(
            f"- **{noun.capitalize()}**: {', '.join(map(markdown, protocol[noun]))}"
            for noun in ("classes", "values")
            if protocol.get(noun)
        ),
        f"- **Data**: {protocol['utterances']} utterances of {protocol['speakers']} speakers",
        *(f"  - {CORPORA[name].title}: {CORPORA[name].licence}" for name in result["sources"] if name in CORPORA),
        *([_fused_from(result["fused"][model])] if model in result["fused"] else []),
        *(encoder_line(name, one) for name, one in result["encoders"].items() if name in _modalities(model, result)),
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
        f"Acted emotion is not felt emotion. {_calibration(result['fused'].get(model), result)}",
        "Do not use it to decide about people.",
        "The licences of its data and encoders hold for it too.",
        "",
        "## Use",
        "",
        "```python",
        "import emofuse",
        "",
        'model = emofuse.load("this/folder")',
        'model.predict("clip.wav"' + (")" if _modalities(model, result) == {"speech"} else ', text="what is said")'),
        "```",
        "",
    ]
    return "\n".join(lines)


def encoder_line(modality: str, encoder: Mapping[str, Any]) -> str:
    """What a card says of one encoder of `result.json`."""
    name = str(encoder["name"]).replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    if "revision" not in encoder:
        return f"- **{modality.capitalize()} encoder**: {code_span(name)}, trained with the model"
    seen = ", ".join(map(markdown, encoder["exposure"])) or "unknown"
    return (
        f"- **{modality.capitalize()} encoder**: {code_span(name)} ({markdown(encoder['family'])}), "
        f"revision {code_span(encoder['revision'][:16])}, licence {markdown(encoder['licence'])}, "
        f"known to have seen: {seen}"
    )


def _modalities(model: str, result: Mapping[str, Any]) -> set[str]:
    """What a model reads, or the members of an ensemble."""
    if model in result["fused"]:
        return {one for member in result["fused"][model]["of"] for one in _modalities(member, result)}
    return set(result["modalities"][model])


def _calibration(fused: Mapping[str, Any] | None, result: Mapping[str, Any]) -> str:
    if not result["protocol"].get("classes"):
        return "Its values are on the corpus's own scale."
    if fused is None or all(one == 1 for one in fused["folds"][FINAL]["temperatures"]):
        return "Its probabilities are not calibrated."
    return (
        "The probabilities of its members are calibrated by the temperatures above, on utterances that each fold "
        "tested; those of their mean are not calibrated again."
    )


def _fused_from(fused: Mapping[str, Any]) -> str:
    how = fused["folds"][FINAL]
    members = [
        f"{markdown(member)} (weight {weight:.2f}, temperature {temperature:.2f})"
        for member, weight, temperature in zip(fused["of"], how["weights"], how["temperatures"], strict=True)
    ]
    return f"- **Fused from**: {', '.join(members)}"


def _measured(entry: Mapping[str, Any]) -> list[str]:
    kind = kind_with(entry)
    figures = [(kind.titles[key], entry[key]) for key in kind.titles]
    if len(entry.get("dimensions", ())) > 1:
        figures += [
            (f"{kind.titles[key]} of {markdown(name)}", estimates[key])
            for name, estimates in entry["dimensions"].items()
            for key in kind.titles
        ]
    return [
        "Measured by cross-validation of models trained in the same way on fewer speakers; this very model has seen "
        f"all of them. 95 % intervals by Student's t over {markdown(counted(entry['clusters'], entry['cluster']))}.",
        "",
        "| metric | value | interval |",
        "|---|---|---|",
        *(_row(title, estimate, kind) for title, estimate in figures),
    ]


def _row(title: str, estimate: Mapping[str, float], kind: Kind) -> str:
    value, low, high = (kind.figure(estimate[name]) for name in ("value", "low", "high"))
    return f"| {title} | {value}{' %' if kind.unit else ''} | {low} to {high} |"
