"""One seed for each item, from the world's seed and the item's name alone."""

import hashlib
import random

import numpy as np

LETTERS = "ABCD"


def item_seed(*name: object) -> int:
    """64-bit seed of an item, e.g. ``item_seed(0, "train", "videos", 17)``."""
    text = "/".join(str(part) for part in name)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def item_rng(*name: object) -> random.Random:
    """The item's own random numbers."""
    return random.Random(item_seed(*name))


def noise(seed: int, *shape: int) -> np.ndarray:
    """Uniform numbers in [0, 1) of the given shape."""
    return np.random.default_rng(seed).random(shape)


def balanced_letter(number: int, *name: object) -> int:
    """Position (0-3) of the right option of question ``number`` in a series: every four questions use all four."""
    block = list(range(4))
    item_rng(*name, "letters", number // 4).shuffle(block)
    return block[number % 4]
