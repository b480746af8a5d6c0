"""The checks for GPUs, gone through at toy size on a CPU; and what they say without a GPU."""

import importlib
import json
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType


@pytest.fixture
def checks(folder):
    return importlib.import_module("gpu_checks")


def test_without_a_gpu_it_says_so_and_ends(checks, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert checks.main([]) == 0
    assert "skipped, PyTorch finds no CUDA device" in capsys.readouterr().out


def test_it_goes_through_everything(checks, capsys, tmp_path, monkeypatch, tiny_world):
    doctor = lambda args: {"healthy": True, "backends": []}  # noqa: E731 - has tests of its own
    monkeypatch.setitem(checks.CHECKS, "operators", (doctor, checks.CHECKS["operators"][1]))
    command = ["--device", "cpu", "--quick", "--report", str(tmp_path), "--world", str(tiny_world)]
    assert checks.main(command) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["wrong"] == []
    assert all(row["float32"] == [0, 0] for row in found["compressors"].values())  # the same machine twice
    assert all(0 < max(row["bfloat16"]) < 5e-2 for row in found["compressors"].values())
    assert found["profile"]["kernels_at"] == 4
    assert [row["frames"] for row in found["profile"]["rows"]] == [2, 4, 8]
    assert 0 < sum(row["share"] for row in found["profile"]["kernels"]) <= 1
    assert len(found["training"]["losses"]) == 6
    report = (tmp_path / "gpu.md").read_text()
    assert "loss" in report
    assert "- 4 frames: " in report
    assert json.loads((tmp_path / "gpu.json").read_text()) == found


def row(key, device, cpu, cuda, calls=1, named=False):
    times = {"self_cpu_time_total": cpu, "self_device_time_total": cuda}
    return SimpleNamespace(key=key, device_type=device, count=calls, is_user_annotation=named, **times)


def test_a_kernels_time_counts_once(checks):
    """A profile has it in the kernel's row, in that of the operator that started it, and in a named region's."""
    rows = [
        row("aten::mm", DeviceType.CPU, 40.0, 60.0, 5),
        row("gemm", DeviceType.CUDA, 0.0, 60.0, 5),
        row("scan", DeviceType.CUDA, 0.0, 15.0, 2),
        row("copy", DeviceType.CUDA, 0.0, 25.0, 3),
        row("aten::copy_", DeviceType.CPU, 10.0, 25.0, 3),
        row("forward", DeviceType.CUDA, 0.0, 100.0, 1, named=True),
    ]
    found = checks.shares(rows, "cuda")
    assert [(r["name"], r["share"], r["calls"]) for r in found] == [
        ("gemm", 0.6, 5),
        ("copy", 0.25, 3),
        ("scan", 0.15, 2),
    ]
    on_cpu = checks.shares([r for r in rows if r.device_type == DeviceType.CPU], "cpu")
    assert [(r["name"], r["share"]) for r in on_cpu] == [("aten::mm", 0.8), ("aten::copy_", 0.2)]


@pytest.mark.parametrize(
    ("part", "value", "reason"),
    [
        ("operators", {"healthy": False}, "an operator gives wrong numbers"),
        ("compressors", {"x": {"float32": [0.1, 0.0]}}, "x in float32 is off by 1.0e-01"),
        ("compressors", {"x": {"bfloat16": [0.0, float("nan")]}}, "x in bfloat16 is off"),
        ("training", {"status": 2, "losses": []}, "training failed"),
        ("training", {"status": 0, "losses": [1.0] * 100}, "the loss did not fall"),
    ],
)
def test_what_is_wrong_is_said(checks, part, value, reason):
    good = {"status": 0, "losses": [2.0] * 50 + [1.0] * 50}
    found = {"quick": False, "operators": {"healthy": True}, "compressors": {}, "training": good}
    assert checks.mistakes(found) == []
    (mistake,) = checks.mistakes({**found, part: value})
    assert mistake.startswith(reason)
