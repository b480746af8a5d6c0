"""Video instruction tuning, the last step of the two-stage protocol (stage V)."""

from tstar.stages.base import Stage


class VideoSFT(Stage):
    """Compressor and language model learn from conversations about videos."""

    trains = frozenset({"compressor", "language"})
