"""The whole path through the console script: fit, kill, resume, validate, on a cut-down world in a temporary folder."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
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
from tstar.evaluation.answering import Answerer
from tstar.evaluation.prediction_store import MODE_LABELS, MODES
from tstar.stages.metrics_log import read_metrics

ROOT = Path(__file__).parents[2]
TSTAR = Path(sys.executable).with_name("tstar")
SMALL = [
    "--run.checkpoint_every_n_steps=1",
    "--run.progress_every_n_steps=1",
    "--trainer.log_every_n_steps=1",
    "--trainer.max_epochs=1",
    "--trainer.check_val_every_n_epoch=1",
    "--data.batch_size=4",
    "--evaluation.max_frames=4",
    "--evaluation.validation_items=4",
    "--stages.video_sft.data.batch_size=2",  # long enough to be killed in it
]
# one thread: with several, the math library may split its sums differently under load, in the last bit
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
STAGES = ["projector", "image_sft", "align", "video_sft"]


def fit(*arguments):
    command = [str(TSTAR), "fit", "--config", "stages/two_stage.yaml", *SMALL, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT)


def weights(run):
    return {
        stage: file_digest(Path("runs") / run / f"{k}-{stage}" / "weights.safetensors")
        for k, stage in enumerate(STAGES, 1)
    }


def test_fit_and_validate_run_the_whole_path_and_a_run_killed_in_every_stage_ends_the_same(workplace):
    whole = fit("--name", "whole")
    assert whole.returncode == 0, whole.stderr
    assert "Generated miniature suites" in whole.stdout
    assert all(f"{row}" in whole.stdout for row in ("chance", *MODE_LABELS.values()))
    run = workplace / "runs" / "whole"
    for path in (
        "report.md",
        "run_card.json",
        "config.yaml",
        "predictions/mini-vnbench/blind.jsonl",
        "eval/metrics.csv",
    ):
        assert (run / path).is_file(), path
    assert list((run / "4-video_sft" / "tb").glob("events*"))
    check_predictions(run)
    check_metrics(run)

    killed = kill_once_in_every_stage("killed")
    assert killed == STAGES
    events = [json.loads(line) for line in (workplace / "runs" / "killed" / "events.jsonl").read_text().splitlines()]
    assert [e["stage"] for e in events if e["event"] == "stage finished"] == STAGES
    assert weights("killed") == weights("whole")

    out = workplace / "elsewhere"
    checkpoint = run / "4-video_sft" / "checkpoints" / "last.ckpt"
    command = [str(TSTAR), "validate", "--ckpt", str(checkpoint), "--benchmarks", "mini-mlvu,mini-tempcompass"]
    done = subprocess.run([*command, "--out", str(out), "--json"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    table = json.loads(done.stdout)
    assert table["columns"] == ["mini-mlvu", "mini-tempcompass", "mean"]
    tag = "mini-mlvu-mini-tempcompass"  # an evaluation that is not the recipe's whole one lies apart
    assert (out / f"report.{tag}.md").is_file()
    for suite in ("mini-mlvu", "mini-tempcompass"):
        for mode in MODES:
            places = (out / "eval" / tag, run / "eval")
            again, first = (json.loads((place / f"{suite}.{mode}.json").read_text()) for place in places)
            assert again["aggregate"] == first["aggregate"]

    record = json.loads((run / "eval" / "evaluation.json").read_text())
    assert record["settings"]["max_frames"] == 4
    assert record["seconds"] > 0
    assert main(["report", str(run), "--out", "page"]) == 0
    told = (workplace / "page" / "README.md").read_text()
    assert told.endswith("## What is missing\n\nNothing.\n")
    assert len(list((workplace / "page").glob("*.png"))) == 5

    finished = fit("--name", "whole", "--ckpt")
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("finished before") == len(STAGES)
    refused = fit("--name", "whole")
    assert refused.returncode == 2
    assert "--ckpt" in refused.stderr
    assert "--overwrite" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert (run / "config.2.yaml").is_file()


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_a_run_in_half_precision_is_evaluated_in_it_and_gone_on_with(precision, workplace, capsys, monkeypatch):
    few = ["--trainer.max_epochs=1", "--data.batch_size=4", "--evaluation.benchmarks={}", "--evaluation.max_frames=4"]
    command = ["fit", "--config", "stages/align.yaml", f"--trainer.precision={precision}", *few]
    assert main(command) == 0
    mixed, see = [], Answerer.see

    def seen(self, clips):
        mixed.append(self.half)
        return see(self, clips)

    monkeypatch.setattr(Answerer, "see", seen)
    suite = ["--evaluation.benchmarks.mini-mlvu", "data_shards/miniature/benchmarks/mini-mlvu"]
    assert main(["validate", "--ckpt", "runs/align", "--out", "again", *suite]) == 0
    assert list(Path("again/eval").rglob("mini-mlvu.full.json"))
    assert set(mixed) == {torch.bfloat16 if precision == "bf16-mixed" else None}
    answers = Path("again/predictions/mini-mlvu/full.jsonl")
    asked = answers.read_text().splitlines()
    if precision == "bf16-mixed":  # answers in another precision are others
        whole = ["--trainer.precision", "32-true"]
        assert main(["validate", "--ckpt", "runs/align", "--out", "again", "--no-baselines", *suite, *whole]) == 0
        assert len(answers.read_text().splitlines()) == 2 * len(asked)
        assert mixed[-1] is None
    capsys.readouterr()
    Path("runs/align/1-align/done.json").unlink()
    assert main([*command, "--ckpt", "runs/align"]) == 0
    assert "going on from" in capsys.readouterr().out


def test_two_processes_train_every_stage_and_ask_half_of_every_suite(workplace):
    suites = "--evaluation.benchmarks={mini-mlvu: data_shards/miniature/benchmarks/mini-mlvu}"
    halves = ["--data.batch_size=2", "--stages.video_sft.data.batch_size=1"]
    done = fit("--config", "configs/scale/two_processes.yaml", "--name", "two", *halves, suites)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("[4/4]") == 1  # one of them speaks
    assert "Generated miniature suites" in done.stdout
    run = workplace / "runs" / "two"
    assert all((run / f"{k}-{stage}" / "done.json").is_file() for k, stage in enumerate(STAGES, 1))
    assert (run / "predictions" / "mini-mlvu" / "full.jsonl").is_file()
    assert not list(run.rglob("*.rank*.jsonl"))
    assert "sync_dist" not in done.stderr


@pytest.mark.slow
def test_a_checkpoint_is_validated_alone_together_and_with_damaged_media(workplace):
    suites = "--evaluation.benchmarks={mini-mlvu: data_shards/miniature/benchmarks/mini-mlvu}"
    done = fit("--name", "whole", suites)
    assert done.returncode == 0, done.stderr
    run = workplace / "runs" / "whole"
    last = run / "4-video_sft" / "checkpoints" / "last.ckpt"
    command = [str(TSTAR), "validate", "--ckpt", str(last), "--devices", "2", "--out", "together", "--json"]
    together = subprocess.run(command, capture_output=True, text=True, timeout=120, env=ENVIRONMENT)
    assert together.returncode == 0, together.stderr
    assert json.loads(together.stdout)["unanswered"] == {}
    for mode in MODES:
        first, second = (
            [json.loads(line) | {"seconds": None} for line in path.read_text().splitlines()]
            for path in (place / "predictions" / "mini-mlvu" / f"{mode}.jsonl" for place in (run, Path("together")))
        )
        assert first == second
    check_what_cannot_be_asked(last, workplace)


def check_what_cannot_be_asked(checkpoint, workplace):
    """Missing media stop a validation at once unless the rest is wanted, and what has no answer is said at its end."""
    suite = shutil.copytree(workplace / "data_shards" / "miniature" / "benchmarks" / "mini-mlvu", workplace / "suite")
    gone, broken = sorted(suite.rglob("*.mp4"))[:2]
    gone.unlink()
    broken.write_bytes(b"no video")
    moved = ["--evaluation.benchmarks.mini-mlvu", str(suite), "--out", "damaged"]
    command = [str(TSTAR), "validate", "--ckpt", str(checkpoint), *moved]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=120, env=ENVIRONMENT)
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert gone.name in line
    assert "evaluation.missing_media: score_rest" in line
    command += ["--evaluation.missing_media", "score_rest", "--evaluation.baselines", "[blind]"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert "warning: mini-mlvu: of" in done.stderr
    assert "failed, for their media cannot be read and" in done.stderr
    assert "were never asked, for their media are missing, listed in" in done.stderr
    told = (workplace / "damaged" / "report.missing_media=score_rest-baselines=blind.md").read_text()
    assert "**Not answered**" in told
    assert f"{gone.name} is not in {suite}" in told
    assert str(broken) in told
    assert sorted(p.stem for p in (workplace / "damaged" / "predictions" / "mini-mlvu").iterdir()) == ["blind", "full"]


def kill_once_in_every_stage(name):
    """SIGKILL a run as soon as each stage has a checkpoint; the same command plus --ckpt goes on. Stages that were killed."""
    killed = []
    for number, stage in enumerate(STAGES, 1):
        folder = Path("runs") / name / f"{number}-{stage}"
        again = [] if number == 1 else ["--ckpt"]
        command = [str(TSTAR), "fit", "--config", "stages/two_stage.yaml", *SMALL, "--name", name, *again]
        with open(f"{name}.log", "a") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=ENVIRONMENT)
            until = time.monotonic() + 120
            while not list((folder / "checkpoints").glob("step=*.ckpt")) and process.poll() is None:
                assert time.monotonic() < until, Path(f"{name}.log").read_text()
                time.sleep(0.02)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert not (folder / "done.json").exists(), f"{stage} was over before it was killed"
        killed.append(stage)
    done = fit("--name", name, "--ckpt")
    assert done.returncode == 0, done.stderr
    assert "going on from" in done.stdout
    return killed


def check_predictions(run):
    """Every question of every suite and mode has one line, and the verdicts agree with the report."""
    for path in run.glob("predictions/*/*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        report = json.loads((run / "eval" / f"{path.parent.name}.{path.stem}.json").read_text())
        assert len(rows) == report["counts"]["n"]
        assert {row["id"]: row["correct"] for row in rows} == {i["id"]: i["correct"] for i in report["items"]}
        assert {row["mode"] for row in rows} == {path.stem}
    assert len(list(run.glob("predictions/*/*.jsonl"))) == 4 * len(MODES)


def check_metrics(run):
    """The losses of every step, and the suites at validation, are in the metrics."""
    rows = read_metrics(run / "4-video_sft")
    steps = json.loads((run / "4-video_sft" / "done.json").read_text())["steps"]
    assert [row["step"] for row in rows if "train/loss" in row] == list(range(steps))
    assert any("val/mini-vnbench" in row and "val/loss" in row for row in rows)


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


def test_a_damaged_sample_is_skipped_counted_and_listed_and_training_goes_on(workplace, tiny_world, capsys):
    shutil.copytree(tiny_world / "shards" / "align", workplace / "hurt")
    shard = workplace / "hurt" / "shard-00000.tar"
    data = bytearray(shard.read_bytes())
    data[data.index(b"\xff\xd8\xff") + 40] ^= 0xFF  # inside the first picture
    shard.write_bytes(data)
    arguments = ["fit", "--config", "stages/align.yaml", "--data.shards", "[hurt]", "--data.batch_size", "4"]
    arguments += ["--trainer.max_epochs", "1"]
    assert main([*arguments, "--evaluation.benchmarks", "{}"]) == 0
    told = capsys.readouterr().err
    assert "1 damaged samples were skipped" in told
    assert "checksum of 0000.jpg differs" in told
    (row,) = map(json.loads, (workplace / "runs/align/1-align/skipped.jsonl").read_text().splitlines())
    assert row["shard"].endswith("shard-00000.tar")


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
