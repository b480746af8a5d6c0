"""The compressor benchmark at toy sizes: what it prints, keeps and writes. No time or size is asserted."""

import importlib
import json

import pytest

from tstar.compressors import list_compressors


@pytest.fixture
def benchmark(monkeypatch, folder):
    """The script's module, its child processes played by this one."""
    compressors, cases, timing = (importlib.import_module(n) for n in ("compressors", "compressors_cases", "timing"))

    def here(script, case, settings, environment):
        return json.loads(json.dumps(timing.to_json(cases.CASES[case](json.loads(json.dumps(settings))))))

    monkeypatch.setattr(compressors, "run_child", here)
    return compressors


def test_every_compressor_is_measured_and_reported_and_a_stopped_run_goes_on(benchmark, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    assert {name for name, _ in benchmark.MEMBERS.values()} == set(list_compressors())
    command = ["--quick", "--threads", "1", "--out", str(tmp_path / "kept.json"), "--report", str(tmp_path)]
    assert benchmark.main(command) == 0
    content = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(content["sections"]) == 2 * (len(benchmark.MEMBERS) + len(benchmark.LONG))
    assert all(row["tokens"] > 0 for row in content["sections"].values())
    page = (tmp_path / "compressors.md").read_text()
    assert all(f"| {label} |" in page for label in (*benchmark.MEMBERS, *benchmark.LONG))
    assert json.loads((tmp_path / "compressors.json").read_text()) == content
    assert (tmp_path / "compressors.png").stat().st_size > 10_000

    assert benchmark.main(command) == 0
    assert capsys.readouterr().out.count("measured before") == len(content["sections"])
    assert benchmark.main([*command, "--seed", "1"]) == 2
    assert "has sections of other settings" in capsys.readouterr().err
