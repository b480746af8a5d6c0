"""Which frames of a video are looked at: uniform in time, at a target rate, never more than a cap.

The rule (paper section 3.1; end point excluded): ``m = ceil(d * fps)``, ``M = min(m, max_frames)``, ``t_j = j * d / M``, and
the frame nearest to ``t_j``. Rounding is half to even, as numpy's.
"""

import math
from dataclasses import dataclass

import numpy as np

from tstar.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class FrameSampling:
    """How densely a video is sampled."""

    fps: float = 10.0
    """Frames a second, as long as the cap is not reached."""
    max_frames: int = 128
    """Upper bound on the frames of one video; the rate drops for videos longer than ``max_frames / fps`` seconds."""

    def __post_init__(self) -> None:
        if not 0 < self.fps < math.inf:
            raise ConfigError(f"fps must be a number above 0, got {self.fps}")
        if self.max_frames < 1:
            raise ConfigError(f"max_frames must be at least 1, got {self.max_frames}")

    def count(self, duration: float) -> int:
        """Frames taken from a video of ``duration`` seconds: 1 to ``max_frames``."""
        # the tolerance keeps 3 s x 10 fps at 30 frames when the duration arrives as 3.0000000004
        return max(1, min(math.ceil(duration * self.fps - 1e-6), self.max_frames))

    def times(self, duration: float) -> np.ndarray:
        """Seconds at which frames are taken, [M], from 0 to below ``duration``."""
        count = self.count(duration)
        return np.arange(count) * (duration / count)


def nearest_frames(times: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Index of the frame nearest to each time.

    Args:
        times: seconds from the start of the video, [M].
        starts: presentation time of every frame in seconds, rising, [n]; any frame rate, also a variable one.

    Returns:
        Frame numbers from 0 to n - 1, [M]; for a constant rate f this is ``min(round(t * f), n - 1)``.
    """
    position = np.interp(times, starts - starts[0], np.arange(len(starts)))
    # nine digits are finer than any time base and hide the interpolation's own rounding, so that ties stay ties
    return np.rint(np.round(position, 9)).astype(np.int64)
