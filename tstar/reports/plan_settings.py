"""Which numbers of frames, query intervals and temporal strides fit a budget of visual tokens or of memory.

Candidates are :data:`FRAMES` and the frames asked about, every divisor of a frame's patches, and :data:`STRIDES` and the recipe's
own. Compressors without queries have frames alone. What a candidate takes is not measured for each: bytes of every phase grow
linearly with patches, queries and kept queries, so a few are measured and the others lie between. Peaks are the largest of several
such lines, and then a little too high: at worst a setting that just fits is left out.

Letters: M frames of a clip, N patches of a frame, k patches a query, r stride, T visual tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
import torch

from tstar.compressors import build_compressor, compressor_config
from tstar.compressors.shell import SequenceCompressorConfig
from tstar.errors import ConfigError
from tstar.reports.plan import Planner, native_context
from tstar.reports.plan_memory import Activations, Held, answering_device, held
from tstar.reports.plan_phases import Answering, Cost, Learning, Measured
from tstar.reports.plan_setup import Setup

GIB = 2**30
FRAMES = (8, 16, 32, 64, 96, 128, 192, 256, 384, 512)
STRIDES = (1, 2, 3, 4, 6, 8)
POINTS = 4
"""Numbers of visual tokens that the language model is measured at, evenly apart in their logarithms."""


@dataclass(frozen=True)
class Setting:
    """A candidate."""

    frames: int
    query_interval: int | None
    temporal_stride: int | None
    """Both None for a compressor without queries."""
    visual: int
    """T."""

    @property
    def options(self) -> dict[str, int]:
        """What differs from the recipe's compressor."""
        both = {"query_interval": self.query_interval, "temporal_stride": self.temporal_stride}
        return {name: value for name, value in both.items() if value is not None}


@dataclass(frozen=True)
class Choice:
    """A setting that fits."""

    setting: Setting
    training: int | None
    """Bytes of a device in a training step; None where memory was not asked about."""
    answering: int | None
    trains: bool
    """Also a training step fits; without, only answering does."""

    def as_data(self) -> dict[str, Any]:
        return {**asdict(self.setting), "training": self.training, "answering": self.answering, "trains": self.trains}


def candidates(setup: Setup, frames: Sequence[int]) -> list[Setting]:
    """Legal settings, whether they fit or not, in order of frames, interval and stride."""
    counts = sorted({*FRAMES, *frames})
    config = setup.parts.compressor.config
    if not isinstance(config, SequenceCompressorConfig):
        return [Setting(m, None, None, setup.parts.compressor.num_tokens(m)) for m in counts]
    intervals = [k for k in range(1, config.num_patches + 1) if config.num_patches % k == 0]
    strides = sorted({*STRIDES, config.stride})
    sizes = {"d_vision": config.d_vision, "d_language": config.d_language, "grid": config.grid}
    found = []
    for k, r in product(intervals, strides):
        options = {"query_interval": k, "temporal_stride": r}
        try:
            small = compressor_config(**{**setup.spec, **sizes, **options})
        except ConfigError:
            continue  # an option of this compressor forbids it
        assert isinstance(small, SequenceCompressorConfig)
        kept = [(m, (m + small.stride - 1) // small.stride * (small.num_patches // small.interval)) for m in counts]
        found += [Setting(m, k, r, tokens) for m, tokens in kept]
    return sorted(found, key=lambda s: (s.frames, s.query_interval or 0, s.temporal_stride or 0))


def fitting(planner: Planner, setup: Setup) -> tuple[list[Choice], str]:
    """Settings of the last stage that fit what was asked for; and where there are none, a sentence why."""
    asked = planner.asked
    everything = candidates(setup, planner.frames)
    text = asked.text_tokens + asked.answer_tokens
    most = min(setup.max_length, native_context(setup.parts.language) or setup.max_length) - text
    limit = min(most, asked.tokens if asked.tokens is not None else most)
    short = [s for s in everything if s.visual <= limit]
    if not short:
        least = min(s.visual for s in everything)
        why = (
            f"--tokens {asked.tokens}"
            if asked.tokens is not None and asked.tokens <= most
            else f"the {most} positions that text leaves"
        )
        return [], f"no setting fits: the fewest visual tokens of any are {least}, more than {why}"
    if asked.device_memory_gib is None:
        return [Choice(s, None, None, True) for s in short], ""
    budget = asked.device_memory_gib * GIB
    memory = Memory(planner, setup, everything, sorted({s.visual for s in short}))
    choices = []
    for setting in short:
        training, answering = memory.training(setting), memory.answering(setting)
        if answering <= budget:
            choices.append(Choice(setting, training, answering, training <= budget))
    if not choices:
        least = min(memory.answering(s) for s in short)
        return [], (
            f"no setting fits: answering about a clip takes at least {least / GIB:.1f} GiB, more than --device-memory-gib "
            f"{asked.device_memory_gib:g}; a smaller language model or language.dtype bfloat16 would take less"
        )
    return choices, ""


class Memory:
    """Bytes of a device for any of some settings, from a few that are measured.

    Args:
        planner, setup: what measures, and the stage.
        settings: all of them.
        tokens: numbers of visual tokens that are asked about, rising.
    """

    def __init__(self, planner: Planner, setup: Setup, settings: Sequence[Setting], tokens: Sequence[int]) -> None:
        self.planner, self.setup, self.asking = planner, setup, planner.for_answering(setup)
        corners = _corners(settings)
        self._training = self._plane(corners, setup, True)
        self._answering = self._plane(corners, self.asking, False)
        text = planner.asked.text_tokens + planner.asked.answer_tokens
        window = getattr(setup.parts.language.config, "sliding_window", None) or 0
        edges = [t for t in (window - text - 1, window - text + 1) if tokens[0] < t < tokens[-1]]
        spaced = [round(t) for t in np.geomspace(max(tokens[0], 1), max(tokens[-1], 1), POINTS)]
        points = sorted({tokens[0], *spaced, tokens[-1], *edges})
        self._learn = _between(points, [planner.learn(setup, setup.parts, setup.batch, t) for t in points])
        self._answer = _between(points, [planner.answer(setup, setup.parts, t) for t in points])

        setup.parts.let_learn(setup.kind.trains)
        self._spread = held(setup.parts, setup.strategy, setup.devices, setup.optimizer)
        self._whole = held(setup.parts, "ddp", 1, setup.optimizer)
        self._shares: dict[int | None, float] = {}

    def training(self, setting: Setting) -> int:
        """Peak of a training step on clips of so many frames."""
        setup = self.setup
        encode, _ = self.planner.encode(setup, setup.parts, setting.frames * setup.batch, True)
        activations = Activations.of(encode, self._training(setting), self._learn(setting.visual))
        setup.parts.let_learn(setup.kind.trains)
        pieces = self._pieces(self._spread, setting)
        return self.planner.device(setup, setup.parts, pieces, activations).peak

    def answering(self, setting: Setting) -> int:
        """Peak of an answer about a clip of so many frames."""
        encode, _ = self.planner.encode(self.asking, self.asking.parts, setting.frames, False)
        pieces = self._pieces(self._whole, setting)
        return answering_device(pieces, encode, self._answering(setting), self._answer(setting.visual))["peak"]

    def _pieces(self, own: dict[str, Held], setting: Setting) -> dict[str, Held]:
        """What parts hold where the compressor has the setting's number of parameters."""
        interval = setting.query_interval
        if interval not in self._shares:
            both = [self._parameters(options) for options in (setting.options, {})]
            self._shares[interval] = both[0] / both[1]
        share = self._shares[interval]
        mine = own["compressor"]
        sizes = (round(share * n) for n in (mine.weights, mine.gradients, mine.optimizer))
        return {**own, "compressor": Held(*sizes)}

    def _parameters(self, options: dict[str, int]) -> int:
        """Of the recipe's compressor with other options; layers after the first are alike."""
        config = self.setup.parts.compressor.config
        if not isinstance(config, SequenceCompressorConfig):
            return sum(p.numel() for p in self.setup.parts.compressor.parameters())
        sizes = {"d_vision": config.d_vision, "d_language": config.d_language, "grid": config.grid}
        counts = []
        for layers in (1, 2):
            with torch.device("meta"):
                small = build_compressor(**{**self.setup.spec, **sizes, **options, "num_layers": layers})
            counts.append(sum(p.numel() for p in small.parameters()))
        return counts[0] + (config.num_layers - 1) * (counts[1] - counts[0])

    def _plane(self, corners: list[Setting], setup: Setup, training: bool) -> Callable[[Setting], Learning]:
        found, batch = [], setup.batch if training else 1
        for setting in corners:
            parts = self.planner.with_compressor(setup, setting.options)
            _, dtype = self.planner.encode(setup, parts, setting.frames * batch, training)
            found.append(self.planner.compress(setup, parts, [setting.frames] * batch, dtype, training))
        patches = self.setup.parts.encoder.num_patches
        rows = np.array([_sizes(s, patches) for s in corners], dtype=float)
        scale = np.maximum(rows.max(0), 1.0)
        weights, *_ = np.linalg.lstsq(rows / scale, np.array([_numbers(f) for f in found], dtype=float), rcond=None)
        return lambda s: _learning((np.array(_sizes(s, patches)) / scale) @ weights)


def _sizes(setting: Setting, patches: int) -> list[int]:
    """What the bytes of a compressor grow with: patches, queries and visual tokens."""
    queries = setting.frames * patches // setting.query_interval if setting.query_interval else 0
    return [1, setting.frames * patches, queries, setting.visual]


def _corners(settings: Sequence[Setting]) -> list[Setting]:
    """Settings at the ends: fewest and most frames, and among the latter the largest interval and the largest stride."""
    least, most = min(s.frames for s in settings), max(s.frames for s in settings)
    first = min(settings, key=lambda s: (s.frames != least, s.query_interval or 0, s.temporal_stride or 0))
    last = [s for s in settings if s.frames == most]
    dense = min(last, key=lambda s: (s.query_interval or 0, s.temporal_stride or 0))
    sparse = max(last, key=lambda s: (s.query_interval or 0, -(s.temporal_stride or 0)))
    rare = max(last, key=lambda s: (s.temporal_stride or 0, -(s.query_interval or 0)))
    return list(dict.fromkeys([first, dense, sparse, rare]))


def _between(points: Sequence[int], found: Sequence[Measured]) -> Callable[[int], Measured]:
    """A cost at any number of tokens between those measured, on straight lines from one to the next."""
    table = np.array([_numbers(cost) for cost in found], dtype=float)  # [points, numbers]
    build = _learning if isinstance(found[0], Learning) else _answering

    def at(tokens: int) -> Any:
        return build(np.array([np.interp(tokens, points, column) for column in table.T]))

    return at


def _numbers(cost: Learning | Answering) -> list[int]:
    if isinstance(cost, Answering):
        return [*vars(cost.prefill).values(), cost.decode, cost.token, cost.cache, cost.peak]
    return [*vars(cost.forward).values(), *vars(cost.backward).values(), cost.gradients, cost.peak_with_gradients]


def _learning(numbers: np.ndarray) -> Learning:
    whole = [round(n) for n in numbers.tolist()]
    return Learning(Cost(*whole[:3]), Cost(*whole[3:6]), *whole[6:])


def _answering(numbers: np.ndarray) -> Answering:
    whole = [round(n) for n in numbers.tolist()]
    return Answering(Cost(*whole[:3]), *whole[3:])
