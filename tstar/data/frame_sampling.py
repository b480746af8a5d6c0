"""Which frames of a video are looked at: uniform in time, at a target rate, never more than a cap.

The rule (paper section 3.1; end point excluded): ``m = ceil(d * fps)``, ``M = min(m, max_frames)``, ``t_j = j * d / M``, and
the frame nearest to ``t_j``. Rounding is half to even, as numpy's. MVBench's own rule, middles of equal segments of a
window, is there too.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tstar.errors import ConfigError, DataError

Window = tuple[float, float]
"""From where to where a video is looked at, seconds from its start."""


class FrameChoice(Protocol):
    """A rule that says which frames of a video are looked at."""

    def choose(self, starts: np.ndarray, duration: float, window: Window | None = None, first: int = 0) -> np.ndarray:
        """Places of the frames, 0 to n - 1, in order of time; one may come twice.

        Args:
            starts: presentation time of every frame in seconds, rising, [n].
            duration: seconds from the first frame's start to the last one's end.
            window: where to look; None is everywhere.
            first: number that the first frame goes by; pictures in folders often begin with 1.
        """
        ...


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

    def choose(self, starts: np.ndarray, duration: float, window: Window | None = None, first: int = 0) -> np.ndarray:
        """Frames by the rule above, of a window's own seconds where there is one; see :class:`FrameChoice`.

        Raises:
            DataError: the window begins behind the video's end.
        """
        if window is None:
            return nearest_frames(self.times(duration), starts)
        begin, end = inside(window, duration)
        chosen = nearest_frames(begin + self.times(end - begin), starts)
        shown = starts - starts[0]
        within = np.flatnonzero((shown >= begin - 1e-6) & (shown <= end + 1e-6))
        return chosen.clip(within[0], within[-1]) if len(within) else chosen


@dataclass(frozen=True)
class SegmentMiddles:
    """MVBench's own rule: the middles of so many equal segments, however short the video is."""

    count: int

    def choose(self, starts: np.ndarray, duration: float, window: Window | None = None, first: int = 0) -> np.ndarray:
        """Frames by :func:`segment_indices`; see :class:`FrameChoice`."""
        rate = len(starts) / duration if duration else 1.0
        return segment_indices(first, first + len(starts) - 1, rate, window, self.count) - first


@dataclass(frozen=True)
class MiddleFrame:
    """The one in the middle of those that another rule chooses."""

    of: FrameChoice

    def choose(self, starts: np.ndarray, duration: float, window: Window | None = None, first: int = 0) -> np.ndarray:
        """One frame's place, [1]; see :class:`FrameChoice`."""
        chosen = self.of.choose(starts, duration, window, first)
        return chosen[len(chosen) // 2 :][:1]


def inside(window: Window, duration: float) -> Window:
    """The part of a window that lies in a video of ``duration`` seconds; DataError if there is none."""
    begin, end = max(window[0], 0.0), min(window[1], duration)
    if begin > end or begin >= duration:
        raise DataError(f"the question is about {window[0]:g} s to {window[1]:g} s of a video of {duration:.1f} s")
    return begin, end


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


def segment_indices(first: int, last: int, fps: float, window: tuple[float, float] | None, count: int) -> np.ndarray:
    """MVBench's frames: the middles of ``count`` equal segments of a window, each rounded as its own scorer rounds.

    Args:
        first: number of the first frame: 0 in a video, 1 in that benchmark's folders of frames.
        last: number of the last frame.
        fps: frames a second.
        window: seconds from the start, cut to what there is; None is all of it.
        count: segments, 1 or more.

    Returns:
        Frame numbers from ``first`` to ``last``, [count]; where the window has fewer frames, some repeat.

    Raises:
        DataError: the window lies outside of the video.
    """
    if count < 1 or not 0 < fps < math.inf:
        raise ConfigError(f"segments need a count of 1 or more and an fps above 0, got {count} and {fps}")
    start, end = first, last
    if window is not None:
        start, end = max(first, round(window[0] * fps)), min(round(window[1] * fps), last)
    segment = (end - start) / count
    indices = (start + segment / 2 + np.rint(segment * np.arange(count))).astype(np.int64)
    if indices.min() < first or indices.max() > last:
        seconds = "" if window is None else f" from {window[0]:g} s to {window[1]:g} s"
        raise DataError(f"no window{seconds} in a video with frames {first} to {last} at {fps:g} a second")
    return indices
