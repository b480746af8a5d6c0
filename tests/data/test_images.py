"""Pictures to the encoder's square, to and from bytes; damaged bytes give an error that names them."""

import io

import numpy as np
import pytest
from PIL import Image

from tstar.data.images import (
    PAD_COLOUR,
    bound_short_side,
    decode_image,
    encode_image,
    read_image,
    to_square,
)
from tstar.errors import ConfigError, DataError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@pytest.fixture
def stripes() -> np.ndarray:
    """20 high, 60 wide: red, green and blue squares side by side."""
    return np.repeat(np.array([[RED, GREEN, BLUE]], np.uint8), 20, axis=0).repeat(20, axis=1)


def centre(picture, row, column, cells=3):
    side = len(picture) // cells
    return tuple(picture[row * side + side // 2, column * side + side // 2])


@pytest.mark.parametrize("turned", [False, True])
def test_square_squeezes_pad_adds_borders_crop_cuts(stripes, turned):
    pixels = stripes.transpose(1, 0, 2).copy() if turned else stripes

    def cell(picture, along, across):
        return centre(picture, along, across) if turned else centre(picture, across, along)

    squeezed, padded, cropped = (to_square(pixels, 30, mode) for mode in ("square", "pad", "crop"))
    for picture in (squeezed, padded, cropped):
        assert picture.shape == (30, 30, 3)
        assert picture.dtype == np.uint8
    assert [cell(squeezed, k, k) for k in range(3)] == [RED, GREEN, BLUE]
    assert [cell(padded, k, 1) for k in range(3)] == [RED, GREEN, BLUE]
    assert {cell(padded, k, across) for k in range(3) for across in (0, 2)} == {PAD_COLOUR}
    assert {cell(cropped, k, across) for k in range(3) for across in range(3)} == {GREEN}


def test_a_picture_that_fits_is_left_alone():
    pixels = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    for mode in ("square", "pad", "crop"):
        np.testing.assert_array_equal(to_square(pixels, 30, mode), pixels)


def test_one_pixel_and_thin_pictures_work(stripes):
    assert to_square(stripes[:1, :1], 14, "pad").shape == (14, 14, 3)
    assert to_square(stripes[:1], 14, "crop").shape == (14, 14, 3)
    assert bound_short_side(np.zeros((1000, 3, 3), np.uint8), 2).shape == (667, 2, 3)


def test_an_unknown_mode_is_refused(stripes):
    with pytest.raises(ConfigError, match="square, pad, crop, got 'stretch'"):
        to_square(stripes, 30, "stretch")


@pytest.mark.parametrize(
    ("shape", "size", "result"),
    [
        ((480, 640), 240, (240, 320)),
        ((640, 480), 240, (320, 240)),
        ((100, 300), 384, (100, 300)),  # never enlarged
        ((384, 700), 384, (384, 700)),
        ((480, 640), 0, (480, 640)),
        ((333, 500), 224, (224, 336)),
    ],
)
def test_the_short_side_is_bounded(shape, size, result):
    assert bound_short_side(np.zeros((*shape, 3), np.uint8), size).shape == (*result, 3)


@pytest.mark.parametrize("codec", ["jpeg", "webp"])
def test_coding_is_repeatable_and_close(codec, stripes):
    smooth = np.asarray(Image.fromarray(stripes).resize((90, 60), Image.Resampling.BICUBIC))
    data = encode_image(smooth, codec, 95)
    assert data == encode_image(smooth.copy(), codec, 95)
    assert np.abs(decode_image(data, "x").astype(int) - smooth).mean() < 8
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == codec.upper()


def test_a_picture_too_large_for_the_codec_is_a_data_error():
    with pytest.raises(DataError, match="20000 x 2 pixels cannot be stored as webp; lower short_side"):
        encode_image(np.zeros((2, 20000, 3), np.uint8), "webp", 90)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_every_kind_of_picture_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("p.jpg" if mode == "CMYK" else "p.png")
    Image.new("RGB", (6, 4), (255, 255, 255)).convert(mode).save(path)
    pixels = read_image(path)
    assert pixels.shape == (4, 6, 3)
    assert pixels.dtype == np.uint8
    assert pixels.min() > 250


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_cut_and_flipped_bytes_give_pictures_or_data_errors_and_nothing_else(kind):
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(buffer, kind)
    good = buffer.getvalue()
    with pytest.raises(DataError, match=r"cannot decode image shard 3 \(.+\)"):
        decode_image(good[: len(good) // 2], "shard 3")
    messages = []
    for _ in range(60):
        damaged = bytearray(good)
        for place in rng.integers(0, len(good), 4):
            damaged[place] = rng.integers(256)
        try:
            decode_image(bytes(damaged), "x")
        except DataError as error:
            messages.append(str(error))
    assert not any("0x" in message for message in messages)  # an address would differ between runs


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\xff\xd8\xff"])
def test_what_is_no_picture_is_named(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"cannot decode image .*a\.jpg \(\w.+\)$"):
        read_image(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"no such image: .*b\.jpg"):
        read_image(tmp_path / "b.jpg")
