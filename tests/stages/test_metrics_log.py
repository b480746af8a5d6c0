"""Metrics files that survive kills and restarts."""

import csv
import json

import torch

from tstar.stages import Align
from tstar.stages.metrics_log import MetricsLog, read_metrics, write_csv


def test_every_value_is_in_the_file_at_once(tmp_path):
    log = MetricsLog(tmp_path / "new")
    log.log_metrics({"train/loss": 1.5, "epoch": 0}, step=10)
    log.log_metrics({"train/loss": float("nan"), "rate": torch.tensor(0.25)}, step=20)
    log.log_metrics({"note": 1.0})
    rows = [json.loads(line) for line in (tmp_path / "new" / "metrics.jsonl").read_text().splitlines()]
    assert rows == [
        {"step": 10, "train/loss": 1.5, "epoch": 0},
        {"step": 20, "train/loss": "nan", "rate": 0.25},
        {"step": 0, "note": 1.0},
    ]


def test_a_cut_line_costs_itself_and_no_other(tmp_path):
    MetricsLog(tmp_path).log_metrics({"loss": 3.0}, step=1)
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 2, "lo')  # killed here
    again = MetricsLog(tmp_path)
    again.log_metrics({"loss": 2.0}, step=2)
    again.log_metrics({"loss": 1.0}, step=3)
    assert [row["loss"] for row in read_metrics(tmp_path)] == [3.0, 2.0, 1.0]


def test_values_of_a_step_are_joined_and_the_later_one_counts(tmp_path):
    log = MetricsLog(tmp_path)
    for step, values in ((2, {"a": 1.0}), (4, {"a": 9.0}), (2, {"b": 5.0}), (4, {"a": 2.0})):
        log.log_metrics(values, step=step)
    assert read_metrics(tmp_path) == [{"step": 2, "a": 1.0, "b": 5.0}, {"step": 4, "a": 2.0}]


def test_the_csv_has_a_row_a_step_and_a_column_a_metric(tmp_path):
    log = MetricsLog(tmp_path)
    log.finalize("success")
    assert not (tmp_path / "metrics.csv").exists()
    log.log_metrics({"b": 1.0}, step=1)
    log.log_metrics({"a": 2.0}, step=2)
    log.finalize("success")
    assert (tmp_path / "metrics.csv").read_bytes() == b"step,a,b\n1,,1.0\n2,2.0,\n"
    write_csv(tmp_path)
    with (tmp_path / "metrics.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.csv", "metrics.jsonl"]


def test_a_run_that_goes_on_keeps_its_earlier_rows(make_stage, train, tmp_path):
    for seed in (0, 1):
        stage = make_stage(Align, seed=seed)
        trainer = train(stage, logger=[MetricsLog(tmp_path)], log_every_n_steps=1, max_steps=2)
        rows = read_metrics(tmp_path)
        assert [row["step"] for row in rows] == [0, 1]
        assert [row["train/loss"] for row in rows] == [float(v) for v in trainer.losses.values]
        assert all(row["train/supervised_tokens"] > 0 for row in rows)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 4
    assert (tmp_path / "metrics.csv").is_file()
