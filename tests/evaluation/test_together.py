"""Evaluations that are killed, and evaluations by several processes: nothing is asked twice, and the files are those of one run."""

import json
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from tstar.evaluation import Report

SUITES = ("mini-mlvu", "mini-tempcompass")
TIMES = ("seconds",)
"""Fields of a prediction that differ from run to run."""


@pytest.fixture(scope="module")
def run(forks, miniature_parts, tiny_world, tmp_path_factory):
    """A function that evaluates in so many processes, and kills them once ``kill_at`` answers are stored; returns the folder and
    the exit statuses."""
    program = Path(__file__).with_name("evaluations.py")

    def evaluate(folder=None, *, devices=1, ends=True, kill_at=None, evaluation=None, **settings):
        folder = folder or tmp_path_factory.mktemp("evaluation")
        suites = {name: str(tiny_world / "benchmarks" / name) for name in SUITES}
        given = {"benchmarks": suites, "fps": 1, "max_frames": 4, "max_new_tokens": 2, "batch_size": 3}
        given |= {"baselines": ["blind"], "workers": 1, **(evaluation or {})}
        settings = {"model": "m", "complete": True, **settings}
        if "shards" in settings:
            settings |= {"model": "", "complete": False, "shards": str(tiny_world / "shards" / settings["shards"])}
        everything = {"folder": str(folder), "models": str(miniature_parts), "evaluation": given, "devices": devices}
        outputs = [folder / f"output.{rank}" for rank in range(devices)]
        forks.start(program, "evaluate", everything | settings, outputs, limit=120)
        while kill_at is not None and not forks.over():
            if stored_lines(folder) >= kill_at:
                forks.kill()
                break
            time.sleep(0.002)
        ended = forks.statuses()
        assert not ends or not any(ended), [path.read_text()[-3000:] for path in outputs]
        return folder, ended

    return evaluate


def stored_lines(folder):
    """Lines of all prediction files."""
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("predictions/*/*.jsonl"))


@pytest.fixture(scope="module")
def whole(run):
    """What one process that nothing stops leaves."""
    return run()[0]


def predictions(folder):
    """Every row of every file but for its times, in the files' order."""
    return {
        str(path.relative_to(folder)): [
            {key: value for key, value in json.loads(line).items() if key not in TIMES}
            for line in path.read_text().splitlines()
        ]
        for path in sorted((folder / "predictions").rglob("*.jsonl"))
    }


def reports(folder):
    found = json.loads((folder / "reports.json").read_text())
    return {name: {mode: Report.from_json(text) for mode, text in modes.items()} for name, modes in found.items()}


def asked(folder, process=0):
    path = folder / f"asked.{process}"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_evaluation_killed_twice_at_random_leaves_the_file_of_one_that_nothing_stopped(run, whole, tmp_path, seed):
    complete = predictions(whole)
    total = sum(map(len, complete.values()))
    places = sorted(random.Random(seed).sample(range(1, total), 2))
    for place in places:
        _, ended = run(tmp_path, kill_at=place, ends=False, slow=0.05)
        assert ended == [-9]
    before = {row["id"] + row["mode"] for rows in predictions(tmp_path).values() for row in rows}
    assert len(before) >= places[-1]
    run(tmp_path)
    assert predictions(tmp_path) == complete  # in their order, too
    assert reports(tmp_path) == reports(whole)
    # no batch was stored twice, and each is one of those without a kill; one of each kill may not have been noted
    batches, expected = (Counter(map(tuple, asked(folder))) for folder in (tmp_path, whole))
    assert batches <= expected
    assert (expected - batches).total() <= len(places)


def test_two_processes_ask_half_each_and_leave_the_file_of_one(run, whole):
    folder, _ = run(devices=2)
    own = [[item_id for batch in asked(folder, process) for item_id in batch] for process in range(2)]
    assert sorted(own[0] + own[1]) == sorted(item_id for batch in asked(whole) for item_id in batch)
    assert abs(len(own[0]) - len(own[1])) <= 0.2 * len(own[0] + own[1])
    assert predictions(folder) == predictions(whole)
    assert reports(folder) == reports(whole)
    assert not list(folder.rglob("*.rank*.jsonl"))


def test_processes_find_what_others_answered_before_a_kill_whatever_their_number(run, whole, tmp_path):
    _, ended = run(tmp_path, devices=2, kill_at=7, ends=False, slow=0.05)
    assert set(ended) == {-9}
    stored = {row["id"] + row["mode"] for rows in predictions(tmp_path).values() for row in rows}
    assert len(stored) >= 7
    assert list(tmp_path.rglob("*.rank*.jsonl"))
    first = len(asked(tmp_path))
    run(tmp_path)
    again = [item_id for batch in asked(tmp_path)[first:] for item_id in batch]
    total = sum(map(len, predictions(whole).values()))
    assert len(again) == total - len(stored)
    assert predictions(tmp_path) == predictions(whole)
    assert not list(tmp_path.rglob("*.rank*.jsonl"))


def test_a_process_that_takes_longer_than_a_collective_operation_may_is_waited_for(run, whole):
    folder, _ = run(devices=2, late=6.0, timeout=2.0)
    assert predictions(folder) == predictions(whole)


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fully_sharded", marks=pytest.mark.slow)])
def test_every_process_asks_its_share_in_the_middle_of_a_training(run, strategy):
    folder, _ = run(devices=2, strategy=strategy, shards="video_sft", evaluation={"validation_items": 8})
    for name in SUITES:
        report = reports(folder)[name]["full"]
        assert report.counts["missing"] == report.counts["failed"] == 0
        assert report.counts["n"] >= 8 or report.counts["n"] == len(report.items)
    assert asked(folder, 0)
    assert asked(folder, 1)
    (step,) = (folder / "validation").iterdir()
    assert sorted(path.name for path in step.rglob("*.jsonl")) == ["full.jsonl", "full.jsonl"]


def test_answers_that_are_not_on_this_machine_are_no_missing_ones(run, tmp_path):
    """The first process does not see the other's files, as on nodes that share no folder."""
    _, ended = run(tmp_path, devices=2, ends=False, hide=True)
    assert ended[0] == 1
    assert "have to share the run's folder" in (tmp_path / "output.0").read_text()
