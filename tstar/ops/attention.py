"""Attention of queries over keys, by kernels that make no table of all scores where there are such.

    y_i = sum_j softmax_j(q_i . k_j / sqrt(P)) v_j,  over all j, or with ``causal`` over j <= i + K - L

Letters: B batch, L positions of the queries, K positions of keys and values, H heads, P channels of a head.
"""

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right

from tstar.ops.attention_cuda import attention_cuda, not_for_xformers, xformers_missing
from tstar.ops.attention_reference import attention_reference
from tstar.ops.backends import Backend, choose

_FEW_SCORES = 2**16
"""Scores of one head up to which a table of them is quicker on a CPU than blocks."""
_BLOCK = 256
"""Queries at a time where they are fewer than the keys."""


def attention_torch(q: Tensor, k: Tensor, v: Tensor, causal: bool, dropout: float) -> tuple[Tensor, Tensor]:
    """PyTorch's scaled-dot-product attention, which runs in blocks wherever it can."""
    heads = (q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))  # [B, H, L or K, P]
    large = q.device.type == "cpu" and q.shape[1] * k.shape[1] > _FEW_SCORES
    # on a CPU the fused kernel may be switched off, which is good for short sequences only
    fused = large and not torch.backends.cuda.flash_sdp_enabled()
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]) if fused else nullcontext():
        if causal and q.shape[1] < k.shape[1]:
            y = _aligned_to_the_end(*heads, dropout)
        else:
            y = F.scaled_dot_product_attention(*heads, dropout_p=dropout, is_causal=causal)
    return y.transpose(1, 2), q[:0]


def _aligned_to_the_end(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    """Causal attention of fewer queries than keys, [B, H, L, P]; PyTorch makes a table of its mask, so some queries at a time."""
    before = k.shape[2] - q.shape[2]
    blocks = []
    for first in range(0, q.shape[2], _BLOCK):
        some = q[:, :, first : first + _BLOCK]
        end = before + first + some.shape[2]
        mask = causal_lower_right(some.shape[2], end)
        blocks.append(F.scaled_dot_product_attention(some, k[:, :, :end], v[:, :, :end], mask, dropout))
    return torch.cat(blocks, 2)


ATTENTIONS: dict[str, Backend] = {
    "reference": Backend(attention_reference),
    "torch": Backend(attention_torch),
    "cuda": Backend(attention_cuda, missing=xformers_missing, unfit=not_for_xformers),
}
"""Backends of :func:`attention`: (q, k, v, causal, dropout) to (y [B, L, H, P], an empty tensor for a state)."""


def attention(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, dropout: float = 0.0, backend: str = "auto"
) -> Tensor:
    """Scaled dot-product attention of several heads.

    Args:
        q: queries, [B, L, H, P].
        k: keys, [B, K, H, P].
        v: values, [B, K, H, P].
        causal: the last query stands at the last key, and each sees the keys up to its own position; L is then at most K.
        dropout: share of the weights that are zeroed, the others scaled up; at least 0 and below 1.
        backend: ``auto``, ``reference``, ``torch`` (PyTorch's own kernels) or ``cuda`` (xFormers' memory-efficient attention).

    Returns:
        [B, L, H, P] in ``q``'s type.

    Raises:
        ConfigError: the backend is unknown, not installed, or cannot take these tensors; the message says which.
        ValueError: shapes do not fit together.
    """
    fits = q.dim() == 4 and k.dim() == 4 and k.shape == v.shape and k.shape[1] > 0
    if not fits or q.shape[0] != k.shape[0] or q.shape[2:] != k.shape[2:]:
        raise ValueError(
            "attention: q must be [B, L, H, P], and k and v [B, K, H, P] with K >= 1, "
            f"got {list(q.shape)}, {list(k.shape)} and {list(v.shape)}"
        )
    if causal and q.shape[1] > k.shape[1]:
        raise ValueError(
            f"attention: causal needs a key for every query, got {q.shape[1]} queries and {k.shape[1]} keys"
        )
    chosen = choose("attention", ATTENTIONS, backend, q, None, False)
    with torch.autocast(q.device.type, enabled=False):
        return chosen.run(q, k, v, causal, dropout)[0]
