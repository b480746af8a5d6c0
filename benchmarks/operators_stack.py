"""Sections of the operator benchmark about the published stack of 24 bidirectional layers: a clip, its length, training."""

import math
from typing import Any

import torch
from operators_cases import body_work, clip, compressor_of
from operators_kernels import CASES
from operators_settings import POSITIONS_PER_FRAME, Say, Settings
from timing import GIB, Timing, measure, run_child

KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(16 * 2**30)}
RUNS: dict[str, dict[str, str]] = {
    "as it is": {},
    "freed memory kept": KEPT,
    "freed memory kept, without tile units": KEPT | {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
}
"""Environment of the child process. glibc takes large blocks from the system anew for every result, which clears them
page by page, unless told to keep what is freed; most CPUs have no tile units for products (AMX), whatever this one has."""


def stack_section(settings: Settings, say: Say) -> dict[str, Any]:
    """One clip through all layers, as the machine is, with freed memory kept, and without tile units."""
    result: dict[str, Any] = {"frames": settings.frames, "positions": settings.frames * POSITIONS_PER_FRAME, "runs": {}}
    result["layers"] = len(compressor_of(settings).layers)
    for name, environment in RUNS.items():
        say(f"  {name} ({', '.join(f'{k}={v}' for k, v in environment.items()) or 'nothing set'})")
        run = run_child(CASES, "stack", {"settings": settings.to_json()}, environment)
        run["environment"] = environment
        run["product_share"] = run["products_s"] / run["profiled_s"]
        result["runs"][name] = run
        say(f"    {result['layers']} layers, {settings.frames} frames: {Timing(**run['time'])}")
        say(
            f"    products {100 * run['product_share']:.1f} % of {run['profiled_s']:.2f} s profiled; peak beyond weights "
            f"{run['peak_bytes'] / GIB:.2f} GiB; bf16 products at {run['matmul_bf16_gflop_s']:.0f} GFLOP/s"
        )
    return result


def length_section(settings: Settings, say: Say) -> dict[str, Any]:
    """Time of the layers against the number of frames, and the slope of the line through it on logarithmic axes."""
    compressor = compressor_of(settings).eval()
    rows: list[dict[str, Any]] = []
    for frames in settings.frame_counts:
        timing = measure(body_work(compressor, clip(compressor, frames, settings.seed)), settings.seconds)
        rows.append({"frames": frames, "positions": frames * POSITIONS_PER_FRAME, "time": timing})
        say(f"  {frames:>5} frames  {timing}")
    slope = log_slope([row["positions"] for row in rows], [row["time"].median for row in rows])
    say(f"  slope {slope:.3f}")
    return {"layers": len(compressor.layers), "rows": rows, "slope": slope, "threads": torch.get_num_threads()}


def train_section(settings: Settings, say: Say) -> dict[str, Any]:
    """A training step without its optimiser."""
    result = run_child(CASES, "train_step", {"settings": settings.to_json()}, {})
    result |= {"frames": settings.train_frames, "layers": len(compressor_of(settings).layers)}
    say(
        f"  {result['layers']} layers, {settings.train_frames} frames, forward and backward: {Timing(**result['time'])}"
    )
    say(f"  peak beyond weights {result['peak_bytes'] / GIB:.2f} GiB")
    return result


def log_slope(x: list[float], y: list[float]) -> float:
    """Exponent of the power law that fits best, by least squares on logarithms."""
    u, v = [math.log(a) for a in x], [math.log(b) for b in y]
    mean_u, mean_v = sum(u) / len(u), sum(v) / len(v)
    spread = sum((a - mean_u) ** 2 for a in u)
    return sum((a - mean_u) * (b - mean_v) for a, b in zip(u, v, strict=True)) / spread
