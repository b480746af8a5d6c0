"""Suites inside a run: what is logged during training and at the end."""

import json
import shutil
import signal
import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch.utils.data import DataLoader

from tstar.cli.quiet import quiet_libraries
from tstar.data.datamodule import ClipDataModule
from tstar.errors import ConfigError, DataError
from tstar.evaluation import Report, get_benchmark
from tstar.evaluation.callbacks import BenchmarkEvaluation, stopping_at_once
from tstar.evaluation.runner import SuiteRunner
from tstar.evaluation.settings import EvaluationConfig
from tstar.evaluation.table import comparison_table
from tstar.language import LanguageConfig
from tstar.stages import VideoSFT
from tstar.stages.metrics_log import MetricsLog, read_metrics
from tstar.vision import VisionConfig

SUITES = ("mini-mlvu", "mini-tempcompass")


@pytest.fixture
def stage(miniature_parts):
    torch.manual_seed(0)
    return VideoSFT(
        vision=VisionConfig(model=str(miniature_parts / "vision")),
        language=LanguageConfig(path=str(miniature_parts / "language"), template="miniature"),
        compressor={"name": "avg_pool", "preset": "tiny"},
        max_length=768,
    )


@pytest.fixture
def config(tiny_world):
    suites = {name: str(tiny_world / "benchmarks" / name) for name in SUITES}
    return EvaluationConfig(benchmarks=suites, fps=1, max_frames=2, max_new_tokens=1, validation_items=5, workers=0)


def trainer_with(callback, folder, **settings):
    quiet_libraries()
    return Trainer(
        accelerator="cpu",
        devices=1,
        logger=[MetricsLog(folder)],
        callbacks=[callback],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **settings,
    )


def fit(trainer, stage, world):
    shards = world / "shards"
    data = ClipDataModule(
        stage.processor(), [str(shards / "video_sft")], val_shards=[str(shards / "video_val")], batch_size=2, limit=4
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(stage, datamodule=data)


def test_training_logs_a_sample_of_every_suite(stage, config, tiny_world, tmp_path):
    callback = BenchmarkEvaluation(config, tmp_path)
    fit(trainer_with(callback, tmp_path, max_epochs=2), stage, tiny_world)
    rows = [row for row in read_metrics(tmp_path) if "val/mini-mlvu" in row]
    assert len(rows) == 2
    for name in SUITES:
        reports = callback.reports[name]
        assert list(reports) == ["full"]
        value = reports["full"].aggregate[get_benchmark(name).in_mean]
        assert rows[-1][f"val/{name}"] == pytest.approx(value)
        assert 0 <= value <= 1
        assert len(reports["full"].items) <= 9  # whole videos, about validation_items questions
        for step in (2, 4):
            assert (tmp_path / "validation" / f"step={step}" / name / "full.jsonl").is_file()
    assert "val/loss" in rows[-1]
    assert not (tmp_path / "eval").exists()
    assert stage.lmm.compressor.training


def test_answers_that_a_killed_run_left_at_this_step_are_not_believed(stage, config, tiny_world, tmp_path):
    callback = BenchmarkEvaluation(config, tmp_path)
    fit(trainer_with(callback, tmp_path, max_epochs=1), stage, tiny_world)
    path = tmp_path / "validation" / "step=2" / "mini-mlvu" / "full.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**row, "response": "of other weights"}) + "\n" for row in rows))
    callback._run(stage, SimpleNamespace(global_step=2, global_rank=0, world_size=1, precision="32-true"))
    assert "of other weights" not in path.read_text()


@pytest.mark.parametrize("settings", [{"validation_items": 0}, {"benchmarks": {}}])
def test_there_may_be_no_suites_during_training(stage, config, tiny_world, tmp_path, settings):
    callback = BenchmarkEvaluation(EvaluationConfig(**{**vars(config), **settings}), tmp_path)
    fit(trainer_with(callback, tmp_path, max_epochs=1), stage, tiny_world)
    assert callback.reports == {}
    assert not (tmp_path / "validation").exists()
    assert any("val/loss" in row for row in read_metrics(tmp_path))


def test_a_sanity_check_asks_nothing(stage, config, tmp_path):
    callback = BenchmarkEvaluation(config, tmp_path)
    trainer = trainer_with(callback, tmp_path, max_epochs=1)
    trainer.sanity_checking = True
    callback.on_validation_epoch_end(trainer, stage)
    assert callback.reports == {}


def test_a_complete_run_logs_every_mode_and_keeps_the_reports(stage, config, tmp_path):
    callback = BenchmarkEvaluation(config, tmp_path, model="abc", complete=True)
    trainer = trainer_with(callback, tmp_path)
    trainer.validate(stage, dataloaders=DataLoader([None], batch_size=None), verbose=False)
    logged = trainer.callback_metrics
    wanted = {f"test/{name}/{mode}" for name in SUITES for mode in config.modes}
    assert {key for key in logged if key.startswith(("test/", "val/"))} == wanted
    files = {path.name: path for path in (tmp_path / "eval").rglob("*.json")}
    for name in SUITES:
        for mode in config.modes:
            report = Report.from_json(files[f"{name}.{mode}.json"].read_text())
            assert report == callback.reports[name][mode]
            assert report.counts["missing"] == report.counts["failed"] == 0
            assert float(logged[f"test/{name}/{mode}"]) == pytest.approx(report.aggregate[get_benchmark(name).in_mean])
            lines = (tmp_path / "predictions" / name / f"{mode}.jsonl").read_text().splitlines()
            assert {json.loads(line)["model"] for line in lines} == {"abc"}


def test_a_trial_takes_some_questions_of_a_complete_run(stage, config, tmp_path):
    small = EvaluationConfig(**{**vars(config), "baselines": False})
    callback = BenchmarkEvaluation(small, tmp_path, model="abc", complete=True, limit=2)
    trainer_with(callback, tmp_path).validate(stage, dataloaders=DataLoader([None], batch_size=None), verbose=False)
    assert [list(modes) for modes in callback.reports.values()] == [["full"], ["full"]]
    assert len(callback.reports["mini-mlvu"]["full"].items) == 2


def test_what_has_no_answer_is_in_the_report_with_its_reason(stage, config, tmp_path):
    suite = tmp_path / "suite"
    shutil.copytree(config.benchmarks["mini-mlvu"], suite)
    items = get_benchmark("mini-mlvu").load(suite)
    broken, gone = items[0].media, next(i.media for i in items if i.media != items[0].media)
    (suite / broken).write_bytes(b"no video")
    (suite / gone).unlink()
    one = replace(config, benchmarks={"mini-mlvu": str(suite)}, baselines=["blind"], missing_media="score_rest")
    callback = BenchmarkEvaluation(one, tmp_path, model="abc", complete=True)
    trainer_with(callback, tmp_path).validate(stage, dataloaders=DataLoader([None], batch_size=None), verbose=False)
    found = Report.from_json((tmp_path / "eval" / "mini-mlvu.full.json").read_text())
    assert found.reasons.keys() == {i.id for i in items if i.media in (broken, gone)}
    for item in items:
        if item.media == broken:
            assert str(suite / broken) in found.reasons[item.id]
        if item.media == gone:
            assert found.reasons[item.id] == f"{gone} is not in {suite}"
    blind = Report.from_json((tmp_path / "eval" / "mini-mlvu.blind.json").read_text())
    assert blind.reasons.keys() == {i.id for i in items if i.media == gone}


@pytest.mark.parametrize("complete", [False, True])
def test_what_has_no_number_is_not_logged_as_one(stage, config, tiny_world, tmp_path, complete):
    """Answers that wait for a judge, and a TempCompass without the questions that its headline is about."""
    video = next((tiny_world / "benchmarks" / "mini-mlvu").rglob("*.mp4"))
    for name in ("activitynetqa", "tempcompass"):
        (tmp_path / name).mkdir()
    shutil.copy(video, tmp_path / "activitynetqa" / "v_x.mp4")
    row = {"video_name": "x", "question": "what is it", "question_id": "v_x_0", "answer": "red", "type": 4}
    (tmp_path / "activitynetqa" / "test.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "tempcompass" / "videos").mkdir()
    shutil.copy(video, tmp_path / "tempcompass" / "videos" / "1.mp4")
    asked = {"1": {"speed": [{"question": "Is it slow?", "answer": "no"}]}}
    (tmp_path / "tempcompass" / "yes_no.json").write_text(json.dumps(asked))
    suites = {name: str(tmp_path / name) for name in ("activitynetqa", "tempcompass")}
    suites["mini-mlvu"] = config.benchmarks["mini-mlvu"]
    one = replace(config, benchmarks=suites, baselines=False)
    callback = BenchmarkEvaluation(one, tmp_path / "out", model="abc", complete=complete)
    trainer = trainer_with(callback, tmp_path)
    trainer.validate(stage, dataloaders=DataLoader([None], batch_size=None), verbose=False)
    wanted = "test/mini-mlvu/full" if complete else "val/mini-mlvu"
    assert {key for key in trainer.callback_metrics if key.startswith(("test/", "val/"))} == {wanted}
    assert callback.reports["activitynetqa"]["full"].counts["unjudged"] == 1
    assert "yes_no/avg" in callback.reports["tempcompass"]["full"].aggregate
    assert comparison_table(callback.reports).rows[-1][1][-1].value is None  # a row that lacks a headline has no mean


def test_a_report_on_other_questions_is_not_replaced(stage, config, tmp_path, monkeypatch):
    other = tmp_path / "other"
    shutil.copytree(config.benchmarks["mini-mlvu"], other)
    path = next(path for path in other.rglob("*.json") if isinstance(json.loads(path.read_text()), list))
    path.write_text(json.dumps(json.loads(path.read_text())[1:]))
    one = replace(config, benchmarks={"mini-mlvu": config.benchmarks["mini-mlvu"]}, baselines=False)
    nothing = DataLoader([None], batch_size=None)
    callback = BenchmarkEvaluation(one, tmp_path / "run", model="abc", complete=True)
    trainer_with(callback, tmp_path).validate(stage, dataloaders=nothing, verbose=False)
    assert callback.resumed is False
    report = tmp_path / "run" / "eval" / "mini-mlvu.full.json"
    before = report.read_bytes()
    two = replace(one, benchmarks={"mini-mlvu": str(other)})
    with monkeypatch.context() as patch:
        patch.setattr(SuiteRunner, "ask", lambda *_: pytest.fail("something was asked"))
        callback = BenchmarkEvaluation(two, tmp_path / "run", model="abc", complete=True)
        with pytest.raises(
            ConfigError, match=r"mini-mlvu\.full\.json is about other questions of mini-mlvu than .*; give --out"
        ):
            trainer_with(callback, tmp_path).validate(stage, dataloaders=nothing, verbose=False)
    assert report.read_bytes() == before
    callback = BenchmarkEvaluation(one, tmp_path / "run", model="abc", complete=True)
    trainer_with(callback, tmp_path).validate(stage, dataloaders=nothing, verbose=False)
    assert callback.resumed is True
    callback = BenchmarkEvaluation(one, tmp_path / "run", model="of another", complete=True)
    trainer_with(callback, tmp_path).validate(stage, dataloaders=nothing, verbose=False)
    assert callback.resumed is False


def test_missing_media_of_a_later_suite_stop_everything_before_anything_is_asked(stage, config, tmp_path, monkeypatch):
    suite = tmp_path / "suite"
    shutil.copytree(config.benchmarks["mini-tempcompass"], suite)
    next(suite.rglob("*.mp4")).unlink()
    config.benchmarks["mini-tempcompass"] = str(suite)
    monkeypatch.setattr(SuiteRunner, "ask", lambda *_: pytest.fail("something was asked"))
    callback = BenchmarkEvaluation(config, tmp_path, model="abc", complete=True)
    with pytest.raises(DataError, match="mini-tempcompass: the media of"):
        callback._run(stage, SimpleNamespace(global_step=0, global_rank=0, world_size=1, precision="32-true"))


def test_slices_of_parameters_that_cannot_be_gathered_are_refused(stage, config, tmp_path, one_line):
    trainer = SimpleNamespace(strategy=DeepSpeedStrategy.__new__(DeepSpeedStrategy))
    trainer.strategy.config = {"zero_optimization": {"stage": 3}}
    with pytest.raises(ConfigError) as caught:
        BenchmarkEvaluation(config, tmp_path).setup(trainer, stage, "fit")
    one_line(caught.value, "evaluation.validation_items", "ZeRO-3", "fsdp.yaml")
    BenchmarkEvaluation(replace(config, validation_items=0), tmp_path).setup(trainer, stage, "fit")
    trainer.strategy.config = {"zero_optimization": {"stage": 2}}
    BenchmarkEvaluation(config, tmp_path).setup(trainer, stage, "fit")


def test_a_foreign_module_is_refused(config, tmp_path, one_line):
    class Other(LightningModule):
        pass

    with pytest.raises(ConfigError) as caught:
        BenchmarkEvaluation(config, tmp_path).setup(None, Other(), "fit")
    one_line(caught.value, "BenchmarkEvaluation", "stage", "Other")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_final_evaluation_ends_it_with_the_status_that_schedulers_expect(number, capsys):
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stop, stopping_at_once():
        signal.raise_signal(number)
    assert stop.value.code == 128 + number
    assert "the same command goes on" in capsys.readouterr().err
    assert signal.getsignal(number) is before
