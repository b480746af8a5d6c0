"""State-space dual scan of Mamba-2: one function, several backends.

For every head h, channel p and state s, from the first position to the last (Dao & Gu, "Transformers are SSMs",
arXiv:2405.21060, section 6; one decay per head, B and C shared by the heads of a group g):

    step_t       = softplus(dt_t + dt_bias)
    state_t[p,s] = exp(step_t A) state_{t-1}[p,s] + step_t B_t[s] x_t[p]
    y_t[p]       = sum_s C_t[s] state_t[p,s] + D x_t[p]

Letters: B batch, L positions, H heads, P channels of a head, G groups of heads, S states of a channel.
"""

from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from tstar.ops.backends import Backend, available, choose, not_for_cpu_kernel, numba_missing
from tstar.ops.ssd_cpu import ssd_cpu
from tstar.ops.ssd_cuda import ssd_cuda, ssd_cuda_missing, unfit_for_ssd_cuda
from tstar.ops.ssd_reference import ssd_reference
from tstar.ops.ssd_torch import ssd_torch

SSDS: dict[str, Backend] = {
    "reference": Backend(ssd_reference),
    "torch": Backend(ssd_torch),
    "cpu": Backend(ssd_cpu, missing=numba_missing, unfit=not_for_cpu_kernel),
    "cuda": Backend(ssd_cuda, missing=ssd_cuda_missing, unfit=unfit_for_ssd_cuda),
}
"""Backends of :func:`ssd_scan`: (x, step, A, B, C, D, reverse, initial_state) to (y [B, L, H, P], final state
[B, H, P, S]). ``step`` is what softplus made of ``dt``, and zero at padding, where x, B and C are zero as well."""


def available_ssd_backends() -> tuple[str, ...]:
    """Backends of :func:`ssd_scan` that this build has, without ``"auto"``."""
    return available(SSDS)


@overload
def ssd_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
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
def ssd_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    dt_bias: Tensor | None = None,
    *,
    dt_softplus: bool = True,
    reverse: bool = False,
    mask: Tensor | None = None,
    initial_state: Tensor | None = None,
    return_final_state: Literal[True],
    backend: str = "auto",
) -> tuple[Tensor, Tensor]: ...


def ssd_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
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

    Steps, decays and states are in fp32, or float64 where ``x`` is; backends may multiply bf16 inputs in bf16.

    Args:
        x: input, [B, L, H, P].
        dt: step sizes before bias and softplus, [B, L, H].
        A: decay rates, negative, [H].
        B: input weights, [B, L, G, S]; G divides H, and head h reads group h * G // H.
        C: output weights, [B, L, G, S].
        D: skip weights, [H]; no skip when absent.
        dt_bias: added to ``dt`` in the state's precision, [H].
        dt_softplus: put ``dt + dt_bias`` through softplus; without it they must already be positive, or zero.
        reverse: scan from the last position to the first, the same as flipping every sequence before and after.
        mask: False at padding, which may lie anywhere, [B, L], bool. A state passes padding unchanged, outputs there
            are zero, nothing that stands there matters, and no gradient reaches it.
        initial_state: state before the first position scanned, [B, H, P, S]; zero when absent.
        return_final_state: also return the state after the last position scanned.
        backend: a name in :data:`tstar.ops.backends.BACKENDS`.

    Returns:
        y [B, L, H, P] in ``x``'s type; with ``return_final_state`` also the state [B, H, P, S], in fp32 or float64.

    Raises:
        ConfigError: the backend is unknown, not installed, or cannot take these tensors; the message says which.
        ValueError: shapes do not fit together.
    """
    _check_shapes(x, dt, A, B, C, D, dt_bias, mask, initial_state)
    chosen = choose("ssd_scan", SSDS, backend, x, initial_state, return_final_state)
    with torch.autocast(x.device.type, enabled=False):
        padding = None if mask is None else ~mask.unsqueeze(-1)  # [B, L, 1]
        if padding is not None:  # nothing that stands at padding gets any further, not even a NaN
            dt = dt.masked_fill(padding, 0.0)
            x, B, C = (t.masked_fill(padding.unsqueeze(-1), 0.0) for t in (x, B, C))
        step = final_step(dt, dt_bias, dt_softplus, torch.promote_types(x.dtype, torch.float32))
        if padding is not None:
            step = step.masked_fill(padding, 0.0)
        y, state = chosen.run(x, step, A, B, C, D, reverse, initial_state)
    return (y, state) if return_final_state else y


def final_step(dt: Tensor, dt_bias: Tensor | None, dt_softplus: bool, dtype: torch.dtype) -> Tensor:
    """softplus(dt + dt_bias), or what is asked for of it, in ``dtype``."""
    step = dt.to(dtype)
    if dt_bias is not None:
        step = step + dt_bias.to(dtype)
    return F.softplus(step) if dt_softplus else step


def _check_shapes(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    mask: Tensor | None,
    initial_state: Tensor | None,
) -> None:
    if x.dim() != 4 or B.dim() != 4:
        raise ValueError(
            f"ssd_scan: x must be [B, L, H, P] and B [B, L, G, S], got {list(x.shape)} and {list(B.shape)}"
        )
    batch, length, heads, channels = x.shape
    groups, states = B.shape[2:]
    if groups == 0 or heads % groups:
        raise ValueError(f"ssd_scan: {groups} groups of B must divide the {heads} heads of x")
    expected = {
        "dt": (dt, [batch, length, heads]),
        "A": (A, [heads]),
        "B": (B, [batch, length, groups, states]),
        "C": (C, [batch, length, groups, states]),
        "D": (D, [heads]),
        "dt_bias": (dt_bias, [heads]),
        "mask": (mask, [batch, length]),
        "initial_state": (initial_state, [batch, heads, channels, states]),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and list(tensor.shape) != shape:
            raise ValueError(f"ssd_scan: {name} must be {shape} to fit x {list(x.shape)}, got {list(tensor.shape)}")
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError(f"ssd_scan: mask must be of type bool, got {mask.dtype}")
