"""A resampler's layer: learnt queries take in keys by cross-attention, then pass a gated feed-forward.

The form of Honeybee's resampler (arXiv:2312.06742); a query attends to the keys and to the queries at once.

Letters: B clips or frames, Q queries, K keys, D width, H heads, F inner width of the feed-forward.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tstar.ops import attention

STD = 0.02
"""Deviation of every weight at the start."""

ResamplerResidual = Literal["normed", "raw"]


class ResamplerLayer(nn.Module):
    """q = n(q) + attention(n(q) over [keys, n(q)]), then q = q + W2 norm(silu(W1 n(q)) W3 n(q)).

    Args:
        d_model: D.
        num_heads: H, a divisor of D.
        d_ff: F.
        dropout: of attention weights, in training.
        residual: what attention is added to: the queries after their norm, as published, or before it.
    """

    def __init__(
        self, d_model: int, num_heads: int, d_ff: int, dropout: float, residual: ResamplerResidual = "normed"
    ) -> None:
        super().__init__()
        self.num_heads, self.dropout, self.residual = num_heads, dropout, residual
        self.query_norm = nn.LayerNorm(d_model)
        self.key_norm = nn.LayerNorm(d_model)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(d_model, d_model) for _ in range(4))
        self.mlp_norm = nn.LayerNorm(d_model)
        self.w1, self.w3 = nn.Linear(d_model, d_ff), nn.Linear(d_model, d_ff)
        self.inner_norm = nn.LayerNorm(d_ff)
        self.w2 = nn.Linear(d_ff, d_model)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=STD)
                nn.init.zeros_(module.bias)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """queries [B, Q, D] and keys [B, K, D] to [B, Q, D]."""
        normed = self.query_norm(queries)
        seen = torch.cat([self.key_norm(keys), normed], 1)  # [B, K + Q, D]
        q, k, v = (
            projection(x).unflatten(-1, (self.num_heads, -1))
            for projection, x in ((self.q_proj, normed), (self.k_proj, seen), (self.v_proj, seen))
        )
        mixed = attention(q, k, v, dropout=self.dropout if self.training else 0.0).flatten(-2)
        queries = (normed if self.residual == "normed" else queries) + self.out_proj(mixed)
        x = self.mlp_norm(queries)
        return queries + self.w2(self.inner_norm(F.silu(self.w1(x)) * self.w3(x)))
