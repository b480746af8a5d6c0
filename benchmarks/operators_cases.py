"""Measurements of the operator benchmark that need a process of their own, for an honest peak or another instruction set.

    python benchmarks/operators_cases.py CASE SETTINGS

is how ``operators.py`` calls it; the last line it prints is JSON.
"""

import json
import sys
import time
from functools import partial
from typing import Any

import torch
from operators_kernels import layer_work
from operators_peers import layers
from operators_settings import POSITIONS_PER_FRAME, Settings, generator
from timing import Timing, measure, to_json
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from tstar.compressors import build_compressor
from tstar.compressors.shell import SequenceCompressor
from tstar.reports.measured_cost import peak_of

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::linear", "aten::mkldnn_linear")
"""Operations whose own time is a matrix product's; own times do not overlap, so none is counted twice."""


def layer_peak(case: dict[str, Any]) -> dict[str, Any]:
    """Memory that one forward call of a layer needs beyond its weights and its input, the output included."""
    settings = Settings.from_json(case["settings"])
    layer = layers(case["version"], settings)[case["whose"]]
    x = torch.randn(1, case["length"], settings.d_model, generator=generator(settings))
    layer_work(layer, x[:, :64].contiguous(), case["precision"])()  # compiles kernels, which needs memory once
    return {"peak_bytes": peak_of(layer_work(layer, x, case["precision"]))}


def stack(case: dict[str, Any]) -> dict[str, Any]:
    """The layers of the published compressor on one clip: peak, time, and the share of matrix products."""
    settings = Settings.from_json(case["settings"])
    compressor = compressor_of(settings).eval()
    x = clip(compressor, settings.frames, settings.seed)
    body_work(compressor, clip(compressor, 1, settings.seed))()  # compiles kernels
    peak = peak_of(body_work(compressor, x))
    timing = measure(body_work(compressor, x), settings.seconds)
    products, everything, by_name = own_times(compressor, x)
    a, b = torch.randn(2, settings.matmul, settings.matmul, generator=generator(settings)).bfloat16()
    rate = 2e-9 * settings.matmul**3 / measure(partial(torch.matmul, a, b), settings.seconds / 3).median
    return {
        "time": timing,
        "peak_bytes": peak,
        "weights_bytes": sum(p.numel() * p.element_size() for p in compressor.layers.parameters()),
        "products_s": products,
        "profiled_s": everything,
        "largest_own_times_s": by_name,
        "matmul_bf16_gflop_s": rate,
    }


def length(case: dict[str, Any]) -> dict[str, Any]:
    """Time of the first layers of the published compressor for every number of frames."""
    settings = Settings.from_json(case["settings"])
    compressor = compressor_of(settings, num_layers=settings.length_layers).eval()
    rows = []
    for frames in settings.frame_counts:
        timing = measure(body_work(compressor, clip(compressor, frames, settings.seed)), settings.seconds)
        rows.append({"frames": frames, "positions": frames * POSITIONS_PER_FRAME, "time": timing})
    return {"rows": rows}


def train_step(case: dict[str, Any]) -> dict[str, Any]:
    """Forward and backward of the whole compressor with checkpointing: peak with the gradients, and time."""
    settings = Settings.from_json(case["settings"])
    compressor = compressor_of(settings, gradient_checkpointing=True).train()
    config = compressor.config
    features = torch.randn(settings.train_frames, config.num_patches, config.d_vision, generator=generator(settings))

    def step(frames: int) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            (tokens,) = compressor(features[:frames], [frames])
        tokens.float().square().mean().backward()

    step(1)
    compressor.zero_grad(set_to_none=True)
    peak = peak_of(lambda: step(settings.train_frames))
    times = []
    for _ in range(1 if settings.quick else 3):
        compressor.zero_grad(set_to_none=True)
        begun = time.perf_counter()
        step(settings.train_frames)
        times.append(time.perf_counter() - begun)
    times.sort()
    return {
        "peak_bytes": peak,
        "weights_bytes": sum(p.numel() * p.element_size() for p in compressor.parameters()),
        "time": Timing(times[len(times) // 2], times[0], times[-1], len(times)),
    }


def compressor_of(settings: Settings, **options: Any) -> SequenceCompressor:
    """The compressor whose layers are measured, with fresh weights of the settings' seed."""
    torch.manual_seed(settings.seed)
    sizes = settings.compressor | {"grid": tuple(settings.compressor["grid"])}
    compressor = build_compressor("mambamia", **sizes, **options)
    assert isinstance(compressor, SequenceCompressor)
    return compressor


def clip(compressor: SequenceCompressor, frames: int, seed: int) -> Tensor:
    """A clip's patches and queries as the first layer gets them, [1, L, D]."""
    length = frames * POSITIONS_PER_FRAME
    return torch.randn(1, length, compressor.config.d_model, generator=torch.Generator().manual_seed(seed))


def body_work(compressor: SequenceCompressor, x: Tensor) -> Any:
    """All layers on [1, L, D] without gradients, under bf16 autocast."""

    def work() -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return compressor._run_layers(x)

    return work


def own_times(compressor: SequenceCompressor, x: Tensor) -> tuple[float, float, dict[str, float]]:
    """Seconds of one call: of matrix products, of everything, and of the operations with the largest own times.

    All of the call is inside one named range, whose own time is what runs outside PyTorch's operations.
    """
    with profile(activities=[ProfilerActivity.CPU]) as profiler, record_function("outside operations"):
        body_work(compressor, x)()
    own = {event.key: 1e-6 * event.self_cpu_time_total for event in profiler.key_averages()}
    largest = dict(sorted(own.items(), key=lambda item: -item[1])[:12])
    return sum(own.get(name, 0.0) for name in PRODUCTS), sum(own.values()), largest


CASES = {"layer_peak": layer_peak, "stack": stack, "length": length, "train_step": train_step}


def main(arguments: list[str]) -> None:
    name, settings = arguments
    case = json.loads(settings)
    torch.set_num_threads(case["settings"]["threads"])
    print(json.dumps(to_json(CASES[name](case))))


if __name__ == "__main__":
    main(sys.argv[1:])
