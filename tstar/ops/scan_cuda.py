"""Selective scan by the CUDA kernel that the authors of Mamba published in the package ``mamba-ssm``.

Its tensors have positions last, [B, I, L], its scan starts from a zero state and runs forward, and no gradient comes
back through its final state. What it cannot do, another backend does.

Letters: B batch, L positions, I inner channels, S states of a channel.
"""

import functools
import importlib
from typing import Any

import torch
from torch import Tensor

from tstar.errors import ConfigError
from tstar.ops.cuda_check import Trial, check_kernel, cuda_missing, first_reason, import_missing
from tstar.ops.scan_reference import scan_reference

MODULE, FUNCTION = "mamba_ssm.ops.selective_scan_interface", "selective_scan_fn"
BUILT = "selective_scan_cuda"
"""Module of the compiled kernel; since mid-2026 the package installs, and its function can be imported, without it."""
INSTALL = "its kernel is built with: MAMBA_KEEP_CUDA_BUILD=TRUE pip install --no-build-isolation mamba-ssm"
TOLERANCE = 1e-3
"""Relative error allowed in the start-up check: fp32 with the fast exponentials of the kernel, over 70 positions."""

_NO_STEP = -3e4
"""A step before bias and softplus that softplus turns into exactly 0 in fp32, derivative included; fp16 holds it."""
_MOST_STATES = 256

TRIALS = (
    Trial({"B": 2, "L": 70, "I": 8, "S": 16}, ("D", "z", "dt_bias", "mask")),
    Trial({"B": 1, "L": 33, "I": 4, "S": 4}, (), {"reverse": True}),
)
_UNLESS_GIVEN: dict[str, Any] = dict.fromkeys(("D", "z", "dt_bias", "mask", "initial_state"))
_UNLESS_GIVEN |= {"dt_softplus": True, "reverse": False}


def scan_cuda(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    mask: Tensor | None,
    dt_softplus: bool,
    reverse: bool,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Adapt the layout; arguments and result as in :func:`tstar.ops.selective_scan`.

    Padding: its step is made zero, so that the state passes it (exp(0 A) = 1, and 0 is added), and its output is
    replaced by zero. The final state carries no gradient.

    Raises:
        ConfigError: an initial state, or more states than the kernel has room for.
    """
    if initial_state is not None:
        raise ConfigError("backend 'cuda' of selective_scan starts from a zero state; use backend 'torch'")
    if A.shape[1] > _MOST_STATES:
        raise ConfigError(
            f"backend 'cuda' of selective_scan takes at most {_MOST_STATES} states, got {A.shape[1]}; use backend 'torch'"
        )
    padding = None if mask is None else ~mask.unsqueeze(-1)  # [B, L, 1]
    if padding is not None and dt_softplus:
        dt = dt.masked_fill(padding, _NO_STEP)
    elif padding is not None:  # the kernel would add the bias to a step of zero
        dt = dt.float() if dt_bias is None else dt.float() + dt_bias.float()
        dt, dt_bias = dt.masked_fill(padding, 0.0), None

    along = [u, dt, B, C] if z is None else [u, dt, B, C, z]
    dtype = functools.reduce(torch.promote_types, (tensor.dtype for tensor in along))
    along = [(t.flip(1) if reverse else t).to(dtype).mT.contiguous() for t in along]  # [B, I or S, L]
    scan = getattr(importlib.import_module(MODULE), FUNCTION)
    y, state = scan(
        *along[:2],
        A.float(),
        *along[2:4],
        D=None if D is None else D.float(),
        z=None if z is None else along[4],
        delta_bias=None if dt_bias is None else dt_bias.float(),
        delta_softplus=dt_softplus,
        return_last_state=True,
    )
    y = y.mT.flip(1) if reverse else y.mT.contiguous()  # [B, L, I]
    if padding is not None:
        y = y.masked_fill(padding, 0.0)
    return y.to(u.dtype), state.float().detach()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def scan_cuda_missing() -> str | None:
    """Why the kernel cannot be used in this process, or None; asked for the first time, it compares and remembers."""
    return find_fault()


@functools.cache
def find_fault() -> str | None:
    """The first reason against the kernel. A tracer would look through this cache and trace the check itself."""
    return first_reason(
        cuda_missing,
        lambda: import_missing(BUILT, "fwd", INSTALL),
        lambda: import_missing(MODULE, FUNCTION, INSTALL),
        check_scan_cuda,
    )


def check_scan_cuda(device: str = "cuda") -> str | None:
    """What the kernel does otherwise than the reference, or None."""
    return check_kernel(
        "selective_scan",
        functools.partial(scan_cuda, **_UNLESS_GIVEN),
        functools.partial(scan_reference, **_UNLESS_GIVEN),
        TRIALS,
        tolerance=TOLERANCE,
        device=device,
        state_gradient=False,
    )


def unfit_for_scan_cuda(x: Tensor, state: Tensor | None, final: bool) -> str | None:
    """Why the kernel cannot take a call, or None."""
    if x.device.type != "cuda":
        return f"its input is on {x.device.type}; move it to a CUDA device"
    if x.element_size() > 4:
        return "it computes in float32, and its input is float64; use 'torch' or 'reference'"
    if x.numel() == 0:
        return "its input is empty; use 'torch'"
    if state is not None:
        return "it starts from a zero state, and an initial state is given; use 'torch'"
    if final and torch.is_grad_enabled():
        return "no gradient comes back through its final state; use 'torch', or torch.no_grad()"
    return None
