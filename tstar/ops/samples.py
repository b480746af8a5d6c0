"""Example inputs of every operator, the same bits on every machine.

Values are sums of uniform numbers rounded to multiples of 1/1024, so that fp32 holds them exactly and neither a
library's logarithm nor its vector width can change them.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

LAYOUTS: dict[str, dict[str, str]] = {
    "selective_scan": {
        "u": "B L I",
        "dt": "B L I",
        "A": "I S",
        "B": "B L S",
        "C": "B L S",
        "D": "I",
        "z": "B L I",
        "dt_bias": "I",
        "mask": "B L",
        "initial_state": "B I S",
    },
    "ssd_scan": {
        "x": "B L H P",
        "dt": "B L H",
        "A": "H",
        "B": "B L G S",
        "C": "B L G S",
        "D": "H",
        "dt_bias": "H",
        "mask": "B L",
        "initial_state": "B H P S",
    },
    "causal_conv1d": {"x": "B L I", "weight": "I K", "bias": "I", "mask": "B L", "initial_state": "B K-1 I"},
    "attention": {"q": "B L H P", "k": "B K H P", "v": "B K H P"},
}
"""Axes of every tensor that an operator takes, in letters.

B batch, L positions, I channels, S states of a channel, H heads, P channels of a head, G groups of heads, K taps or, of
attention, keys."""

REQUIRED: dict[str, tuple[str, ...]] = {
    "selective_scan": ("u", "dt", "A", "B", "C"),
    "ssd_scan": ("x", "dt", "A", "B", "C"),
    "causal_conv1d": ("x", "weight"),
    "attention": ("q", "k", "v"),
}
"""Tensors that an operator cannot do without."""

MASKS = {"right": "the last third of each sequence but the first is padding", "middle": "a third in the middle is"}
"""Where padding may lie in :func:`sample_inputs`."""


def sample_inputs(
    operator: str,
    sizes: Mapping[str, int],
    names: Iterable[str],
    *,
    seed: int = 0,
    positive_steps: bool = False,
    padding: str = "right",
) -> dict[str, Tensor]:
    """Inputs of one call.

    Args:
        operator: a key of :data:`LAYOUTS`.
        sizes: length of every letter.
        names: tensors wanted, keys of the operator's layout.
        seed: of all values; a tensor does not depend on which others are wanted.
        positive_steps: ``dt`` and ``dt_bias`` as they must be without softplus.
        padding: a key of :data:`MASKS`, for ``mask``.

    Returns:
        float64 tensors by name; ``mask`` is bool.
    """
    layout = LAYOUTS[operator]
    inputs = {}
    for name in names:
        shape = shape_of(layout[name], sizes)
        if name == "mask":
            inputs[name] = _mask(shape[0], shape[1], padding)
            continue
        values = sample(shape, seed * 100 + list(layout).index(name))
        if name == "A":
            values = -0.125 - values.abs()
        elif name in ("dt", "dt_bias"):
            values = values.abs() / 4 if positive_steps else values - 0.5
        inputs[name] = values
    return inputs


def sample(shape: tuple[int, ...], seed: int) -> Tensor:
    """About normal numbers, float64."""
    uniform = np.random.RandomState(seed).random_sample((*shape, 4))  # a stream that NumPy keeps for ever
    rounded = np.round((uniform.sum(-1) - 2.0) * (1024 * 1.75)) / 1024  # four uniform numbers deviate by 0.58
    return torch.from_numpy(np.ascontiguousarray(rounded))


def shape_of(axes: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """``"B K-1 I"`` in numbers."""
    return tuple(sizes[axis.removesuffix("-1")] - axis.endswith("-1") for axis in axes.split())


def _mask(batch: int, length: int, padding: str) -> Tensor:
    if padding not in MASKS:
        raise ValueError(f"padding must be one of {', '.join(MASKS)}, got {padding!r}")
    mask = torch.ones(batch, length, dtype=torch.bool)
    third = length // 3
    if padding == "right":
        mask[1:, length - third :] = False
    else:
        mask[:, third : 2 * third] = False
    return mask
