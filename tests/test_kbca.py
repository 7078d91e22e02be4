"""KBCA against its limiting cases."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from emofuse.errors import SettingsError
from emofuse.features.lexicon import word_id
from emofuse.models.base import Batch, Shapes
from emofuse.models.blocks.attention import Lognormal
from emofuse.models.frontend import InputShape
from emofuse.models.kbca import KBCA, KBCASettings
from systems import CLASSES, batch, make, numbers

WORDS = {"happy": 0.8, "sad": 0.6, "table": 0.0}


@pytest.fixture
def lexicon(tmp_path: Path) -> Path:
    path = tmp_path / "words.tsv"
    path.write_text("".join(f"{word}\t{5 * value}\n" for word, value in WORDS.items()), encoding="utf-8")
    return path


def said(*texts: str) -> Mapping[str, torch.Tensor]:
    ids = [torch.tensor([word_id(word) for word in text.split()], dtype=torch.long) for text in texts]
    return {"words": nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=-1)}


SAID = said("Happy the table", "so very sad , sad", "sad")


def kbca(*, layers: int = 2, deviation: float = 0.2, divergence: float = 0.1, **settings: Any) -> Any:
    return make(
        "kbca",
        width=8,
        heads=2,
        layers=layers,
        dropout=0.0,
        attention_dropout=0.0,
        **settings,
        deviation=deviation,
        divergence=divergence,
    )


def test_kbca_is_early_fusion_outside_training_and_without_noise(lexicon: Path) -> None:
    plain = make("early-frame", width=8, heads=2, layers=2, dropout=0.0, attention_dropout=0.0)
    given = batch(extras=SAID)
    for settings in ({"prior": "lexicon", "lexicon": str(lexicon)}, {"noise": "weibull"}, {}):
        model = kbca(**settings)
        model.load_state_dict(plain.state_dict())
        torch.testing.assert_close(model(given).logits, plain(given).logits)
        assert not torch.allclose(model.train()(given).logits, plain(given).logits)
    quiet = kbca(deviation=0.0, divergence=0.0).train()
    quiet.load_state_dict(plain.state_dict())
    output = quiet(given)
    torch.testing.assert_close(output.logits, plain(given).logits, rtol=0, atol=1e-6)
    assert set(quiet.losses(output, given, progress=1.0)) == {"task"}


def test_the_prior_is_a_softmax_of_intensities_over_words(lexicon: Path) -> None:
    model = kbca(prior="lexicon", lexicon=str(lexicon), temperature=0.5, unknown=0.3)
    given = batch(extras=SAID)
    _, mask = given.of("text")
    prior = model._log_prior(numbers(3, 7, 8), mask, model._from_lexicon(given, mask)).exp()[:, 0, 0]
    # A special token at both ends; the second text is longer than its five steps of words, the last has one word.
    intensities = [[0.0, 0.8, 0.3, 0.0, 0.0], [0.0, 0.3, 0.3, 0.6, 0.3, 0.6, 0.0], [0.0, 0.6, 0.0]]
    for row, known in enumerate(intensities):
        weights = np.exp(np.array(known) / 0.5)
        np.testing.assert_allclose(prior[row, : len(known)], weights / weights.sum(), rtol=1e-5)
        assert (prior[row, len(known) :] == 0).all()


def test_a_text_that_was_cut_keeps_the_words_that_are_left(lexicon: Path) -> None:
    model = kbca(prior="lexicon", lexicon=str(lexicon), temperature=1.0)
    given = batch(extras=said("sad table happy happy happy happy", "", "happy"))
    _, mask = given.of("text")
    scores = model._from_lexicon(given, mask)
    assert scores[0].tolist() == pytest.approx([0.0, 0.6, 0.0, 0.8, 0.0, 0.0, 0.0])
    assert scores[1].tolist() == [0.0] * 7
    nothing = batch(extras=said("", "", ""))
    assert (model._from_lexicon(nothing, mask) == 0).all()


def test_a_shuffled_lexicon_changes_the_prior_and_no_prediction(lexicon: Path, tmp_path: Path) -> None:
    given, other = batch(extras=SAID), tmp_path / "shuffled.tsv"
    values = [*WORDS.values()]
    other.write_text(
        "".join(f"{word}\t{5 * value}\n" for word, value in zip(WORDS, [*values[1:], values[0]], strict=True))
    )
    one, two = (kbca(prior="lexicon", lexicon=str(path)) for path in (lexicon, other))
    torch.testing.assert_close(one(given).logits, two(given).logits)
    found = []
    for model in (one, two):
        torch.manual_seed(0)
        found.append(model.losses(model.train()(given), given, progress=1.0))
    torch.testing.assert_close(found[0]["task"], found[1]["task"])
    assert not torch.allclose(found[0]["divergence"], found[1]["divergence"])


def test_the_divergence_is_that_of_all_attention_and_rises_with_progress() -> None:
    model, given = kbca(deviation=0.5, prior_deviation=0.5).train(), batch()
    for block in model._blocks():
        # Queries of zeros weigh all keys alike, as the prior does.
        nn.init.zeros_(block.attention.in_proj_weight[:8])
        nn.init.zeros_(block.attention.in_proj_bias[:8])
    assert model(given).aux["divergence"].item() == pytest.approx(0, abs=1e-12)
    model = kbca(deviation=0.5, prior_deviation=0.9).train()
    output = model(given)
    weights = [model.losses(output, given, progress=one)["divergence"] for one in (0.0, 0.3, 1.0)]
    value = output.aux["divergence"]
    for weight, expected in zip(weights, (0.1 / (1 + math.exp(3.6)), 0.05, 0.1 / (1 + math.exp(-8.4))), strict=True):
        torch.testing.assert_close(weight, expected * value)
    assert value > Lognormal(0.5, 0.9).divergence(torch.zeros(1), torch.zeros(1)).item()


def test_the_divergence_ignores_padding() -> None:
    model, given = kbca(layers=1).train(), batch()
    other = {}
    for name in ("speech", "text"):
        values, mask = given.of(name)
        other[name] = values.masked_fill(~mask[:, None, :, None], 5.0)
    changed = Batch(**{**vars(given), **other})
    torch.testing.assert_close(model(changed).aux["divergence"], model(given).aux["divergence"])


def test_a_learned_prior_is_trained() -> None:
    model, given = kbca(prior="learned").train(), batch()
    model.losses(model(given), given, progress=1.0)["divergence"].backward()
    assert all((one.grad != 0).any() for one in model.prior_score.parameters())


def test_a_lexicon_is_needed_in_training_alone(lexicon: Path) -> None:
    model = kbca(prior="lexicon", lexicon=str(lexicon))
    lexicon.unlink()
    assert model.inputs(model.settings).extras == ("words",)
    assert model.inputs(model.settings).extras_at_test == ()
    model(batch())
    with pytest.raises(SettingsError, match=r"words\.tsv: the lexicon cannot be read"):
        model.train()(batch(extras=SAID))


def test_knowledge_moves_attention_to_the_words_of_the_lexicon_without_noise(lexicon: Path) -> None:
    model = kbca(deviation=0.0, divergence=0.0, prior="lexicon", lexicon=str(lexicon), knowledge=1.0, layers=1)
    assert model.inputs(model.settings).extras_at_test == ("words",)
    given = batch(extras=SAID)
    _, mask = given.of("text")
    reads_text, reads_speech = model._blocks()
    weights: dict[Any, torch.Tensor] = {}
    for block in (reads_text, reads_speech):
        # Queries of zeros have logits of nothing but the prior.
        nn.init.zeros_(block.attention.in_proj_weight[:8])
        nn.init.zeros_(block.attention.in_proj_bias[:8])
        block.attention.weigh = lambda logits, block=block: weights.setdefault(block, logits.softmax(-1))
    model(given)
    prior = (model._from_lexicon(given, mask)).masked_fill(~mask, float("-inf")).softmax(-1)
    torch.testing.assert_close(
        weights[reads_text], prior[:, None, None].expand_as(weights[reads_text]), check_dtype=False
    )
    speech = given.of("speech")[1].float()
    uniform = (speech / speech.sum(1, keepdim=True))[:, None, None]
    torch.testing.assert_close(weights[reads_speech], uniform.expand_as(weights[reads_speech]), check_dtype=False)


def test_a_model_that_knows_keeps_the_lexicon_itself(lexicon: Path) -> None:
    settings = {"deviation": 0.0, "divergence": 0.0, "prior": "lexicon", "lexicon": str(lexicon), "knowledge": 2.0}
    model, given = kbca(**settings), batch(extras=SAID)
    expected = model.train()(given).logits
    lexicon.unlink()
    again = kbca(**settings)
    with pytest.raises(SettingsError, match="the lexicon cannot be read"):
        again(given)
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again(given).logits, expected)
    other = Batch(**{**vars(given), "extras": said("table table", "table", "table")})
    assert not torch.allclose(again(other).logits, expected)


def test_settings_of_kbca_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="knowledge of a uniform prior changes nothing"):
        KBCASettings(knowledge=1)
    with pytest.raises(ValueError, match="prior lexicon needs a file"):
        KBCASettings(prior="lexicon")
    with pytest.raises(ValueError, match="deviation 0 has an infinite divergence"):
        KBCASettings(deviation=0)
    shapes = Shapes(speech=InputShape(3, 6), text=InputShape(0, 20))
    with pytest.raises(SettingsError, match="a lexicon knows words"):
        KBCA(KBCASettings(prior="lexicon", lexicon="words.tsv"), shapes, CLASSES)
