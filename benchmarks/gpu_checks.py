"""Does tstar compute on this GPU what it computes on a CPU, how quick is it there, and does it train?

    python benchmarks/gpu_checks.py --report reports

compares every operator and three compressors with the CPU's numbers, profiles MambaMia at published size, and trains the
miniature's alignment for 100 steps. Without a CUDA device it says so and ends. The status is 1 where something is wrong; the last
line printed is JSON. ``--device cpu --quick`` goes through the same at toy size, to see that everything runs.
"""

import argparse
import contextlib
import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType

from tstar.cli.main import main as tstar
from tstar.compressors import Compressor, build_compressor
from tstar.reports.measured_cost import machine, repeated, seconds_of

COMPRESSORS: dict[str, dict[str, Any]] = {
    "mambamia, mamba1": {"name": "mambamia", "ssm": "mamba1"},
    "mambamia, mamba2": {"name": "mambamia", "ssm": "mamba2"},
    "bi_gpt_neox": {"name": "bi_gpt_neox"},
}
LARGEST_ERROR = {"float32": 1e-3, "bfloat16": 5e-2}
"""Of visual tokens and of gradients, relative to the largest of them."""


def main(arguments: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        print("gpu-checks: skipped, PyTorch finds no CUDA device here")
        return 0
    found: dict[str, Any] = {"device": device_name(args.device), "quick": args.quick, "machine": machine(0)}
    for name, (check, describe) in CHECKS.items():
        print(f"{name} ...", flush=True)
        found[name] = check(args)
        for line in describe(found[name]):
            print(f"  {line}", flush=True)
    found["wrong"] = mistakes(found)
    for mistake in found["wrong"]:
        print(f"gpu-checks: {mistake}", file=sys.stderr)
    if args.report is not None:
        args.report.mkdir(parents=True, exist_ok=True)
        (args.report / "gpu.json").write_text(json.dumps(found, indent=1) + "\n")
        (args.report / "gpu.md").write_text(page(found))
    print(json.dumps(found))
    return 1 if found["wrong"] else 0


def device_name(device: str) -> str:
    """The GPU's name, or "cpu"."""
    return torch.cuda.get_device_name() if device == "cuda" else device


def operators(args: argparse.Namespace) -> dict[str, Any]:
    """What ``tstar doctor`` finds: errors of every backend against the slow reference."""
    command = [sys.executable, "-m", "tstar.cli.main", "doctor", "--json", *(["--quick"] if args.quick else [])]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode not in (0, 1):
        raise RuntimeError(f"tstar doctor failed: {answer.stderr.strip()}")
    return json.loads(answer.stdout)


def build(spec: dict[str, Any], quick: bool) -> Compressor:
    """A compressor with weights from seed 0, on the CPU."""
    torch.manual_seed(0)
    sizes = {"d_vision": 48, "d_language": 40, "grid": (4, 5)} if quick else {"d_vision": 1536, "d_language": 4096}
    own = {"query_interval": 5 if quick else 10, "temporal_stride": 3, "preset": "tiny" if quick else "paper"}
    return build_compressor(**{"grid": (10, 10), **sizes}, **own, **spec).eval()


def features_of(mixer: Compressor, frames: int) -> torch.Tensor:
    """Random patch tokens, the same at every call."""
    shape = (frames, mixer.config.num_patches, mixer.config.d_vision)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def compressors(args: argparse.Namespace) -> dict[str, Any]:
    """Largest errors of visual tokens and of the gradient of the first projection, against the CPU in fp32."""
    found = {}
    for name, spec in COMPRESSORS.items():
        mixer = build(spec, args.quick)
        features = features_of(mixer, 8)
        expected = tokens_and_gradient(mixer, features, "cpu", torch.float32)
        found[name] = {
            str(dtype).removeprefix("torch."): [
                float((ours.float() - theirs).abs().max() / theirs.abs().max())
                for ours, theirs in zip(tokens_and_gradient(mixer, features, args.device, dtype), expected, strict=True)
            ]
            for dtype in (torch.float32, torch.bfloat16)
        }
    return found


def tokens_and_gradient(
    mixer: Compressor, features: torch.Tensor, device: str, dtype: torch.dtype
) -> list[torch.Tensor]:
    """Visual tokens of one clip, and the gradient of their squares' sum in the features; on the CPU."""
    mixer.to(device)
    given = features.to(device).requires_grad_()
    with torch.autocast(device, dtype, enabled=dtype != torch.float32):
        (tokens,) = mixer(given, [len(given)])
    (gradient,) = torch.autograd.grad(tokens.float().square().sum(), given)
    mixer.to("cpu")
    return [tokens.detach().cpu(), gradient.cpu()]


def profile(args: argparse.Namespace) -> dict[str, Any]:
    """Times and memory of MambaMia in bf16 by frames, and the kernels that take most of the time at the middle size."""
    device, quick = args.device, args.quick
    mixer = build(COMPRESSORS["mambamia, mamba1"], quick).to(device)
    rows, kernels = [], []
    sizes = (2, 4, 8) if quick else (64, 128, 256)
    middle = sizes[len(sizes) // 2]
    for frames in sizes:
        features = features_of(mixer, frames).to(device)

        def forward(features: torch.Tensor = features) -> torch.Tensor:
            with torch.autocast(device, torch.bfloat16):
                return mixer(features, [len(features)])[0]

        def both(features: torch.Tensor = features) -> None:
            forward(features).float().square().sum().backward()

        row: dict[str, Any] = {"frames": frames, "tokens": mixer.num_tokens(frames)}
        with torch.no_grad():
            row["forward_ms"] = milliseconds(forward, device, 2 if quick else 20)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        row["both_ms"] = milliseconds(both, device, 2 if quick else 10)
        row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None
        rows.append(row)
        if frames == middle:
            kernels = slowest(forward, device)
    return {"rows": rows, "kernels_at": middle, "kernels": kernels}


def milliseconds(work: Any, device: str, calls: int) -> float:
    """Mean time of a call, after two that do not count."""
    times, _ = repeated(lambda: {"": seconds_of(work, device)}, warmup=2, samples=calls)
    return 1e3 * statistics.fmean(times[""])


def slowest(work: Any, device: str) -> list[dict[str, Any]]:
    """The eight operations, on a GPU kernels, that take most of a call, with their share."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities) as record, torch.no_grad():
        work()
    return shares(record.key_averages(), device)[:8]


def shares(events: Iterable[Any], device: str) -> list[dict[str, Any]]:
    """A profile's rows with their share of all, the largest first.

    A GPU's time is that of its kernels: operators that start them have the same time in rows of their own, and so have regions
    that somebody named.
    """
    if device == "cuda":
        events = [e for e in events if e.device_type == DeviceType.CUDA and not e.is_user_annotation]
    column = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    rows = sorted(events, key=lambda event: -getattr(event, column))
    total = sum(getattr(event, column) for event in rows) or 1
    return [{"name": e.key, "share": getattr(e, column) / total, "calls": e.count} for e in rows]


def training(args: argparse.Namespace) -> dict[str, Any]:
    """Losses and speed of 100 steps of alignment on a tiny world."""
    root, steps = Path(__file__).parents[1], 6 if args.quick else 100
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(sys.stderr):
        world = args.world or Path(name) / "world"
        if args.world is None:
            tstar(["miniature", "--out", str(world), "--scale", "tiny"])
        settings = {
            "trainer.accelerator": "gpu" if args.device == "cuda" else "cpu",
            "trainer.precision": "bf16-mixed",
            "trainer.max_epochs": "-1",
            "trainer.max_steps": str(steps),
            "trainer.log_every_n_steps": "1",
            "stages.align.data.shards": f"[{world / 'shards' / 'align'}]",
            "data.batch_size": "4",
            "data.features": "null",
            "evaluation.benchmarks": "{}",
            "model.init_args.vision.model": str(root / "tstar/pretrained/miniature/vision"),
            "model.init_args.language.path": str(root / "tstar/pretrained/miniature/language"),
        }
        given = [part for key, value in settings.items() for part in (f"--{key}", value)]
        begun = time.perf_counter()
        status = tstar(["fit", "--config", str(root / "stages/align.yaml"), "--runs", name, "--name", "run", *given])
        seconds = time.perf_counter() - begun
        losses = []
        if status == 0:
            (metrics,) = Path(name).glob("run/*/metrics.csv")
            with metrics.open() as lines:
                losses = [float(row["train/loss"]) for row in csv.DictReader(lines) if row.get("train/loss")]
    return {"status": status, "steps": steps, "seconds": seconds, "losses": losses}


def mistakes(found: dict[str, Any]) -> list[str]:
    """What is wrong, a sentence each."""
    wrong = [] if found["operators"]["healthy"] else ["an operator gives wrong numbers; see tstar doctor"]
    for name, row in found["compressors"].items():
        for dtype, errors in row.items():
            if not all(error <= LARGEST_ERROR[dtype] for error in errors):  # nor is what is no number
                wrong.append(f"{name} in {dtype} is off by {max(errors):.1e} (at most {LARGEST_ERROR[dtype]:.0e})")
    run = found["training"]
    if run["status"] or not run["losses"]:
        wrong.append("training failed")
    elif not found["quick"] and not sum(run["losses"][-10:]) < sum(run["losses"][:10]):
        wrong.append("the loss did not fall in 100 steps")
    return wrong


def _operators(part: dict[str, Any]) -> list[str]:
    used = [row for row in part["backends"] if row["active"]]
    return [
        f"{r['operator']}: backend {r['backend']}, error {r['forward_error']:.1e}, gradients {r['gradient_error']:.1e}"
        for r in used
    ]


def _compressors(part: dict[str, Any]) -> list[str]:
    return [
        f"{name}, {dtype}: visual tokens off by {errors[0]:.1e}, gradients by {errors[1]:.1e}, of the largest"
        for name, row in part.items()
        for dtype, errors in row.items()
    ]


def _profile(part: dict[str, Any]) -> list[str]:
    lines = [
        f"{r['frames']} frames to {r['tokens']} tokens: {r['forward_ms']:.1f} ms, with gradients {r['both_ms']:.1f} ms"
        + (f", {r['peak_gib']:.2f} GiB at most" if r["peak_gib"] is not None else "")
        for r in part["rows"]
    ]
    return lines + [
        f"{part['kernels_at']} frames: {k['share']:.0%} {k['name'][:90]} ({k['calls']} calls)" for k in part["kernels"]
    ]


def _training(part: dict[str, Any]) -> list[str]:
    if not part["losses"]:
        return [f"ended with status {part['status']}"]
    return [
        f"{part['steps']} steps in {part['seconds']:.0f} s, loss {part['losses'][0]:.2f} to {part['losses'][-1]:.2f}"
    ]


CHECKS: dict[str, tuple[Callable[[argparse.Namespace], dict[str, Any]], Callable[[dict[str, Any]], list[str]]]] = {
    "operators": (operators, _operators),
    "compressors": (compressors, _compressors),
    "profile": (profile, _profile),
    "training": (training, _training),
}


def page(found: dict[str, Any]) -> str:
    """The report."""
    versions = ", ".join(f"{name} {version}" for name, version in found["machine"]["versions"].items())
    lines = ["# On a GPU", "", "`make gpu-checks`", "", f"{found['device']}; {versions}.", ""]
    lines += [f"**Wrong: {mistake}.**" for mistake in found["wrong"]]
    for name, (_, describe) in CHECKS.items():
        lines += ["", f"## {name.capitalize()}", "", *(f"- {line}" for line in describe(found[name]))]
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="default: cuda")
    parser.add_argument("--quick", action="store_true", help="toy sizes, to see that everything runs")
    parser.add_argument(
        "--world", type=Path, metavar="DIR", help="train on this miniature world; default a tiny one is made"
    )
    parser.add_argument("--report", type=Path, metavar="DIR", help="write gpu.md and gpu.json there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
