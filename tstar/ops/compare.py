"""How an operator is compared with another: outputs and gradients of one scalar, and the distance between tensors.

The scalar is sum(y * weight_y) + sum(state * weight_state), the second term only where there is a final state.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Operator = Callable[..., "Tensor | tuple[Tensor, Tensor]"]


@dataclass(frozen=True)
class Result:
    """What a call gave: ``outputs`` under "y" and "state", ``gradients`` of the scalar under the names of inputs."""

    outputs: dict[str, Tensor]
    gradients: dict[str, Tensor]


def evaluate(
    operator: Operator, inputs: Mapping[str, Tensor], weights: Mapping[str, Tensor], gradients: bool = True
) -> Result:
    """Call ``operator(**inputs)`` and differentiate the scalar at the top of this file.

    Args:
        operator: returns y, or (y, final state); options are bound already.
        inputs: tensors by argument name. Those of floating type are differentiated.
        weights: of the scalar, "y" and, where the state counts in it, "state".
        gradients: False for the outputs alone.

    Returns:
        The result, detached. An input that does not reach the scalar has a gradient of zeros.
    """
    leaves = {name: tensor.detach() for name, tensor in inputs.items()}
    floating = {name: t.requires_grad_(gradients) for name, t in leaves.items() if t.is_floating_point()}
    with torch.set_grad_enabled(gradients):
        returned = operator(**leaves)
        outputs = {"y": returned} if isinstance(returned, Tensor) else dict(zip(("y", "state"), returned, strict=True))
        if not gradients:
            return Result(outputs, {})
        terms = [(outputs[name] * weight.to(outputs[name].dtype)).sum() for name, weight in weights.items()]
        total = torch.stack([term.double() for term in terms]).sum()
        slopes = torch.autograd.grad(total, list(floating.values()), materialize_grads=True)
    return Result({k: v.detach() for k, v in outputs.items()}, dict(zip(floating, slopes, strict=True)))


def relative_error(ours: Tensor, expected: Tensor) -> float:
    """max|ours - expected| / max|expected|, in float64; the absolute error where all expected values are zero.

    Infinite where a value of ours is not finite. Shapes must agree; empty tensors do not differ.
    """
    if ours.shape != expected.shape:
        raise ValueError(f"cannot compare shapes {list(ours.shape)} and {list(expected.shape)}")
    if not expected.numel():
        return 0.0
    ours, expected = ours.detach().double().cpu(), expected.detach().double().cpu()
    if not ours.isfinite().all():
        return float("inf")
    largest = float(expected.abs().max())
    return float((ours - expected).abs().max()) / (largest or 1.0)


def worst_error(ours: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Largest :func:`relative_error` over the tensors of ``expected``."""
    return max((relative_error(ours[name], tensor) for name, tensor in expected.items()), default=0.0)
