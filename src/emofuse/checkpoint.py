"""A trained model as a folder: safetensors weights, settings, encoders, model card. No pickle is ever read."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch

from emofuse.encoders.checkpoint import CONTENT
from emofuse.encoders.words import WordPieces
from emofuse.errors import CheckpointError, EmofuseError, OutputError
from emofuse.files import written_folder
from emofuse.models import EmotionModel, InputShape, JoinedModel, build_model
from emofuse.scoring.fuse import Joining, Rule
from emofuse.scoring.result import versions
from emofuse.settings import ModelKind, Recipe, recipe_from
from emofuse.training.material import members_of, parts_of, speech_shape, streams_of
from emofuse.types import EncoderSpecification
from emofuse.weights import load_into, read_header

FORMAT = 1
SETTINGS, WEIGHTS, WORDS, CARD = "settings.json", "model.safetensors", "words.json", "README.md"

_LONGEST_SETTINGS = 8 << 20
_MOST_CLASSES = 1000
_DAMAGE = (AttributeError, MemoryError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A trained model and all that prediction needs beside it.

    Attributes:
        kind: Which model.
        model: In evaluation mode.
        classes: Emotions, in the order of its outputs.
        recipe: What it was trained with; its encoders are those to load.
        encoders: Specification of each stream's encoder; absent for word pieces.
        pieces: Word pieces that were trained with the model.
        protocol: Fingerprint of the protocol.
        alignment: Utterances that training had aligned, by `Alignment.source`; None where no model read alignments.
        text_languages: Languages that the words must be in, as ISO 639-1 codes; empty where that is not known.
    """

    kind: ModelKind
    model: EmotionModel | JoinedModel
    classes: tuple[str, ...]
    recipe: Recipe
    encoders: Mapping[str, EncoderSpecification]
    pieces: WordPieces | None
    protocol: str
    alignment: Mapping[str, int] | None = None
    text_languages: tuple[str, ...] = ()


def save_checkpoint(checkpoint: Checkpoint, folder: Path, *, card: str) -> None:
    """Write a checkpoint folder, whole or not at all.

    An encoder that is a local folder goes along (its weights as hard links where the disk allows, so they take no
    room); one from the Hub is named by id and commit.

    Args:
        checkpoint: What to write.
        folder: Where; an older one there is replaced.
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

    recipe = checkpoint.recipe
    for stream, specification in checkpoint.encoders.items():
        settings = recipe.speech if stream == "speech" else recipe.text
        if _is_folder(specification):
            _copy(Path(specification.name), part / "encoders" / stream)
            update: dict[str, Any] = {"encoder": f"encoders/{stream}"}
        else:
            update = {"revision": specification.revision if settings.encoder != specification.family else None}
        recipe = recipe.model_copy(update={stream: settings.model_copy(update=update)})
    for stream in {"speech", "text"} - checkpoint.encoders.keys():
        settings = recipe.speech if stream == "speech" else recipe.text
        # What the model does not read is no place on its maker's disk either.
        update = {"encoder": Path(settings.encoder).name or settings.encoder}
        if Path(settings.encoder).is_absolute():
            recipe = recipe.model_copy(update={stream: settings.model_copy(update=update)})
    pieces = checkpoint.pieces
    if pieces is not None:
        pieces.save(part / WORDS)
    model = checkpoint.model
    weights = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, part / WEIGHTS)
    values = {
        "format": FORMAT,
        "kind": checkpoint.kind,
        "classes": list(checkpoint.classes),
        "encoders": {
            stream: {**asdict(specification), "name": Path(specification.name).name}
            if _is_folder(specification)
            else asdict(specification)
            for stream, specification in checkpoint.encoders.items()
        },
        "joined": {name: _joining(one) for name, one in _joined_within(checkpoint.kind, model)},
        "alignment": None if checkpoint.alignment is None else dict(checkpoint.alignment),
        "text_languages": list(checkpoint.text_languages),
        "protocol": checkpoint.protocol,
        "recipe": recipe.model_dump(mode="json"),
        "versions": versions(),
    }
    (part / SETTINGS).write_text(json.dumps(values, indent=1), encoding="utf-8")
    (part / CARD).write_text(card, encoding="utf-8")


def _is_folder(specification: EncoderSpecification) -> bool:
    # A folder is known by its full path: what is called `logmel` here may be anything.
    return Path(specification.name).is_absolute()


def _copy(encoder: Path, target: Path) -> None:
    """Copy the files of an encoder, also where they are links, as in a snapshot of the Hub."""
    target.mkdir(parents=True)
    probe = target / "probe"
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    for source in encoder.iterdir():
        real = source.resolve()
        if not real.is_file() or source.suffix not in {*CONTENT, ".md"}:
            continue
        # Weights are written once and take room; a link has the rights of what it leads to.
        if source.suffix == ".safetensors" and real.stat().st_mode == mode:
            try:
                os.link(real, target / source.name)
                continue
            except OSError:
                pass
        shutil.copyfile(real, target / source.name)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint folder.

    Raises:
        CheckpointError: It is incomplete, damaged, of a newer format, its parts do not fit each other, or it leads to
            files elsewhere. It is data from strangers: nothing is asked of the Hub, and no more memory taken than for
            what its files hold.
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
        kind: ModelKind = values["kind"]
        if not isinstance(kind, str) or kind not in get_args(ModelKind):
            raise ValueError(f"unknown model {kind!r}")
        recipe = recipe_from(values["recipe"], source=str(folder / SETTINGS))
        encoders = {stream: _specification(one) for stream, one in values["encoders"].items()}
        pieces = WordPieces.load(folder / WORDS) if (folder / WORDS).exists() else None
        classes = _classes(values["classes"])
        _check_encoders(kind, recipe)
        if recipe.model.layers > len(read_header(folder / WEIGHTS)):
            raise ValueError(f"model.layers is {recipe.model.layers}, and {WEIGHTS} has fewer tensors")
        # Without memory, so that settings cannot ask for more than the weights' file holds.
        with torch.device("meta"):
            model = _build(kind, recipe, classes, encoders, pieces)
        load_into(model, folder / WEIGHTS)
        for name, one in _joined_within(kind, model):
            _restore_joining(one, values["joined"][name])
        protocol = str(values["protocol"])
        languages = tuple(map(str, values.get("text_languages", ())))
        alignment = _sources(values.get("alignment"))
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(
            f"the model cannot be read ({error.strerror or error})",
            where=error.filename or folder,
            remedy="check path, permissions and disk",
        ) from error
    except (EmofuseError, LookupError, ArithmeticError, AssertionError, *_DAMAGE) as error:
        what = error.what if isinstance(error, EmofuseError) else str(error).partition("\n")[0]
        raise CheckpointError(
            f"the parts of the model folder do not fit ({what})",
            where=folder,
            remedy="copy the whole folder again from where it was trained",
        ) from error
    for stream in ("speech", "text"):
        settings = recipe.speech if stream == "speech" else recipe.text
        if stream in encoders and settings.encoder == f"encoders/{stream}":
            inside = str((folder / settings.encoder).resolve())
            recipe = recipe.model_copy(update={stream: settings.model_copy(update={"encoder": inside})})
            encoders[stream] = replace(encoders[stream], name=inside)
    return Checkpoint(
        kind=kind,
        model=model.eval(),
        classes=classes,
        recipe=recipe,
        encoders=encoders,
        pieces=pieces,
        protocol=protocol,
        alignment=alignment,
        text_languages=languages,
    )


def _check_links(folder: Path) -> None:
    """See that no file of a model is a link to one elsewhere, but for the files of a snapshot of the Hub.

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
    # JSON may name half of a letter, which no terminal and no file takes.
    json.dumps(values, ensure_ascii=False).encode()
    if not isinstance(values, dict):
        raise ValueError(f"{path.name} holds no settings")
    return values


def _classes(values: Any) -> tuple[str, ...]:
    good = isinstance(values, list) and all(isinstance(one, str) and one.strip() for one in values)
    if not good or not 1 < len(values) <= _MOST_CLASSES or len(set(values)) < len(values):
        raise ValueError("the classes are not different names")
    return tuple(values)


def _check_encoders(kind: ModelKind, recipe: Recipe) -> None:
    """See that a model names no encoder elsewhere on the disk for what it reads.

    Raises:
        ValueError: It names one.
    """
    for stream in streams_of(kind):
        name = recipe.speech.encoder if stream == "speech" else recipe.text.encoder
        if name != f"encoders/{stream}" and (
            Path(name).is_absolute() or name[:1] in (".", "~") or "\\" in name or ".." in name or ":" in name[:2]
        ):
            raise ValueError(f"the settings name the encoder {name!r}, which is no part of the model")


def _sources(counts: Any) -> dict[str, int] | None:
    """How many utterances each aligner aligned.

    Raises:
        ValueError: The counts are none.
    """
    if counts is None:
        return None
    if not isinstance(counts, dict) or not all(isinstance(one, int) and one > 0 for one in counts.values()):
        raise ValueError("alignment must give a count for each aligner")
    return counts


def _joined_within(name: str, model: torch.nn.Module) -> Iterator[tuple[str, JoinedModel]]:
    """Every joined model in a model, by name."""
    if isinstance(model, JoinedModel):
        yield name, model
        for member, inner in model.members.items():
            yield from _joined_within(member, inner)


def _joining(model: JoinedModel) -> dict[str, Any]:
    return {
        "rule": model.how.rule,
        "weights": dict(zip(model, model.how.weights, strict=True)),
        "temperatures": dict(zip(model, model.how.temperatures, strict=True)),
    }


def _restore_joining(model: JoinedModel, joining: Mapping[str, Any]) -> None:
    weights, temperatures, names = joining["weights"], joining["temperatures"], list(model)
    for found in (weights, temperatures):
        if found.keys() != model.keys():
            raise ValueError(f"it is joined from {', '.join(names)}, not from {', '.join(found)}")
    if joining["rule"] not in get_args(Rule):
        raise ValueError(f"{joining['rule']!r} is not a rule")
    model.how = Joining(
        joining["rule"],
        _weights((weights[name] for name in names), count=len(names)),
        _temperatures((temperatures[name] for name in names), count=len(names)),
    )


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
    names = (found.name, found.family, found.stream, found.revision, found.licence, *found.exposure)
    if not all(type(one) is int and one >= 0 for one in counts) or not all(isinstance(one, str) for one in names):
        raise ValueError("what is said of an encoder has values of other kinds")
    return found


def _build(
    kind: ModelKind,
    recipe: Recipe,
    classes: tuple[str, ...],
    encoders: Mapping[str, EncoderSpecification],
    pieces: WordPieces | None,
) -> EmotionModel | JoinedModel:
    if members := parts_of(kind, recipe):
        built = {str(member): _build(member, recipe, classes, encoders, pieces) for member in members}
        return JoinedModel(built, Joining("mean", (1.0,) * len(members), (1.0,) * len(members)))
    shapes = {stream: InputShape(len(one.selected), one.width) for stream, one in encoders.items()}
    if "speech" in encoders:
        shapes["speech"] = speech_shape(kind, recipe, encoders["speech"])
    if pieces is not None:
        shapes["text"] = InputShape(0, pieces.size)
    unknown = [stream for stream in streams_of(kind) if stream not in shapes]
    if unknown:
        raise ValueError(f"nothing tells how {unknown[0]} becomes its input")
    return build_model(kind, recipe.model, classes=len(classes), speech=shapes.get("speech"), text=shapes.get("text"))


def joined_checkpoint(kind: ModelKind, checkpoints: Mapping[ModelKind, Checkpoint], how: Joining) -> Checkpoint:
    """Join the checkpoints of a model's members into that of their joined posteriors.

    Args:
        kind: The joined model.
        checkpoints: Holds its members, and what else there is. Of one run all read the same encoders, and word pieces
            that were learned from the same words.
        how: Rule, and weights and temperatures in the order of `parts_of`.
    """
    first = checkpoints[members_of(kind)[0]]
    members = {part: checkpoints[part] for part in parts_of(kind, first.recipe)}
    return replace(
        first,
        kind=kind,
        model=JoinedModel({str(part): one.model for part, one in members.items()}, how).eval(),
        encoders={stream: found for one in members.values() for stream, found in one.encoders.items()},
        pieces=next((one.pieces for one in members.values() if one.pieces is not None), None),
    )
