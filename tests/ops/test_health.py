"""The measures of `tstar doctor` and of the start-up checks: distances, and what is made of them."""

import dataclasses
import math
import time

import pytest
import torch

from tstar.ops import health
from tstar.ops.backends import Backend
from tstar.ops.compare import evaluate, relative_error, worst_error
from tstar.ops.health import OPERATORS, BackendHealth, active, examine, expectation, median_seconds, time_backend
from tstar.ops.samples import LAYOUTS, REQUIRED, sample, sample_inputs, shape_of
from tstar.ops.scan_reference import scan_reference


def test_relative_error_is_of_the_largest_expected_value():
    expected = torch.tensor([0.0, -4.0, 1.0])
    assert relative_error(expected + torch.tensor([0.0, 0.0, 0.4]), expected) == pytest.approx(0.1)
    assert relative_error(torch.tensor([0.5]), torch.zeros(1)) == 0.5
    assert relative_error(torch.tensor([math.nan]), torch.ones(1)) == math.inf
    assert relative_error(torch.zeros(2, 0), torch.zeros(2, 0)) == 0.0
    with pytest.raises(ValueError, match="cannot compare shapes"):
        relative_error(torch.zeros(1), torch.zeros(2))
    assert worst_error({"a": torch.ones(1), "b": torch.ones(1)}, {"a": torch.ones(1), "b": 2 * torch.ones(1)}) == 0.5


def test_gradients_are_of_the_stated_scalar():
    x, mask = torch.tensor([1.0, 2.0]), torch.tensor([True, False])
    weights = {"y": torch.tensor([3.0, 5.0]), "state": torch.tensor(7.0)}
    result = evaluate(lambda x, unused, mask: (x**2 * mask, x.sum()), {"x": x, "unused": x, "mask": mask}, weights)
    assert result.gradients["x"].tolist() == [2 * 3 + 7, 7]  # of x0^2 * 3 + (x0 + x1) * 7
    assert result.gradients["unused"].tolist() == [0, 0]
    assert set(result.gradients) == {"x", "unused"}
    assert not any(t.requires_grad for t in (x, *result.outputs.values()))


def test_samples_fit_their_layout_and_do_not_depend_on_each_other():
    sizes = {"B": 2, "L": 9, "I": 3, "K": 4}
    inputs = sample_inputs("causal_conv1d", sizes, LAYOUTS["causal_conv1d"], padding="middle")
    assert {name: shape_of(axes, sizes) for name, axes in LAYOUTS["causal_conv1d"].items()} == {
        name: tuple(tensor.shape) for name, tensor in inputs.items()
    }
    assert inputs["mask"].tolist() == [[True] * 3 + [False] * 3 + [True] * 3] * 2
    assert torch.equal(sample_inputs("causal_conv1d", sizes, ["bias"])["bias"], inputs["bias"])
    with pytest.raises(ValueError, match="padding must be one of right, middle"):
        sample_inputs("causal_conv1d", sizes, ["mask"], padding="left")
    assert sample((1000,), 3).std() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_active_backend_is_one_of_the_table_and_right(operator):
    name = active(operator)
    found = examine(operator, name)
    assert (found.active, found.missing, found.failure, found.wrong) == (True, None, None, False)
    assert found.forward_error < 1e-5


def wrong_scan(u, dt, A, *rest):
    return scan_reference(u, dt, A * 1.1, *rest)


def broken_scan(*inputs):
    raise RuntimeError("no kernel image")


def only(monkeypatch, run, **options):
    """selective_scan with one backend, ``cpu``."""
    table = OPERATORS["selective_scan"].table
    for name in list(table):
        monkeypatch.delitem(table, name)
    monkeypatch.setitem(table, "cpu", Backend(run, **options))


def test_wrong_broken_and_missing_backends_are_found(monkeypatch):
    expected = expectation("selective_scan")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    only(monkeypatch, wrong_scan)
    found = examine("selective_scan", "cpu", expected)
    assert found.active
    assert found.wrong
    assert found.forward_error > 1e-2
    only(monkeypatch, broken_scan)
    found = examine("selective_scan", "cpu", expected)
    assert found.wrong
    assert found.failure == "RuntimeError: no kernel image"
    monkeypatch.setitem(OPERATORS["selective_scan"].table, "reference", Backend(scan_reference))
    monkeypatch.setitem(OPERATORS["selective_scan"].table, "cpu", Backend(broken_scan, missing=lambda: "get it"))
    found = examine("selective_scan", "cpu", expected)
    assert (found.missing, found.active, found.wrong, found.forward_error) == ("get it", False, False, None)
    time_backend(found, 0.0)
    assert found.forward_ms is None


def test_tolerances_decide():
    row = BackendHealth("selective_scan", "cpu", True, None, "cpu", forward_error=1e-6, gradient_error=1e-6)
    assert not row.wrong
    for change in ({"forward_error": 1e-3}, {"gradient_error": 1e-2}, {"forward_error": math.inf}, {"failure": "x"}):
        assert dataclasses.replace(row, **change).wrong
    assert not dataclasses.replace(row, forward_error=5e-3, tolerances=(1e-2, 1e-2)).wrong


def test_times_are_medians_after_a_first_call():
    waits = iter([0.05, 0.001, 0.001, 0.02] + [0.001] * 1000)
    assert 0.0005 < median_seconds(lambda: time.sleep(next(waits)), 0.02, "cpu") < 0.01
    calls = []
    median_seconds(lambda: calls.append(time.sleep(0.01)), 0.0, "cpu")
    assert len(calls) == 2


def test_the_times_of_a_backend_and_of_the_machine(monkeypatch):
    entry = OPERATORS["causal_conv1d"]
    small = dataclasses.replace(entry, large=entry.medium)
    monkeypatch.setitem(health.OPERATORS, "causal_conv1d", small)
    found = examine("causal_conv1d", "torch")
    time_backend(found, 0.0)
    assert min(found.forward_ms, found.both_ms) > 0
    rates = health.measure_rates("cpu", 0.0)
    assert min(dataclasses.astuple(rates)) > 0
    assert set(REQUIRED) == set(OPERATORS)
