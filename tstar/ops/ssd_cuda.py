"""State-space dual scan by the Triton kernels that the authors of Mamba-2 published in the package ``mamba-ssm``.

They run forward, in chunks whose length the caller chooses; products of fp32 numbers go through TF32.

Letters: B batch, L positions, H heads, P channels of a head, G groups of heads, S states of a channel.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tstar.ops.cuda_check import Trial, check_kernel, cuda_missing, first_reason, import_missing
from tstar.ops.ssd_reference import ssd_reference

MODULE, FUNCTION = "mamba_ssm.ops.triton.ssd_combined", "mamba_chunk_scan_combined"
INSTALL = "pip install --no-build-isolation mamba-ssm"
TOLERANCE = 1e-2
"""Relative error allowed in the start-up check: TF32 keeps ten bits of a factor."""

_SHORTEST_CHUNK, _LONGEST_CHUNK = 16, 256

TRIALS = (
    Trial({"B": 2, "L": 70, "H": 4, "P": 16, "G": 2, "S": 16}, ("D", "initial_state")),
    Trial({"B": 1, "L": 33, "H": 2, "P": 32, "G": 1, "S": 16}, (), {"reverse": True}),
)


def ssd_cuda(
    x: Tensor,
    step: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    reverse: bool,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Call the kernels; ``step`` [B, L, H] is final, zero at padding, and the rest as in ``ssd_scan``."""
    dtype = functools.reduce(torch.promote_types, (x.dtype, B.dtype, C.dtype))
    wide, B, C = (tensor.to(dtype) for tensor in (x, B, C))
    if reverse:
        wide, step, B, C = (tensor.flip(1) for tensor in (wide, step, B, C))
    scan = getattr(importlib.import_module(MODULE), FUNCTION)
    y, state = scan(
        wide.contiguous(),
        step.float().contiguous(),
        A.float(),
        B.contiguous(),
        C.contiguous(),
        chunk_length(x.shape[1]),
        D=None if D is None else D.float(),
        initial_states=None if initial_state is None else initial_state.float().contiguous(),
        dt_softplus=False,
        return_final_states=True,
    )
    return (y.flip(1) if reverse else y).to(x.dtype), state.float()


def chunk_length(length: int) -> int:
    """The largest power of two up to L, from 16 to 256: a chunk must not be longer than the sequence."""
    return max(_SHORTEST_CHUNK, min(_LONGEST_CHUNK, 1 << max(length, 1).bit_length() - 1))


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def ssd_cuda_missing() -> str | None:
    """Why the kernels cannot be used in this process, or None; asked for the first time, it compares and remembers."""
    return find_fault()


@functools.cache
def find_fault() -> str | None:
    """The first reason against the kernels. A tracer would look through this cache and trace the check itself."""
    return first_reason(cuda_missing, lambda: import_missing(MODULE, FUNCTION, INSTALL), check_ssd_cuda)


def check_ssd_cuda(device: str = "cuda") -> str | None:
    """What the kernels do otherwise than the reference, or None."""
    return check_kernel(
        "ssd_scan",
        functools.partial(_from_dt, ssd_cuda),
        functools.partial(_from_dt, ssd_reference),
        TRIALS,
        tolerance=TOLERANCE,
        device=device,
    )


def unfit_for_ssd_cuda(x: Tensor, state: Tensor | None, final: bool) -> str | None:
    """Why the kernels cannot take a call, or None."""
    if x.device.type != "cuda":
        return f"its input is on {x.device.type}; move it to a CUDA device"
    if x.element_size() > 4:
        return "it computes in float32, and its input is float64; use 'torch' or 'reference'"
    if x.numel() == 0 or x.shape[1] < _SHORTEST_CHUNK:
        return f"{x.shape[1]} positions are fewer than its shortest chunk, {_SHORTEST_CHUNK}; use 'torch'"
    return None


def _from_dt(scan: Callable[..., tuple[Tensor, Tensor]], *, dt: Tensor, **given: Any) -> tuple[Tensor, Tensor]:
    """A backend called by name, with what is not given at its default."""
    optional = {"D": None, "initial_state": None, "reverse": False}
    return scan(step=F.softplus(dt), **{**optional, **given})
