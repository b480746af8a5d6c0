"""Writing and reading mp4 files with PyAV; one thread, so that the same frames always give the same bytes."""

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from tstar.data.miniature.config import FPS, SIZE
from tstar.errors import DataError

_X264 = f"threads=1:keyint={FPS}:min-keyint={FPS}:scenecut=0:open-gop=0:bframes=0:mbtree=0"
"""A key frame every second: an inserted picture cannot smear far, and a reader can seek.

No macroblock tree: with it (x264's vector code, seen on frames this small) the same frames sometimes give other bytes.
"""


def write_mp4(path: Path, frames: np.ndarray) -> None:
    """Write RGB frames [T, H, W, 3] (uint8) as H.264; the file appears under its name only when it is whole."""
    part = path.with_name(path.name + ".part")
    with av.open(str(part), "w", format="mp4", options={"fflags": "+bitexact", "movflags": "+faststart"}) as container:
        stream = container.add_stream(
            "libx264", rate=FPS, options={"crf": "20", "preset": "fast", "x264-params": _X264}
        )
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = Fraction(1, FPS)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    os.replace(part, path)


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write an RGB image [H, W, 3] (uint8); the file appears under its name only when it is whole."""
    part = path.with_name(path.name + ".part")
    Image.fromarray(pixels).save(part, format="PNG")
    os.replace(part, path)


def read_frames(path: Path) -> np.ndarray:
    """All frames of a video as they are, [T, H, W, 3] (uint8)."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def read_haystack(path: Path, max_seconds: float = 24.0) -> np.ndarray:
    """A user's video at the world's frame rate and size (middle square), [T, SIZE, SIZE, 3] (uint8)."""
    frames: list[np.ndarray] = []
    try:
        with av.open(str(path)) as container:
            start: float | None = None
            for frame in container.decode(video=0):
                start = frame.time if start is None else start
                time = (frame.time or 0.0) - (start or 0.0)
                if time >= max_seconds:
                    break
                if len(frames) > time * FPS:  # this moment is there already
                    continue
                image = frame.to_image()
                side = min(image.size)
                left, top = (image.width - side) // 2, (image.height - side) // 2
                square = image.crop((left, top, left + side, top + side))
                pixels = np.asarray(square.resize((SIZE, SIZE), Image.Resampling.BILINEAR).convert("RGB"))
                while len(frames) <= time * FPS:
                    frames.append(pixels)
    except (av.error.FFmpegError, IndexError) as error:
        raise DataError(f"cannot read {path} as a haystack video: {error}; remove it from the folder") from error
    if len(frames) < 10 * FPS:
        raise DataError(f"{path} is too short for a haystack: it has {len(frames) / FPS:.1f} s, 10 s are needed")
    return np.stack(frames)
