"""Encoders and the model above them, trained together."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.nn import functional as F
from typer.testing import CliRunner

from emofuse.audio import load_audio
from emofuse.cli import app as cli
from emofuse.corpora import CORPORA, read_corpus
from emofuse.encoders import load_speech_encoder, load_text_encoder, load_trainable_encoder
from emofuse.errors import CheckpointError, EmofuseError, EncoderError, ManifestError, SettingsError, TrainingError
from emofuse.experiment import extract, train
from emofuse.features.dataset import Batch
from emofuse.features.extras import Facts
from emofuse.features.pooling import pool_frames
from emofuse.finetune.batches import micro_batches
from emofuse.finetune.loop import Tuner
from emofuse.finetune.network import TunedNetwork
from emofuse.finetune.recordings import open_recordings
from emofuse.finetune.run import finetune
from emofuse.inference.predictor import load
from emofuse.manifest import utterances
from emofuse.models import model_class
from emofuse.models.base import Shapes
from emofuse.models.frontend import InputShape
from emofuse.plan import Plan, resolve
from emofuse.recipe import load_recipe, recipe_from
from emofuse.report import write_report
from emofuse.scoring.fuse import fuse
from emofuse.scoring.inference import paired_difference
from emofuse.scoring.table import read_scores
from emofuse.settings import FinetuneSettings, SpeechSettings, TextSettings
from emofuse.task import Classification
from emofuse.testing import SPEECH_FAMILIES, TEXT_FAMILIES, tiny_corpus, tiny_speech_encoder, tiny_text_encoder, tone
from emofuse.training.data import TrainingData
from emofuse.training.folder import check_frozen
from emofuse.training.processes import Processes
from emofuse.training.state import BEST, CHECKPOINT, save_state
from emofuse.training.trainer import Schedule, Trainer, shuffled

pytestmark = pytest.mark.usefixtures("blank_plots")

CLASSES = ("angry", "happy", "neutral", "sad")
NAMES = ("speech", "text", "concat", "early-frame")
STILL = {"width": 16, "heads": 2, "dropout": 0.0, "attention_dropout": 0.0}
DROPOUTS = ("dropout", "dropout_prob", "dropout_rate")


@pytest.fixture(autouse=True, scope="module")
def _few_pages() -> Iterator[None]:
    """Draw the page of one run only: its figures take longer than so small a training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "emofuse.finetune.run.write_report", lambda out: write_report(out) if out.name == "early-frame" else None
        )
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_corpus(tmp_path_factory.mktemp("corpus"), speakers=3, utterances=2)


@pytest.fixture(scope="module")
def manifest(corpus: Path) -> pd.DataFrame:
    return read_corpus("table", corpus).manifest


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny encoders of every family, as they come and, in `still`, without anything random in training."""
    folder = tmp_path_factory.mktemp("encoders")
    for family in SPEECH_FAMILIES:
        calm(tiny_speech_encoder(folder / "still" / family, family=family))
    for family in TEXT_FAMILIES:
        calm(tiny_text_encoder(folder / "still" / family, family=family))
    tiny_speech_encoder(folder / "wav2vec2")
    tiny_text_encoder(folder / "bert")
    return folder


def calm(folder: Path) -> None:
    """Turn off dropout and SpecAugment of an encoder."""
    path = folder / "config.json"
    values = json.loads(path.read_text())
    values |= {name: 0.0 for name in values if name.endswith(DROPOUTS) or name == "layerdrop"}
    path.write_text(json.dumps({**values, "apply_spec_augment": False}))


QUICK = {
    "batch_size": 8, "micro_batch": 4, "epochs": 2, "precision": "float32", "warmup": 0.0,
    "gradient_checkpointing": False,
}  # fmt: skip


def settings(**changes: Any) -> FinetuneSettings:
    return FinetuneSettings.model_validate({**QUICK, **changes})


def make_plan(encoders: Path, *, still: bool = True, given: Mapping[str, Any] | None = None, **finetune: Any) -> Plan:
    """A plan of tiny encoders; `given` stands above its parts, and the rest are settings of fine-tuning."""
    place = encoders / "still" if still else encoders
    values = {
        "name": "tiny",
        "models": list(NAMES),
        "seeds": [0],
        "speech": {"encoder": str(place / "wav2vec2")},
        "text": {"encoder": str(place / "bert")},
        "model": STILL,
        "finetune": {**QUICK, **finetune},
        "protocol": {"kind": "speaker"},
    }
    return resolve(recipe_from({**values, **(given or {})}, source="the test"))


def make_network(
    speech: Path | str, text: Path | str, *, model: str = "early-frame", gradient_checkpointing: bool = False
) -> TunedNetwork:
    torch.manual_seed(0)
    chosen: dict[str, SpeechSettings | TextSettings] = {
        "speech": SpeechSettings(encoder=str(speech)),
        "text": TextSettings(encoder=str(text)),
    }
    found = model_class(model)
    how = found.Settings.model_validate(
        {name: value for name, value in STILL.items() if name in found.Settings.model_fields}
    )
    loaded = {modality: load_trainable_encoder(chosen[modality]) for modality in found.inputs(how).modalities}
    shapes: dict[str, Any] = {name: InputShape(len(one.specification.selected), 32) for name, one in loaded.items()}
    head = found(how, Shapes(**shapes), Classification(CLASSES))
    steps: Any = "utterance" if model == "speech" else "frame"
    return TunedNetwork(head, loaded, granularity=steps, gradient_checkpointing=gradient_checkpointing)


def make_tuner(
    network: TunedNetwork,
    manifest: pd.DataFrame,
    folder: Path,
    how: FinetuneSettings,
    *,
    votes: Mapping[str, Sequence[float]] | None = None,
) -> Tuner:
    processes, rows = Processes("cpu"), list(utterances(manifest))
    data = TrainingData(
        task=network.head.task,
        truth={row.utterance: CLASSES.index(row.label or "") for row in rows},
        clusters=manifest.set_index("utterance")[["speaker", "session", "dialogue"]],
        store=folder,
        speech_settings=SpeechSettings(),
        text_settings=TextSettings(),
        facts={row.utterance: Facts(text=row.text or "", votes=(votes or {}).get(row.utterance, ())) for row in rows},
    )
    recordings = open_recordings(rows, network.head.reads.modalities, processes)
    return Tuner(
        network=network, recordings=recordings, data=data, settings=how, seed=0, processes=processes, folder=folder,
        key="test",
    )  # fmt: skip


def weigh(network: TunedNetwork, labels: torch.Tensor, how: FinetuneSettings) -> torch.Tensor:
    """Have the loss weigh classes as their counts in training say; returns the weights, worked out here."""
    network.head.task = network.head.task.fitted(labels, how)
    counts = torch.bincount(labels, minlength=4)
    return len(labels) / (counts.clamp(min=1) * int((counts > 0).sum())) * (counts > 0)


def logits_of(network: TunedNetwork, manifest: pd.DataFrame, names: Sequence[str]) -> torch.Tensor:
    """Answers to utterances that come one by one."""
    return torch.cat([network(items_of(manifest, [name]), Batch())[0].logits for name in names])


def labels_of(manifest: pd.DataFrame, names: Sequence[str]) -> torch.Tensor:
    labels = manifest.set_index("utterance")["label"]
    return torch.tensor([CLASSES.index(labels[name]) for name in names])


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def names_of(manifest: pd.DataFrame, *speakers: str) -> list[str]:
    return sorted(manifest["utterance"][manifest["speaker"].isin(speakers)])


# What is trained, and how fast


@pytest.mark.parametrize("family", SPEECH_FAMILIES)
def test_convolutions_stay_and_layers_move(family: str, encoders: Path, manifest: pd.DataFrame, tmp_path: Path) -> None:
    network = make_network(encoders / "still" / family, encoders / "still" / "bert")
    before = state(network)
    tuner = make_tuner(network, manifest, tmp_path, settings(epochs=1))
    tuner.run(names_of(manifest, "s0", "s1"), names_of(manifest, "s2"))
    moved = {name for name, value in network.named_parameters() if not torch.equal(value, before[name])}
    still = [name for name in before if re.search(r"feature_extractor|\.conv[12]\.|embed_positions", name)]
    assert len(still) > 3
    assert moved.isdisjoint(still)
    layers = [name for name in before if re.search(r"encoders\..*layers?\.\d+\..*(weight|bias)$", name)]
    # A bias that is added to all keys alike cancels in the softmax.
    trained = {name for name in layers if name not in still and not re.search(r"k(ey)?(_proj)?\.bias", name)}
    assert len(trained) > 40
    assert trained <= moved
    assert {name for name in before if name.startswith("head.")} - moved <= {"head.co_attention.layers.0"}


def depth_of(name: str) -> int | None:
    """Number of a parameter's encoder layer, from its name alone; None below the layers."""
    found = re.search(r"encoder\.layers?\.(\d+)\.", name)
    return int(found[1]) if found else None


def test_every_depth_learns_at_its_rate(encoders: Path, manifest: pd.DataFrame, tmp_path: Path) -> None:
    """AdamW's first step has the length of the rate, whatever the gradient."""
    network = make_network(encoders / "still" / "wav2vec2", encoders / "still" / "bert")
    how = settings(
        epochs=1, batch_size=16, weight_decay=0.0, clip=1e9,
        learning_rate=1e-3, layer_rate=7.0, encoder_rate=2e-4, layer_decay=0.5,
    )  # fmt: skip
    before = state(network)
    make_tuner(network, manifest, tmp_path, how).run(names_of(manifest, "s0", "s1"), names_of(manifest, "s2"))
    seen = set()
    for name, value in network.named_parameters():
        distance = float((value.detach() - before[name]).abs().max())
        # What is added to all keys or all scores alike cancels in the softmax.
        if distance == 0 or re.search(r"key\.bias|k_proj\.bias|in_proj_bias|score\.bias", name):
            continue
        depth = depth_of(name)
        if name.startswith("head."):
            expected = 7e-3 if name.endswith("mix.scores") else 1e-3
        else:
            expected = 2e-4 * {None: 0.25, 0: 0.5, 1: 1.0}[depth]
        seen.add(expected)
        assert distance == pytest.approx(expected, rel=0.05), name
    assert seen == {7e-3, 1e-3, 2e-4, 1e-4, 5e-5}


def test_only_matrices_decay(encoders: Path) -> None:
    network = make_network(encoders / "still" / "wav2vec2", encoders / "still" / "bert")
    names = {id(value): name for name, value in network.named_parameters()}
    groups = network.groups(settings(weight_decay=0.1))
    decaying = {names[id(one)] for group in groups if group["weight_decay"] for one in group["params"]}
    resting = {names[id(one)] for group in groups if not group["weight_decay"] for one in group["params"]}
    trained = {name for name, value in network.named_parameters() if value.requires_grad}
    assert decaying | resting == trained
    assert decaying.isdisjoint(resting)
    assert resting == {name for name in trained if network.get_parameter(name).ndim < 2}


# The same gradients, however they are computed


def items_of(manifest: pd.DataFrame, names: Sequence[str]) -> dict[str, list[Any]]:
    rows = {row.utterance: row for row in utterances(manifest)}
    return {
        "speech": [load_audio(rows[name].audio or "") for name in names],
        "text": [rows[name].text or "" for name in names],
    }


FAMILIES = [*((family, "bert") for family in SPEECH_FAMILIES), *(("wav2vec2", family) for family in TEXT_FAMILIES[1:])]


@pytest.mark.parametrize(("speech", "text"), FAMILIES)
def test_layers_computed_anew_give_the_same_gradients(
    speech: str, text: str, encoders: Path, manifest: pd.DataFrame
) -> None:
    """Dropout included, which must fall on the same units both times."""
    items = items_of(manifest, names_of(manifest, "s0")[:3])
    found = []
    for again in (False, True):
        network = make_network(
            encoders / "still" / speech, encoders / "still" / text, gradient_checkpointing=again
        ).train()
        for module in network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.3
        torch.manual_seed(1)
        loss = F.cross_entropy(network(items, Batch())[0].logits, torch.tensor([0, 1, 2]))
        loss.backward()  # type: ignore[no-untyped-call]
        found.append((loss, {name: one.grad for name, one in network.named_parameters() if one.grad is not None}))
    (plain, gradients), (again_loss, recomputed) = found
    assert torch.equal(plain, again_loss)
    assert gradients.keys() == recomputed.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-5, atol=1e-7, msg=name)


def test_layers_computed_anew_keep_less(encoders: Path, manifest: pd.DataFrame) -> None:
    """Or the option would be for nothing."""
    items = items_of(manifest, names_of(manifest, "s0"))
    kept = []
    for again in (False, True):
        network = make_network(
            encoders / "still" / "wav2vec2", encoders / "still" / "bert", gradient_checkpointing=again
        ).train()
        sizes: list[int] = []

        def keep(value: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(value.numel())
            return value

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            network(items, Batch())
        kept.append(sum(sizes))
    assert kept[1] < 0.7 * kept[0]


@pytest.mark.parametrize(("speech", "micro_batch"), [("wav2vec2", 3), ("wav2vec2", 16), ("whisper", 4)])
def test_a_step_is_that_of_a_plain_loop(
    speech: str, micro_batch: int, encoders: Path, manifest: pd.DataFrame, tmp_path: Path
) -> None:
    """One utterance at a time, without padding: neither company nor parts of a batch may move the gradient."""
    train = names_of(manifest, "s0", "s1")[:11]
    how = settings(
        epochs=1, batch_size=16, micro_batch=micro_batch, clip=1e9, class_weights=True, label_smoothing=0.1
    )  # fmt: skip
    network = make_network(encoders / "still" / speech, encoders / "still" / "bert")
    labels = labels_of(manifest, train)
    weight = weigh(network, labels, how)
    tuner = make_tuner(network, manifest, tmp_path, how)
    twin = make_network(encoders / "still" / speech, encoders / "still" / "bert")
    tuner._standardise(train)
    twin.load_state_dict(network.state_dict())
    loss = F.cross_entropy(logits_of(twin.train(), manifest, train), labels, weight=weight, label_smoothing=0.1)
    loss.backward()  # type: ignore[no-untyped-call]
    tuned = tuner.run(train, names_of(manifest, "s2"))
    assert tuned.history[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)
    largest = max(float(one.grad.abs().max()) for one in twin.parameters() if one.grad is not None)
    for name, expected in twin.named_parameters():
        gradient = network.get_parameter(name).grad
        assert (gradient is None) == (expected.grad is None), name
        if gradient is not None and expected.grad is not None:
            torch.testing.assert_close(gradient, expected.grad, rtol=2e-3, atol=1e-5 * largest, msg=name)


@pytest.mark.parametrize("micro_batch", [3, 16])
def test_votes_are_learnt_as_fractions(
    micro_batch: int, encoders: Path, manifest: pd.DataFrame, tmp_path: Path
) -> None:
    """The loss of a step is torch's own, of fractions as targets, however the batch is divided."""
    train = names_of(manifest, "s0", "s1")[:11]
    how = settings(epochs=1, batch_size=16, micro_batch=micro_batch, class_weights=True, soft_labels=True)
    network = make_network(encoders / "still/wav2vec2", encoders / "still/bert")
    weight = weigh(network, labels_of(manifest, train), how)
    counted = torch.rand(len(train), 4, generator=torch.Generator().manual_seed(0))
    fractions = counted / counted.sum(1, keepdim=True)
    tuner = make_tuner(network, manifest, tmp_path, how, votes=dict(zip(train, fractions.tolist(), strict=True)))
    tuner._standardise(train)
    with torch.no_grad():
        expected = F.cross_entropy(logits_of(network.train(), manifest, train), fractions, weight=weight)
    tuned = tuner.run(train, names_of(manifest, "s2"))
    assert tuned.history[0]["loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_the_votes_of_a_recipe_count(encoders: Path, manifest: pd.DataFrame, tmp_path: Path) -> None:
    voted = manifest.assign(votes=[json.dumps({label: 2, "sad": 1}) for label in manifest["label"]])
    answers = {}
    for name, votes in (("hard", False), ("soft", True)):
        how = make_plan(encoders, given={"train": {"soft_labels": votes}}, epochs=1, learning_rate=1e-2)
        for table in (voted, voted.assign(votes=voted["votes"].str.replace("2", "3"))):
            done = finetune(table, how, tmp_path / name, model="text", folds=["speaker-s0"], processes=Processes("cpu"))
            table = read_scores(tmp_path / name / "scores.parquet")
            answers.setdefault(name, []).append(table.posteriors())
        note = "Fine-tuning does not read"
        assert not any(line.startswith(note) for line in done.result.notes)
    assert (answers["hard"][0] == answers["hard"][1]).all()
    assert (answers["soft"][0] != answers["hard"][0]).any()
    assert (answers["soft"][0] != answers["soft"][1]).any()


def test_a_tuning_that_diverges_is_named_and_costs_no_other(
    encoders: Path, manifest: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, begun = Tuner.steps, []

    def steps(self: Tuner, epoch: int) -> Any:
        begun.append(self.folder.name)
        if self.folder.name.startswith("speaker-s1") and epoch == 2:
            with torch.no_grad():
                next(self.network.head.parameters()).fill_(float("nan"))
        return real(self, epoch)

    monkeypatch.setattr(Tuner, "steps", steps)
    how = make_plan(encoders)
    work = {"model": "text", "folds": ["speaker-s1", "speaker-s2"], "processes": Processes("cpu")}
    with pytest.raises(TrainingError) as caught:
        finetune(manifest, how, tmp_path, **work)  # type: ignore[arg-type]
    said = "text speaker-s1-seed0: the training diverged: the loss of epoch 2 is nan; lower finetune.learning_rate"
    assert str(caught.value).startswith(said)
    # What is done is scored, and nothing of the other lies about.
    assert set(read_scores(tmp_path / "scores.parquet").frame["fold"]) == {"speaker-s2"}
    assert not any((tmp_path / "trials/text/speaker-s1-seed0" / name).exists() for name in (CHECKPOINT, BEST))
    monkeypatch.undo()
    lower = make_plan(encoders, learning_rate=1e-5)
    finetune(manifest, lower, tmp_path, **work)  # type: ignore[arg-type]
    assert set(read_scores(tmp_path / "scores.parquet").frame["fold"]) == {"speaker-s1", "speaker-s2"}


def test_what_a_killed_command_left_beside_what_is_done_is_removed(
    encoders: Path, manifest: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after its last file and before it removed the checkpoint, which takes more room than all else."""
    work = {"model": "text", "folds": ["speaker-s1"], "processes": Processes("cpu")}
    with monkeypatch.context() as patch:
        patch.setattr("emofuse.finetune.run.discard", lambda folder: None)
        finetune(manifest, make_plan(encoders, epochs=1), tmp_path, **work)  # type: ignore[arg-type]
    folder = tmp_path / "trials/text/speaker-s1-seed0"
    assert (folder / CHECKPOINT).exists()
    before = (folder / "scores.parquet").read_bytes()
    finetune(manifest, make_plan(encoders, epochs=1), tmp_path, **work)  # type: ignore[arg-type]
    assert {path.name for path in folder.iterdir()} == {"scores.parquet", "trial.json", "validation.parquet"}
    assert (folder / "scores.parquet").read_bytes() == before


def test_bfloat16_is_near(encoders: Path, manifest: pd.DataFrame, tmp_path: Path) -> None:
    losses = []
    for precision in ("float32", "bfloat16"):
        network = make_network(encoders / "still" / "wav2vec2", encoders / "still" / "bert")
        tuner = make_tuner(network, manifest, tmp_path / precision, settings(epochs=1, precision=precision))
        losses.append(tuner.run(names_of(manifest, "s0", "s1"), names_of(manifest, "s2")).history[0]["loss"])
        assert all(value.dtype == torch.float32 for value in network.parameters())
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.03)


def test_layers_that_would_be_dropped_still_leave_their_states(encoders: Path) -> None:
    encoder: Any = load_trainable_encoder(SpeechSettings(encoder=str(encoders / "wav2vec2")))
    encoder.model.config.layerdrop = 0.99
    encoder.thaw()
    encoder.model.train()
    assert encoder.states([tone(0.5, seed=1)])[0].shape == (3, 24, 32)


def test_clips_shorter_than_a_mask_can_be_trained_on(encoders: Path) -> None:
    encoder: Any = load_trainable_encoder(SpeechSettings(encoder=str(encoders / "wav2vec2")))
    encoder.thaw()
    assert encoder.model.config.mask_time_prob > 0
    encoder.model.train()
    assert encoder.states([tone(0.1, seed=1)])[0].shape == (3, 4, 32)
    assert len(encoder.states([tone(1.0, seed=1)])[0]) == 3


def test_built_in_encoders_are_trained_as_their_like(encoders: Path) -> None:
    clip = tone(0.7, seed=3)
    plain = load_speech_encoder(SpeechSettings()).encode([clip])[0]
    trainable = load_trainable_encoder(SpeechSettings())
    trainable.thaw()
    states = trainable.states([clip])[0]
    assert states.requires_grad
    torch.testing.assert_close(states.detach(), plain, rtol=1e-3, atol=1e-3 * float(plain.abs().max()))
    words = load_trainable_encoder(TextSettings())
    torch.testing.assert_close(words.states(["so good"])[0], load_text_encoder(TextSettings()).encode(["so good"])[0])


# Who computes what


@given(count=st.integers(1, 60), size=st.integers(1, 20), most=st.integers(1, 20), processes=st.integers(1, 5))
def test_processes_share_the_batches_of_one(count: int, size: int, most: int, processes: int) -> None:
    names = [f"u{number}" for number in range(count)]
    sizes = {name: float(number % 7) for number, name in enumerate(names)}
    places = shuffled(count, size=size, seed=1, epoch=2)
    batches = [[names[place] for place in batch] for batch in places]
    assert sorted(name for batch in batches for name in batch) == sorted(names)
    assert all(len(batch) == size for batch in batches[:-1])
    assert places == shuffled(count, size=size, seed=1, epoch=2)
    for batch in batches:
        parts = micro_batches(batch, sizes, most=most)
        assert sorted(name for part in parts for name in part) == sorted(batch)
        assert all(len(part) <= most for part in parts)
        shares = [parts[number::processes] for number in range(processes)]
        assert sorted(name for share in shares for part in share for name in part) == sorted(batch)


def test_every_epoch_has_an_order_of_its_own() -> None:
    orders = {str(shuffled(40, size=8, seed=seed, epoch=epoch)) for seed in (0, 1) for epoch in (1, 2)}
    assert len(orders) == 4


OVERRIDES = (
    "seeds=[0]",
    "protocol.kind=speaker",
    "finetune.epochs=2",
    "finetune.batch_size=5",
    "finetune.micro_batch=2",
    "finetune.precision=float32",
    "finetune.learning_rate=1e-3",
    "finetune.encoder_rate=1e-4",
)
LAUNCH = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
          "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0")  # fmt: skip


@pytest.mark.slow
def test_two_processes_train_as_one_does(corpus: Path, manifest: pd.DataFrame, encoders: Path, tmp_path: Path) -> None:
    """Dropout on, uneven shares, and a last batch in which one process has less."""
    overrides = [
        *OVERRIDES,
        f'speech.encoder="{encoders / "wav2vec2"}"',
        f'text.encoder="{encoders / "bert"}"',
    ]
    command = ["-m", "emofuse", "finetune", "fusion", "--corpus", "table", "--root", str(corpus), "--device", "cpu",
            "--fold", "speaker-s0", "--out", str(tmp_path / "two")]  # fmt: skip
    for override in overrides:
        command += ["--set", override]
    both = subprocess.run(
        [sys.executable, *LAUNCH, *command],
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert both.returncode == 0, both.stderr
    assert both.stdout.count("UA %") == 1, "only one of them speaks"
    how = resolve(load_recipe("fusion", overrides=overrides))
    finetune(manifest, how, tmp_path / "one", folds=["speaker-s0"], processes=Processes("cpu"))
    folders = [tmp_path / run / "trials/early-frame/speaker-s0-seed0/trial.json" for run in ("one", "two")]
    one, two = (json.loads(path.read_text()) for path in folders)
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["key"] == two["key"]
    assert len(one["history"]) == 2
    for ours, theirs in zip(one["history"], two["history"], strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-6)
        assert theirs["validation_ua"] == ours["validation_ua"]
    first, second = (read_scores(tmp_path / run / "scores.parquet") for run in ("one", "two"))
    assert list(first.frame["utterance"]) == list(second.frame["utterance"])
    np.testing.assert_allclose(second.posteriors(), first.posteriors(), atol=1e-5)


# Going on after a kill


class CutOffError(Exception):
    """What a test interrupts with."""


class Interrupting:
    """A progress display that breaks off after some steps."""

    def __init__(self, after: int) -> None:
        self.left = after

    def start(self, description: str, total: float | None) -> None: ...

    def finish(self, description: str) -> None: ...

    def note(self, message: str) -> None: ...

    def advance(self, description: str, steps: float = 1) -> None:
        if description == "Fine-tuning" and steps:
            self.left -= 1
            if self.left < 0:
                raise CutOffError


def model_bytes(out: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((out / "models/early-frame").rglob("*.safetensors"))]


def test_a_cut_off_run_ends_with_the_same_weights(encoders: Path, manifest: pd.DataFrame, tmp_path: Path) -> None:
    """With dropout and SpecAugment on, whose draws must be the same after a new start."""
    how = make_plan(encoders, still=False, given={"model": {"width": 16, "heads": 2}}, epochs=3)
    options: dict[str, Any] = {"folds": ["final"], "processes": Processes("cpu")}
    finetune(manifest, how, tmp_path / "whole", **options)
    for after in (3, 1):
        with pytest.raises(CutOffError):
            finetune(manifest, how, tmp_path / "cut", progress=Interrupting(after), **options)
    trial = "trials/early-frame/final-seed0"
    assert (tmp_path / "cut" / trial / CHECKPOINT).exists()
    assert not (tmp_path / "cut" / trial / "trial.json").exists()
    with pytest.raises(SettingsError, match="encoders are tuned"):
        check_frozen(tmp_path / "cut")
    assert "the run of another model" in str(complaint(manifest, how, tmp_path / "cut", model="text"))
    finetune(manifest, how, tmp_path / "cut", **options)
    assert len(model_bytes(tmp_path / "whole")) == 3
    assert model_bytes(tmp_path / "cut") == model_bytes(tmp_path / "whole")
    reported = [json.loads((tmp_path / run / trial / "trial.json").read_text())["history"] for run in ("whole", "cut")]
    assert reported[0] == reported[1]
    assert not (tmp_path / "cut" / trial / CHECKPOINT).exists(), "what is kept elsewhere takes no room"


def test_a_checkpoint_of_something_else_is_not_taken_up(encoders: Path, manifest: pd.DataFrame, tmp_path: Path) -> None:
    train, validation = names_of(manifest, "s0", "s1"), names_of(manifest, "s2")
    network = make_network(encoders / "still" / "wav2vec2", encoders / "still" / "bert")
    tuner = make_tuner(network, manifest, tmp_path, settings(epochs=1))
    tuner.run(train, validation)
    tuner.key = "other"
    with pytest.raises(CheckpointError, match="other data, other encoders or other settings"):
        tuner.run(train, validation)


class Head(torch.nn.Module):
    """A network without encoders, for what does not hang on them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(4, 3))
        self.bias = torch.nn.Parameter(torch.randn(4))


def small_trainer(folder: Path) -> Trainer[Any, Any]:
    """A trainer that has two steps behind it and can go on."""
    torch.manual_seed(0)
    head, nothing = Head(), SimpleNamespace()
    return Trainer(
        model=head, groups=[{"params": list(head.parameters()), "lr": 1e-3}], lessons=nothing, seed=0,  # type: ignore[arg-type]
        schedule=Schedule(epochs=2, steps=2, warmup=0.0), select="validation_ua", checkpoint=folder / CHECKPOINT,
        fingerprint="test",
    )  # fmt: skip


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a training leaves that was cut off after its first epoch."""
    folder = tmp_path_factory.mktemp("cut_off")
    trainer = small_trainer(folder)
    sum(value.sum() for value in trainer.parameters).backward()
    trainer.optimizer.step()
    values = {
        "epoch": 1,
        "step": 1,
        "best": {"value": 0.5, "epoch": 1},
        "history": [{"epoch": 1}],
        "fingerprint": "test",
    }
    save_state(folder / CHECKPOINT, trainer.model, trainer.optimizer, values)
    trainer._keep()
    return {name: (folder / name).read_bytes() for name in (CHECKPOINT, BEST)}


def go_on(folder: Path, files: dict[str, bytes]) -> Trainer[Any, Any]:
    """Take up what is there, and do a step."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    trainer = small_trainer(folder)
    assert trainer._resume()["epoch"] == 1
    sum(value.sum() for value in trainer.parameters).backward()
    trainer.optimizer.step()
    trainer.model.load_state_dict(trainer._best())
    return trainer


@pytest.mark.parametrize("name", [CHECKPOINT, BEST])
@pytest.mark.parametrize("content", [b"", b"garbage" * 99, b"\0" * 500, b"\2\0\0\0\0\0\0\0{}", None])
def test_a_damaged_checkpoint_is_named_with_the_remedy(
    name: str, content: bytes | None, cut_off: dict[str, bytes], tmp_path: Path
) -> None:
    go_on(tmp_path, cut_off)
    half = cut_off[name][: len(cut_off[name]) // 2]
    with pytest.raises(CheckpointError) as caught:
        go_on(tmp_path, {**cut_off, name: half if content is None else content})
    assert str(caught.value).startswith(f"{tmp_path / name}: this checkpoint is damaged or cannot be read; remove it")
    assert (CHECKPOINT in caught.value.remedy) == (name == BEST)


@given(
    name=st.sampled_from([CHECKPOINT, BEST]),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4),
    fraction=st.floats(0.05, 1),
    header=st.booleans(),
)
@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_is_borne_or_refused_in_one_sentence(
    name: str, flips: list[tuple[float, int]], fraction: float, header: bool, cut_off: dict[str, bytes], tmp_path: Path
) -> None:
    content = bytearray(cut_off[name])
    reach = 8 + int.from_bytes(content[:8], "little") if header else len(content)
    for place, change in flips:
        content[int(place * reach)] ^= change
    with contextlib.suppress(CheckpointError):
        go_on(
            tmp_path,
            {**cut_off, name: bytes(content[: max(1, round(fraction * len(content)))] if not header else content)},
        )


def test_training_stops_when_validation_no_longer_rises(encoders: Path, manifest: pd.DataFrame, tmp_path: Path) -> None:
    network = make_network(encoders / "still" / "wav2vec2", encoders / "still" / "bert")
    how = settings(epochs=9, patience=2, learning_rate=1e-12, encoder_rate=1e-12, layer_rate=1e-3)
    tuned = make_tuner(network, manifest, tmp_path, how).run(names_of(manifest, "s0", "s1"), names_of(manifest, "s2"))
    assert (tuned.epochs, len(tuned.history)) == (1, 3)


# A run


def test_a_small_task_is_learnt(encoders: Path, manifest: pd.DataFrame, tmp_path: Path) -> None:
    network = make_network(encoders / "wav2vec2", encoders / "bert")
    how = settings(
        epochs=12, patience=12, batch_size=4, learning_rate=3e-3, encoder_rate=1e-3, gradient_checkpointing=True
    )
    tuner = make_tuner(network, manifest, tmp_path, how)
    unheard = names_of(manifest, "s2")
    tuned = tuner.run(names_of(manifest, "s0", "s1"), unheard)
    assert tuned.history[-1]["loss"] < 0.5 * tuned.history[0]["loss"]
    found = [entry["validation_ua"] for entry in tuned.history]
    assert max(found) > 0.7, "a quarter would be chance"
    assert tuned.epochs == found.index(max(found)) + 1
    right = tuned.validation.argmax(1) == labels_of(manifest, unheard).numpy()
    assert right.mean() == pytest.approx(max(found))
    assert tuned.epochs < len(found), "the last epoch must not be the best, or this proves nothing"
    best, last = load_file(tmp_path / BEST), load_file(tmp_path / CHECKPOINT)
    for name, value in network.state_dict().items():
        assert torch.equal(value, best[name]), name
    assert not torch.equal(best["head.head.1.weight"], last["model.head.head.1.weight"])


@pytest.fixture(scope="module")
def tuned(encoders: Path, manifest: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fold of speech, text and early, each in a run folder of its own."""
    root = tmp_path_factory.mktemp("tuned")
    how = make_plan(encoders, learning_rate=3e-3, encoder_rate=3e-4)
    for name in NAMES:
        folds = ["speaker-s1", *(["final"] if name == "early-frame" else [])]
        finetune(manifest, how, root / name, model=name, folds=folds, keep_folds=True, processes=Processes("cpu"))
    return root


def test_tables_fit_the_other_commands(tuned: Path) -> None:
    speech, text, concat, early = (read_scores(tuned / name / "scores.parquet") for name in NAMES)
    assert [len(table.frame) for table in (speech, text, concat, early)] == [8] * 4
    fused, _ = fuse([speech, text], rule="mean")
    np.testing.assert_allclose(fused.posteriors(), (speech.posteriors() + text.posteriors()) / 2, atol=1e-6)
    assert paired_difference(early, text)["ua"].value == pytest.approx(
        float(np.mean(early.posteriors().argmax(1) == early.labels()))
        - float(np.mean(text.posteriors().argmax(1) == text.labels()))
    )
    assert (tuned / "early-frame" / "report.html").is_file()


def test_a_kept_model_predicts_what_was_scored(tuned: Path, manifest: pd.DataFrame) -> None:
    """The very fold's model, in a process that knows only its folder."""
    scores = read_scores(tuned / "early-frame" / "scores.parquet").frame.set_index("utterance")
    model = load(tuned / "early-frame/models/early-frame-speaker-s1-seed0")
    for row in list(utterances(manifest))[8:12]:
        assert row.audio is not None
        answer = model.predict(row.audio, text=row.text)
        for name in CLASSES:
            # Prediction rounds features to halves, as the feature store does.
            assert answer.posteriors[name] == pytest.approx(float(scores.loc[row.utterance, name]), abs=5e-3)
    assert load(tuned / "early-frame/models/early-frame").classes == CLASSES
    card = (tuned / "early-frame/models/early-frame/README.md").read_text()
    assert "UA" in card


@pytest.mark.parametrize("family", ["wav2vec2", "hubert", "data2vec-audio", "whisper"])
def test_tuned_encoders_can_be_named_in_a_recipe(family: str, encoders: Path, tmp_path: Path) -> None:
    trainable: Any = load_trainable_encoder(SpeechSettings(encoder=str(encoders / "still" / family)))
    trainable.thaw()
    with torch.no_grad():
        for value in trainable.model.parameters():
            value.add_(0.01 * torch.randn_like(value))
    trainable.save(tmp_path)
    clips = [tone(0.5, seed=1), tone(0.9, seed=2)]
    again = load_speech_encoder(SpeechSettings(encoder=str(tmp_path)))
    assert again.specification.family == family
    for ours, theirs in zip(again.encode(clips), trainable.states(clips), strict=True):
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-4, atol=1e-5)


def test_tuned_encoders_say_what_they_have_seen(tuned: Path) -> None:
    place = tuned / "early-frame/trials/early-frame/final-seed0/encoders"
    specification = load_speech_encoder(SpeechSettings(encoder=str(place / "speech"))).specification
    assert specification.exposure[0] == CORPORA["table"].title
    words = load_text_encoder(TextSettings(encoder=str(place / "text")))
    assert words.encode(["so good"])[0].shape == (3, 4, 32)
    assert "must not be used to test on them" in (place / "text/README.md").read_text()


def test_pooled_granularity_is_that_of_frozen_runs(encoders: Path) -> None:
    clips = [tone(0.5, seed=1), tone(0.9, seed=2)]
    network = make_network(encoders / "still/wav2vec2", "", model="speech").eval()
    frozen = load_speech_encoder(SpeechSettings(encoder=str(encoders / "still/wav2vec2"))).encode(clips)
    for ours, theirs in zip(network.features("speech", clips), frozen, strict=True):
        torch.testing.assert_close(ours.detach(), pool_frames(theirs, granularity="utterance"), rtol=1e-4, atol=1e-5)


def test_what_is_done_is_not_done_again(encoders: Path, manifest: pd.DataFrame, tmp_path: Path) -> None:
    def run(**changes: Any) -> int:
        how = make_plan(encoders, **{"epochs": 1, **changes})
        finetune(manifest, how, tmp_path, model="text", folds=["speaker-s0"], processes=Processes("cpu"))
        return (tmp_path / "trials/text/speaker-s0-seed0/trial.json").stat().st_mtime_ns

    first = run()
    assert run() == first
    assert run(epochs=2) != first


# What a person can fix


def test_a_bad_recording_is_left_out(encoders: Path, corpus: Path, tmp_path: Path) -> None:
    table = read_corpus("table", corpus).manifest
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"RIFF")
    table.loc[0, "audio"] = str(bad)
    samples = load_audio(table.loc[1, "audio"])
    soundfile.write(tmp_path / "opposed.wav", np.stack([samples, -samples], axis=1), 16000)
    table.loc[1, "audio"] = str(tmp_path / "opposed.wav")
    outcome = finetune(
        table, make_plan(encoders, epochs=1), tmp_path / "run", model="speech", folds=["speaker-s1"],
        processes=Processes("cpu"),
    )  # fmt: skip
    assert list(outcome.skipped) == [table["utterance"].iloc[0]]
    assert outcome.result.protocol.utterances == len(table) - 1
    assert f"1 recording ({table['utterance'].iloc[1]}): the 2 channels are of opposite" in str(outcome.result.notes)


def complaint(manifest: pd.DataFrame, how: Plan, out: Path, **options: Any) -> EmofuseError:
    with pytest.raises(EmofuseError) as caught:
        finetune(manifest, how, out, **{"processes": Processes("cpu"), **options})
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return caught.value


def test_mistakes_are_reported_in_one_sentence(encoders: Path, manifest: pd.DataFrame, tmp_path: Path) -> None:
    good = make_plan(encoders)

    def other(**given: Any) -> Plan:
        return make_plan(encoders, given=given)

    for how in (other(speech={"encoder": "logmel"}), other(text={"encoder": "words"})):
        error = complaint(manifest, how, tmp_path)
        assert isinstance(error, EncoderError)
        assert "no weights that could be tuned" in str(error)
    assert "the recipe has no model 'late'" in str(complaint(manifest, good, tmp_path, model="late"))
    error = complaint(manifest, good, tmp_path, folds=["monday"])
    assert isinstance(error, SettingsError)
    assert "speaker-s0" in str(error)
    phones = other(models=["early-phone", "early-joint"])
    assert "not tuned under phones, which early-phone" in str(
        complaint(manifest, phones, tmp_path, model="early-phone")
    )
    assert "frames and phones" in str(complaint(manifest, phones, tmp_path, model="early-joint"))
    place = {"encoder": str(encoders / "still/wav2vec2")}
    spread = other(speech={**place, "segments": "mean+std"})
    assert "not tuned under mean+std of frames" in str(complaint(manifest, spread, tmp_path, model="concat"))
    talk = other(text={"encoder": str(encoders / "still/bert"), "context": 1})
    assert "not tuned with dialogue context" in str(complaint(manifest, talk, tmp_path, model="text"))
    assert isinstance(complaint(manifest.assign(text=None), good, tmp_path), ManifestError)
    assert isinstance(complaint(manifest.assign(audio=None), good, tmp_path), ManifestError)
    many = Processes("cpu")
    many.count = 3
    with pytest.raises(SettingsError, match="3 processes cannot share batches of 8 utterances in 2 parts of 4"):
        Tuner(
            network=make_network(encoders / "still/wav2vec2", encoders / "still/bert"),
            recordings=None, data=None, settings=settings(), seed=0, processes=many, folder=tmp_path, key="",  # type: ignore[arg-type]
        )  # fmt: skip


@pytest.mark.parametrize("held", ['{"models": {}}', '{"tuned": "speech"}', "[]", "no JSON"])
def test_the_folder_of_another_run_is_left_alone(
    held: str, encoders: Path, manifest: pd.DataFrame, tmp_path: Path
) -> None:
    (tmp_path / "result.json").write_text(held)
    assert "another model, or one on frozen features" in str(complaint(manifest, make_plan(encoders), tmp_path))
    assert (tmp_path / "result.json").read_text() == held


def test_trials_record_who_trained_them_whatever_the_result_says(
    encoders: Path, manifest: pd.DataFrame, tmp_path: Path
) -> None:
    """A run that was cut off after its first folds has no result, and a tuned fold keeps no weights."""
    finetune(manifest, make_plan(encoders, epochs=1), tmp_path / "tuned", model="text", folds=["speaker-s0"],
             processes=Processes("cpu"))  # fmt: skip
    fast = {"speech": {"encoder": "logmel"}, "models": ["speech"], "model": {"width": 16}, "train": {"epochs": 1}}
    frozen = make_plan(encoders, given=fast)
    train(manifest, frozen, extract(manifest, frozen, tmp_path / "store"), tmp_path / "frozen", jobs=1)
    before = {path: path.read_bytes() for path in tmp_path.glob("*/trials/**/*") if path.is_file()}
    assert {path.name for path in before if "text" in path.parts} == {
        "scores.parquet",
        "trial.json",
        "validation.parquet",
    }
    for held in (None, "{}", '{"tuned": "speech"}'):
        for name in ("tuned", "frozen"):
            (tmp_path / name / "result.json").unlink(missing_ok=True)
            if held is not None:
                (tmp_path / name / "result.json").write_text(held)
        with pytest.raises(SettingsError, match="encoders are tuned"):
            check_frozen(tmp_path / "tuned")
        said = str(complaint(manifest, make_plan(encoders), tmp_path / "frozen", model="speech"))
        assert "or one on frozen features" in said
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("command", ["run", "train"])
def test_a_run_on_frozen_features_leaves_a_tuned_one_alone(command: str, tuned: Path, corpus: Path) -> None:
    place = tuned / "speech"
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    out = ["--out", str(place), "--speech-encoder", "logmel", "--text-encoder", "words"]
    found = {
        "run": ["--corpus", "table", "--root", str(corpus)],
        "train": ["--manifest", str(place / "manifest.parquet"), "--store", str(place / "features")],
    }
    done = CliRunner().invoke(cli.app, [command, "fusion", *found[command], *out])
    assert isinstance(done.exception, SettingsError)
    assert "encoders are tuned with the model; choose another folder." in str(done.exception)
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before


def test_launched_processes_that_are_each_alone_do_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would write over what the others write."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingsError, match="2 processes were launched"):
        Processes("cpu")


def test_the_command_fails_in_one_sentence(
    corpus: Path, encoders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["emofuse", "finetune", "fusion", "--corpus", "table", "--root", str(corpus), "--out", str(tmp_path),
                 "--device", "cpu", "--speech-encoder", str(encoders / "nowhere")]  # fmt: skip
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    error = capsys.readouterr().err.strip()
    assert "check the path, or give the id of a model on the Hub" in error
    assert "Traceback" not in error
