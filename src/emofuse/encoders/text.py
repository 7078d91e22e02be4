"""Text encoders: BERT and related models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from emofuse.encoders.arithmetic import inference, to_features
from emofuse.encoders.checkpoint import Checkpoint, load_tokenizer, load_weights, quiet
from emofuse.encoders.layers import select_layers
from emofuse.settings import TextSettings
from emofuse.types import EncoderSpecification

FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert", "mpnet", "electra")

# Their position embeddings begin after the padding token's id, so fewer tokens fit than the table has rows.
_OFFSET_POSITIONS = {"roberta", "xlm-roberta", "camembert", "mpnet"}


class TransformerTextEncoder:
    """A BERT-like encoder of whole texts.

    Args:
        model: A model of `transformers` from one of `FAMILIES`.
        tokenizer: Its tokenizer.
        specification: Its specification.
        max_tokens: Longest text in tokens, special tokens included; the rest is left out.
        device: The model's device.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        specification: EncoderSpecification,
        max_tokens: int,
        device: torch.device,
    ) -> None:
        self.specification = specification
        self.model = model
        self._tokenizer = tokenizer
        self.max_tokens = max_tokens
        self._device = device

    def encode(self, texts: Sequence[str], *, earlier: Sequence[Sequence[str]] = ()) -> list[torch.Tensor]:
        """Encode texts together; an empty one has special tokens only.

        Earlier texts and the text are the two segments of a pair. A pair that is too long loses its oldest tokens;
        the text keeps the tokens that it has without context.

        Args:
            texts: The transcripts.
            earlier: The preceding texts of each text, the oldest first; empty for no context.

        Returns:
            One float32 CPU tensor `(layers, tokens, width)` per text: its own tokens and the special tokens around
            them.
        """
        with inference(self._device):
            return [states.cpu() for states in self.states(texts, earlier=earlier)]

    def states(self, texts: Sequence[str], *, earlier: Sequence[Sequence[str]] = ()) -> list[torch.Tensor]:
        """As `encode`, but on the encoder's device and with gradients for trainable weights."""
        contexts = self._contexts(texts, earlier)
        alone = [place for place in range(len(texts)) if place not in contexts]
        found = dict(zip(alone, self._states([texts[place] for place in alone]), strict=True))
        pairs = self._states([texts[place] for place in contexts], [context for context, _ in contexts.values()])
        for (place, (_, own)), states in zip(contexts.items(), pairs, strict=True):
            # The encoders of all families begin with one special token, and the text comes last.
            found[place] = torch.cat([states[:, :1], states[:, states.shape[1] - own + 1 :]], dim=1)
        return [found[place] for place in range(len(texts))]

    def _contexts(self, texts: Sequence[str], earlier: Sequence[Sequence[str]]) -> dict[int, tuple[str, int]]:
        """Context and number of own tokens, by index, of texts that have a context and room for it."""
        contexts = [f" {self._tokenizer.sep_token} ".join(one) for one in earlier]
        if not any(contexts):
            return {}
        own = [len(ids) for ids in self._tokenizer(list(texts), truncation=True, max_length=self.max_tokens).input_ids]
        special = [self._tokenizer.num_special_tokens_to_add(pair=pair) for pair in (False, True)]
        room = self.max_tokens - (special[1] - special[0])
        places = zip(contexts, own, strict=True)
        return {place: (context, size) for place, (context, size) in enumerate(places) if context and size < room}

    def _states(self, texts: Sequence[str], contexts: Sequence[str] = ()) -> list[torch.Tensor]:
        """Hidden states of texts, or of pairs of context and text."""
        if not texts:
            return []
        side = self._tokenizer.truncation_side
        # A context keeps its end, a text alone its beginning.
        self._tokenizer.truncation_side = "left" if contexts else side
        try:
            tokens = self._tokenizer(
                *([list(contexts)] if contexts else []),
                list(texts),
                padding=True,
                padding_side="right",
                truncation="only_first",
                max_length=self.max_tokens,
                return_attention_mask=True,
                return_tensors="pt",
            ).to(self._device)
        finally:
            self._tokenizer.truncation_side = side
        states = self.model(**tokens, output_hidden_states=True).hidden_states
        lengths: list[int] = tokens["attention_mask"].sum(dim=1).tolist()
        return to_features([states[layer] for layer in self.specification.selected], lengths)

    @property
    def layers(self) -> list[nn.Module]:
        """Transformer layers, from input to output."""
        model = self.model
        return list(model.transformer.layer if self.specification.family == "distilbert" else model.encoder.layer)

    def thaw(self) -> None:
        """Unfreeze all weights."""
        self.model.requires_grad_(True)

    def save(self, folder: Path) -> None:
        """Write encoder and tokenizer as `save_pretrained` of transformers does."""
        with quiet():
            self.model.save_pretrained(folder)
        self._tokenizer.save_pretrained(folder)

    def beyond(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each text that are left out."""
        if not texts:
            return []
        found = self._tokenizer(list(texts), truncation=False, padding=False, verbose=False).input_ids
        return [max(0, len(ids) - self.max_tokens) for ids in found]

    def word_of_tokens(self, texts: Sequence[str]) -> list[list[int | None]]:
        """Index of each token's whitespace-separated word; None for special tokens.

        A tokenizer splits words at apostrophes, an aligner does not: `don't` is one word here.
        """
        found = self._tokenizer(
            list(texts), truncation=True, max_length=self.max_tokens, return_offsets_mapping=True, padding=False
        )
        words: list[list[int | None]] = []
        for text, offsets in zip(texts, found["offset_mapping"], strict=True):
            # A token may include the space before its word.
            number = [len(text[: end or 1].split()) - 1 for _, end in offsets]
            words.append([None if start == end else one for (start, end), one in zip(offsets, number, strict=True)])
        return words


def load_transformer_text_encoder(
    checkpoint: Checkpoint, settings: TextSettings, *, device: torch.device
) -> TransformerTextEncoder:
    """Load an encoder of one of `FAMILIES`.

    Raises:
        EncoderError: The weights, the tokenizer or the choice of layers cannot be used.
    """
    from transformers import AutoModel

    config = checkpoint.config
    layers = config.num_hidden_layers + 1
    selected = select_layers(settings.layers, layers=layers, encoder=checkpoint.name)
    tokenizer = load_tokenizer(checkpoint)
    model = load_weights(checkpoint, AutoModel, device=device, trust_remote_code=False)
    offset = model.embeddings.padding_idx + 1 if checkpoint.family in _OFFSET_POSITIONS else 0
    specification = EncoderSpecification(
        name=checkpoint.name,
        family=checkpoint.family,
        modality="text",
        revision=checkpoint.revision,
        layers=layers,
        selected=selected,
        width=config.hidden_size,
        licence=checkpoint.card.licence,
        exposure=checkpoint.card.exposure,
    )
    return TransformerTextEncoder(
        model,
        tokenizer,
        specification=specification,
        max_tokens=min(settings.max_tokens, config.max_position_embeddings - offset),
        device=device,
    )
