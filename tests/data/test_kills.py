"""A training process that is killed again and again trains the samples, and ends with the weights, of one that never was."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tstar.data.annotations import Record
from tstar.data.shard_plan import plan_shards
from tstar.data.sharding import ShardWork, write_shards
from tstar.data.sharding_settings import ShardSettings

SAMPLES, BATCH, EPOCHS = 61, 4, 3
STEPS = SAMPLES // BATCH * EPOCHS
TURNS = ({"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"})
PROGRAM = Path(__file__).with_name("training_to_be_killed.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    records = [Record(str(n), "text", "", TURNS) for n in range(SAMPLES)]
    write_shards(plan_shards(records, root, root / "set", ShardSettings(samples_per_shard=7)), ShardWork(workers=1))
    return str(root / "set")


class Trainings:
    """Starts trainings quickly, by forks of a process that has imported everything."""

    def __init__(self):
        self.server = subprocess.Popen(
            [sys.executable, str(PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        assert self.server.stdout.readline() == "ready\n"

    def start(self, **settings):
        """Process number of a new training."""
        self.server.stdin.write(f"{json.dumps(settings)}\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def ended(self):
        """Exit status of the training, when it has one."""
        return int(self.server.stdout.readline())


@pytest.fixture(scope="module")
def trainings():
    started = Trainings()
    yield started
    started.server.stdin.close()
    started.server.wait()


def steps_of(folder, rank=0):
    """Samples of every step in the log; those of a step that was repeated after a kill come again."""
    return [tuple(json.loads(line)) for line in (folder / f"log.{rank}").read_text().splitlines() if line.endswith("]")]


def by_step(steps):
    """Samples by step, and that a repeated step had the same ones."""
    seen = {}
    for step, ids in steps:
        assert seen.setdefault(step, ids) == ids, f"step {step} was repeated with other samples"
    return seen


@pytest.fixture(scope="module")
def whole(shards, trainings, tmp_path_factory):
    """A training that nobody disturbed: samples by step, and weights."""
    folder = tmp_path_factory.mktemp("whole")
    trainings.start(shards=shards, folder=str(folder))
    assert trainings.ended() == 0
    return by_step(steps_of(folder)), torch.load(folder / "weights.pt", weights_only=True)


def test_ten_kills_at_random_steps_change_neither_samples_nor_weights(shards, trainings, whole, tmp_path):
    rng = np.random.default_rng(0)
    kills = 0
    while True:
        lines = len(steps_of(tmp_path)) if (tmp_path / "log.0").exists() else 0
        target = lines + int(rng.integers(3, 8))  # a checkpoint is written every two steps
        process = trainings.start(shards=shards, folder=str(tmp_path), workers=kills % 3, pause=0.03)
        deadline = time.monotonic() + 120
        while kills < 10 and time.monotonic() < deadline:
            if (tmp_path / "log.0").exists() and len(steps_of(tmp_path)) >= target:
                time.sleep(float(rng.uniform(0, 0.03)))
                os.kill(process, signal.SIGKILL)
                break
            time.sleep(0.003)
        status = trainings.ended()
        if status == 0:
            break
        assert status == -signal.SIGKILL
        kills += 1
    assert kills == 10
    steps, weights = whole
    assert by_step(steps_of(tmp_path)) == steps
    assert sorted(steps) == list(range(STEPS))
    assert len(steps_of(tmp_path)) > STEPS  # some steps were repeated
    assert torch.equal(torch.load(tmp_path / "weights.pt", weights_only=True), weights)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(shards, trainings, whole, tmp_path, workers):
    trainings.start(shards=shards, folder=str(tmp_path), workers=workers)
    assert trainings.ended() == 0
    assert by_step(steps_of(tmp_path)) == whole[0]
    assert torch.equal(torch.load(tmp_path / "weights.pt", weights_only=True), whole[1])


def test_a_run_goes_on_with_two_processes_where_one_stopped(shards, trainings, whole, tmp_path):
    trainings.start(shards=shards, folder=str(tmp_path), max_steps=18)
    assert trainings.ended() == 0
    first = by_step(steps_of(tmp_path))
    trainings.start(shards=shards, folder=str(tmp_path), devices=2, batch=BATCH // 2)
    assert trainings.ended() == 0
    ranks = [by_step(steps_of(tmp_path, rank)) for rank in (0, 1)]
    together = {step: ranks[0][step] + ranks[1][step] for step in range(18, STEPS)}
    assert {**first, **together} == whole[0]
    torch.testing.assert_close(torch.load(tmp_path / "weights.pt", weights_only=True), whole[1])


def test_a_mixture_is_gone_on_with_exactly(shards, trainings, tmp_path):
    data = {"sizes": [37]}
    folders = [tmp_path / name for name in ("whole", "stopped")]
    for folder in folders:
        folder.mkdir()
    trainings.start(shards=shards, folder=str(folders[0]), data=data)
    assert trainings.ended() == 0
    for max_steps in (12, -1):
        trainings.start(shards=shards, folder=str(folders[1]), data=data, max_steps=max_steps)
        assert trainings.ended() == 0
    whole, stopped = (by_step(steps_of(folder)) for folder in folders)
    assert stopped == whole
    assert len(whole) == 37 // BATCH * EPOCHS
    weights = [torch.load(folder / "weights.pt", weights_only=True) for folder in folders]
    assert torch.equal(*weights)
