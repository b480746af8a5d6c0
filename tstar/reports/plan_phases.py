"""What one clip's way through a model takes, phase by phase: FLOPs, and the bytes that stay and that are needed at most.

Phases are measured apart and put together, so that stages and settings share them. Weights and finished gradients of parameters are
not among the bytes; see :mod:`tstar.reports.plan_memory`. Of a stack of layers that are alike, one and two are run, and what the
second adds stands for each further one.

Letters: M frames of a clip, B samples, T visual tokens of a sample, P positions of a sample, D width of the language model.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tstar.reports.plan_flops import Meter, clustering_flops
from tstar.reports.plan_parts import Parts, recurrent_state_bytes, shapes_only

Measured = TypeVar("Measured", "Learning", "Answering")

SHORT = (1, 2)
"""Layers of a stack that are run."""


def _stretch(one: int, two: int, more: int) -> int:
    """A number with ``more`` layers than one, each adding what the second did."""
    return one + more * (two - one)


@dataclass(frozen=True)
class Cost:
    """One phase."""

    flops: int = 0
    kept: int = 0
    """Bytes it leaves: its results, and after a forward pass what the backward pass needs."""
    peak: int = 0
    """Most bytes at once, those it leaves among them."""

    def stretch(self, longer: "Cost", more: int, held: int) -> "Cost":
        """With ``more`` layers, from the costs of one (this) and two; ``held`` bytes of a layer are there at the peak."""
        return Cost(
            _stretch(self.flops, longer.flops, more),
            _stretch(self.kept, longer.kept, more),
            # what is held grows with layers, what is made on the way is that of the last one
            longer.peak + (more - 1) * held,
        )


@dataclass(frozen=True)
class Learning:
    """A part of a training step."""

    forward: Cost
    backward: Cost = Cost()
    """Its peak without gradients of parameters."""
    gradients: int = 0
    """Bytes of gradients of parameters at the end."""
    peak_with_gradients: int = 0
    """Of the backward pass, gradients counted from where they are finished."""

    def stretch(self, longer: "Learning", more: int) -> "Learning":
        """As :meth:`Cost.stretch`."""
        held = longer.forward.kept - self.forward.kept
        grown = longer.gradients - self.gradients
        return Learning(
            self.forward.stretch(longer.forward, more, held),
            self.backward.stretch(longer.backward, more, held if self.backward.flops else 0),
            _stretch(self.gradients, longer.gradients, more),
            # the worst moment is before the first layer's gradients or after the last one's
            longer.peak_with_gradients + (more - 1) * (max(held, grown) if self.backward.flops else 0),
        )


@dataclass(frozen=True)
class Answering:
    """A language model's part of an answer."""

    prefill: Cost
    decode: int
    """FLOPs of all tokens after the first, which the prompt gives."""
    token: int
    """FLOPs of the first of those."""
    cache: int
    """Bytes of keys and values, or states, at the end."""
    peak: int

    def stretch(self, longer: "Answering", more: int) -> "Answering":
        """As :meth:`Cost.stretch`."""
        held = longer.cache - self.cache
        return Answering(
            self.prefill.stretch(longer.prefill, more, longer.prefill.kept - self.prefill.kept),
            _stretch(self.decode, longer.decode, more),
            _stretch(self.token, longer.token, more),
            _stretch(self.cache, longer.cache, more),
            longer.peak + (more - 1) * held,
        )


@dataclass(frozen=True)
class Phases:
    """Runs phases of a model."""

    mode: FakeTensorMode
    parts: Parts
    autocast: torch.dtype | None = None
    """Of training; answers are given in the weights' types."""

    def encode_slice(self, frames: int, training: bool) -> tuple[Cost, torch.dtype]:
        """Frames that are encoded at once, to features, and their type."""
        encoder = self.parts.encoder
        with self._run(encoder) as meter:
            pixels = meter.adopt(torch.empty(frames, 3, encoder.image_size, encoder.image_size, dtype=torch.uint8))
            with self._cast(training), torch.no_grad():
                features = encoder.encode(encoder.normalise(pixels))
            return Cost(meter.flops, features.nbytes, meter.peak), features.dtype

    def compress(self, frame_counts: list[int], dtype: torch.dtype, training: bool) -> Learning:
        """Features of some clips to visual tokens; features themselves are not counted."""
        return by_layers(self.parts.compressor, lambda: self._compress(frame_counts, dtype, training))

    def _compress(self, frame_counts: list[int], dtype: torch.dtype, training: bool) -> Learning:
        compressor = self.parts.compressor
        grid = compressor.config.num_patches, compressor.config.d_vision
        learns = training and any(p.requires_grad for p in compressor.parameters())
        with self._run(compressor) as meter:
            features = meter.adopt(torch.empty(sum(frame_counts), *grid, dtype=dtype))
            with self._cast(training), torch.set_grad_enabled(learns):
                tokens = compressor(features, frame_counts)
                forward = Cost(meter.flops, meter.live, meter.peak)
            forward = replace(forward, flops=forward.flops + clustering_flops(compressor.config, frame_counts))
            if not learns:
                return Learning(forward)
            gradients = [meter.adopt(torch.empty_like(t)) for t in tokens]
            return self._backward(meter, compressor, tokens, gradients, forward)

    def learn(self, batch: int, visual: int, text: int, answer: int, max_length: int) -> Learning:
        """Loss of a batch of sequences, and its gradients.

        Args:
            batch: B.
            visual: T.
            text: tokens of the prompt.
            answer: supervised tokens, at the end.
            max_length: longer sequences lose their end.
        """
        return by_layers(self.parts.language, lambda: self._learn(batch, visual, text, answer, max_length))

    def _learn(self, batch: int, visual: int, text: int, answer: int, max_length: int) -> Learning:
        language: Any = self.parts.language
        sees = any(p.requires_grad for p in self.parts.compressor.parameters())
        trained = any(p.requires_grad for p in language.parameters())
        with self._run(language) as meter:
            dtype = self._embedding_dtype()
            tokens = meter.adopt(torch.empty(batch, visual, self.parts.d_language, dtype=dtype)).requires_grad_(sees)
            ids = torch.zeros(batch, text + answer, dtype=torch.long)
            with self._cast(True), torch.set_grad_enabled(sees or trained):
                rows = torch.cat([tokens, language.get_input_embeddings()(ids)], 1)[:, :max_length]
                embeds = torch.zeros_like(rows)
                embeds[:] = rows  # splicing pads rows of different length into one tensor
                del rows
                hidden = language.base_model(inputs_embeds=embeds, use_cache=False)[0]  # [B, P, D]
                chosen = hidden[:, :-1][:, -answer:].flatten(0, 1)
                logits = self._head(chosen).float()  # [B * answer, vocabulary]
                targets = torch.zeros(len(logits), dtype=torch.long)
                losses = F.cross_entropy(logits, targets, reduction="none")
                loss = (losses * torch.ones_like(losses)).sum() / len(logits)
                del hidden, chosen, logits, losses, embeds
                forward = Cost(meter.flops, meter.live, meter.peak)
            return self._backward(meter, language, [loss], None, forward)

    def answer(self, visual: int, text: int, answer: int) -> Answering:
        """A greedy answer to one prompt: the prompt as a whole, then a token at a time."""
        return by_layers(self.parts.language, lambda: self._answer(visual, text, answer))

    def _answer(self, visual: int, text: int, answer: int) -> Answering:
        language: Any = self.parts.language
        with self._run(language) as meter, torch.no_grad():
            dtype, width = self._embedding_dtype(), self.parts.d_language
            prompt = meter.adopt(torch.empty(1, visual + text, width, dtype=dtype))
            token = meter.adopt(torch.empty(1, 1, width, dtype=dtype))
            recurrent = recurrent_state_bytes(language)
            cache = {} if recurrent else _empty_cache(language)

            def step(embeds: Tensor) -> tuple[int, int]:
                before = meter.flops
                hidden = language.base_model(inputs_embeds=embeds, use_cache=bool(cache), **cache)[0]
                self._head(hidden[:, -1:])
                return meter.flops - before, _cache_bytes(cache)

            flops, held = step(prompt)
            prefill = Cost(flops, held, meter.peak)
            first, grown = step(token)
            second, _ = step(token)
            steps = answer - 1
            decode = steps * first + (second - first) * steps * (steps - 1) // 2
            final = held + steps * (grown - held)
            return Answering(prefill, decode, first, final + recurrent, meter.peak + final - held + recurrent)

    def _head(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., D] to logits [..., vocabulary]."""
        head: Any = self.parts.language.get_output_embeddings()  # type: ignore[operator]
        return head(hidden.to(head.weight.dtype))

    def _embedding_dtype(self) -> torch.dtype:
        embeddings: Any = self.parts.language.get_input_embeddings()  # type: ignore[operator]
        return embeddings.weight.dtype

    @contextmanager
    def _run(self, part: nn.Module) -> Iterator[Meter]:
        known = [*part.parameters(), *part.buffers()]
        with shapes_only(), self.mode, Meter(known) as meter:
            yield meter
        for parameter in part.parameters():
            parameter.grad = None

    def _cast(self, training: bool) -> Any:
        if not training or self.autocast is None:
            return nullcontext()
        # as Lightning: casts are not kept for another use
        return torch.autocast("cpu", self.autocast, cache_enabled=False)

    def _backward(
        self, meter: Meter, part: nn.Module, outputs: list[Tensor], gradients: list[Tensor] | None, forward: Cost
    ) -> Learning:
        handles = meter.watch(p for p in part.parameters() if p.requires_grad)
        meter.restart()
        roots = [n for n, output in enumerate(outputs) if output.requires_grad]
        if roots:
            torch.autograd.backward([outputs[n] for n in roots], gradients and [gradients[n] for n in roots])
        for handle in handles:
            handle.remove()
        backward = Cost(meter.flops, meter.live - meter.gradients, meter.peak_without_gradients)
        return Learning(forward, backward, meter.gradients, meter.peak)


def joined_slices(slices: list[tuple[Cost, int]], pixels: int) -> Cost:
    """All frames to features, slice by slice: memory holds frames, a slice's insides, and features twice when they are joined.

    Args:
        slices: cost of a slice, and how many there are of it.
        pixels: bytes of the frames.
    """
    features = sum(cost.kept * times for cost, times in slices)
    work = max(cost.peak - cost.kept for cost, _ in slices)
    flops = sum(cost.flops * times for cost, times in slices)
    return Cost(flops, pixels + features, pixels + features + max(work, features))


def by_layers(part: nn.Module, measure: Callable[[], Measured]) -> Measured:
    """What ``measure`` gives for a part with a stack of like layers, from runs with few of them."""
    stack = alike_layers(part)
    if stack is None:
        return measure()
    layers = dict(stack._modules)
    found: list[Any] = []
    try:
        for count in SHORT:
            stack._modules = dict(list(layers.items())[:count])
            found.append(measure())
    finally:
        stack._modules = layers
    return found[0].stretch(found[1], len(layers) - SHORT[0])


def alike_layers(part: nn.Module) -> nn.ModuleList | None:
    """The longest stack of layers of a part if they are of one kind, shape and attention, and so many that it is worth it."""
    stacks = [m for m in part.modules() if isinstance(m, nn.ModuleList) and len(m) > 2 * SHORT[1]]
    if not stacks:
        return None
    stack = max(stacks, key=len)
    kinds = {(type(layer), *((name, p.shape) for name, p in layer.named_parameters())) for layer in stack}
    attention = set(getattr(getattr(part, "config", None), "layer_types", None) or ())
    return stack if len(kinds) == 1 and len(attention) < 2 else None


def _empty_cache(language: Any) -> dict[str, Any]:
    """An empty cache of keys and values, under the name that this version of transformers has for it."""
    from transformers import DynamicCache

    known = inspect.signature(language.base_model.forward).parameters
    return {"cache" if "cache" in known else "past_key_values": DynamicCache(config=language.config)}


def _cache_bytes(cache: dict[str, Any]) -> int:
    layers = [layer for held in cache.values() for layer in held.layers]
    return sum(t.nbytes for layer in layers for t in (layer.keys, layer.values) if t is not None)
