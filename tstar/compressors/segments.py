"""Clips in segments: layers over a sequence that is never in memory as a whole.

A causal layer needs the state after the segment before. A bidirectional one also needs its backward scan's state behind the
segment, so every layer reads its input twice: once from the end, for those states, and once from the start. What a layer
makes is spilled to a temporary file, where the next one reads it: M (N + Q) D numbers, 1.2 GB for an hour at one frame a second,
110 positions a frame and width 768, twice while a layer runs. The system's folder for such files (``TMPDIR``) must have that room,
and saves memory only if it is no memory itself.

Letters: L positions of a segment, D width.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from tstar.errors import DataError

State = Any
"""A layer's own: a named tuple of tensors."""
ReadSegment = Callable[[int], Tensor]
"""Number of a segment to its positions, [1, L, D]."""


class CausalLayer(Protocol):
    """A layer whose positions see those up to their own."""

    def stream(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Positions [B, L, D] after ``state`` (None: from the start), and the state after them."""


class TwoWayLayer(Protocol):
    """A layer made of a forward and a backward scan."""

    def look_back(self, x: Tensor, behind: State | None) -> State:
        """State of the backward scan at the first position, from that behind the last (None: the end)."""

    def mix_stretch(self, x: Tensor, before: State | None, behind: State | None) -> tuple[Tensor, State]:
        """Outputs between two states, and the state of the forward scan after them."""


class Spill:
    """Tensors in a temporary file that is gone once closed. Written and read, not mapped: mapped pages would count as memory."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="tstar-segments-")  # noqa: SIM115
        self._places: dict[object, tuple[int, torch.Size, torch.dtype, torch.device]] = {}

    def close(self) -> None:
        """Delete the file."""
        self._file.close()

    def put(self, key: object, tensor: Tensor) -> None:
        """Write a tensor; a key is used once."""
        place = self._file.seek(0, 2)
        try:
            self._file.write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
            self._file.flush()
        except OSError as error:
            raise DataError(
                f"cannot write what a segment leaves to a temporary file in {tempfile.gettempdir()} ({error}); "
                "make room there, or let TMPDIR name another folder"
            ) from error
        self._places[key] = (place, tensor.shape, tensor.dtype, tensor.device)

    def get(self, key: object) -> Tensor:
        """Read it back, to the device it was on."""
        place, shape, dtype, device = self._places[key]
        flat = torch.empty(shape.numel(), dtype=dtype)
        self._file.seek(place)
        data = flat.view(torch.uint8).numpy().data
        if self._file.readinto(data) != len(data):  # type: ignore[attr-defined]
            raise DataError("a temporary file of segments ends early")
        return flat.view(shape).to(device)


def run_causal(layers: Sequence[CausalLayer], read: ReadSegment, count: int) -> Iterator[Tensor]:
    """Outputs of the last layer, [1, L, D] of one segment after another."""
    states: list[State | None] = [None] * len(layers)
    for number in range(count):
        x = read(number)
        for i, layer in enumerate(layers):
            x, states[i] = layer.stream(x, states[i])
        yield x


def run_both_ways(layers: Sequence[TwoWayLayer], read: ReadSegment, count: int) -> Iterator[Tensor]:
    """As :func:`run_causal`, for at least one layer; ``read`` is asked for every segment but the first twice."""
    spills: list[Spill] = []
    try:
        for layer in layers[:-1]:
            spills.append(made := Spill())
            for number, x in enumerate(_one_layer(layer, read, count)):
                made.put(number, x)
            while len(spills) > 1:
                spills.pop(0).close()
            read = made.get
        yield from _one_layer(layers[-1], read, count)
    finally:
        for spill in spills:
            spill.close()


def _one_layer(layer: TwoWayLayer, read: ReadSegment, count: int) -> Iterator[Tensor]:
    states = Spill()
    try:
        state: State = None
        for number in reversed(range(1, count)):
            state = layer.look_back(read(number), state)
            for part, tensor in enumerate(state):
                states.put((number, part), tensor)
        before: State = None
        for number in range(count):
            behind = None
            if number < count - 1:
                behind = type(state)(*(states.get((number + 1, part)) for part in range(len(state))))
            x, before = layer.mix_stretch(read(number), before, behind)
            yield x
    finally:
        states.close()
