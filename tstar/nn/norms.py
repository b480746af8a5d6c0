"""Norms."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tstar.nn.weight_decay import exempt_from_weight_decay


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, in fp32 whatever the input (arXiv:1910.07467, eq. 4).

    Args:
        d_model: length of the last axis.
        eps: added under the root.
    """

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))
        exempt_from_weight_decay(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., d_model] to the same shape and type."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        return F.rms_norm(x.to(dtype), self.weight.shape, self.weight.to(dtype), self.eps).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}"
