"""Media on their way into shards: read once, a few frames at a time, and a decoder that hangs or dies costs one file."""

import os
import signal

import numpy as np
import pytest
from PIL import Image

from tstar.data.decoding import read_video
from tstar.data.frame_sampling import FrameSampling
from tstar.data.images import bound_short_side, encode_image
from tstar.data.miniature.mp4 import write_mp4
from tstar.data.sharding_settings import ShardSettings
from tstar.data.stored_media import MediaReader, PassingError, store_media
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


class Killed(MediaReader):
    """Its process is killed a number of times, as soon as it has something to do."""

    kills = 0

    def _started(self):
        pipe = super()._started()
        if self.kills:
            self.kills -= 1
            os.kill(self._child.pid, signal.SIGSTOP)  # it shall not answer first
            os.kill(self._child.pid, signal.SIGKILL)
        return pipe


def test_a_process_that_was_killed_is_replaced_and_the_file_read(media):
    with Killed(SETTINGS, 60.0) as reader:
        reader.read(media / "p.png", "image")
        os.kill(reader._child.pid, signal.SIGKILL)  # with nothing to do
        reader._child.join()
        assert len(reader.read(media / "a.mp4", "video").frames) == 11
        reader.kills = 1
        assert len(reader.read(media / "b.mp4", "video").frames) == 11


def test_a_file_on_which_the_decoder_crashes_again_is_left_and_the_next_is_read(media):
    with Killed(SETTINGS, 60.0) as reader:
        reader.kills = 2
        with pytest.raises(DataError, match=r"the decoder crashed on .*a\.mp4, 2 times \(exit status -9\)"):
            reader.read(media / "a.mp4", "video")
        assert len(reader.read(media / "b.mp4", "video").frames) == 11
        child = reader._child
    assert not child.is_alive()


@pytest.mark.parametrize("limit", [None, 60.0])
def test_a_disk_that_fails_is_no_fault_of_the_file(media, tmp_path, limit, monkeypatch):
    """A picture that may not be read, or, for root, that is read through a link to a device that fails."""
    (tmp_path / "p.png").symlink_to("/proc/self/mem")  # reading its start is an input/output error
    with MediaReader(SETTINGS, limit) as reader, pytest.raises(PassingError, match=r"cannot read .*p\.png \(OSError"):
        reader.read(tmp_path / "p.png", "image")


def test_damaged_videos_of_any_kind_cost_the_file_alone(media, tmp_path):
    """Mutations of small files; what a library makes of them shall not pass as anything but an error of the file."""
    rng = np.random.default_rng(0)
    sources = [(media / name).read_bytes() for name in ("a.mp4", "b.mp4")]
    reasons, lengths = {}, []
    with MediaReader(SETTINGS, 60.0) as reader:  # decord ends the process on some of them
        for number in range(150):
            data = bytearray(sources[number % 2])
            for _ in range(int(rng.integers(1, 12))):
                first = int(rng.integers(len(data) // 8)) if rng.integers(2) else -int(rng.integers(1, len(data) // 4))
                data[first] = rng.integers(256)
            path = tmp_path / f"{number}.mp4"
            path.write_bytes(data)
            try:
                lengths.append(len(reader.read(path, "video").frames))
            except DataError as error:
                reasons[str(path)] = str(error)
    assert all(path in reason and "\n" not in reason for path, reason in reasons.items())
    assert set(lengths) <= set(range(1, 12))
    assert min(len(reasons), len(lengths)) > 10
