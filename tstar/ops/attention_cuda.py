"""Attention by xFormers' memory-efficient kernels, trusted once they have equalled the reference on small inputs.

Letters: B batch, L positions of the queries, K positions of keys and values, H heads, P channels of a head.
"""

import functools
import importlib
from collections.abc import Callable

import torch
from torch import Tensor

from tstar.ops.attention_reference import attention_reference
from tstar.ops.cuda_check import Trial, check_kernel, cuda_missing, first_reason, import_missing

MODULE, FUNCTION = "xformers.ops", "memory_efficient_attention"
BIASES = "xformers.ops.fmha.attn_bias"
INSTALL = "pip install xformers"
TOLERANCES = {torch.float32: 1e-2, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Relative errors allowed before first use, by type of the inputs: each takes other kernels, fp32 perhaps in TF32."""
TRIALS = (
    Trial({"B": 2, "L": 37, "K": 70, "H": 2, "P": 16}),
    Trial({"B": 1, "L": 70, "K": 70, "H": 2, "P": 64}, (), {"causal": True}),
    Trial({"B": 1, "L": 9, "K": 70, "H": 2, "P": 64}, (), {"causal": True}),
)
_MULTIPLE = 8
"""Its kernels read so many channels of a head at once."""


def attention_cuda(q: Tensor, k: Tensor, v: Tensor, causal: bool, dropout: float) -> tuple[Tensor, Tensor]:
    """xFormers takes our layout; arguments and result as in :mod:`tstar.ops.attention`."""
    operations, biases = (importlib.import_module(name) for name in (MODULE, BIASES))  # may not be installed
    aligned = "LowerTriangularMask" if q.shape[1] == k.shape[1] else "LowerTriangularFromBottomRightMask"
    bias = getattr(biases, aligned)() if causal else None
    q, k, v = (tensor.contiguous() for tensor in (q, k, v))
    return getattr(operations, FUNCTION)(q, k, v, attn_bias=bias, p=dropout), q[:0]


def not_for_xformers(q: Tensor, state: Tensor | None, final: bool) -> str | None:
    """Why the kernels cannot take ``q``, or None."""
    if q.device.type != "cuda":
        return f"its input is on {q.device.type}, not on cuda; use backend 'torch'"
    if not q.numel():
        return "its input is empty; use backend 'torch'"
    if q.dtype not in TOLERANCES:
        return f"it does not know inputs of type {str(q.dtype).removeprefix('torch.')}; use backend 'torch'"
    if q.shape[-1] % _MULTIPLE:
        return f"it wants heads of a multiple of {_MULTIPLE} channels, got {q.shape[-1]}; use backend 'torch'"
    return type_fault(q.dtype)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def xformers_missing() -> str | None:
    """Why the kernels cannot be used, or None."""
    return find_fault()


@functools.cache
def find_fault() -> str | None:
    """The first reason against the package; asked once a process."""
    return first_reason(
        cuda_missing, lambda: import_missing(MODULE, FUNCTION, INSTALL), lambda: check_type(torch.float32)
    )


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def type_fault(dtype: torch.dtype) -> str | None:
    """Why the kernels cannot be used for inputs of a type, or None."""
    return check_type(dtype)


@functools.cache
def check_type(dtype: torch.dtype) -> str | None:
    """What the kernels for inputs of a type do otherwise than the reference, or None; asked once a process for each."""
    return check_kernel(
        "attention",
        functools.partial(_output, attention_cuda, dtype),
        functools.partial(_output, attention_reference, None),
        TRIALS,
        tolerance=TOLERANCES[dtype],
        state_gradient=False,
    )


def _output(
    run: Callable[..., tuple[Tensor, Tensor]],
    dtype: torch.dtype | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool = False,
) -> Tensor:
    y = run(*(x if dtype is None else x.to(dtype) for x in (q, k, v)), causal, 0.0)[0]
    return y.to(q.dtype)
