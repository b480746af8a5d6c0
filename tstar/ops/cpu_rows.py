"""Tensors as the CPU kernels see them: one-dimensional NumPy arrays, and rows found in them by position.

Nothing is copied, so a kernel reads half of a projection where it lies. bfloat16 becomes ``uint16``, bit for bit.
Numba is not imported here: a model can be traced without it.

Letters: B sequences, L rows of a sequence, N numbers of a row.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

LANES = 16
"""Numbers that a kernel takes at a time: rows have a multiple of it."""
_TASKS = 64


class Rows(NamedTuple):
    """Rows of B sequences inside a one-dimensional array, in order of scanning; a row's numbers are neighbours."""

    data: Any
    first: int
    """Where the first row scanned of the first sequence starts."""
    step: int
    """From one row to the next, negative in a reversed scan."""
    apart: int
    """From one sequence to the next."""


def values(tensor: Tensor) -> Any:
    """A contiguous tensor's numbers as a one-dimensional array."""
    return _bits(tensor).view(-1).numpy()


def rows(tensor: Tensor, reverse: bool = False) -> Rows:
    """Rows of a [B, L, N] tensor, or single numbers of [B, L]; copied only where a row's numbers are no neighbours."""
    tensor = _bits(tensor)
    if not tensor.numel():
        return Rows(tensor.new_empty(1).numpy(), 0, 0, 0)
    if tensor.dim() == 3 and tensor.stride(2) != 1:
        tensor = tensor.contiguous()
    apart, step = tensor.stride()[:2]
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    data = tensor.as_strided((span,), (1,)).numpy()
    return Rows(data, (tensor.shape[1] - 1) * step, -step, apart) if reverse else Rows(data, 0, step, apart)


def moved(of: Rows, sequence: int) -> Rows:
    """The rows of another sequence as if it were the first."""
    return of._replace(first=of.first + sequence * of.apart)


def shares(count: int) -> list[tuple[int, int]]:
    """Split ``range(count)`` into at most 64 neighbouring parts, (first, past the last), as even as can be.

    They do not depend on the number of threads, so neither do sums over the parts in their order.
    """
    parts = min(count, _TASKS)
    return [(count * n // parts, count * (n + 1) // parts) for n in range(parts)]


def _bits(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    if tensor.dtype in (torch.bfloat16, torch.bool):
        return tensor.view(torch.uint16 if tensor.dtype == torch.bfloat16 else torch.uint8)
    return tensor
