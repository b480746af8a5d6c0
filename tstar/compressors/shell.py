"""The shell around a sequence model that makes it a compressor: TSTAR's two samplings.

arXiv:2506.13564, section 3: project, put a learnt query after every k patches, run layers over the whole clip, keep
what stands at the queries, keep the queries of every r-th frame, project to the language model.

Letters: M frames of a clip, N patch tokens per frame, k patches per query, Q = N / k, D width inside, H of the language
model, r stride between kept frames, T visual tokens of a clip, B clips of one length.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tstar.compressors.base import Compressor, CompressorConfig, ReadFrames, clips_by_length, require, use_only
from tstar.compressors.segments import CausalLayer, run_both_ways, run_causal
from tstar.errors import ConfigError
from tstar.nn.queries import Keep, count_kept_frames, insert_queries, kept_frames, pool_queries, take_queries
from tstar.nn.weight_decay import exempt_vectors


@dataclass(frozen=True, kw_only=True)
class SequenceCompressorConfig(CompressorConfig):
    """Settings that every sequence compressor has."""

    query_interval: int | None = None
    """Patch tokens per query; must divide a frame's patches. Left out, one row of the grid."""
    temporal_stride: int | None = None
    """Queries of every so many frames are kept. Left out, 3, or 1 with per_frame."""
    keep: Keep = "first"
    """Which frame of each group of temporal_stride is kept; last suits causal models."""
    queries: Literal["learned", "pooled"] = "learned"
    """What stands after each run of patches: one learnt vector, or the run's mean over all frames of its group."""
    per_frame: bool = False
    """Run over each frame alone instead of over the whole clip."""
    num_layers: int = 24
    """Layers of the sequence model."""
    d_model: int = 768
    """Width of the sequence model."""
    input_norm: bool = False
    """LayerNorm over patches and queries before the first layer; turn on where half precision overflows."""
    gradient_checkpointing: bool = use_only(False)
    """In training, compute each layer again in the backward pass instead of storing its insides."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_layers", "d_model"):
            require(getattr(self, name) > 0, name, getattr(self, name), "a positive whole number")
        divisors = [k for k in range(1, self.num_patches + 1) if self.num_patches % k == 0]
        legal = f"a divisor of the {self.num_patches} patches of a frame ({', '.join(map(str, divisors))})"
        require(self.interval in divisors, "query_interval", self.interval, legal)
        require(self.stride > 0, "temporal_stride", self.stride, "a whole number from 1 up")

    @property
    def causal(self) -> bool:
        """No position of the layers sees a later one."""
        return False

    @property
    def segment_step(self) -> int:
        return self.stride

    @property
    def interval(self) -> int:
        """k."""
        return self.grid[1] if self.query_interval is None else self.query_interval

    def resolved(self) -> dict[str, Any]:
        return super().resolved() | {"query_interval": self.interval, "temporal_stride": self.stride}

    @property
    def stride(self) -> int:
        """r."""
        if self.temporal_stride is None:
            return 1 if self.per_frame else 3
        return self.temporal_stride


class StreamState(NamedTuple):
    """What :meth:`SequenceCompressor.stream` hands on between frames."""

    frames: int
    """Frames so far."""
    layers: tuple[Any, ...]
    """A state of each layer."""
    waiting: Tensor | None
    """Queries of the last frame, where it is kept if no more come."""


class SequenceCompressor(Compressor):
    """The shell.

    Args:
        config: settings of the shell.
        layers: modules from [B, L, D] to [B, L, D], residual included.
        final_norm: a norm of [..., D].
    """

    config: SequenceCompressorConfig

    def __init__(self, config: SequenceCompressorConfig, layers: list[nn.Module], final_norm: nn.Module) -> None:
        super().__init__(config)
        width = config.d_model
        self.in_proj = _projection(config.d_vision, width)
        if config.queries == "learned":
            self.query = nn.Parameter(torch.randn(width) * (1.0 if config.input_norm else width**-0.5))
        self.input_norm = nn.LayerNorm(width, eps=1e-6) if config.input_norm else nn.Identity()
        self.layers = nn.ModuleList(layers)
        self.final_norm = final_norm
        self.out_proj = _projection(width, config.d_language)
        exempt_vectors(self)

    def num_tokens(self, num_frames: int) -> int:
        kept = count_kept_frames(num_frames, self.config.stride)
        return kept * (self.config.num_patches // self.config.interval)

    def compress_clips(self, features: Tensor, frame_counts: list[int]) -> list[Tensor]:
        if not frame_counts:
            return []
        kept = [self.keep_frames(clip) for clip in self.frame_queries(features, frame_counts)]
        return list(self._leave(torch.cat(kept)).split([clip.shape[0] * clip.shape[1] for clip in kept]))

    def compress_segments(self, read: ReadFrames, num_frames: int) -> Tensor:
        if self.config.segment_frames is None or not num_frames:
            return super().compress_segments(read, num_frames)
        spans = self.spans(num_frames)
        if self.config.per_frame:
            return self.collect(
                (self.frame_queries(read(first, last), [last - first])[0] for first, last in spans), num_frames
            )

        def enter(number: int) -> Tensor:
            first, last = spans[number]
            return self._enter(read(first, last), [last - first]).flatten(0, 1).unsqueeze(0)  # [1, m * (N + Q), D]

        layers: list[Any] = list(self.layers)
        run = run_causal if self.config.causal else run_both_ways
        mixed = run(layers, enter, len(spans))
        queries = (
            take_queries(x, self.config.interval).unflatten(1, (last - first, -1))[0]
            for x, (first, last) in zip(mixed, spans, strict=True)
        )
        return self.collect(queries, num_frames)

    def collect(self, queries: Iterator[Tensor], num_frames: int) -> Tensor:
        """Visual tokens of a clip of M > 0 frames, [T, H], from the queries of its segments in turn, [m, Q, D] each."""
        tokens, place = None, 0
        for segment in queries:
            part = self._leave(self.keep_frames(segment))
            if tokens is None:  # one tensor, filled as they come: for an hour it may be the largest of all
                tokens = part.new_empty(self.num_tokens(num_frames), self.config.d_language)
            tokens[place : place + len(part)] = part
            place += len(part)
        assert tokens is not None
        return tokens

    def stream(
        self, features: Tensor, state: "StreamState | None" = None, end: bool = False
    ) -> tuple[Tensor, "StreamState"]:
        """Compress the next frames of a clip as they come, causal compressors only.

        Args:
            features: patch tokens of some frames, [m, N, d_vision].
            state: what the call for the frames before returned; None at the start of a clip.
            end: these are the last frames. With ``keep: last`` only then does a group that is not full give its last frame.

        Returns:
            Visual tokens of the frames among these (with ``keep: last``: or just before) that are kept, [t, d_language], and the
            state for the frames that follow. All calls together give what :meth:`forward` gives for the whole clip. Where gradients
            are on, the state keeps the graph of all frames so far.

        Raises:
            ConfigError: the compressor looks at later frames.
            ValueError: ``features`` do not fit the settings.
        """
        config = self.config
        if not config.causal and not config.per_frame:
            raise ConfigError(
                f"{type(self).__name__} with compressor.per_frame false cannot stream unless it is causal (mamba, gpt_neox): "
                "it looks at later frames"
            )
        if config.queries == "pooled" and config.stride > 1 and not config.per_frame:
            raise ConfigError(
                "compressor.queries must be learned, or temporal_stride 1, to stream: pooled ones look ahead"
            )
        self.check_features(features, len(features))
        state = state or StreamState(0, (None,) * len(self.layers), None)
        frames = self._enter(features, [len(features)])  # [m, N + Q, D]
        layers = list(state.layers)
        if len(frames) and config.per_frame:
            frames = self._run_layers(frames)
        elif len(frames):
            x = frames.flatten(0, 1).unsqueeze(0)
            for i, layer in enumerate(cast(Iterable[CausalLayer], self.layers)):
                x, layers[i] = layer.stream(x, layers[i])
            frames = x.squeeze(0).unflatten(0, (len(features), -1))
        queries = take_queries(frames, config.interval)  # [m, Q, D]
        kept, waiting = [], state.waiting
        for number, frame in enumerate(queries, start=state.frames):
            place = number % config.stride
            if place == (0 if config.keep == "first" else config.stride - 1):
                kept.append(frame)
                waiting = None
            elif config.keep == "last":
                waiting = frame
        if end and waiting is not None:
            kept.append(waiting)
        tokens = self._leave(torch.stack(kept) if kept else queries[:0])
        return tokens, StreamState(state.frames + len(features), tuple(layers), None if end else waiting)

    def _leave(self, queries: Tensor) -> Tensor:
        """Kept queries [m, Q, D] to visual tokens [m * Q, H]."""
        return self.out_proj(self.final_norm(queries.flatten(0, 1)))

    def frame_queries(self, features: Tensor, frame_counts: list[int]) -> list[Tensor]:
        """What the layers make of the queries of all frames: [M, Q, D] of each clip; arguments as in :meth:`forward`."""
        frames = self._enter(features, frame_counts)
        run = self._run_frames if self.config.per_frame else self._run_clips
        return run(frames, frame_counts)

    def _enter(self, features: Tensor, frame_counts: list[int]) -> Tensor:
        """Patch tokens [sum(M), N, C] to what the layers take, queries in place: [sum(M), N + Q, D]."""
        stream = next(self.parameters()).dtype  # the residual stream stays fp32 under autocast
        patches = self.in_proj(features).to(stream)
        queries = self._queries(patches, frame_counts)
        return self.input_norm(insert_queries(patches, queries, self.config.interval))

    def keep_frames(self, clip: Tensor) -> Tensor:
        """Secondary sampling: queries of a clip [M, Q, D] to those of the frames that stay."""
        return clip[kept_frames(len(clip), self.config.stride, self.config.keep)]

    def _queries(self, patches: Tensor, frame_counts: list[int]) -> Tensor:
        """[D], or [sum(M), Q, D] of patches [sum(M), N, D]."""
        if self.config.queries == "learned":
            return self.query
        stride = 1 if self.config.per_frame else self.config.stride
        return pool_queries(patches, self.config.interval, frame_counts, stride)

    def _run_frames(self, frames: Tensor, frame_counts: list[int]) -> list[Tensor]:
        """Every frame its own sequence: frames [sum(M), N + Q, D] to queries [M, Q, D] of each clip."""
        mixed = self._run_layers(frames) if len(frames) else frames
        return list(take_queries(mixed, self.config.interval).split(frame_counts))

    def _run_clips(self, frames: Tensor, frame_counts: list[int]) -> list[Tensor]:
        """Every clip one sequence; as :meth:`_run_frames` otherwise.

        Clips of one length run as one dense batch, and each length by itself: that is quicker than padding to the
        longest, and exact by construction.
        """
        clips = list(frames.split(frame_counts))
        queries = [take_queries(clip, self.config.interval) for clip in clips]  # of empty clips; the others follow
        for count, members in clips_by_length(frame_counts).items():
            batch = torch.stack([clips[i].flatten(0, 1) for i in members])  # [B, M * (N + Q), D]
            mixed = take_queries(self._run_layers(batch), self.config.interval)  # [B, M * Q, D]
            for i, clip in zip(members, mixed.unflatten(1, (count, -1)), strict=True):
                queries[i] = clip
        return queries

    def _run_layers(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            if self.config.gradient_checkpointing and self.training and torch.is_grad_enabled():
                x = checkpoint(layer, x, use_reentrant=False)
            else:
                x = layer(x)
        return x


def _projection(d_in: int, d_out: int) -> nn.Module:
    """Linear with Xavier-uniform weights and a zero bias; nothing where the widths agree."""
    if d_in == d_out:
        return nn.Identity()
    linear = nn.Linear(d_in, d_out)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
