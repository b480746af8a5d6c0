"""Sections of the operator benchmark about the published stack of 24 bidirectional layers: a clip, its length, training."""

import math
from typing import Any

from operators_cases import compressor_of
from operators_kernels import CASES
from operators_settings import POSITIONS_PER_FRAME, Say, Settings
from timing import Timing

from tstar.reports.measured_cost import GIB, run_child

KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(16 * 2**30)}
RUNS: dict[str, dict[str, str]] = {
    "as it is": {},
    "huge pages": {"THP_MEM_ALLOC_ENABLE": "1"},
    "freed memory kept": KEPT,
    "freed memory kept, without tile units": KEPT | {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
}
"""Environment of the child process. glibc takes large blocks from the system anew for every result, which clears them
page by page, unless told to keep what is freed; PyTorch can ask for larger pages, as in the command ``tstar``. Most CPUs
have no tile units for products (AMX), whatever this one has."""
LENGTH_RUNS = ("as it is", "huge pages", "freed memory kept")


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
    """Time of some layers against the number of frames, and the slope of the line through it on logarithmic axes."""
    result: dict[str, Any] = {"layers": settings.length_layers, "runs": {}}
    for name in LENGTH_RUNS:
        rows = run_child(CASES, "length", {"settings": settings.to_json()}, RUNS[name])["rows"]
        slope = log_slope([row["positions"] for row in rows], [row["time"]["median"] for row in rows])
        result["runs"][name] = {"rows": rows, "slope": slope, "environment": RUNS[name]}
        for row in rows:
            say(f"  {name:<20} {row['frames']:>5} frames  {Timing(**row['time'])}")
        say(f"  {name:<20} slope {slope:.3f}")
    return result


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
