"""The words of the world, and which combinations of them are kept for evaluation.

A scene object is a (shape, colour) on a background (texture, palette). A quarter of all (shape, colour, texture)
triples and of all (texture, palette) pairs is never seen in training: evaluation scenes are built only from these.
Every single word, and every pair that a question can mention together, is equally frequent on both sides; so no
question gives its answer away. Needles start on frames 0 or 1 of every four in training, on 2 or 3 in evaluation.
"""

import random
from typing import Literal

Side = Literal["train", "eval"]

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")
COLOURS = {
    "red": (232, 36, 36),
    "green": (40, 200, 64),
    "blue": (44, 92, 255),
    "yellow": (252, 232, 44),
    "orange": (255, 136, 16),
    "purple": (164, 60, 224),
    "pink": (255, 140, 204),
    "white": (250, 250, 250),
}
TEXTURES = ("plain", "striped", "checkered", "dotted", "wavy", "zigzag", "gridded", "cloudy")
PALETTES = {
    "grey": ((64, 64, 66), (112, 112, 114)),
    "brown": ((70, 50, 36), (118, 92, 70)),
    "navy": ((28, 36, 70), (66, 78, 122)),
    "olive": ((54, 60, 34), (98, 108, 68)),
}
SIZES = {"small": 8, "large": 14}
"""Radius in pixels."""
PLACES = ("top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right")
"""The 3 x 3 cells of a frame, row by row."""
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}
SPEEDS = ("slowly", "fast", "faster and faster", "slower and slower", "it stands still")
ACTIONS = ("it spins", "it bounces up and down", "it shakes from side to side", "it blinks")
ANOMALIES = (
    "the screen turns black",
    "the screen turns white",
    "the colours are inverted",
    "the picture loses its colours",
    "the picture shakes",
    "the picture turns into blocks",
)
NAMES = ("Alice", "Bob", "Dave", "Grace", "Harry", "Leo", "Olivia", "Zach")
FRUITS = (
    *("banana", "orange", "strawberry", "coconut", "lemon", "apple"),
    *("pear", "mango", "grapes", "blueberry", "kiwifruit", "peach"),
)
LANDMARKS = (
    *("Eiffel Tower", "Big Ben", "Great Pyramid", "Stonehenge"),
    *("Taj Mahal", "Colosseum", "Golden Gate", "Torii Gate"),
)
OBJECTS = ("car", "boat", "bottle", "chair", "train", "bird", "tv", "bicycle")
POOLS = {"name": NAMES, "fruit": FRUITS, "landmark": LANDMARKS, "object": OBJECTS}
PLURALS = {
    **{word: word + "s" for word in (*SHAPES, *FRUITS, *OBJECTS)},
    **{"cross": "crosses", "strawberry": "strawberries", "grapes": "grapes", "blueberry": "blueberries"},
    **{"mango": "mangoes", "peach": "peaches"},
}

Look = tuple[str, str]
"""(colour, shape) of a scene object."""


def held_out(shape: str, colour: str, texture: str) -> bool:
    """Whether an object like this on a background like that is kept for evaluation."""
    return (SHAPES.index(shape) + list(COLOURS).index(colour) + TEXTURES.index(texture)) % 4 == 0


def background_held_out(texture: str, palette: str) -> bool:
    """Whether this background is kept for evaluation."""
    return (TEXTURES.index(texture) + list(PALETTES).index(palette)) % 4 == 0


def needle_start_held_out(frame: int) -> bool:
    """Whether a needle that starts on this frame is kept for evaluation."""
    return frame % 4 >= 2


def pick_palette(rng: random.Random, side: Side, texture: str) -> str:
    """A palette that this side may use with the texture."""
    return rng.choice([p for p in PALETTES if background_held_out(texture, p) == (side == "eval")])


def colours_for(side: Side, shape: str, texture: str) -> list[str]:
    """The colours that this side may give to the shape on the texture."""
    return [c for c in COLOURS if held_out(shape, c, texture) == (side == "eval")]


def cast(rng: random.Random, side: Side, textures: list[str]) -> list[Look]:
    """One object for each texture, no two alike; up to five differ in both shape and colour."""
    apart = len(textures) <= 5
    while True:
        shapes = rng.sample(SHAPES, len(SHAPES)) + rng.choices(SHAPES, k=len(textures))
        looks: list[Look] = []
        for shape, texture in zip(shapes, textures, strict=False):
            taken = {look[0] for look in looks if apart or look[1] == shape}
            free = [colour for colour in colours_for(side, shape, texture) if colour not in taken]
            if not free:
                break
            looks.append((rng.choice(free), shape))
        if len(looks) == len(textures):
            return looks


def name_of(look: Look) -> str:
    """``"red star"``."""
    return " ".join(look)


def with_article(noun: str) -> str:
    """``"a red star"``, ``"an orange heart"``; a plural (grapes) stays as it is."""
    if noun == "grapes":
        return noun
    return f"an {noun}" if noun[0] in "aeio" else f"a {noun}"


def join_words(parts: list[str]) -> str:
    """``"a, b and c"``."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
