"""What every compressor is: settings that check themselves, and a module from patch tokens to visual tokens.

Letters: M frames of a clip, N = h * w patch tokens per frame, T visual tokens of a clip.
"""

import dataclasses
import math
import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from tstar.errors import ConfigError, suggest

ReadFrames = Callable[[int, int], Tensor]
"""Patch tokens of the frames from a first to a last one (excluded) of a clip; may be called for the same ones again."""


def use_only(default: Any) -> Any:
    """A field that decides how weights are used: those trained with another value of it fit."""
    return dataclasses.field(default=default, metadata={"use_only": True})


@dataclass(frozen=True, kw_only=True)
class CompressorConfig(ABC):
    """Settings of a compressor. A subclass adds its options and says what :meth:`build` makes of them."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {}, "miniature": {}, "tiny": {}}
    """Options by the name of a scale; an option that is given explicitly wins over its preset."""
    WEIGHTS: ClassVar[str | None] = None
    """Name of the only weights there are, where other compressors have the same ones."""

    d_vision: int
    """Width of a patch token."""
    d_language: int
    """Width of a visual token: that of the language model's embeddings."""
    grid: tuple[int, int]
    """Rows and columns of a frame's patch tokens, in raster order."""
    segment_frames: int | None = use_only(None)
    """Where no gradients are wanted, work on so many frames of a clip at a time, so that memory does not grow with its length."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = _checked(field.name, getattr(self, field.name), hints[field.name])
            object.__setattr__(self, field.name, value)
        for name in ("d_vision", "d_language"):
            require(getattr(self, name) > 0, name, getattr(self, name), "a positive whole number")
        require(min(self.grid) > 0, "grid", self.grid, "two positive whole numbers, rows and columns")
        if self.segment_frames is not None:
            require(
                self.needs_whole_clips is None,
                "segment_frames",
                self.segment_frames,
                f"left out: {self.needs_whole_clips}",
            )
            step = max(self.segment_step, 1)
            fits = self.segment_frames > 0 and self.segment_frames % step == 0
            require(fits, "segment_frames", self.segment_frames, f"a positive multiple of {step}")

    @property
    def num_patches(self) -> int:
        """N."""
        return self.grid[0] * self.grid[1]

    @property
    def segment_step(self) -> int:
        """A segment holds a multiple of so many frames."""
        return 1

    @property
    def needs_whole_clips(self) -> str | None:
        """Why a clip cannot be compressed in segments; None where it can."""
        return None

    def resolved(self) -> dict[str, Any]:
        """What options are that were left out, where that follows from others."""
        return {}

    def weights_of(self, name: str) -> dict[str, Any]:
        """What trained weights belong to, in JSON types; those of a compressor with an equal description fit.

        Args:
            name: of the compressor.
        """
        if self.WEIGHTS is not None:
            return {"name": self.WEIGHTS, "d_vision": self.d_vision, "d_language": self.d_language}
        fields = [f.name for f in dataclasses.fields(self) if not f.metadata.get("use_only")]
        settings = {name: getattr(self, name) for name in fields} | self.resolved()
        return {"name": name, **{k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}}

    @abstractmethod
    def build(self) -> "Compressor":
        """A compressor with these settings and fresh weights."""


class Compressor(nn.Module, ABC):
    """Turns the patch tokens of each clip of a batch into visual tokens."""

    config: CompressorConfig

    def __init__(self, config: CompressorConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def may_give_fewer(self) -> bool:
        """Whether a clip may become fewer visual tokens than :meth:`num_tokens`, by what it shows."""
        return False

    @abstractmethod
    def num_tokens(self, num_frames: int) -> int:
        """Visual tokens that a clip of ``num_frames`` becomes, known without running it."""

    def forward(self, features: Tensor, frame_counts: list[int]) -> list[Tensor]:
        """Compress every clip of a batch; no clip's result depends on the others.

        Args:
            features: patch tokens of all clips end to end, [sum(M), N, d_vision].
            frame_counts: M of each clip; 1 for an image, 0 for a sample without any.

        Returns:
            Visual tokens of each clip, [num_tokens(M), d_language], in order of time, then in raster order.

        Raises:
            ValueError: ``features`` does not fit ``frame_counts`` or the settings.
        """
        if min(frame_counts, default=0) < 0:
            raise ValueError(f"{type(self).__name__}: frame_counts must be 0 or more, got {frame_counts}")
        self.check_features(features, sum(frame_counts))
        if self.config.segment_frames is None or torch.is_grad_enabled() or self.training:
            return self.compress_clips(features, frame_counts)
        clips = features.split(frame_counts) if frame_counts else ()
        return [self.compress(partial(_frames_of, clip), len(clip)) for clip in clips]

    @torch.no_grad()
    def compress(self, read: ReadFrames, num_frames: int) -> Tensor:
        """Compress one clip whose patch tokens are read as they are needed, ``segment_frames`` at a time.

        The result is that of :meth:`forward` but for rounding, outside training mode. Some compressors read every frame twice.

        Args:
            read: (first, last) to the patch tokens of frames first to last - 1, [last - first, N, d_vision].
            num_frames: M.

        Returns:
            Visual tokens, [num_tokens(M), d_language].

        Raises:
            ValueError: ``read`` gives other than it was asked for, or the module is in training mode.
        """
        if self.training:
            raise ValueError("compress: call eval() first; dropout would differ between two passes over a clip")

        def checked(first: int, last: int) -> Tensor:
            features = read(first, last)
            self.check_features(features, last - first)
            return features

        return self.compress_segments(checked, num_frames)

    def check_features(self, features: Tensor, num_frames: int) -> None:
        """Raise :class:`ValueError` unless ``features`` are patch tokens of so many frames."""
        expected = [num_frames, self.config.num_patches, self.config.d_vision]
        if list(features.shape) != expected:
            raise ValueError(
                f"{type(self).__name__}: features must be [frames, N, d_vision] = {expected}, got {list(features.shape)}"
            )

    def compress_segments(self, read: ReadFrames, num_frames: int) -> Tensor:
        """:meth:`compress` with a ``read`` that gives what it is asked for."""
        spans = self.spans(num_frames)
        return torch.cat([self.compress_clips(read(first, last), [last - first])[0] for first, last in spans])

    def spans(self, num_frames: int) -> list[tuple[int, int]]:
        """First and last (excluded) frame of every segment of a clip; one for a clip without frames."""
        step = self.config.segment_frames or max(num_frames, 1)
        return [(first, min(first + step, num_frames)) for first in range(0, max(num_frames, 1), step)]

    @abstractmethod
    def compress_clips(self, features: Tensor, frame_counts: list[int]) -> list[Tensor]:
        """:meth:`forward` of features that fit, without segments."""


def _frames_of(clip: Tensor, first: int, last: int) -> Tensor:
    return clip[first:last]


def clips_by_length(frame_counts: Sequence[int]) -> dict[int, list[int]]:
    """Numbers of the clips of each length, rising, without empty ones: clips of one length can run as a dense batch."""
    lengths = sorted(set(frame_counts) - {0})
    return {length: [i for i, other in enumerate(frame_counts) if other == length] for length in lengths}


def require(holds: bool, option: str, value: object, legal: str) -> None:
    """Raise :class:`ConfigError` about ``compressor.<option>`` unless ``holds``."""
    if not holds:
        raise ConfigError(f"compressor.{option} must be {legal}, got {value!r}")


def _checked(option: str, value: Any, annotation: Any) -> Any:
    """``value`` as the annotated type, or a ConfigError; a list serves as a tuple, a whole number as a float."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):  # only ever "X | None" here
        if value is None:
            return None
        (annotation,) = (part for part in arguments if part is not type(None))
        return _checked(option, value, annotation)
    if origin is Literal:
        if value not in arguments:
            hint = suggest(value, arguments) if isinstance(value, str) else f" (known: {', '.join(arguments)})"
            raise ConfigError(f"compressor.{option} cannot be {value!r}{hint}")
        return value
    if origin is tuple:
        fits = isinstance(value, list | tuple) and len(value) == len(arguments) and all(map(_is_int, value))
        require(fits, option, value, f"{len(arguments)} whole numbers")
        return tuple(value)
    if annotation is float:
        require(_is_int(value) or (isinstance(value, float) and math.isfinite(value)), option, value, "a number")
        return float(value)
    if annotation is int:
        require(_is_int(value), option, value, "a whole number")
    elif annotation is bool:
        require(isinstance(value, bool), option, value, "true or false")
    else:
        raise AssertionError(f"option {option} has a type that is not checked: {annotation}")
    return value


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
