"""Every published run, as far as that goes without weights: parsed, types checked, parts built, and one planned whole."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest

from tstar.cli.ablation_file import read_ablation
from tstar.cli.recipe import read_recipe, stage_class
from tstar.cli.stage_cli import check_types
from tstar.compressors import compressor_options
from tstar.data.conversations import get_template
from tstar.language.backbones import BACKBONES
from tstar.language.lora import LoraSettings
from tstar.reports.plan import Planner
from tstar.reports.plan_samples import stage_samples
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


@pytest.fixture(scope="module")
def check_once():
    """A function that checks types as ``check_types``, but each config once, whatever its compressor's options.

    To the parser these are one mapping of anything; the compressor's own check of its name and preset comes for each.
    """
    seen = set()

    def check(recipe):
        for name, config in recipe.stages.items():
            rest = copy.deepcopy(config)
            spec = rest["model"]["init_args"].pop("compressor", None)
            if spec is not None:
                compressor_options(spec["name"], spec.get("preset", "paper"))
            text = json.dumps([rest, recipe.evaluation], sort_keys=True)
            if text not in seen:
                check_types(replace(recipe, stages={name: config}))
                seen.add(text)

    return check


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("path", sorted(Path("configs/ablations").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_published_run_is_built_without_weights(path, planner, check_once):
    models = read_ablation(path, "paper").models
    for model in models[:: 6 if path.stem == "figure3" else 1]:  # of a grid of one kind its diagonal
        check_once(model.recipe)
        for setup in setups(planner, model.recipe):
            assert parameters(setup.parts.language) == SIZES[setup.language.path]
            assert parameters(setup.parts.encoder) == pytest.approx(ENCODERS[setup.vision.model], rel=0.02)
            assert parameters(setup.parts.compressor) > 10e6
            assert setup.devices == 8
            assert setup.strategy == "fsdp"


OVERLAYS = sorted(p for folder in ("vision", "language") for p in Path("configs", folder).glob("*.yaml"))


@pytest.mark.parametrize("path", [p for p in OVERLAYS if p.stem != "smollm2_135m"], ids=str)
def test_every_published_model_lies_over_a_recipe(path, planner):
    divides_all = [("model.init_args.compressor.query_interval", "4")]  # every encoder's patches
    recipe = read_recipe([Path("stages/align.yaml"), path], divides_all)
    check_types(recipe)
    (setup,) = setups(planner, recipe)
    assert setup.parts.compressor.num_tokens(3) > 0


def test_smollm2_lies_over_the_miniature():
    """Its folder is made by `make smollm2`."""
    recipe = read_recipe([Path("stages/video.yaml"), Path("configs/scale/smollm2.yaml")], [])
    check_types(recipe)
    for config in recipe.stages.values():
        language = config["model"]["init_args"]["language"]
        assert LoraSettings(**language["lora"]).rank == 16
        assert get_template(language["template"]).answer_end == "<|im_end|>"
        assert config["data"]["limit"] % config["data"]["batch_size"] == 0


@pytest.mark.parametrize(
    ("table", "frames", "tokens"), [("table1", 30, 3000), ("table_a", 30, 3000), ("table7", 5, 2880)]
)
def test_rows_without_compression_are_planned_with_the_frames_they_use(table, frames, tokens, planner):
    """Their sequences fit: no note says that they lose their end."""
    model = read_ablation(Path(f"configs/ablations/{table}.yaml"), "paper").models[0]
    setup = setups(planner, model.recipe)[-1]
    samples = stage_samples(setup.config, setup.kind.__name__, None, None)
    assert (samples.frames, samples.frames_source) == (frames, "data.max_frames")
    assert setup.parts.compressor.num_tokens(samples.frames) == tokens
    assert not [note for note in planner.notes(setup, samples) if "lose their end" in note]


def test_a_published_run_is_planned_whole(planner):
    recipe = read_ablation(Path("configs/ablations/table2.yaml"), "paper").models[2].recipe  # 7B, unified
    align, unified = (planner.stage(setup) for setup in setups(planner, recipe))
    assert align["parameters"]["language"] == SIZES["lmsys/vicuna-7b-v1.5"]
    assert align["trained"]["language"] == 0
    assert unified["trained"]["language"] == SIZES["lmsys/vicuna-7b-v1.5"]
