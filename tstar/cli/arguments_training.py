"""Options and help of the commands that train, and that make and plan what is trained."""

import argparse
import dataclasses

from tstar.cli.option_types import numbers
from tstar.cli.parser import SETTINGS_HELP, Parser


def add_fit(commands: "argparse._SubParsersAction[Parser]") -> None:
    fit = commands.add_parser(
        "fit",
        help="train the stages of a recipe, then run its benchmarks",
        description="Train the stages of a recipe one after the other, then run its benchmarks and print the table.",
        epilog=SETTINGS_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fit.add_argument(
        "--config", action="append", required=True, metavar="FILE", help="a recipe, then any overlays; later files win"
    )
    fit.add_argument("--name", help="name of the run; default the recipe's")
    fit.add_argument("--runs", default="runs", metavar="DIR", help="folder of all runs (default: runs)")
    fit.add_argument(
        "--ckpt",
        nargs="?",
        const="",
        metavar="PATH",
        help="go on with a run: its folder, a stage's folder or a checkpoint; without PATH the run of this name",
    )
    fit.add_argument("--overwrite", action="store_true", help="delete an earlier run of this name and start over")
    fit.add_argument("--print_config", action="store_true", help="print the resolved recipe and stop")


def add_shard(commands: "argparse._SubParsersAction[Parser]") -> None:
    from tstar.data.public_sets import SETS
    from tstar.data.sharding_settings import ShardSettings

    shard = commands.add_parser(
        "shard",
        help="turn annotation files and media into tar shards; check and look at them",
        description="Decode videos and write their sampled frames with the conversations into WebDataset tars. A killed "
        "call goes on where it stopped when it is given again. --verify and --inspect check and describe finished ones in --out.",
        epilog="sets:\n" + "\n".join(f"  {s.name:<17} {s.text}; from {s.source}" for s in SETS.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shard.add_argument("source", nargs="*", help="annotation files (.json or .jsonl), or the folder of a set of many")
    shard.add_argument("--out", metavar="DIR", help="folder of the shards")
    shard.add_argument(
        "--config", metavar="FILE", help="YAML with these settings, as configs/data/*.yaml; options win over it"
    )
    shard.add_argument("--set", metavar="NAME", help="which set the files are, see below (default: plain)")
    shard.add_argument(
        "--media-root", metavar="DIR", help="folder the media paths start from; default the first source's"
    )
    shard.add_argument("--workers", type=int, metavar="N", help="processes; default one a core")
    shard.add_argument(
        "--part",
        type=_part,
        default=(1, 1),
        metavar="I/N",
        help="make the I-th of N shares of the shards, on one of N machines",
    )
    shard.add_argument(
        "--time-limit",
        type=float,
        metavar="S",
        help="seconds to read one file, then it is left out; 0: no limit (default: 300)",
    )
    shard.add_argument(
        "--max-bad-fraction",
        type=float,
        metavar="X",
        help="share of records, malformed or of unusable media, that may be left out; more is an error (default: 0.01)",
    )
    shard.add_argument(
        "--quarantine", metavar="FILE", help="list of unusable media, as an earlier call left it in its --out"
    )
    shard.add_argument("--dry-run", action="store_true", help="read the annotations, say what to expect, and stop")
    shard.add_argument(
        "--encode",
        metavar="RECIPE",
        help="SOURCE is a finished set; write one with the features of this recipe's encoder in place of frames",
    )
    shard.add_argument(
        "--verify", action="store_true", help="check every byte of the shards in --out; status 1 if one is wrong"
    )
    shard.add_argument("--decode", action="store_true", help="with --verify: decode every picture too")
    shard.add_argument("--inspect", action="store_true", help="say what is in the shards in --out, and draw some of it")
    shard.add_argument(
        "--sheet", metavar="FILE", help="with --inspect: the drawing (default: contact_sheet.png in --out)"
    )
    shard.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    for setting in dataclasses.fields(ShardSettings):
        shard.add_argument(
            f"--{setting.name.replace('_', '-')}",
            type=_truth if isinstance(setting.default, bool) else type(setting.default),
            help=f"{ShardSettings.HELP[setting.name]} (default: {str(setting.default).lower()})",
        )


def _truth(text: str) -> bool:
    """ "true" or "false"."""
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be true or false, got {text!r}")
    return text == "true"


def _part(text: str) -> tuple[int, int]:
    """ "2/4" as (2, 4)."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal()):
        raise argparse.ArgumentTypeError(f"must be like 2/4, got {text!r}")
    return int(number), int(count)


def add_miniature(commands: "argparse._SubParsersAction[Parser]") -> None:
    miniature = commands.add_parser(
        "miniature",
        help="generate the miniature world and its shards",
        description="Generate the miniature world: videos and pictures with ground truth, training sets as shards, and four "
        "evaluation suites. What is there already is kept.",
    )
    miniature.add_argument(
        "--out", default="data_shards/miniature", metavar="DIR", help="folder (default: %(default)s)"
    )
    miniature.add_argument("--scale", choices=("default", "tiny"), default="default", help="size; tiny is for trials")
    miniature.add_argument("--seed", type=int, help="of everything in it (default: 0)")
    miniature.add_argument("--haystack-dir", metavar="DIR", help="your own videos as haystacks of mini-vnbench")
    miniature.add_argument("--workers", type=int, metavar="N", help="processes; default one a core")
    miniature.add_argument("--json", action="store_true", help="print a summary as JSON")


def add_miniature_models(commands: "argparse._SubParsersAction[Parser]") -> None:
    models = commands.add_parser(
        "miniature-models",
        help="train the miniature's frozen parts again: encoder and language model",
        description="Train the small frozen parts of the miniature from a fixed seed: an open_clip image-text model on generated "
        "pictures with captions, and a language model on generated text. Both are examined on held-out scenes, and a model card "
        "is written. Such parts come with tstar, in tstar/pretrained, so nobody has to do this. It goes on after a stop.",
    )
    models.add_argument(
        "--out",
        default="data_shards/miniature-models",
        metavar="DIR",
        help="of the finished parts (default: %(default)s, beside those that come with tstar)",
    )
    models.add_argument(
        "--work", default="runs/miniature-models", metavar="DIR", help="of unfinished ones (default: %(default)s)"
    )
    models.add_argument("--scale", choices=("default", "tiny"), default="default", help="size; tiny is for trials")
    models.add_argument("--seed", type=int, default=0, help="of everything in it (default: %(default)s)")
    models.add_argument("--part", action="append", choices=("vision", "language"), help="only this one (default: both)")
    models.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="compile the models first: quicker (default: where there is a C++ compiler, but for --scale tiny)",
    )
    models.add_argument("--overwrite", action="store_true", help="train again what is finished in --out")
    models.add_argument("--workers", type=int, metavar="N", help="processes that draw; default one a core")
    models.add_argument("--json", action="store_true", help="print what was measured as JSON")


def add_import(commands: "argparse._SubParsersAction[Parser]") -> None:
    importing = commands.add_parser(
        "import",
        help="turn a language model in a GGUF file into a folder that recipes can name",
        description="Read a language model and its tokenizer out of a GGUF file and write them as a folder in Hugging Face layout, "
        "weights as safetensors. Needs the packages gguf and accelerate: pip install 'tstar[gguf]'.",
    )
    importing.add_argument("file", metavar="FILE.gguf", help="the model")
    importing.add_argument("--out", required=True, metavar="DIR", help="folder to write; must not be there")
    importing.add_argument(
        "--dtype",
        default="bfloat16",
        choices=("float32", "bfloat16", "float16"),
        help="number format of the weights (default: %(default)s)",
    )


def add_plan(commands: "argparse._SubParsersAction[Parser]") -> None:
    plan = commands.add_parser(
        "plan",
        help="say what a recipe will take: tokens, FLOPs, memory, steps",
        description="Say for every stage of a recipe what learns, how many tokens and FLOPs a step takes, what fills a device, "
        "and how many steps there are; then what an answer takes, and which settings fit a budget. Nothing is loaded, trained "
        "or downloaded: no weights, no shards and no GPU are needed. FLOPs: a multiply-add is 2, elementwise operations are "
        "not counted.",
        epilog=SETTINGS_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    plan.add_argument(
        "--config", action="append", required=True, metavar="FILE", help="a recipe, then any overlays; later files win"
    )
    plan.add_argument(
        "--frames",
        type=numbers,
        metavar="N[,N]",
        help="frames of clips that are asked about (default: 1 and the recipe's evaluation.max_frames)",
    )
    plan.add_argument(
        "--training-frames",
        type=int,
        metavar="N",
        help="frames of a training clip (default: the longest in the shards, else 128, as published); pictures are 1",
    )
    plan.add_argument("--devices", type=int, metavar="N", help="processes of the training (default: the recipe's)")
    plan.add_argument(
        "--strategy", choices=("ddp", "fsdp", "zero2", "zero3"), help="how they share memory (default: the recipe's)"
    )
    plan.add_argument("--device-memory-gib", type=float, metavar="X", help="list the settings that fit such a device")
    plan.add_argument("--tokens", type=int, metavar="N", help="list the settings of at most so many visual tokens")
    plan.add_argument(
        "--text-tokens",
        type=int,
        default=256,
        metavar="N",
        help="of a prompt, template included (default: %(default)s)",
    )
    plan.add_argument("--answer-tokens", type=int, default=32, metavar="N", help="of an answer (default: %(default)s)")
    plan.add_argument(
        "--samples", type=int, metavar="N", help="of an epoch, where neither shards nor a set's name say it"
    )
    plan.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def add_doctor(commands: "argparse._SubParsersAction[Parser]") -> None:
    doctor = commands.add_parser(
        "doctor",
        help="say what is installed, and whether the operators compute rightly here",
        description="Print the versions of what is installed, the machine, and for every backend of the scans and the convolution "
        "whether it can be used, its largest error against the slow reference, and its speed. The exit status is 1 if a backend "
        "that is in use gives wrong numbers.",
    )
    doctor.add_argument("--quick", action="store_true", help="leave out the times")
    doctor.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
