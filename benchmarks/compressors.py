"""What does each compressor cost at the published size, in time and memory, and does memory stay flat over an hour of video?

    python benchmarks/compressors.py --report reports

measures every member on the same features of 128 and of 256 frames, and two MambaMias in segments on 256 and 3,600 frames, on an
otherwise idle machine; finished measurements are kept in ``--out``, so that a run that was stopped goes on where it was. The last
line printed is JSON with every number. ``--quick`` runs every line of this at toy sizes. Each measurement has a process of its
own, and nothing runs beside anything else.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compressors_report import write_report
from store import Store

from tstar.errors import ConfigError
from tstar.reports.measured_cost import GIB, machine, run_child

CASES = Path(__file__).with_name("compressors_cases.py")
MEMBERS: dict[str, tuple[str, dict[str, Any]]] = {
    "no compression": ("none", {}),
    "average pooling 2x2": ("avg_pool", {}),
    "bilinear": ("bilinear", {}),
    "3D pooling 2x2x2": ("pool3d", {}),
    "C-Abstractor 30M, 10x1": ("c_abstractor", {"preset": "paper_30m", "kernel": [10, 1]}),
    "C-Abstractor 100M, 10x1": ("c_abstractor", {"kernel": [10, 1]}),
    "2D resampler": ("resampler2d", {}),
    "3D resampler, 256 queries": ("resampler3d", {}),
    "GPT-NeoX per frame": ("gpt_neox", {"per_frame": True}),
    "Bi-GPT-NeoX per frame": ("bi_gpt_neox", {"per_frame": True}),
    "Mamba per frame": ("mamba", {"per_frame": True}),
    "Bi-Mamba per frame": ("bimamba", {"per_frame": True}),
    "MambaMia per frame": ("mambamia", {"per_frame": True}),
    "GPT-NeoX": ("gpt_neox", {}),
    "Bi-GPT-NeoX": ("bi_gpt_neox", {}),
    "Mamba": ("mamba", {}),
    "Bi-Mamba": ("bimamba", {}),
    "MambaMia": ("mambamia", {}),
    "Mamba, Mamba-2": ("mamba", {"ssm": "mamba2"}),
    "Bi-Mamba, Mamba-2": ("bimamba", {"ssm": "mamba2"}),
    "MambaMia, Mamba-2": ("mambamia", {"ssm": "mamba2"}),
    "BIMBA": ("bimba", {}),
    "MambaMia + time axis": ("mambamia_taa", {"select": "budget"}),
    "token merging": ("token_merging", {}),
    "k-means": ("kmeans", {}),
    "density peaks": ("density_peaks", {}),
}
"""Rows of the table: name and options at preset ``paper`` unless they say otherwise."""
LONG: dict[str, tuple[str, dict[str, Any]]] = {
    "MambaMia, miniature": ("mambamia", {"preset": "miniature"}),
    "MambaMia, 4 layers of 768": ("mambamia", {"num_layers": 4}),
}


def main(arguments: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    threads = args.threads or len(
        os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    )
    settings = {
        "quick": args.quick,
        "frames": [4, 8] if args.quick else [128, 256],
        "long_frames": [6, 24] if args.quick else [256, 3600],
        "segment_frames": 3 if args.quick else 48,
        "grid": [4, 4] if args.quick else [10, 10],
        "d_vision": 32 if args.quick else 1536,
        "d_language": 48 if args.quick else 3072,
        "precision": args.precision,
        "seconds": 0.0 if args.quick else args.seconds,
        "slow": 60.0,
        "seed": args.seed,
    }
    try:
        path = args.out or (None if args.quick else Path("runs/compressors.json"))
        store = Store(path, settings, machine(threads), args.fresh)
    except ConfigError as error:
        print(f"compressors: error: {error}", file=sys.stderr)
        return 2
    keys = _run(settings | {"threads": threads}, store)
    sections = store.content["sections"]
    store.content["sections"] = {
        key: sections[key] for key in keys
    }  # in the table's order, whenever they were measured
    if args.report is not None:
        for written in write_report(args.report, store.content):
            print(f"wrote {written}")
    print(json.dumps(store.content))
    return 0


def _run(settings: dict[str, Any], store: Store) -> list[str]:
    """Measure what is not there; the keys of all cases in order."""
    here = store.content["machine"]
    print(f"{here['cpu']}, {here['cores']} cores, {here['threads']} threads, {here['memory_gib']} GiB")
    cases = [("clip", label, member, frames) for label, member in MEMBERS.items() for frames in settings["frames"]]
    cases += [("long", label, member, frames) for label, member in LONG.items() for frames in settings["long_frames"]]
    keys = [f"{kind}: {label}: {frames}" for kind, label, _, frames in cases]
    for number, (key, (kind, label, (name, options), frames)) in enumerate(zip(keys, cases, strict=True), 1):
        print(f"[{number}/{len(cases)}] {label}, {frames} frames", flush=True)
        if key in store.content["sections"]:
            print("  measured before; --fresh measures it again")
            continue
        if settings["quick"]:
            kernel = {"kernel": [4, 1]} if name == "c_abstractor" else {}
            options = (
                {k: v for k, v in options.items() if k not in ("preset", "kernel", "num_layers")}
                | {"preset": "tiny"}
                | kernel
            )
        segment = {"segment_frames": settings["segment_frames"]} if kind == "long" else {}
        case = settings | {"name": name, "options": options | segment, "frames": frames}
        result = run_child(CASES, kind, case, {"THP_MEM_ALLOC_ENABLE": "1", "GOMP_SPINCOUNT": "3000"})
        store.add(key, result | {"kind": kind, "label": label, "frames": frames})
        taken = result["seconds"] if kind == "long" else result["time"]["median"]
        print(f"  {taken:8.2f} s, peak {result['peak_bytes'] / GIB:.2f} GiB, {result['tokens']} tokens", flush=True)
    return keys


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--threads", type=int, help="threads of PyTorch and of the kernels (default: all cores)")
    parser.add_argument("--seconds", type=float, default=3.0, help="about how long each measurement takes (default: 3)")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help="of products (default: bf16)")
    parser.add_argument("--seed", type=int, default=0, help="of features and weights (default: 0)")
    parser.add_argument("--quick", action="store_true", help="toy sizes, to see that everything runs")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.json", help="default: runs/compressors.json; none with --quick"
    )
    parser.add_argument("--fresh", action="store_true", help="measure again what --out holds")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write compressors.md, .json and .png there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
