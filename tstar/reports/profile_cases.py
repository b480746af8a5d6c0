"""What ``tstar profile`` measures: cases, each one model that is shown so many frames, by one protocol, on one device.

From a video to the first word of an answer there are six parts, :data:`PARTS`. The protocol "parts" times each apart, and all of
them together; "paper" is the published protocol, all from decoded frames to the first word, and beside it without encoding.
"""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tstar.compressors import compressor_options
from tstar.errors import ConfigError, suggest

PARTS = {
    "decode": "a video file to frames as they were filmed",
    "preprocess": "frames to the encoder's squares, in one tensor in the host's memory",
    "encode": "squares to the device, normalised, and through the encoder to patch tokens",
    "compress": "patch tokens to visual tokens",
    "prefill": "visual tokens into the prompt's embeddings, and through the language model, keys and values kept",
    "first_token": "the last position through the output embeddings, and the likeliest token back to the host",
}
"""In their order, with what is inside the clock."""
FROM_VIDEO = ("decode", "preprocess")
ANSWER = ("encode", "compress", "prefill", "first_token")
"""What the paper's protocol times: from decoded frames on."""
LABELS = {
    "total": "total",
    "without_encoding": "without encoding",
    **{name: name.replace("_", " ") for name in PARTS},
}
"""What tables call the parts, all of them together, and all but the encoder."""
CARRIED = ("preset", "query_interval", "temporal_stride", "per_frame", "ssm")
"""Options of a recipe's compressor that another in its place takes over, where it has them."""
MODULES = {"encode": "encoder", "compress": "compressor", "prefill": "language model", "first_token": "language model"}
LIMITS = ("time_limit", "memory_limit_gib")
NAMES = ("group", "label", *LIMITS)
"""What does not decide a case's numbers."""
MINIATURE = ("miniature", "tiny")
PRECISIONS = ("fp32", "bf16", "fp16")

FAILED = "failed"
"""Status of a case that is tried again: its process ended for no reason that is known, or its video cannot be read."""
CUT, FREE = "cut", "free_bytes"
"""Keys of a result: whether the time limit left calls out, and what was free when one began that ran out of memory."""
RESET = "peaks_reset"
"""Key of a result's memory: whether what was needed before, in loading too, was forgotten."""

Protocol = Literal["paper", "parts"]


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model, as a stage of a recipe describes it."""

    stage: str
    """Import path of the stage's class."""
    vision: dict[str, Any]
    language: dict[str, Any]
    compressor: dict[str, Any]
    """Name, preset and options."""
    resized: str = "square"
    """How frames become the encoder's squares, see :func:`tstar.data.images.to_square`."""
    init_from: dict[str, str] | None = None
    """Weights files of parts that the checkpoint does not hold."""
    checkpoint: str | None = None
    """Trained weights; without, the compressor's are random."""
    digest: str | None = None
    """Of the checkpoint."""
    random: bool = False
    """All weights are random, and none are looked for."""

    @property
    def is_miniature(self) -> bool:
        """Whether anything in it has the miniature's size."""
        template, preset = self.language.get("template"), self.compressor.get("preset", "paper")
        return template in MINIATURE or preset in MINIATURE

    def weights(self, parts: Sequence[str]) -> str:
        """Where the weights of what runs come from, for people."""
        modules = list(dict.fromkeys(MODULES[part] for part in parts if part in MODULES))
        if self.checkpoint is not None:
            return f"weights of {self.checkpoint}"
        drawn = {"compressor"} if not self.random else set(modules)
        drawn |= {"encoder"} if self.vision.get("pretrained") == "random" else set()
        random = [name for name in modules if name in drawn]
        if not random:
            return "pretrained weights"
        if len(random) == len(modules):
            return "random weights"
        return f"{' and '.join(random)} with random weights, {' and '.join(n for n in modules if n not in drawn)} pretrained"

    def with_compressor(self, given: dict[str, Any]) -> "Model":
        """The same with another compressor; what its settings leave out is as in the present one where both have it."""
        name = given.get("name", self.compressor["name"])
        kept = dict(self.compressor)
        if name != self.compressor["name"]:
            preset = given.get("preset", kept.get("preset", "paper"))
            known = ("preset", *compressor_options(name, preset))
            kept = {key: value for key, value in kept.items() if key in CARRIED and key in known}
        return Model(**{**vars(self), "compressor": {**kept, **given, "name": name}})


@dataclass(frozen=True, kw_only=True)
class Case:
    """One measurement, in a process of its own."""

    model: Model
    frames: int
    protocol: Protocol
    parts: tuple[str, ...]
    """Neighbours in :data:`PARTS`."""
    device: str
    """As torch names it."""
    precision: str
    """Of :data:`PRECISIONS`. In half precision encoder and language model have weights of that type, the compressor's are fp32 and
    its operations cast."""
    matmul_precision: str
    """How fp32 matrices are multiplied, see :func:`tstar.nn.precision.matmul_precision`."""
    warmup: int
    samples: int
    text_tokens: int
    """Of a prompt beside the visual ones."""
    seed: int
    videos: tuple[str, ...] = ()
    """Files whose frames are taken; without, frames are random."""
    decoder: str = "auto"
    group: str = ""
    label: str = ""
    time_limit: float = 3600.0
    """Seconds, start and loading included."""
    memory_limit_gib: float | None = None
    """Most memory of the process, or of the device; default what is free."""

    def __post_init__(self) -> None:
        for name, least in (("frames", 1), ("samples", 1), ("warmup", 0), ("text_tokens", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least {least}, got {getattr(self, name)}")
        for name in LIMITS:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"--{name.replace('_', '-')} must be above 0, got {value:g}")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"unknown precision '{self.precision}'{suggest(self.precision, PRECISIONS)}")
        if self.protocol == "paper" and self.parts != ANSWER:
            raise ConfigError(
                "the paper's protocol is about a whole answer from decoded frames; --parts goes with --protocol parts"
            )
        check_parts(self.parts, bool(self.videos))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Case":
        """What :meth:`to_json` was of."""
        given = {**data, "model": Model(**data["model"])}
        return cls(**{**given, "parts": tuple(data["parts"]), "videos": tuple(data["videos"])})

    def to_json(self) -> dict[str, Any]:
        """In JSON types."""
        return {**asdict(self), "parts": list(self.parts), "videos": list(self.videos)}

    def identity(self) -> dict[str, Any]:
        """What decides its numbers, beside the machine."""
        return {key: value for key, value in self.to_json().items() if key not in NAMES}

    def limits(self) -> dict[str, Any]:
        """What may end it."""
        return {name: getattr(self, name) for name in LIMITS}

    @property
    def title(self) -> str:
        """For progress lines."""
        how = "" if self.protocol == "parts" else ", the paper's protocol"
        return f"{self.label}, {self.frames:,} frames{how}"


def check_parts(parts: Sequence[str], videos: bool) -> None:
    """Refuse parts that cannot be measured in a row.

    Args:
        parts: in any order.
        videos: whether there are video files.
    """
    if not parts:
        raise ConfigError(f"--parts needs at least one of {', '.join(PARTS)}")
    for name in parts:
        if name not in PARTS:
            raise ConfigError(f"--parts: unknown part '{name}'{suggest(name, PARTS)}")
    places = sorted(list(PARTS).index(name) for name in parts)
    gap = next((a for a, b in itertools.pairwise(places) if b != a + 1), None)
    if gap is not None:
        raise ConfigError(f"--parts must follow one another: {list(PARTS)[gap + 1]} is missing in {', '.join(parts)}")
    if list(PARTS)[places[0]] == "preprocess":
        raise ConfigError("--parts: preprocess takes the frames that decode gives; name decode too")
    if "decode" in parts and not videos:
        raise ConfigError("--parts: decode and preprocess need --videos DIR")


def in_order(parts: Sequence[str]) -> tuple[str, ...]:
    """Parts as they follow one another."""
    return tuple(name for name in PARTS if name in parts)
