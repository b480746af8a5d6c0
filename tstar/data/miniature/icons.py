"""Needle pictures: fruits, landmarks and everyday objects as simple icons, each with a form and a colour of its own.

Every icon is a list of strokes in a 24 x 24 box: ``("o", colour, x0, y0, x1, y1)`` ellipse, ``("r", …)`` rectangle,
``("p", colour, x0, y0, x1, y1, x2, y2, …)`` polygon, ``("l", colour, width, x0, y0, x1, y1, …)`` line,
``("c", colour, width, x0, y0, x1, y1, from, to)`` arc with angles in degrees.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from tstar.data.miniature.config import SIZE
from tstar.data.miniature.words import FRUITS, LANDMARKS

PASTE = 20
"""Height and width of a pasted picture, in pixels."""
VARIANTS = 16
"""Ways in which the full-frame picture of a word can look."""
_STEM, _LEAF, _DARK = "#6b4423", "#2e9e3a", "#222222"

_FRUIT_STROKES: dict[str, list[tuple[Any, ...]]] = {
    "banana": [("c", "#f5d21f", 5, 3, -6, 23, 19, 20, 150), ("o", _STEM, 19, 8, 22, 11), ("o", _STEM, 2, 12, 5, 15)],
    "orange": [("o", "#ff8c00", 3, 4, 21, 22), ("o", "#d96f00", 11, 5, 13, 7), ("p", _LEAF, 12, 5, 18, 0, 19, 4)],
    "strawberry": [
        ("p", "#e3173e", 3, 7, 21, 7, 19, 14, 12, 23, 5, 14),
        ("p", _LEAF, 3, 7, 7, 3, 12, 6, 17, 3, 21, 7, 12, 10),
        *[
            ("o", "#ffe9a8", x, y, x + 1.2, y + 1.6)
            for x, y in ((7, 12), (11, 12), (15, 12), (9, 16), (13, 16), (11, 19))
        ],
    ],
    "coconut": [
        ("o", "#6b3f1d", 2, 2, 22, 22),
        *[("o", "#24140a", x, y, x + 3, y + 3) for x, y in ((7, 6), (14, 6), (10.5, 11))],
    ],
    "lemon": [
        ("o", "#fff04a", 3, 6, 21, 19),
        ("p", "#fff04a", 0, 12.5, 5, 9, 5, 16),
        ("p", "#fff04a", 24, 12.5, 19, 9, 19, 16),
    ],
    "apple": [
        ("o", "#c8102e", 2, 6, 14, 22),
        ("o", "#c8102e", 10, 6, 22, 22),
        ("l", _STEM, 1.5, 12, 8, 13, 2),
        ("p", _LEAF, 13, 4, 19, 1, 18, 5),
    ],
    "pear": [("o", "#a8c62c", 4, 9, 20, 23), ("o", "#a8c62c", 8, 3, 16, 14), ("l", _STEM, 1.5, 12, 4, 13, 0)],
    "mango": [
        ("p", "#ff7a2a", 3, 16, 5, 9, 12, 4, 19, 5, 22, 10, 19, 17, 12, 21, 6, 20),
        ("o", "#e8433a", 12, 5, 21, 14),
        ("p", _LEAF, 18, 5, 23, 1, 22, 7),
    ],
    "grapes": [
        *[("o", "#6f2da8", x, y, x + 6, y + 6) for x, y in ((3, 5), (9, 5), (15, 5), (6, 10), (12, 10), (9, 15))],
        ("l", _STEM, 1.5, 12, 6, 13, 1),
        ("p", _LEAF, 13, 4, 20, 0, 20, 5),
    ],
    "blueberry": [("o", "#3b5bdb", 2, 3, 22, 23), ("p", "#1b2a7a", 8, 7, 12, 10, 16, 7, 14.5, 13, 9.5, 13)],
    "kiwifruit": [
        ("o", "#7a5a2f", 1, 2, 23, 22),
        ("o", "#7ccf3a", 3, 4, 21, 20),
        ("o", "#f3f7d4", 9, 9, 15, 15),
        *[
            ("o", _DARK, x, y, x + 1.5, y + 1.5)
            for x, y in ((7, 8), (15.5, 8), (7, 14), (15.5, 14), (11.2, 6), (11.2, 16.5))
        ],
    ],
    "peach": [
        ("o", "#ffb38a", 2, 4, 22, 22),
        ("o", "#ff8f8f", 11, 5, 22, 20),
        ("l", "#d9604f", 1, 12, 5, 11, 13),
        ("p", _LEAF, 12, 5, 4, 0, 5, 5),
    ],
}
_LANDMARK_STROKES: dict[str, list[tuple[Any, ...]]] = {
    "Eiffel Tower": [
        ("p", "#5a5148", 11.5, 1, 12.5, 1, 14, 12, 20, 23, 16, 23, 12, 17, 8, 23, 4, 23, 10, 12),
        ("r", "#5a5148", 8, 12, 16, 13.5),
    ],
    "Big Ben": [
        ("r", "#c9a45c", 8, 6, 16, 23),
        ("p", "#3f5a4a", 8, 6, 12, 0, 16, 6),
        ("o", "#ffffff", 9, 7, 15, 13),
        ("l", _DARK, 0.7, 12, 10, 12, 8, 12, 10, 14, 10),
    ],
    "Great Pyramid": [
        ("p", "#e0b04a", 12, 4, 23, 22, 1, 22),
        ("p", "#b3842b", 12, 4, 23, 22, 15, 22),
        ("o", "#ffdf5e", 1, 1, 6, 6),
    ],
    "Stonehenge": [
        *[("r", "#7d8287", x, 9, x + 3, 22) for x in (2, 8, 14, 20)],
        ("r", "#63676b", 1, 6, 12, 9),
        ("r", "#63676b", 13, 6, 24, 9),
        ("r", "#5fae57", 0, 22, 24, 24),
    ],
    "Taj Mahal": [
        ("o", "#ffffff", 7, 4, 17, 15),
        ("p", "#ffffff", 11, 5, 12, 1, 13, 5),
        ("r", "#ffffff", 5, 12, 19, 22),
        ("r", "#9fb6c9", 10, 15, 14, 22),
        *[("r", "#ffffff", x, 6, x + 1.6, 22) for x in (1, 21.4)],
    ],
    "Colosseum": [
        ("r", "#c98b5e", 1, 7, 23, 21),
        *[("o", "#5b3218", x, y, x + 3, y + 4.5) for y in (8.5, 14.5) for x in (2.5, 7.8, 13.1, 18.4)],
        ("p", "#a9dcf5", 17, 7, 23, 7, 23, 11),
    ],
    "Golden Gate": [
        ("r", "#c0362c", 0, 16, 24, 18),
        ("r", "#c0362c", 5, 2, 7, 23),
        ("r", "#c0362c", 17, 2, 19, 23),
        ("c", "#c0362c", 1, 6, -9, 18, 15, 0, 180),
        ("l", "#c0362c", 1, 0, 12, 6, 3),
        ("l", "#c0362c", 1, 18, 3, 24, 12),
        ("r", "#2f6db5", 0, 22, 24, 24),
    ],
    "Torii Gate": [
        ("p", "#e8472b", 0, 2, 24, 2, 22, 6, 2, 6),
        ("r", "#e8472b", 3, 9, 21, 11.5),
        ("r", "#e8472b", 5, 5, 8, 23),
        ("r", "#e8472b", 16, 5, 19, 23),
    ],
}
_OBJECT_STROKES: dict[str, list[tuple[Any, ...]]] = {
    "car": [
        ("r", "#d62828", 1, 11, 23, 18),
        ("p", "#d62828", 5, 11, 8, 5, 16, 5, 19, 11),
        ("p", "#bfe3ff", 7, 11, 9, 7, 15, 7, 17, 11),
        ("o", _DARK, 3, 15, 9, 21),
        ("o", _DARK, 15, 15, 21, 21),
    ],
    "boat": [
        ("p", "#8a4b20", 1, 16, 23, 16, 18, 22, 6, 22),
        ("l", _DARK, 1, 12, 16, 12, 1),
        ("p", "#2f7fe0", 13, 2, 22, 14, 13, 14),
    ],
    "bottle": [
        ("r", "#1e8c4a", 8, 9, 16, 23),
        ("p", "#1e8c4a", 8, 9, 10, 5, 14, 5, 16, 9),
        ("r", "#1e8c4a", 10, 1, 14, 6),
        ("r", "#ffffff", 8, 13, 16, 18),
    ],
    "chair": [
        ("r", "#a8672f", 5, 1, 8, 23),
        ("r", "#a8672f", 5, 11, 19, 14),
        ("r", "#a8672f", 16, 14, 19, 23),
        ("r", "#e0a15f", 8, 3, 10, 11),
    ],
    "train": [
        ("r", "#5b2a86", 1, 9, 17, 18),
        ("r", "#5b2a86", 15, 4, 23, 18),
        ("r", "#ffe27a", 17, 6, 21, 11),
        ("r", _DARK, 3, 4, 6, 9),
        *[("o", _DARK, x, 16, x + 5, 21) for x in (2, 9, 17)],
    ],
    "bird": [
        ("o", "#19b5c9", 4, 9, 18, 19),
        ("o", "#19b5c9", 14, 4, 22, 12),
        ("p", "#ff9f1c", 21, 7, 24, 9, 21, 10),
        ("o", _DARK, 17, 6, 19, 8),
        ("p", "#0b7f8f", 0, 8, 6, 12, 5, 16),
        ("l", "#ff9f1c", 1, 10, 18, 10, 23),
        ("l", "#ff9f1c", 1, 13, 18, 13, 23),
    ],
    "tv": [
        ("r", _DARK, 1, 5, 23, 20),
        ("r", "#8fb8de", 3, 7, 18, 18),
        ("l", _DARK, 1, 12, 5, 6, 0),
        ("l", _DARK, 1, 12, 5, 18, 0),
        ("r", _DARK, 6, 20, 18, 22),
    ],
    "bicycle": [
        ("c", _DARK, 1.4, 1, 11, 11, 21, 0, 360),
        ("c", _DARK, 1.4, 13, 11, 23, 21, 0, 360),
        ("l", "#e6399b", 1.6, 6, 16, 10, 8, 17, 8, 12, 16, 6, 16),
        ("l", "#e6399b", 1.6, 18, 16, 16, 5, 19, 4),
        ("l", "#e6399b", 1.6, 10, 8, 9, 6),
    ],
}
_STROKES = {**_FRUIT_STROKES, **_LANDMARK_STROKES, **_OBJECT_STROKES}


def _backdrop(word: str) -> str:
    if word in FRUITS:
        return "#fff6df"
    return "#a9dcf5" if word in LANDMARKS else "#d8f2dc"


def _draw(word: str, image: Image.Image, scale: float, margin: float) -> None:
    draw = ImageDraw.Draw(image)
    for kind, colour, *numbers in _STROKES[word]:
        width = max(1, round(numbers.pop(0) * scale)) if kind in "lc" else 0
        angles = [numbers.pop(), numbers.pop()][::-1] if kind == "c" else []
        points = [margin + scale * number for number in numbers]
        if kind == "o":
            draw.ellipse(points, fill=colour)
        elif kind == "r":
            draw.rectangle(points, fill=colour)
        elif kind == "p":
            draw.polygon(points, fill=colour)
        elif kind == "l":
            draw.line(points, fill=colour, width=width, joint="curve")
        else:
            draw.arc(points, angles[0], angles[1], fill=colour, width=width)


@lru_cache(maxsize=512)
def picture(word: str, variant: int = 0) -> np.ndarray:
    """The full-frame picture of a word, [SIZE, SIZE, 3] (uint8); do not write to it.

    Args:
        variant: 0 to VARIANTS - 1: mirrored or not, one of four sizes, a little to either side.
    """
    fine = SIZE * 4
    scale = fine / (26, 30, 34, 38)[variant // 2 % 4]
    image = Image.new("RGB", (fine, fine), _backdrop(word))
    middle = (fine - 24 * scale) / 2
    _draw(word, image, scale, margin=middle * (0.6 if variant >= VARIANTS // 2 else 1.2))
    small = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX))
    return small[:, ::-1] if variant % 2 else small


@lru_cache(maxsize=64)
def small_picture(word: str) -> np.ndarray:
    """The same icon for pasting, with a border, [PASTE, PASTE, 3] (uint8); do not write to it."""
    image = Image.new("RGB", (PASTE * 8, PASTE * 8), _backdrop(word))
    _draw(word, image, scale=PASTE * 8 / 28, margin=PASTE * 8 / 14)
    small = np.array(image.resize((PASTE, PASTE), Image.Resampling.BOX))
    small[[0, -1]] = 20
    small[:, [0, -1]] = 20
    return small
