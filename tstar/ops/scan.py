"""Selective scan of Mamba-1: one function, several backends.

For every channel i and state s, from the first position to the last (Gu & Dao, "Mamba", arXiv:2312.00752, algorithm 2,
with the step applied to B as released kernels do, not the exact zero-order hold of the text):

    delta_t  = softplus(dt_t + dt_bias)
    h_t[i,s] = exp(delta_t[i] A[i,s]) h_{t-1}[i,s] + delta_t[i] B_t[s] u_t[i]
    y_t[i]   = (sum_s C_t[s] h_t[i,s] + D[i] u_t[i]) * SiLU(z_t[i])

Letters: B batch, L positions, I inner channels, S states of a channel.
"""

from typing import Literal, overload

import torch
from torch import Tensor

from tstar.ops.backends import Backend, available, choose, not_for_cpu_kernel, numba_missing
from tstar.ops.scan_cpu import scan_cpu
from tstar.ops.scan_cuda import scan_cuda, scan_cuda_missing, unfit_for_scan_cuda
from tstar.ops.scan_reference import scan_reference
from tstar.ops.scan_torch import scan_torch

SCANS: dict[str, Backend] = {
    "reference": Backend(scan_reference),
    "torch": Backend(scan_torch),
    "cpu": Backend(scan_cpu, missing=numba_missing, unfit=not_for_cpu_kernel),
    "cuda": Backend(scan_cuda, missing=scan_cuda_missing, unfit=unfit_for_scan_cuda),
}
"""Backends of :func:`selective_scan`: (u, dt, A, B, C, D, z, dt_bias, mask, dt_softplus, reverse, initial_state) to
(y [B, L, I], final state [B, I, S])."""


def available_scan_backends() -> tuple[str, ...]:
    """Backends of :func:`selective_scan` that this build has, without ``"auto"``."""
    return available(SCANS)


@overload
def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    *,
    dt_softplus: bool = True,
    reverse: bool = False,
    mask: Tensor | None = None,
    initial_state: Tensor | None = None,
    return_final_state: Literal[False] = False,
    backend: str = "auto",
) -> Tensor: ...


@overload
def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    *,
    dt_softplus: bool = True,
    reverse: bool = False,
    mask: Tensor | None = None,
    initial_state: Tensor | None = None,
    return_final_state: Literal[True],
    backend: str = "auto",
) -> tuple[Tensor, Tensor]: ...


def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    *,
    dt_softplus: bool = True,
    reverse: bool = False,
    mask: Tensor | None = None,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Run the recurrence at the top of this file over a batch of sequences.

    Half-precision inputs are scanned in fp32, states included; float64 stays float64.

    Args:
        u: input, [B, L, I].
        dt: step sizes before bias and softplus, [B, L, I].
        A: decay rates, negative, [I, S].
        B: input weights, [B, L, S].
        C: output weights, [B, L, S].
        D: skip weights, [I]; no skip when absent.
        z: gate, [B, L, I]; no gate when absent.
        dt_bias: added to ``dt`` in the state's precision, [I].
        dt_softplus: put ``dt + dt_bias`` through softplus; without it they must already be positive.
        reverse: scan from the last position to the first, the same as flipping every sequence before and after.
        mask: False at padding, which may lie anywhere, [B, L], bool. A state passes padding unchanged, outputs there
            are zero, nothing that stands there matters, and no gradient reaches it.
        initial_state: state before the first position scanned, [B, I, S]; zero when absent.
        return_final_state: also return the state after the last position scanned.
        backend: a name in :data:`tstar.ops.backends.BACKENDS`.

    Returns:
        y [B, L, I] in ``u``'s type; with ``return_final_state`` also the state [B, I, S], in fp32 or float64.

    Raises:
        ConfigError: the backend is unknown, not installed, or cannot take these tensors; the message says which.
        ValueError: shapes do not fit together.
    """
    _check_shapes(u, dt, A, B, C, D, z, dt_bias, mask, initial_state)
    if mask is not None:  # nothing that stands at padding gets any further, not even a NaN
        padding = ~mask.unsqueeze(-1)  # [B, L, 1]
        u, dt, B, C = (tensor.masked_fill(padding, 0.0) for tensor in (u, dt, B, C))
        z = None if z is None else z.masked_fill(padding, 0.0)
    chosen = choose("selective_scan", SCANS, backend, u, initial_state, return_final_state)
    with torch.autocast(u.device.type, enabled=False):
        y, state = chosen.run(u, dt, A, B, C, D, z, dt_bias, mask, dt_softplus, reverse, initial_state)
    return (y, state) if return_final_state else y


def _check_shapes(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    mask: Tensor | None,
    initial_state: Tensor | None,
) -> None:
    if u.dim() != 3 or A.dim() != 2:
        raise ValueError(f"selective_scan: u must be [B, L, I] and A [I, S], got {list(u.shape)} and {list(A.shape)}")
    batch, length, inner = u.shape
    states = A.shape[1]
    expected = {
        "dt": (dt, [batch, length, inner]),
        "A": (A, [inner, states]),
        "B": (B, [batch, length, states]),
        "C": (C, [batch, length, states]),
        "D": (D, [inner]),
        "z": (z, [batch, length, inner]),
        "dt_bias": (dt_bias, [inner]),
        "mask": (mask, [batch, length]),
        "initial_state": (initial_state, [batch, inner, states]),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and list(tensor.shape) != shape:
            raise ValueError(
                f"selective_scan: {name} must be {shape} to fit u {list(u.shape)}, got {list(tensor.shape)}"
            )
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError(f"selective_scan: mask must be of type bool, got {mask.dtype}")
