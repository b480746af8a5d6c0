"""GPT-NeoX's layer: attention and feed-forward side by side, rotary positions on a part of each head.

Black et al., "GPT-NeoX-20B", arXiv:2204.06745; parameters are named as in transformers, so that its weights load.

Letters: B batch, L positions, D width, H heads, P = D / H channels of a head, R <= P channels that are rotated.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tstar.ops import attention

STD = 0.02
"""Deviation of every weight at the start."""


class KeysValues(NamedTuple):
    """What causal attention knows of the past: each [B, positions, H, P], keys turned."""

    keys: Tensor
    values: Tensor


class GPTNeoXAttention(nn.Module):
    """Self-attention of [B, L, D]; arguments as in :class:`GPTNeoXLayer`."""

    def __init__(self, d_model: int, num_heads: int, rotary_channels: int, rope_base: float, causal: bool) -> None:
        super().__init__()
        self.num_heads, self.causal = num_heads, causal
        self.rotary_channels, self.rope_base = rotary_channels, rope_base
        self.query_key_value = nn.Linear(d_model, 3 * d_model)
        self.dense = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.follow(x, None)[0]

    def follow(self, x: Tensor, past: KeysValues | None) -> tuple[Tensor, KeysValues]:
        """Attention of positions [B, L, D] that follow a past; returns theirs, and the past of what comes next."""
        q, k, v = self.query_key_value(x).unflatten(-1, (self.num_heads, 3, -1)).unbind(-2)  # each [B, L, H, P]
        before = 0 if past is None else past.keys.shape[1]
        positions = torch.arange(before, before + x.shape[1], device=x.device, dtype=torch.float32)
        angles = rotary_angles(positions, self.rotary_channels, self.rope_base)
        q, k = rotate(q, angles), rotate(k, angles)
        if past is not None:
            k, v = torch.cat([past.keys, k], 1), torch.cat([past.values, v], 1)
        return self.dense(attention(q, k, v, causal=self.causal).flatten(-2)), KeysValues(k, v)


class GPTNeoXLayer(nn.Module):
    """x + attention(norm(x)) + feed_forward(other_norm(x)).

    Args:
        d_model: D.
        num_heads: H, a divisor of D.
        d_ff: inner width of the feed-forward.
        rotary_channels: R, even.
        rope_base: of the geometric series of rotary wavelengths.
        causal: a position sees those up to its own only.
    """

    def __init__(
        self, d_model: int, num_heads: int, d_ff: int, rotary_channels: int, rope_base: float, causal: bool
    ) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(d_model, eps=1e-5)
        self.post_attention_layernorm = nn.LayerNorm(d_model, eps=1e-5)
        self.attention = GPTNeoXAttention(d_model, num_heads, rotary_channels, rope_base, causal)
        self.mlp = nn.ModuleDict({"dense_h_to_4h": nn.Linear(d_model, d_ff), "dense_4h_to_h": nn.Linear(d_ff, d_model)})
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=STD)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, L, D] to [B, L, D]."""
        return self.stream(x, None)[0]

    def stream(self, x: Tensor, state: KeysValues | None) -> tuple[Tensor, KeysValues]:
        """Positions x [B, L, D] that follow those in ``state``, which grows with each."""
        inner = F.gelu(self.mlp["dense_h_to_4h"](self.post_attention_layernorm(x)))
        mixed, state = self.attention.follow(self.input_layernorm(x), state)
        return x + mixed + self.mlp["dense_4h_to_h"](inner), state


def rotary_angles(positions: Tensor, channels: int, base: float) -> Tensor:
    """Angle of every position [L], fp32, and pair of channels, [L, R / 2] (RoFormer, arXiv:2104.09864, equation 15)."""
    speeds = base ** -(torch.arange(0, channels, 2, device=positions.device, dtype=torch.float32) / channels)
    return positions[:, None] * speeds


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn channel i against channel i + R / 2 by the position's angle, for i < R / 2: [B, L, H, P] to the same."""
    half = angles.shape[-1]
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]  # [L, 1, R / 2], over heads
    first, second, rest = x[..., :half].float(), x[..., half : 2 * half].float(), x[..., 2 * half :]
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
    return torch.cat([turned.to(x.dtype), rest], -1)
