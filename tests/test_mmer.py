"""MMER against its limiting cases."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from emofuse.models.base import Batch
from emofuse.models.mmer import augmented
from emofuse.task import Regression
from systems import COUNTS, batch, make, spread


def test_an_open_gate_passes_the_direct_path_and_a_closed_one_shuts_it() -> None:
    given = batch()
    gated: Any = make("mmer", width=8, heads=2, ctc=0)
    free: Any = make("mmer", width=8, heads=2, ctc=0, gate=False)
    free.load_state_dict({name: one for name, one in gated.state_dict().items() if not name.startswith("gate.")})
    nn.init.zeros_(gated.gate.linear.weight)
    nn.init.constant_(gated.gate.linear.bias, 50.0)
    torch.testing.assert_close(gated(given).logits, free(given).logits)
    torch.testing.assert_close(gated(given).aux["gate"], torch.ones(3).double())
    nn.init.constant_(gated.gate.linear.bias, -50.0)
    shut = gated(given)
    spread(gated.direct, seed=7)
    torch.testing.assert_close(gated(given).logits, shut.logits)
    spread(free.direct, seed=7)
    assert not torch.allclose(free(given).logits, shut.logits)


def test_mmer_without_its_own_losses_learns_from_its_task_alone() -> None:
    given = batch()
    model = make("mmer", width=8, heads=2, ctc=0, contrast=0, second_view=0).train()
    output = model(given)
    losses = model.losses(output, given, progress=0.5)
    assert set(losses) == {"task"}
    assert model.inputs(model.Settings(ctc=0)).extras == ()  # type: ignore[call-arg]
    torch.testing.assert_close(losses["task"], F.cross_entropy(output.logits, torch.tensor([0, 2, 0])))


def test_the_losses_of_mmer_are_those_of_its_outputs() -> None:
    characters = torch.tensor([[3, 4, 5], [2, -1, -1], [7, -1, -1]])
    given = batch(extras={"characters": characters})
    model = make("mmer", width=8, heads=2, ctc=0.5, contrast=0.25, second_view=2.0, temperature=0.3).train()
    output = model(given)
    losses = model.losses(output, given, progress=0.5)
    assert set(losses) == {"task", "ctc", "contrast", "second_view"}
    each = []
    for row, ((steps, _), target) in enumerate(zip(COUNTS, characters.tolist(), strict=True)):
        known = [one for one in target if one > 0]
        each.append(
            F.ctc_loss(
                output.aux["spelling"][row, :steps, None].log_softmax(-1),
                torch.tensor([known]),
                torch.tensor([steps]),
                torch.tensor([len(known)]),
                reduction="sum",
            )
            / len(known)
        )
    torch.testing.assert_close(losses["ctc"], 0.5 * torch.stack(each).mean())
    first, second = (F.normalize(output.aux[name], dim=-1) for name in ("embedding", "second"))
    cosines = first @ second.T / 0.3
    torch.testing.assert_close(losses["second_view"], 2 * F.cross_entropy(cosines, torch.arange(3)))
    # Of three utterances the first and the last are of one class.
    own = first @ first.T / 0.3
    pairs = [own[i, j] - torch.logsumexp(own[i, [k for k in range(3) if k != i]], 0) for i, j in ((0, 2), (2, 0))]
    torch.testing.assert_close(losses["contrast"], -0.25 * torch.stack(pairs).mean())
    published = make("mmer", width=8, heads=2, ctc=0, contrast=0.25, contrast_form="as-published", temperature=0.3)
    own = (first @ first.T).log_softmax(-1) / 0.3
    classes = torch.stack([own[0, [0, 2]].mean(), own[1, 1], own[2, [0, 2]].mean()])
    torch.testing.assert_close(published.losses(output, given, progress=0.5)["contrast"], -0.25 * classes.mean())


def test_how_far_the_gate_is_open_is_the_mean_over_valid_tokens() -> None:
    model: Any = make("mmer", width=8, heads=2, ctc=0)
    opened: list[torch.Tensor] = []
    model.gate.register_forward_hook(lambda module, given, found: opened.append(found))
    reported = model(batch()).aux["gate"]
    for row, (_, tokens) in enumerate(COUNTS):
        torch.testing.assert_close(reported[row], opened[0][row, :tokens].mean())


def test_the_second_view_is_of_training_alone() -> None:
    model = make("mmer", width=8, heads=2, ctc=0)
    assert "second" not in model(batch()).aux
    values = make("mmer", width=8, heads=2, ctc=0, task=Regression(("belief",), centre=(0.0,), spread=(1.0,))).train()
    given = Batch(**{**vars(batch()), "truth": torch.ones(3, 1), "targets": torch.ones(3, 1)})
    assert set(values.losses(values(given), given, progress=0.5)) == {"task", "second_view"}


def test_a_second_view_lacks_two_spans_of_speech_and_some_tokens() -> None:
    torch.manual_seed(0)
    speech, text = torch.ones(300, 40, 50), torch.ones(300, 20, 4)
    mask = torch.ones(300, 40).bool()
    changed, same, tokens, _ = augmented(speech, mask, text, torch.ones(300, 20).bool())
    assert same is mask
    gone = (changed == 0).all(-1)
    for row in gone:
        spans = [len(list(steps)) for zero, steps in itertools.groupby(row.tolist()) if zero]
        assert len(spans) <= 2
        assert 4 <= sum(spans) <= 8
    assert gone.double().mean() == pytest.approx(0.19, abs=0.01)
    dropped = (changed == 0).all(1)
    assert dropped.double().mean() == pytest.approx(0.1, abs=0.01)
    assert (tokens == 0).all(-1).double().mean() == pytest.approx(0.1, abs=0.01)
    assert ((tokens == 0) | (tokens == 1)).all()
