"""Subtitles: white block letters in a grey box across the lower part of a frame.

The letters are drawn here, five dots wide and seven high, so that no font file or Pillow version changes the bytes.
"""

from functools import lru_cache

import numpy as np

from tstar.data.miniature.config import SIZE

_GLYPHS = {  # seven rows of five dots each, as numbers 0-31
    "A": (14, 17, 17, 31, 17, 17, 17),
    "B": (30, 17, 17, 30, 17, 17, 30),
    "C": (14, 17, 16, 16, 16, 17, 14),
    "D": (30, 17, 17, 17, 17, 17, 30),
    "E": (31, 16, 16, 30, 16, 16, 31),
    "F": (31, 16, 16, 30, 16, 16, 16),
    "G": (14, 17, 16, 23, 17, 17, 14),
    "H": (17, 17, 17, 31, 17, 17, 17),
    "I": (14, 4, 4, 4, 4, 4, 14),
    "L": (16, 16, 16, 16, 16, 16, 31),
    "O": (14, 17, 17, 17, 17, 17, 14),
    "R": (30, 17, 17, 30, 20, 18, 17),
    "S": (15, 16, 16, 14, 1, 1, 30),
    "T": (31, 4, 4, 4, 4, 4, 4),
    "V": (17, 17, 17, 17, 17, 10, 4),
    "W": (17, 17, 17, 21, 21, 27, 17),
    "Y": (17, 17, 10, 4, 4, 4, 4),
    "Z": (31, 1, 2, 4, 8, 16, 31),
    " ": (0, 0, 0, 0, 0, 0, 0),
}
_BOX = (96, 96, 96)


def _line(text: str, scale: int) -> np.ndarray:
    """A line of text as a mask [7 * scale, W] of 0 and 1."""
    columns: list[np.ndarray] = []
    for letter in text.upper():
        rows = np.array(_GLYPHS[letter], dtype=np.uint8)[:, None]
        columns += [(rows >> np.arange(4, -1, -1)) & 1, np.zeros((7, 1), dtype=np.uint8)]
    return np.kron(np.hstack(columns[:-1]), np.ones((scale, scale), dtype=np.uint8))


@lru_cache(maxsize=64)
def subtitle_box(word: str) -> np.ndarray:
    """The box with "SECRET WORD" (small) and the word (14 pixels high), [30, SIZE - 8, 3] (uint8)."""
    width = SIZE - 8
    box = np.empty((30, width, 3), dtype=np.uint8)
    box[:] = _BOX
    for text, scale, top in (("SECRET WORD", 1, 3), (word, 2, 13)):
        mask = _line(text, scale).astype(bool)
        left = (width - mask.shape[1]) // 2
        box[top : top + mask.shape[0], left : left + mask.shape[1]][mask] = 255
    return box


def draw_subtitle(pixels: np.ndarray, word: str) -> None:
    """Write the subtitle onto a frame [SIZE, SIZE, 3] in place."""
    box = subtitle_box(word)
    pixels[SIZE - 3 - box.shape[0] : SIZE - 3, 4 : SIZE - 4] = box
