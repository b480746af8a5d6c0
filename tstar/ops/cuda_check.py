"""Whether a vendor's kernel may be used: it must be installed, find a device, and equal the reference on that device.

A kernel that was built for another device or another version of its package can return numbers that look right. So none
is used before it has been compared, outputs and gradients, with the slow obvious version; a process does this once.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tstar.ops.compare import Operator, evaluate, relative_error
from tstar.ops.samples import REQUIRED, sample, sample_inputs


@dataclass(frozen=True)
class Trial:
    """One call of the check."""

    sizes: dict[str, int]
    """Length of every letter of :data:`tstar.ops.samples.LAYOUTS`."""
    optional: tuple[str, ...] = ()
    """Optional inputs given."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options given, by name."""


def cuda_missing() -> str | None:
    """Why no CUDA kernel can run, or None."""
    return None if torch.cuda.is_available() else "PyTorch finds no CUDA device"


def import_missing(module: str, name: str, install: str) -> str | None:
    """Why ``name`` of ``module`` cannot be imported, with how to install it; None if it can."""
    try:
        found = hasattr(importlib.import_module(module), name)
    except ImportError as error:
        return f"{module} cannot be imported ({first_line(error)}); {install}"
    except Exception as error:  # a build for other versions breaks in many ways
        return f"{module} fails on import ({type(error).__name__}: {first_line(error)}); {install}"
    return None if found else f"{module} has no {name}; {install}"


def check_kernel(
    operator: str,
    kernel: Operator,
    reference: Operator,
    trials: Sequence[Trial],
    *,
    tolerance: float,
    device: str = "cuda",
    state_gradient: bool = True,
) -> str | None:
    """Compare a kernel in fp32 with the reference in float64 on the same small inputs.

    Args:
        operator: a key of :data:`tstar.ops.samples.LAYOUTS`.
        kernel, reference: take inputs and options by name and return (y, final state).
        trials: the calls to compare.
        tolerance: largest relative error (:func:`tstar.ops.compare.relative_error`) of any output or gradient.
        device: where both run.
        state_gradient: the final state counts in the scalar that is differentiated.

    Returns:
        What differs and by how much, or what the kernel raised; None if all agrees.
    """
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device, enabled=False):
        for trial in trials:
            reason = _try(operator, kernel, reference, trial, tolerance, device, state_gradient)
            if reason is not None:
                return f"the check against the reference failed: {reason}{_describe(trial)}"
    return None


def _try(
    operator: str,
    kernel: Operator,
    reference: Operator,
    trial: Trial,
    tolerance: float,
    device: str,
    state_gradient: bool,
) -> str | None:
    names = (*REQUIRED[operator], *trial.optional)
    try:
        return _compare(operator, names, kernel, reference, trial, tolerance, device, state_gradient)
    except Exception as error:  # whatever it is, on the way to the device or in the kernel, such a kernel is not used
        return f"it raised {type(error).__name__}: {first_line(error)}"


def _compare(
    operator: str,
    names: tuple[str, ...],
    kernel: Operator,
    reference: Operator,
    trial: Trial,
    tolerance: float,
    device: str,
    state_gradient: bool,
) -> str | None:
    exact = {k: v.to(device) for k, v in sample_inputs(operator, trial.sizes, names).items()}
    ours = {k: v.float() if v.is_floating_point() else v for k, v in exact.items()}
    shapes = evaluate(partial(reference, **trial.options), exact, {}, gradients=False).outputs
    counted = {"y": 1, "state": 2} if state_gradient else {"y": 1}
    weights = {name: sample(tuple(shapes[name].shape), seed).to(device) for name, seed in counted.items()}
    expected = evaluate(partial(reference, **trial.options), exact, weights)
    got = evaluate(partial(kernel, **trial.options), ours, weights)
    reason = _difference(got.outputs, expected.outputs, tolerance, "")
    return reason or _difference(got.gradients, expected.gradients, tolerance, "the gradient of ")


def _difference(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float, what: str) -> str | None:
    for name, tensor in expected.items():
        error = relative_error(got[name], tensor)
        if not error <= tolerance:
            return f"{what}{name} is off by {error:.1e} of its largest value, more than {tolerance:.0e}"
    return None


def _describe(trial: Trial) -> str:
    sizes = " ".join(f"{letter}={length}" for letter, length in trial.sizes.items())
    given = [*trial.optional, *(f"{k}={v}" for k, v in trial.options.items())]
    return f" (at {sizes}{', with ' + ', '.join(given) if given else ''})"


def first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def first_reason(*reasons: Callable[[], str | None]) -> str | None:
    """What the first of ``reasons`` that gives one says; later ones are not asked."""
    for reason in reasons:
        if (said := reason()) is not None:
            return said
    return None
