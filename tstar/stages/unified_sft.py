"""Joint image and video instruction tuning of the unified protocol (stage B)."""

from tstar.stages.base import Stage


class UnifiedSFT(Stage):
    """Compressor and language model learn from conversations about pictures and videos together."""

    trains = frozenset({"compressor", "language"})
