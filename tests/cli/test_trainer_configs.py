"""The overlays for several devices: what they build, what is missing where, and a run in slices through the console script."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from safetensors import safe_open

from tstar.cli.main import main
from tstar.cli.recipe import read_recipe
from tstar.cli.run_folder import RunFolder
from tstar.cli.stage_cli import build_stage, check_types
from tstar.errors import ConfigError
from tstar.stages import FullySharded
from tstar.stages.checkpoint_io import load_checkpoint

TRAINER = Path("configs/trainer")
DEEPSPEED = ["deepspeed_zero2.yaml", "deepspeed_zero3.yaml"]


@pytest.mark.parametrize(("name", "kind"), [("ddp.yaml", DDPStrategy), ("fsdp.yaml", FullySharded)])
def test_an_overlay_builds_its_strategy_over_a_recipe(name, kind, workplace):
    recipe = read_recipe([Path("stages/align.yaml"), TRAINER / name], [])
    check_types(recipe)
    cli = build_stage(recipe.stages["align"], workplace)
    assert type(cli.trainer.strategy) is kind
    assert cli.trainer.precision == "bf16-mixed"
    checkpointing = cli.model.lmm.language.config.gradient_checkpointing
    assert checkpointing == (kind is FullySharded)


@pytest.fixture
def eight_gpus(monkeypatch):
    """A machine that says it has them; nothing is put on one."""
    for module in ("lightning.fabric.accelerators.cuda", "lightning.pytorch.accelerators.cuda"):
        monkeypatch.setattr(f"{module}.num_cuda_devices", lambda: 8)


PUBLISHED = {path.stem: [path] for path in sorted(Path("configs/scale").glob("paper*.yaml"))}
PUBLISHED["paper_v100"].insert(0, Path("configs/scale/paper_3.8b.yaml"))  # it lies over one of them


@pytest.mark.parametrize("scale", PUBLISHED)
@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
def test_every_published_scale_builds_its_trainer(scale, workplace, eight_gpus):
    recipe = read_recipe([Path("stages/two_stage.yaml"), *PUBLISHED[scale]], [])
    check_types(recipe)
    small = read_recipe([Path("stages/align.yaml")], []).stages["align"]
    trainers = [config["trainer"] for config in recipe.stages.values()]
    for asked in (trainers[0], trainers[-1]):
        trainer = build_stage({**small, "trainer": asked}, workplace).trainer
        assert type(trainer.strategy) is FullySharded
        assert (trainer.accelerator.name(), trainer.num_devices) == ("cuda", 8)
        assert trainer.precision == asked["precision"] == ("16-mixed" if scale == "paper_v100" else "bf16-mixed")
        plugin = trainer.strategy.precision_plugin
        assert (plugin.scaler is not None) == (scale == "paper_v100")
        assert plugin.autocast_context_manager().fast_dtype == getattr(
            torch, "float16" if scale == "paper_v100" else "bfloat16"
        )


@pytest.mark.parametrize(
    ("precision", "words"),
    [
        ("16-mixed", ["trainer.precision 16-mixed", "trainer.strategy FullySharded", "GPUs", "bf16-mixed"]),
        ("16", ["trainer.precision 16-mixed", "GPUs"]),
        ("64-true", ["trainer.precision 64-true", "trainer.strategy FullySharded", "choose one of", "bf16-mixed"]),
    ],
)
def test_a_precision_that_slices_cannot_have_is_refused_before_anything_is_built(precision, words, one_line):
    settings = [("trainer.precision", precision), ("trainer.accelerator", "cpu")]
    with pytest.raises(ConfigError) as caught:
        check_types(read_recipe([Path("stages/align.yaml"), TRAINER / "fsdp.yaml"], settings))
    one_line(caught.value, *words)


@pytest.mark.parametrize("name", DEEPSPEED)
def test_deepspeed_is_built_or_its_absence_said_before_anything_runs(name, workplace, capsys):
    recipe = read_recipe([Path("stages/align.yaml"), TRAINER / name], [])
    strategy = recipe.stages["align"]["trainer"]["strategy"]
    assert strategy["init_args"]["stage"] == int(name[-6])
    if find_spec("deepspeed"):
        check_types(recipe)
        built = build_stage(recipe.stages["align"], workplace).trainer.strategy
        assert built.config["zero_optimization"]["stage"] == int(name[-6])
        return
    for arguments in (["--config", str(TRAINER / name)], ["--trainer.strategy", "deepspeed_stage_2"]):
        assert main(["fit", "--config", "stages/align.yaml", *arguments]) == 2
        told = capsys.readouterr().err.strip()
        assert "needs the package deepspeed, which is not installed: pip install 'tstar[cuda]'" in told
        assert len(told.splitlines()) == 1
    assert not (workplace / "runs").exists()


def test_a_settings_type_is_checked_in_every_overlay(capsys, workplace):
    path = workplace / "wrong.yaml"
    text = (Path("configs") / "trainer" / "fsdp.yaml").read_text()
    path.write_text(text.replace("reshard_after_forward: true", "reshard: true"))
    assert main(["fit", "--config", "stages/align.yaml", "--config", str(path)]) == 2
    assert "trainer.strategy" in capsys.readouterr().err


def test_a_folder_of_deepspeed_is_not_gone_on_from_in_silence(workplace, one_line):
    recipe = read_recipe([Path("stages/align.yaml")], [])
    folder = RunFolder(workplace / "runs" / "zero", recipe)
    (folder.stages["align"].checkpoints / "step=3.ckpt").mkdir(parents=True)
    with pytest.raises(ConfigError) as caught:
        folder.resume_from("align", None)
    one_line(caught.value, "step=3.ckpt", "DeepSpeed", "1-align")


@pytest.mark.slow
def test_every_stage_trains_in_slices_and_every_process_evaluates(workplace, one_suite):
    sliced = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--model.init_args.optimizer.matrices=adam"]
    sizes = ["--data.batch_size=2", "--stages.video_sft.data.batch_size=1", "--trainer.max_epochs=1"]
    sizes += ["--evaluation.max_frames=4", "--evaluation.validation_items=4"]
    files = ["--config", "stages/two_stage.yaml", "--config", "configs/trainer/fsdp.yaml"]
    command = [
        str(Path(sys.executable).with_name("tstar")),
        "fit",
        *files,
        "--name",
        "slices",
        *one_suite,
        *sliced,
        *sizes,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert "Generated miniature suites" in done.stdout
    run = workplace / "runs" / "slices"
    for k, stage in enumerate(["projector", "image_sft", "align", "video_sft"], 1):
        assert (run / f"{k}-{stage}" / "done.json").is_file()
        saved = load_checkpoint(run / f"{k}-{stage}" / "checkpoints" / "last.ckpt")["state_dict"]
        with safe_open(run / f"{k}-{stage}" / "weights.safetensors", framework="pt") as file:
            assert {f"lmm.{name}" for name in file.keys()} == set(saved)  # noqa: SIM118 - no mapping
            for name, tensor in saved.items():
                assert torch.equal(file.get_tensor(name.removeprefix("lmm.")), tensor)
    assert (run / "4-video_sft" / "validation").is_dir()
