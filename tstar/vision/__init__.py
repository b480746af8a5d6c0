"""Frozen vision encoders: frames to patch tokens."""

from tstar.vision.base import VisionEncoder
from tstar.vision.open_clip_tower import OpenClipTower, VisionConfig

__all__ = ["OpenClipTower", "VisionConfig", "VisionEncoder"]
