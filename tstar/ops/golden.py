"""Golden vectors: inputs, outputs and gradients of every operator and option, for whoever ports one elsewhere.

    python -m tstar.ops.golden --out tests/golden/operators.safetensors

The file holds, in float64 (masks are bool), for every case

    CASE/input/NAME, CASE/weight/NAME, CASE/output/NAME, CASE/gradient/NAME

computed by the ``reference`` backends. Gradients are of sum(y * weight/y) + sum(state * weight/state). Its metadata has
one key, ``cases``: JSON with the list of cases (name, operator, options) and the axes of every tensor.
``docs/check_a_port.py`` compares an implementation with it.
"""

import argparse
import json
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from tstar.ops.compare import Operator, Result, evaluate
from tstar.ops.conv import causal_conv1d
from tstar.ops.samples import LAYOUTS, REQUIRED, sample, sample_inputs
from tstar.ops.scan import selective_scan
from tstar.ops.ssd import ssd_scan

OPERATORS: dict[str, Operator] = {
    "selective_scan": selective_scan,
    "ssd_scan": ssd_scan,
    "causal_conv1d": causal_conv1d,
}

SCAN = {"B": 2, "L": 21, "I": 6, "S": 4}
SSD = {"B": 2, "L": 21, "H": 4, "P": 3, "G": 1, "S": 4}
CONV = {"B": 2, "L": 21, "I": 6, "K": 4}
LONG = {"L": 67}
ONE = {"L": 1}
STATE = {"return_final_state": True}


@dataclass(frozen=True)
class Case:
    """One call."""

    name: str
    operator: str
    sizes: dict[str, int]
    """Length of every letter of :data:`tstar.ops.samples.LAYOUTS`."""
    optional: str = ""
    """Optional inputs given, between spaces."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments that are no tensors; the others have their defaults."""
    padding: str = "right"
    """Where the mask is False, a key of :data:`tstar.ops.samples.MASKS`."""


ALL_OF_SCAN = "D z dt_bias mask initial_state"
ALL_OF_SSD = "D dt_bias mask initial_state"
ALL_OF_CONV = "bias mask initial_state"

CASES = (
    Case("scan_plain", "selective_scan", SCAN),
    Case("scan_skip", "selective_scan", SCAN, "D"),
    Case("scan_gate", "selective_scan", SCAN, "z"),
    Case("scan_bias", "selective_scan", SCAN, "dt_bias"),
    Case("scan_positive_steps", "selective_scan", SCAN, "dt_bias", {"dt_softplus": False}),
    Case("scan_reverse", "selective_scan", SCAN, "", {"reverse": True}),
    Case("scan_mask_right", "selective_scan", SCAN, "mask"),
    Case("scan_mask_middle", "selective_scan", SCAN, "mask", {}, "middle"),
    Case("scan_states", "selective_scan", SCAN, "initial_state", STATE),
    Case("scan_one_position", "selective_scan", SCAN | ONE, "D z dt_bias initial_state", STATE),
    Case("scan_one_state", "selective_scan", SCAN | {"I": 1, "S": 1}, "D z dt_bias"),
    Case("scan_long", "selective_scan", SCAN | LONG, "D z dt_bias", STATE),
    Case("scan_all", "selective_scan", SCAN, ALL_OF_SCAN, STATE, "middle"),
    Case("scan_all_reverse", "selective_scan", SCAN, ALL_OF_SCAN, STATE | {"reverse": True}),
    Case(
        "scan_all_positive_steps", "selective_scan", SCAN, ALL_OF_SCAN, STATE | {"reverse": True, "dt_softplus": False}
    ),
    Case("ssd_plain", "ssd_scan", SSD),
    Case("ssd_groups", "ssd_scan", SSD | {"G": 2}),
    Case("ssd_skip", "ssd_scan", SSD, "D"),
    Case("ssd_bias", "ssd_scan", SSD, "dt_bias"),
    Case("ssd_positive_steps", "ssd_scan", SSD, "dt_bias", {"dt_softplus": False}),
    Case("ssd_reverse", "ssd_scan", SSD, "", {"reverse": True}),
    Case("ssd_mask_right", "ssd_scan", SSD, "mask"),
    Case("ssd_mask_middle", "ssd_scan", SSD, "mask", {}, "middle"),
    Case("ssd_states", "ssd_scan", SSD, "initial_state", STATE),
    Case("ssd_one_position", "ssd_scan", SSD | ONE, "D dt_bias initial_state", STATE),
    Case("ssd_long", "ssd_scan", SSD | LONG | {"G": 2}, "D dt_bias", STATE),
    Case("ssd_all", "ssd_scan", SSD | {"G": 2}, ALL_OF_SSD, STATE, "middle"),
    Case("ssd_all_reverse", "ssd_scan", SSD | {"G": 2}, ALL_OF_SSD, STATE | {"reverse": True}),
    Case("ssd_all_positive_steps", "ssd_scan", SSD, ALL_OF_SSD, STATE | {"reverse": True, "dt_softplus": False}),
    Case("conv_plain", "causal_conv1d", CONV),
    Case("conv_bias", "causal_conv1d", CONV, "bias"),
    Case("conv_silu", "causal_conv1d", CONV, "bias", {"activation": "silu"}),
    Case("conv_reverse", "causal_conv1d", CONV, "", {"reverse": True}),
    Case("conv_mask_right", "causal_conv1d", CONV, "bias mask", {"activation": "silu"}),
    Case("conv_mask_middle", "causal_conv1d", CONV, "bias mask", {"activation": "silu"}, "middle"),
    Case("conv_states", "causal_conv1d", CONV, "initial_state", STATE),
    Case("conv_one_tap", "causal_conv1d", CONV | {"K": 1}, "bias", {"activation": "silu"}),
    Case("conv_one_position", "causal_conv1d", CONV | ONE, "bias initial_state", STATE),
    Case("conv_one_position_reverse", "causal_conv1d", CONV | ONE, "bias initial_state", STATE | {"reverse": True}),
    Case("conv_long", "causal_conv1d", CONV | LONG, "bias", {"activation": "silu"}),
    Case("conv_all", "causal_conv1d", CONV, ALL_OF_CONV, STATE | {"activation": "silu"}, "middle"),
    Case("conv_all_reverse", "causal_conv1d", CONV, ALL_OF_CONV, STATE | {"activation": "silu", "reverse": True}),
)

ABOUT = (
    "Inputs, outputs and gradients of sequence operators, float64. Tensors are named CASE/input/NAME, CASE/weight/NAME, "
    "CASE/output/NAME and CASE/gradient/NAME. Gradients are of sum(y * weight/y), plus sum(state * weight/state) where "
    "the final state is returned. Options that a case does not list have their defaults: dt_softplus true, reverse "
    "false, activation none, return_final_state false."
)


def case_inputs(case: Case) -> dict[str, Tensor]:
    """The tensors of a case by argument name."""
    return sample_inputs(
        case.operator,
        case.sizes,
        (*REQUIRED[case.operator], *case.optional.split()),
        seed=_seed(case),
        positive_steps=not case.options.get("dt_softplus", True),
        padding=case.padding,
    )


def case_weights(case: Case, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the scalar whose gradients are stored."""
    call = partial(OPERATORS[case.operator], **case.options, backend="reference")
    outputs = evaluate(call, inputs, {}, gradients=False).outputs
    return {name: sample(tuple(tensor.shape), _seed(case) + n) for n, (name, tensor) in enumerate(outputs.items())}


def _seed(case: Case) -> int:
    """By name: a case that is added changes no other."""
    return zlib.crc32(case.name.encode()) % 10_000_000


def run_case(
    case: Case, backend: str, dtype: torch.dtype = torch.float64
) -> tuple[dict[str, Tensor], dict[str, Tensor], Result]:
    """Inputs, weights, and what ``backend`` makes of them in ``dtype``."""
    inputs = case_inputs(case)
    weights = case_weights(case, inputs)
    given = {name: t.to(dtype) if t.is_floating_point() else t for name, t in inputs.items()}
    call = partial(OPERATORS[case.operator], **case.options, backend=backend)
    return inputs, weights, evaluate(call, given, weights)


def golden_bytes() -> bytes:
    """The whole file."""
    tensors: dict[str, Tensor] = {}
    for case in CASES:
        inputs, weights, result = run_case(case, "reference")
        kinds = {"input": inputs, "weight": weights, "output": result.outputs, "gradient": result.gradients}
        for kind, named in kinds.items():
            tensors |= {f"{case.name}/{kind}/{name}": tensor.contiguous() for name, tensor in named.items()}
    table = {
        "about": ABOUT,
        "axes": {name: LAYOUTS[name] for name in dict.fromkeys(case.operator for case in CASES)},
        "cases": [{"name": c.name, "operator": c.operator, "options": c.options, "sizes": c.sizes} for c in CASES],
    }
    return save(tensors, metadata={"cases": json.dumps(table)})  # one key: several would come in no fixed order


def main(argv: Sequence[str] | None = None) -> int:
    """Write the file."""
    parser = argparse.ArgumentParser(
        prog="python -m tstar.ops.golden", description="Write the operators' golden vectors."
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="the .safetensors file to write")
    out = parser.parse_args(argv).out
    content = golden_bytes()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(content)
    print(f"{out}: {len(CASES)} cases, {len(content) / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
