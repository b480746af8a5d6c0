"""Attention as its formula says.

Letters: B batch, L positions of the queries, K positions of keys and values, H heads, P channels of a head.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def attention_reference(q: Tensor, k: Tensor, v: Tensor, causal: bool, dropout: float) -> tuple[Tensor, Tensor]:
    """The formula, with a table of [L, K] scores a head."""
    scores = torch.einsum("blhp,bkhp->bhlk", q, k) / math.sqrt(q.shape[-1])
    if causal:
        later = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool, device=q.device).triu(1 + k.shape[1] - q.shape[1])
        scores = scores.masked_fill(later, -torch.inf)
    weights = F.dropout(scores.softmax(-1), dropout)
    return torch.einsum("bhlk,bkhp->blhp", weights, v), q[:0]
