"""Hashes of frames: alike where a frame was scaled or encoded again, different where another is shown."""

import io

import numpy as np
import pytest
from PIL import Image

from tstar.data.frame_hashes import BITS, COLOUR_SIDE, FRAME, MARGIN, SIDE, detail, hash_frames


def scene(seed, height=240, width=320):
    """A smooth random landscape with some shapes, uint8 [height, width, 3]."""
    draw = np.random.default_rng(seed)
    coarse = draw.integers(0, 256, (9, 12, 3), dtype=np.uint8)
    picture = np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    for _ in range(4):
        top, left = int(draw.integers(0, height - 60)), int(draw.integers(0, width - 60))
        picture[top : top + 50, left : left + 40] = draw.integers(0, 256, 3)
    return picture


def encoded(picture, codec="JPEG", quality=60):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, codec, quality=quality)
    return np.array(Image.open(buffer).convert("RGB"))


def scaled(picture, width, height):
    return np.array(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


def bits_apart(one, two):
    return int((np.unpackbits(one["bits"]) != np.unpackbits(two["bits"])).sum())


def colours_apart(one, two):
    return float(np.abs(one["colours"].astype(int) - two["colours"].astype(int)).mean())


@pytest.mark.parametrize(
    "change",
    [
        lambda p: encoded(p, quality=40),
        lambda p: encoded(p, "WEBP", 40),
        lambda p: scaled(p, 160, 120),
        lambda p: scaled(p, 96, 96),
        lambda p: encoded(scaled(p, 455, 256), quality=50),
    ],
    ids=["jpeg", "webp", "half", "squeezed", "larger and jpeg"],
)
def test_a_copy_is_near_and_another_scene_is_far(change):
    scenes = [scene(seed) for seed in range(20)]
    own, copies = hash_frames(scenes), hash_frames(map(change, scenes))
    near = [bits_apart(a, b) for a, b in zip(own, copies, strict=True)]
    far = [bits_apart(own[i], copies[j]) for i in range(20) for j in range(20) if i != j]
    assert max(near) <= 10
    assert min(far) > 25
    assert max(colours_apart(a, b) for a, b in zip(own, copies, strict=True)) < 4


def test_the_bits_are_those_of_a_plain_loop():
    picture = scene(3, SIDE * 9, (SIDE + 1) * 8)  # whole cells for the columns: nothing is interpolated
    (hashed,) = hash_frames([picture])
    grey = np.asarray(Image.fromarray(picture).convert("L"), dtype=float)
    wide = [[grey[9 * r : 9 * r + 9, 8 * c : 8 * c + 8].mean() for c in range(SIDE + 1)] for r in range(SIDE)]
    tall = [[grey[8 * r : 8 * r + 8, 9 * c : 9 * c + 9].mean() for c in range(SIDE)] for r in range(SIDE + 1)]
    rights = [wide[r][c + 1] - wide[r][c] for r in range(SIDE) for c in range(SIDE)]
    downs = [tall[r + 1][c] - tall[r][c] for r in range(SIDE) for c in range(SIDE)]
    sure = [abs(step - MARGIN) > 1 for step in (*rights, *downs)]  # the others hang on rounding
    assert sum(sure) > BITS / 2
    bits = np.unpackbits(hashed["bits"])
    assert [bool(b) for b, s in zip(bits, sure, strict=True) if s] == [
        step >= MARGIN for step, s in zip((*rights, *downs), sure, strict=True) if s
    ]
    quarter = picture[: SIDE * 9 // COLOUR_SIDE, : (SIDE + 1) * 8 // COLOUR_SIDE].reshape(-1, 3).mean(axis=0)
    assert np.abs(hashed["colours"][0, 0] - quarter).max() <= 1


def test_plain_frames_have_no_bits_and_noise_adds_none():
    draw = np.random.default_rng(0)
    plain = np.full((120, 160, 3), 90, np.uint8)
    noisy = (plain + draw.integers(-6, 7, plain.shape)).astype(np.uint8)
    assert detail(hash_frames([plain, noisy, scene(1)])).tolist()[:2] == [0, 0]
    assert detail(hash_frames([scene(1)]))[0] > 30


def test_no_frames_and_frames_of_several_sizes():
    assert hash_frames([]).shape == (0,)
    hashed = hash_frames([scene(1), scaled(scene(1), 64, 48)])
    assert hashed.dtype == FRAME
    assert bits_apart(*hashed) <= 10
