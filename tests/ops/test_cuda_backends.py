"""The vendor's backends, without the vendor or a device: a stand-in with its signature and layout answers the calls."""

import functools
import sys
import types

import pytest
import torch
import torch.nn.functional as F

from tstar.errors import ConfigError
from tstar.ops import cuda_check, scan_cuda, selective_scan, ssd_cuda
from tstar.ops.compare import evaluate, worst_error
from tstar.ops.samples import LAYOUTS, REQUIRED, sample_inputs
from tstar.ops.scan_reference import scan_reference
from tstar.ops.ssd import ssd_scan
from tstar.ops.ssd_reference import ssd_reference

SIZES = {"B": 2, "L": 37, "I": 4, "S": 3, "H": 4, "P": 5, "G": 2}


def vendor_scan(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False, *, wrong=0.0
):
    assert u.shape == delta.shape
    assert u.shape[1] == A.shape[0]
    assert len({t.dtype for t in (u, delta, B, C)}) == 1
    assert all(t.stride(-1) == 1 for t in (u, delta, B, C))
    assert all(t is None or t.dtype == torch.float32 for t in (A, D, delta_bias))
    gate = None if z is None else z.mT
    y, state = scan_reference(
        u.mT, delta.mT, A * (1 + wrong), B.mT, C.mT, D, gate, delta_bias, None, delta_softplus, False, None
    )
    return (y.mT, state) if return_last_state else y.mT


def vendor_ssd(
    x, dt, A, B, C, chunk_size, D=None, z=None, dt_bias=None, initial_states=None, seq_idx=None, cu_seqlens=None,
    dt_softplus=False, dt_limit=(0.0, float("inf")), return_final_states=False, *, wrong=0.0,
):  # fmt: skip
    assert chunk_size >= 16
    assert chunk_size & (chunk_size - 1) == 0
    assert chunk_size <= x.shape[1]
    assert x.dtype == B.dtype == C.dtype
    step = F.softplus(dt) if dt_softplus else dt
    y, state = ssd_reference(x, step, A * (1 + wrong), B, C, D, False, initial_states)
    return (y, state) if return_final_states else y


@pytest.fixture
def vendor(monkeypatch):
    """Put a stand-in in the place of the package; start-up checks then run on the CPU."""

    def install(**options):
        for kernel, function in ((scan_cuda, vendor_scan), (ssd_cuda, vendor_ssd)):
            parts = kernel.MODULE.split(".")
            for end in range(1, len(parts) + 1):
                name = ".".join(parts[:end])
                monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
            setattr(sys.modules[kernel.MODULE], kernel.FUNCTION, functools.partial(function, **options))
        built = types.ModuleType(scan_cuda.BUILT)
        built.fwd = built.bwd = None
        monkeypatch.setitem(sys.modules, scan_cuda.BUILT, built)

    for name in [name for name in sys.modules if name.partition(".")[0] == "mamba_ssm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for kernel in (scan_cuda, ssd_cuda):
        monkeypatch.setattr(
            kernel, "check_kernel", lambda *a, **k: cuda_check.check_kernel(*a, **k | {"device": "cpu"})
        )
    for kernel in (scan_cuda, ssd_cuda):
        kernel.find_fault.cache_clear()
    yield install
    for kernel in (scan_cuda, ssd_cuda):
        kernel.find_fault.cache_clear()


@pytest.mark.parametrize("kernel", [scan_cuda, ssd_cuda])
def test_the_right_kernel_passes_and_a_wrong_one_is_refused_with_its_error(vendor, kernel):
    missing = scan_cuda.scan_cuda_missing if kernel is scan_cuda else ssd_cuda.ssd_cuda_missing
    vendor()
    assert missing() is None
    kernel.find_fault.cache_clear()
    vendor(wrong=0.1)
    assert "the check against the reference failed: y is off by " in missing()
    vendor()
    assert "the check" in missing()  # a process asks once


def test_the_check_may_come_in_the_midst_of_inference(vendor):
    vendor()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert scan_cuda.scan_cuda_missing() is None


@pytest.mark.parametrize("kernel", [scan_cuda, ssd_cuda])
def test_a_kernel_that_raises_is_refused(vendor, kernel, monkeypatch):
    vendor()
    monkeypatch.setattr(sys.modules[kernel.MODULE], kernel.FUNCTION, lambda *args, **options: 1 / 0)
    check = scan_cuda.check_scan_cuda if kernel is scan_cuda else ssd_cuda.check_ssd_cuda
    assert "it raised ZeroDivisionError: division by zero" in check()


def test_a_missing_package_is_told_with_its_install_line(vendor, monkeypatch):
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)
    monkeypatch.setitem(sys.modules, scan_cuda.BUILT, None)
    said = scan_cuda.scan_cuda_missing()
    assert "cannot be imported" in said
    assert "MAMBA_KEEP_CUDA_BUILD=TRUE pip install --no-build-isolation mamba-ssm" in said
    assert "pip install" in ssd_cuda.ssd_cuda_missing()


def test_a_package_without_its_compiled_kernel_is_told_with_the_install_line(vendor, monkeypatch):
    vendor()
    monkeypatch.setitem(sys.modules, scan_cuda.BUILT, None)
    said = scan_cuda.scan_cuda_missing()
    assert "selective_scan_cuda cannot be imported" in said
    assert "MAMBA_KEEP_CUDA_BUILD=TRUE" in said
    assert ssd_cuda.ssd_cuda_missing() is None


def test_a_package_without_the_function_or_that_breaks_on_import_is_told(monkeypatch):
    assert cuda_check.import_missing("math", "sine", "get it") == "math has no sine; get it"
    monkeypatch.setattr(cuda_check.importlib, "import_module", lambda name: 1 / 0)
    assert "fails on import (ZeroDivisionError" in cuda_check.import_missing("math", "sin", "get it")


def test_without_a_device_nothing_is_imported(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    scan_cuda.find_fault.cache_clear()
    assert scan_cuda.scan_cuda_missing() == "PyTorch finds no CUDA device"
    scan_cuda.find_fault.cache_clear()


def scan_by_vendor(u, dt, A, B, C, D=None, z=None, dt_bias=None, mask=None, dt_softplus=True, reverse=False):
    return scan_cuda.scan_cuda(u, dt, A, B, C, D, z, dt_bias, mask, dt_softplus, reverse, None)


@pytest.mark.parametrize("padding", ["right", "middle"])
@pytest.mark.parametrize("dt_softplus", [True, False])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("optional", [(), ("D", "z", "dt_bias", "mask")])
def test_the_scans_layout_is_adapted(vendor, optional, reverse, dt_softplus, padding):
    vendor()
    names = (*REQUIRED["selective_scan"], *optional)
    exact = sample_inputs("selective_scan", SIZES, names, positive_steps=not dt_softplus, padding=padding)
    options = {"dt_softplus": dt_softplus, "reverse": reverse}
    weights = {"y": torch.ones(2, 37, 4).cumsum(1)}
    reference = functools.partial(selective_scan, **options, return_final_state=True, backend="reference")
    expected = evaluate(reference, exact, weights)
    ours = {name: t.float() if t.is_floating_point() else t for name, t in exact.items()}
    got = evaluate(functools.partial(scan_by_vendor, **options), ours, weights)
    assert worst_error(got.outputs, expected.outputs) < 1e-5
    assert worst_error(got.gradients, expected.gradients) < 1e-5


@pytest.mark.parametrize("dt_bias", [None, torch.tensor([9.0, -9.0, 0.0, 1.0])])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_padding_takes_exactly_no_step_in_half_precision(vendor, dtype, dt_bias):
    vendor()
    names = (*REQUIRED["selective_scan"], "mask")
    inputs = sample_inputs("selective_scan", SIZES, names)
    inputs = {name: t.to(dtype) if t.is_floating_point() else t for name, t in inputs.items()}
    y, state = scan_by_vendor(**inputs, dt_bias=dt_bias)
    short = {name: t[1:, : 37 - 12] if name in "u dt B C" else t for name, t in inputs.items() if name != "mask"}
    short_y, short_state = scan_by_vendor(**short, dt_bias=dt_bias)
    torch.testing.assert_close(y[1:, :25], short_y, rtol=0, atol=0)
    torch.testing.assert_close(state[1:], short_state, rtol=0, atol=0)
    assert not y[1:, 25:].any()
    assert y.dtype == dtype


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [16, 37])
def test_the_dual_scans_layout_is_adapted(vendor, length, reverse):
    vendor()
    names = [name for name in LAYOUTS["ssd_scan"] if name not in ("mask", "dt_bias")]
    exact = sample_inputs("ssd_scan", SIZES | {"L": length}, names)
    weights = {"y": torch.ones(2, length, 4, 5).cumsum(1), "state": torch.ones(2, 4, 5, 3)}
    reference = functools.partial(ssd_scan, reverse=reverse, return_final_state=True, backend="reference")
    expected = evaluate(reference, exact, weights)
    by_vendor = functools.partial(ssd_cuda._from_dt, ssd_cuda.ssd_cuda, reverse=reverse)
    got = evaluate(by_vendor, {name: t.float() for name, t in exact.items()}, weights)
    assert worst_error(got.outputs, expected.outputs) < 1e-5
    assert worst_error(got.gradients, expected.gradients) < 1e-5


def test_chunks_are_powers_of_two_no_longer_than_the_sequence():
    assert [ssd_cuda.chunk_length(n) for n in (16, 31, 32, 100, 255, 256, 10_000)] == [16, 16, 32, 64, 128, 256, 256]


def test_calls_that_do_not_suit_a_kernel_are_left_to_others():
    on_device = types.SimpleNamespace(
        device=torch.device("cuda"), element_size=lambda: 4, numel=lambda: 1, shape=(1, 64, 1)
    )
    state = torch.zeros(1)
    assert scan_cuda.unfit_for_scan_cuda(on_device, None, False) is None
    assert "initial state" in scan_cuda.unfit_for_scan_cuda(on_device, state, False)
    assert "no gradient" in scan_cuda.unfit_for_scan_cuda(on_device, None, True)
    with torch.no_grad():
        assert scan_cuda.unfit_for_scan_cuda(on_device, None, True) is None
    assert ssd_cuda.unfit_for_ssd_cuda(on_device, state, True) is None
    on_device.shape = (1, 15, 1)
    assert "shortest chunk" in ssd_cuda.unfit_for_ssd_cuda(on_device, None, False)
    for unfit in (scan_cuda.unfit_for_scan_cuda, ssd_cuda.unfit_for_ssd_cuda):
        assert "on cpu" in unfit(state, None, False)


def test_what_the_scans_kernel_cannot_do_is_never_done_wrongly(vendor):
    vendor()
    inputs = sample_inputs("selective_scan", SIZES, REQUIRED["selective_scan"])
    with pytest.raises(ConfigError, match="zero state; use backend 'torch'"):
        scan_cuda.scan_cuda(*inputs.values(), None, None, None, None, True, False, torch.zeros(2, 4, 3))
    inputs["A"] = torch.zeros(4, 257)
    with pytest.raises(ConfigError, match="at most 256 states, got 257"):
        scan_cuda.scan_cuda(*inputs.values(), None, None, None, None, True, False, None)
