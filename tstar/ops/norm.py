"""Root-mean-square norm, with the gate that Mamba-2 puts before or after it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tstar.ops.backends import not_for_cpu_kernel, numba_missing
from tstar.ops.norm_cpu import rms_norm_cpu


def rms_norm(
    x: Tensor,
    weight: Tensor,
    eps: float = 1e-5,
    *,
    z: Tensor | None = None,
    norm_before_gate: bool = True,
    groups: int = 1,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis (arXiv:1910.07467, eq. 4), gated by SiLU(z) where given.

    Computed in fp32, or float64 where ``x`` is: squares of half-precision activations overflow.

    Args:
        x: [..., D].
        weight: [D].
        eps: added under the root.
        z: gate, [..., D]; no gate when absent.
        norm_before_gate: norm(x) * weight * SiLU(z); else norm(x * SiLU(z)) * weight, as in the published Mamba-2
            (Dao & Gu, arXiv:2405.21060, section 7.1).
        groups: equal parts of the last axis, each with a mean of its own.
        dtype: of the result; ``x``'s when absent. Half precision out of fp32 in spares the pass of a cast.

    Returns:
        [..., D].

    Raises:
        ValueError: shapes do not fit together, or ``groups`` does not divide D.
    """
    if x.dim() == 0 or list(weight.shape) != [x.shape[-1]]:
        raise ValueError(
            f"rms_norm: weight must be {[*x.shape[-1:]]} to fit x {list(x.shape)}, got {list(weight.shape)}"
        )
    if z is not None and z.shape != x.shape:
        raise ValueError(f"rms_norm: z must have the shape of x, {list(x.shape)}, got {list(z.shape)}")
    if groups < 1 or x.shape[-1] % groups:
        raise ValueError(f"rms_norm: groups must divide the {x.shape[-1]} numbers of a row, got {groups}")
    if groups == 1 and numba_missing() is None and not_for_cpu_kernel(x, None, False) is None:
        return rms_norm_cpu(x, weight, eps, z=z, norm_before_gate=norm_before_gate, dtype=dtype)
    wide = torch.promote_types(x.dtype, torch.float32)
    y, gate = x.to(wide), None if z is None else F.silu(z.to(wide))
    if gate is not None and not norm_before_gate:
        y = y * gate
    if groups == 1:
        y = F.rms_norm(y, weight.shape, weight.to(wide), eps)
    else:
        parts = y.unflatten(-1, (groups, -1))
        y = F.rms_norm(parts, parts.shape[-1:], None, eps).flatten(-2) * weight.to(wide)
    if gate is not None and norm_before_gate:
        y = y * gate
    return y.to(x.dtype if dtype is None else dtype)
