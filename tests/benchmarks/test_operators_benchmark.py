"""The operator benchmark at toy sizes: what it prints, keeps and writes. No time or size is asserted."""

import importlib
import json

import pytest

from tstar.reports.measured_cost import run_child

SECTIONS = ["machine", "scan", "ssd", "conv", "stack", "length", "train", "curve"]


@pytest.fixture
def benchmark(monkeypatch, folder):
    """The script's module, its child processes played by this one."""
    operators, cases, timing = (importlib.import_module(n) for n in ("operators", "operators_cases", "timing"))

    def here(script, case, settings, environment):
        return json.loads(json.dumps(timing.to_json(cases.CASES[case](json.loads(json.dumps(settings))))))

    for name in ("operators_kernels", "operators_stack"):
        monkeypatch.setattr(importlib.import_module(name), "run_child", here)
    return operators


def run(benchmark, capsys, *options):
    """Exit status, and the last line as JSON."""
    status = benchmark.main(["--quick", "--threads", "1", *options])
    return status, json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_quick_run_measures_every_section_and_reports_each_target(benchmark, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    status, content = run(benchmark, capsys, "--report", str(tmp_path))
    assert status == 0
    assert list(content["sections"]) == SECTIONS
    assert {"cpu", "threads", "versions"} <= content["machine"].keys()
    assert content["settings"]["seed"] == 0
    assert json.loads((tmp_path / "operators.json").read_text()) == content

    scan = content["sections"]["scan"]["times"]["bf16"]
    assert {"copy into new", "cpu fused forward", "torch bare both"} <= scan.keys()
    assert all(t["low"] <= t["median"] <= t["high"] and t["calls"] > 0 for t in scan.values())
    assert content["sections"]["ssd"]["beside_transformers"]["peak_bytes"].keys() == {"fp32", "bf16"}
    assert 0 < content["sections"]["stack"]["runs"]["as it is"]["product_share"] < 1
    assert [row["frames"] for row in content["sections"]["length"]["runs"]["as it is"]["rows"]] == [1, 2]

    page = (tmp_path / "operators.md").read_text()
    assert "Toy sizes" in page
    assert "not measured" not in page
    assert all(target.label in page for target in benchmark.write_report.__globals__["targets"]())
    assert (tmp_path / "operators.png").stat().st_size > 10_000


def test_finished_sections_are_kept_and_other_settings_refused(benchmark, capsys, tmp_path):
    out = tmp_path / "kept.json"
    _, first = run(benchmark, capsys, "--only", "conv", "--out", str(out))
    _, second = run(benchmark, capsys, "--only", "machine,conv", "--out", str(out))
    assert second["sections"]["conv"] == first["sections"]["conv"]  # times differ whenever they are taken again
    assert "machine" in second["sections"]
    assert json.loads(out.read_text()) == second

    assert benchmark.main(["--quick", "--threads", "1", "--seed", "1", "--out", str(out)]) == 2
    assert "other settings" in capsys.readouterr().err
    assert benchmark.main(["--quick", "--only", "scam"]) == 2
    assert "did you mean 'scan'" in capsys.readouterr().err


@pytest.mark.parametrize(("value", "met"), [(1.0, True), (1.7, True), (1.8, False)])
def test_verdicts_follow_the_numbers(benchmark, value, met):
    targets = importlib.import_module("operators_targets")
    times = {"fp32": {"cpu bare forward": {"median": value}, "copy into existing": {"median": 1.0}}}
    target = targets.targets()[0]
    measured = target.measured({"scan": {"times": times}})
    assert measured == value
    assert target.met(measured) is met


@pytest.mark.slow
def test_a_child_process_answers(folder, benchmark):
    settings = importlib.import_module("operators_settings")
    case = {"whose": "tstar", "version": 2, "length": 110, "precision": "fp32"}
    case["settings"] = settings.Settings.small(1, 0).to_json()
    assert run_child(folder / "operators_cases.py", "layer_peak", case, {})["peak_bytes"] >= 0
