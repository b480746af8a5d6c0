"""Norms."""

import torch
from torch import Tensor, nn

from tstar.nn.weight_decay import exempt_from_weight_decay
from tstar.ops.norm import rms_norm


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, in fp32 whatever the input (arXiv:1910.07467, eq. 4).

    Args:
        d_model: length of the last axis.
        eps: added under the root.
        groups: equal parts of the last axis, each with a mean of its own.
    """

    def __init__(self, d_model: int, eps: float = 1e-5, groups: int = 1) -> None:
        super().__init__()
        self.eps, self.groups = eps, groups
        self.weight = nn.Parameter(torch.ones(d_model))
        exempt_from_weight_decay(self.weight)

    def forward(
        self, x: Tensor, z: Tensor | None = None, norm_before_gate: bool = True, dtype: torch.dtype | None = None
    ) -> Tensor:
        """x [..., d_model] to the same shape; ``z`` and ``dtype`` are those of :func:`tstar.ops.norm.rms_norm`."""
        return rms_norm(
            x, self.weight, self.eps, z=z, norm_before_gate=norm_before_gate, groups=self.groups, dtype=dtype
        )

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}" + (f", groups={self.groups}" if self.groups > 1 else "")
