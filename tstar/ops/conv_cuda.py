"""Causal convolution by the vendor's fused CUDA kernel, the package ``causal-conv1d``.

It is trusted only after it has agreed with the reference on a small input, once a process: a build for another
release of PyTorch or another GPU may load and still answer wrongly.

Letters: B batch, L positions, I channels, K taps.
"""

import functools
import importlib.util

import torch
import torch.nn.functional as F
from torch import Tensor

from tstar.ops.conv_reference import conv_reference
from tstar.ops.conv_torch import hide, next_state

INSTALL = "pip install causal-conv1d"
DEVICE = "cuda"
"""Type of the device that the package computes on."""
_TAPS = (2, 3, 4)
_TYPES = (torch.float32, torch.float16, torch.bfloat16)
_MULTIPLE = 8
"""Channels, and steps from row to row, must be multiples of it where a row's channels are neighbours."""


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def vendor_missing() -> str | None:
    """Why the package cannot be imported, or None."""
    return find_fault(None)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def vendor_fault(device: str) -> str | None:
    """What is wrong with the package's answers on a small input on ``device``, or None."""
    return find_fault(device)


@functools.cache
def find_fault(device: str | None) -> str | None:
    """The first reason against the package; without a device, only whether it is there.

    Answers are kept. A tracer would look through the cache and trace the check: it has to come by the two above.
    """
    if importlib.util.find_spec("causal_conv1d") is None:
        return f"the package causal-conv1d is not installed; {INSTALL}"
    return None if device is None else _disagreement(device)


def not_for_vendor(x: Tensor, weight: Tensor | None, final: bool) -> str | None:
    """Why the package cannot convolve ``x`` with ``weight`` [I, K], or None."""
    if x.device.type != DEVICE:
        return f"its input is on {x.device.type}, not on {DEVICE}; use backend 'torch'"
    if x.dtype not in _TYPES:
        return f"it does not know inputs of type {str(x.dtype).removeprefix('torch.')}; use 'torch' or 'reference'"
    if weight is not None and weight.shape[1] not in _TAPS:
        return f"it knows 2 to 4 taps, got {weight.shape[1]}; use backend 'torch'"
    return vendor_fault(x.device.type)


def _disagreement(device: str) -> str | None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 9, 16), (16, 4), (16,), (2, 3, 16))
    again = f"; rebuild it for this PyTorch: {INSTALL} --force-reinstall --no-cache-dir --no-build-isolation"
    try:
        with torch.inference_mode(False), torch.enable_grad():  # whatever the call that comes first
            inputs = [torch.randn(shape, generator=generator).to(device).requires_grad_() for shape in shapes]
            for given in (inputs[:3], inputs):
                x, weight, bias, *state = given
                initial = state[0] if state else None
                answers = []
                for run in (conv_cuda, conv_reference):
                    y = run(x, weight, bias, None, "silu", False, initial)[0]
                    answers.append((y, *torch.autograd.grad(y.square().sum(), given)))
                for ours, right in zip(*answers, strict=True):
                    if ours.shape != right.shape or not torch.allclose(ours, right, rtol=1e-3, atol=1e-3):
                        return "the package causal-conv1d disagrees with the reference on a small input" + again
    except Exception as error:  # whatever a broken build raises, another backend can take the call
        words = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return f"the package causal-conv1d failed on a small input ({words})" + again
    return None


def conv_cuda(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    activation: str | None,
    reverse: bool,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The vendor's kernel; arguments and result as in :func:`tstar.ops.causal_conv1d`."""
    from causal_conv1d import causal_conv1d_fn  # loads CUDA libraries, and may not be installed

    inner, taps = weight.shape
    after = next_state(x, taps, mask, reverse, initial_state)
    wide = -inner % _MULTIPLE  # channels to add
    padded, state = hide(x, mask), None if initial_state is None else initial_state.to(x.dtype)
    if wide:
        padded, state = F.pad(padded, (0, wide)), None if state is None else F.pad(state, (0, wide))
    if reverse:
        padded, state = padded.flip(1), None if state is None else state.flip(1)
    if x.shape[1] == 0:
        return x.clone(), after
    if padded.stride(2) != 1 or any(stride % _MULTIPLE for stride in padded.stride()[:2]):
        padded = padded.contiguous()
    y = causal_conv1d_fn(  # [B, I, L], a row's channels side by side
        padded.mT,
        F.pad(weight.float(), (0, 0, 0, wide)).contiguous(),
        None if bias is None else F.pad(bias.float(), (0, wide)),
        initial_states=None if state is None else state.contiguous().mT,
        activation=activation,
    ).mT[..., :inner]
    return hide(y.flip(1) if reverse else y, mask), after
