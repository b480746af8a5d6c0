"""The layers of a language model, as what is compiled, spread over devices or computed again one by one."""

import warnings
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tstar.errors import ConfigError


def language_blocks(model: nn.Module) -> list[nn.Module]:
    """The layers of a Hugging Face causal language model in order.

    Args:
        model: with its sizes in ``config.num_hidden_layers``.

    Raises:
        ConfigError: it has no list of so many layers.
    """
    number = getattr(model.config, "num_hidden_layers", 0)
    for module in model.modules():  # outermost first
        if isinstance(module, nn.ModuleList) and len(module) == number:
            return list(module)
    raise ConfigError(
        f"{type(model).__name__} does not keep its {number} layers in one list, so they can be neither compiled nor sharded "
        "nor computed again; set run.compile and language.gradient_checkpointing to false and trainer.strategy to ddp"
    )


def compile_blocks(model: nn.Module) -> None:
    """Compile each layer in place when it is first used; names of parameters stay."""
    for block in language_blocks(model):
        block.compile(dynamic=True)


def checkpoint_blocks(model: Any) -> None:
    """Let each layer be computed again in the backward pass instead of keeping its insides, in place.

    transformers does so in training mode only. A frozen model is not in it, and yet a gradient passes through all of its layers to
    what speaks to it: there it is done here.
    """
    with warnings.catch_warnings():  # of the method's name in later versions
        warnings.simplefilter("ignore")
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if hasattr(
        model, "_require_grads_hook"
    ):  # reentrant checkpoints need it; here text embeddings would get idle gradients
        model.disable_input_require_grads()
    for block in language_blocks(model):
        module: Any = block
        module.forward = partial(_run_block, module)


def _run_block(block: Any, *args: Any, **kwargs: Any) -> Any:
    run = partial(type(block).forward, block)  # looked up anew: what slices a layer gives it another class
    if block.training or not torch.is_grad_enabled():
        return run(*args, **kwargs)
    # nothing is drawn in eval mode
    return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
