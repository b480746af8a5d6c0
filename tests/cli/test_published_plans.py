"""Every published run, as far as that goes without weights: parsed, types checked, parts built, and one planned whole."""

from pathlib import Path

import pytest

from tstar.cli.ablation_file import read_ablation
from tstar.cli.recipe import stage_class
from tstar.cli.stage_cli import check_types
from tstar.language.backbones import BACKBONES
from tstar.reports.plan import Planner
from tstar.reports.plan_setup import Asked

SIZES = {backbone.hub: backbone.parameters for backbone in BACKBONES.values()}
ENCODERS = {"convnext_large_d_320": 196_230_336, "ViT-L-14-336": 304_293_888}
"""Of the image towers, without what comes after their patches."""


@pytest.fixture(scope="module")
def planner():
    return Planner(Asked(), 256)


def setups(planner, recipe):
    return [
        planner.setup(name, stage_class(config["model"]["class_path"], name), config)
        for name, config in recipe.stages.items()
    ]


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("path", sorted(Path("configs/ablations").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_published_run_is_built_without_weights(path, planner):
    for model in read_ablation(path, "paper").models:
        check_types(model.recipe)
        for setup in setups(planner, model.recipe):
            assert parameters(setup.parts.language) == SIZES[setup.language.path]
            assert parameters(setup.parts.encoder) == pytest.approx(ENCODERS[setup.vision.model], rel=0.02)
            assert parameters(setup.parts.compressor) > 10e6
            assert setup.devices == 8
            assert setup.strategy == "fsdp"


def test_a_published_run_is_planned_whole(planner):
    recipe = read_ablation(Path("configs/ablations/table2.yaml"), "paper").models[2].recipe  # 7B, unified
    align, unified = (planner.stage(setup) for setup in setups(planner, recipe))
    assert align["parameters"]["language"] == SIZES["lmsys/vicuna-7b-v1.5"]
    assert align["trained"]["language"] == 0
    assert unified["trained"]["language"] == SIZES["lmsys/vicuna-7b-v1.5"]
