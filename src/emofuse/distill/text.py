"""Distillation of a text encoder: a small BERT learns from a large one and from GoEmotions' 28 labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
from emofuse.training.loop import check_finite, diverged, rate_at
from emofuse.training.state import load_state, save_state

LossOf = Callable[["_Batch"], torch.Tensor]
STUDENT, TEACHER, HISTORY = "student", "teacher", "history.json"
BUCKET = 20
THRESHOLD = 0.3
LOWER = "lower learning_rate and teacher_rate"


@dataclass(frozen=True, kw_only=True)
class DistilledText:
    """What distillation leaves.

    Attributes:
        folder: The student, as `transformers` and emofuse load it.
        teacher: The teacher after its tuning, likewise.
        history: Loss and macro-F1 over the 28 labels of the development split, by part and pass.
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
    progress: Progress = Silent(),
) -> DistilledText:
    """Tune a BERT-like teacher on GoEmotions' training split, then train a small BERT to take after it.

    The student predicts the teacher's last hidden states token by token (mean squared error, as TinyBERT does: Jiao
    et al., Findings of EMNLP 2020, eq. 8) and its answers on the 28 labels, beside the labels themselves. Its
    embeddings begin as the principal components of the teacher's. The test split is not read.

    Args:
        root: Folder of GoEmotions.
        teacher: A BERT with the vocabulary that the student shall have, by Hub id or folder.
        out: Folder for the tuned teacher, checkpoints and the student.
        settings: How.
        partial: Accept another number of comments than was published.
        licence: Of the weights, for the model card.
        command: What the user typed, for the model card.
        device: Where to compute.
        progress: Told about each part.

    Raises:
        EncoderError: The teacher cannot be had, or is no BERT.
        ManifestError: GoEmotions is not there or damaged.
        CheckpointError: A checkpoint in `out` is of another teacher or other settings.
    """
    from transformers import AutoModel

    check_device(device)
    settings = settings or TextStudentSettings()
    checkpoint = open_checkpoint(teacher, revision=None, families=("bert",))
    model = load_weights(checkpoint, AutoModel, device=torch.device(device), trust_remote_code=False)
    tokenizer = load_tokenizer(checkpoint)
    manifest = read_corpus("goemotions", root, partial=partial, progress=progress).manifest
    parts = {
        name: _Texts(manifest[manifest["session"] == name], tokenizer, settings.max_tokens) for name in ("train", "dev")
    }
    key = fingerprint(checkpoint.revision, settings)
    learner = _Learner(parts["train"], parts["dev"], settings, out, key=key, device=torch.device(device))
    seed_everything(derive_seed(settings.seed, "teacher"))
    tuned = _Tagger(model.requires_grad_(True), len(parts["train"].labels[0]))
    learner.run("teacher", tuned, lambda batch: learner.tune_loss(tuned, batch), progress)
    with written_folder(out / TEACHER) as part:
        _save(tuned.encoder, tokenizer, part, half=False)
    seed_everything(derive_seed(settings.seed, "student"))
    student = _Tagger(_small_bert(tuned.encoder, settings), len(parts["train"].labels[0]))
    student.to(device)
    reader = nn.Linear(settings.width, model.config.hidden_size).to(device)
    tuned.eval().requires_grad_(False).to(device)
    both = nn.ModuleDict({"student": student, "reader": reader})
    learner.run("student", both, lambda batch: learner.student_loss(student, reader, tuned, batch), progress)
    millions = sum(value.numel() for value in student.encoder.parameters()) / 1e6
    best = {entry["part"]: entry["dev_macro_f1"] for entry in learner.history}
    corpus = CORPORA["goemotions"]
    with written_folder(out / STUDENT) as part:
        _save(student.encoder, tokenizer, part, half=True)
    write_card(
        out / STUDENT,
        title="A small text encoder distilled by emofuse",
        licence=licence,
        heard=[f"{corpus.title} ({corpus.licence})", *checkpoint.card.exposure],
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
    return DistilledText(folder=out / STUDENT, teacher=out / TEACHER, history=learner.history)


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
    """A BERT, averaged over tokens, with one answer a label."""

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


class _Learner:
    """Passes over GoEmotions with a checkpoint after each."""

    def __init__(
        self, train: _Texts, dev: _Texts, settings: TextStudentSettings, out: Path, *, key: str, device: torch.device
    ) -> None:
        self.train, self.dev, self.settings, self.out, self.key, self.device = train, dev, settings, out, key, device
        self.history: list[dict[str, Any]] = []

    def run(self, part: str, model: nn.Module, loss_of: LossOf, progress: Progress) -> None:
        """Train a part to its last pass, from where it was cut off."""
        settings = self.settings
        rate, epochs = (
            (settings.teacher_rate, settings.teacher_epochs)
            if part == "teacher"
            else (settings.learning_rate, settings.epochs)
        )
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=settings.weight_decay)
        path = self.out / f"{part}.safetensors"
        first = 0
        if path.exists():
            values = load_state(path, model, optimizer, fingerprint=self.key, device=self.device)
            first, self.history = values["epoch"], values["history"]
        each = -(-len(self.train) // settings.batch_size)
        label = f"Training the {part}"
        progress.start(label, epochs * each)
        progress.advance(label, first * each)
        for epoch in range(first, epochs):
            seed = derive_seed(settings.seed, part, epoch)
            seed_everything(seed)
            total = 0.0
            batches = self.train.batches(settings.batch_size, np.random.default_rng(seed))
            for number, places in enumerate(batches):
                for group in optimizer.param_groups:
                    step = epoch * each + number
                    group["lr"] = rate * rate_at(step, steps=epochs * each, warmup=settings.warmup)
                model.train()
                with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
                    loss = loss_of(self.train.batch(places, self.device))
                if not loss.isfinite():
                    raise diverged(f"the loss of the {part} in epoch {epoch + 1} is {float(loss)}", remedy=LOWER)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                total += float(loss.detach()) * len(places)
                progress.advance(label)
            check_finite(model, f"epoch {epoch + 1} of the {part}", remedy=LOWER)
            tagger = model if isinstance(model, _Tagger) else model["student"]  # type: ignore[index]
            self.history.append(
                {"part": part, "pass": epoch + 1, "loss": total / len(self.train), "dev_macro_f1": self._f1(tagger)}
            )
            values = {"epoch": epoch + 1, "history": self.history, "fingerprint": self.key}
            save_state(path, model, optimizer, values)
            write_text(self.out / HISTORY, json.dumps(self.history, indent=1) + "\n")
        progress.finish(label)
        model.eval()

    def tune_loss(self, teacher: _Tagger, batch: _Batch) -> torch.Tensor:
        """The labels."""
        return F.binary_cross_entropy_with_logits(teacher(batch.ids, batch.mask)[1].float(), batch.labels)

    def student_loss(self, student: _Tagger, reader: nn.Module, teacher: _Tagger, batch: _Batch) -> torch.Tensor:
        """The teacher's hidden states and answers, and the labels."""
        with torch.no_grad():
            wanted, answers = teacher(batch.ids, batch.mask)
        states, logits = student(batch.ids, batch.mask)
        valid = batch.mask.bool()
        hidden = F.mse_loss(reader(states)[valid].float(), wanted[valid].float()) / wanted[valid].float().var()
        share = self.settings.label_share
        targets = share * batch.labels + (1 - share) * answers.float().sigmoid()
        # A label is right in one of 28 places: without the factor the hidden states would drown it.
        answered = F.binary_cross_entropy_with_logits(logits.float(), targets)
        return torch.add(hidden, answered, alpha=batch.labels.shape[1] / 4)

    def _f1(self, tagger: _Tagger) -> float:
        tagger.eval()
        answers = np.zeros_like(self.dev.labels)
        with torch.inference_mode():
            for places in self.dev.batches(256, None):
                batch = self.dev.batch(places, self.device)
                answers[places] = tagger(batch.ids, batch.mask)[1].float().sigmoid().cpu().numpy()
        return float(f1_score(self.dev.labels, answers > THRESHOLD, average="macro", zero_division=0))


def _save(encoder: Any, tokenizer: Any, folder: Path, *, half: bool) -> None:
    encoder = encoder.half() if half else encoder
    check_finite(encoder, "rounding to float16", remedy=LOWER)
    with quiet():
        encoder.cpu().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
