"""Sections of the operator benchmark that time single operators and single layers.

Letters: L positions, I inner channels, S states, H heads of P channels, K taps.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from operators_peers import MEMORY_SHARE, dual_bytes, fitting_length, layers, scan_alone, scan_bytes
from operators_settings import Say, Settings, both_work, copy_works, forward_work, generator, scan_inputs, show
from timing import measure, measure_together

from tstar.ops import causal_conv1d, selective_scan
from tstar.ops.ssd import ssd_scan
from tstar.reports.measured_cost import Work, available_bytes, run_child

CASES = Path(__file__).with_name("operators_cases.py")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
BACKENDS = ("cpu", "torch")


def machine_rates(settings: Settings, say: Say) -> dict[str, Any]:
    """What the machine does at best: copies, matrix products, exponentials."""
    copies = measure_together(copy_works(settings, torch.float32), settings.seconds)
    show(say, "three [L, I] fp32", copies)
    moved = 2 * 3 * settings.length * settings.d_inner * 4
    result: dict[str, Any] = {"times": copies, "copy_gb_s": {n: 1e-9 * moved / t.median for n, t in copies.items()}}
    for name, dtype in DTYPES.items():
        a, b = torch.randn(2, settings.matmul, settings.matmul, generator=generator(settings)).to(dtype)
        timing = measure(partial(torch.matmul, a, b), settings.seconds)
        result["times"][f"matmul {name}"] = timing
        result[f"matmul_{name}_gflop_s"] = 2e-9 * settings.matmul**3 / timing.median
        show(say, f"{settings.matmul}-wide product", {name: timing})
    result["exp_g_s"] = 1e-9 * exponentials_a_second(settings)
    rates = ", ".join(f"{name} {rate:.1f} GB/s" for name, rate in result["copy_gb_s"].items())
    say(f"  {rates}; exponentials {result['exp_g_s']:.2f} G/s")
    return result


def exponentials_a_second(settings: Settings) -> float:
    """Of torch.exp in fp32, on an array that a core's cache holds a share of."""
    x = -torch.rand(2**15 * settings.threads, generator=generator(settings))
    out = torch.empty_like(x)
    repeats = 1 if settings.quick else 50

    def work() -> None:
        for _ in range(repeats):
            torch.exp(x, out=out)

    return repeats * x.numel() / measure(work, settings.seconds / 3).median


def scan_section(settings: Settings, say: Say) -> dict[str, Any]:
    """Selective scan beside three copies, beside its own forward pass, and beside transformers' loop."""
    result: dict[str, Any] = {"times": {}, "B_L_I_S": [1, settings.length, settings.d_inner, settings.scan_states]}
    for name, dtype in DTYPES.items():
        works: dict[str, Work] = copy_works(settings, dtype)
        for kind in ("bare", "fused"):
            inputs = scan_inputs(settings, settings.length, dtype, kind == "fused")
            for backend in BACKENDS:
                call = partial(selective_scan, backend=backend)
                works[f"{backend} {kind} forward"] = forward_work(call, inputs)
                works[f"{backend} {kind} both"] = both_work(call, inputs, settings.seed)
        result["times"][name] = measure_together(works, settings.seconds)
        show(say, f"scan {name}", result["times"][name])
    result["beside_transformers"] = _scan_beside(settings, say)
    return result


def _scan_beside(settings: Settings, say: Say) -> dict[str, Any]:
    length = fitting_length(scan_bytes, settings)
    result: dict[str, Any] = {"length": length, "wanted": settings.length, "times": {}}
    if length < settings.length:
        say(f"  transformers' scan needs too much memory at L = {settings.length}: both are timed at {length}")
    theirs = scan_alone()
    result["scan_alone"] = theirs is not None
    if theirs is None:
        say("  this version of transformers has no scan that can be called by itself: whole layers only")
    else:
        for kind in ("bare", "fused"):
            inputs = scan_inputs(settings, length, torch.float32, kind == "fused")
            works = {"tstar": forward_work(selective_scan, inputs), "transformers": forward_work(theirs, inputs)}
            result["times"][f"scan {kind}"] = measure_together(works, settings.seconds, rounds=2)
            show(say, f"scan {kind}, L={length}", result["times"][f"scan {kind}"])
            result[f"largest difference {kind}"] = _difference(works)
    result["times"]["layer"] = _layers_beside(settings, 1, length, "fp32")
    show(say, f"whole layer, L={length}", result["times"]["layer"])
    return result


def ssd_section(settings: Settings, say: Say) -> dict[str, Any]:
    """State-space dual scan, and a whole Mamba-2 layer beside transformers': time and peak memory."""
    g, length, heads, states = generator(settings), settings.length, settings.heads, settings.dual_states
    result: dict[str, Any] = {"times": {}, "L_H_P_S": [length, heads, settings.head_dim, states]}
    for name, dtype in DTYPES.items():
        inputs = {
            "x": torch.randn(1, length, heads, settings.head_dim, generator=g).to(dtype),
            "dt": torch.randn(1, length, heads, generator=g).to(dtype),
            "A": -torch.arange(1.0, heads + 1),
            "B": torch.randn(1, length, 1, states, generator=g).to(dtype),
            "C": torch.randn(1, length, 1, states, generator=g).to(dtype),
            "D": torch.ones(heads),
            "dt_bias": torch.full((heads,), -4.0),
        }
        works: dict[str, Work] = {}
        for backend in BACKENDS:
            call = partial(ssd_scan, backend=backend)
            works[f"{backend} forward"] = forward_work(call, inputs)
            works[f"{backend} both"] = both_work(call, inputs, settings.seed)
        result["times"][name] = measure_together(works, settings.seconds)
        show(say, f"dual scan {name}", result["times"][name])
    length = fitting_length(dual_bytes, settings)
    beside: dict[str, Any] = {"length": length, "wanted": settings.length, "times": {}, "peak_bytes": {}}
    if length < settings.length:
        say(f"  transformers' Mamba-2 needs too much memory at L = {settings.length}: both are measured at {length}")
    for name in DTYPES:
        beside["times"][name] = _layers_beside(settings, 2, length, name)
        show(say, f"whole layer {name}", beside["times"][name])
        peaks = {}
        for whose in ("tstar", "transformers"):
            case = {"whose": whose, "version": 2, "length": length, "precision": name, "settings": settings.to_json()}
            peaks[whose] = run_child(CASES, "layer_peak", case, {})["peak_bytes"]
            say(f"  whole layer {name:<10} {whose:<34} peak {peaks[whose] / 2**20:9.1f} MiB beyond weights and input")
        beside["peak_bytes"][name] = peaks
    result["beside_transformers"] = beside
    return result


def _layers_beside(settings: Settings, version: int, length: int, precision: str) -> Any:
    x = torch.randn(1, length, settings.d_model, generator=generator(settings))
    works = {whose: layer_work(layer, x, precision) for whose, layer in layers(version, settings).items()}
    if precision == "fp32":
        _difference(works)  # raises if the two do not compute the same
    return measure_together(works, settings.seconds, rounds=2)


def layer_work(layer: torch.nn.Module, x: torch.Tensor, precision: str) -> Work:
    """A call of a layer without gradients, in fp32 or under bf16 autocast."""

    def work() -> torch.Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            return layer(x)

    return work


def _difference(works: dict[str, Work]) -> float:
    """Largest difference of the two results over the largest value: what is compared has to be the same thing."""
    ours, theirs = (work() for work in works.values())
    assert isinstance(ours, torch.Tensor)
    assert isinstance(theirs, torch.Tensor)
    difference = float((ours - theirs).abs().max() / theirs.abs().max())
    if not difference < 1e-3:
        raise RuntimeError(f"{' and '.join(works)} differ by {difference:.2e}: timing them tells nothing")
    return difference


def conv_section(settings: Settings, say: Say) -> dict[str, Any]:
    """Causal convolution with bias and SiLU beside one copy of its input."""
    g = generator(settings)
    result: dict[str, Any] = {"times": {}, "L_I_K": [settings.length, settings.d_inner, settings.taps]}
    for name, dtype in DTYPES.items():
        inputs = {
            "x": torch.randn(1, settings.length, settings.d_inner, generator=g).to(dtype),
            "weight": torch.randn(settings.d_inner, settings.taps, generator=g).to(dtype),
            "bias": torch.randn(settings.d_inner, generator=g).to(dtype),
        }
        works: dict[str, Work] = copy_works(settings, dtype, arrays=1)
        for backend in BACKENDS:
            call = partial(causal_conv1d, activation="silu", backend=backend)
            works[f"{backend} forward"] = forward_work(call, inputs)
            works[f"{backend} both"] = both_work(call, inputs, settings.seed)
        result["times"][name] = measure_together(works, settings.seconds)
        show(say, f"convolution {name}", result["times"][name])
    return result


def curve_section(settings: Settings, say: Say) -> dict[str, Any]:
    """Time of the bare fp32 scan against L, and two lines that it cannot expect to pass: bytes and exponentials."""
    backends: dict[str, Any] = {b: partial(selective_scan, backend=b) for b in ("cpu", "torch", "reference")}
    theirs = scan_alone()
    if theirs is not None:
        backends["transformers"] = theirs
    rows: list[dict[str, Any]] = []
    for length in settings.curve:
        inputs = scan_inputs(settings, length, torch.float32, fused=False)
        row: dict[str, Any] = {"length": length, "times": {}, "left_out": {}}
        needed, free = scan_bytes(settings, length), available_bytes()
        for name, call in backends.items():
            if name == "transformers" and needed > MEMORY_SHARE * free:
                row["left_out"][name] = f"needs about {needed / 2**30:.1f} GiB, {free / 2**30:.1f} are free"
                say(f"  L={length:<6} {name}: left out, {row['left_out'][name]}")
                continue
            row["times"][name] = measure(forward_work(call, inputs), settings.seconds / 3)
        show(say, f"L={length}", row["times"])
        rows.append(row)
    copies = measure_together(copy_works(settings, torch.float32), settings.seconds)
    moved = 2 * 3 * settings.length * settings.d_inner * 4
    exp_rate = exponentials_a_second(settings)
    say(
        f"  copying into new arrays {1e-9 * moved / copies['copy into new'].median:.1f} GB/s, exp {1e-9 * exp_rate:.2f} G/s"
    )
    return {
        "I_S": [settings.d_inner, settings.scan_states],
        "rows": rows,
        "copy_bytes_s": moved / copies["copy into new"].median,
        "exp_s": exp_rate,
        "bytes_per_position": 4 * (3 * settings.d_inner + 2 * settings.scan_states),
        "exps_per_position": settings.d_inner * settings.scan_states,
    }
