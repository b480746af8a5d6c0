"""The language models of the published results: where each is found, and its architecture, known without downloading anything."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tstar.errors import ConfigError, DataError

_LLAMA_7B = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
_QWEN2_7B = {
    "model_type": "qwen2",
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
}


@dataclass(frozen=True)
class Backbone:
    """A published language model."""

    hub: str
    """Name on the Hugging Face hub."""
    parameters: int
    """How many it has, tied ones once."""
    config: dict[str, Any]
    """Its architecture, as in its ``config.json``."""


BACKBONES: dict[str, Backbone] = {
    "phi3_mini": Backbone(
        "microsoft/Phi-3-mini-4k-instruct",
        3_821_079_552,
        {
            "model_type": "phi3",
            "vocab_size": 32064,
            "hidden_size": 3072,
            "intermediate_size": 8192,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 4096,
            "original_max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "sliding_window": 2047,
            "tie_word_embeddings": False,
            "bos_token_id": 1,
            "eos_token_id": 32000,
            "pad_token_id": 32000,
        },
    ),
    "vicuna_7b": Backbone("lmsys/vicuna-7b-v1.5", 6_738_415_616, _LLAMA_7B),
    "vicuna_13b": Backbone(
        "lmsys/vicuna-13b-v1.5",
        13_015_864_320,
        {
            **_LLAMA_7B,
            "hidden_size": 5120,
            "intermediate_size": 13824,
            "num_hidden_layers": 40,
            "num_attention_heads": 40,
            "num_key_value_heads": 40,
        },
    ),
    "qwen2_7b": Backbone("Qwen/Qwen2-7B-Instruct", 7_615_616_512, _QWEN2_7B),
    "qwen2_5_7b": Backbone("Qwen/Qwen2.5-7B-Instruct", 7_615_616_512, _QWEN2_7B),
    "pythia_2_8b": Backbone(
        "EleutherAI/pythia-2.8b",
        2_775_208_960,
        {
            "model_type": "gpt_neox",
            "vocab_size": 50304,
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "max_position_embeddings": 2048,
            "rotary_pct": 0.25,
            "rotary_emb_base": 10000,
            "layer_norm_eps": 1e-5,
            "use_parallel_residual": True,
            "tie_word_embeddings": False,
        },
    ),
    "mamba_2_8b": Backbone(
        "state-spaces/mamba-2.8b-hf",
        2_768_345_600,
        {
            "model_type": "mamba",
            "vocab_size": 50280,
            "hidden_size": 2560,
            "intermediate_size": 5120,
            "num_hidden_layers": 64,
            "state_size": 16,
            "conv_kernel": 4,
            "expand": 2,
            "time_step_rank": 160,
            "use_bias": False,
            "use_conv_bias": True,
            "tie_word_embeddings": True,
        },
    ),
    "mamba2_2_7b": Backbone(
        "state-spaces/mamba2-2.7b",
        2_702_599_680,
        {
            "model_type": "mamba2",
            "vocab_size": 50288,
            "hidden_size": 2560,
            "num_hidden_layers": 64,
            "num_heads": 80,
            "head_dim": 64,
            "state_size": 128,
            "n_groups": 1,
            "conv_kernel": 4,
            "expand": 2,
            "use_bias": False,
            "use_conv_bias": True,
            "tie_word_embeddings": True,
        },
    ),
    "smollm2_135m": Backbone(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        134_515_008,
        {
            "model_type": "llama",
            "vocab_size": 49152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "rope_theta": 100000.0,
            "tie_word_embeddings": True,
        },
    ),
}


def architecture(path: str) -> Any:
    """The transformers configuration of a model; nothing is downloaded for one of :data:`BACKBONES`.

    Args:
        path: a folder in Hugging Face layout, or a hub name.

    Raises:
        DataError: it cannot be read.
    """
    from transformers import AutoConfig

    known = next((b for b in BACKBONES.values() if b.hub == path), None)
    if known is not None:
        settings = dict(known.config)
        return AutoConfig.for_model(settings.pop("model_type"), **settings)
    local = Path(path).is_dir()
    try:
        return AutoConfig.from_pretrained(path, local_files_only=local, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"cannot read the architecture of language.path '{path}': {' '.join(str(error).split())[:300]}"
        ) from error


def skeleton(path: str, dtype: str = "float32") -> Any:
    """The model of that architecture on torch's meta device: every shape, no memory.

    Raises:
        DataError: the architecture cannot be read.
        ConfigError: it is of no causal language model.
    """
    return _from_architecture(path, dtype, None, "meta")


def with_random_weights(path: str, dtype: str = "float32", attention: str | None = None, device: str = "cpu") -> Any:
    """The model of that architecture with weights as transformers draws them, from torch's seed; errors as of :func:`skeleton`.

    Args:
        path: a folder in Hugging Face layout, or a hub name; no weights are looked for.
        dtype: of the weights.
        attention: implementation, as transformers names it; default its own choice.
        device: where the weights are drawn.
    """
    return _from_architecture(path, dtype, attention, device)


def _from_architecture(path: str, dtype: str, attention: str | None, device: str) -> Any:
    from transformers import AutoModelForCausalLM

    config = architecture(path)
    extra = {"attn_implementation": attention} if attention else {}
    try:
        with torch.device(device):
            return AutoModelForCausalLM.from_config(
                config, dtype=getattr(torch, dtype), trust_remote_code=False, **extra
            )
    except ValueError as error:
        if attention and "attention" in str(error):
            raise ConfigError(
                f"language.attention '{attention}' cannot be used: {' '.join(str(error).split())[:300]}"
            ) from error
        raise ConfigError(f"language.path '{path}' is a {config.model_type}, no causal language model") from error
