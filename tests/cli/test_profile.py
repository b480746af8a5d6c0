"""``tstar profile``: what it measures, keeps and writes, and what wrong options are told."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tstar.cli.main import main
from tstar.reports import profile
from tstar.reports.profile_cases import ANSWER, PARTS

RECIPE = ["profile", "--config", "stages/align.yaml"]
QUICK = ["--samples", "2", "--warmup", "0", "--device", "cpu", "--text-tokens", "8"]


def test_a_recipe_is_measured_with_several_compressors_and_not_twice(workplace, profiled, capsys):
    command = [*RECIPE, *QUICK, "--compressors", "avg_pool,mambamia", "--frames", "4,2", "--out", "own"]
    assert main([*command, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    order = [(c.frames, c.label, c.protocol) for c in profiled]
    assert order == [(m, label, p) for m in (2, 4) for label in ("avg_pool", "mambamia") for p in ("paper", "parts")]
    (group,) = results["groups"]
    assert group["weights"] == "compressor with random weights, encoder and language model pretrained"
    assert (group["miniature"], group["precision"], group["device"]) == (True, "fp32", "cpu")
    assert [row["visual_tokens"] for row in group["rows"][::2]] == [2 * 9, 6, 4 * 9, 12]
    assert {frozenset(row["seconds"]) for row in group["rows"]} == {
        frozenset({"total", "without_encoding"}),
        frozenset({*ANSWER, "total"}),
    }
    assert json.loads(Path("own/results.json").read_text()) == results
    for name in ("README.md", "results.csv", "align_cost.png", "align_parts.png"):
        assert Path("own", name).stat().st_size > 0
    profiled.clear()
    assert main([*command, "--precision", "fp32"]) == 0  # as it was
    assert profiled == []
    told = capsys.readouterr().out
    assert told.count("(measured before)") == 8
    assert "[1/8] avg_pool, 2 frames, the paper's protocol\n" in told
    more = [*command, "--frames", "2,3", "--report-only"]  # of 3 frames nothing is there
    assert main([*more, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [row["frames"] for row in results["groups"][0]["rows"]] == [2] * 4
    assert results["left"] == 4
    assert "**4 cases still to be measured, or once more" in Path("own/README.md").read_text()
    assert main([*more, "--out", "nothing"]) == 2
    assert "nothing/results.jsonl has none of these cases" in capsys.readouterr().err
    assert profiled == []
    assert main([*command, "--fresh", "--frames", "2", "--parts", "compress", "--compressors", "avg_pool"]) == 0
    assert [(c.frames, c.parts) for c in profiled] == [(2, ("compress",))]


def test_videos_are_decoded_and_settings_of_the_recipe_count(workplace, profiled, capsys):
    videos = workplace / "data_shards" / "miniature" / "benchmarks" / "mini-vnbench"
    given = ["--videos", str(videos), "--frames", "3", "--protocol", "parts", "--evaluation.decoder", "pyav"]
    assert main([*RECIPE, *QUICK, *given, "--trainer.precision", "bf16-mixed", "--json"]) == 0
    (group,) = json.loads(capsys.readouterr().out)["groups"]
    (row,) = group["rows"]
    assert set(row["seconds"]) == {*PARTS, "total"}
    assert (row["decoders"], row["distinct_frames"]) == (["pyav"], 3)
    assert group["precision"] == "bf16"
    assert profiled[0].matmul_precision == "medium"  # the miniature's
    assert all(path.endswith(".mp4") for path in profiled[0].videos)
    assert Path("runs/profile/align/README.md").is_file()


def test_a_checkpoint_is_measured_with_its_own_weights(workplace, profiled, capsys):
    few = ["--data.limit", "16", "--data.batch_size", "8", "--data.features", "null", "--trainer.max_epochs", "1"]
    given = [*few, "--evaluation.benchmarks", "{}"]
    assert main(["fit", "--config", "stages/align.yaml", *given]) == 0
    capsys.readouterr()
    assert main(["profile", "--ckpt", "runs/align", *QUICK, "--frames", "2", "--protocol", "paper", "--json"]) == 0
    (group,) = json.loads(capsys.readouterr().out)["groups"]
    path = workplace / "runs" / "align" / "1-align" / "checkpoints" / "last.ckpt"
    assert group["weights"] == f"weights of {path}"
    assert group["rows"][0]["status"] == "measured"
    path.write_bytes(path.read_bytes()[:-100])
    assert main(["profile", "--ckpt", str(path)]) == 2
    assert "take another one from its folder" in capsys.readouterr().err


def test_what_failed_is_told_by_the_status(workplace, monkeypatch, capsys):
    def child(program, name, settings, environment, time_limit):
        raise profile.ChildError("status 1:\nKeyError: 'x'", 1)

    monkeypatch.setattr(profile, "run_child", child)
    assert main([*RECIPE, *QUICK, "--frames", "2", "--protocol", "paper"]) == 1
    told = capsys.readouterr()
    assert "failed (KeyError: 'x')" in told.out
    assert "1 of 1 cases failed" in told.err
    monkeypatch.setattr(profile, "run_child", None)  # nothing more is measured
    assert main([*RECIPE, *QUICK, "--frames", "2", "--protocol", "paper", "--report-only", "--json"]) == 1
    told = capsys.readouterr()
    results = json.loads(told.out)
    (row,) = results["groups"][0]["rows"]
    assert results["left"] == 1  # it would be tried again
    assert (row["status"], row["reason"]) == ("failed", "KeyError: 'x'")
    assert "1 of 1 cases failed" in told.err


def test_a_signal_ends_it_with_the_status_that_schedulers_expect(workplace, monkeypatch, capsys):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(profile, "run_child", lambda *_: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(SystemExit) as stop:
        main([*RECIPE, *QUICK, "--frames", "2", "--protocol", "paper"])
    assert stop.value.code == 128 + signal.SIGTERM
    assert "finished cases are kept, the same command goes on" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before
    assert not Path("runs/profile/align/results.jsonl").exists()  # nothing is finished


@pytest.mark.slow
@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the system must tell children of their parent's death"
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_measures_on_when_the_command_is_ended(workplace, number):
    long = ["--frames", "64", "--samples", "100000", "--protocol", "paper", "--device", "cpu"]
    with subprocess.Popen([sys.executable, "-m", "tstar.cli.main", *RECIPE, *long]) as command:
        children = Path(f"/proc/{command.pid}/task/{command.pid}/children")
        found = None
        for _ in range(1200):
            found = next((pid for pid in children.read_text().split() if asks_to_be_ended(pid)), None)
            if found or command.poll() is not None:
                break
            time.sleep(0.05)
        assert found is not None
        command.send_signal(number)
        assert command.wait(20) == (128 + number if number == signal.SIGTERM else -number)
    for _ in range(200):
        if not asks_to_be_ended(found):
            return
        time.sleep(0.05)
    os.kill(int(found), signal.SIGKILL)
    pytest.fail("the child measures on")


def test_a_case_whose_command_is_gone_before_it_begins_is_not_measured():
    gone = {**os.environ, "TSTAR_PARENT": "1"}
    child = [sys.executable, "-m", "tstar.reports.profile_child", "measure", "{}"]
    ended = subprocess.run(child, env=gone, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "the command that wanted this measured is gone\n"


def asks_to_be_ended(pid):
    """Whether a process runs that measures a case and has loaded PyTorch, long after it asked to end with its parent."""
    folder = Path("/proc", pid)
    try:
        return b"profile_child" in (folder / "cmdline").read_bytes() and "libtorch" in (folder / "maps").read_text()
    except OSError:
        return False


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--frames", "many"], "--frames: must be like 128 or 1,128, got 'many'"),
        (["--frames", "0"], "--frames must be at least 1, got 0"),
        (["--parts", "compres"], "unknown part 'compres'; did you mean 'compress'"),
        (["--parts", "encode,prefill"], "compress is missing in encode, prefill"),
        (["--parts", "decode"], "decode and preprocess need --videos"),
        (
            ["--parts", "compress", "--protocol", "paper"],
            "align is to measure compress alone, which goes with --protocol parts",
        ),
        (["--compressors", "manba"], "unknown compressor 'manba'; did you mean 'mamba'"),
        (["--samples", "0"], "--samples must be at least 1"),
        (["--videos", "nowhere"], "--videos: no such folder: nowhere"),
        (["--videos", "stages"], "--videos: no videos in stages"),
        (["--videos", "stages", "--frames-only"], "not allowed with argument"),
        (["--device", "cuda:0"], "PyTorch finds no CUDA device here"),
        (["--device", "tpu"], "--device must be auto, cpu, cuda or cuda:N, got 'tpu'"),
        (["--precision", "fp8"], "invalid choice: 'fp8'"),
        (["--preset", "x.yaml"], "not allowed with argument --config"),
        (["--model.init_args.compresor.name", "none"], "unknown key 'model.init_args.compresor'"),
        (["--groups", "miniature"], "--groups goes with --preset"),
        (["--report-only", "--fresh"], "leave one of them out"),
        (["--out", "configs/profiles/figure4.yaml"], "--out must be a folder"),
    ],
)
def test_a_wrong_option_ends_in_one_line(workplace, monkeypatch, capsys, options, words):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    try:
        status = main([*RECIPE, *options])
    except SystemExit as stop:  # options that the parser itself refuses
        status = stop.code
    assert status == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize("option", ["--random-weights", "--compressors=none"])
def test_a_checkpoint_has_weights_and_a_compressor(capsys, option):
    assert main(["profile", "--ckpt", "x.ckpt", option]) == 2
    assert "goes with --config" in capsys.readouterr().err


@pytest.mark.slow
def test_cases_in_processes_of_their_own_end_at_their_limits(workplace, capsys):
    given = [*RECIPE, *QUICK, "--parts", "compress", "--compressors", "mambamia", "--json"]
    assert main([*given, "--frames", "2,20000", "--memory-limit-gib", "2"]) == 0
    rows = json.loads(capsys.readouterr().out)["groups"][0]["rows"]
    assert [row["status"] for row in rows] == ["measured", "out of memory"]
    assert rows[0]["memory"]["needed"] > 0
    assert main([*given, "--frames", "2", "--time-limit", "0.5", "--seed", "1"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["groups"][0]["rows"]
    assert (row["status"], row["reason"]) == ("time limit", "not one measurement in 0.5 s")
    for options, words in (
        (["--model.init_args.compressor.query_interval", "7"], "compressor.query_interval must be a divisor of the 36"),
        (["--model.init_args.vision.model", "convnext_huge_d"], "unknown vision.model 'convnext_huge_d'"),
    ):
        assert main([*RECIPE, *QUICK, "--frames", "2", *options]) == 2
        assert words in capsys.readouterr().err
