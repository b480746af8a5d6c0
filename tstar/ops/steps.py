"""The operators one position at a time, for streams: each takes a state and returns the next, the old one unchanged.

L steps equal one call over L positions; equations, types and names are those of :func:`tstar.ops.selective_scan`,
:func:`tstar.ops.ssd.ssd_scan` and :func:`tstar.ops.causal_conv1d`.

Letters: B batch, I inner channels, H heads, P channels of a head, G groups of heads, S states of a channel, K taps.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from tstar.ops.ssd import final_step


def selective_scan_step(
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
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """One position of a selective scan.

    Args:
        u, dt, z: [B, I].
        A: [I, S].
        B, C: [B, S].
        D, dt_bias: [I].
        dt_softplus: as in :func:`tstar.ops.selective_scan`.
        state: [B, I, S].

    Returns:
        y [B, I] in ``u``'s type, and the next state in fp32 or float64.
    """
    _check("selective_scan_step", u, "u", {"dt": (dt, [*u.shape]), "state": (state, [*u.shape, A.shape[-1]])})
    dtype = torch.promote_types(u.dtype, torch.float32)
    with torch.autocast(u.device.type, enabled=False):
        step, x = final_step(dt, dt_bias, dt_softplus, dtype), u.to(dtype)
        added = (step * x).unsqueeze(-1) * B.to(dtype).unsqueeze(-2)  # [B, I, S]
        state = torch.exp(step.unsqueeze(-1) * A.to(dtype)) * state.to(dtype) + added
        y = (state * C.to(dtype).unsqueeze(-2)).sum(-1)  # [B, I]
        if D is not None:
            y = y + x * D.to(dtype)
        if z is not None:
            y = y * F.silu(z.to(dtype))
    return y.to(u.dtype), state


def ssd_step(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    dt_bias: Tensor | None = None,
    *,
    dt_softplus: bool = True,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """One position of a state-space dual scan.

    Args:
        x: [B, H, P].
        dt: [B, H].
        A, D, dt_bias: [H].
        B, C: [B, G, S].
        dt_softplus: as in :func:`tstar.ops.ssd.ssd_scan`.
        state: [B, H, P, S].

    Returns:
        y [B, H, P] in ``x``'s type, and the next state in fp32 or float64.
    """
    _check("ssd_step", x, "x", {"dt": (dt, [*x.shape[:2]]), "state": (state, [*x.shape, B.shape[-1]])})
    dtype = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        step, wide = final_step(dt, dt_bias, dt_softplus, dtype), x.to(dtype)
        B, C = (t.to(dtype).repeat_interleave(x.shape[1] // t.shape[1], dim=1) for t in (B, C))  # [B, H, S]
        added = (step.unsqueeze(-1) * wide).unsqueeze(-1) * B.unsqueeze(-2)  # [B, H, P, S]
        state = torch.exp(step * A.to(dtype))[..., None, None] * state.to(dtype) + added
        y = torch.matmul(state, C.unsqueeze(-1)).squeeze(-1)  # [B, H, P]
        if D is not None:
            y = y + wide * D.to(dtype).unsqueeze(-1)
    return y.to(x.dtype), state


def causal_conv1d_step(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: str | None = None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One position of a causal convolution.

    Args:
        x: [B, I].
        weight: [I, K].
        bias: [I].
        activation: ``"silu"`` or None.
        state: inputs of the K - 1 positions before, in order, [B, K-1, I].

    Returns:
        y [B, I] and the next state, both in ``x``'s type.
    """
    _check("causal_conv1d_step", x, "x", {"state": (state, [x.shape[0], weight.shape[1] - 1, x.shape[1]])})
    if activation not in (None, "silu"):
        raise ValueError(f"causal_conv1d_step: activation must be None or 'silu', got {activation!r}")
    window = torch.cat([state.to(x.dtype), x.unsqueeze(1)], dim=1)  # [B, K, I]
    dtype = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)
    y = (window.to(dtype) * weight.to(dtype).t()).sum(1)  # [B, I]
    if bias is not None:
        y = y + bias.to(dtype)
    return (F.silu(y) if activation == "silu" else y).to(x.dtype), window[:, 1:]


def _check(operator: str, x: Tensor, name: str, expected: dict[str, tuple[Tensor, list[int]]]) -> None:
    for other, (tensor, shape) in expected.items():
        if list(tensor.shape) != shape:
            raise ValueError(
                f"{operator}: {other} must be {shape} to fit {name} {list(x.shape)}, got {list(tensor.shape)}"
            )
