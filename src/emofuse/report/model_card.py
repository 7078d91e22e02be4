"""The model card that goes along with every kept model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from emofuse.corpora import CORPORA
from emofuse.escape import code_span, markdown
from emofuse.protocols import FINAL
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
        f"- **Classes**: {', '.join(map(markdown, protocol['classes']))}",
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
        f"Acted emotion is not felt emotion. {_calibration(result['fused'].get(model))}",
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


def _calibration(fused: Mapping[str, Any] | None) -> str:
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
