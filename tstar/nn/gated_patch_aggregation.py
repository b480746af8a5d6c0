"""Gated patch aggregation: a query takes in a weighted mean of the patches it stands for.

MambaMia, arXiv:2506.13564, equations 2 and 3. For a chunk of patches x_1 .. x_k and its query q:

    alpha = softmax(W_a drop(q) + b_a)
    g     = eps + (1 - 2 eps) sigmoid(w_g drop(q) + b_g)
    q_new = (1 - g) q + g sum_i alpha_i x_i

Letters: B batch, L = G * (k + 1) positions, G chunks, k patches per query, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tstar.nn.weight_decay import exempt_from_weight_decay

HEAD_SCALE = 1e-3
"""Heads start this much smaller than a usual Linear: alpha is then 1/k and g is 1/2, to within this."""


class GatedPatchAggregation(nn.Module):
    """Update every query of a sequence from the k patches before it; patches pass unchanged.

    Args:
        d_model: D.
        interval: k.
        dropout: on the heads' inputs only, drawn separately for the two.
        eps: the gate stays within [eps, 1 - eps].
    """

    def __init__(self, d_model: int, interval: int, dropout: float = 0.1, eps: float = 0.01) -> None:
        super().__init__()
        self.interval, self.eps = interval, eps
        self.dropout = nn.Dropout(dropout)
        self.patch_head = nn.Linear(d_model, interval)
        self.gate_head = nn.Linear(d_model, 1)
        self.reset_parameters()
        exempt_from_weight_decay(self.patch_head.bias, self.gate_head.bias)

    def reset_parameters(self) -> None:
        """Small weights, zero biases; run it after any initialisation that walks over all Linear layers."""
        for head in (self.patch_head, self.gate_head):
            head.reset_parameters()
            with torch.no_grad():
                head.weight *= HEAD_SCALE
                head.bias.zero_()

    def weights(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """alpha [..., k] and g [..., 1] of queries [..., D], in fp32 or wider."""
        alpha_logits, gate_logit = self.patch_head(self.dropout(queries)), self.gate_head(self.dropout(queries))
        dtype = torch.promote_types(alpha_logits.dtype, torch.float32)
        alpha = F.softmax(alpha_logits.to(dtype), dim=-1)
        gate = self.eps + (1 - 2 * self.eps) * torch.sigmoid(gate_logit.to(dtype))
        return alpha, gate

    def forward(self, x: Tensor) -> Tensor:
        """Sequence [B, L, D] with a query after every k patches to a new one of the same shape.

        Raises:
            ValueError: L is no multiple of k + 1.
        """
        batch, length, width = x.shape
        if length % (self.interval + 1):
            raise ValueError(
                f"GatedPatchAggregation: {length} tokens are no multiple of interval + 1 = {self.interval + 1}"
            )
        chunks = x.reshape(batch, length // (self.interval + 1), self.interval + 1, width)  # [B, G, k + 1, D]
        alpha, gate = self.weights(chunks[:, :, -1])
        mix = torch.cat([gate * alpha, 1 - gate], dim=-1).to(x.dtype)  # of the patches and the query, [B, G, k + 1]
        queries = torch.matmul(mix.unsqueeze(-2), chunks)  # [B, G, 1, D]
        return torch.cat([chunks[:, :, :-1], queries.to(x.dtype)], dim=2).flatten(1, 2)  # [B, L, D]
