"""Distillation of a text encoder: a small BERT learns from a large one and from GoEmotions' 28 labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial as partial_of
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import f1_score
from torch import nn
from torch.nn import functional as F

from emofuse.corpora import CORPORA, read_corpus
from emofuse.distill.card import write_card
from emofuse.distill.settings import TextStudentSettings
from emofuse.encoders.checkpoint import load_tokenizer, load_weights, open_checkpoint, quiet
from emofuse.files import write_text, written_folder
from emofuse.locks import alone
from emofuse.models.device import check_device
from emofuse.progress import Progress, Silent
from emofuse.seeds import derive_seed, kept_random_state, seed_everything
from emofuse.settings import fingerprint
from emofuse.training.logs import check_log, listeners
from emofuse.training.processes import Alone
from emofuse.training.trainer import History, Part, Schedule, Trainer, check_finite, decay_groups
from emofuse.types import Log

LossesOf = Callable[["_Batch"], dict[str, torch.Tensor]]
STUDENT, TEACHER, HISTORY = "student", "teacher", "history.json"
BUCKET = 20
THRESHOLD = 0.3
METRIC = "validation_macro_f1"
LOWER = "lower learning_rate and teacher_rate"


@dataclass(frozen=True, kw_only=True)
class DistilledText:
    """Result of a distillation.

    Attributes:
        folder: The student, as `transformers` and emofuse load it.
        teacher: The teacher after its tuning, likewise.
        history: Loss and macro-F1 over the 28 labels of the development split, by part and epoch.
    """

    folder: Path
    teacher: Path
    history: list[dict[str, Any]]


@kept_random_state()
@alone("out")
def distill_text(
    root: Path,
    teacher: str,
    out: Path,
    *,
    settings: TextStudentSettings | None = None,
    partial: bool = False,
    licence: str = "unknown",
    command: str = "",
    device: str = "cpu",
    log: Log | None = None,
    progress: Progress = Silent(),
) -> DistilledText:
    """Tune a BERT-like teacher on GoEmotions' training split, then distil a small BERT from it.

    The student predicts the teacher's last hidden states token by token (mean squared error, as TinyBERT does: Jiao
    et al., Findings of EMNLP 2020, eq. 8) and its posteriors on the 28 labels, and the labels themselves. Its
    embeddings begin as the principal components of the teacher's. The test split is not read.

    Args:
        root: Folder of GoEmotions.
        teacher: A BERT, by Hub id or folder; the student takes its vocabulary.
        out: Folder for the tuned teacher, checkpoints and the student.
        settings: How.
        partial: Accept another number of comments than was published.
        licence: Of the weights, for the model card.
        command: What the user typed, for the model card.
        device: Torch device.
        log: Where to log each epoch beside the history, such as `tensorboard`.
        progress: Reports each part.

    Raises:
        EncoderError: The teacher cannot be loaded, or is no BERT.
        SettingsError: The logger is not installed.
        ManifestError: GoEmotions is missing or damaged.
        CheckpointError: A checkpoint in `out` is of another teacher or other settings.
    """
    from transformers import AutoModel

    check_device(device)
    check_log(log)
    settings = settings or TextStudentSettings()
    checkpoint = open_checkpoint(teacher, revision=None, families=("bert",))
    model = load_weights(checkpoint, AutoModel, device=torch.device(device), trust_remote_code=False)
    tokenizer = load_tokenizer(checkpoint)
    manifest = read_corpus("goemotions", root, partial=partial, progress=progress).manifest
    parts = {
        name: _Texts(manifest[manifest["session"] == name], tokenizer, settings.max_tokens) for name in ("train", "dev")
    }
    key = fingerprint(checkpoint.revision, settings)

    def trained(part: str, model: nn.Module, tagger: _Tagger, losses_of: LossesOf, *, rate: float, epochs: int) -> None:
        seed = derive_seed(settings.seed, part)
        steps = epochs * -(-len(parts["train"]) // settings.batch_size)

        def write(records: History) -> None:
            whole = [*history, *({"part": part, **record} for record in records)]
            write_text(out / HISTORY, json.dumps(whole, indent=1) + "\n")

        checkpoint = out / f"{part}.safetensors"
        trainer = Trainer(
            model=model,
            groups=decay_groups(model.parameters(), rate=rate, decay=settings.weight_decay),
            lessons=_Lessons(parts["train"], parts["dev"], tagger, losses_of, settings.batch_size, seed),
            schedule=Schedule(epochs=epochs, steps=steps, warmup=settings.warmup, precision=settings.precision),
            seed=seed,
            processes=Alone(device),
            checkpoint=checkpoint,
            fingerprint=key,
            label=f"Training the {part}",
            remedy=LOWER,
            listeners=[write, *listeners(log, out / "logs" / part, resumes=checkpoint.exists())],
        )
        history.extend({"part": part, **record} for record in trainer.run(progress=progress).history)

    history: list[dict[str, Any]] = []
    seed_everything(derive_seed(settings.seed, "teacher"))
    tuned = _Tagger(model.requires_grad_(True), len(parts["train"].labels[0]))
    trained(
        "teacher",
        tuned,
        tuned,
        partial_of(_teacher_losses, tuned),
        rate=settings.teacher_rate,
        epochs=settings.teacher_epochs,
    )
    with written_folder(out / TEACHER) as part:
        _save(tuned.encoder, tokenizer, part, half=False)
    seed_everything(derive_seed(settings.seed, "student"))
    student = _Tagger(_small_bert(tuned.encoder, settings), len(parts["train"].labels[0]))
    student.to(device)
    reader = nn.Linear(settings.width, model.config.hidden_size).to(device)
    tuned.eval().requires_grad_(False).to(device)
    trained(
        "student",
        nn.ModuleDict({"student": student, "reader": reader}),
        student,
        partial_of(_student_losses, student, reader, tuned, fraction=settings.label_share),
        rate=settings.learning_rate,
        epochs=settings.epochs,
    )
    millions = sum(value.numel() for value in student.encoder.parameters()) / 1e6
    best = {entry["part"]: entry[METRIC] for entry in history}
    corpus = CORPORA["goemotions"]
    with written_folder(out / STUDENT) as part:
        _save(student.encoder, tokenizer, part, half=True)
    write_card(
        out / STUDENT,
        title="A small text encoder distilled by emofuse",
        licence=licence,
        exposure=[f"{corpus.title} ({corpus.licence})", *checkpoint.card.exposure],
        facts={
            "What it is": f"A network of BERT's architecture with {millions:.1f} M parameters, hidden states of "
            f"{settings.width} numbers and the teacher's vocabulary. It is not Google's BERT.",
            "Objective": f"Last hidden states and answers of {Path(checkpoint.name).name} (revision "
            f"{checkpoint.revision[:12]}), tuned before on {corpus.title}'s 28 labels, and these labels themselves.",
            "Exposure": f"Words and labels of {corpus.title}'s training split; its development split was watched, its "
            "test split not read. And what the teacher has read.",
            "Result": f"Macro-F1 over the 28 labels on the development split {best['student']:.3f}, the tuned "
            f"teacher's {best['teacher']:.3f}.",
            "Limits": "English, and Reddit's English at that.",
        },
        settings=settings,
        command=command,
    )
    return DistilledText(folder=out / STUDENT, teacher=out / TEACHER, history=history)


class _Texts:
    """Token ids and label rows of a split."""

    def __init__(self, manifest: pd.DataFrame, tokenizer: Any, max_tokens: int) -> None:
        names = {name: index for index, name in enumerate(CORPORA["goemotions"].labels)}
        self.ids: list[list[int]] = tokenizer(list(manifest["text"]), truncation=True, max_length=max_tokens)[
            "input_ids"
        ]
        self.labels = np.zeros((len(manifest), len(names)), dtype=np.float32)
        for row, votes in zip(self.labels, manifest["votes"], strict=True):
            row[[names[name] for name in json.loads(votes)]] = 1.0

    def __len__(self) -> int:
        return len(self.ids)

    def batches(self, size: int, rng: np.random.Generator | None) -> Iterator[list[int]]:
        """Places of texts of like length, all of them once; shuffled by `rng`."""
        order = np.arange(len(self)) if rng is None else rng.permutation(len(self))
        groups: list[list[int]] = []
        for start in range(0, len(order), size * BUCKET):
            bucket = order[start : start + size * BUCKET]
            bucket = bucket[np.argsort([len(self.ids[index]) for index in bucket], kind="stable")]
            groups += [bucket[first : first + size].tolist() for first in range(0, len(bucket), size)]
        if rng is not None:
            rng.shuffle(groups)
        yield from groups

    def batch(self, places: Sequence[int], device: torch.device) -> _Batch:
        """Texts as tensors."""
        ids = [torch.tensor(self.ids[index]) for index in places]
        mask = [torch.ones(len(one), dtype=torch.long) for one in ids]
        return _Batch(
            nn.utils.rnn.pad_sequence(ids, batch_first=True).to(device),
            nn.utils.rnn.pad_sequence(mask, batch_first=True).to(device),
            torch.from_numpy(self.labels[list(places)]).to(device),
        )


@dataclass(frozen=True)
class _Batch:
    ids: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor


class _Tagger(nn.Module):
    """A BERT, averaged over tokens, with one output per label."""

    def __init__(self, encoder: Any, labels: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.hidden_size, labels).to(encoder.device)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        valid = mask.unsqueeze(-1).to(states.dtype)
        return states, self.head((states * valid).sum(1) / valid.sum(1))


def _small_bert(teacher: Any, settings: TextStudentSettings) -> Any:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=teacher.config.vocab_size,
        hidden_size=settings.width,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        intermediate_size=4 * settings.width,
        max_position_embeddings=teacher.config.max_position_embeddings,
        type_vocab_size=teacher.config.type_vocab_size,
        pad_token_id=teacher.config.pad_token_id,
    )
    student = BertModel(config, add_pooling_layer=False)
    words = teacher.embeddings.word_embeddings.weight.detach().cpu().float()
    size = min(settings.width, words.shape[1])
    components = torch.linalg.svd(words - words.mean(0), full_matrices=False).Vh[:size]
    with torch.no_grad():
        for name in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
            source = getattr(teacher.embeddings, name).weight.detach().cpu().float()
            getattr(student.embeddings, name).weight[:, :size] = source @ components.T
    return student


@dataclass(frozen=True)
class _Lessons:
    """GoEmotions as lessons for the trainer; teacher and student differ in `losses_of`."""

    train: _Texts
    dev: _Texts
    tagger: _Tagger
    losses_of: LossesOf
    size: int
    seed: int

    def steps(self, epoch: int) -> list[list[Part[list[int]]]]:
        """See `Lessons.steps`."""
        rng = np.random.default_rng(derive_seed(self.seed, "order", epoch))
        return [[Part(places, float(len(places)))] for places in self.train.batches(self.size, rng)]

    def load(self, item: list[int]) -> _Batch:
        """See `Lessons.load`."""
        return self.train.batch(item, self.tagger.encoder.device)

    def losses(self, loaded: _Batch, progress: float) -> dict[str, torch.Tensor]:
        """See `Lessons.losses`."""
        return self.losses_of(loaded)

    def evaluate(self) -> dict[str, float]:
        """Macro-F1 over the 28 labels of the development split."""
        self.tagger.eval()
        answers = np.zeros_like(self.dev.labels)
        with torch.inference_mode():
            for places in self.dev.batches(256, None):
                batch = self.dev.batch(places, self.tagger.encoder.device)
                answers[places] = self.tagger(batch.ids, batch.mask)[1].float().sigmoid().cpu().numpy()
        value = f1_score(self.dev.labels, answers > THRESHOLD, average="macro", zero_division=0)
        return {METRIC: float(value)}


def _teacher_losses(teacher: _Tagger, batch: _Batch) -> dict[str, torch.Tensor]:
    """The labels."""
    return {"labels": F.binary_cross_entropy_with_logits(teacher(batch.ids, batch.mask)[1].float(), batch.labels)}


def _student_losses(
    student: _Tagger, reader: nn.Module, teacher: _Tagger, batch: _Batch, *, fraction: float
) -> dict[str, torch.Tensor]:
    """The teacher's hidden states, and its answers with the labels at some fraction."""
    with torch.no_grad():
        wanted, answers = teacher(batch.ids, batch.mask)
    states, logits = student(batch.ids, batch.mask)
    valid = batch.mask.bool()
    hidden = F.mse_loss(reader(states)[valid].float(), wanted[valid].float()) / wanted[valid].float().var()
    targets = fraction * batch.labels + (1 - fraction) * answers.float().sigmoid()
    # One of 28 labels is positive: without the factor the loss on hidden states would dominate.
    answered = F.binary_cross_entropy_with_logits(logits.float(), targets) * batch.labels.shape[1] / 4
    return {"hidden": hidden, "answers": answered}


def _save(encoder: Any, tokenizer: Any, folder: Path, *, half: bool) -> None:
    encoder = encoder.half() if half else encoder
    check_finite(encoder, "rounding to float16", remedy=LOWER)
    with quiet():
        encoder.cpu().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
