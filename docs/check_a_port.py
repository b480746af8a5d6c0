"""Compare your selective_scan, ssd_scan or causal_conv1d with golden vectors:

    python docs/check_a_port.py tests/golden/operators.safetensors my_module [--float64] [--numpy]

my_module holds functions of those names that take the tensors by name (a missing function is skipped). PyTorch tensors
are given, in fp32 or float64, and gradients compared; with --numpy arrays are given, and only outputs compared.
"""

import importlib
import json
import sys

import torch
from safetensors import safe_open

sys.path.insert(0, ".")
path, module = sys.argv[1], importlib.import_module(sys.argv[2])
dtype, as_numpy = torch.float64 if "--float64" in sys.argv else torch.float32, "--numpy" in sys.argv


def error(ours, expected):
    ours = torch.as_tensor(ours).detach().double()
    if ours.shape != expected.shape:
        return float("inf")
    return float((ours - expected).abs().max() / (expected.abs().max() or 1.0)) if expected.numel() else 0.0


with safe_open(path, "pt") as file:
    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    cases = json.loads(file.metadata()["cases"])["cases"]
for case in cases:
    kinds = ("input", "weight", "output", "gradient")
    start = {kind: f"{case['name']}/{kind}/" for kind in kinds}
    part = {k: {n[len(start[k]) :]: t for n, t in tensors.items() if n.startswith(start[k])} for k in kinds}
    if not hasattr(module, case["operator"]):
        continue
    given = {
        n: t.to(dtype).requires_grad_(not as_numpy) if t.is_floating_point() else t for n, t in part["input"].items()
    }
    found = getattr(module, case["operator"])(
        **{n: t.numpy() if as_numpy else t for n, t in given.items()}, **case["options"]
    )
    found = dict(zip(("y", "state"), found if isinstance(found, tuple) else (found,)))  # noqa: B905
    line = " ".join(f"{n} {error(y, part['output'][n]):.1e}" for n, y in found.items())
    if not as_numpy:
        sum((y.double() * part["weight"][n]).sum() for n, y in found.items()).backward()
        slopes = {n: torch.zeros_like(t) if t.grad is None else t.grad for n, t in given.items() if t.requires_grad}
        line += " gradients " + " ".join(f"{n} {error(g, part['gradient'][n]):.1e}" for n, g in slopes.items())
    print(f"{case['name']:<28} {line}")
