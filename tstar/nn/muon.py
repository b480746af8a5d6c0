"""Muon for the matrices inside the layers and Adam for everything else, as one optimizer (arXiv:2502.16982)."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

TOGETHER = 2**22
"""Elements of all matrices that are orthogonalised at once; larger ones gain nothing by it."""


def hidden_matrices(model: nn.Module) -> set[int]:
    """Ids of the parameters that layers multiply by: no embedding, output head or bare parameter (query, positions, A_log)."""
    outside = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    for module in model.modules():
        head: Any = getattr(module, "get_output_embeddings", lambda: None)()
        outside |= {id(p) for p in head.parameters()} if isinstance(head, nn.Module) else set()
    found = set()
    for name, parameter in model.named_parameters():
        layer = name.rsplit(".", 1)[-1] in ("weight", "in_proj_weight")
        if parameter.ndim == 2 and layer and id(parameter) not in outside:
            found.add(id(parameter))
    return found


def orthogonalised(
    matrices: Tensor,
    coefficients: Sequence[float],
    steps: int = 5,
    eps: float = 1e-7,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Matrices with all singular values near 1, by Newton-Schulz iterations X <- a X + (b X X' + c (X X')^2) X.

    Args:
        matrices: [K, rows, columns]; each is divided by its norm first.
        coefficients: a, b, c.
        steps: iterations.
        eps: least norm that a matrix is divided by.
        dtype: of the products.

    Returns:
        [K, rows, columns], in ``dtype``.
    """
    a, b, c = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    found = (matrices.mT if tall else matrices).to(dtype)
    found = found / found.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = found @ found.mT
        found = torch.baddbmm(found, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return found.mT if tall else found


class Muon(torch.optim.Muon):
    """torch's Muon, scaled to Adam's steps, but matrices of one shape go together, and those on a CPU in float32.

    In bfloat16, as torch has it, a CPU without AVX-512 took twice as long for them as for forward and backward.
    """

    def __init__(self, params: Any, **settings: Any) -> None:
        super().__init__(params, adjust_lr_fn="match_rms_adamw", **settings)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            decay = 1 - group["lr"] * group["weight_decay"]
            for equal in _of_one_kind([p for p in group["params"] if p.grad is not None]):
                updates = torch.stack([self._follow(p, group) for p in equal])
                dtype = torch.float32 if updates.device.type == "cpu" else torch.bfloat16
                given = {"steps": group["ns_steps"], "eps": group["eps"], "dtype": dtype}
                rate = group["lr"] * 0.2 * math.sqrt(max(updates.shape[1:]))
                for parameter, update in zip(
                    equal, orthogonalised(updates, group["ns_coefficients"], **given), strict=True
                ):
                    parameter.mul_(decay).add_(update, alpha=-rate)
        return loss

    def _follow(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        """Move the momentum towards the gradient; what is to be orthogonalised."""
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        return gradient.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum


def _of_one_kind(parameters: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Groups of one shape, type and device, of at most :data:`TOGETHER` elements or one matrix."""
    kinds: dict[Any, list[Tensor]] = {}
    for parameter in parameters:
        kinds.setdefault((parameter.shape, parameter.dtype, parameter.device), []).append(parameter)
    for own in kinds.values():
        number = max(TOGETHER // max(own[0].numel(), 1), 1)
        for start in range(0, len(own), number):
            yield own[start : start + number]


class MuonAdam(torch.optim.Optimizer):
    """One optimizer of two kinds of groups: those with ``"muon": True`` go to Muon, the others to AdamW.

    Muon's steps are scaled to the size of Adam's, so that one learning rate suits both.
    """

    def __init__(self, groups: list[dict[str, Any]], **adam: Any) -> None:
        chosen = [group for group in groups if group.get("muon")]
        others = [group for group in groups if not group.get("muon")]
        self.parts: list[torch.optim.Optimizer] = []
        if chosen:
            self.parts.append(Muon(chosen))
        if others:
            self.parts.append(torch.optim.AdamW(others, **adam))
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Groups and state belong to this optimizer; its parts look at them."""
        taken = 0
        for part in self.parts:
            number = len(part.param_groups)
            part.param_groups = self.param_groups[taken : taken + number]
            part.state = self.state
            taken += number

    def step(self, closure: Any = None) -> Any:
        """One step of both parts."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a state of an optimizer with the same groups."""
        super().load_state_dict(state_dict)
        self._share()
