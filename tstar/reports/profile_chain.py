"""A model's parts in a row, from a video to the first token of an answer, each a call that can be timed.

Only what is measured is built: an encoder that does not run is known by its shapes.

Letters: M frames of a clip, S side of a square, N patch tokens of a frame, T visual tokens, P positions of the prompt with them, D
width of the language model.
"""

import importlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from tstar.compressors import Compressor, build_compressor
from tstar.data.decoding import take_frames
from tstar.data.frame_sampling import FrameSampling
from tstar.data.frame_tensors import frames_to_tensor
from tstar.data.images import to_square
from tstar.errors import DataError
from tstar.language import LanguageConfig
from tstar.language.backbones import skeleton, with_random_weights
from tstar.language.lora import adapters_of, add_adapters
from tstar.language.splice import VISUAL, splice
from tstar.reports.measured_cost import PeakMeter, timed
from tstar.reports.profile_cases import FROM_VIDEO, Case, Model
from tstar.vision import OpenClipTower, VisionConfig, VisionEncoder

if TYPE_CHECKING:
    from tstar.stages import Stage

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
AT_ANY_RATE = 1e6
"""Frames a second that no video has: of each as many frames are taken as a case asks for, evenly in time."""
REHEARSED = 3
"""Frames of the first call, which compiles kernels and lets libraries make what they keep."""


class UnreadableVideoError(DataError):
    """A video cannot be decoded: its cases fail, others may do."""


@dataclass
class Seen:
    """What was decoded."""

    distinct: int = 0
    """Fewest different frames of a video; a short one gives some of its frames several times."""
    decoders: tuple[str, ...] = ()


class Chain:
    """The parts of a case in a row.

    Args:
        case: what is measured.
        encoder, compressor: the model's, on the device, or on torch's meta device where they do not run.
        language: the causal language model of transformers, likewise.
    """

    def __init__(self, case: Case, encoder: VisionEncoder, compressor: Compressor, language: Any) -> None:
        self.case, self.encoder, self.compressor, self.language = case, encoder, compressor, language
        self.half = HALF.get(case.precision)
        self.computed = tuple(part for part in case.parts if part not in FROM_VIDEO)
        self.seen = Seen()
        self.visual_tokens: int | None = None
        """Of the last clip that was compressed."""
        ids = torch.randint(self.vocabulary, (case.text_tokens,), generator=self._seeded())
        self.prompt = torch.cat([ids[:1], torch.tensor([VISUAL]), ids[1:]]).to(case.device)

    @property
    def vocabulary(self) -> int:
        """Rows of the language model's embeddings."""
        return self.language.get_input_embeddings().weight.shape[0]

    @property
    def d_language(self) -> int:
        """D."""
        return self.language.get_input_embeddings().weight.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Of features and of the language model's weights."""
        return self.half or torch.float32

    def _seeded(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.case.seed)

    # what goes in

    def inputs(self) -> Iterator[Any]:
        """What the first part is given, time after time: videos by turns, or always the same."""
        if "decode" in self.case.parts:
            return itertools.cycle(self.case.videos)
        if self.case.videos and self.computed[0] == "encode":
            return itertools.repeat(self.read(self.case.videos[0])[0])
        return itertools.repeat(self.example(self.case.frames))

    def example(self, frames: int) -> Any:
        """Random input of the first part that computes, as of so many frames."""
        draw, device = self._seeded(), self.case.device
        if self.computed[0] == "encode":
            side = self.encoder.image_size
            return torch.randint(256, (frames, side, side, 3), dtype=torch.uint8, generator=draw).permute(0, 3, 1, 2)
        if self.computed[0] == "compress":
            shape = (frames, self.encoder.num_patches, self.encoder.d_vision)
        elif self.computed[0] == "prefill":
            shape = (self.compressor.num_tokens(frames), self.d_language)  # type: ignore[assignment]
        else:
            shape = (1, 1, self.d_language)
        made = torch.randn(shape, generator=draw, dtype=self.dtype).to(device)
        return (made,) if self.computed[0] == "first_token" else made

    def rehearse(self) -> None:
        """Compute a few frames once, so that what is compiled or kept from then on is no cost of the case."""
        if self.computed:
            self.compute(self.example(min(REHEARSED, self.case.frames)))

    # the parts

    def read(self, path: str) -> tuple[Tensor, dict[str, float]]:
        """The case's frames of a video, uint8 [M, 3, S, S], and the seconds that decoding and squares took.

        Frames are made squares as they come, so that they are never all there as they were filmed.

        Raises:
            UnreadableVideoError: it is missing, damaged or of an unknown kind.
        """
        side, spent, squares = self.encoder.image_size, 0.0, self.case.parts[-1] != "decode"

        def make(frame: np.ndarray) -> np.ndarray:
            nonlocal spent
            begun = time.perf_counter()
            square = to_square(frame, side, self.case.model.resized) if squares else frame[:0]
            spent += time.perf_counter() - begun
            return square

        begun = time.perf_counter()
        sampling = FrameSampling(fps=AT_ANY_RATE, max_frames=self.case.frames)
        try:
            taken = take_frames(path, sampling, self.case.decoder, make)
        except DataError as error:
            raise UnreadableVideoError(str(error)) from error
        decoded = time.perf_counter()
        frames = frames_to_tensor(taken.items, len(taken.items), side) if squares else torch.empty(0)
        ended = time.perf_counter()
        distinct = len(set(taken.timestamps))
        self.seen.distinct = min(self.seen.distinct or distinct, distinct)
        self.seen.decoders = tuple(sorted({*self.seen.decoders, taken.decoder}))
        return frames, {"decode": decoded - begun - spent, "preprocess": spent + ended - decoded}

    def encode(self, frames: Tensor) -> Tensor:
        """uint8 [M, 3, S, S] on the host to [M, N, d_vision]."""
        return self.encoder(frames.to(self.case.device))

    def compress(self, features: Tensor) -> Tensor:
        """[M, N, d_vision] to [T, D]."""
        (tokens,) = self.compressor(features, [len(features)])
        self.visual_tokens = len(tokens)
        return tokens

    def prefill(self, tokens: Tensor) -> Any:
        """[T, D] to what the language model gives: hidden states [1, P, D], and what it keeps for the next token."""
        batch = splice(self.language.get_input_embeddings(), [self.prompt], [tokens])
        return self.language.base_model(inputs_embeds=batch.embeds, use_cache=True)

    def first_token(self, read: Any) -> int:
        """The likeliest token after a prompt that was read."""
        logits = self.language.get_output_embeddings()(read[0][:, -1:])  # [1, 1, vocabulary]
        return int(logits.argmax())

    def _part(self, name: str) -> Callable[[Any], Any]:
        return getattr(self, name)

    def step(self, name: str, given: Any) -> Any:
        """One part."""
        kind = torch.device(self.case.device).type
        with torch.no_grad(), torch.autocast(kind, self.half, enabled=self.half is not None):
            return self._part(name)(given)

    def compute(self, given: Any, after: str | None = None) -> Any:
        """The parts that compute, one after the other; those behind one of them only, where it is named."""
        for name in self.computed[self.computed.index(after) + 1 if after else 0 :]:
            given = self.step(name, given)
        return given

    def through(self, given: Any) -> Any:
        """All parts of the case, one after the other."""
        return self.compute(self.read(given)[0] if "decode" in self.case.parts else given)

    # their cost

    def by_parts(self, given: Any, meter: PeakMeter) -> tuple[dict[str, float], dict[str, int]]:
        """Seconds of each part, and peaks; reading a video is one peak, called "decode"."""
        seconds: dict[str, float] = {}
        peaks: dict[str, int] = {}
        if "decode" in self.case.parts:
            meter.restart()
            given, times = self.read(given)
            seconds |= {name: times[name] for name in FROM_VIDEO if name in self.case.parts}
            peaks["decode"] = meter.peak()
        for name in self.computed:
            meter.restart()
            seconds[name], given = timed(partial(self.step, name, given), self.case.device)
            peaks[name] = meter.peak()
        return seconds, peaks

    def held(self) -> dict[str, nn.Module]:
        """The modules that run."""
        found = {
            "encoder": (self.encoder, {"encode"}),
            "compressor": (self.compressor, {"compress"}),
            "language": (self.language, {"prefill", "first_token"}),
        }
        return {name: module for name, (module, parts) in found.items() if parts & set(self.computed)}


def build_chain(case: Case) -> Chain:
    """The case's model as far as it runs, in its types and on its device, without gradients."""
    torch.manual_seed(case.seed)
    model, half = case.model, HALF.get(case.precision)
    if model.checkpoint is not None:
        lmm = load_stage(model).lmm
        encoder, compressor, language = lmm.encoder, lmm.compressor, lmm.language.model
    else:
        encoder = _encoder(model, "encode" in case.parts)
        language = _language(model, case, {"prefill", "first_token"} & set(case.parts))
        width = language.get_input_embeddings().weight.shape[1]
        sizes = {"d_vision": encoder.d_vision, "d_language": width, "grid": encoder.grid}
        with torch.device("cpu" if "compress" in case.parts else "meta"):
            compressor = build_compressor(**sizes, **model.compressor)
    chain = Chain(case, encoder, compressor, language)
    for name, module in chain.held().items():
        module.requires_grad_(False).eval().to(case.device)
        if half is not None and name != "compressor":
            module.to(half)
    return chain


def _encoder(model: Model, runs: bool) -> OpenClipTower:
    config = VisionConfig(**model.vision)
    if not runs:
        return OpenClipTower.skeleton(config)
    return (replace(config, pretrained="random") if model.random else config).build()


def _language(model: Model, case: Case, runs: Any) -> Any:
    config = language_config(model)
    dtype: Any = str(HALF.get(case.precision, torch.float32)).removeprefix("torch.")
    if not runs:
        return skeleton(config.path, dtype)
    if model.random:
        drawn = with_random_weights(config.path, dtype, config.attention, case.device)
        if config.lora is not None:
            add_adapters(drawn, config.lora)
        return drawn
    return replace(config, dtype=dtype, gradient_checkpointing=False).build().model


def language_config(model: Model) -> LanguageConfig:
    """Settings of the language model, adapters included."""
    settings = {key: value for key, value in model.language.items() if key != "lora"}
    return LanguageConfig(**settings, lora=adapters_of(model.language))


def load_stage(model: Model) -> "Stage":
    """The stage of a checkpoint with its weights."""
    from tstar.stages.checkpoint_io import load_checkpoint  # with Lightning, which takes seconds

    assert model.checkpoint is not None
    checkpoint = load_checkpoint(Path(model.checkpoint))
    module, _, name = model.stage.rpartition(".")
    stage = getattr(importlib.import_module(module), name)(
        vision=VisionConfig(**model.vision),
        language=language_config(model),
        compressor=model.compressor,
        init_from=model.init_from,
    )
    stage.check_frozen(checkpoint["tstar"]["frozen"])
    stage.load_state_dict(checkpoint["state_dict"])
    return stage
