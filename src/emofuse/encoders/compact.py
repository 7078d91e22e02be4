"""wav2vec 2.0 with layer norms as one small torch module, for the built-in encoder.

Importing transformers takes longer than loading this network and encoding a clip. Weights have the same names as in
transformers, and a test compares the hidden states of both.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from emofuse.weights import check_finite


@dataclass(frozen=True)
class Output:
    """Output of a forward pass, with the names of transformers.

    Attributes:
        last_hidden_state: `(clips, frames, width)`.
        hidden_states: The input of each layer, and the last hidden state.
    """

    last_hidden_state: torch.Tensor
    hidden_states: tuple[torch.Tensor, ...]


class CompactWav2Vec2(nn.Module):
    """`Wav2Vec2Model` of transformers for `feat_extract_norm = layer` and `do_stable_layer_norm`, for inference only.

    Args:
        config: Content of config.json.
    """

    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        sizes = [1, *config.conv_dim]
        self.feature_extractor = nn.Module()
        self.feature_extractor.conv_layers = nn.ModuleList(
            _Convolution(sizes[number], size, kernel, stride, bias=config.conv_bias)
            for number, (size, kernel, stride) in enumerate(
                zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True)
            )
        )
        self.feature_projection = nn.Module()
        self.feature_projection.layer_norm = nn.LayerNorm(sizes[-1], eps=config.layer_norm_eps)
        self.feature_projection.projection = nn.Linear(sizes[-1], width)
        self.encoder: Any = nn.Module()
        self.encoder.pos_conv_embed = _Position(
            width, config.num_conv_pos_embeddings, config.num_conv_pos_embedding_groups
        )
        self.encoder.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))
        self.encoder.layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(
        self, waves: torch.Tensor, *, attention_mask: torch.Tensor, output_hidden_states: bool = True
    ) -> Output:
        """Encode `(clips, samples)`; the mask `(clips, samples)` is 1 for valid samples."""
        hidden = waves[:, None]
        lengths = attention_mask.sum(1)
        for layer in self.feature_extractor.conv_layers:  # type: ignore[union-attr]
            hidden = layer(hidden)
            lengths = (lengths - layer.conv.kernel_size[0]) // layer.conv.stride[0] + 1
        projection: Any = self.feature_projection
        hidden = projection.projection(projection.layer_norm(hidden.transpose(1, 2)))
        valid = torch.arange(hidden.shape[1], device=hidden.device)[None] < lengths[:, None]
        hidden = hidden * valid[..., None]
        hidden = hidden + self.encoder.pos_conv_embed(hidden.transpose(1, 2)).transpose(1, 2)
        states = []
        for layer in self.encoder.layers:
            states.append(hidden)
            hidden = layer(hidden, valid[:, None, None])
        last = self.encoder.layer_norm(hidden)
        return Output(last, (*states, last) if output_hidden_states else ())


class _Convolution(nn.Module):
    def __init__(self, before: int, after: int, kernel: int, stride: int, *, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv1d(before, after, kernel, stride=stride, bias=bias)
        self.layer_norm = nn.LayerNorm(after)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.gelu(self.layer_norm(self.conv(hidden).transpose(1, 2)).transpose(1, 2))


class _Position(nn.Module):
    def __init__(self, width: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=groups)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.gelu(self.conv(hidden)[..., : hidden.shape[-1]])


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        queries, keys, values = (
            projection(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        result: torch.Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return result


class _FeedForward(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.intermediate_dense, self.output_dense = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.output_dense(F.gelu(self.intermediate_dense(hidden)))
        return result


class _Layer(nn.Module):
    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        width = config.hidden_size
        self.attention = _Attention(width, config.num_attention_heads)
        self.layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.feed_forward = _FeedForward(width, config.intermediate_size)
        self.final_layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = hidden + self.attention(self.layer_norm(hidden), mask)
        result: torch.Tensor = hidden + self.feed_forward(self.final_layer_norm(hidden))
        return result


def load_compact(folder: Path) -> CompactWav2Vec2:
    """Load a student's folder without transformers, in float32 and evaluation mode."""
    from safetensors.torch import load_file

    config = SimpleNamespace(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
    weights = {name: value.float() for name, value in load_file(folder / "model.safetensors").items()}
    weights.pop("masked_spec_embed", None)
    # The convolution's weight is stored as length and direction (weight norm over all but its last axis).
    place = "encoder.pos_conv_embed.conv."
    length = weights.pop(place + "parametrizations.weight.original0")
    direction = weights.pop(place + "parametrizations.weight.original1")
    weights[place + "weight"] = length * direction / direction.norm(dim=(0, 1), keepdim=True)
    model = CompactWav2Vec2(config)
    model.load_state_dict(weights)
    check_finite(model.named_parameters(), "model.safetensors")
    return model.eval().requires_grad_(False)
