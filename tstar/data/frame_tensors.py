"""Frames as the vision encoder takes them, [M, 3, S, S]: stored pixel by pixel, in memory that a whole batch shares."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info
from torchvision.io import decode_jpeg

from tstar.data.images import decode_image, to_square
from tstar.data.shard_index import RawSample

JPEG = b"\xff\xd8\xff"
SMALL = 2**20
"""Bytes of a JPEG that may be decoded by torchvision, by the same library as Pillow's but with fewer copies; it has no bound of its
own on the picture's size, and one of so few bytes is not too large."""


class FrameRoom:
    """Memory for the frames of one batch, handed out clip by clip, so that a batch is put together without a copy.

    In a loader's worker it is memory that it shares with the trainer. None is taken before the first clip asks for some.

    Args:
        rows: frames of all clips.
    """

    def __init__(self, rows: int) -> None:
        self._rows, self._used = rows, 0
        self._pixels: Tensor | None = None

    def take(self, count: int, size: int) -> Tensor:
        """Memory for ``count`` frames, uint8 [M, S, S, 3]; the next call gives the same again unless :meth:`keep` is called."""
        if self._pixels is None:
            self._pixels = _memory(self._rows, size)
        if self._pixels.shape[1] != size or self._used + count > self._rows:
            return _memory(count, size)  # a replacement of a damaged sample may be longer than that was
        return self._pixels[self._used : self._used + count]

    def keep(self, pixels: Tensor) -> None:
        """What :meth:`take` gave has been filled."""
        if (
            self._pixels is not None
            and pixels.untyped_storage().data_ptr() == self._pixels.untyped_storage().data_ptr()
        ):
            self._used += len(pixels)


def _memory(rows: int, size: int) -> Tensor:
    shape = (rows, size, size, 3)
    if not rows or get_worker_info() is None:
        pixels = np.empty(shape, dtype=np.uint8)  # numpy asks for huge pages, whose first touch is cheap
        return torch.from_numpy(pixels)
    return _shared(shape, torch.uint8)


def _shared(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Memory that a loader's worker and the trainer share."""
    storage = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize)
    return torch.empty(0, dtype=dtype).set_(storage).view(*shape)


def encoder_input(
    raw: RawSample, image_size: int, resize_mode: str = "square", room: FrameRoom | None = None
) -> Tensor:
    """Decode the pictures of a sample and make them the encoder's squares: uint8, [M, 3, S, S].

    Args:
        raw: the sample.
        image_size: S.
        resize_mode: as that of :func:`tstar.data.images.to_square`.
        room: memory to use.
    """
    pixels = (room or FrameRoom(len(raw.frames))).take(len(raw.frames), image_size)
    for place, data in enumerate(raw.frames):
        picture = _decode(data, f"frame of {raw.meta['id']}")
        if picture.shape[:2] != (image_size, image_size):
            picture = torch.from_numpy(to_square(picture.numpy(), image_size, resize_mode).copy())
        pixels[place].copy_(picture)
    if room is not None:
        room.keep(pixels)
    return pixels.permute(0, 3, 1, 2)


def _decode(data: bytes, name: str) -> Tensor:
    """Encoded bytes to uint8 RGB, [height, width, 3]."""
    if data.startswith(JPEG) and len(data) <= SMALL:
        try:
            picture = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8))
            if len(picture) == 3:
                return picture.permute(1, 2, 0)
        except RuntimeError:
            pass  # what is wrong, and whether it is, Pillow says
    return torch.from_numpy(decode_image(data, name).copy())


def frames_to_tensor(pixels: Iterable[np.ndarray], count: int, image_size: int) -> Tensor:
    """``count`` arrays uint8 [S, S, 3], used one after the other, as one tensor [count, 3, S, S]."""
    frames = np.empty((count, image_size, image_size, 3), dtype=np.uint8)
    for place, picture in enumerate(pixels):
        frames[place] = picture
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


def end_to_end(clips: list[Tensor]) -> Tensor:
    """Clips [M, ...] as one tensor: without a copy where they lie in one memory behind each other."""
    filled = [clip for clip in clips if len(clip)]
    if not filled:
        return clips[0]
    first, at = filled[0], filled[0].storage_offset()
    for clip in filled:
        same = clip.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not (same and clip.storage_offset() == at and clip.stride() == first.stride() and clip.dtype == first.dtype):
            return _joined(filled)
        at += len(clip) * clip.stride(0)
    return first.as_strided((sum(map(len, filled)), *first.shape[1:]), first.stride())


def _joined(clips: list[Tensor]) -> Tensor:
    """Clips in new memory; in a loader's worker in what it shares with the trainer, which saves a copy of all."""
    if get_worker_info() is None:
        return torch.cat(clips)
    return torch.cat(clips, out=_shared((sum(map(len, clips)), *clips[0].shape[1:]), clips[0].dtype))
