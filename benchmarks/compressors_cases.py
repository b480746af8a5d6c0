"""Measurements of the compressor benchmark, each in a process of its own for an honest peak of memory.

    python benchmarks/compressors_cases.py CASE SETTINGS

is how ``compressors.py`` calls it; the last line it prints is JSON.
"""

import json
import sys
import time
from typing import Any

import torch
from timing import measure, to_json
from torch import Tensor

from tstar.compressors import Compressor, build_compressor
from tstar.reports.measured_cost import available_bytes, peak_of


def clip(case: dict[str, Any]) -> dict[str, Any]:
    """One clip through one compressor, without gradients: time, peak beyond weights and features, tokens."""
    compressor = build(case)
    features = torch.randn(
        case["frames"], compressor.config.num_patches, case["d_vision"], generator=seeded(case["seed"])
    )

    def work() -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=case["precision"] == "bf16"):
            return compressor(features, [len(features)])[0]

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=case["precision"] == "bf16"):
        compressor(features[:3], [3])  # compiles kernels, which needs memory once
    begun = time.perf_counter()
    peak = peak_of(work)
    first = time.perf_counter() - begun
    timing = to_json(measure(work, case["seconds"])) if first < case["slow"] else {
        "median": first, "low": first, "high": first, "calls": 1,
    }  # fmt: skip
    return {
        "time": timing,
        "peak_bytes": peak,
        "tokens": compressor.num_tokens(case["frames"]),
        "parameters": sum(p.numel() for p in compressor.parameters()),
        "available_bytes": available_bytes(),
    }


def long(case: dict[str, Any]) -> dict[str, Any]:
    """A clip whose features are made as they are read, in segments: time, and the peak of the call and of the process."""
    compressor = build(case)

    def read(first: int, last: int) -> Tensor:  # the same whenever it is asked
        patches = compressor.config.num_patches
        return torch.randn(last - first, patches, case["d_vision"], generator=seeded(case["seed"] + first))

    def work(frames: int = case["frames"]) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=case["precision"] == "bf16"):
            return compressor.compress(read, frames)

    work(2 * case["options"]["segment_frames"])  # compiles kernels, which needs memory once
    tokens: list[Tensor] = []
    begun = time.perf_counter()
    peak = peak_of(lambda: tokens.append(work()))
    seconds = time.perf_counter() - begun
    weights = sum(p.numel() * p.element_size() for p in compressor.parameters())
    return {
        "seconds": seconds,
        "peak_bytes": peak,
        "weights_bytes": weights,
        "positions": case["frames"] * (compressor.config.num_patches + compressor.num_tokens(1)),
        "tokens": compressor.num_tokens(case["frames"]),
        "tokens_bytes": tokens[0].numel() * tokens[0].element_size(),
    }


def build(case: dict[str, Any]) -> Compressor:
    """The case's compressor with weights of its seed, in evaluation mode."""
    torch.set_num_threads(case["threads"])
    torch.manual_seed(case["seed"])
    sizes = {"d_vision": case["d_vision"], "d_language": case["d_language"], "grid": tuple(case["grid"])}
    return build_compressor(case["name"], **sizes, **case["options"]).eval()


def seeded(seed: int) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


CASES = {"clip": clip, "long": long}

if __name__ == "__main__":
    print(json.dumps(CASES[sys.argv[1]](json.loads(sys.argv[2]))))
