"""Settings of an evaluation: which suites, where they lie, and how a model looks at their media."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tstar.data.aside import MOST_SECONDS
from tstar.data.cores import usable_cores
from tstar.data.decoding import DECODERS
from tstar.data.frame_sampling import FrameChoice, FrameSampling, SegmentMiddles
from tstar.errors import ConfigError, suggest
from tstar.evaluation import Benchmark, get_benchmark
from tstar.evaluation.base import check_rules
from tstar.evaluation.items import Rules
from tstar.evaluation.prediction_store import BASELINES, MODES

MISSING_MEDIA = ("stop", "score_rest")
FRAME_CHOICES = ("uniform", "segments")
PLACE_KEYS = ("annotations", "media")
ANSWER_TOKENS = 16
"""Longest answer where neither the settings nor the benchmark say."""
MOST_WORKERS = 4
"""Of one process, where none are set."""


class Place(NamedTuple):
    """Where a suite lies."""

    annotations: Path
    """The official file, or the folder that holds the official files."""
    media: Path
    """The folder that items' paths start from, or a tar."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Which suites are run, and how the model looks at their videos."""

    benchmarks: dict[str, str | dict[str, str]] = field(default_factory=dict)
    """Folder of each suite by name, with annotations and media as published; or {annotations: PATH, media: PATH}, of which media
    is the folder of the annotations if it is left out."""
    fps: float = 10.0
    """Frames a second."""
    max_frames: int = 128
    """Most frames of one video; may exceed what training used."""
    frame_choice: Literal["uniform", "segments"] = "uniform"
    """uniform: evenly from the start, by fps and max_frames; segments: always max_frames, the middles of equal parts, as MVBench's
    authors take them."""
    decoder: str = "auto"
    """auto, decord, pyav or torchcodec."""
    max_new_tokens: int | None = None
    """Longest answer; default the benchmark's own, else 16."""
    batch_size: int = 16
    """Questions answered at once, of videos with equal numbers of frames."""
    workers: int | None = None
    """Processes that decode ahead; 0 decodes in a thread of this one. Default half the cores that are there, at most 4."""
    time_limit: float = 1800.0
    """Seconds that a worker may read one file; then its questions fail."""
    missing_media: Literal["stop", "score_rest"] = "stop"
    """Where media of a suite are not there: stop before anything is asked, or score_rest: ask the other questions."""
    rules: Rules = "official"
    """Whose scoring: the benchmark's own, accidents included; one strict rule for all; or lmms-eval's, for benchmarks it has."""
    baselines: bool | list[str] = True
    """At the end, also ask with the frames in a random order (shuffled), with the middle frame only (single_frame), and without
    the video (blind); or a list of those wanted."""
    validation_items: int = 32
    """Questions of each suite during training; 0 leaves the suites to the end."""

    def __post_init__(self) -> None:
        FrameSampling(fps=self.fps, max_frames=self.max_frames)
        check_rules(self.rules)
        if not isinstance(self.benchmarks, dict):
            raise ConfigError(
                f"evaluation.benchmarks must give each suite its folder, or be {{}} for none; got {self.benchmarks}"
            )
        for name, place in self.benchmarks.items():
            get_benchmark(name).check_rules(self.rules)
            place_of(name, place)
        leasts = {"max_new_tokens": 1, "batch_size": 1, "validation_items": 0, "workers": 0}
        for name, least in leasts.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"evaluation.{name} must be at least {least}, got {value}")
        if not 0 < self.time_limit <= MOST_SECONDS:
            raise ConfigError(
                f"evaluation.time_limit must be above 0 and at most {MOST_SECONDS:,} seconds, got {self.time_limit}"
            )
        for name, known in (
            ("decoder", ("auto", *DECODERS)),
            ("missing_media", MISSING_MEDIA),
            ("frame_choice", FRAME_CHOICES),
        ):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"unknown evaluation.{name} '{getattr(self, name)}'{suggest(getattr(self, name), known)}"
                )
        chosen_modes(self.baselines)

    @property
    def modes(self) -> tuple[str, ...]:
        """What is measured at the end."""
        return chosen_modes(self.baselines)

    @property
    def sampling(self) -> FrameChoice:
        """Which frames of a video are looked at."""
        if self.frame_choice == "segments":
            return SegmentMiddles(self.max_frames)
        return FrameSampling(fps=self.fps, max_frames=self.max_frames)

    def frames_text(self, mode: str = "full") -> str:
        """Which frames of a video are shown in ``mode``, as stored answers are known by."""
        shown = (
            f"{self.max_frames} at {self.fps:g} fps"
            if self.frame_choice == "uniform"
            else f"{self.max_frames} segments"
        )
        shown += f" by {self.decoder}" if self.decoder != "auto" else ""
        apart = {"blind": "none", "single_frame": f"middle of {shown}", "shuffled": f"shuffled {shown}"}
        return apart.get(mode, shown)

    def place(self, name: str) -> Place:
        """Where suite ``name`` lies."""
        return place_of(name, self.benchmarks[name])

    def answer_tokens(self, benchmark: Benchmark) -> int:
        """Longest answer to a question of ``benchmark``."""
        return self.max_new_tokens or benchmark.max_new_tokens or ANSWER_TOKENS

    def decoding_workers(self, processes: int = 1) -> int:
        """Processes that decode ahead for each of the ``processes`` that ask, all of them taken to share this machine's cores."""
        if self.workers is not None:
            return self.workers
        return min(MOST_WORKERS, max(1, usable_cores() // (2 * processes)))


def place_of(name: str, given: Any) -> Place:
    """Annotations and media by what ``evaluation.benchmarks`` says of a suite; ConfigError if that is neither path nor mapping."""
    key = f"evaluation.benchmarks.{name}"
    if isinstance(given, (str, Path)):
        given = {"annotations": given}
    for part, path in given.items() if isinstance(given, Mapping) else ():
        if part not in PLACE_KEYS:
            raise ConfigError(f"unknown key '{key}.{part}'{suggest(str(part), PLACE_KEYS)}")
        if not isinstance(path, (str, Path)):
            raise ConfigError(f"{key}.{part} must be a path, got {path!r}")
    if not isinstance(given, Mapping) or "annotations" not in given:
        raise ConfigError(f"{key} must be a folder or {{annotations: PATH, media: PATH}}, got {given!r}")
    annotations = Path(given["annotations"])
    beside = annotations.parent if annotations.is_file() else annotations
    return Place(annotations, Path(given["media"]) if "media" in given else beside)


def chosen_modes(baselines: Any) -> tuple[str, ...]:
    """The modes that ``evaluation.baselines`` asks for: true is all, false none, else a list; ConfigError for anything else."""
    if isinstance(baselines, bool):
        return MODES if baselines else MODES[:1]
    if not isinstance(baselines, (list, tuple)):
        raise ConfigError(
            f"evaluation.baselines must be true, false or a list of {', '.join(BASELINES)}, got {baselines!r}"
        )
    for mode in baselines:
        if mode not in BASELINES:
            raise ConfigError(f"unknown evaluation.baselines '{mode}'{suggest(str(mode), BASELINES)}")
    return tuple(mode for mode in MODES if mode == "full" or mode in baselines)
