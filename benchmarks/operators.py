"""How fast are the operators and the layers built of them, beside the machine's own limits and beside transformers?

    python benchmarks/operators.py --report reports

measures everything at the published sizes, on an otherwise idle machine, section by section; finished sections are kept
in ``--out``, so that a run that was stopped goes on where it was. The last line printed is JSON with every number.
``--quick`` runs every line of this at toy sizes, within a minute. What needs a process of its own for its peak of memory gets
one, and nothing runs beside anything else.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from operators_kernels import conv_section, curve_section, machine_rates, scan_section, ssd_section
from operators_report import write_report
from operators_settings import Say, Settings
from operators_stack import length_section, stack_section, train_section
from store import Store

from tstar.errors import ConfigError, suggest
from tstar.reports.measured_cost import machine

SECTIONS: dict[str, tuple[Callable[[Settings, Say], dict[str, Any]], str]] = {
    "machine": (machine_rates, "what the machine does at best"),
    "scan": (scan_section, "selective scan of Mamba-1"),
    "ssd": (ssd_section, "state-space dual scan of Mamba-2"),
    "conv": (conv_section, "causal depthwise convolution"),
    "stack": (stack_section, "the published stack on one clip"),
    "length": (length_section, "the stack against the number of frames"),
    "train": (train_section, "a training step"),
    "curve": (curve_section, "selective scan against length"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    threads = args.threads or len(
        os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    )
    settings = Settings.small(threads, args.seed) if args.quick else Settings(threads, args.seed, args.seconds)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        wanted = _wanted(args.only)
        path = args.out or (None if args.quick else Path("runs/operators.json"))
        store = Store(path, settings.to_json(), machine(threads), args.fresh)
        _run(wanted, settings, store)
    except ConfigError as error:
        print(f"operators: error: {error}", file=sys.stderr)
        return 2
    finally:
        torch.set_num_threads(before)
    if args.report is not None:
        for path in write_report(args.report, store.content, date=args.date):
            print(f"wrote {path}")
    print(json.dumps(store.content))
    return 0


def _run(wanted: list[str], settings: Settings, store: Store) -> None:
    here = store.content["machine"]
    print(f"{here['cpu']}, {here['cores']} cores, {here['threads']} threads, {here['memory_gib']} GiB")
    print(", ".join(f"{name} {version}" for name, version in here["versions"].items()))
    for number, name in enumerate(wanted, 1):
        section, title = SECTIONS[name]
        print(f"[{number}/{len(wanted)}] {name}: {title}", flush=True)
        if name in store.content["sections"]:
            print("  measured before; --fresh measures it again")
            continue
        begun = time.perf_counter()
        store.add(name, section(settings, lambda line: print(line, flush=True)))
        print(f"  section took {time.perf_counter() - begun:.0f} s", flush=True)


def _wanted(only: str | None) -> list[str]:
    names = list(SECTIONS) if only is None else [name.strip() for name in only.split(",")]
    for name in names:
        if name not in SECTIONS:
            raise ConfigError(f"unknown section '{name}' in --only{suggest(name, SECTIONS)}")
    return [name for name in SECTIONS if name in names]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--only", metavar="A,B", help=f"sections to run: {', '.join(SECTIONS)} (default: all)")
    parser.add_argument("--threads", type=int, help="threads of PyTorch and of the kernels (default: all cores)")
    parser.add_argument("--seconds", type=float, default=3.0, help="about how long each measurement takes (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="of inputs and weights (default: 0)")
    parser.add_argument("--quick", action="store_true", help="toy sizes, to see that everything runs")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.json",
        help="finished sections (default: runs/operators.json; none with --quick)",
    )
    parser.add_argument("--fresh", action="store_true", help="measure again what --out holds")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write operators.md, .json and .png there")
    parser.add_argument("--date", help="a date for the report, as text")
    return parser


if __name__ == "__main__":
    sys.exit(main())
