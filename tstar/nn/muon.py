"""Muon for the matrices inside the layers and Adam for everything else, as one optimizer (arXiv:2502.16982)."""

from typing import Any

import torch
from torch import nn


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


class MuonAdam(torch.optim.Optimizer):
    """One optimizer of two kinds of groups: those with ``"muon": True`` go to Muon, the others to AdamW.

    Muon's steps are scaled to the size of Adam's, so that one learning rate suits both.
    """

    def __init__(self, groups: list[dict[str, Any]], **adam: Any) -> None:
        chosen = [group for group in groups if group.get("muon")]
        others = [group for group in groups if not group.get("muon")]
        self.parts: list[torch.optim.Optimizer] = []
        if chosen:
            self.parts.append(torch.optim.Muon(chosen, adjust_lr_fn="match_rms_adamw"))
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
