"""What a start of ``tstar fit`` checks: recipes, settings, shards, and runs that are there already."""

import os
import shutil
from pathlib import Path

import pytest
import yaml
from lightning.pytorch import Trainer

from tstar.cli import run_folder
from tstar.cli.fit import check_files
from tstar.cli.main import main
from tstar.cli.recipe import read_recipe
from tstar.cli.run_folder import RunFolder, global_batch
from tstar.cli.stage_cli import build_stage
from tstar.data.files import file_digest
from tstar.errors import ConfigError, DataError

ROOT = Path(__file__).parents[2]


def recipes():
    paths = [p.relative_to(ROOT) for folder in ("stages", "configs") for p in (ROOT / folder).rglob("*.yaml")]
    own = {"data", "ablations", "profiles"}  # for `tstar shard`, for tables, for `tstar profile`
    published = {"vision", "language"}  # their weights would be downloaded; see test_published_plans.py
    paths = [p for p in paths if p.parts[0] == "stages" or p.parts[1] not in own | published]
    paths = [p for p in paths if not p.name.startswith("paper") and p.name != "smollm2.yaml"]
    return sorted(p for p in paths if "deepspeed" not in p.name)  # see test_trainer_configs.py


@pytest.mark.parametrize("path", recipes(), ids=str)
def test_every_committed_yaml_builds_live_stages(path, workplace):
    files = [path] if path.parts[0] == "stages" else [Path("stages/unified.yaml"), path]
    recipe = read_recipe(files, [])
    check_files(recipe)
    folder = RunFolder(workplace / "runs" / recipe.name, recipe)
    for name, config in recipe.stages.items():
        config = folder.resolve_init(config)
        config["model"]["init_args"]["init_from"] = None  # the stages before have not run
        cli = build_stage(config, workplace / name)
        assert type(cli.model).__name__ == config["model"]["class_path"]
        assert cli.model.lmm.compressor.num_tokens(16) > 0
        assert len(cli.datamodule.train_source) > 0
        assert cli.datamodule.train_source.processor.image_size == cli.model.lmm.encoder.image_size


def test_the_link_from_model_to_data_carries_this_stages_processor(workplace):
    config = read_recipe([Path("stages/align.yaml")], []).stages["align"]
    cli = build_stage(config, workplace)
    assert cli.datamodule.train_source.processor == cli.model.processor()
    assert cli.datamodule.train_source.processor.template.captions_only


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([("data.batch_size", "many")], "batch_size"),
        ([("trainer.precision", "17")], "precision"),
        ([("model.init_args.compressor.name", "manba")], "unknown compressor 'manba'; did you mean 'mamba'"),
        ([("model.init_args.compressor.query_interval", "7")], "query_interval"),
        ([("model.init_args.language.template", "viccuna")], "unknown template 'viccuna'"),
        ([("model.init_args.vision.model", "ViT-Q")], "ViT-Q"),
        ([("model.init_args.optimizer.lr", "-1")], "lr must be above 0"),
        ([("evaluation.max_frames", "many")], "command line: evaluation.max_frames"),
        ([("evaluation.benchmarks", "[mini-mlvu]")], "must be a mapping"),
        ([("run.max_bad_fraction", "often")], "run.max_bad_fraction"),
        ([("run.matmul_precision", "low")], "run.matmul_precision"),
        ([("run.max_bad_fraction", "2")], "run.max_bad_fraction must be 0 to 1"),
        ([("data.shards", "data_shards/my")], "data.shards"),
        ([("model", "Align")], "'model' must be a mapping"),
        ([("model.init_args.init_from", "align")], "init_from' must be a mapping"),
        ([("model.init_args.init_from.compressor", "projektor")], "neither an earlier stage nor a weights file"),
        ([("trainer.accelerator", "gpu")], "gpu"),
        (
            [
                ("data.batch_size", "4"),
                ("trainer.val_check_interval", "1000"),
                ("data.val_shards", "[data_shards/miniature/shards/video_val]"),
            ],
            "val_check",
        ),
        ([("trainer.fast_dev_run", "true")], "data.limit"),
        ([("trainer.max_epochs", "-1")], "must bound the training"),
    ],
)
def test_values_that_cannot_work_are_one_line_and_status_2(workplace, capsys, settings, message):
    arguments = [word for key, value in settings for word in (f"--{key}", value)]
    assert main(["fit", "--config", "stages/align.yaml", *arguments]) == 2
    told = capsys.readouterr().err.strip()
    assert message in told
    assert len(told.splitlines()) == 1


def test_missing_and_truncated_shards_are_found_before_anything_is_trained(workplace, tiny_world):
    def recipe(shards):
        return read_recipe([Path("stages/align.yaml")], [("data.shards", f"[{shards}]")])

    with pytest.raises(DataError, match=r"no shards in nowhere .*tstar shard"):
        check_files(recipe("nowhere"))
    shutil.copytree(tiny_world / "shards" / "align", workplace / "cut")
    shard = workplace / "cut" / "shard-00000.tar"
    shard.write_bytes(shard.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"shard-00000\.tar has 5000 bytes where \d+ were written; run the same"):
        check_files(recipe("cut"))


@pytest.fixture
def finished(workplace):
    """The folder of a finished alignment with 32 samples a step; what further settings take its stage for."""
    folder = RunFolder(workplace / "runs" / "align", read_recipe([Path("stages/align.yaml")], []))
    own = folder.stages["align"]
    own.path.mkdir(parents=True)
    own.weights.write_bytes(b"w")
    own.finish(folder.recipe.stages["align"], steps=1, init_from={}, weights_sha256=file_digest(own.weights))

    def check(*settings, over=()):
        recipe = read_recipe([Path("stages/align.yaml"), *over], list(settings))
        return RunFolder(folder.path, recipe).check_done("align")

    return folder, check


@pytest.mark.parametrize(
    ("given", "fresh", "order"),
    [
        ({}, 0, 0),
        ({"seed_everything": 3}, 3, 3),
        ({"data.seed": 5}, 0, 5),
        ({"seed_everything": 3, "data.seed": 5}, 3, 5),
    ],
)
def test_the_order_of_samples_follows_the_seed_unless_it_has_its_own(given, fresh, order, workplace, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # given back after the test
    recipe = read_recipe([Path("stages/align.yaml")], [(key, str(value)) for key, value in given.items()])
    cli = build_stage(recipe.stages["align"], workplace)
    assert (os.environ["PL_GLOBAL_SEED"], cli.datamodule.seed) == (str(fresh), order)


def test_a_finished_stage_is_not_taken_for_one_with_other_settings(finished):
    folder, check = finished
    assert check()["steps"] == 1
    for key, value in (
        ("data.limit", "3"),
        ("trainer.max_epochs", "5"),
        ("trainer.precision", "bf16-mixed"),
        ("model.init_args.compressor.num_layers", "1"),
        ("seed_everything", "1"),
    ):
        with pytest.raises(ConfigError, match="finished with other settings"):
            check((key, value))
    folder.stages["align"].weights.write_bytes(b"x")
    with pytest.raises(DataError, match="is not what"):
        check()


def test_a_run_killed_while_it_noted_its_start_can_be_started_and_gone_on_with(workplace, monkeypatch):
    recipe = read_recipe([Path("stages/align.yaml")], [])

    def killed(*_):
        raise KeyboardInterrupt

    for number, resume in enumerate((False, True)):
        folder = RunFolder(workplace / "runs" / f"run{number}", recipe)
        write = run_folder.write_atomically
        for allowed in (0, 1):
            left = [write] * allowed + [killed]
            monkeypatch.setattr(run_folder, "write_atomically", lambda *of, left=left: left.pop(0)(*of))
            with pytest.raises(KeyboardInterrupt):
                folder.open(resume=False, overwrite=False)
            monkeypatch.setattr(run_folder, "write_atomically", write)
        folder.open(resume=resume, overwrite=False)
        assert (folder.path / "config.1.yaml").is_file()
        with pytest.raises(ConfigError, match="holds a run already"):
            folder.open(resume=False, overwrite=False)


def test_a_finished_stage_is_the_same_in_another_layout_of_its_batches(finished, tmp_path):
    _, check = finished
    halves = [("data.batch_size", "16"), ("trainer.devices", "2"), ("trainer.strategy", "ddp")]
    assert check(*halves)["steps"] == 1
    assert check(("data.batch_size", "8"), ("trainer.accumulate_grad_batches", "4"), ("data.num_workers", "3"))
    assert check(("data.batch_size", "4"), ("trainer.devices", "4"), ("trainer.num_nodes", "2"))
    assert check(("data.batch_size", "16"), ("trainer.devices", "[0, 3]"))
    slices = tmp_path / "slices.yaml"  # configs/trainer/fsdp.yaml in the precision the stage was trained in
    slices.write_text(Path("configs/trainer/fsdp.yaml").read_text() + "  precision: 32-true\n")
    slices.write_text(slices.read_text().replace("  precision: bf16-mixed\n", ""))
    assert check(("trainer.devices", "2"), ("data.batch_size", "16"), over=[slices])
    for settings in ([("data.batch_size", "3")], halves[1:]):
        with pytest.raises(
            ConfigError, match=r"finished with 32 samples a step, here it has (3|64); keep data\.batch_size"
        ):
            check(*settings)


@pytest.mark.parametrize(
    ("trainer", "gpus", "count"),
    [
        ({}, 0, 1),
        ({}, 4, 4),
        ({"accelerator": "cpu"}, 4, 1),
        ({"devices": "auto", "accelerator": "gpu", "num_nodes": 2}, 4, 8),
        ({"devices": -1}, 3, 3),
        ({"devices": "2"}, 8, 2),
        ({"devices": "0, 1, 5"}, 8, 3),
        ({"devices": [1]}, 8, 1),
    ],
    ids=str,
)
def test_processes_are_those_that_lightning_starts(trainer, gpus, count, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    for module in ("lightning.fabric.accelerators.cuda", "lightning.pytorch.accelerators.cuda"):
        monkeypatch.setattr(f"{module}.num_cuda_devices", lambda: gpus)
    built = Trainer(**trainer, logger=False, enable_checkpointing=False)
    assert built.num_devices * built.num_nodes == count
    assert global_batch({"trainer": {**trainer, "accumulate_grad_batches": 3}, "data": {"batch_size": 5}}) == 15 * count
    assert global_batch({"trainer": trainer}) == 8 * count


def test_print_config_shows_a_recipe_that_repeats_the_run(workplace, capsys):
    assert main(["fit", "--config", "stages/unified.yaml", "--data.batch_size", "3", "--print_config"]) == 0
    printed = capsys.readouterr().out
    (workplace / "printed.yaml").write_text(printed)
    first = read_recipe([Path("stages/unified.yaml")], [("data.batch_size", "3")])
    again = read_recipe([workplace / "printed.yaml"], [])
    assert (again.stages, again.evaluation, again.name) == (first.stages, first.evaluation, first.name)
    assert yaml.safe_load(printed)["stages"]["align"]["data"]["batch_size"] == 3


def started(workplace, recipe="stages/align.yaml", name="align"):
    """The folder of a run that was started and got nowhere."""
    folder = RunFolder(workplace / "runs" / name, read_recipe([Path(recipe)], [], name))
    folder.open(resume=False, overwrite=False)
    return folder.path


def test_a_checkpoint_of_no_stage_of_the_recipe_is_refused(workplace, capsys):
    checkpoint = started(workplace) / "7-strange" / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"x")
    assert main(["fit", "--config", "stages/align.yaml", "--ckpt", str(checkpoint)]) == 2
    told = capsys.readouterr().err
    assert "belongs to no stage of this recipe" in told
    assert "init_from" in told


def test_a_run_of_another_recipe_is_refused_and_left_as_it_was(workplace, capsys):
    run = started(workplace)
    before = {path: path.read_bytes() for path in run.iterdir()}
    assert main(["fit", "--config", "stages/unified.yaml", "--ckpt", str(run)]) == 2
    assert "has the stages align, this recipe align, unified_sft" in capsys.readouterr().err
    assert main(["fit", "--config", "stages/align.yaml", "--ckpt", "--overwrite"]) == 2
    assert "give one of them" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in run.iterdir()} == before


def test_a_refused_start_leaves_nothing_behind(workplace, capsys):
    assert main(["fit", "--config", "stages/align.yaml", "--trainer.max_epochs", "many"]) == 2
    assert "command line: trainer.max_epochs: expected int or null, got many" in capsys.readouterr().err
    assert not (workplace / "runs").exists()


def test_warnings_stay_out_of_what_is_printed_for_reading_again(workplace, capsys):
    overlay = ["--config", "stages/two_stage.yaml", "--config", "configs/compressors/avg_pool.yaml"]
    assert main(["fit", *overlay, "--print_config"]) == 0
    assert "warning" not in capsys.readouterr().out
