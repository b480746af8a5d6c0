"""Background textures and shapes."""

import math
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from tstar.data.miniature.config import SIZE
from tstar.data.miniature.seeds import noise
from tstar.data.miniature.words import COLOURS, PALETTES

_FINE = 4
"""Shapes are drawn this much larger, then averaged down."""
_OUTLINE = (16, 16, 16, 255)


def _pattern(texture: str, seed: int) -> np.ndarray:
    """Weights in [0, 1] of the palette's lighter tone, [SIZE, SIZE]; both directions wrap round without a seam."""
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    if texture == "plain":
        return np.full((SIZE, SIZE), 0.5)
    if texture == "striped":
        return ((x + y) // 12 % 2).astype(float)
    if texture == "checkered":
        return ((x // 16 + y // 16) % 2).astype(float)
    if texture == "dotted":
        return ((x % 16 - 7.5) ** 2 + (y % 16 - 7.5) ** 2 < 20).astype(float)
    if texture == "wavy":
        return 0.5 + 0.5 * np.sin(2 * np.pi * (y / 16 + 0.5 * np.sin(2 * np.pi * x / 48)))
    if texture == "zigzag":
        return ((y + np.abs(x % 24 - 12)) // 8 % 2).astype(float)
    if texture == "gridded":
        return ((x % 16 < 3) | (y % 16 < 3)).astype(float)
    coarse = noise(seed, 6, 6)  # cloudy: random hills, smooth and periodic
    near = (np.arange(SIZE) / 16) % 6
    low = near.astype(int)
    weight = (1 - np.cos(np.pi * (near - low))) / 2
    rows = coarse[low] * (1 - weight)[:, None] + coarse[(low + 1) % 6] * weight[:, None]  # [SIZE, 6]
    smooth = rows[:, low] * (1 - weight) + rows[:, (low + 1) % 6] * weight  # [SIZE, SIZE]
    return np.clip(1.6 * smooth - 0.3, 0, 1)


@lru_cache(maxsize=32)
def background(texture: str, palette: str, seed: int) -> np.ndarray:
    """A background tile that repeats seamlessly, [SIZE, SIZE, 3] (float32, 0-255); do not write to it."""
    dark, light = (np.array(tone, dtype=np.float32) for tone in PALETTES[palette])
    weight = _pattern(texture, seed)[..., None].astype(np.float32)
    grain = 10 * (noise(seed + 1, SIZE, SIZE, 1).astype(np.float32) - 0.5)
    shift = seed % SIZE, seed // SIZE % SIZE
    return np.roll(dark + (light - dark) * weight + grain, shift, axis=(0, 1))


def _outline(shape: str) -> list[tuple[float, float]]:
    """Corners of a shape in [-1, 1], y downwards."""
    if shape == "square":
        return [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)]
    if shape == "triangle":
        return [(0, -1), (0.95, 0.8), (-0.95, 0.8)]
    if shape == "cross":
        a, b = 0.34, 0.95
        return [
            (-a, -b),
            (a, -b),
            (a, -a),
            (b, -a),
            (b, a),
            (a, a),
            (a, b),
            (-a, b),
            (-a, a),
            (-b, a),
            (-b, -a),
            (-a, -a),
        ]
    turns = [math.pi * k / 5 - math.pi / 2 for k in range(10)]
    if shape == "star":
        return [
            (math.cos(t) * r, math.sin(t) * r) for k, t in enumerate(turns) for r in (1.05 if k % 2 == 0 else 0.45,)
        ]
    steps = [2 * math.pi * k / 48 for k in range(48)]
    if shape == "heart":
        return [
            (math.sin(t) ** 3, -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 15)
            for t in steps
        ]
    return [(0.95 * math.cos(t), 0.95 * math.sin(t)) for t in steps]  # circle


@lru_cache(maxsize=1024)
def sprite(shape: str, colour: str, radius: int, degrees: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A dark-rimmed shape: colours [S, S, 3] and cover in [0, 1] [S, S, 1], float32, S = 2r+3; do not write to them."""
    side = 2 * radius + 3
    image = Image.new("RGBA", (side * _FINE, side * _FINE), (*COLOURS[colour], 0))
    angle = math.radians(degrees)
    centre, scale = side * _FINE / 2, radius * _FINE
    corners = [
        (
            centre + scale * (x * math.cos(angle) - y * math.sin(angle)),
            centre + scale * (x * math.sin(angle) + y * math.cos(angle)),
        )
        for x, y in _outline(shape)
    ]
    draw = ImageDraw.Draw(image)
    draw.polygon(corners, fill=(*COLOURS[colour], 255))
    draw.line([*corners, corners[0]], fill=_OUTLINE, width=_FINE)
    fine = np.asarray(image, dtype=np.float32).reshape(side, _FINE, side, _FINE, 4)
    cover = fine[..., 3:].mean(axis=(1, 3)) / 255  # [side, side, 1]
    paint = (fine[..., :3] * fine[..., 3:]).mean(axis=(1, 3)) / 255 / np.maximum(cover, 1e-6)
    return paint.astype(np.float32), cover.astype(np.float32)


def stamp(pixels: np.ndarray, paint: np.ndarray, cover: np.ndarray, left: int, top: int) -> None:
    """Lay ``paint`` over ``pixels`` [SIZE, SIZE, 3] (float32) in place; what lies outside is cut off."""
    height, width = cover.shape[:2]
    y0, y1, x0, x1 = max(0, top), min(SIZE, top + height), max(0, left), min(SIZE, left + width)
    if y0 >= y1 or x0 >= x1:
        return
    part = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    target = pixels[y0:y1, x0:x1]
    target += (paint[part] - target) * cover[part]
