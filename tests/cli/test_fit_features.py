"""`tstar fit` with ``data.features``: filled once, used by later stages and runs, and no obstacle to going on."""

import json
import re
from pathlib import Path

import pytest

from tstar.cli.main import main

ROOT = Path(__file__).parents[2]


def fit(*arguments, recipe="align"):
    plain = ["--data.batch_size", "4", "--data.features", "null", "--trainer.max_epochs", "1"]
    plain += ["--evaluation.benchmarks", "{}", "--run.progress_every_n_steps", "100"]
    return main(["fit", "--config", f"stages/{recipe}.yaml", *plain, *arguments])


def losses(run):
    rows = map(json.loads, (Path("runs") / run / "1-align" / "metrics.jsonl").read_text().splitlines())
    return [row["train/loss"] for row in rows if "train/loss" in row]


def test_features_are_filled_once_and_told_in_a_line(workplace, capsys):
    # in full precision: how products in bfloat16 round depends on how many frames are encoded together
    every = ["--trainer.log_every_n_steps", "1", "--run.matmul_precision", "highest"]
    assert fit("--name", "plain", *every) == 0
    assert "features" not in capsys.readouterr().out
    assert fit("--name", "kept", "--data.features", "kept", *every) == 0
    (line,) = re.findall(r"^ +features: .*$", capsys.readouterr().out, re.MULTILINE)
    assert re.search(r"24 samples, 24 different frames, 24 encoded in \d+\.\d s; 0\.2 MiB in kept/[0-9a-f]{32}$", line)
    # 1.4e-5 was measured: features are kept in 16 bits
    assert losses("kept") == pytest.approx(losses("plain"), rel=1e-4)
    assert fit("--name", "again", "--data.features", "kept", *every) == 0
    assert "all there before" in capsys.readouterr().out


def test_an_unfinished_stage_goes_on_with_features_or_without_and_says_so(workplace, capsys):
    assert fit("--run.checkpoint_every_n_steps", "2") == 0
    (workplace / "runs/align/1-align/done.json").unlink()
    (workplace / "runs/align/1-align/checkpoints/last.ckpt").unlink()
    capsys.readouterr()
    assert fit("--ckpt", "--data.features", "kept") == 0
    told = capsys.readouterr().out
    assert "going on from" in told
    assert "note: data.features was None and is 'kept' (the recipe wins)" in told


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (("data.features_dtype", "float8"), "data.features_dtype"),
        (("data.features", "stages/align.yaml"), "data.features must be a folder, got the file stages/align.yaml"),
        (("data.feature", "x"), "did you mean 'features'"),
    ],
)
def test_settings_that_cannot_work_are_one_line_and_status_2(workplace, capsys, setting, message):
    assert fit(f"--{setting[0]}", setting[1]) == 2
    told = capsys.readouterr().err.strip()
    assert message in told
    assert len(told.splitlines()) == 1


def test_a_finished_stage_stays_finished_wherever_features_are_kept(workplace, capsys):
    assert fit() == 0
    assert fit("--ckpt", "--data.features", "kept", "--data.features_dtype", "float32") == 0
    assert "finished before" in capsys.readouterr().out
    assert fit("--ckpt", "--data.features", "kept", "--data.seed", "1") == 2
