"""Mamba models in the format of the state-spaces repositories, whose settings and names differ from transformers' own.

``state-spaces/mamba2-2.7b`` is published in this form alone: a ``config.json`` with ``d_model``, ``n_layer`` and ``ssm_cfg``, and
``pytorch_model.bin`` whose embeddings are called ``backbone.embedding``; it brings no tokenizer.
"""

import json
from pathlib import Path
from typing import Any

import torch

from tstar.errors import DataError

CONFIG, WEIGHTS = "config.json", ("model.safetensors", "pytorch_model.bin")
PARTS = {"backbone.embedding.weight": "backbone.embeddings.weight"}
"""Tensors by their name there and here."""


def is_state_spaces(path: str) -> bool:
    """Whether a folder or hub name holds a model in this form; a file that cannot be had or read is none."""
    if not Path(path).is_dir() and not path.startswith("state-spaces/"):
        return False
    try:
        settings = json.loads(Path(_file(path, CONFIG)).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(settings, dict) and "ssm_cfg" in settings and "model_type" not in settings


def _file(path: str, name: str) -> str:
    """Where a model's file lies on this machine; one of a hub model is downloaded."""
    from transformers.utils import cached_file

    found = cached_file(path, name, local_files_only=Path(path).is_dir())
    if found is None:
        raise OSError(f"there is no {name}")
    return str(found)


def transformers_config(settings: dict[str, Any]) -> Any:
    """Settings of this form as transformers'.

    Raises:
        DataError: something is set that transformers' models cannot follow.
    """
    from transformers import Mamba2Config, MambaConfig

    ssm = dict(settings.get("ssm_cfg") or {})
    layer = ssm.pop("layer", "Mamba1")
    if settings.get("attn_layer_idx") or settings.get("d_intermediate"):
        raise DataError("models with attention or feed-forward layers between those of Mamba cannot be read")
    multiple = settings.get("pad_vocab_size_multiple", 8)
    width = settings["d_model"]
    common: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": settings["n_layer"],
        "vocab_size": -(-settings["vocab_size"] // multiple) * multiple,
        "conv_kernel": ssm.pop("d_conv", 4),
        "expand": (expand := ssm.pop("expand", 2)),
        "residual_in_fp32": settings.get("residual_in_fp32", True),
        "tie_word_embeddings": settings.get("tie_embeddings", True),
        "use_bias": False,
        "use_conv_bias": True,
    }
    if layer == "Mamba1":
        known: Any = MambaConfig(**common, state_size=ssm.pop("d_state", 16))
    elif layer == "Mamba2":
        head = ssm.pop("headdim", 64)
        known = Mamba2Config(
            **common,
            state_size=ssm.pop("d_state", 128),
            head_dim=head,
            num_heads=expand * width // head,
            n_groups=ssm.pop("ngroups", 1),
        )
    else:
        raise DataError(f"layers of kind {layer} cannot be read; Mamba1 and Mamba2 can")
    if ssm:
        raise DataError(f"ssm_cfg has settings that cannot be followed: {', '.join(sorted(ssm))}")
    return known


def load_state_spaces(path: str, dtype: torch.dtype, *, pickled: bool) -> Any:
    """The model of a folder or hub name in this form, as transformers has it.

    Args:
        path: folder or hub name.
        dtype: of the weights.
        pickled: whether weights in PyTorch's own format may be read; tensors alone are taken from them.

    Raises:
        DataError: it cannot be followed, or its tensors do not fit.
        OSError: there are no weights of the formats that may be read.
    """
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    config = transformers_config(json.loads(Path(_file(path, CONFIG)).read_text(encoding="utf-8")))
    try:
        tensors = load_file(_file(path, WEIGHTS[0]))
    except OSError:
        if not pickled:
            raise OSError(f"it has no {WEIGHTS[0]}, and only safetensors are read") from None
        tensors = torch.load(_file(path, WEIGHTS[1]), map_location="cpu", weights_only=True, mmap=True)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    missing, unknown = model.load_state_dict({PARTS.get(n, n): t for n, t in tensors.items()}, strict=False)
    missing = [name for name in missing if not (name == "lm_head.weight" and config.tie_word_embeddings)]
    if missing or unknown:
        odd = missing[0] if missing else unknown[0]
        raise DataError(
            f"language.path '{path}': {len(missing)} tensors are missing and {len(unknown)} unknown (e.g. {odd})"
        )
    return model
