"""tstar: train, compare, measure and use video-token compressors for multimodal language models."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tstar.language import VideoLMM

__version__ = version("tstar")
__all__ = ["VideoLMM", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "VideoLMM":  # on demand: `tstar --help` must not pay for torch
        from tstar.language import VideoLMM

        return VideoLMM
    raise AttributeError(f"module 'tstar' has no attribute '{name}'")
