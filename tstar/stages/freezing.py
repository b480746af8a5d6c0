"""Which parts learn, and how the rest is recognised again."""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def train_only(model: nn.Module, parts: Iterable[str]) -> None:
    """Let the named direct children of ``model`` learn and freeze everything else."""
    parts = set(parts)
    for name, child in model.named_children():
        child.requires_grad_(name in parts)


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters that learn, tied ones once, and the stored buffers of the parts that do, by name."""
    tensors: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    learning = {name.split(".", 1)[0] for name in tensors}
    stored = model.state_dict(keep_vars=True)
    buffers = {n: b for n, b in model.named_buffers() if n in stored and n.split(".", 1)[0] in learning}
    return tensors | buffers


def count(parameters: Iterable[nn.Parameter]) -> int:
    """How many numbers parameters have, also those that DeepSpeed's ZeRO-3 leaves empty, their slices elsewhere."""
    return sum(int(getattr(p, "ds_numel", p.numel())) for p in parameters)


def frozen_digest(model: nn.Module) -> str:
    """Hash over names and values of all parameters that do not learn, and of the stored buffers beside them."""
    digest = hashlib.blake2b(digest_size=16)
    trained = trained_tensors(model)
    stored = model.state_dict(keep_vars=True)
    buffers = {n: b for n, b in model.named_buffers() if n in stored}
    for name, tensor in (dict(model.named_parameters()) | buffers).items():
        if name not in trained:
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
