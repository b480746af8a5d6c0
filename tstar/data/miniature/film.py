"""What a video consists of, before a pixel is drawn; all times are frames, all lengths pixels.

A film is a row of shots, perhaps an anomaly, and needles on top. Times of shots and anomaly count without inserted
pictures; a needle's start is a frame of the finished video.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from tstar.data.miniature.words import Look


@dataclass(frozen=True, kw_only=True)
class Actor:
    """A shape that moves through a shot."""

    shape: str
    colour: str
    radius: int
    x: float
    y: float
    """Centre on the shot's first frame."""
    direction: str = ""
    """A key of DIRECTIONS, or empty for an actor that stays where it is."""
    speed: float = 0.0
    """Pixels a frame at the start of the shot."""
    end_speed: float | None = None
    """Pixels a frame at its end; None: the same."""
    action: str = ""
    """One of ACTIONS, or empty."""
    shown: tuple[tuple[int, int], ...] = ()
    """Half-open frame intervals in which it is visible; empty: always."""
    end_colour: str = ""
    """The colour it has in the second half of the shot."""
    end_radius: int = 0
    """The radius it reaches over the shot; 0: the same."""

    @property
    def look(self) -> Look:
        return self.colour, self.shape


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One scene between two cuts."""

    frames: int
    texture: str
    palette: str
    actors: tuple[Actor, ...]
    drift: tuple[float, float] = (0.0, 0.0)
    """Movement of the background, pixels a frame."""
    sway: float = 0.0
    """Amplitude of the camera's slow swaying, pixels."""
    light: tuple[float, float] = (1.0, 1.0)
    """Brightness at the shot's start and end."""
    specks: int = 0
    """Small grey dots that wander about and mean nothing."""
    seed: int = 0
    """Seed of texture phase and specks."""


@dataclass(frozen=True, kw_only=True)
class Needle:
    """Something hidden in a film: a subtitle or pasted pictures over its frames, or a picture cut in between them."""

    kind: Literal["subtitle", "paste", "insert"]
    word: str
    start: int
    frames: int
    spots: tuple[tuple[int, int], ...] = ()
    """Upper left corners of pasted pictures."""
    variant: int = 0
    """Which of the looks of an inserted picture (see icons.picture)."""


@dataclass(frozen=True, kw_only=True)
class Film:
    """A whole video."""

    kind: str
    shots: tuple[Shot, ...]
    needles: tuple[Needle, ...] = ()
    anomaly: tuple[str, int, int] | None = None
    """(what, first frame, frames)."""
    reverse: bool = False
    """Played backwards (only films without needles)."""
    source: str = ""
    """File name of the user's video that stands in for the shots."""
    source_frames: int = 0

    @property
    def base_frames(self) -> int:
        """Frames without inserted pictures."""
        return self.source_frames or sum(shot.frames for shot in self.shots)

    @property
    def frames(self) -> int:
        """Frames of the finished video."""
        return self.base_frames + sum(needle.frames for needle in self.needles if needle.kind == "insert")

    def to_json(self) -> dict[str, Any]:
        """The ground truth, as scenes.jsonl stores it."""
        return {"frames": self.frames, **dataclasses.asdict(self)}
