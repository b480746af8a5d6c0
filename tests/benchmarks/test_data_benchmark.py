"""The data benchmark at toy sizes: what it prints, keeps and writes. No time or size is asserted."""

import importlib
import json

import pytest


@pytest.fixture
def benchmark(monkeypatch, folder):
    """The script's module, its child processes played by this one."""
    data, cases = importlib.import_module("data"), importlib.import_module("data_cases")
    monkeypatch.setattr(
        data,
        "run_child",
        lambda script, case, settings, environment: json.loads(json.dumps(cases.CASES[case](settings))),
    )
    return data


@pytest.mark.parametrize("left_out", [("fit", "decodes"), pytest.param((), marks=pytest.mark.slow)])
def test_everything_is_measured_and_reported_and_a_stopped_run_goes_on(
    left_out, benchmark, capsys, tmp_path, monkeypatch
):
    monkeypatch.setattr(benchmark, "PARTS", tuple(part for part in benchmark.PARTS if part not in left_out))
    command = ["--quick", "--workers", "2", "--out", str(tmp_path / "kept.json"), "--report", str(tmp_path)]
    assert benchmark.main(command) == 0
    content = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(content["sections"]) == list(benchmark.PARTS)
    page = (tmp_path / "data.md").read_text()
    assert page.count("\n## ") == len(benchmark.PARTS)
    assert page.count("target") >= 7
    assert json.loads((tmp_path / "data.json").read_text()) == content
    assert benchmark.main(command) == 0
    assert capsys.readouterr().out.count("measured before") == len(benchmark.PARTS)
    assert benchmark.main([*command, "--seed", "1"]) == 2
    assert "has sections of other settings" in capsys.readouterr().err
