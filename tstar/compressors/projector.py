"""The two-layer projector that compressors without a sequence model put before the language model."""

from torch import nn

from tstar.nn.weight_decay import exempt_vectors

PROJECTOR = "mlp2x_gelu"
"""Name of the weights of compressors that have no others."""


def mlp2x_gelu(d_vision: int, d_language: int) -> nn.Sequential:
    """Linear, GELU, Linear on each token, [..., d_vision] to [..., d_language] (LLaVA-1.5, arXiv:2310.03744)."""
    mlp = nn.Sequential(nn.Linear(d_vision, d_language), nn.GELU(), nn.Linear(d_language, d_language))
    exempt_vectors(mlp)
    return mlp
