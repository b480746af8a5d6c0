"""The golden vectors in the repository are what the reference gives, and every backend gives them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tstar.ops import golden
from tstar.ops.backends import available
from tstar.ops.compare import relative_error
from tstar.ops.conv import CONVS
from tstar.ops.golden import CASES, Case
from tstar.ops.samples import LAYOUTS
from tstar.ops.scan import SCANS
from tstar.ops.ssd import SSDS

REPOSITORY = Path(__file__).parents[2]
FILE = REPOSITORY / "tests" / "golden" / "operators.safetensors"
TABLES = {"selective_scan": SCANS, "ssd_scan": SSDS, "causal_conv1d": CONVS}
# the vendor's kernels refuse some of the options, and are compared with the reference before their first use
BACKENDS = sorted((operator, name) for operator, table in TABLES.items() for name in available(table) if name != "cuda")


@pytest.fixture(scope="module")
def stored() -> dict[str, torch.Tensor]:
    with safe_open(FILE, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_the_file_is_the_one_that_the_table_of_cases_makes(stored, tmp_path):
    assert golden.main(["--out", str(tmp_path / "new.safetensors")]) == 0
    with safe_open(tmp_path / "new.safetensors", "pt") as file, safe_open(FILE, "pt") as old:
        assert file.metadata() == old.metadata()
        assert set(file.keys()) == set(stored)
        for name, tensor in stored.items():
            exact = "/input/" in name or "/weight/" in name
            torch.testing.assert_close(file.get_tensor(name), tensor, rtol=0, atol=0 if exact else 1e-10)
    assert FILE.stat().st_size < 3e6
    assert golden.golden_bytes() == (tmp_path / "new.safetensors").read_bytes()


def test_what_a_port_needs_is_in_the_metadata():
    with safe_open(FILE, "pt") as file:
        assert list(file.metadata()) == ["cases"]
        table = json.loads(file.metadata()["cases"])
    assert table["axes"] == {operator: LAYOUTS[operator] for operator in TABLES}
    assert [case["name"] for case in table["cases"]] == [case.name for case in CASES]
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("operator", TABLES)
def test_every_optional_input_and_option_has_a_case(operator):
    cases = [case for case in CASES if case.operator == operator]
    given = {name for case in cases for name in golden.case_inputs(case)}
    assert given == set(LAYOUTS[operator])
    options = {"reverse", "return_final_state"} | ({"activation"} if operator == "causal_conv1d" else {"dt_softplus"})
    assert {option for case in cases for option in case.options} == options


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_inputs_are_exact_in_single_precision(case: Case):
    for tensor in golden.case_inputs(case).values():
        assert torch.equal(tensor, tensor.float().to(tensor.dtype))


@pytest.mark.parametrize(("operator", "backend"), BACKENDS)
def test_every_backend_gives_the_golden_vectors_in_single_precision(stored, operator, backend):
    errors = {"output": {}, "gradient": {}}
    for case in CASES:
        if case.operator == operator:
            _, _, result = golden.run_case(case, backend, torch.float32)
            for kind, tensors in (("output", result.outputs), ("gradient", result.gradients)):
                for name, tensor in tensors.items():
                    errors[kind][case.name, name] = relative_error(tensor, stored[f"{case.name}/{kind}/{name}"])
    assert {key: error for key, error in errors["output"].items() if not error <= 1e-5} == {}
    assert {key: error for key, error in errors["gradient"].items() if not error <= 1e-4} == {}


PORT = """
import numpy as np
import tstar.ops.conv, tstar.ops.ssd
from tstar.ops import selective_scan
from tstar.ops.ssd import ssd_scan

def causal_conv1d(x, weight, **given):
    assert isinstance(x, np.ndarray) == NUMPY
    import torch
    tensors = {n: torch.from_numpy(t) if isinstance(t, np.ndarray) else t for n, t in given.items()}
    y = tstar.ops.conv.causal_conv1d(torch.as_tensor(x), torch.as_tensor(weight), **tensors)
    y = tuple(t * (1 + WRONG) for t in y) if isinstance(y, tuple) else y * (1 + WRONG)
    return (tuple(t.numpy() for t in y) if isinstance(y, tuple) else y.numpy()) if NUMPY else y
"""


def check_a_port(folder: Path, text: str, *flags: str) -> dict[str, list[float]]:
    (folder / "a_port.py").write_text(text)
    script = REPOSITORY / "docs" / "check_a_port.py"
    command = [sys.executable, str(script), str(FILE), "a_port", *flags]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=True)
    lines = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    return {name: [float(word) for word in words if word[0].isdigit()] for name, words in lines.items()}


def test_a_port_is_checked_without_the_project(tmp_path):
    errors = check_a_port(tmp_path, "NUMPY, WRONG = False, 0.0" + PORT)
    assert set(errors) == {case.name for case in CASES}
    assert max(max(numbers) for numbers in errors.values()) < 1e-4
    assert all(len(errors[case.name]) > len(golden.case_inputs(case)) - 1 for case in CASES)
    assert "import tstar" not in (REPOSITORY / "docs" / "check_a_port.py").read_text()


def test_a_wrong_port_over_arrays_is_seen(tmp_path):
    only_conv = "NUMPY, WRONG = True, 0.01" + PORT + "del selective_scan, ssd_scan\n"
    errors = check_a_port(tmp_path, only_conv, "--numpy", "--float64")
    assert set(errors) == {case.name for case in CASES if case.operator == "causal_conv1d"}
    assert all(0.009 < numbers[0] < 0.011 for numbers in errors.values())
