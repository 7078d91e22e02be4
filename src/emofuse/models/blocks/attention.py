"""Multi-head attention with a bias, with random weights, and the transformer block around it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

NEVER = float("-inf")
_EULER = 0.5772156649015329


def masked_softmax(logits: torch.Tensor) -> torch.Tensor:
    """Softmax over the last dimension; a row of nothing but -inf gives zeros, not NaN.

    Example:
        >>> masked_softmax(torch.tensor([[0.0, NEVER], [NEVER, NEVER]])).tolist()
        [[1.0, 0.0], [0.0, 0.0]]
    """
    blind = _blind(logits)
    return logits.masked_fill(blind, 0.0).softmax(-1).masked_fill(blind, 0.0)


def masked_log_softmax(logits: torch.Tensor) -> torch.Tensor:
    """Log-softmax over the last dimension; a row of nothing but -inf stays so, and its gradient is zero."""
    blind = _blind(logits)
    return logits.masked_fill(blind, 0.0).log_softmax(-1).masked_fill(blind, NEVER)


def _blind(logits: torch.Tensor) -> torch.Tensor:
    return (logits == NEVER).all(-1, keepdim=True)


class Attention(nn.Module):
    """Multi-head attention whose logits take an additive bias.

    Without a bias it equals `nn.MultiheadAttention`, and it has the same parameters under the same names, so that one
    loads the other's weights. A query without any key to read gives zeros.

    Args:
        width: Numbers a step, of queries and keys.
        heads: Attention heads; they divide the width.
        dropout: Fraction of the attention weights dropped in training.

    Example:
        >>> attention = Attention(8, heads=2)
        >>> attention(torch.zeros(1, 3, 8), torch.zeros(1, 5, 8), torch.ones(1, 5).bool()).shape
        torch.Size([1, 3, 8])
    """

    def __init__(self, width: int, *, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.zeros_(self.out_proj.bias)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(
        self, queries: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor, *, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Read `keys` for each of `queries`, `(batch, queries, width)`.

        Args:
            queries: `(batch, queries, width)`.
            keys: `(batch, keys, width)`, which are the values too.
            mask: `(batch, keys)`, True where a key is valid.
            bias: Added to the logits: `(batch or 1, heads or 1, queries, keys)`; -inf hides a key from a query.
        """
        return self.read(self.weigh(self.logits(queries, keys, mask, bias=bias)), keys)

    def logits(
        self, queries: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor, *, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Score every key for every query, `(batch, heads, queries, keys)`; -inf for what a query may not read."""
        scores = self._project(queries, 0) @ self._project(keys, 1).transpose(-2, -1)
        scores = scores / math.sqrt(queries.shape[-1] / self.heads)
        if bias is not None:
            scores = scores + bias
        return scores.masked_fill(~mask[:, None, None, :], NEVER)

    def weigh(self, logits: torch.Tensor) -> torch.Tensor:
        """Turn logits into weights that sum to 1 over the keys."""
        return masked_softmax(logits)

    def read(self, weights: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Average the values of the keys by `(batch, heads, queries, keys)` weights, and project the result."""
        kept = F.dropout(weights, self.dropout, self.training)
        found = (kept @ self._project(keys, 2)).transpose(1, 2).flatten(2)
        result: torch.Tensor = self.out_proj(found)
        return result * (weights > 0).any(-1).any(1).unsqueeze(-1)

    def _project(self, steps: torch.Tensor, part: int) -> torch.Tensor:
        weight, bias = self.in_proj_weight.chunk(3)[part], self.in_proj_bias.chunk(3)[part]
        width = steps.shape[-1] // self.heads
        return F.linear(steps, weight, bias).view(*steps.shape[:2], self.heads, width).transpose(1, 2)


@dataclass(frozen=True)
class Lognormal:
    """Attention weights whose logarithm is normal, and the prior of the same kind (Fan et al., NeurIPS 2020).

    Both are centred so that their mean is the weight itself: with equal deviations and equal weights the divergence
    is 0.

    Attributes:
        deviation: Standard deviation of the logarithm of a weight.
        prior_deviation: The same of the prior.
    """

    deviation: float = 0.2
    prior_deviation: float = 1.0

    def perturb(self, log_weights: torch.Tensor) -> torch.Tensor:
        """Draw logarithms of weights, of any sum."""
        return log_weights + self.deviation * torch.randn_like(log_weights) - self.deviation**2 / 2

    def divergence(self, log_weights: torch.Tensor, log_prior: torch.Tensor) -> torch.Tensor:
        """KL divergence to the prior, element by element; infinite where the deviation is 0."""
        own, prior = self.deviation, self.prior_deviation
        distance = log_weights - own**2 / 2 - (log_prior - prior**2 / 2)
        constant = math.log(prior / own) if own else math.inf
        return constant + (own**2 + distance.square()) / (2 * prior**2) - 0.5


@dataclass(frozen=True)
class Weibull:
    """Weibull attention weights with a gamma prior (Fan et al., NeurIPS 2020); both have the weight as their mean.

    Attributes:
        shape: Of the Weibull distribution; the larger, the less noise.
        rate: Of the gamma distribution; the larger, the narrower the prior.
    """

    shape: float
    rate: float

    def perturb(self, log_weights: torch.Tensor) -> torch.Tensor:
        """Draw logarithms of weights, of any sum."""
        draws = torch.empty_like(log_weights).exponential_().clamp_min(torch.finfo(log_weights.dtype).tiny)
        return log_weights - math.lgamma(1 + 1 / self.shape) + draws.log() / self.shape

    def divergence(self, log_weights: torch.Tensor, log_prior: torch.Tensor) -> torch.Tensor:
        """KL divergence to the prior, element by element."""
        log_scale = log_weights - math.lgamma(1 + 1 / self.shape)
        alpha = self.rate * log_prior.exp()
        return (
            _EULER * alpha / self.shape
            - alpha * (log_scale + math.log(self.rate))
            + math.log(self.shape)
            + self.rate * log_weights.exp()
            - _EULER
            - 1
            + torch.lgamma(alpha)
        )


class StochasticAttention(Attention):
    """Attention whose weights are random in training, and those of `Attention` otherwise.

    Args:
        width: Numbers a step, of queries and keys.
        heads: Attention heads; they divide the width.
        noise: Distribution of the weights and of their prior.
        dropout: Fraction of the attention weights dropped in training.

    Example:
        >>> attention = StochasticAttention(8, heads=2, noise=Lognormal(0.2))
        >>> text, mask = torch.zeros(1, 3, 8), torch.tensor([[True, True, False]])
        >>> attended, log_weights = attention.attend(text, text, mask)
        >>> uniform = torch.tensor([0.5, 0.5, 0.0]).log()
        >>> attention.divergence(log_weights, uniform, queries=mask, keys=mask).item() > 0
        True
    """

    def __init__(self, width: int, *, heads: int, noise: Lognormal | Weibull, dropout: float = 0.0) -> None:
        super().__init__(width, heads=heads, dropout=dropout)
        self.noise = noise

    def weigh(self, logits: torch.Tensor) -> torch.Tensor:
        """Turn logits into weights that sum to 1 over the keys; random ones in training."""
        return masked_softmax(self.noise.perturb(masked_log_softmax(logits)) if self.training else logits)

    def attend(
        self, queries: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor, *, bias: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Do what `forward` does, and also give the logarithms of the weights without noise."""
        logits = self.logits(queries, keys, mask, bias=bias)
        return self.read(self.weigh(logits), keys), masked_log_softmax(logits)

    def divergence(
        self, log_weights: torch.Tensor, log_prior: torch.Tensor, *, queries: torch.Tensor, keys: torch.Tensor
    ) -> torch.Tensor:
        """Mean KL divergence of the weights to their prior, over valid pairs of query and key and over heads.

        Args:
            log_weights: From `attend`, `(batch, heads, queries, keys)`.
            log_prior: Logarithm of the prior's mean, broadcast to the same shape; what padding holds does not matter.
            queries: Mask of the queries, `(batch, queries)`.
            keys: Mask of the keys, `(batch, keys)`.
        """
        valid = (queries[:, None, :, None] & keys[:, None, None, :]).expand_as(log_weights)
        return self.noise.divergence(log_weights[valid], log_prior.expand_as(log_weights)[valid]).mean()


class Cross(nn.Module):
    """A transformer block that reads another sequence: LN(U + FFN(U)) with U = LN(Q + Attention(Q, K)).

    With the queries as keys it is self-attention.

    Args:
        width: Numbers a step, of queries and keys.
        heads: Attention heads; they divide the width.
        dropout: Fraction dropped in training: of attention weights, and of what both halves add.
        hidden: Width of the feed-forward layer, four times the width if it is not given.
        attention: Attention of another kind, of the same width.

    Example:
        >>> block, steps = Cross(8, heads=2, dropout=0.1), torch.zeros(1, 3, 8)
        >>> block(steps, steps, torch.ones(1, 3).bool()).shape
        torch.Size([1, 3, 8])
    """

    def __init__(
        self, width: int, *, heads: int, dropout: float, hidden: int | None = None, attention: Attention | None = None
    ) -> None:
        super().__init__()
        hidden = hidden or 4 * width
        self.attention = attention or Attention(width, heads=heads, dropout=dropout)
        self.norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, width)
        )
        self.last_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, queries: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor, *, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Let `(batch, queries, width)` read `(batch, keys, width)`; `mask` and `bias` as `Attention` takes them."""
        return self.add(queries, self.attention(queries, keys, mask, bias=bias))

    def add(self, queries: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Everything after the attention: add what was read to the queries."""
        middle = self.norm(queries + self.dropout(attended))
        result: torch.Tensor = self.last_norm(middle + self.dropout(self.feed_forward(middle)))
        return result
