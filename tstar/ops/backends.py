"""Backends of the operators: their names, whether this installation has them, and which one takes a call."""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from tstar.errors import ConfigError, suggest

BACKENDS: dict[str, str] = {
    "auto": "the fastest one that can take the tensors",
    "reference": "a plain loop, in any floating type",
    "torch": "chunks of PyTorch operations, on any device",
    "cpu": "the fused CPU kernel",
    "cuda": "the vendor's fused CUDA kernel",
}
"""Every name a ``backend`` argument can take, and what it stands for."""

PREFERENCE = ("cuda", "cpu", "torch", "reference")
"""Order in which ``"auto"`` asks the backends."""


@dataclass(frozen=True)
class Backend:
    """One implementation of an operator."""

    run: Callable[..., tuple[Tensor, Tensor]]
    """Takes the operator's arguments and returns (output, final state)."""
    missing: Callable[[], str | None] = lambda: None
    """Why this installation cannot run it, with what to install; None if it can."""
    unfit: Callable[[Tensor, Tensor | None, bool], str | None] = lambda x, state, final: None
    """(input, initial state, final state wanted) to why a call cannot take this backend; None if it can."""


def available(table: Mapping[str, Backend]) -> tuple[str, ...]:
    """Names of the backends that this installation can run."""
    return tuple(name for name, backend in table.items() if backend.missing() is None)


def choose(
    operator: str, table: Mapping[str, Backend], name: str, x: Tensor, state: Tensor | None, final: bool
) -> Backend:
    """The backend called ``name``, or for ``"auto"`` the first in :data:`PREFERENCE` that can take the call.

    Args:
        operator: name for messages.
        table: the operator's backends.
        name: a key of :data:`BACKENDS`.
        x: main input; its device and type decide.
        state: initial state, if any.
        final: the caller wants the final state.

    Raises:
        ConfigError: the name is unknown, or that backend is not installed or cannot take the call.
    """
    if name == "auto":
        for preferred in PREFERENCE:
            backend = table.get(preferred)
            if backend is not None and backend.unfit(x, state, final) is None and backend.missing() is None:
                return backend
    if name not in BACKENDS:
        raise ConfigError(f"unknown backend '{name}' of {operator}{suggest(name, BACKENDS)}")
    if name not in table:
        raise ConfigError(f"{operator} has no backend '{name}'; use one of: auto, {', '.join(table)}")
    reason = table[name].missing() or table[name].unfit(x, state, final)
    if reason is not None:
        raise ConfigError(f"backend '{name}' of {operator} ({BACKENDS[name]}) cannot be used: {reason}")
    return table[name]


_HAS_NUMBA = importlib.util.find_spec("numba") is not None


def numba_missing() -> str | None:
    """Why the CPU kernels cannot run, or None."""
    return None if _HAS_NUMBA else "Numba is not installed; pip install numba"


def not_for_cpu_kernel(x: Tensor, state: Tensor | None, final: bool) -> str | None:
    """Why the CPU kernels cannot take ``x``, or None."""
    if x.device.type != "cpu":
        return f"its input is on {x.device.type}; move it to the CPU, or use backend 'torch'"
    if not x.is_floating_point():
        return f"its input is of type {str(x.dtype).removeprefix('torch.')}; convert it to a floating type"
    if x.element_size() > 4:
        return f"it computes in float32, and its input is {str(x.dtype).removeprefix('torch.')}; use 'torch' or 'reference'"
    return None
