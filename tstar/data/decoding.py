"""Video files to frames: decord where it is right and quick, PyAV everywhere else.

A file's packets are listed first, without decoding: they say when every frame is shown, and whether decord can be trusted. It
returns wrong frames for HEVC, for MPEG-4 in AVI, for open groups of pictures and for clips cut without re-encoding, and cannot
open AV1. All decoders then fetch the same frame numbers, and turn them upright where a file says that it was filmed on its side.
A reader is opened and closed inside one call: readers must not cross a fork.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import av
import numpy as np

from tstar.data.frame_sampling import FrameChoice, Window
from tstar.errors import ConfigError, DataError

DECORD_CODECS = frozenset({"h264", "vp9"})
DECORD_PIXELS = 1920 * 1088
"""Largest frames that decord is given: it holds some 150 of them, whatever it is asked for; of 3840 x 2160 that was 3.8 GiB."""
FRAMES_AT_ONCE = 8
"""Frames that decord and torchcodec hold decoded together: 128 frames of a 4K film would be 3 GB."""
MISCOUNTED = 2
"""A container may list so many frames more than it holds: MPEG-4 in AVI, where one packet carries two."""


T = TypeVar("T")


@dataclass(frozen=True)
class Taken(Generic[T]):
    """What was made of frames taken from one video."""

    items: list[T]
    """One a frame, [M]."""
    timestamps: tuple[float, ...]
    """Presentation time of each frame in seconds from the video's start, [M]."""
    duration: float
    """Seconds up to the end of the last frame."""
    decoder: str


@dataclass(frozen=True)
class Clip:
    """Frames taken from one video."""

    frames: np.ndarray
    """uint8, [M, height, width, 3], RGB."""
    timestamps: tuple[float, ...]
    """Presentation time of each frame in seconds from the video's start, [M]."""
    duration: float
    """Seconds up to the end of the last frame."""
    decoder: str


class _Packet(NamedTuple):
    """One packet without its bytes, which would not fit into memory for a long video."""

    pts: int | None
    dts: int | None
    length: int
    key: bool
    discard: bool


@dataclass(frozen=True)
class _Packets:
    """What the packets of a video stream say, before anything is decoded."""

    codec: str
    starts: np.ndarray
    """Seconds at which each shown frame begins, rising, [n]."""
    duration: float
    """Seconds from the first frame's start to the last one's end."""
    pixels: int
    """Of one frame."""
    plain: bool
    """Every packet is shown, and none that follows a key frame is shown before it."""


def read_video(path: str | Path, sampling: FrameChoice, decoder: str = "auto", window: Window | None = None) -> Clip:
    """Decode the frames of ``path`` that ``sampling`` asks for, all in memory; arguments as those of :func:`take_frames`."""
    taken = take_frames(path, sampling, decoder, lambda frame: frame, window)
    return Clip(np.stack(taken.items), taken.timestamps, taken.duration, taken.decoder)


def take_frames(
    path: str | Path,
    sampling: FrameChoice,
    decoder: str,
    make: Callable[[np.ndarray], T],
    window: Window | None = None,
) -> Taken[T]:
    """Decode the frames of ``path`` that ``sampling`` asks for, a few at a time, and keep what is made of each.

    Args:
        path: a video file.
        sampling: which frames.
        decoder: "auto", "decord", "pyav" or "torchcodec". One by name is used on whatever it opens, also where it is known to
            be wrong.
        make: called with each frame, uint8 [height, width, 3] RGB, in order of time.
        window: seconds of the video to look at; None is all of it.

    Raises:
        DataError: the file is missing, holds no video, ends early, lies outside the window, or cannot be decoded.
        ConfigError: the decoder is unknown or not installed.
    """
    path = Path(path)
    if decoder not in ("auto", *DECODERS):
        raise ConfigError(f"unknown decoder '{decoder}' (known: auto, {', '.join(DECODERS)})")
    if not path.is_file():
        raise DataError(f"no such video: {path}")
    packets = _list_packets(path)
    names = [decoder]
    if decoder == "auto":
        trusted = packets.plain and packets.codec in DECORD_CODECS and packets.pixels <= DECORD_PIXELS
        names = ["decord", "pyav"] if trusted else ["pyav"]
    try:
        chosen = sampling.choose(packets.starts, packets.duration, window)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    times = tuple((packets.starts[chosen] - packets.starts[0]).tolist())
    different, where = np.unique(chosen, return_inverse=True)  # a rate above the video's own asks for frames twice
    refusal: Exception | None = None
    for name in names:
        try:
            items = [make(frame) for frame in DECODERS[name](path, different.tolist(), len(packets.starts))]
            return Taken([items[i] for i in where], times, packets.duration, name)
        except (DataError, ConfigError, MemoryError):  # of ``make``, or of a decoder that is not there
            raise
        except Exception as error:  # the decoders raise types of their own, down to bare Exception
            refusal = error
    raise DataError(f"cannot decode video {path} ({names[-1]}: {_reason(refusal)})") from refusal


def _reason(error: Exception | None) -> str:
    """A decoder's words in one short line, without the clock, source lines and stray numbers that decord puts in."""
    text = re.sub(r"\[\d\d:\d\d:\d\d\] \S+:\d+: |\(-?\d+ vs\. -?\d+\) |\[Errno \d+\] ", "", str(error))
    return " ".join(text.split())[:120] or type(error).__name__


def _list_packets(path: Path) -> _Packets:
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = container.streams.best("video")
            if stream is None:
                raise DataError(f"no video stream in {path}")
            context: Any = stream.codec_context
            if context is None:
                raise DataError(f"cannot decode video {path} (FFmpeg does not know its codec)")
            listed = [
                _Packet(p.pts, p.dts, p.duration or 0, p.is_keyframe, p.is_discard)
                for p in container.demux(stream)
                if p.size
            ]
            base = float(stream.time_base or 0)
            rate = float(stream.average_rate or stream.guessed_rate or 0)
            codec, pixels, promised = context.name, context.width * context.height, _promised(container, stream)
            lacking = _lacking_bytes(path) if "mp4" in container.format.name else 0
    except DataError:
        raise
    except av.error.FFmpegError as error:
        raise DataError(f"cannot open video {path} ({error.strerror}); is it complete?") from error
    except Exception as error:  # damaged headers make PyAV raise other types, too
        raise DataError(f"cannot open video {path} ({_reason(error)}); is it complete?") from error
    if lacking:
        raise DataError(f"video {path} ends early: its last {lacking} bytes are missing; is it complete?")
    shown = [p for p in listed if not p.discard]
    if not shown:
        raise DataError(f"video {path} holds no frames")
    ticks, lengths = _ticks(shown), [p.length for p in shown]
    if ticks is None or not base:  # a bare stream knows no times, only an order
        if not rate:
            raise DataError(f"video {path} has neither timestamps nor a frame rate")
        ticks, lengths, base = list(range(len(shown))), [1] * len(shown), 1 / rate
    last = max(range(len(ticks)), key=ticks.__getitem__)
    starts = np.sort(np.array(ticks, dtype=np.float64)) * base
    length = lengths[last] * base or (starts[-1] - starts[-2] if len(starts) > 1 else 0.0)
    end = float(starts[-1] + length)
    if promised - end > max(1.0, 0.1 * promised):
        raise DataError(f"video {path} ends early: {end:.1f} of {promised:.1f} s are there; is it complete?")
    plain = len(shown) == len(listed) and not _leading(shown)
    return _Packets(codec, starts, end - float(starts[0]), pixels, plain)


def _ticks(shown: list[_Packet]) -> list[int] | None:
    """Times of the packets in units of the stream; decoding times where a container knows no others."""
    for times in ([p.pts for p in shown], [p.dts for p in shown]):
        known = [t for t in times if t is not None]
        if len(known) == len(times):
            return known
    return None


def _leading(shown: list[_Packet]) -> bool:
    """Whether a packet is shown before the key frame that precedes it in the file: an open group of pictures."""
    key = None
    for packet in shown:
        if packet.key:
            key = packet.pts
        elif key is not None and packet.pts is not None and packet.pts < key:
            return True
    return False


def _promised(container: Any, stream: Any) -> float:
    """Seconds that the header says the video lasts, 0 where it does not say; MP4 says it in bytes (see below)."""
    if "matroska" in container.format.name:
        for name, value in stream.metadata.items():
            if name.startswith("DURATION") and re.fullmatch(r"\d+:\d\d:\d\d(\.\d+)?", value):
                hours, minutes, seconds = value.split(":")
                return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    if container.format.name == "avi" and stream.frames and stream.average_rate:
        return float(stream.frames / stream.average_rate)
    return 0.0


def _lacking_bytes(path: Path) -> int:
    """By how many bytes the boxes of an MP4 that hold pictures or their index reach beyond the end of the file.

    With the index in front a cut file opens without complaint and decodes as a shorter video.
    """
    total = path.stat().st_size
    with path.open("rb") as stream:
        start = 0
        while start + 8 <= total:
            stream.seek(start)
            head = stream.read(16)
            size, kind = int.from_bytes(head[:4], "big"), head[4:8]
            if size == 1:
                size = int.from_bytes(head[8:16], "big")
            if size < 8:  # 0: up to the end of the file; anything else is no box
                return 0
            start += size
            if start > total and kind in (b"mdat", b"moov", b"moof"):
                return start - total
    return 0


def _read_decord(path: Path, chosen: list[int], count: int) -> Iterator[np.ndarray]:
    import decord

    reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
    try:
        if len(reader) != count:
            raise ValueError(f"finds {len(reader)} frames where the file lists {count}")
        for numbers in _parts(chosen):
            yield from reader.get_batch(numbers).asnumpy()  # [8, h, w, 3]
    finally:
        del reader


def _read_torchcodec(path: Path, chosen: list[int], count: int) -> Iterator[np.ndarray]:
    try:
        from torchcodec.decoders import VideoDecoder
    except Exception as error:  # without FFmpeg's libraries it raises a RuntimeError
        reason = str(error).strip().splitlines()[0][:120]
        raise ConfigError(
            f"decoder torchcodec cannot be used ({reason}); install torchcodec and FFmpeg, or choose auto"
        ) from error
    reader = VideoDecoder(str(path), seek_mode="exact", num_ffmpeg_threads=1)
    if len(reader) < count - MISCOUNTED:
        raise ValueError(f"finds {len(reader)} frames where the file lists {count}")
    last = len(reader) - 1
    for numbers in _parts(chosen):
        yield from reader.get_frames_at([min(n, last) for n in numbers]).data.permute(0, 2, 3, 1).numpy()


def _parts(chosen: list[int]) -> Iterator[list[int]]:
    return (chosen[i : i + FRAMES_AT_ONCE] for i in range(0, len(chosen), FRAMES_AT_ONCE))


def _read_pyav(path: Path, chosen: list[int], count: int) -> Iterator[np.ndarray]:
    given = 0
    last: Any = None
    number = -1
    with av.open(str(path), metadata_errors="replace") as container:
        stream = container.streams.best("video")
        assert stream is not None  # it was there a moment ago
        stream.codec_context.thread_count = 1  # frame threads hang when decoding stops early
        decoded: Iterable[Any] = container.decode(stream)
        for number, last in enumerate(decoded):
            if number == chosen[given]:
                yield _upright(last)
                given += 1
            if given == len(chosen):
                return
    if last is None or number + 1 < count - MISCOUNTED:
        raise ValueError(f"frame {chosen[given]} of {count} is not there")
    for _ in chosen[given:]:
        yield _upright(last)


def _upright(frame: Any) -> np.ndarray:
    """RGB pixels turned as a player shows them; the other decoders turn by themselves."""
    pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90))) if frame.rotation else pixels


Decoder = Callable[[Path, list[int], int], Iterator[np.ndarray]]
DECODERS: dict[str, Decoder] = {"decord": _read_decord, "pyav": _read_pyav, "torchcodec": _read_torchcodec}
"""Each fetches frames by rising number, none twice, from a file that lists so many: uint8, [height, width, 3]."""
