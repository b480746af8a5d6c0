"""``tstar plan``: what is printed, and what wrong options are told."""

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from tstar.cli.main import main
from tstar.cli.recipe import read_recipe, stage_class
from tstar.reports.plan_setup import Asked, read_setup

RECIPE = ["plan", "--config", "stages/align.yaml", "--data.batch_size", "4"]


def test_json_is_one_object_with_the_numbers_of_every_stage(workplace, capsys):
    assert main([*RECIPE, "--json", "--frames", "4,9", "--devices", "2", "--data.features", "null"]) == 0
    plan = json.loads(capsys.readouterr().out)
    (stage,) = plan["stages"]
    assert stage["class"] == "Align"
    training = stage["training"]
    assert training["global_batch"] == 8
    assert training["samples_source"] == "the recipe's shards"
    assert training["steps"] == training["samples"] // 8 * 2
    assert training["flops_per_step"]["total"] == sum(v for k, v in training["flops_per_step"].items() if k != "total")
    assert training["memory"]["communication"] == training["memory"]["gradients"]  # DistributedDataParallel's buckets
    assert [row["frames"] for row in plan["inference"]] == [4, 9]
    assert "settings" not in plan
    assert "multiply-add is 2" in plan["conventions"]


def test_people_get_a_line_for_each_thing_and_the_settings(workplace, capsys):
    assert main([*RECIPE, "--tokens", "20", "--frames", "4"]) == 0
    out = capsys.readouterr().out
    for words in (
        "align: Align, compressor mambamia",
        "a step",
        "one device",
        "temporal_stride 3",
        "a multiply-add is 2",
    ):
        assert words in out
    assert main([*RECIPE, "--tokens", "0", "--frames", "4"]) == 2
    assert "--tokens must be at least 1, got 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--frames", "many"], "--frames: must be like 128 or 1,128, got 'many'"),
        (["--strategy", "zero9"], "invalid choice: 'zero9'"),
        (["--devices", "0"], "--devices must be at least 1"),
        (["--trainer.precision", "64-true"], "trainer.precision '64-true' cannot be planned"),
        (["--trainer.strategy", "xla"], "trainer.strategy 'xla' cannot be planned"),
        (
            ["--trainer.strategy", "fsdp"],
            "trainer.strategy fsdp cannot keep tstar's checkpoints; tstar.stages.FullySharded",
        ),
        (["--model.init_args.compressor.query_interval", "7"], "compressor.query_interval must be a divisor of the 36"),
        (["--model.init_args.language.path", "nowhere/at/all"], "language.path 'nowhere/at/all'"),
        (["--model.init_args.vision.model", "convnext_huge_d"], "unknown vision.model 'convnext_huge_d'"),
        (["--model.init_args.compresor.name", "none"], "unknown key 'model.init_args.compresor'"),
        # as `tstar fit` would, at its first step
        (
            ["--config", "configs/trainer/fsdp.yaml"],
            "muon needs whole matrices, of which trainer.strategy FullySharded",
        ),
        (
            ["--trainer.strategy", "deepspeed_stage_3"],
            "of which trainer.strategy deepspeed_stage_3 keeps slices; set it",
        ),
        (
            ["--strategy", "zero2"],
            "muon needs whole matrices, of which trainer.strategy zero2 keeps slices; set it to ad",
        ),
    ],
)
def test_a_wrong_option_ends_in_one_line(workplace, capsys, options, words):
    try:
        status = main([*RECIPE, *options])
    except SystemExit as stop:  # options that the parser itself refuses
        status = stop.code
    assert status == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.strip().splitlines()) == 1


def test_every_example_of_the_page_is_one_that_may_be_trained():
    text = Path("docs/plan.md").read_text()
    examples = [line.split("#")[0].split() for line in text.splitlines() if line.startswith("    tstar plan ")]
    assert len(examples) == 3
    workshop = SimpleNamespace(parts=lambda *_: None)
    for words in examples:
        files = [Path(word) for before, word in pairwise(words) if before == "--config"]
        for name, config in read_recipe(files, []).stages.items():
            kind = stage_class(config["model"]["class_path"], name)
            assert read_setup(name, kind, config, Asked(), workshop).name == name


@pytest.mark.slow
def test_a_published_recipe_is_planned_without_weights(workplace, capsys):
    published = {
        "vision.model": "convnext_large_d_320",
        "vision.pretrained": "random",
        "language.path": "lmsys/vicuna-7b-v1.5",
        "language.template": "vicuna_v1",
        "compressor.preset": "paper",
        "compressor.query_interval": "10",
        "max_length": "4096",
    }
    settings = [word for key, value in published.items() for word in (f"--model.init_args.{key}", value)]
    call = [
        "plan",
        "--config",
        "stages/unified.yaml",
        *settings,
        "--trainer.precision",
        "bf16-mixed",
        "--json",
        "--data.batch_size",
        "2",
    ]
    assert main([*call, "--frames", "128,256", "--data.features", "null", "--training-frames", "128"]) == 0
    plan = json.loads(capsys.readouterr().out)
    stage = plan["stages"][-1]
    assert stage["parameters"]["language"] == 6_738_415_616
    assert stage["parameters"]["encoder"] == pytest.approx(196.2e6, rel=0.001)
    assert stage["parameters"]["compressor"] == pytest.approx(100.62e6, rel=0.001)  # docs of the method, section 3.0
    assert [row["visual"] for row in plan["inference"]] == [430, 860]
    row = plan["inference"][0]
    # two for every weight of a layer and position, the head once, and attention of 32 layers
    length, table = 430 + 256, 32000 * 4096
    weights = 2 * (6_738_415_616 - 2 * table) * length
    assert row["flops"]["prefill"] == pytest.approx(weights + 2 * table + 32 * 4 * length**2 * 4096, rel=1e-3)
    assert row["memory"]["cache"] == 2 * 32 * 4096 * 4 * (430 + 256 + 31)
