"""Perceptual hashes: what stays of a frame when it is scaled and encoded again.

A difference hash (Krawetz, "Kind of Like That", 2013) in both directions: the frame's brightness, averaged down to a coarse grid,
and for every cell whether it is brighter than its neighbour. Beside it the frame's colours on a still coarser grid. A difference
of less than :data:`MARGIN` is noise of the codec and counts as none, so plain areas give zeros and not chance.
Letters: M frames.
"""

from collections.abc import Iterable

import numpy as np
from PIL import Image

SIDE, COLOUR_SIDE = 8, 4
BITS = 2 * SIDE * SIDE
MARGIN = 3
"""Levels of brightness, of 255."""
FRAME = np.dtype([("bits", "u1", (BITS // 8,)), ("colours", "u1", (COLOUR_SIDE, COLOUR_SIDE, 3))])
"""What is kept of one frame."""


def hash_frames(frames: Iterable[np.ndarray]) -> np.ndarray:
    """Hashes of frames.

    Args:
        frames: uint8 RGB, [height, width, 3] each; sizes may differ.

    Returns:
        An array of :data:`FRAME`, [M].
    """
    return np.array([_hash(frame) for frame in frames], dtype=FRAME)


def detail(hashes: np.ndarray) -> np.ndarray:
    """How many bits of each hash are set, [M]: a frame with few shows hardly anything, and is like any other such frame."""
    return np.unpackbits(hashes["bits"], axis=1).sum(axis=1, dtype=np.int64)


def _hash(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    picture = Image.fromarray(frame)
    grey = picture.convert("L")
    across = _shrunk(grey, SIDE + 1, SIDE)
    down = _shrunk(grey, SIDE, SIDE + 1)
    bits = np.concatenate([np.diff(across, axis=1).ravel(), np.diff(down, axis=0).ravel()]) >= MARGIN
    return np.packbits(bits), _shrunk(picture, COLOUR_SIDE, COLOUR_SIDE).astype(np.uint8)


def _shrunk(picture: Image.Image, width: int, height: int) -> np.ndarray:
    """Averages over the cells of a grid, whatever the picture's shape."""
    return np.asarray(picture.resize((width, height), Image.Resampling.BOX), dtype=np.int16)
