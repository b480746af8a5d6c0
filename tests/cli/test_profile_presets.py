"""``tstar profile --preset``: which groups and compressors are measured, and figure 4's own."""

import json
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
from tstar.reports.profile_cases import ANSWER, FROM_VIDEO

QUICK = ["--samples", "2", "--warmup", "0", "--device", "cpu", "--text-tokens", "8"]
FIGURE = Path("configs/profiles/figure4.yaml")


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


def test_a_preset_is_measured_without_its_videos_where_frames_alone_are_asked_for(workplace, preset, profiled, capsys):
    assert main([*preset, "--groups", "seen", "--frames-only"]) == 0
    assert [case.videos for case in profiled] == [()]
    assert json.loads(capsys.readouterr().out)["groups"][0]["videos"] == 0
    profiled.clear()
    assert main([*preset, "--groups", "seen"]) == 0
    assert [bool(case.videos) for case in profiled] == [True]


def test_compressors_are_chosen_of_a_preset_or_given_to_a_group_without(workplace, preset, profiled, capsys):
    def measured():
        found = [(case.group, case.model.compressor["name"]) for case in profiled]
        profiled.clear()
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
