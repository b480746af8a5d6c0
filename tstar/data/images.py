"""Pictures to and from bytes, and to the square that a vision encoder wants."""

import io
import re
from pathlib import Path

import numpy as np
from PIL import Image

from tstar.errors import ConfigError, DataError

RESIZE_MODES = ("square", "pad", "crop")
PAD_COLOUR = (122, 116, 104)  # CLIP's mean, as LLaVA-1.5 pads


def read_image(path: str | Path) -> np.ndarray:
    """One picture as uint8 RGB, [height, width, 3]; :class:`DataError` if it is missing or not a picture."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no such image: {path}")
    return decode_image(path.read_bytes(), str(path))


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Encoded bytes to uint8 RGB, [height, width, 3]; ``name`` is what an error calls them."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except (
        Exception
    ) as error:  # damaged bytes make the readers raise many types, struct.error and IndexError among them
        reason = " ".join(re.sub(r" ?<_io.BytesIO[^>]*>", "", str(error)).split())[:120]
        raise DataError(f"cannot decode image {name} ({reason or type(error).__name__})") from error


def encode_image(pixels: np.ndarray, codec: str, quality: int) -> bytes:
    """uint8 RGB [height, width, 3] to JPEG or WebP bytes; equal input gives equal bytes."""
    buffer = io.BytesIO()
    try:
        Image.fromarray(pixels).save(buffer, codec, quality=quality)
    except (OSError, ValueError) as error:  # both codecs have a largest side
        height, width = pixels.shape[:2]
        raise DataError(
            f"a picture of {width} x {height} pixels cannot be stored as {codec}; lower short_side"
        ) from error
    return buffer.getvalue()


def bound_short_side(pixels: np.ndarray, size: int) -> np.ndarray:
    """Shrink [height, width, 3] so that its short side is at most ``size``; never enlarges. 0 keeps the original."""
    height, width = pixels.shape[:2]
    if size <= 0 or min(height, width) <= size:
        return pixels
    scale = size / min(height, width)
    target = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(target, Image.Resampling.BICUBIC))


def to_square(pixels: np.ndarray, size: int, mode: str = "square") -> np.ndarray:
    """Make a picture [height, width, 3] the encoder's [size, size, 3].

    Args:
        pixels: uint8 RGB.
        size: side of the square.
        mode: "square" squeezes (nothing is cut off), "pad" keeps the aspect on a mean-coloured square, "crop" cuts the middle.
    """
    if mode not in RESIZE_MODES:
        raise ConfigError(f"resize mode must be one of {', '.join(RESIZE_MODES)}, got '{mode}'")
    image, (height, width) = Image.fromarray(pixels), pixels.shape[:2]
    if mode == "pad" and height != width:
        side = max(height, width)
        square = Image.new("RGB", (side, side), PAD_COLOUR)
        square.paste(image, ((side - width) // 2, (side - height) // 2))
        image = square
    elif mode == "crop" and height != width:
        side = min(height, width)
        left, top = (width - side) // 2, (height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    return np.asarray(image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BICUBIC))
