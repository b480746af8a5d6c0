"""Language models that read visual tokens."""

from tstar.language.hf_causal_lm import HFCausalLM, LanguageConfig
from tstar.language.splice import Spliced, splice
from tstar.language.video_lmm import VideoLMM

__all__ = ["HFCausalLM", "LanguageConfig", "Spliced", "VideoLMM", "splice"]
