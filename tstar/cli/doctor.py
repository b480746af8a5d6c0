"""``tstar doctor``: what is installed, which backend computes each operator, and whether its numbers are right."""

import argparse
import dataclasses
import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tstar.cli.progress import bar, say

if TYPE_CHECKING:
    from tstar.ops.health import BackendHealth, Rates

PACKAGES = (
    "tstar",
    "torch",
    "torchvision",
    "numpy",
    "numba",
    "lightning",
    "transformers",
    "open_clip_torch",
    "jsonargparse",
    "webdataset",
    "safetensors",
    "av",
    "decord",
    "triton",
    "mamba-ssm",
    "causal-conv1d",
    "xformers",
)
"""Packages whose versions matter, by the names that pip knows."""

SECONDS_A_TIME = 0.25
WRONG = 1


def run(arguments: argparse.Namespace) -> int:
    """Examine everything; the status is 1 if a backend that is in use gives wrong numbers."""
    from tstar.ops.health import OPERATORS, examine, expectation, main_device, measure_rates, time_backend

    pairs = [(operator, backend) for operator, entry in OPERATORS.items() for backend in entry.table]
    found: list[BackendHealth] = []
    rates: Rates | None = None
    steps = len(pairs) * (1 if arguments.quick else 2) + 1
    with bar("examining the operators", "checks", quiet=arguments.json) as update:
        expected = {operator: expectation(operator) for operator in OPERATORS}
        for operator, backend in pairs:
            found.append(examine(operator, backend, expected[operator]))
            update(len(found), steps)
        if not arguments.quick:
            rates = measure_rates(main_device())
            for done, health in enumerate(found, len(found) + 1):
                update(done, steps)
                time_backend(health, SECONDS_A_TIME)
        update(steps, steps)
    packages, machine = versions(), describe_machine()
    if arguments.json:
        print(json.dumps(as_data(packages, machine, found, rates), indent=1))
    else:
        show(packages, machine, found, rates)
    wrong = [health for health in found if health.active and health.wrong]
    for health in wrong:
        print(f"tstar doctor: {verdict(health)}", file=sys.stderr)
    return WRONG if wrong else 0


def versions() -> dict[str, str | None]:
    """Versions of Python and of :data:`PACKAGES`; None for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def describe_machine() -> dict[str, Any]:
    """The processor, the threads that PyTorch uses of it, and the CUDA devices."""
    import torch

    devices = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
    return {
        "system": platform.platform(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "cuda_devices": [{"name": d.name, "memory_gb": round(d.total_memory / 1e9, 1)} for d in devices],
    }


def cpu_name(path: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name as its maker gives it, where the system tells."""
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def as_data(
    packages: dict[str, str | None], machine: dict[str, Any], found: "list[BackendHealth]", rates: "Rates | None"
) -> dict[str, Any]:
    """What ``--json`` prints: numbers that are not finite become null, for JSON has no word for them."""
    from tstar.ops.health import OPERATORS

    rows = [{**dataclasses.asdict(health), "wrong": health.wrong} for health in found]
    return {
        "versions": packages,
        "machine": machine,
        "rates": None if rates is None else dataclasses.asdict(rates),
        "sizes": {name: {"errors": entry.medium, "times": entry.large} for name, entry in OPERATORS.items()},
        "backends": [{k: None if v == float("inf") else v for k, v in row.items()} for row in rows],
        "healthy": not any(health.active and health.wrong for health in found),
    }


def verdict(health: "BackendHealth") -> str:
    """One line on a backend that gives wrong numbers."""
    name = f"backend '{health.backend}' of {health.operator}"
    if health.failure is not None:
        return f"{name} fails: {health.failure}"
    return (
        f"{name} gives wrong numbers: outputs are off by {health.forward_error:.1e} (at most {health.tolerances[0]:.0e}), "
        f"gradients by {health.gradient_error:.1e} (at most {health.tolerances[1]:.0e}); use another backend and report it"
    )


def state_of(health: "BackendHealth") -> str:
    """A backend's state in a word, or the reason against it."""
    if health.missing is not None:
        return health.missing
    if health.wrong:
        return "WRONG" if health.failure is None else f"FAILS: {health.failure}"
    return "in use" if health.active else "available"


def show(
    packages: dict[str, str | None], machine: dict[str, Any], found: "list[BackendHealth]", rates: "Rates | None"
) -> None:
    """Print the report."""
    from rich.console import Console
    from rich.table import Table

    from tstar.ops.health import OPERATORS, main_device

    there = [f"{name} {version}" for name, version in packages.items() if version is not None]
    absent = [name for name, version in packages.items() if version is None]
    devices = ", ".join(f"{d['name']} ({d['memory_gb']} GB)" for d in machine["cuda_devices"]) or "no CUDA device"
    say(f"installed: {', '.join(there)}")
    say(f"not installed: {', '.join(absent) or 'nothing is missing'}")
    say(
        f"machine: {machine['cpu']}, {machine['threads']} of {machine['cores']} threads; {devices}; {machine['system']}"
    )
    if rates is not None:
        say(
            f"{main_device()} at best: copies memory at {rates.copy_gb_s:.1f} GB/s, multiplies matrices at "
            f"{rates.fp32_gflop_s:.0f} GFLOP/s in fp32 and {rates.bf16_gflop_s:.0f} in bf16"
        )
    table = Table(title="Operators in fp32; errors against the reference in float64, relative to the largest value")
    timed = () if rates is None else ("forward ms", "with gradients ms")
    for column in ("operator", "backend", "state", "error", "gradient error", *timed):
        table.add_column(column, justify="right" if "error" in column or "ms" in column else "left")
    for health in found:
        errors = [_number(error, ".1e") for error in (health.forward_error, health.gradient_error)]
        times = [_number(ms, ".2f") for ms in (health.forward_ms, health.both_ms)][: len(timed)]
        name = f"{health.backend} *" if health.active else health.backend
        table.add_row(health.operator, name, state_of(health), *errors, *times)
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    say("* what backend 'auto' takes")
    if rates is not None:
        for name, entry in OPERATORS.items():
            say(f"times of {name} at {' '.join(f'{letter}={size}' for letter, size in entry.large.items())}")


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
