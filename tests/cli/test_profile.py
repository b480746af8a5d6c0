"""``tstar profile``: what it measures, keeps and writes, and what wrong options are told."""

import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tstar.cli.main import main
from tstar.cli.profile import cases_of
from tstar.cli.profile_file import read_preset
from tstar.compressors import build_compressor
from tstar.reports import profile
from tstar.reports.profile_case import measure
from tstar.reports.profile_cases import ANSWER, FROM_VIDEO, PARTS, Case

RECIPE = ["profile", "--config", "stages/align.yaml"]
QUICK = ["--samples", "2", "--warmup", "0", "--device", "cpu", "--text-tokens", "8"]
FIGURE = Path("configs/profiles/figure4.yaml")


@pytest.fixture
def asked(monkeypatch):
    """Cases that were measured, in this process."""
    found = []

    def here(program, name, settings, environment, time_limit):
        case = Case.from_json(json.loads(json.dumps(settings)))
        found.append(case)
        return json.loads(json.dumps(measure(case)))

    monkeypatch.setattr(profile, "run_child", here)
    return found


def test_a_recipe_is_measured_with_several_compressors_and_not_twice(workplace, asked, capsys):
    command = [*RECIPE, *QUICK, "--compressors", "avg_pool,mambamia", "--frames", "4,2", "--out", "own"]
    assert main([*command, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    order = [(c.frames, c.label, c.protocol) for c in asked]
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
    asked.clear()
    assert main([*command, "--precision", "fp32"]) == 0  # as it was
    assert asked == []
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
    assert asked == []
    assert main([*command, "--fresh", "--frames", "2", "--parts", "compress", "--compressors", "avg_pool"]) == 0
    assert [(c.frames, c.parts) for c in asked] == [(2, ("compress",))]


def test_videos_are_decoded_and_settings_of_the_recipe_count(workplace, asked, capsys):
    videos = workplace / "data_shards" / "miniature" / "benchmarks" / "mini-vnbench"
    given = ["--videos", str(videos), "--frames", "3", "--protocol", "parts", "--evaluation.decoder", "pyav"]
    assert main([*RECIPE, *QUICK, *given, "--trainer.precision", "bf16-mixed", "--json"]) == 0
    (group,) = json.loads(capsys.readouterr().out)["groups"]
    (row,) = group["rows"]
    assert set(row["seconds"]) == {*PARTS, "total"}
    assert (row["decoders"], row["distinct_frames"]) == (["pyav"], 3)
    assert group["precision"] == "bf16"
    assert asked[0].matmul_precision == "medium"  # the miniature's
    assert all(path.endswith(".mp4") for path in asked[0].videos)
    assert Path("runs/profile/align/README.md").is_file()


def test_a_checkpoint_is_measured_with_its_own_weights(workplace, asked, capsys):
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


def test_groups_of_a_preset_are_chosen_by_name(capsys):
    assert main(["profile", "--preset", str(FIGURE), "--groups", "paper_with"]) == 2
    assert "has no group 'paper_with'; did you mean 'paper_width'" in capsys.readouterr().err
    assert main(["profile", "--preset", str(FIGURE), "--protocol", "paper", "--groups", "paper_width"]) == 2
    assert "paper_width is to measure compress alone" in capsys.readouterr().err


PRESET = """
title: t
frames: [2]
groups:
  seen: {title: a, config: [R], videos: V, protocol: paper}
  pooled: {title: b, config: [R], parts: [compress], compressors: {pooling: {name: avg_pool}, own: {name: mambamia}}}
"""


@pytest.fixture
def preset(tmp_path, tiny_world):
    """A group with the recipe's own compressor and videos, and one with two compressors."""
    path = tmp_path / "own.yaml"
    text = PRESET.replace("R]", f"{Path('stages/align.yaml').resolve()}]")
    path.write_text(text.replace(" V,", f" {tiny_world / 'benchmarks' / 'mini-mlvu'},"))
    return ["profile", "--preset", str(path), *QUICK, "--json"]


def test_a_preset_is_measured_without_its_videos_where_frames_alone_are_asked_for(workplace, preset, asked, capsys):
    assert main([*preset, "--groups", "seen", "--frames-only"]) == 0
    assert [case.videos for case in asked] == [()]
    assert json.loads(capsys.readouterr().out)["groups"][0]["videos"] == 0
    asked.clear()
    assert main([*preset, "--groups", "seen"]) == 0
    assert [bool(case.videos) for case in asked] == [True]


def test_compressors_are_chosen_of_a_preset_or_given_to_a_group_without(workplace, preset, asked, capsys):
    def measured():
        found = [(case.group, case.model.compressor["name"]) for case in asked]
        asked.clear()
        return found

    assert main([*preset, "--compressors", "avg_pool,none"]) == 0
    assert measured() == [("seen", "avg_pool"), ("seen", "none"), ("pooled", "avg_pool")]
    assert main([*preset, "--fresh"]) == 0
    assert measured() == [("seen", "mambamia"), ("pooled", "avg_pool"), ("pooled", "mambamia")]
    for groups, words in (
        ("pooled", "--compressors: no group has 'mambmaia'; did you mean 'mambamia'? (known: avg_pool, mambamia)"),
        ("seen,pooled", "unknown compressor 'mambmaia'; did you mean 'mambamia'"),
    ):
        capsys.readouterr()
        assert main([*preset, "--groups", groups, "--compressors", "avg_pool,mambmaia"]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert len(error.strip().splitlines()) == 1
    assert measured() == []


@pytest.mark.parametrize("option", ["--random-weights", "--compressors=none"])
def test_a_checkpoint_has_weights_and_a_compressor(capsys, option):
    assert main(["profile", "--ckpt", "x.ckpt", option]) == 2
    assert "goes with --config" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("title: t", "'groups' is missing"),
        ("{title: t, groups: {a: {title: t}}}", "'config' is missing"),
        ("{title: t, groups: {a: {title: t, config: [], confg: 1}}}", "unknown key 'confg'; did you mean 'config'"),
        ("{title: t, groups: {a: {title: t, config: [R], videos: [x]}}}", "videos must be a folder, got ['x']"),
        ("{title: t, groups: {a: {title: t, config: [R], videos: none}}}", "videos of a: no such folder:"),
        ("{title: t, groups: {a: {title: t, config: [R], protocol: parst}}}", "unknown protocol 'parst'"),
        (
            "{title: t, groups: {a: {title: t, config: [R], compressors: {x: none}}}}",
            "'x' must be a mapping with a name",
        ),
        ("{title: t, groups: {}}", "own.yaml:1: groups must be a mapping, at least one, got {}"),
        ("{title: t, groups: [a]}", "groups must be a mapping, at least one, got ['a']"),
        ("{title: 1, groups: {a: {title: t, config: [R]}}}", "title must be text, got 1"),
        (
            "{title: t, frames: 8, groups: {a: {title: t, config: [R]}}}",
            "frames must be a list of numbers, each at lea",
        ),
        ("{title: t, groups: {a: {title: t, config: [R], frames: [true]}}}", "frames must be a list of numbers"),
        ("{title: t, groups: {a: {title: t, config: [R], frames: []}}}", "frames must be a list of numbers"),
        (
            "{title: t, compressors: [a], groups: {a: {title: t, config: [R]}}}",
            "compressors must be a mapping of a name",
        ),
        (
            "{title: t, groups: {a: {title: t, config: [R], compressors: {x: {name: 1}}}}}",
            "must be a mapping with a name",
        ),
        (
            "{title: t, groups: {a: {title: t, config: x.yaml}}}",
            "config must be a list of files, at least one, got 'x.y",
        ),
        ("{title: t, groups: {a: {title: t, config: []}}}", "config must be a list of files, at least one, got []"),
        ("{title: t, groups: {1: {title: t, config: [R]}}}", "a group's name must be text, got 1"),
        ("{title: t, groups: {a: {title: [t], config: [R]}}}", "title must be text, got ['t']"),
        (
            "{title: t, groups: {a: {title: t, config: [R], over: [x]}}}",
            "over must be a mapping of settings, got ['x']",
        ),
        (
            "{title: t, groups: {a: {title: t, config: [R], parts: compress}}}",
            "parts must be a list of words, got 'com",
        ),
        ("{title: t, groups: {a: {title: t, config: [R], precision: bf15}}}", "unknown precision 'bf15'; did you mean"),
        ("{title: t, groups: {a: {title: t, config: [R], random_weights: 1}}}", "random_weights must be true or false"),
        ("{title: t, groups: {a: {title: t, config: [R], over: {modle: 1}}}}", "unknown section 'modle'"),
    ],
)
def test_a_preset_that_cannot_be_is_refused_in_one_line(tmp_path, capsys, text, words):
    path = tmp_path / "own.yaml"
    path.write_text(text.replace("R]", f"{Path('stages/align.yaml').resolve()}]"))
    assert main(["profile", "--preset", str(path)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(("capability", "precision"), [("AVX512", "bf16"), ("AVX2", "fp32")])
def test_figure_4_is_measured_from_8_to_1024_frames_at_both_widths(tiny_world, monkeypatch, capability, precision):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # the device counts, not what else is there
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    title, groups = read_preset(FIGURE, [])
    assert [group.videos for group in groups] == ["data_shards/miniature/benchmarks/mini-mlvu", None]
    videos = str(tiny_world / "benchmarks" / "mini-mlvu")
    groups = [replace(group, videos=videos if group.videos else None) for group in groups]
    assert "figure 4" in title.lower()
    arguments = defaults(time_limit=60.0)
    names = ["none", "avg_pool", "bi_gpt_neox", "bimamba", "mambamia"]
    sizes = {"miniature": (128, 160, (6, 6)), "paper_width": (1536, 3072, (10, 10))}
    for group in groups:
        cases = cases_of(group, arguments, "cpu")
        assert sorted({case.frames for case in cases}) == [8, 16, 32, 64, 128, 256, 512, 1024]
        assert list(dict.fromkeys(case.model.compressor["name"] for case in cases)) == names
        assert len(cases) == 8 * 5 * (2 if group.name == "miniature" else 1)
        assert {case.precision for case in cases} == {precision}
        wide = group.name == "paper_width"
        assert {case.parts for case in cases} == ({("compress",)} if wide else {ANSWER, (*FROM_VIDEO, *ANSWER)})
        assert {case.model.random for case in cases} == {wide}
        assert {case.model.is_miniature for case in cases} == {not wide}
        d_vision, d_language, grid = sizes[group.name]
        for spec in (case.model.compressor for case in cases[: len(cases) // 8] if case.protocol == "parts"):
            with torch.device("meta"):
                compressor = build_compressor(d_vision=d_vision, d_language=d_language, grid=grid, **spec)
            patches = grid[0] * grid[1]
            each = {"none": patches, "avg_pool": patches // 4}.get(
                spec["name"]
            )  # the others: one a row of every third frame
            for frames in (8, 1024):
                assert compressor.num_tokens(frames) == (frames * each if each else -(-frames // 3) * grid[0])
    assert {case.model.compressor["preset"] for case in cases} == {"paper"}


def defaults(time_limit=3600.0):
    """Options as they are when none is given."""
    none = dict.fromkeys(("frames", "compressors", "parts", "protocol", "precision", "samples", "warmup", "videos"))
    limits = {"time_limit": time_limit, "memory_limit_gib": None}
    return Namespace(**none, **limits, text_tokens=256, seed=0, frames_only=False)


def test_what_figure_4_holds_counts_as_measured(monkeypatch):
    """A change to what decides a case's numbers, or to which results are final, would throw hours of measuring away."""
    path = Path("reports/figure4/results.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    videos = next(tuple(row["case"]["videos"]) for row in rows if row["case"]["videos"])
    monkeypatch.setattr("tstar.cli.profile._videos", lambda folder, what: videos if folder else ())
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    cases = [case for group in read_preset(FIGURE, [])[1] for case in cases_of(group, defaults(), "cpu")]
    store = profile.ProfileStore(path, rows[0]["machine"])
    assert len(cases) == 120
    assert [(case.label, case.frames, case.parts) for case in cases if store.get(case) is None] == []


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
