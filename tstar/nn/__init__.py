"""Building blocks that compressors share."""

from tstar.nn.gated_patch_aggregation import GatedPatchAggregation
from tstar.nn.mamba import BidirectionalMambaMixer, MambaMixer
from tstar.nn.norms import RMSNorm

__all__ = ["BidirectionalMambaMixer", "GatedPatchAggregation", "MambaMixer", "RMSNorm"]
