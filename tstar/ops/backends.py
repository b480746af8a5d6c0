"""Names of the operator backends, and the messages for a name that cannot be used."""

from collections.abc import Iterable

from tstar.errors import ConfigError, suggest

BACKENDS: dict[str, str] = {
    "auto": "the fastest one that can take the tensors",
    "reference": "a plain loop, in any floating type",
    "torch": "chunks of PyTorch operations, on any device",
    "cpu": "the fused CPU kernel",
    "cuda": "the vendor's fused CUDA kernel",
}
"""Every name a ``backend`` argument can take, and what it stands for."""


def check_backend(operator: str, backend: str, available: Iterable[str]) -> None:
    """Raise :class:`ConfigError` unless ``backend`` is ``"auto"`` or one of ``available``."""
    names = sorted(available)
    if backend not in BACKENDS:
        raise ConfigError(f"unknown backend '{backend}' of {operator}{suggest(backend, BACKENDS)}")
    if backend != "auto" and backend not in names:
        raise ConfigError(
            f"backend '{backend}' of {operator} ({BACKENDS[backend]}) is not available in this build; "
            f"use one of: auto, {', '.join(names)}"
        )
