"""tstar as a model of VLMEvalKit, put there by :func:`register`; works only where that package is installed.

See docs/harnesses.md for how its ``run.py`` is started.
"""

from functools import partial
from typing import Any

from tstar.errors import ConfigError


def register(name: str = "tstar", **settings: Any) -> None:
    """Let VLMEvalKit know a checkpoint as ``name``, and the class by its name in configs.

    Args:
        name: what ``--model`` is given.
        settings: of :class:`tstar.integrations.vlmeval_model.TstarVLMEval`; without ``checkpoint`` only the class is put there.

    Raises:
        ConfigError: the package is not there.
    """
    try:
        import vlmeval.vlm
        from vlmeval.config import supported_VLM
    except ImportError as error:
        raise missing(error) from error
    from tstar.integrations.vlmeval_model import TstarVLMEval

    vlmeval.vlm.TstarVLMEval = TstarVLMEval
    if "checkpoint" in settings:
        supported_VLM[name] = partial(TstarVLMEval, **settings)
    elif settings:
        raise ConfigError(f"register: {', '.join(settings)} without a checkpoint; add checkpoint=PATH")


def missing(error: ImportError) -> ConfigError:
    """What to say where the kit cannot be imported."""
    return ConfigError(f"tstar.integrations.vlmeval needs VLMEvalKit ({error}); install it from its repository")


def __getattr__(name: str) -> Any:
    if name == "TstarVLMEval":  # its base class is the kit's
        try:
            import vlmeval.vlm.base  # noqa: F401 - before anything that takes time

            from tstar.integrations.vlmeval_model import TstarVLMEval
        except ImportError as error:
            raise missing(error) from error
        return TstarVLMEval
    raise AttributeError(f"module 'tstar.integrations.vlmeval' has no attribute '{name}'")
