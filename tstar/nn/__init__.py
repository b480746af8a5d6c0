"""Building blocks that compressors share."""

from tstar.nn.gated_patch_aggregation import GatedPatchAggregation
from tstar.nn.mamba import BidirectionalMambaMixer, MambaMixer
from tstar.nn.mamba2 import BidirectionalMamba2Mixer, Mamba2Mixer
from tstar.nn.mamba_parts import MixerState
from tstar.nn.norms import RMSNorm

__all__ = [
    "BidirectionalMamba2Mixer",
    "BidirectionalMambaMixer",
    "GatedPatchAggregation",
    "Mamba2Mixer",
    "MambaMixer",
    "MixerState",
    "RMSNorm",
]
