"""Image instruction tuning of the language model with the two-layer projector, before a compressor exists (stage I)."""

from typing import ClassVar

from tstar.stages.base import Stage


class ImageSFT(Stage):
    """Projector and language model learn from conversations about pictures; every patch token is kept."""

    trains = frozenset({"compressor", "language"})
    fixed_compressor: ClassVar = {"name": "none"}
