"""Tensors as the CPU kernels see them: an address, and rows found from it by position.

Nothing is copied, so a kernel reads half of a projection where it lies. Addresses rather than arrays, because Numba
counts references to an array wherever it is handed on, with an atomic operation each time, even in innermost loops.
Numba is not imported here: a model can be traced without it.

Letters: B sequences, L rows of a sequence, N numbers of a row.
"""

import importlib
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

LANES = 16
"""Numbers that a kernel takes at a time: rows have a multiple of it."""
_TASKS = 64
_TASK_NUMBERS = 32768


class Floats(NamedTuple):
    """Numbers in memory, of type float32. The caller sees to it that the tensor outlives the kernel's call."""

    address: int


class Halves(NamedTuple):
    """Numbers in memory, of type bfloat16."""

    address: int


class Bytes(NamedTuple):
    """Numbers in memory, a byte each."""

    address: int


class Rows(NamedTuple):
    """Rows of B sequences in memory, in order of scanning; a row's numbers are neighbours."""

    data: Floats | Halves | Bytes
    first: int
    """Where the first row scanned of the first sequence starts."""
    step: int
    """From one row to the next, negative in a reversed scan."""
    apart: int
    """From one sequence to the next."""


_KINDS = {torch.float32: Floats, torch.bfloat16: Halves, torch.bool: Bytes}


def values(tensor: Tensor) -> Any:
    """The memory of a contiguous tensor."""
    assert tensor.is_contiguous(), "numbers must be neighbours"
    return _memory(tensor)


def _memory(tensor: Tensor) -> Any:
    return _KINDS[tensor.dtype](tensor.data_ptr())


def rows(tensor: Tensor, reverse: bool = False) -> Rows:
    """Rows of a [B, L, N] tensor, or single numbers of [B, L]."""
    assert tensor.dim() == 2 or tensor.stride(2) == 1 or not tensor.numel(), "a row's numbers must be neighbours"
    apart, step = tensor.stride()[:2]
    first = (tensor.shape[1] - 1) * step if reverse else 0
    return Rows(_memory(tensor), first, -step if reverse else step, apart)


def floats(*shape: int, zero: bool = False) -> Tensor:
    """A new float32 tensor, whatever PyTorch's default type is."""
    make = torch.zeros if zero else torch.empty
    return make(shape, dtype=torch.float32)


def kernels(name: str) -> ModuleType:
    """A module of kernels, imported when the first one runs."""
    return importlib.import_module(f"tstar.ops.{name}")


def check_kept(operator: str, kept: Tensor, x: Tensor) -> None:
    """Raise RuntimeError where a backward pass lacks what the forward pass was not asked to keep for it."""
    if x.numel() and not kept.numel():
        raise RuntimeError(f"{operator}: called with keep=False, so it has no gradients; call it with keep=True")


def neighbours(tensor: Tensor) -> Tensor:
    """The tensor, or a copy of it where a row's numbers are no neighbours."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def moved(of: Rows, sequence: int) -> Rows:
    """The rows of another sequence as if it were the first."""
    return of._replace(first=of.first + sequence * of.apart)


def shares(count: int, width: int = _TASK_NUMBERS) -> list[tuple[int, int]]:
    """Split ``range(count)`` into at most 64 neighbouring parts, (first, past the last), as even as can be.

    They do not depend on the number of threads, so neither do sums over the parts in their order.

    Args:
        count: things to be done.
        width: numbers that each of them reads; with few, a part holds several, or handing it out takes longer than doing it.
    """
    parts = min(count, _TASKS, -(-count * width // _TASK_NUMBERS))
    return [(count * n // parts, count * (n + 1) // parts) for n in range(parts)]
