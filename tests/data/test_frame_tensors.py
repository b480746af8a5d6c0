"""Frames of a batch: decoded as Pillow decodes them, in one memory."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from tstar.data import frame_tensors
from tstar.data.frame_tensors import FrameRoom, encoder_input, end_to_end, frames_to_tensor
from tstar.data.images import decode_image, to_square
from tstar.data.shard_index import RawSample
from tstar.errors import DataError


def coded(pixels, kind="RGB", codec="jpeg"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(kind).save(buffer, codec)
    return buffer.getvalue()


def clip(count, side=24, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return RawSample({"id": "x"}, tuple(map(coded, pixels)))


@pytest.mark.parametrize("mode", ["square", "pad", "crop"])
@pytest.mark.parametrize(
    ("kind", "codec"),
    [("RGB", "jpeg"), ("RGB", "webp"), ("RGB", "png"), ("L", "jpeg"), ("CMYK", "jpeg"), ("RGBA", "png"), ("P", "png")],
)
@pytest.mark.parametrize("shape", [(24, 24), (30, 47)])
def test_frames_are_decoded_as_by_pillow_and_made_square(mode, kind, codec, shape):
    data = coded(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8), kind, codec)
    frames = encoder_input(RawSample({"id": "x"}, (data, data)), 24, mode)
    expected = to_square(decode_image(data, "x"), 24, mode).transpose(2, 0, 1)
    np.testing.assert_array_equal(frames.numpy(), np.stack([expected, expected]))


@pytest.mark.parametrize("content", [b"", b"no picture", b"\xff\xd8\xff", coded(np.zeros((24, 24, 3), np.uint8))[:300]])
def test_what_is_no_picture_is_named(content):
    with pytest.raises(DataError, match=r"cannot decode image frame of x \(\w.+\)$"):
        encoder_input(RawSample({"id": "x"}, (content,)), 24)


def test_flipped_bytes_give_what_pillow_gives():
    rng = np.random.default_rng(0)
    (good,) = clip(1).frames
    outcomes = set()
    for _ in range(150):
        damaged = bytearray(good)
        for place in rng.integers(0, len(good), 3):
            damaged[place] = rng.integers(256)
        raw = RawSample({"id": "x"}, (bytes(damaged),))
        try:
            expected = to_square(decode_image(bytes(damaged), "x"), 24)
        except DataError:
            with pytest.raises(DataError):
                encoder_input(raw, 24)
            outcomes.add("refused")
        else:
            assert torch.equal(encoder_input(raw, 24)[0].permute(1, 2, 0), torch.from_numpy(expected.copy()))
            outcomes.add("decoded")
    assert outcomes == {"refused", "decoded"}


def test_a_large_file_is_left_to_pillow_which_bounds_its_pixels(monkeypatch):
    monkeypatch.setattr(frame_tensors, "SMALL", 10)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match="decompression bomb"):
        encoder_input(clip(1), 24)


def test_clips_of_a_batch_lie_in_one_memory_and_are_joined_without_a_copy():
    room = FrameRoom(6)
    clips = [encoder_input(clip(count, seed=count), 24, room=room) for count in (2, 0, 3, 1)]
    batch = end_to_end(clips)
    assert batch.data_ptr() == clips[0].data_ptr()
    assert torch.equal(batch, torch.cat([encoder_input(clip(count, seed=count), 24) for count in (2, 3, 1)]))
    assert end_to_end(clips[1:2]).shape == (0, 3, 24, 24)
    for others in ([clips[0], clips[3]], [clips[2], clips[0]], [clips[0], clips[0]]):  # not one behind the other
        joined = end_to_end(others)
        assert joined.data_ptr() not in {c.data_ptr() for c in clips}
        assert torch.equal(joined, torch.cat(others))


def test_a_clip_that_could_not_be_decoded_leaves_its_place_to_the_next():
    room = FrameRoom(3)
    first = encoder_input(clip(1), 24, room=room)
    bad = RawSample({"id": "x"}, (*clip(1).frames, b"no picture"))
    with pytest.raises(DataError):
        encoder_input(bad, 24, room=room)
    longer = encoder_input(clip(3, seed=2), 24, room=room)  # has no room
    fitting = encoder_input(clip(2, seed=3), 24, room=room)
    assert end_to_end([first, fitting]).data_ptr() == first.data_ptr()
    assert torch.equal(end_to_end([first, longer]), torch.cat([first, longer]))
    assert torch.equal(longer, encoder_input(clip(3, seed=2), 24))


class Clips(Dataset):
    def __len__(self):
        return 4

    def __getitems__(self, numbers):
        room = FrameRoom(sum(1 + n for n in numbers))
        return [encoder_input(clip(1 + n, seed=n), 24, room=room) for n in numbers]


@pytest.mark.parametrize("join", [end_to_end, frame_tensors._joined])
def test_a_worker_hands_over_shared_memory(join):
    loader = DataLoader(Clips(), batch_size=2, num_workers=1, collate_fn=join)
    for number, batch in enumerate(loader):
        expected = [encoder_input(clip(1 + n, seed=n), 24) for n in (2 * number, 2 * number + 1)]
        assert torch.equal(batch, torch.cat(expected))
        assert batch.is_shared()


def test_frames_keep_order_and_channels():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    tensor = frames_to_tensor(iter(pixels), 3, 4)
    np.testing.assert_array_equal(tensor.numpy(), pixels.transpose(0, 3, 1, 2))
