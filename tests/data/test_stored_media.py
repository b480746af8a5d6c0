"""Media on their way into shards: read once, a few frames at a time, and a decoder that hangs or dies costs one file."""

import os
import signal

import numpy as np
import pytest
from PIL import Image

from tstar.data import stored_media
from tstar.data.decoding import read_video
from tstar.data.frame_sampling import FrameSampling
from tstar.data.images import bound_short_side, encode_image
from tstar.data.miniature.mp4 import write_mp4
from tstar.data.sharding_settings import ShardSettings
from tstar.data.stored_media import MediaReader, store_media
from tstar.errors import DataError

SETTINGS = ShardSettings(fps=4, max_frames=11, short_side=32)


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    root = tmp_path_factory.mktemp("media")
    rng = np.random.default_rng(0)
    for name, frames in (("a.mp4", 24), ("b.mp4", 30)):
        write_mp4(
            root / name,
            np.repeat(rng.integers(0, 255, (frames, 4, 6, 3), dtype=np.uint8), 16, axis=1).repeat(16, axis=2),
        )
    Image.fromarray(rng.integers(0, 255, (50, 40, 3), dtype=np.uint8)).save(root / "p.png")
    (root / "broken.mp4").write_bytes(b"no video")
    return root


@pytest.mark.parametrize("limit", [None, 60.0])
def test_what_is_stored_is_every_frame_shrunk_and_coded(media, limit):
    clip = read_video(media / "a.mp4", FrameSampling(fps=4, max_frames=11))
    expected = tuple(encode_image(bound_short_side(f, 32), "jpeg", 90) for f in clip.frames)
    with MediaReader(SETTINGS, limit) as reader:
        video, picture = reader.read(media / "a.mp4", "video"), reader.read(media / "p.png", "image")
    assert video.frames == expected
    assert (video.timestamps, video.duration) == (clip.timestamps, clip.duration)
    assert len(video.frames) == 11
    assert picture == store_media(media / "p.png", "image", SETTINGS)


def test_a_file_that_takes_too_long_is_left_and_the_next_is_read(media):
    with MediaReader(SETTINGS, 1e-4) as reader:
        with pytest.raises(DataError, match=r"reading .*a\.mp4 took longer than 0.0001 s and was stopped"):
            reader.read(media / "a.mp4", "video")
        reader.time_limit = 60.0
        assert reader.read(media / "b.mp4", "video") == store_media(media / "b.mp4", "video", SETTINGS)
        with pytest.raises(DataError, match="took longer"):  # it is not tried again
            reader.read(media / "a.mp4", "video")


def test_a_decoder_that_crashes_costs_one_file(media):
    with MediaReader(SETTINGS, 60.0) as reader:
        reader.read(media / "p.png", "image")
        os.kill(reader._child.pid, signal.SIGKILL)
        reader._child.join()
        with pytest.raises(DataError, match=r"the decoder crashed on .*a\.mp4 \(exit status -9\)"):
            reader.read(media / "a.mp4", "video")
        assert len(reader.read(media / "b.mp4", "video").frames) == 11
        child = reader._child
    assert not child.is_alive()


@pytest.mark.parametrize("limit", [None, 60.0])
def test_errors_are_those_of_reading(media, limit):
    with MediaReader(SETTINGS, limit) as reader:
        with pytest.raises(DataError, match=r"cannot open video .*broken\.mp4"):
            reader.read(media / "broken.mp4", "video")
        with pytest.raises(DataError, match="no such image"):
            reader.read(media / "none.png", "image")


def test_a_file_that_is_asked_for_again_soon_is_not_read_again(media, monkeypatch):
    read = []
    monkeypatch.setattr(
        stored_media, "store_media", lambda path, *rest: read.append(path.name) or store_media(path, *rest)
    )
    with MediaReader(SETTINGS) as reader:
        for name in ("a.mp4", "a.mp4", "b.mp4", "a.mp4"):
            reader.read(media / name, "video")
        assert read == ["a.mp4", "b.mp4"]
        for number in range(stored_media.REMEMBERED):
            with pytest.raises(DataError):
                reader.read(media / f"none{number}.mp4", "video")
        reader.read(media / "a.mp4", "video")
    assert read[-1] == "a.mp4"


def test_frames_are_held_a_few_at_a_time(media, monkeypatch):
    """Frames decoded and not yet coded, counted while a long video is read."""
    import decord

    largest = []
    original = decord.VideoReader.get_batch
    monkeypatch.setattr(decord.VideoReader, "get_batch", lambda self, n: largest.append(len(n)) or original(self, n))
    store_media(media / "b.mp4", "video", SETTINGS)
    assert sum(largest) == 11
    assert max(largest) <= 8
