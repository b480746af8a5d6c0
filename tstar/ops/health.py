"""The state of the operators on this machine: which backends there are, how exact they are, how fast beside the machine.

Every number is measured here and now, on example inputs of a stated size, in fp32.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from tstar.errors import ConfigError
from tstar.ops.attention import ATTENTIONS, attention
from tstar.ops.backends import Backend, choose
from tstar.ops.compare import Operator, Result, evaluate, worst_error
from tstar.ops.conv import CONVS, causal_conv1d
from tstar.ops.samples import REQUIRED, sample, sample_inputs
from tstar.ops.scan import SCANS, selective_scan
from tstar.ops.ssd import SSDS, ssd_scan

FORWARD_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 1e-3
"""Relative errors beyond which a backend in fp32 is called wrong; right ones measure about 1e-6."""
TF32_TOLERANCE = 1e-2
"""Instead of both where a backend multiplies fp32 numbers in TF32, which keeps ten bits of a factor."""
IN_TF32 = {("ssd_scan", "cuda"), ("attention", "cuda")}


@dataclass(frozen=True)
class Operators:
    """An operator and the sizes at which it is examined, in the letters of :data:`tstar.ops.samples.LAYOUTS`."""

    call: Operator
    table: Mapping[str, Backend]
    optional: tuple[str, ...]
    medium: dict[str, int]
    """For the errors; the reference runs it in float64."""
    large: dict[str, int]
    """For the times: about what one clip asks of one layer."""
    decides: str | None = None
    """The input whose value ``unfit`` sees beside the main one; None for the initial state, which is not given."""


OPERATORS: dict[str, Operators] = {
    "selective_scan": Operators(
        selective_scan,
        SCANS,
        ("D", "z", "dt_bias", "mask"),
        {"B": 2, "L": 200, "I": 32, "S": 16},
        {"B": 1, "L": 2048, "I": 512, "S": 16},
    ),
    "ssd_scan": Operators(
        ssd_scan,
        SSDS,
        ("D", "dt_bias", "mask"),
        {"B": 2, "L": 200, "H": 4, "P": 16, "G": 2, "S": 32},
        {"B": 1, "L": 2048, "H": 8, "P": 64, "G": 1, "S": 64},
    ),
    "causal_conv1d": Operators(
        partial(causal_conv1d, activation="silu"),
        CONVS,
        ("bias", "mask"),
        {"B": 2, "L": 200, "I": 32, "K": 4},
        {"B": 1, "L": 2048, "I": 1024, "K": 4},
        "weight",
    ),
    "attention": Operators(
        attention,
        ATTENTIONS,
        (),
        {"B": 2, "L": 300, "K": 300, "H": 2, "P": 16},
        {"B": 1, "L": 2048, "K": 2048, "H": 12, "P": 64},
    ),
}


@dataclass
class BackendHealth:
    """One backend of one operator."""

    operator: str
    backend: str
    active: bool
    """``"auto"`` takes it, for fp32 on this machine's main device."""
    missing: str | None
    """Why it cannot be used; then there are no numbers."""
    device: str
    forward_error: float | None = None
    """Largest relative error of the outputs, :func:`tstar.ops.compare.relative_error`."""
    gradient_error: float | None = None
    """The same of the gradients."""
    tolerances: tuple[float, float] = (FORWARD_TOLERANCE, GRADIENT_TOLERANCE)
    """What the two errors may be."""
    failure: str | None = None
    """What it raised, if it did."""
    forward_ms: float | None = None
    """Median time of a call at the large size, milliseconds."""
    both_ms: float | None = None
    """The same with the gradients of all inputs; not taken of the reference, which needs seconds."""

    @property
    def wrong(self) -> bool:
        """It can be called, and raises or is beyond a tolerance."""
        errors = (self.forward_error, self.gradient_error)
        return self.failure is not None or any(
            error is not None and not error <= most for error, most in zip(errors, self.tolerances, strict=True)
        )


@dataclass(frozen=True)
class Rates:
    """What the device does at best, to set times beside."""

    copy_gb_s: float
    """Bytes read plus bytes written while a tensor far larger than a cache is copied, 1e9 a second."""
    fp32_gflop_s: float
    """Of a matrix product of two [1024, 1024], 1e9 multiplications and additions a second."""
    bf16_gflop_s: float


def main_device() -> str:
    """Type of the device that models run on here."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def examine(operator: str, backend: str, expected: Result | None = None) -> BackendHealth:
    """Whether a backend can be used, and its errors at the medium size.

    Args:
        operator: a key of :data:`OPERATORS`.
        backend: a key of its table.
        expected: what :func:`expectation` gave, so that it is computed once an operator.
    """
    device = backend if backend in ("cpu", "cuda") else main_device()
    health = BackendHealth(
        operator, backend, backend == active(operator), OPERATORS[operator].table[backend].missing(), device
    )
    if (operator, backend) in IN_TF32:
        health.tolerances = (TF32_TOLERANCE, TF32_TOLERANCE)
    if health.missing is not None:
        return health
    expected = expectation(operator) if expected is None else expected
    inputs, weights = _inputs(operator, OPERATORS[operator].medium, device, torch.float32)
    try:
        ours = evaluate(partial(OPERATORS[operator].call, backend=backend), inputs, weights)
    except ConfigError as error:  # installed, but refuses its own device's tensors, as after a failed check
        health.missing = str(error)
        return health
    except Exception as error:  # a broken kernel is a finding, and the other backends are still examined
        health.failure = f"{type(error).__name__}: {error}"
        return health
    health.forward_error = worst_error(ours.outputs, expected.outputs)
    health.gradient_error = worst_error(ours.gradients, expected.gradients)
    return health


def expectation(operator: str) -> Result:
    """Outputs and gradients at the medium size by the reference in float64."""
    inputs, weights = _inputs(operator, OPERATORS[operator].medium, "cpu", torch.float64)
    return evaluate(partial(OPERATORS[operator].call, backend="reference"), inputs, weights)


def active(operator: str) -> str:
    """The backend that ``"auto"`` takes for fp32 tensors on the main device."""
    entry = OPERATORS[operator]
    inputs, _ = _inputs(operator, entry.medium, main_device(), torch.float32)
    x, decides = inputs[REQUIRED[operator][0]], inputs[entry.decides] if entry.decides else None
    chosen = choose(operator, entry.table, "auto", x, decides, False)
    return next(name for name, backend in entry.table.items() if backend is chosen)


def time_backend(health: BackendHealth, budget_s: float) -> None:
    """Measure the times of a backend that works, each for about ``budget_s`` seconds, and note them in ``health``."""
    if health.missing is not None or health.failure is not None:
        return
    entry = OPERATORS[health.operator]
    inputs, weights = _inputs(health.operator, entry.large, health.device, torch.float32, optional=False)
    call = partial(entry.call, backend=health.backend)
    forward = median_seconds(lambda: evaluate(call, inputs, {}, gradients=False), budget_s, health.device)
    health.forward_ms = 1e3 * forward
    if health.backend != "reference":
        both = median_seconds(lambda: evaluate(call, inputs, weights), budget_s, health.device)
        health.both_ms = 1e3 * both


def measure_rates(device: str, budget_s: float = 0.2) -> Rates:
    """Measure :class:`Rates` of a device, each for about ``budget_s`` seconds."""
    source = torch.zeros(2**24 if device == "cpu" else 2**28, device=device)  # fp32: 64 MB, or 1 GB
    target = torch.ones_like(source)
    copied = 2 * source.numel() * source.element_size() / median_seconds(lambda: target.copy_(source), budget_s, device)
    rates = [1e-9 * matmul_rate(dtype, device, budget_s) for dtype in (torch.float32, torch.bfloat16)]
    return Rates(1e-9 * copied, *rates)


def matmul_rate(dtype: torch.dtype, device: str, budget_s: float, size: int = 1024) -> float:
    """Floating-point operations a second of a product of two square matrices."""
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    return 2 * size**3 / median_seconds(lambda: a @ b, budget_s, device)


def median_seconds(work: Callable[[], object], budget_s: float, device: str) -> float:
    """Median time of a call after a first one that is not counted; at least one call, at most a thousand."""

    def once() -> float:
        _wait(device)
        begun = time.perf_counter()
        work()
        _wait(device)
        return time.perf_counter() - begun

    once()
    times = [once()]
    times += [once() for _ in range(min(1000, int(budget_s / max(times[0], 1e-9))) - 1)]
    return statistics.median(times)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _inputs(
    operator: str, sizes: Mapping[str, int], device: str, dtype: torch.dtype, optional: bool = True
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inputs of one call, and the weights of its scalar: those of y alone, whose shape is the main input's."""
    names = (*REQUIRED[operator], *(OPERATORS[operator].optional if optional else ()))
    inputs = sample_inputs(operator, sizes, names)
    inputs = {name: t.to(device, dtype if t.is_floating_point() else None) for name, t in inputs.items()}
    x = inputs[REQUIRED[operator][0]]
    return inputs, {"y": sample(tuple(x.shape), seed=1).to(device, dtype)}
