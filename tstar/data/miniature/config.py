"""How large the miniature world is, and the few numbers everything in it shares."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tstar.errors import ConfigError

VERSION = 4
"""Goes up whenever the same config would give other bytes."""
SIZE = 96
"""Height and width of every frame and image, in pixels."""
FPS = 8
NEEDLE_FRAMES = 8
"""One needle lasts one second."""


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """Seed and size of a world; every item has its own seed, so a count never changes the other items."""

    seed: int = 0
    """Everything in the world follows from it."""
    images: int = 8000
    """Training images (captions and questions)."""
    videos: int = 6000
    """Training videos, 3-26 s."""
    val_videos: int = 24
    """Videos for the validation loss, from the held-out scenes."""
    haystacks: int = 10
    """mini-vnbench: haystack videos; each becomes 9 videos with 4 tries."""
    mlvu: int = 20
    """mini-mlvu: videos for each of the 5 tasks, one question each."""
    videomme: int = 12
    """mini-videomme: videos for each of the 3 durations, three questions each."""
    tempcompass: int = 8
    """mini-tempcompass: groups of 10 clips and 18 questions."""
    haystack_dir: Path | None = None
    """A folder of your own videos to hide mini-vnbench's needles in; None: generated haystacks."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in ("seed", "haystack_dir") and value < 0:
                raise ConfigError(f"{field.name} must be 0 or more, got {value}")
        if self.haystack_dir is not None and not Path(self.haystack_dir).is_dir():
            raise ConfigError(f"haystack_dir must be a folder of videos, got {self.haystack_dir}")

    def to_json(self) -> dict[str, Any]:
        """The config as world.json stores it."""
        values = dataclasses.asdict(self)
        if self.haystack_dir is not None:
            values["haystack_dir"] = str(self.haystack_dir)
        return values


SCALES = {
    "default": WorldConfig(),
    "tiny": WorldConfig(images=24, videos=16, val_videos=4, haystacks=1, mlvu=1, videomme=1, tempcompass=1),
}
