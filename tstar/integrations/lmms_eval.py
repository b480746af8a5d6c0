"""tstar as a model of lmms-eval, found by its entry point; works only where that package is installed.

``lmms-eval --model tstar --model_args checkpoint=runs/NAME,frames=128 --tasks ...``; see docs/harnesses.md.
"""

from typing import Any

from tstar.errors import ConfigError

CLASS = "tstar.integrations.lmms_eval.TstarChat"


def manifest() -> Any:
    """What lmms-eval's registry of models is given."""
    try:
        from lmms_eval.models.registry_v2 import ModelManifest
    except ImportError as error:
        raise missing(error) from error
    return ModelManifest(model_id="tstar", chat_class_path=CLASS, aliases=("tstar_chat",))


def missing(error: ImportError) -> ConfigError:
    """What to say where the harness cannot be imported."""
    return ConfigError(f"tstar.integrations.lmms_eval needs lmms-eval 0.7 ({error}); pip install lmms-eval")


def __getattr__(name: str) -> Any:
    if name == "TstarChat":  # its base class is the harness's
        try:
            import lmms_eval.api.model  # noqa: F401 - before anything that takes time

            from tstar.integrations.lmms_eval_chat import TstarChat
        except ImportError as error:
            raise missing(error) from error
        return TstarChat
    raise AttributeError(f"module 'tstar.integrations.lmms_eval' has no attribute '{name}'")
