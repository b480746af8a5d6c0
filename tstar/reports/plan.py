"""What a recipe will take, before anything is trained: tokens, FLOPs, memory and steps of every stage, and of answering.

Nothing is loaded and nothing computed: modules of the recipe run on fake tensors, see :mod:`tstar.reports.plan_parts`.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from tstar.compressors.resampler import Resampler2D, Resampler3D
from tstar.compressors.shell import SequenceCompressor
from tstar.reports.plan_memory import Activations, Device, Held, answering_device, held, training_device
from tstar.reports.plan_parts import Parts, Workshop
from tstar.reports.plan_phases import Answering, Cost, Learning, Phases, joined_slices
from tstar.reports.plan_samples import Samples, stage_samples, steps_of
from tstar.reports.plan_setup import Asked, Setup, read_setup, weight_types
from tstar.stages import Stage


class Planner:
    """Measures stages; what several of them share is measured once.

    Args:
        asked: options.
        max_frames: most frames of a clip in the recipe's evaluation.
    """

    def __init__(self, asked: Asked, max_frames: int) -> None:
        self.asked = asked
        self.frames = tuple(sorted(set(asked.frames))) or tuple(sorted({1, max_frames}))
        self.workshop = Workshop()
        self._costs: dict[tuple, Any] = {}

    def setup(self, name: str, kind: type[Stage], config: dict[str, Any]) -> Setup:
        """A stage's settings and model."""
        return read_setup(name, kind, config, self.asked, self.workshop)

    def with_compressor(self, setup: Setup, changes: dict[str, Any]) -> Parts:
        """The stage's model with other options of the compressor."""
        spec = {**setup.spec, **changes}
        return self.workshop.parts(setup.vision, setup.language, spec, setup.lora, setup.dtypes)

    def for_answering(self, setup: Setup) -> Setup:
        """The stage as `tstar validate` loads it: on one device, no weights cast but by precisions that are true."""
        cast = setup.precision.cast("ddp")
        dtypes = {"encoder": cast, "compressor": cast, "language": cast or getattr(torch, setup.language.dtype)}
        parts = self.workshop.parts(setup.vision, setup.language, setup.spec, setup.lora, dtypes)
        return replace(setup, strategy="ddp", devices=1, parts=parts, dtypes=dtypes)

    # phases, each measured once

    def encode(self, setup: Setup, parts: Parts, frames: int, training: bool) -> tuple[Cost, torch.dtype]:
        """Frames to features, or stored features brought to the device."""
        if training and setup.stored_features:
            dtype = next(parts.encoder.parameters()).dtype
            size = frames * parts.encoder.num_patches * parts.encoder.d_vision
            return Cost(0, size * dtype.itemsize, size * (dtype.itemsize + 2)), dtype  # they come as float16
        phases, size = self._phases(setup, parts), min(parts.encoder.config.slice_size, frames)
        counts = [(size, frames // size), *([(frames % size, 1)] if frames % size else [])]
        slices = []
        for count, times in counts:
            key = ("encode", id(parts.encoder), count, training and phases.autocast)
            cost, dtype = self._once(key, partial(phases.encode_slice, count, training))
            slices.append((cost, times))
        return joined_slices(slices, frames * 3 * parts.encoder.image_size**2), dtype

    def compress(
        self, setup: Setup, parts: Parts, frame_counts: list[int], dtype: torch.dtype, training: bool
    ) -> Learning:
        """Features to visual tokens, and back."""
        phases = self._phases(setup, parts)
        trains = setup.kind.trains if training else frozenset()
        key = ("compress", id(parts.compressor), tuple(frame_counts), dtype, training and phases.autocast, trains)

        def measure() -> Learning:
            parts.let_learn(frozenset(trains))
            return phases.compress(frame_counts, dtype, training)

        return self._once(key, measure)

    def learn(self, setup: Setup, parts: Parts, batch: int, visual: int) -> Learning:
        """The language model's loss, and back."""
        phases, trains, asked = self._phases(setup, parts), setup.kind.trains, self.asked
        shape = (batch, visual, asked.text_tokens, asked.answer_tokens, setup.max_length)

        def measure() -> Learning:
            parts.let_learn(trains)
            return phases.learn(*shape)

        return self._once(("learn", id(parts.language), shape, phases.autocast, trains), measure)

    def answer(self, setup: Setup, parts: Parts, visual: int) -> Answering:
        """The language model's answer."""

        def measure() -> Answering:
            parts.let_learn(frozenset())
            return self._phases(setup, parts).answer(visual, self.asked.text_tokens, self.asked.answer_tokens)

        return self._once(("answer", id(parts.language), visual), measure)

    def _phases(self, setup: Setup, parts: Parts) -> Phases:
        return Phases(self.workshop.mode, parts, setup.precision.autocast(setup.strategy))

    def _once(self, key: tuple, measure: Callable[[], Any]) -> Any:
        if key not in self._costs:
            self._costs[key] = measure()
        return self._costs[key]

    # what is reported

    def training(self, setup: Setup, parts: Parts, frames: int) -> tuple[Device, dict[str, int], dict[str, Held]]:
        """One device's memory in a step on clips of so many frames, the step's FLOPs on all devices, and what parts hold."""
        batch = setup.batch
        encode, dtype = self.encode(setup, parts, frames * batch, True)
        compress = self.compress(setup, parts, [frames] * batch, dtype, True)
        learn = self.learn(setup, parts, batch, parts.compressor.num_tokens(frames))
        parts.let_learn(setup.kind.trains)
        pieces = held(parts, setup.strategy, setup.devices, setup.optimizer)
        device = self.device(setup, parts, pieces, Activations.of(encode, compress, learn))
        times = setup.devices * setup.accumulate
        flops = {
            "encode": times * encode.flops,
            "compress_forward": times * compress.forward.flops,
            "compress_backward": times * compress.backward.flops,
            "language_forward": times * learn.forward.flops,
            "language_backward": times * learn.backward.flops,
        }
        return device, flops | {"total": sum(flops.values())}, pieces

    def device(self, setup: Setup, parts: Parts, pieces: dict[str, Held], activations: Activations) -> Device:
        """One device's memory in a step of a stage."""
        return training_device(parts, pieces, activations, setup.spread)

    def answering(self, setup: Setup, parts: Parts, frames: int) -> tuple[dict[str, int], dict[str, int]]:
        """Memory and FLOPs of an answer about one clip on one device."""
        encode, dtype = self.encode(setup, parts, frames, False)
        compress = self.compress(setup, parts, [frames], dtype, False)
        answer = self.answer(setup, parts, parts.compressor.num_tokens(frames))
        parts.let_learn(frozenset())
        flops = {
            "encode": encode.flops,
            "compress": compress.forward.flops,
            "prefill": answer.prefill.flops,
            "decode": answer.decode,
        }
        flops |= {"total": sum(flops.values()), "decode_token": answer.token}
        return answering_device(held(parts, "ddp", 1, setup.optimizer), encode, compress, answer), flops

    def stage(self, setup: Setup) -> dict[str, Any]:
        """All about one stage."""
        parts, config = setup.parts, setup.config
        samples = stage_samples(config, setup.kind.__name__, self.asked.samples, self.asked.training_frames)
        device, flops, pieces = self.training(setup, parts, samples.frames)
        steps = steps_of(samples.count, setup.global_batch, config.get("trainer") or {})
        numbers = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.named().items()}
        parts.let_learn(setup.kind.trains)
        trained = {
            name: sum(p.numel() for p in part.parameters() if p.requires_grad) for name, part in parts.named().items()
        }
        return {
            "stage": setup.name,
            "class": setup.kind.__name__,
            "trains": sorted(setup.kind.trains),
            "compressor": setup.spec["name"],
            "parameters": numbers,
            "trained": trained,
            "tokens": [self.tokens(setup, frames) for frames in sorted({*self.frames, samples.frames})],
            "training": {
                "samples": samples.count,
                "samples_source": samples.source,
                "frames": samples.frames,
                "mean_frames": round(samples.mean_frames, 2),
                "frames_source": samples.frames_source,
                "batch": setup.batch,
                "devices": setup.devices,
                "accumulate": setup.accumulate,
                "global_batch": setup.global_batch,
                "steps": steps,
                "flops_per_step": flops,
                "flops": None if steps is None else steps * self._mean_flops(setup, samples, flops["total"]),
                "precision": setup.precision.name,
                "dtypes": weight_types(setup),
                "strategy": setup.strategy,
                "memory": device.as_data(),
                "parts": {name: vars(piece) for name, piece in pieces.items()},
            },
            "notes": self.notes(setup, samples),
        }

    def _mean_flops(self, setup: Setup, samples: Samples, longest: int) -> int:
        """FLOPs of a step on clips of the mean length, which is what a whole stage takes."""
        frames = max(round(samples.mean_frames), 1)
        return longest if frames == samples.frames else self.training(setup, setup.parts, frames)[1]["total"]

    def tokens(self, setup: Setup, frames: int, parts: Parts | None = None) -> dict[str, Any]:
        """Positions that a clip of so many frames takes."""
        parts = parts or setup.parts
        visual = parts.compressor.num_tokens(frames)
        length = visual + self.asked.text_tokens + self.asked.answer_tokens
        context = native_context(parts.language)
        return {
            "frames": frames,
            "visual": visual,
            "at_most": parts.compressor.may_give_fewer,
            "inside": inner_length(parts, frames),
            "length": length,
            "max_length": setup.max_length,
            "native_context": context,
            "fits": length <= min(setup.max_length, context or length),
        }

    def inference(self, setup: Setup) -> list[dict[str, Any]]:
        """Answers about clips of the frames asked for, by the last stage's model."""
        found, setup = [], self.for_answering(setup)
        for frames in self.frames:
            memory, flops = self.answering(setup, setup.parts, frames)
            found.append({**self.tokens(setup, frames), "flops": flops, "memory": memory})
        return found

    def notes(self, setup: Setup, samples: Samples) -> list[str]:
        """What a reader of the plan should know, a sentence each."""
        notes = []
        if setup.devices_unknown and self.asked.devices is None:
            notes.append("trainer.devices takes all there are: one is planned for; --devices N says how many")
        if setup.stored_features:
            notes.append(
                "data.features keeps what the encoder makes: a step does not encode, the first pass over the frames does"
            )
        row = self.tokens(setup, samples.frames)
        if row["length"] > setup.max_length:
            notes.append(
                f"sequences of {row['length']} are longer than max_length {setup.max_length} and lose their end, the answer"
            )
        if row["native_context"] and row["length"] > row["native_context"]:
            notes.append(
                f"sequences of {row['length']} are longer than the {row['native_context']} the language model was made for"
            )
        return notes


def inner_length(parts: Parts, frames: int) -> int | None:
    """Positions of the longest sequence inside the compressor; None where it has none."""
    compressor = parts.compressor
    patches = compressor.config.num_patches
    if isinstance(compressor, SequenceCompressor):
        each = patches + patches // compressor.config.interval
        return each if compressor.config.per_frame else frames * each
    if isinstance(compressor, Resampler2D):
        seen = frames * patches if isinstance(compressor, Resampler3D) else patches
        return seen + compressor.config.num_queries
    return None


def native_context(language: Any) -> int | None:
    """Positions that a language model was made for; None for one without positions."""
    return getattr(language.config, "max_position_embeddings", None)
