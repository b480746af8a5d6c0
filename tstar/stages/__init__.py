"""Training stages, a LightningModule each."""

from tstar.stages.align import Align, AlignProjector
from tstar.stages.base import Stage
from tstar.stages.fully_sharded import FullySharded
from tstar.stages.image_sft import ImageSFT
from tstar.stages.optimizers import OptimizerConfig
from tstar.stages.unified_sft import UnifiedSFT
from tstar.stages.video_sft import VideoSFT

__all__ = ["Align", "AlignProjector", "FullySharded", "ImageSFT", "OptimizerConfig", "Stage", "UnifiedSFT", "VideoSFT"]
