"""Trained weights as safetensors: what one stage hands to the next.

Tensors are named ``compressor....`` and ``language....``; the file's metadata says which compressor and language model they are of.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from tstar.data.files import file_digest
from tstar.errors import ConfigError, DataError
from tstar.language import HFCausalLM
from tstar.stages.freezing import trained_tensors

FORMAT = "tstar-weights-1"


def export_weights(
    model: nn.Module, path: Path, parts: dict[str, Any], whole: dict[str, torch.Tensor] | None = None
) -> str:
    """Write what was trained and return the file's sha256.

    Args:
        model: the model whose trained tensors are written.
        path: of the file; it appears whole or not at all.
        parts: description of each part ("compressor", "language"), JSON types, checked on import.
        whole: the trained tensors, where the model has but slices of them.
    """
    trained = trained_tensors(model) if whole is None else whole
    tensors = {name: t.detach().cpu().contiguous() for name, t in trained.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    save_file(tensors, temporary, metadata={FORMAT: json.dumps(parts, sort_keys=True)})  # one key: their order varies
    with safe_open(temporary, framework="pt") as back:
        if not all(torch.equal(back.get_tensor(name), t) for name, t in tensors.items()):
            raise DataError(f"{path} reads back differently from what was written; is the disk sound?")
    with temporary.open("rb+") as stream:
        os.fsync(stream.fileno())
    temporary.replace(path)
    return file_digest(path)


def import_part(model: nn.Module, part: str, path: Path, description: Any) -> None:
    """Load one part ("compressor" or "language") of an exported file into ``model``.

    Raises:
        DataError: the file is missing or damaged.
        ConfigError: it holds no such part, or that of another architecture.
    """
    if not path.is_file():
        raise DataError(f"no weights file {path}, wanted for init_from.{part}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = [n for n in file.keys() if n.startswith(f"{part}.")]  # noqa: SIM118 - no mapping
            tensors = {n.removeprefix(f"{part}."): file.get_tensor(n) for n in names}
    except SafetensorError as error:
        raise DataError(f"weights file {path} is damaged ({error})") from error
    if FORMAT not in metadata:
        raise DataError(
            f"init_from.{part}: {path} is not a tstar weights file (`tstar fit` leaves weights.safetensors)"
        )
    if not tensors:
        raise ConfigError(f"init_from.{part}: {path} holds no trained {part}")
    theirs = json.loads(metadata[FORMAT]).get(part)
    if json.dumps(theirs, sort_keys=True) != json.dumps(description, sort_keys=True):
        differ = "; ".join(_differences(theirs or {}, description))
        raise ConfigError(f"init_from.{part}: {path} is of another {part} than this recipe's: {differ}")
    module = model.get_submodule(part)
    stored = module.state_dict(keep_vars=True)
    learnt = module.learnable() if isinstance(module, HFCausalLM) else dict(module.named_parameters())
    wanted: dict[str, torch.Tensor] = {**learnt, **{n: b for n, b in module.named_buffers() if n in stored}}
    if wanted.keys() != tensors.keys() or any(wanted[n].shape != t.shape for n, t in tensors.items()):
        raise ConfigError(f"init_from.{part}: the tensors of {path} do not fit this recipe's {part}")
    with torch.no_grad():
        for name, tensor in tensors.items():
            wanted[name].copy_(tensor)


def _differences(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """Settings that differ; only the names where those do, since nothing else is comparable then."""
    keys = ["name"] if theirs.get("name") != ours.get("name") else sorted({*theirs, *ours})
    pairs = [(k, theirs.get(k, "not known"), ours.get(k, "not known")) for k in keys]
    return [f"{k} {there} there, {here} here" for k, there, here in pairs if there != here]
