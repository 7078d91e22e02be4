"""Model folders: safetensors weights, settings, encoders, model card. Nothing is unpickled."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch

from emofuse.encoders.checkpoint import CONTENT
from emofuse.encoders.words import Subwords
from emofuse.errors import CheckpointError, EmofuseError, OutputError, SettingsError
from emofuse.files import written_folder
from emofuse.models import model_class
from emofuse.models.base import EmotionModel
from emofuse.models.ensemble import Ensemble
from emofuse.outside import is_outside
from emofuse.plan import ModelPlan, shapes_of
from emofuse.scoring.fuse import Fusion, Silence
from emofuse.scoring.result import versions
from emofuse.settings import FusionRule, SpeechSettings, TextSettings, checked
from emofuse.task import Task, task_from
from emofuse.types import EncoderSpecification
from emofuse.weights import load_into, read_header

FORMAT = 2
SETTINGS, WEIGHTS, WORDS, CARD = "settings.json", "model.safetensors", "words.json", "README.md"

_LONGEST_SETTINGS = 8 << 20
_DEEPEST = 8  # Ensembles within ensembles.
_DAMAGE = (AttributeError, MemoryError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A trained model and all that prediction needs.

    Attributes:
        name: Name of the model.
        model: In evaluation mode.
        networks: Class, settings and inputs of each network, by name, in order.
        task: The task, in the order of outputs.
        speech: Settings of speech features; its encoder is the one to load.
        text: Settings of text features.
        encoders: Specification of each modality's encoder; absent for subwords.
        subwords: Vocabulary that was trained with the model.
        protocol: Fingerprint of the protocol.
        alignment: Number of aligned training utterances by `Alignment.source`; None if no model reads alignments.
        text_languages: Languages of transcripts, as ISO 639-1 codes; empty if unknown.
        text_sources: Sources of the training transcripts, `reference` or recognisers; empty if unknown.
        references: Networks that were trained to take a reference of their speaker's clips.
        measured: What models that were trained like it reached on what they were not trained on, in a sentence.
    """

    name: str
    model: EmotionModel | Ensemble
    networks: Mapping[str, ModelPlan]
    task: Task
    speech: SpeechSettings
    text: TextSettings
    encoders: Mapping[str, EncoderSpecification]
    subwords: Subwords | None
    protocol: str
    alignment: Mapping[str, int] | None = None
    text_languages: tuple[str, ...] = ()
    text_sources: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    measured: str = ""

    @property
    def modalities(self) -> tuple[str, ...]:
        """Inputs of its networks."""
        found = {modality for one in self.networks.values() for modality in one.inputs.modalities}
        return tuple(modality for modality in ("speech", "text") if modality in found)


def save_checkpoint(checkpoint: Checkpoint, folder: Path, *, card: str) -> None:
    """Write a checkpoint folder, atomically.

    A local encoder is copied (its weights as hard links where the disk allows, without taking space); one from the Hub
    is named by id and commit.

    Args:
        checkpoint: The checkpoint.
        folder: The folder; an older model there is replaced.
        card: Text of the model card.

    Raises:
        OutputError: It cannot be written, or the folder holds something else.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / SETTINGS).is_file():
        raise OutputError("this folder holds something else than a model", where=folder, remedy="choose another")
    with written_folder(folder) as part:
        _write(checkpoint, part, card)


def _write(checkpoint: Checkpoint, part: Path, card: str) -> None:
    from safetensors.torch import save_file

    frontends: dict[str, dict[str, Any]] = {}
    for modality in ("speech", "text"):
        settings: SpeechSettings | TextSettings = getattr(checkpoint, modality)
        update: dict[str, Any] = {}
        if modality not in checkpoint.encoders:
            # Do not store paths of modalities that the model does not read.
            if Path(settings.encoder).is_absolute():
                update = {"encoder": Path(settings.encoder).name or settings.encoder}
        elif _is_folder(specification := checkpoint.encoders[modality]):
            _copy(Path(specification.name), part / "encoders" / modality)
            update = {"encoder": f"encoders/{modality}"}
        else:
            update = {"revision": specification.revision if settings.encoder != specification.family else None}
        frontends[modality] = settings.model_copy(update=update).model_dump(mode="json")
    if checkpoint.subwords is not None:
        checkpoint.subwords.save(part / WORDS)
    model = checkpoint.model
    # Copies: a network that is twice in an ensemble is one module, and safetensors refuses shared memory.
    weights = {name: value.cpu().contiguous().clone() for name, value in model.state_dict().items()}
    save_file(weights, part / WEIGHTS)
    values = {
        "format": FORMAT,
        "model": _record(checkpoint.name, model, checkpoint.networks),
        "task": checkpoint.task.record(),
        **frontends,
        "encoders": {
            modality: {**asdict(specification), "name": Path(specification.name).name}
            if _is_folder(specification)
            else asdict(specification)
            for modality, specification in checkpoint.encoders.items()
        },
        "alignment": None if checkpoint.alignment is None else dict(checkpoint.alignment),
        "text_languages": list(checkpoint.text_languages),
        "text_sources": list(checkpoint.text_sources),
        "references": list(checkpoint.references),
        "measured": checkpoint.measured,
        "protocol": checkpoint.protocol,
        "versions": versions(),
    }
    (part / SETTINGS).write_text(json.dumps(values, indent=1), encoding="utf-8")
    (part / CARD).write_text(card, encoding="utf-8")


def _is_folder(specification: EncoderSpecification) -> bool:
    # A folder is named by its full path: a relative `logmel` would be ambiguous.
    return Path(specification.name).is_absolute()


def _copy(encoder: Path, target: Path) -> None:
    """Copy the files of an encoder, following links, as in a snapshot of the Hub."""
    target.mkdir(parents=True)
    probe = target / "probe"
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    for source in encoder.iterdir():
        real = source.resolve()
        if not real.is_file() or source.suffix not in {*CONTENT, ".md"}:
            continue
        # Weights are large and never change; a hard link has the permissions of its target.
        if source.suffix == ".safetensors" and real.stat().st_mode == mode:
            try:
                os.link(real, target / source.name)
                continue
            except OSError:
                pass
        shutil.copyfile(real, target / source.name)


def load_checkpoint(folder: Path, *, trust: bool = False) -> Checkpoint:
    """Read a checkpoint folder.

    Args:
        folder: The folder.
        trust: Also load classes from outside the package, which runs their code.

    Raises:
        CheckpointError: It is incomplete, damaged, of a newer format, its parts do not fit each other, or it links to
            files elsewhere. The folder is untrusted: nothing is downloaded, and no more memory is allocated than its
            files hold.
        SettingsError: A class is from outside the package, and the folder is not trusted.
    """
    try:
        for name in (SETTINGS, WEIGHTS):
            if not (folder / name).is_file():
                raise CheckpointError(
                    f"the model folder has no {name}", where=folder, remedy="name a folder that emofuse has trained"
                )
        _check_links(folder)
        values = _read_settings(folder / SETTINGS)
        if values["format"] != FORMAT:
            raise CheckpointError(
                f"format {values['format']} is not {FORMAT}", where=folder, remedy="use the emofuse that wrote it"
            )
        task = task_from(values["task"])
        speech = checked(SpeechSettings, values["speech"], source=str(folder / SETTINGS))
        text = checked(TextSettings, values["text"], source=str(folder / SETTINGS))
        encoders = {modality: _specification(one) for modality, one in values["encoders"].items()}
        subwords = Subwords.load(folder / WORDS) if (folder / WORDS).exists() else None
        networks: dict[str, ModelPlan] = {}
        _read_networks(values["model"], networks, trust=trust, tensors=len(read_header(folder / WEIGHTS)))
        for modality in {modality for one in networks.values() for modality in one.inputs.modalities}:
            _check_encoder(modality, speech.encoder if modality == "speech" else text.encoder)

        def build(network: ModelPlan) -> EmotionModel:
            size = subwords.size if subwords is not None else None
            return network.build(shapes_of(network.inputs, speech, encoders, subwords=size), task)

        # On `meta`, so that settings cannot allocate more memory than the weights' file holds.
        with torch.device("meta"):
            model = _build(values["model"], networks, build, classes=task.outputs)
        load_into(model, folder / WEIGHTS)
        protocol = str(values["protocol"])
        languages, sources, references = (
            tuple(map(str, values.get(name, ()))) for name in ("text_languages", "text_sources", "references")
        )
        alignment = _sources(values.get("alignment"))
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(
            f"the model cannot be read ({error.strerror or error})",
            where=error.filename or folder,
            remedy="check path, permissions and disk",
        ) from error
    except SettingsError as error:
        if error.remedy == TRUST:
            raise
        raise _unfit(folder, error.what) from error
    except (EmofuseError, LookupError, ArithmeticError, AssertionError, *_DAMAGE) as error:
        what = error.what if isinstance(error, EmofuseError) else str(error).partition("\n")[0]
        raise _unfit(folder, what) from error
    for modality, settings in (("speech", speech), ("text", text)):
        if modality in encoders and settings.encoder == f"encoders/{modality}":
            encoders[modality] = replace(encoders[modality], name=str((folder / settings.encoder).resolve()))
    inside = {modality: {"encoder": one.name} for modality, one in encoders.items() if Path(one.name).is_absolute()}
    return Checkpoint(
        name=str(values["model"]["name"]),
        model=model.eval(),
        networks=networks,
        task=task,
        speech=speech.model_copy(update=inside.get("speech", {})),
        text=text.model_copy(update=inside.get("text", {})),
        encoders=encoders,
        subwords=subwords,
        protocol=protocol,
        alignment=alignment,
        text_languages=languages,
        text_sources=sources,
        references=references,
        measured=str(values.get("measured", "")),
    )


TRUST = "load it with trust=True, or --trust, if you trust where it comes from"


def _unfit(folder: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"the parts of the model folder do not fit ({what})",
        where=folder,
        remedy="copy the whole folder again from where it was trained",
    )


def _check_links(folder: Path) -> None:
    """Check that no file of a model is a link to a file elsewhere, except in a snapshot of the Hub.

    Raises:
        CheckpointError: One is.
    """
    root = folder.resolve()
    homes = [root, root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [root]
    paths = [folder / name for name in (SETTINGS, WEIGHTS, WORDS, "encoders")]
    for above, folders, files in os.walk(folder / "encoders"):
        paths += [Path(above, name) for name in (*folders, *files)]
    for path in paths:
        if path.is_symlink() and not any(path.resolve().is_relative_to(home) for home in homes):
            raise CheckpointError(
                f"{path.relative_to(folder)} is a link to a file elsewhere",
                where=folder,
                remedy="put the file itself in its place, if you trust where the model comes from",
            )


def _read_settings(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _LONGEST_SETTINGS:
        raise ValueError(f"{path.name} is too long")
    values = json.loads(path.read_text(encoding="utf-8"))
    # JSON may hold lone surrogates, which cannot be written.
    json.dumps(values, ensure_ascii=False).encode()
    if not isinstance(values, dict):
        raise ValueError(f"{path.name} holds no settings")
    return values


def _check_encoder(modality: str, name: str) -> None:
    """Check that a model names no encoder elsewhere on the disk.

    Raises:
        ValueError: It names one.
    """
    if name != f"encoders/{modality}" and (
        Path(name).is_absolute() or name[:1] in (".", "~") or "\\" in name or ".." in name or ":" in name[:2]
    ):
        raise ValueError(f"the settings name the encoder {name!r}, which is no part of the model")


def _sources(counts: Any) -> dict[str, int] | None:
    """Number of utterances per aligner.

    Raises:
        ValueError: The counts are none.
    """
    if counts is None:
        return None
    if not isinstance(counts, dict) or not all(isinstance(one, int) and one > 0 for one in counts.values()):
        raise ValueError("alignment must give a count for each aligner")
    return counts


def _record(name: str, model: EmotionModel | Ensemble, networks: Mapping[str, ModelPlan]) -> dict[str, Any]:
    """A model as JSON: its class and settings, or how its members are fused."""
    if not isinstance(model, Ensemble):
        return {"name": name, **networks[name].record()}
    return {
        "name": name,
        "rule": model.how.rule,
        "weights": list(model.how.weights),
        "temperatures": list(model.how.temperatures),
        "silences": list(model.how.silences),
        "members": [_record(member, one, networks) for member, one in model.members.items()],
    }


def _read_networks(
    record: Mapping[str, Any], found: dict[str, ModelPlan], *, trust: bool, tensors: int, depth: int = 0
) -> None:
    """Collect the networks of a record.

    Raises:
        ValueError: The record is invalid.
        SettingsError: A class is from outside the package and not trusted.
    """
    name = record["name"]
    if not isinstance(name, str) or not name or depth > _DEEPEST:
        raise ValueError(f"{name!r} is no name of a model")
    if "members" in record:
        for member in record["members"]:
            _read_networks(member, found, trust=trust, tensors=tensors, depth=depth + 1)
        return
    source = record["class"]
    if not isinstance(source, str):
        raise ValueError(f"{source!r} is no class")
    if is_outside(source) and not trust:
        raise SettingsError(f"the model's class {source} is not one of emofuse's own", where=name, remedy=TRUST)
    kind = model_class(source)
    settings = checked(kind.Settings, record["settings"], source=f"model {name}")
    if getattr(settings, "layers", 0) > tensors:
        raise ValueError(f"layers is {getattr(settings, 'layers', 0)}, and {WEIGHTS} has fewer tensors")
    found[name] = ModelPlan(
        name=name, source=source, settings=settings, inputs=kind.inputs(settings), certainty=kind.certainty
    )


def _build(
    record: Mapping[str, Any],
    networks: Mapping[str, ModelPlan],
    build: Callable[[ModelPlan], EmotionModel],
    *,
    classes: int,
) -> EmotionModel | Ensemble:
    if "members" not in record:
        return build(networks[record["name"]])
    members = {member["name"]: _build(member, networks, build, classes=classes) for member in record["members"]}
    count = len(record["members"])
    if len(members) < count or not members:
        raise ValueError("members of an ensemble must have different names")
    if record["rule"] not in get_args(FusionRule):
        raise ValueError(f"{record['rule']!r} is not a rule")
    weights, temperatures = _weights(record["weights"], count=count), _temperatures(record["temperatures"], count=count)
    silences = _silences(record.get("silences", ()), count=count, classes=classes)
    return Ensemble(members, Fusion(record["rule"], weights, temperatures, silences))


def _silences(values: Sequence[Any], *, count: int, classes: int) -> tuple[Silence | None, ...]:
    found = tuple(None if one is None else (one[0], float(one[1])) for one in values)
    fit = all(
        type(place) is int and 0 <= place < classes and 0 <= fraction <= 1 for place, fraction in filter(None, found)
    )
    if len(found) not in (0, count) or not fit:
        raise ValueError(f"{list(values)} are no silences")
    return found


def _weights(values: Iterable[Any], *, count: int) -> tuple[float, ...]:
    weights = tuple(float(one) for one in values)
    if len(weights) != count or not all(one >= 0 for one in weights) or not 0 < sum(weights) < math.inf:
        raise ValueError(f"{weights} are no weights")
    return weights


def _temperatures(values: Iterable[Any], *, count: int) -> tuple[float, ...]:
    temperatures = tuple(float(one) for one in values)
    if len(temperatures) != count or not all(0 < one < math.inf for one in temperatures):
        raise ValueError(f"{temperatures} are no temperatures")
    return temperatures


def _specification(values: dict[str, Any]) -> EncoderSpecification:
    lists = {name: tuple(values[name]) for name in ("selected", "exposure")}
    found = EncoderSpecification(**{**values, **lists})
    counts = (found.layers, found.width, found.sampling_rate, found.stride, found.receptive_field, *found.selected)
    names = (found.name, found.family, found.modality, found.revision, found.licence, *found.exposure)
    if not all(type(one) is int and one >= 0 for one in counts) or not all(isinstance(one, str) for one in names):
        raise ValueError("what is said of an encoder has values of other kinds")
    return found


def fused_checkpoint(name: str, members: Mapping[str, Checkpoint], how: Fusion) -> Checkpoint:
    """Fuse checkpoints into an ensemble.

    Args:
        name: Name of the ensemble.
        members: Its members in order, with the same encoders and the same subwords.
        how: Rule, weights and temperatures.
    """
    first = next(iter(members.values()))
    return replace(
        first,
        name=name,
        model=Ensemble({member: one.model for member, one in members.items()}, how).eval(),
        networks={network: plan for one in members.values() for network, plan in one.networks.items()},
        encoders={modality: found for one in members.values() for modality, found in one.encoders.items()},
        subwords=next((one.subwords for one in members.values() if one.subwords is not None), None),
        references=tuple(dict.fromkeys(name for one in members.values() for name in one.references)),
    )
