"""The one trainer: what a step is, what is recorded, and how a training that was killed resumes."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from emofuse.errors import CheckpointError, SettingsError, TrainingError
from emofuse.features.dataset import Batch, Dataset
from emofuse.models.base import EmotionModel, Inputs, Output, Shapes, Speech
from emofuse.settings import TrainSettings
from emofuse.task import Classification, Task
from emofuse.training import logs
from emofuse.training.loop import fit
from emofuse.training.trainer import Fitted, Part, Schedule, Trainer, check_finite, decay_groups, shuffled

COUNT, WIDTH = 22, 5
VALUES = torch.randn(COUNT, WIDTH, generator=torch.Generator().manual_seed(0))
TRUTH = torch.randint(3, (COUNT,), generator=torch.Generator().manual_seed(1))
WEIGHTS = torch.tensor([0.5, 1.0, 4.0])


class CutOffError(Exception):
    """What a test interrupts with."""


class Toy:
    """Weighted cross-entropy of a linear layer and a loss on its weights, in micro-batches of some size."""

    def __init__(self, model: nn.Module, *, micro: int = 100, size: int = 8) -> None:
        self.model, self.micro, self.size = model, micro, size
        self.progress: list[float] = []
        self.order: list[int] = []
        self.scores: list[float] = []

    def steps(self, epoch: int) -> list[list[Part[list[int]]]]:
        batches = shuffled(COUNT, size=self.size, seed=0, epoch=epoch)
        cut = [[batch[start : start + self.micro] for start in range(0, len(batch), self.micro)] for batch in batches]
        return [[Part(part, float(WEIGHTS[TRUTH[part]].sum())) for part in parts] for parts in cut]

    def load(self, item: list[int]) -> list[int]:
        return item

    def losses(self, loaded: list[int], progress: float) -> Mapping[str, torch.Tensor]:
        self.progress.append(progress)
        self.order += loaded
        weights = WEIGHTS[TRUTH[loaded]]
        logits = self.model(VALUES[loaded])
        each = F.cross_entropy(logits, TRUTH[loaded], reduction="none")
        size = logits.square().mean(1)
        return {"task": (each * weights).sum() / weights.sum(), "size": (size * weights).sum() / weights.sum()}

    def evaluate(self) -> Mapping[str, float]:
        if self.scores:
            return {"validation_score": self.scores.pop(0)}
        return {"validation_score": 0.0}


def network(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(WIDTH, 3))


def trainer(
    model: nn.Module,
    lessons: Toy,
    *,
    epochs: int = 4,
    patience: int | None = None,
    precision: str = "float32",
    **how: Any,
) -> Trainer[list[int], list[int]]:
    each = -(-COUNT // lessons.size)
    schedule = Schedule(epochs=epochs, steps=epochs * each, warmup=0.1, patience=patience, precision=precision)
    groups = decay_groups(model.parameters(), rate=0.05, decay=0.1)
    return Trainer(model=model, groups=groups, lessons=lessons, schedule=schedule, seed=0, **how)


def weights(model: nn.Module) -> list[float]:
    return torch.cat([one.detach().flatten() for one in model.parameters()]).tolist()


# A step


@pytest.mark.parametrize("micro", [1, 3, 7])
def test_micro_batches_train_as_one_large_batch_does(micro: int) -> None:
    whole, parts = network(), network()
    first, second = Toy(whole), Toy(parts, micro=micro)
    one, many = trainer(whole, first).run(), trainer(parts, second).run()
    torch.testing.assert_close(weights(parts), weights(whole), atol=1e-5, rtol=1e-4)
    for ours, theirs in zip(many.history, one.history, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    assert len(second.progress) > len(first.progress)


def test_training_is_that_of_a_plain_loop() -> None:
    """AdamW on batches of the same order, with the schedule and clipping written out again."""
    model, twin = network(), network()
    lessons = Toy(model)
    fitted = trainer(model, lessons, epochs=3).run()
    linear = twin[1]  # type: ignore[index]
    optimizer = torch.optim.AdamW(
        [{"params": [linear.weight], "weight_decay": 0.1}, {"params": [linear.bias], "weight_decay": 0.0}], lr=0.05
    )
    losses, rise = [], 0.1 * 9
    epochs = [lessons.order[start : start + COUNT] for start in range(0, 3 * COUNT, COUNT)]
    assert all(sorted(order) == list(range(COUNT)) for order in epochs)
    batches = [order[start : start + 8] for order in epochs for start in (0, 8, 16)]
    for step, batch in enumerate(batches):
        rate = 0.5 * (1 + np.cos(np.pi * max(0.0, step - rise) / (9 - rise)))
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * rate
        optimizer.zero_grad()
        logits = twin(VALUES[batch])
        picked = WEIGHTS[TRUTH[batch]]
        loss = F.cross_entropy(logits, TRUTH[batch], weight=WEIGHTS)
        loss = loss + (logits.square().mean(1) * picked).sum() / picked.sum()
        loss.backward()
        nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        optimizer.step()
        losses.append((float(loss.detach()) * float(picked.sum()), float(picked.sum())))
    torch.testing.assert_close(weights(model), weights(twin), atol=1e-5, rtol=1e-4)
    last = losses[6:]
    expected = sum(total for total, _ in last) / sum(weight for _, weight in last)
    assert fitted.history[-1]["loss"] == pytest.approx(expected, rel=1e-4)


def test_losses_are_recorded_one_by_one() -> None:
    model = network()
    lessons = Toy(model)
    fitted = trainer(model, lessons, epochs=2).run()
    for record in fitted.history:
        assert set(record) == {"epoch", "loss", "loss_task", "loss_size", "validation_score"}
        assert record["loss"] == pytest.approx(record["loss_task"] + record["loss_size"])
        assert record["loss_task"] > 0
        assert record["loss_size"] > 0
    assert [record["epoch"] for record in fitted.history] == [1, 2]


def test_progress_runs_from_zero_to_one() -> None:
    lessons = Toy(network())
    trainer(lessons.model, lessons, epochs=2).run()
    assert lessons.progress == pytest.approx([step / 6 for step in range(6)])


def test_bfloat16_is_near_and_not_the_same() -> None:
    exact, rough = network(), network()
    trainer(exact, Toy(exact)).run()
    trainer(rough, Toy(rough), precision="bfloat16").run()
    assert weights(rough) != weights(exact)
    torch.testing.assert_close(weights(rough), weights(exact), atol=0.05, rtol=0.1)


def test_biases_and_norms_do_not_decay() -> None:
    """With a gradient of zero, weights shrink by their decay alone."""
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.AdamW(decay_groups(model.parameters(), rate=0.1, decay=0.5))
    for value in model.parameters():
        value.grad = torch.zeros_like(value)
    optimizer.step()
    for name, value in model.named_parameters():
        shrinks = name in ("0.weight", "2.weight")
        torch.testing.assert_close(value.detach(), before[name] * (1 - 0.1 * 0.5 if shrinks else 1.0))
    frozen = nn.Linear(2, 2).requires_grad_(False)
    assert decay_groups(frozen.parameters(), rate=0.1, decay=0.5) == []


# Early stopping, checkpoints


def test_the_best_epoch_is_kept_and_patience_ends() -> None:
    model = network()
    lessons = Toy(model)
    lessons.scores = [0.1, 0.4, 0.4, 0.3, 0.9]
    seen: dict[int, list[float]] = {}

    def listen(history: list[dict[str, float]]) -> None:
        seen[len(history)] = weights(model)

    fitted = trainer(model, lessons, epochs=9, patience=2, select="validation_score", listeners=[listen]).run()
    assert (fitted.epochs, len(fitted.history)) == (2, 4)
    assert weights(model) == seen[2]
    assert not model.training


def test_without_a_metric_the_last_epoch_is_kept() -> None:
    model = network()
    seen: list[list[float]] = []
    fitted = trainer(model, Toy(model), epochs=3, listeners=[lambda history: seen.append(weights(model))]).run()
    assert fitted.epochs == 3
    assert weights(model) == seen[-1]


@pytest.mark.parametrize("select", [None, "validation_score"])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_killed_training_ends_with_the_same_weights(after: int, select: str | None, tmp_path: Path) -> None:
    def run(place: Path, left: int | None) -> tuple[list[float], Fitted]:
        model = network(dropout=0.5)
        lessons = Toy(model, micro=3)
        done = len(list(place.glob("log*")))
        lessons.scores = [0.2, 0.5, 0.1, 0.3][done:]

        def listen(history: list[dict[str, float]]) -> None:
            (place / f"log{len(history)}").touch()
            if len(history) == left:
                raise CutOffError

        fitted = trainer(
            model, lessons, checkpoint=place / "checkpoint.safetensors", fingerprint="toy", select=select,
            listeners=[listen],
        ).run()  # fmt: skip
        return weights(model), fitted

    for folder in ("whole", "cut"):
        (tmp_path / folder).mkdir()
    whole = run(tmp_path / "whole", None)
    with pytest.raises(CutOffError):
        run(tmp_path / "cut", after)
    assert run(tmp_path / "cut", None) == whole
    assert whole[1].epochs == (2 if select else 4)


def test_the_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "checkpoint.safetensors"
    model = network()
    trainer(model, Toy(model), checkpoint=place, fingerprint="a").run()
    with pytest.raises(CheckpointError, match="other data, other encoders or other settings"):
        trainer(model, Toy(model), checkpoint=place, fingerprint="b").run()


def test_items_loaded_ahead_change_nothing() -> None:
    plain, ahead = network(0.5), network(0.5)
    trainer(plain, Toy(plain, micro=3)).run()
    trainer(ahead, Toy(ahead, micro=3), ahead=2).run()
    assert weights(ahead) == weights(plain)


# What diverges is refused


class Exploding(Toy):
    """A loss that leaves the range of floats in its third step."""

    def losses(self, loaded: list[int], progress: float) -> Mapping[str, torch.Tensor]:
        found = dict(super().losses(loaded, progress))
        return {**found, "task": found["task"] * (1.0 if len(self.progress) < 3 else float("nan"))}


def test_a_loss_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    model = network()
    with pytest.raises(TrainingError, match="the loss of epoch 1 is nan") as caught:
        trainer(model, Exploding(model), remedy="do less", checkpoint=tmp_path / "checkpoint.safetensors").run()
    assert caught.value.remedy == "do less"
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_finite_are_named() -> None:
    model = network()
    with torch.no_grad():
        model[1].bias[0] = torch.inf  # type: ignore[index]
    with pytest.raises(TrainingError, match=r"after epoch 3 weights 1\.bias are not finite"):
        check_finite(model, "epoch 3")


# Models on frozen features


class Linear(EmotionModel):
    """A linear layer over the mean of speech steps, with dropout and a second loss."""

    @classmethod
    def inputs(cls, settings: Any) -> Inputs:
        return Inputs(speech=Speech(steps=("frame",)))

    def __init__(self, settings: Any, shapes: Shapes, task: Task) -> None:
        super().__init__(settings, shapes, task)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(WIDTH, task.outputs))

    def forward(self, batch: Batch) -> Output:
        values, _ = batch.of("speech")
        return Output(self.head(values.mean((1, 2))))

    def losses(self, output: Output, batch: Batch, *, progress: float) -> dict[str, torch.Tensor]:
        return {**super().losses(output, batch, progress=progress), "size": 0.01 * output.logits.square().mean()}


def frozen(**how: Any) -> Any:
    names = [f"u{number}" for number in range(COUNT)]
    truth = {name: int(one) for name, one in zip(names, TRUTH, strict=True)}
    readers: dict[str, Callable[[str], torch.Tensor]] = {"speech": lambda name: VALUES[int(name[1:])][None, None]}
    task = Classification(("a", "b", "c"))
    settings = TrainSettings(epochs=3, batch_size=8, class_weights=True, refit=True)
    return fit(
        lambda fitted: Linear(Linear.Settings(), Shapes(), fitted),
        Dataset(names[:16], truth, readers),
        Dataset(names[16:], truth, readers),
        settings,
        task=task,
        seed=0,
        **how,
    )


def test_a_model_s_own_losses_are_in_the_history() -> None:
    for record in frozen().history:
        assert set(record) == {"epoch", "loss", "loss_task", "loss_size", "validation_ua"}
        assert record["loss"] == pytest.approx(record["loss_task"] + record["loss_size"])


def everything_random() -> tuple[Any, ...]:
    return (
        random.getrandbits(32), float(np.random.rand()), float(torch.rand(())), torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
    )  # fmt: skip


def toy() -> Callable[[], Any]:
    model = network(0.5)
    return trainer(model, Toy(model), epochs=1).run


@pytest.mark.parametrize("train", [frozen, toy()], ids=["fit", "trainer"])
def test_the_caller_keeps_random_numbers_and_threads(train: Callable[[], Any]) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        found = []
        for work in (train, lambda: None):
            state = random.getstate(), np.random.get_state(), torch.get_rng_state()
            random.seed(3)
            np.random.seed(3)
            torch.manual_seed(3)
            work()
            found.append(everything_random())
            random.setstate(state[0])
            np.random.set_state(state[1])
            torch.set_rng_state(state[2])
        assert found[0] == found[1]
        assert found[0][3] == 2
    finally:
        torch.set_num_threads(before)


def test_the_number_of_threads_changes_no_bit() -> None:
    before = torch.get_num_threads()
    models = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            models.append(weights(frozen().model))
    finally:
        torch.set_num_threads(before)
    assert models[0] == models[1]


# Logs


def test_tensorboard_files_hold_the_history(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trained = frozen(listeners=logs.listeners("tensorboard", tmp_path / "run"))
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "loss_task", "loss_size", "validation_ua"}
    for name in events.Tags()["scalars"]:
        found = {one.step: one.value for one in events.Scalars(name)}
        assert found == pytest.approx({int(one["epoch"]): one[name] for one in trained.history}, rel=1e-6)


def test_a_log_that_cannot_be_written_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="TensorBoard is not installed") as caught:
        logs.check_log("tensorboard")
    assert "emofuse[tensorboard]" in str(caught.value)
    with pytest.raises(SettingsError, match="there is no log 'wandb'"):
        logs.check_log("wandb")  # type: ignore[arg-type]
    logs.check_log(None)
