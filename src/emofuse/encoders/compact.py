"""Whisper's encoder as one small torch module, for weights in eight bits, such as the built-in encoder's.

Importing transformers takes longer than loading this network and encoding a clip. Weights have the same names as in
transformers, and a test compares the hidden states of both.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from emofuse.weights import check_finite, read_header

WEIGHTS = "model.safetensors"
_SCALE = ".scale"
_SIZES = (
    "d_model",
    "encoder_layers",
    "encoder_attention_heads",
    "encoder_ffn_dim",
    "num_mel_bins",
    "max_source_positions",
)
_LARGEST = 1 << 14


class CompactWhisper(nn.Module):
    """The parts of `WhisperEncoder` of transformers, for `WhisperFeatures`.

    Args:
        config: Content of config.json.
    """

    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        self.config = config
        width = config.d_model
        self.conv1 = nn.Conv1d(config.num_mel_bins, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        count = config.max_source_positions
        # Drawing them on `meta` would import a second of torch's compiler.
        self.embed_positions = nn.Embedding(count, width, _weight=torch.empty(count, width))
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.encoder_layers))
        self.layer_norm = nn.LayerNorm(width)

    def save_pretrained(self, folder: Path) -> None:
        """Write the encoder as transformers does, in full precision."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(vars(self.config), indent=1) + "\n", encoding="utf-8")
        weights = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj, self.q_proj, self.out_proj = (nn.Linear(width, width) for _ in range(3))

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        queries, keys, values = (
            projection(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        result: torch.Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return result


class _Layer(nn.Module):
    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        width, inner = config.d_model, config.encoder_ffn_dim
        self.self_attn = _Attention(width, config.encoder_attention_heads)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = hidden + self.self_attn(self.self_attn_layer_norm(hidden), mask)
        result: torch.Tensor = hidden + self.fc2(F.gelu(self.fc1(self.final_layer_norm(hidden))))
        return result


def is_compact(folder: Path) -> bool:
    """Whether a folder's weights are stored in eight bits.

    Raises:
        ValueError: The weights' file is damaged.
    """
    path = folder / WEIGHTS
    return path.is_file() and any(one.dtype == "I8" for one in read_header(path).values())


def compress(folder: Path) -> None:
    """Store the matrices of a folder's weights in eight bits, with one scale a row, and the rest in half precision."""
    from safetensors.torch import load_file, save_file

    stored: dict[str, torch.Tensor] = {}
    for name, value in load_file(folder / WEIGHTS).items():
        if value.ndim < 2:
            stored[name] = value.half()
            continue
        rows = value.float().flatten(1)
        scale = rows.abs().amax(1).clamp(min=1e-12) / 127
        stored[name] = (rows / scale[:, None]).round().to(torch.int8).view(value.shape)
        stored[name + _SCALE] = scale
    save_file(stored, folder / WEIGHTS)


def load_compact(folder: Path, config: SimpleNamespace) -> CompactWhisper:
    """Load weights that `compress` has written, in float32 and evaluation mode.

    Raises:
        ValueError: The weights are damaged, or not those of the configuration.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    held = read_header(folder / WEIGHTS)
    for name in _SIZES:
        size = getattr(config, name, None)
        if type(size) is not int or not 0 < size <= _LARGEST:
            raise ValueError(f"{name} in config.json is no size")
    if config.encoder_layers > len(held) or config.d_model % config.encoder_attention_heads:
        raise ValueError("config.json does not describe them")
    with torch.device("meta"):
        model = CompactWhisper(config)
    try:
        loaded = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise ValueError(f"{WEIGHTS} is damaged") from error
    weights: dict[str, Any] = {}
    for name, value in model.state_dict().items():
        found, scale = loaded.get(name), loaded.get(name + _SCALE, torch.ones(1))
        if found is None or found.shape != value.shape or scale.shape not in ((1,), (len(found),)):
            raise ValueError(f"{name} is missing, or has another shape than by config.json")
        weights[name] = found.float() * scale.view(-1, *[1] * (found.ndim - 1))
    model.load_state_dict(weights, assign=True)
    check_finite(model.named_parameters(), WEIGHTS)
    return model.eval().requires_grad_(False)
