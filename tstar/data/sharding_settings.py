"""How shards are made; apart from the making, so that the command can show its options without loading it."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from tstar.data.frame_sampling import FrameSampling
from tstar.errors import ConfigError

CODECS = {"jpeg": "jpg", "webp": "webp"}
"""Codecs of stored frames and their file endings."""
DECODER_NAMES = ("auto", "decord", "pyav", "torchcodec")


MOST_FRAMES = 65_534
"""Of one sample: the index counts its files in 16 bits."""


@dataclass(frozen=True, kw_only=True)
class ShardSettings:
    """Sampling and coding of a set of shards."""

    fps: float = 10.0
    max_frames: int = 128
    short_side: int = 384
    codec: str = "jpeg"
    quality: int = 90
    samples_per_shard: int = 512
    decoder: str = "auto"
    share_frames: bool = True

    def identity(self) -> dict[str, Any]:
        """What shards follow from; sharing, which came later, only where it is off."""
        return {name: value for name, value in asdict(self).items() if name != "share_frames" or not value}

    HELP: ClassVar[dict[str, str]] = {
        "fps": "frames a second taken from a video",
        "max_frames": "most frames of one video; the rate drops for longer ones",
        "short_side": "frames are shrunk until their short side is at most so many pixels, 0 keeps them",
        "codec": "of the stored frames, jpeg or webp",
        "quality": "of the stored frames, 1 to 100",
        "samples_per_shard": "samples in one tar",
        "decoder": "auto, decord, pyav or torchcodec (when installed)",
        "share_frames": "store the frames of a video once in a shard for all that is asked about it; false repeats them",
    }

    def __post_init__(self) -> None:
        FrameSampling(fps=self.fps, max_frames=self.max_frames)
        if self.max_frames > MOST_FRAMES:
            raise ConfigError(f"max_frames must be at most {MOST_FRAMES}, got {self.max_frames}")
        if self.short_side < 0:
            raise ConfigError(f"short_side must be 0 (keep the size) or more, got {self.short_side}")
        if self.codec not in CODECS:
            raise ConfigError(f"codec must be one of {', '.join(CODECS)}, got '{self.codec}'")
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"quality must be 1 to 100, got {self.quality}")
        if self.samples_per_shard < 1:
            raise ConfigError(f"samples_per_shard must be at least 1, got {self.samples_per_shard}")
        if self.decoder not in DECODER_NAMES:
            raise ConfigError(f"decoder must be one of {', '.join(DECODER_NAMES)}, got '{self.decoder}'")
