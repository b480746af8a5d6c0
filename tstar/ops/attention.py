"""Attention of queries over keys, never as a whole table of scores unless the backend says so.

    y_i = sum_j softmax_j(q_i . k_j / sqrt(P)) v_j,  over all j, or with ``causal`` over j <= i + K - L

Letters: B batch, L positions of the queries, K positions of keys and values, H heads, P channels of a head.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right

from tstar.ops.attention_cuda import attention_cuda, not_for_xformers, xformers_missing
from tstar.ops.attention_reference import attention_reference
from tstar.ops.backends import Backend, choose

_FEW_SCORES = 2**16
"""Scores of one head up to which a table of them is quicker on a CPU than blocks."""


def attention_torch(q: Tensor, k: Tensor, v: Tensor, causal: bool, dropout: float) -> tuple[Tensor, Tensor]:
    """PyTorch's scaled-dot-product attention, which runs in blocks wherever it can."""
    heads = (q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))  # [B, H, L or K, P]
    options: dict[str, Any] = {"dropout_p": dropout, "is_causal": causal}
    if causal and q.shape[1] < k.shape[1]:
        options = {"dropout_p": dropout, "attn_mask": causal_lower_right(q.shape[1], k.shape[1])}
    if q.device.type == "cpu" and q.shape[1] * k.shape[1] > _FEW_SCORES:  # whatever is switched off for short sequences
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
            y = F.scaled_dot_product_attention(*heads, **options)
    else:
        y = F.scaled_dot_product_attention(*heads, **options)
    return y.transpose(1, 2), q[:0]


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
    return choose("attention", ATTENTIONS, backend, q, None, False).run(q, k, v, causal, dropout)[0]
