"""The whole path: fit by the console script, kill, resume, validate, on a cut-down world in a temporary folder.

Importing everything takes longer than a stage of such a run. So only the first fit and those on several processes are started as
a user would; runs that are killed are forks of a process that has imported it all, and the rest is run in this one.
"""

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

from tstar.cli.main import main
from tstar.data.files import file_digest
from tstar.evaluation.answering import Answerer
from tstar.evaluation.prediction_store import MODE_LABELS, MODES
from tstar.stages.metrics_log import read_metrics

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
]
TWO_STAGE = ["--config", "stages/two_stage.yaml", *SMALL, "--stages.video_sft.data.batch_size=2"]
"""Its last stage is long enough to be killed in it."""
# one thread: with several, the math library may split its sums differently under load, in the last bit
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
STAGES = ["projector", "image_sft", "align", "video_sft"]


def tstar(*arguments):
    return subprocess.run([str(TSTAR), *arguments], capture_output=True, text=True, timeout=300, env=ENVIRONMENT)


def weights(run):
    return {
        stage: file_digest(Path("runs") / run / f"{k}-{stage}" / "weights.safetensors")
        for k, stage in enumerate(STAGES, 1)
    }


@pytest.mark.parametrize("killed_in", [STAGES[2:], pytest.param(STAGES, marks=pytest.mark.slow)], ids=["two", "all"])
def test_fit_and_validate_run_the_whole_path_and_a_run_killed_in_stages_ends_the_same(
    workplace, killed_in, forks, one_suite, capsys
):
    whole = tstar("fit", *TWO_STAGE, "--name", "whole")
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

    kill_once_in(killed_in, forks, ["fit", *TWO_STAGE, "--name", "killed", *one_suite])
    assert [path.parent.name for path in Path("runs/killed").glob("predictions/*/full.jsonl")] == ["mini-mlvu"]
    events = [json.loads(line) for line in (workplace / "runs" / "killed" / "events.jsonl").read_text().splitlines()]
    assert [e["stage"] for e in events if e["event"] == "stage finished"] == STAGES
    assert weights("killed") == weights("whole")

    out = workplace / "elsewhere"
    checkpoint = run / "4-video_sft" / "checkpoints" / "last.ckpt"
    capsys.readouterr()
    command = ["validate", "--ckpt", str(checkpoint), "--benchmarks", "mini-mlvu,mini-tempcompass"]
    assert main([*command, "--out", str(out), "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
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

    capsys.readouterr()
    assert main(["fit", *TWO_STAGE, "--name", "whole", "--ckpt"]) == 0
    assert capsys.readouterr().out.count("finished before") == len(STAGES)
    assert main(["fit", *TWO_STAGE, "--name", "whole"]) == 2
    refused = capsys.readouterr().err
    assert "--ckpt" in refused
    assert "--overwrite" in refused
    assert len(refused.splitlines()) == 1
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


@pytest.mark.parametrize("recipe", ["unified", pytest.param("two_stage", marks=pytest.mark.slow)])
def test_two_processes_train_every_stage_and_ask_half_of_every_suite(recipe, workplace, one_suite):
    stages = {"unified": ["align", "unified_sft"], "two_stage": STAGES}[recipe]
    halves = ["--config", "configs/scale/two_processes.yaml", *SMALL, "--data.batch_size=2"]
    halves += [f"--stages.{stages[-1]}.data.batch_size=1", *one_suite]
    done = tstar("fit", "--config", f"stages/{recipe}.yaml", *halves, "--name", "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"[{len(stages)}/{len(stages)}]") == 1  # one of them speaks
    assert "Generated miniature suites" in done.stdout
    run = workplace / "runs" / "two"
    assert all((run / f"{k}-{stage}" / "done.json").is_file() for k, stage in enumerate(stages, 1))
    assert [path.parent.name for path in run.glob("predictions/*/full.jsonl")] == ["mini-mlvu"]
    assert not list(run.rglob("*.rank*.jsonl"))
    assert "sync_dist" not in done.stderr


@pytest.mark.slow
def test_a_checkpoint_is_validated_alone_together_and_with_damaged_media(workplace, one_suite):
    done = tstar("fit", *TWO_STAGE, "--name", "whole", *one_suite)
    assert done.returncode == 0, done.stderr
    run = workplace / "runs" / "whole"
    last = run / "4-video_sft" / "checkpoints" / "last.ckpt"
    together = tstar("validate", "--ckpt", str(last), "--devices", "2", "--out", "together", "--json")
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
    command = ["validate", "--ckpt", str(checkpoint), *moved]
    refused = tstar(*command)
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert gone.name in line
    assert "evaluation.missing_media: score_rest" in line
    command += ["--evaluation.missing_media", "score_rest", "--evaluation.baselines", "[blind]"]
    done = tstar(*command)
    assert done.returncode == 0, done.stderr
    assert "warning: mini-mlvu: of" in done.stderr
    assert "failed, for their media cannot be read and" in done.stderr
    assert "were never asked, for their media are missing, listed in" in done.stderr
    told = (workplace / "damaged" / "report.missing_media=score_rest-baselines=blind.md").read_text()
    assert "**Not answered**" in told
    assert f"{gone.name} is not in {suite}" in told
    assert str(broken) in told
    assert sorted(p.stem for p in (workplace / "damaged" / "predictions" / "mini-mlvu").iterdir()) == ["blind", "full"]


def kill_once_in(stages, forks, command):
    """SIGKILL a run as soon as each of these stages has a checkpoint; the same command plus --ckpt goes on, to the run's end."""
    run, log = Path("runs/killed"), Path("killed.log").absolute()

    def start(*argv):
        settings = {"argv": [*command, *argv], "cwd": str(Path.cwd())}
        (process,) = forks.start(Path(__file__).with_name("command.py"), "command", settings, [log], limit=600)
        return process

    for stage in stages:
        folder = run / f"{STAGES.index(stage) + 1}-{stage}"
        process = start(*(["--ckpt"] if run.exists() else []))
        until = time.monotonic() + 120
        while not list((folder / "checkpoints").glob("step=*.ckpt")):
            assert time.monotonic() < until, log.read_text()
            assert not forks.over(), log.read_text()
            time.sleep(0.02)
        os.killpg(process, signal.SIGKILL)
        assert forks.statuses() == [-signal.SIGKILL], log.read_text()
        assert not (folder / "done.json").exists(), f"{stage} was over before it was killed"
    before = len(log.read_text())
    start("--ckpt")
    assert forks.statuses() == [0], log.read_text()
    assert "going on from" in log.read_text()[before:]


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
