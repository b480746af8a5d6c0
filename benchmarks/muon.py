"""How long does a step of Muon take beside torch's own, and beside the products that it cannot do without?

    python benchmarks/muon.py --threads 2

on the matrices of the miniature's unified recipe (language model and MambaMia), float32 weights. The least is the bare products of
five Newton-Schulz iterations, matrix by matrix. All take turns; the last line printed is JSON.
"""

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from timing import Timing, measure_together, to_json
from torch import nn

from tstar.compressors import build_compressor
from tstar.language.hf_causal_lm import LanguageConfig
from tstar.nn.muon import Muon, hidden_matrices
from tstar.reports.measured_cost import machine
from tstar.vision import VisionConfig
from tstar.vision.open_clip_tower import OpenClipTower

MINIATURE = "tstar/pretrained/miniature"


def matrices() -> list[nn.Parameter]:
    """What Muon trains in the miniature's last stage, with gradients."""
    torch.manual_seed(0)
    encoder = OpenClipTower.skeleton(VisionConfig(model=f"{MINIATURE}/vision"))
    language = LanguageConfig(path=f"{MINIATURE}/language", template="miniature").build()
    sizes: dict[str, Any] = {"d_vision": encoder.d_vision, "d_language": language.d_language, "grid": encoder.grid}
    settings: dict[str, Any] = {"preset": "miniature", "query_interval": 6, "temporal_stride": 3}
    parts = nn.ModuleList([language.model, build_compressor("mambamia", **sizes, **settings)])
    chosen = hidden_matrices(parts)
    found = [parameter for parameter in parts.parameters() if id(parameter) in chosen]
    for parameter in found:
        parameter.grad = torch.randn_like(parameter)
    return found


def products(shapes: list[tuple[int, int]], steps: int = 5) -> Callable[[], None]:
    """The products of the iterations alone: X X', its square, and that times X."""
    wide = [torch.randn(min(shape), max(shape)) for shape in shapes]

    def work() -> None:
        for given in wide:
            for _ in range(steps):
                gram = given @ given.T
                (gram @ gram) @ given

    return work


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=6.0, help="for each, about (default: %(default)g)")
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    learnt = matrices()
    shapes = [(parameter.shape[0], parameter.shape[1]) for parameter in learnt]
    ours = Muon([{"params": learnt, "lr": 0.0}])
    theirs = torch.optim.Muon([{"params": learnt, "lr": 0.0}], adjust_lr_fn="match_rms_adamw")
    works = {"Muon": ours.step, "torch.optim.Muon": theirs.step, "products alone": products(shapes)}
    found: dict[str, Timing] = measure_together(works, given.seconds)
    print(f"{len(shapes)} matrices, {sum(rows * columns for rows, columns in shapes):,} weights")
    for name, timing in found.items():
        print(f"{name:20} {timing}  {timing.median / found['products alone'].median:5.1f} times the products")
    print(json.dumps({"machine": machine(given.threads), "matrices": len(shapes), "seconds": to_json(found)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
