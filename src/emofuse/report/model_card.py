"""The model card that goes along with every kept model."""

from __future__ import annotations

from emofuse.corpora import CORPORA
from emofuse.escape import code_span, markdown
from emofuse.protocols import FINAL
from emofuse.scoring.kinds import Kind
from emofuse.scoring.record import AnyEntry, EncoderRecord, Estimate, Fused, Result
from emofuse.scoring.result import counted


def model_card(model: str, result: Result) -> str:
    """Write the card of a model from the result of the run that trained it.

    Args:
        model: Which model.
        result: The record of the run.
    """
    protocol, entry, fused = result.protocol, result.models.get(model), result.fused.get(model)
    modalities = result.modalities_of(model)
    unsure = protocol.kind == "stratified"
    lines = [
        f"# emofuse {code_span(model)} model, trained on {markdown(result.corpus or 'a corpus without a name')}",
        "",
        *(
            f"- **{noun}**: {', '.join(map(markdown, names))}"
            for noun, names in (("Classes", protocol.classes), ("Values", protocol.values))
            if names
        ),
        f"- **Data**: {protocol.utterances} utterances of {protocol.speakers or 'unknown'} speakers",
        *(f"  - {CORPORA[name].title}: {CORPORA[name].licence}" for name in result.sources if name in CORPORA),
        *([_fused_from(fused)] if fused else []),
        *(encoder_line(name, one) for name, one in result.encoders.items() if name in modalities),
        f"- **Protocol**: {protocol.kind}, {protocol.folds} folds, fingerprint {code_span(str(protocol.fingerprint))}",
        "",
        "## How good it is",
        "",
        *(_measured(entry) if entry else ["It has not been measured: no fold was tested when it was made."]),
        "",
        "## Limits",
        "",
        "It was measured on the corpus above only: on other speakers, languages and rooms expect less.",
        *(["The same speakers may have trained and tested, so expect less on any other."] if unsure else []),
        f"Acted emotion is not felt emotion. {_calibration(fused, result)}",
        "Do not use it to decide about people.",
        "The licences of its data and encoders hold for it too.",
        "",
        "## Use",
        "",
        "```python",
        "import emofuse",
        "",
        'model = emofuse.load("this/folder")',
        'model.predict("clip.wav"' + (")" if modalities == {"speech"} else ', text="what is said")'),
        "```",
        "",
    ]
    return "\n".join(lines)


def encoder_line(modality: str, encoder: EncoderRecord) -> str:
    """What a card says of one encoder of `result.json`."""
    name = encoder.name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    if encoder.revision is None:
        return f"- **{modality.capitalize()} encoder**: {code_span(name)}, trained with the model"
    seen = ", ".join(map(markdown, encoder.exposure)) or "unknown"
    return (
        f"- **{modality.capitalize()} encoder**: {code_span(name)} ({markdown(str(encoder.family))}), "
        f"revision {code_span(encoder.revision[:16])}, licence {markdown(str(encoder.licence))}, "
        f"known to have seen: {seen}"
    )


def _calibration(fused: Fused | None, result: Result) -> str:
    if not result.protocol.classes:
        return "Its values are on the corpus's own scale."
    if fused is None or all(one == 1 for one in fused.folds[FINAL].temperatures):
        return "Its probabilities are not calibrated."
    return (
        "The probabilities of its members are calibrated by the temperatures above, on utterances that each fold "
        "tested; those of their mean are not calibrated again."
    )


def _fused_from(fused: Fused) -> str:
    how = fused.folds[FINAL]
    members = [
        f"{markdown(member)} (weight {weight:.2f}, temperature {temperature:.2f})"
        for member, weight, temperature in zip(fused.of, how.weights, how.temperatures, strict=True)
    ]
    return f"- **Fused from**: {', '.join(members)}"


def _measured(entry: AnyEntry) -> list[str]:
    kind = entry.kind
    figures = [(kind.titles[key], entry[key]) for key in kind.titles]
    if len(entry.dimensions) > 1:
        figures += [
            (f"{kind.titles[key]} of {markdown(name)}", estimates[key])
            for name, estimates in entry.dimensions.items()
            for key in kind.titles
        ]
    return [
        "Measured by cross-validation of models trained in the same way on a part of the data; this very model has "
        f"seen all of it. 95 % intervals by Student's t over {markdown(counted(entry.clusters, entry.cluster))}.",
        "",
        "| metric | value | interval |",
        "|---|---|---|",
        *(_row(title, estimate, kind) for title, estimate in figures),
    ]


def _row(title: str, estimate: Estimate, kind: Kind) -> str:
    value, low, high = map(kind.figure, (estimate.value, estimate.low, estimate.high))
    return f"| {title} | {value}{' %' if kind.unit else ''} | {low} to {high} |"
