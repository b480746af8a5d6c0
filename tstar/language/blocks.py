"""The layers of a language model, as what is compiled or spread over devices one by one."""

from torch import nn

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
        f"{type(model).__name__} does not keep its {number} layers in one list, so they can be neither compiled nor sharded; "
        "set run.compile to false and trainer.strategy to ddp"
    )


def compile_blocks(model: nn.Module) -> None:
    """Compile each layer in place when it is first used; names of parameters stay."""
    for block in language_blocks(model):
        block.compile(dynamic=True)
