"""Which parameters an optimiser must not shrink.

They carry the attribute ``_no_weight_decay``. It lives on the parameter object: ``module.to(device)`` keeps it,
``copy.deepcopy`` and materialising from the meta device do not.
"""

from torch import Tensor, nn


def exempt_from_weight_decay(*parameters: Tensor | None) -> None:
    """Mark parameters; None stands for an absent bias."""
    for parameter in parameters:
        if parameter is not None:
            parameter._no_weight_decay = True  # type: ignore[attr-defined]


def exempt_vectors(module: nn.Module) -> None:
    """Mark every parameter of ``module`` with fewer than two axes: biases, norm weights, skip weights, the query."""
    exempt_from_weight_decay(*(p for p in module.parameters() if p.dim() < 2))
