"""Options of ``tstar profile``."""

import argparse

from tstar.cli.option_types import names, numbers

PROTOCOLS = ("paper", "parts", "both")
PRECISIONS = ("fp32", "bf16", "fp16", "auto")


def add_profile_options(profile: argparse.ArgumentParser) -> None:
    """Add them to the command's parser."""
    what = profile.add_mutually_exclusive_group(required=True)
    what.add_argument("--ckpt", metavar="PATH", help="a checkpoint, or the folder of a run or stage")
    what.add_argument(
        "--config",
        action="append",
        metavar="FILE",
        help="a recipe, then any overlays; its last stage as it is before training, the compressor's weights random",
    )
    what.add_argument(
        "--preset", metavar="FILE", help="several recipes and compressors, as configs/profiles/figure4.yaml"
    )
    profile.add_argument("--groups", type=names, metavar="A[,B]", help="of the preset (default: all)")
    profile.add_argument("--random-weights", action="store_true", help="of all parts; none are looked for")
    source = profile.add_mutually_exclusive_group()
    source.add_argument("--videos", metavar="DIR", help="take the frames of these videos, and time decoding too")
    source.add_argument(
        "--frames-only", action="store_true", help="frames of random pixels (the default, but for a preset's videos)"
    )
    profile.add_argument(
        "--frames", type=numbers, metavar="N[,N]", help="frames of a clip (default: 8,16,32,64,128, or the preset's)"
    )
    profile.add_argument("--protocol", choices=PROTOCOLS, help="default: both; parts where --parts says which")
    profile.add_argument("--parts", type=names, metavar="A[,B]", help="measure only these, neighbours of one another")
    profile.add_argument(
        "--compressors",
        type=names,
        metavar="A[,B]",
        help="each in the place of the recipe's, or those of a preset (default: all)",
    )
    profile.add_argument("--samples", type=int, metavar="N", help="timed calls (default: 100 on a GPU, 5 on a CPU)")
    profile.add_argument("--warmup", type=int, metavar="N", help="calls before (default: 10 on a GPU, 1 on a CPU)")
    profile.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="default: fp16 on a GPU, as published; on a CPU what trainer.precision says. auto: likewise on a GPU; on a CPU "
        "bf16 where it is multiplied fast, else fp32",
    )
    profile.add_argument("--device", default="auto", help="cpu, cuda or cuda:N (default: a GPU if there is one)")
    profile.add_argument(
        "--text-tokens",
        type=int,
        default=256,
        metavar="N",
        help="of a prompt, template included (default: %(default)s)",
    )
    profile.add_argument("--seed", type=int, default=0, help="of random weights and frames (default: %(default)s)")
    profile.add_argument(
        "--time-limit",
        type=float,
        default=3600.0,
        metavar="S",
        help="seconds of one case, then the next (default: %(default)g)",
    )
    profile.add_argument(
        "--memory-limit-gib",
        type=float,
        metavar="X",
        help="of one case's process, or of the GPU (default: what is free)",
    )
    profile.add_argument("--out", metavar="DIR", help="folder of the results (default: runs/profile/NAME)")
    profile.add_argument("--fresh", action="store_true", help="measure again what --out holds")
    profile.add_argument(
        "--report-only", action="store_true", help="write the page of what is there, failures too; measure nothing"
    )
    profile.add_argument("--json", action="store_true", help="print what results.json holds and nothing else")
