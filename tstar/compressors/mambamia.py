"""MambaMia and its parents: Mamba-1 or Mamba-2 stacks in TSTAR's shell.

MambaMia (arXiv:2506.13564) is a bidirectional Mamba over patch and query tokens whose queries take in their patches
before each layer; without that step it is the paper's Bi-Mamba row, and with a causal mixer its Mamba row.

Letters: B clips of one length, L positions of a clip (patches and queries), D width.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from tstar.compressors.base import require, use_only
from tstar.compressors.shell import SequenceCompressor, SequenceCompressorConfig, StreamState
from tstar.errors import ConfigError
from tstar.nn import (
    BidirectionalMamba2Mixer,
    BidirectionalMambaMixer,
    GatedPatchAggregation,
    Mamba2Mixer,
    MambaMixer,
    RMSNorm,
)
from tstar.nn.mamba_parts import BackwardDtInit, Merge, MixerState
from tstar.nn.queries import count_kept_frames
from tstar.nn.time_axis import TimeAxisAggregator, calibrate_threshold, frames_over_threshold, frames_within_budget
from tstar.nn.weight_decay import exempt_vectors

Residual = Literal["mixer_only", "write_back"]


@dataclass(frozen=True, kw_only=True)
class MambaMiaConfig(SequenceCompressorConfig):
    """Settings of :class:`MambaMia`."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"num_layers": 24, "d_model": 768},
        "wide2": {"num_layers": 2, "d_model": 3072, "ssm": "mamba2"},
        "miniature": {"num_layers": 2, "d_model": 96, "d_state": 8, "head_dim": 16},
        "tiny": {"num_layers": 2, "d_model": 64, "d_state": 8, "head_dim": 16},
    }

    ssm: Literal["mamba1", "mamba2"] = "mamba1"
    """State-space model of the mixers."""
    d_state: int | None = None
    """States of each inner channel. Left out, 16 with mamba1 and 128 with mamba2."""
    d_conv: int = 4
    """Taps of the convolution before the scan."""
    expand: int = 2
    """Inner width of a mixer over d_model."""
    head_dim: int = 64
    """Inner channels of a head, mamba2 only; must divide expand * d_model."""
    norm_before_gate: bool = True
    """Whether mamba2's inner norm comes before its gate, or after it as in published language models."""
    merge: Merge = "sum"
    """How two directions become one; concat doubles the input of every output projection."""
    backward_dt_init: BackwardDtInit = "same"
    """First steps of the backward direction: drawn like the forward ones, or as in published code, a short memory."""
    gpa: bool = True
    """Gated patch aggregation before each mixer; without it this is bimamba."""
    gpa_residual: Residual = "mixer_only"
    """Where aggregated queries go: into the mixer only, or also onto the residual stream."""
    dropout: float = 0.1
    """On the inputs of the aggregation's two heads."""
    bidirectional: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.states > 0, "d_state", self.states, "a positive whole number")
        for name in ("d_conv", "expand", "head_dim"):
            require(getattr(self, name) > 0, name, getattr(self, name), "a positive whole number")
        gate_legal = self.ssm == "mamba2" or self.norm_before_gate
        require(gate_legal, "norm_before_gate", self.norm_before_gate, "true with mamba1, which has no inner norm")
        require(0.0 <= self.dropout < 1.0, "dropout", self.dropout, "at least 0 and below 1")
        if self.ssm == "mamba2":
            inner = self.expand * self.d_model
            divisors = [p for p in range(1, inner + 1) if inner % p == 0]
            legal = f"a divisor of expand * d_model = {inner} with mamba2 ({', '.join(map(str, divisors))})"
            require(inner % self.head_dim == 0, "head_dim", self.head_dim, legal)

    def resolved(self) -> dict[str, Any]:
        heads = {} if self.ssm == "mamba2" else {"head_dim": None}  # mamba1 has none
        return super().resolved() | {"d_state": self.states} | heads

    @property
    def causal(self) -> bool:
        return not self.bidirectional

    @property
    def states(self) -> int:
        """S."""
        if self.d_state is None:
            return 16 if self.ssm == "mamba1" else 128
        return self.d_state

    def build_mixer(self) -> nn.Module:
        """A mixer of [B, L, D] with fresh weights."""
        sizes = (self.d_model, self.states, self.d_conv, self.expand)
        depth = self.num_layers
        if self.ssm == "mamba1":
            if not self.bidirectional:
                return MambaMixer(*sizes, n_layers=depth)
            return BidirectionalMambaMixer(
                *sizes, merge=self.merge, backward_dt_init=self.backward_dt_init, n_layers=depth
            )
        if not self.bidirectional:
            return Mamba2Mixer(*sizes, self.head_dim, norm_before_gate=self.norm_before_gate, n_layers=depth)
        return BidirectionalMamba2Mixer(
            *sizes,
            self.head_dim,
            norm_before_gate=self.norm_before_gate,
            merge=self.merge,
            backward_dt_init=self.backward_dt_init,
            n_layers=depth,
        )

    def build(self) -> "MambaMia":
        return MambaMia(self)


@dataclass(frozen=True, kw_only=True)
class BiMambaConfig(MambaMiaConfig):
    """Settings of :class:`MambaMia` without gated patch aggregation."""

    gpa: bool = field(default=False, init=False)
    gpa_residual: Residual = field(default="mixer_only", init=False)
    dropout: float = field(default=0.0, init=False)


@dataclass(frozen=True, kw_only=True)
class BimbaConfig(BiMambaConfig):
    """Settings of :class:`MambaMia` in the form of BIMBA (arXiv:2503.09590): pooled queries and no aggregation.

    BIMBA has queries only where it keeps them; here, as in the learnt form, every frame has some, and those of every r-th are kept.
    """

    queries: Literal["learned", "pooled"] = field(default="pooled", init=False)


@dataclass(frozen=True, kw_only=True)
class MambaConfig(BiMambaConfig):
    """Settings of :class:`MambaMia` without aggregation and without the backward direction."""

    bidirectional: bool = field(default=False, init=False)
    merge: Merge = field(default="sum", init=False)
    backward_dt_init: BackwardDtInit = field(default="same", init=False)


class MambaMia(SequenceCompressor):
    """Mamba layers over a clip's patches and queries."""

    config: MambaMiaConfig

    def __init__(self, config: MambaMiaConfig) -> None:
        layers: list[nn.Module] = [MambaMiaLayer(config) for _ in range(config.num_layers)]
        super().__init__(config, layers, RMSNorm(config.d_model))


class MambaMiaLayer(nn.Module):
    """x + mixer(aggregate(norm(x))): aggregated queries reach the residual through the mixer, unless written back."""

    def __init__(self, config: MambaMiaConfig) -> None:
        super().__init__()
        self.write_back = config.gpa and config.gpa_residual == "write_back"
        self.norm = RMSNorm(config.d_model)
        self.gpa = (
            GatedPatchAggregation(config.d_model, config.interval, config.dropout) if config.gpa else nn.Identity()
        )
        self.mixer: Any = config.build_mixer()

    def forward(self, x: Tensor) -> Tensor:
        """x [B, L, D] to [B, L, D]."""
        residual, aggregated = self._enter(x)
        return residual + self.mixer(aggregated)

    def stream(self, x: Tensor, state: MixerState | None) -> tuple[Tensor, MixerState]:
        """Positions that follow those in ``state``, causal mixers only; with the state after them."""
        residual, aggregated = self._enter(x)
        y, state = self.mixer(aggregated, state=state, return_state=True)
        return residual + y, state

    def look_back(self, x: Tensor, behind: MixerState | None) -> MixerState:
        """The backward scan's state at the start of a stretch of whole chunks, bidirectional mixers only."""
        return self.mixer.look_back(self._enter(x)[1], behind)

    def mix_stretch(self, x: Tensor, before: MixerState | None, behind: MixerState | None) -> tuple[Tensor, MixerState]:
        """A stretch of whole chunks between two states, bidirectional mixers only; with the forward scan's state after it."""
        residual, aggregated = self._enter(x)
        y, after = self.mixer.mix_stretch(aggregated, before, behind)
        return residual + y, after

    def _enter(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The residual stream, and what goes into the mixer."""
        # mixed precision: what projections will cast anyway leaves the norm cast, unless it returns to the residual
        half = torch.is_autocast_enabled(x.device.type) and not self.write_back
        normed = self.norm(x, dtype=torch.get_autocast_dtype(x.device.type) if half else None)
        aggregated = self.gpa(normed)
        residual = x + (aggregated - normed) if self.write_back else x  # patches are not changed by the aggregation
        return residual, aggregated


@dataclass(frozen=True, kw_only=True)
class TimeAxisMambaMiaConfig(MambaMiaConfig):
    """Settings of :class:`TimeAxisMambaMia`."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"num_layers": 24, "d_model": 768, "ssm": "mamba2"},
        "wide2": {"num_layers": 2, "d_model": 3072, "ssm": "mamba2", "d_reduced": 128},
        "miniature": {"num_layers": 2, "d_model": 96, "ssm": "mamba2", "d_state": 32, "head_dim": 16, "d_reduced": 16},
        "tiny": {"num_layers": 2, "d_model": 64, "ssm": "mamba2", "d_state": 8, "head_dim": 16, "d_reduced": 8},
    }

    select: Literal["threshold", "budget", "stride"] = use_only("threshold")
    """Frames that stay: outside training, where steps since the last add up to select_threshold; as many as stride keeps, at even
    distances in the sum of steps; or each temporal_stride-th."""
    select_threshold: float = use_only(0.5)
    """Sum of steps that keeps a frame; what keeps a wanted share is a model's own, see :meth:`TimeAxisMambaMia.calibrate`."""
    select_above: int = use_only(64)
    """Clips of up to so many frames keep all of them, threshold only."""
    d_reduced: int | None = None
    """Width that each query is reduced to for the block over frames. Left out, 64 for up to 10 queries of a frame, else 32."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.select_threshold > 0, "select_threshold", self.select_threshold, "a number above 0")
        require(self.select_above >= 0, "select_above", self.select_above, "a whole number from 0 up")
        given = self.temporal_stride is None or self.temporal_stride == 1
        legal = "left out or 1 with select: threshold, which keeps as many frames as it finds worth it"
        require(given or self.select != "threshold", "temporal_stride", self.temporal_stride, legal)
        queries = self.num_patches // self.interval
        legal = f"such that head_dim {self.head_dim} divides 2 x {queries} queries x d_reduced"
        require(self.reduced > 0 and 2 * queries * self.reduced % self.head_dim == 0, "d_reduced", self.reduced, legal)

    @property
    def reduced(self) -> int:
        """Width of a reduced query."""
        if self.d_reduced is None:
            return 64 if self.num_patches // self.interval <= 10 else 32
        return self.d_reduced

    def resolved(self) -> dict[str, Any]:
        # the stride follows from select, which only decides which frames stay; but pooled queries are means over a stride
        stride = self.stride if self.queries == "pooled" else None
        return super().resolved() | {"d_reduced": self.reduced, "temporal_stride": stride, "head_dim": self.head_dim}

    @property
    def stride(self) -> int:
        return 1 if self.select == "threshold" else super().stride

    def build(self) -> "TimeAxisMambaMia":
        return TimeAxisMambaMia(self)


class TimeAxisMambaMia(MambaMia):
    """MambaMia, then a causal Mamba-2 over frames whose steps can choose the frames that stay (AAAI-26 version).

    With ``select: threshold`` a clip outside training may give fewer visual tokens than :meth:`num_tokens`, which is then the most.
    """

    config: TimeAxisMambaMiaConfig

    def __init__(self, config: TimeAxisMambaMiaConfig) -> None:
        super().__init__(config)
        states = config.d_state or 128
        queries = config.num_patches // config.interval
        self.time_axis = TimeAxisAggregator(config.d_model, queries, config.reduced, states, config.head_dim)
        exempt_vectors(self.time_axis)

    @property
    def may_give_fewer(self) -> bool:
        return self.config.select == "threshold"

    def keep_frames(self, clip: Tensor) -> Tensor:
        if not len(clip):
            return clip
        mixed, steps = self.time_axis(clip)
        if self.config.select == "budget":
            return mixed[frames_within_budget(steps, count_kept_frames(len(clip), self.config.stride))]
        if self.config.select == "threshold" and not self.training and len(clip) > self.config.select_above:
            return mixed[frames_over_threshold(steps, self.config.select_threshold)]
        return super().keep_frames(mixed)

    def stream(
        self, features: Tensor, state: StreamState | None = None, end: bool = False
    ) -> tuple[Tensor, StreamState]:
        raise ConfigError("compressor mambamia_taa cannot be streamed: the frames that stay depend on the whole clip")

    def collect(self, queries: Iterator[Tensor], num_frames: int) -> Tensor:
        return self._leave(self.keep_frames(torch.cat(list(queries))))  # steps are summed over the whole clip

    @torch.no_grad()
    def calibrate(self, features: Tensor, frame_counts: list[int], keep_rate: float) -> float:
        """The ``select_threshold`` that keeps about ``keep_rate`` of the frames of these clips; arguments as in :meth:`forward`.

        Only clips of more than ``select_above`` frames count: the others keep all. Give clips that are not evaluated. The steps
        depend on the weights, so a trained model needs a threshold of its own.

        Raises:
            ValueError: no clip is long enough, the rate is not in (0, 1], or the module is in training mode, where steps are noisy.
        """
        if self.training:
            raise ValueError("calibrate: call eval() first; dropout would make the steps noisy")
        clips = [clip for clip in self.frame_queries(features, frame_counts) if len(clip) > self.config.select_above]
        return calibrate_threshold([self.time_axis(clip)[1] for clip in clips], keep_rate)
