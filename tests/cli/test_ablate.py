"""``tstar ablate`` through the console script: two models of a table on a cut-down world, killed once, and gone on with.

It goes on in this process; what it starts are processes of their own.
"""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tstar.cli.ablate import tell, work
from tstar.cli.main import main
from tstar.data.files import file_digest
from tstar.reports import job_queue
from tstar.reports.job_queue import Outcome

TSTAR = Path(sys.executable).with_name("tstar")
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
ENVIRONMENT = {**os.environ, **THREADS}
TABLE = """
title: Two of them
recipe: ../../stages/unified.yaml
scale: paper_7b
seeds: [3]
common:
  miniature:
    run: {checkpoint_every_n_steps: 1, progress_every_n_steps: 1}
    trainer: {max_epochs: 1, log_every_n_steps: 1}
    data: {batch_size: 4, limit: 12}
    evaluation: {validation_items: 0, baselines: [blind]}
    per_stage: {unified_sft: {data: {val_shards: null}}, align: {trainer: {max_epochs: 1}}}
average_of: [mlvu, videomme, tempcompass, vnbench independent]
orderings:
  "Pooling is as good": [pool@8 ~ mix@8]
  "More frames help": [mix@16 > mix@8]
models:
  pool:
    label: Pooling
    category: Spatial
    paper: {}
    miniature: {model: {init_args: {compressor: {name: avg_pool, preset: miniature, kernel: [2, 2]}}}}
    rows: [{paper: 8, miniature: 2, tokens: 200, published: {mlvu: 50.5, average: 40.25}}]
  mix:
    label: MambaMia
    category: TSTAR
    text: k = 6
    paper: {}
    miniature: {model: {init_args: {compressor: {name: mambamia, preset: tiny, query_interval: 6, temporal_stride: 1}}}}
    rows: [{paper: 8, miniature: 2, tokens: 100}, {paper: 16, miniature: 3, tokens: 200}]
"""


@pytest.fixture
def table(workplace):
    configs = workplace / "configs"
    real = configs.resolve()
    configs.unlink()
    configs.mkdir()
    for path in real.iterdir():
        (configs / path.name).symlink_to(path)
    (configs / "tables").mkdir()
    path = configs / "tables" / "two.yaml"
    path.write_text(TABLE)
    return path


def test_a_table_is_measured_killed_gone_on_with_and_written(table, workplace, capsys, monkeypatch):
    command = ["ablate", str(table), "--workers", "2"]
    with subprocess.Popen(
        [str(TSTAR), *command], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as first:
        begun = time.monotonic()
        place = workplace / "runs" / "two" / "models"
        while not list(place.glob("*/2-unified_sft/checkpoints/*.ckpt")):
            assert first.poll() is None, first.stdout.read()
            assert time.monotonic() - begun < 300
            time.sleep(0.02)
        first.send_signal(signal.SIGKILL)
    finished = list(place.glob("*/eval/*.full.json"))
    assert not finished  # it was killed in the middle of the work
    for name, number in THREADS.items():
        monkeypatch.setenv(name, number)
    assert main(command) == 0
    second = capsys.readouterr()
    assert "2 of 2 done" in second.err
    assert second.out == "table: reports/two/README.md\n"
    went_on = (workplace / "runs" / "two" / "logs" / "mix-3.log").read_text()
    assert "going on from" in went_on or "finished before" in went_on

    results = json.loads((workplace / "reports" / "two" / "results.json").read_text())
    assert [(row["name"], row["tokens"]) for row in results["rows"]] == [("pool@8", 18), ("mix@8", 12), ("mix@16", 18)]
    for row in results["rows"]:
        assert 0 <= row["summary"]["mean"]["mean"] <= 1
        assert "over_blind" in row  # None where answers have no letters, as after so few steps
    assert [o["verdict"] for o in results["orderings"]] != ["not measured"] * 2
    page = (workplace / "reports" / "two" / "README.md").read_text()
    assert page.startswith("# Two of them (miniature scale)")
    assert "M | 2 (paper 8) | 18 (200) |" in page
    assert "40.25" in page
    assert "|  | chance |" in page
    assert "Pooling is as good" in page
    with (workplace / "reports" / "two" / "table.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    pooled = {line["column"]: line for line in lines if line["row"] == "pool@8"}
    assert pooled["mean"]["published"] == "40.25"
    assert pooled["mini-mlvu"]["published"] == "50.5"
    assert float(pooled["mean"]["value"]) == pytest.approx(
        100 * results["rows"][0]["summary"]["mean"]["mean"], abs=0.01
    )
    assert (workplace / "reports" / "two" / "accuracy_tokens.png").stat().st_size > 5000
    assert (workplace / "reports" / "two" / "accuracy_frames.png").is_file()

    assert main(["ablate", str(table), "--trainer.max_epochs", "5"]) == 2
    told = capsys.readouterr().err
    assert "runs/two/models/pool-3 was made with other settings: stage align, trainer.max_epochs 1, now 5" in told
    with (place / "pool-3" / "events.jsonl").open("a") as stream:
        stream.write('{"time"\n')
    assert main(["ablate", str(table), "--rows", "pool", "--report-only", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [len(row["seeds"]) for row in results["rows"]] == [0, 1, 1]  # whatever --rows says
    assert "events.jsonl: a line is not a JSON object" in results["left_out"]["pool-3"]
    assert "## Left out" in (workplace / "reports" / "two" / "README.md").read_text()


@pytest.mark.slow
def test_a_killed_table_ends_with_the_weights_of_one_that_was_not(table):
    command = [str(TSTAR), "ablate", str(table), "--rows", "mix"]
    with subprocess.Popen([*command, "--runs", "killed"], env=ENVIRONMENT) as first:
        while not list(Path("killed").glob("*/models/*/2-unified_sft/checkpoints/*.ckpt")):
            time.sleep(0.02)
        first.send_signal(signal.SIGKILL)
    for runs in ("killed", "whole"):
        subprocess.run([*command, "--runs", runs, "--out", f"{runs}/page"], env=ENVIRONMENT, check=True, timeout=600)
    weights = [Path(runs, "two/models/mix-3/2-unified_sft/weights.safetensors") for runs in ("killed", "whole")]
    assert file_digest(weights[0]) == file_digest(weights[1])


def test_rows_are_listed_and_a_wrong_one_is_named(table, capsys):
    assert main(["ablate", str(table), "--list"]) == 0
    told = capsys.readouterr().out
    assert "mix" in told
    assert "2 frames, 3 frames; 0/1 done" in told
    assert main(["ablate", str(table), "--rows", "pol"]) == 2
    assert "there is no model 'pol'; did you mean 'pool'" in capsys.readouterr().err
    assert main(["ablate", str(table), "--workers", "0"]) == 2
    assert "--workers must be at least 1, got 0" in capsys.readouterr().err
    assert main(["ablate", str(table), "--seeds", "1,1"]) == 2
    assert "--seeds: seeds must be different numbers" in capsys.readouterr().err
    assert main(["ablate", str(table), "--evaluation.max_frames", "5"]) == 2
    assert "--evaluation.max_frames cannot be set for a table" in capsys.readouterr().err


def test_a_scale_without_suites_asks_for_them(table, capsys):
    for more in ([], ["--report-only"]):
        assert main(["ablate", str(table), "--scale", "paper", *more]) == 2
        assert "evaluation.benchmarks is empty at the scale paper_7b" in capsys.readouterr().err


def test_a_table_of_nothing_says_so(table, workplace, capsys):
    assert main(["ablate", str(table), "--report-only", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [o["verdict"] for o in results["orderings"]] == ["not measured", "not measured"]
    assert results["plots"] == []
    page = (workplace / "reports" / "two" / "README.md").read_text()
    assert "Nothing was run." in page
    assert "not measured: pool@8, mix@8, mix@16" in page


def test_a_missing_world_is_found_before_anything_is_trained(table, workplace, capsys):
    (workplace / "data_shards" / "miniature" / "shards").unlink()
    assert main(["ablate", str(table)]) == 2
    assert "data_shards/miniature/shards" in capsys.readouterr().err
    assert not (workplace / "runs" / "two" / "models").exists()


def test_every_process_of_a_launcher_speaks_and_a_terminal_that_is_gone_ends_nothing(capsys, monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "3")
    tell("mambamia-0: begun")
    assert capsys.readouterr().err == "mambamia-0: begun\n"
    monkeypatch.setattr(sys, "stderr", None if os.name == "nt" else open("/dev/full", "w"))  # noqa: SIM115
    tell("mambamia-0: done")


def test_workers_share_the_cores_that_the_call_may_use(tmp_path, monkeypatch, capsys):
    given = []

    class Queue:
        def __init__(self, jobs, folder, **options):
            given.append(options["environment"])

        def run(self):
            return Outcome()

    monkeypatch.setattr(job_queue, "JobQueue", Queue)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 7, 9, 11, 13}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert work([], tmp_path, 2) == 0
    monkeypatch.delattr(os, "sched_getaffinity")
    assert work([], tmp_path, 2) == 0
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert work([], tmp_path, 2) == 0
    assert given == [{"OMP_NUM_THREADS": "3"}, {"OMP_NUM_THREADS": "32"}, {}]
