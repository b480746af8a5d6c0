"""`tstar doctor`: a report to read, one object to parse, and a status that tells a wrong backend."""

import json

import pytest
import torch

from tstar.cli import doctor
from tstar.cli.main import main
from tstar.ops.backends import Backend
from tstar.ops.health import OPERATORS, BackendHealth, Rates
from tstar.ops.scan_reference import scan_reference


@pytest.fixture
def only_references(monkeypatch):
    """Every operator with its reference alone: no kernel is compiled."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for entry in OPERATORS.values():
        for name in list(entry.table):
            if name != "reference":
                monkeypatch.delitem(entry.table, name)


def test_quick_report(only_references, capsys):
    assert main(["doctor", "--quick"]) == 0
    told = capsys.readouterr().out
    assert f"torch {torch.__version__.partition('+')[0]}" in told
    for operator in OPERATORS:
        assert operator in told
    assert "reference *" in told
    assert "forward ms" not in told


def test_json_is_one_object(capsys, only_references):
    assert main(["doctor", "--quick", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["healthy"] is True
    assert report["rates"] is None
    assert report["machine"]["threads"] == torch.get_num_threads()
    assert {row["operator"] for row in report["backends"]} == set(OPERATORS)
    assert all(row["active"] and row["gradient_error"] < 1e-5 for row in report["backends"])
    assert report["versions"]["torch"]
    assert report["sizes"]["causal_conv1d"]["times"]["K"] == 4


def test_a_wrong_active_backend_is_status_1_and_said_clearly(monkeypatch, capsys, only_references):
    def wrong(u, dt, A, *rest):
        y, state = scan_reference(u, dt, A, *rest)
        return y * torch.inf, state

    monkeypatch.setitem(OPERATORS["selective_scan"].table, "torch", Backend(wrong))
    assert main(["doctor", "--quick", "--json"]) == 1
    told = capsys.readouterr()
    assert "backend 'torch' of selective_scan gives wrong numbers: outputs are off by inf (at most 1e-04)" in told.err
    report = json.loads(told.out, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert report["healthy"] is False
    monkeypatch.setitem(OPERATORS["selective_scan"].table, "torch", Backend(lambda *inputs: 1 / 0))
    assert main(["doctor", "--quick"]) == 1
    told = capsys.readouterr()
    assert "FAILS" in told.out
    assert "backend 'torch' of selective_scan fails: ZeroDivisionError" in told.err


def test_the_times_are_shown_beside_what_the_machine_does(capsys):
    row = BackendHealth("ssd_scan", "torch", True, None, "cpu", 1e-6, 1e-6, forward_ms=12.345, both_ms=67.891)
    absent = BackendHealth("ssd_scan", "cuda", False, "pip install it", "cuda")
    doctor.show({"torch": "2.9", "numba": None}, doctor.describe_machine(), [row, absent], Rates(21.04, 212.4, 1587.0))
    told = capsys.readouterr().out
    for words in ("12.35", "67.89", "21.0 GB/s", "212 GFLOP/s in fp32 and 1587 in bf16", "pip install it", "in use"):
        assert words in told
    assert "not installed: numba" in told
    assert "times of ssd_scan at B=1 L=2048" in told


def test_states_in_words():
    row = BackendHealth("ssd_scan", "torch", False, None, "cpu", 1e-6, 1e-6)
    assert doctor.state_of(row) == "available"
    row.forward_error = 1.0
    assert doctor.state_of(row) == "WRONG"


def test_the_processor_is_named_where_the_system_tells(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: Some CPU @ 2.00GHz\nmodel name\t: Some CPU\n")
    assert doctor.cpu_name(tmp_path / "cpuinfo") == "Some CPU @ 2.00GHz"
    assert doctor.cpu_name(tmp_path / "nothing")


def test_help_says_what_it_is_for(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--help"])
    assert stop.value.code == 0
    told = capsys.readouterr().out
    assert "--quick" in told
    assert "--json" in told
    assert "gives wrong numbers" in " ".join(told.split())
