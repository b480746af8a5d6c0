"""The right frames come back: every frame carries its own number as a pattern of light and dark blocks."""

from fractions import Fraction

import av
import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from tstar.data.decoding import DECODERS, read_video
from tstar.data.frame_sampling import FrameSampling
from tstar.data.sharding_settings import DECODER_NAMES, ShardSettings
from tstar.errors import ConfigError, DataError

COUNT, RATE = 48, 8
EVERYTHING = FrameSampling(fps=RATE, max_frames=COUNT)


def numbered(number: int, height: int = 64, width: int = 96) -> np.ndarray:
    picture = np.full((height, width, 3), 40, np.uint8)
    for bit in range(8):
        if number >> bit & 1:
            row, column = divmod(bit, 4)
            y, x = row * (height // 2), column * (width // 4)
            picture[y : y + height // 2, x : x + width // 4] = 220
    return picture


def number_of(picture: np.ndarray) -> int:
    height, width = picture.shape[0] // 2, picture.shape[1] // 4
    blocks = [
        picture[y * height :, x * width :][: height // 2, : width // 2].mean() for y in range(2) for x in range(4)
    ]
    return sum(1 << bit for bit, light in enumerate(blocks) if light > 128)


def write(path, codec="libx264", count=COUNT, size=(64, 96), pts=None, options=None, pix_fmt="yuv420p", container=None):
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    base = Fraction(1, 1000) if pts else Fraction(1, RATE)
    with av.open(str(path), "w", options=container or {}) as out:
        stream = out.add_stream(codec, rate=RATE, options=options or {})
        stream.height, stream.width = size
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = base
        stream.codec_context.thread_count = 1
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(numbered(number, *size), format="rgb24")
            frame.pts, frame.time_base = (pts[number] if pts else number), base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def cut_without_encoding(source, target, first):
    """As ``ffmpeg -ss``: frames before the cut stay in the file for the decoder, and are marked not to be shown."""
    with av.open(str(source)) as whole, av.open(str(target), "w", options={"avoid_negative_ts": "disabled"}) as out:
        stream = whole.streams.video[0]
        copied = out.add_stream_from_template(stream)
        offset = int(first / RATE / stream.time_base)
        for packet in whole.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - offset, packet.dts - offset, copied
                out.mux(packet)
    return target


KINDS = {
    "h264.mp4": {},
    "reordered.mp4": {"options": {"bf": "3", "g": "16"}},
    "h264.mkv": {},
    "open_gop.mp4": {"options": {"x264-params": "open-gop=1:keyint=8:bframes=2:scenecut=0"}},
    "odd.mp4": {"size": (63, 97), "pix_fmt": "yuv444p"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg4_reordered.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "h264_reordered.avi": {"options": {"bf": "2"}},
    "odd.avi": {"codec": "mpeg4", "size": (63, 97)},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none", "preset": "ultrafast"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "h264.ts": {},
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("decoder", ["auto", "pyav"])
def test_frames_come_back_by_number(tmp_path, name, decoder):
    path = write(tmp_path / name, **KINDS[name])
    clip = read_video(path, EVERYTHING, decoder)
    assert [number_of(f) for f in clip.frames] == list(range(COUNT))
    assert clip.frames.dtype == np.uint8
    assert clip.frames.shape[1:3] == KINDS[name].get("size", (64, 96))
    assert clip.duration == pytest.approx(COUNT / RATE)
    np.testing.assert_allclose(clip.timestamps, np.arange(COUNT) / RATE, atol=1e-3)
    fewer = read_video(path, FrameSampling(fps=2, max_frames=7), decoder)
    assert [number_of(f) for f in fewer.frames] == [round(j * COUNT / 7) for j in range(7)]


@pytest.mark.parametrize("name", ["h264.mp4", "reordered.mp4", "h264.mkv", "vp9.webm"])
def test_auto_and_decord_agree_where_decord_is_right(tmp_path, name):
    pytest.importorskip("decord")
    path = write(tmp_path / name, **KINDS[name])
    auto, decord = (read_video(path, EVERYTHING, d) for d in ("auto", "decord"))
    assert auto.decoder == decord.decoder == "decord"
    assert [number_of(f) for f in decord.frames] == list(range(COUNT))


@pytest.mark.parametrize("name", ["open_gop.mp4", "mpeg4.avi", "hevc.mp4", "h264.ts"])
def test_auto_avoids_decord_where_it_is_wrong(tmp_path, name):
    assert read_video(write(tmp_path / name, **KINDS[name]), EVERYTHING).decoder == "pyav"


def test_a_clip_cut_without_encoding_starts_at_the_cut(tmp_path):
    whole = write(tmp_path / "whole.mp4", options={"g": "24", "bf": "2"})
    clip = read_video(cut_without_encoding(whole, tmp_path / "cut.mp4", 5), EVERYTHING)
    assert [number_of(f) for f in clip.frames] == list(range(5, COUNT))
    assert clip.duration == pytest.approx((COUNT - 5) / RATE)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("decoder", ["auto", "pyav", "decord"])
def test_variable_rates_are_sampled_by_time(tmp_path, suffix, decoder):
    if decoder == "decord":
        pytest.importorskip("decord")
    steps = [40] * 16 + [100] * 16 + [240] * 16
    pts = [sum(steps[:k]) for k in range(COUNT)]
    path = write(tmp_path / f"variable.{suffix}", pts=pts)
    clip = read_video(path, FrameSampling(fps=3, max_frames=100), decoder)
    count = len(clip.frames)
    assert count == -(-clip.duration * 3 // 1)
    assert pts[-1] / 1000 < clip.duration <= sum(steps) / 1000 + 1e-6
    wanted = [j * clip.duration / count for j in range(count)]
    found = [number_of(f) for f in clip.frames]
    for time, number in zip(wanted, found, strict=True):
        assert abs(pts[number] / 1000 - time) <= min(abs(p / 1000 - time) for p in pts) + 1e-3
    np.testing.assert_allclose(clip.timestamps, [pts[n] / 1000 for n in found], atol=1e-3)


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
def test_one_frame_is_a_video(tmp_path, decoder):
    clip = read_video(write(tmp_path / "one.mp4", count=1), FrameSampling(fps=RATE), decoder)
    assert [number_of(f) for f in clip.frames] == [0]
    assert clip.timestamps == (0.0,)
    assert clip.duration == pytest.approx(1 / RATE)


def test_frames_of_a_bare_stream_are_counted_for_lack_of_times(tmp_path):
    clip = read_video(write(tmp_path / "bare.h264"), FrameSampling(fps=5))
    numbers = [number_of(f) for f in clip.frames]
    assert numbers == sorted(set(numbers))
    assert numbers[0] == 0


@pytest.fixture
def sound(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as out:
        stream = out.add_stream("aac", rate=16000)
        for number in range(8):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, 1024 * number
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return tmp_path / "sound.mp4"


@pytest.mark.parametrize("decoder", ["auto", "pyav", "decord"])
def test_a_file_without_pictures_says_so(sound, decoder):
    with pytest.raises(DataError, match=r"no video stream in .*sound\.mp4"):
        read_video(sound, FrameSampling(), decoder)


def shortened(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


FAST = {"container": {"movflags": "+faststart"}}
DAMAGE = {
    "short_index_last.mp4": lambda p: shortened(write(p), 0.6),
    "short_index_first.mp4": lambda p: shortened(write(p, **FAST), 0.7),
    "short.mkv": lambda p: shortened(write(p), 0.6),
    "short.avi": lambda p: shortened(write(p, codec="mpeg4"), 0.5),
    "empty.mp4": lambda p: (p.write_bytes(b""), p)[1],
    "text.mp4": lambda p: (p.write_bytes(b"<html>404 not found</html>" * 50), p)[1],
}


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("decoder", ["auto", "pyav"])
def test_damage_is_an_error_that_names_the_file(tmp_path, name, decoder):
    path = DAMAGE[name](tmp_path / name)
    messages = set()
    for _ in range(2):
        with pytest.raises(DataError) as caught:
            read_video(path, EVERYTHING, decoder)
        messages.add(str(caught.value))
    (message,) = messages  # lists of left-out records must not differ between runs
    assert name in message
    assert "\n" not in message
    assert len(message) < len(str(path)) + 220


@pytest.mark.parametrize("share", [0.5, 0.8, 0.99])
@pytest.mark.parametrize("decoder", ["auto", "pyav", "decord"])
def test_a_cut_mp4_with_its_index_in_front_is_not_taken_for_a_shorter_one(tmp_path, share, decoder):
    whole = tmp_path / "whole.mp4"
    write(whole, container={"movflags": "+faststart"})
    data = whole.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    read_video(whole, FrameSampling(fps=4), decoder)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=r"cut\.mp4 ends early: its last \d+ bytes are missing"):
        read_video(cut, FrameSampling(fps=4), decoder)


def test_a_hole_in_the_data_is_an_error(tmp_path):
    path = write(tmp_path / "hole.mp4", **FAST)
    data = bytearray(path.read_bytes())
    middle = (len(data) + data.find(b"mdat")) // 2
    data[middle : middle + 200] = bytes(200)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"cannot decode video .*hole\.mp4"):
        read_video(path, EVERYTHING)


def test_missing_files_and_unknown_decoders(tmp_path):
    with pytest.raises(DataError, match=r"no such video: .*nowhere\.mp4"):
        read_video(tmp_path / "nowhere.mp4", FrameSampling())
    with pytest.raises(ConfigError, match=r"unknown decoder 'opencv' \(known: auto, decord, pyav, torchcodec\)"):
        read_video(tmp_path / "nowhere.mp4", FrameSampling(), "opencv")


@pytest.mark.parametrize("angle", [90, 180, 270])
@pytest.mark.parametrize("decoder", ["auto", "decord", "pyav"])
def test_a_video_filmed_on_its_side_comes_upright(tmp_path, angle, decoder):
    plain, turned = tmp_path / "plain.mp4", tmp_path / "turned.mp4"
    write(plain)
    with av.open(str(plain)) as source, av.open(str(turned), "w") as out:
        stream = source.streams.video[0]
        copied = out.add_stream_from_template(stream)
        copied.set_display_rotation(angle)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.stream = copied
                out.mux(packet)
    upright = read_video(plain, EVERYTHING, decoder).frames
    frames = read_video(turned, EVERYTHING, decoder).frames
    np.testing.assert_array_equal(frames, np.rot90(upright, angle // 90, axes=(1, 2)))  # counter-clockwise


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_a_rate_above_the_videos_own_gives_frames_twice(tmp_path, decoder):
    clip = read_video(write(tmp_path / "a.mp4"), FrameSampling(fps=3 * RATE, max_frames=3 * COUNT), decoder)
    numbers = [number_of(frame) for frame in clip.frames]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(COUNT))
    assert len(numbers) == 3 * COUNT


def test_large_frames_are_left_to_pyav_which_holds_one_at_a_time(tmp_path):
    path = write(tmp_path / "large.mp4", count=2, size=(1440, 2560))
    assert read_video(path, EVERYTHING).decoder == "pyav"
    assert read_video(write(tmp_path / "small.mp4", count=2), EVERYTHING).decoder == "decord"


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_a_title_in_another_coding_does_no_harm(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    with av.open(str(path), "w") as out:
        out.metadata["title"] = "caf\u00c3\u00a9"
        stream = out.add_stream("libx264" if suffix != "avi" else "mpeg4", rate=RATE)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for number in range(8):
            frame = av.VideoFrame.from_ndarray(numbered(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    title = "caf\u00c3\u00a9".encode()
    data = path.read_bytes()
    assert title in data
    path.write_bytes(data.replace(title, b"caf\xe9\xe9\xe9\xe9"))  # Latin-1, of the same length
    assert len(read_video(path, EVERYTHING).frames) == 8


def test_an_unknown_codec_is_named(tmp_path):
    data = write(tmp_path / "a.avi", codec="mpeg4").read_bytes()
    (tmp_path / "b.avi").write_bytes(data.replace(b"FMP4", b"QQQQ"))
    with pytest.raises(DataError, match=r"b\.avi"):
        read_video(tmp_path / "b.avi", EVERYTHING)


def test_torchcodec_gives_the_same_frames_or_says_what_is_missing(tmp_path):
    path = write(tmp_path / "a.mp4")
    try:
        import torchcodec.decoders  # noqa: F401
    except Exception:
        with pytest.raises(ConfigError, match=r"decoder torchcodec cannot be used .*; install torchcodec and FFmpeg"):
            read_video(path, EVERYTHING, "torchcodec")
    else:
        clip = read_video(path, EVERYTHING, "torchcodec")
        assert [number_of(frame) for frame in clip.frames] == list(range(COUNT))


class Numbers(Dataset):
    """The numbers in the frames of a video, decoded where it is asked."""

    def __init__(self, path, decoder):
        self.path, self.decoder = path, decoder

    def __len__(self):
        return 8

    def __getitem__(self, number):
        return [number_of(frame) for frame in read_video(self.path, EVERYTHING, self.decoder).frames]


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_workers_of_a_loader_may_decode_what_their_parent_has_decoded(tmp_path, decoder):
    videos = Numbers(write(tmp_path / "a.mp4"), decoder)
    here = videos[0]
    loader = DataLoader(videos, batch_size=None, num_workers=2, timeout=60, multiprocessing_context="fork")
    assert list(loader) == [here] * 8
    assert here == list(range(COUNT))


def test_the_names_that_options_know_are_those_of_the_decoders():
    assert ("auto", *DECODERS) == DECODER_NAMES
    assert all(name in ShardSettings.HELP["decoder"] for name in DECODER_NAMES)
