"""A training process that is killed again and again trains the samples, and ends with the weights, of one that never was."""

import json
import os
import signal
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


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    records = [Record(str(n), "text", "", TURNS) for n in range(SAMPLES)]
    write_shards(plan_shards(records, root, root / "set", ShardSettings(samples_per_shard=7)), ShardWork(workers=1))
    return str(root / "set")


@pytest.fixture(scope="module")
def start(shards, forks):
    """A function that starts a training; returns the number of its first process."""

    def begin(folder, devices=1, **settings):
        settings = {"shards": shards, "folder": str(folder), "devices": devices, **settings}
        outputs = [folder / f"output.{rank}" for rank in range(devices)]
        return forks.start(PROGRAM, "train", settings, outputs, limit=120)[0]

    return begin


def said(folder):
    """The end of what every process wrote."""
    return [path.read_text()[-3000:] for path in sorted(folder.glob("output.*"))]


@pytest.fixture(scope="module")
def train(start, forks):
    """A function that has a training done; returns its folder."""

    def whole(folder, **settings):
        start(folder, **settings)
        assert not any(forks.statuses()), said(folder)
        return folder

    return whole


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
def whole(train, tmp_path_factory):
    """A training that nobody disturbed: samples by step, and weights."""
    folder = train(tmp_path_factory.mktemp("whole"))
    return by_step(steps_of(folder)), torch.load(folder / "weights.pt", weights_only=True)


def test_ten_kills_at_random_steps_change_neither_samples_nor_weights(start, forks, whole, tmp_path):
    rng = np.random.default_rng(0)
    kills = 0
    while True:
        lines = len(steps_of(tmp_path)) if (tmp_path / "log.0").exists() else 0
        target = lines + int(rng.integers(3, 8))  # a checkpoint is written every two steps
        process = start(tmp_path, workers=kills % 3, pause=0.03)
        deadline = time.monotonic() + 120
        while kills < 10 and time.monotonic() < deadline:
            if (tmp_path / "log.0").exists() and len(steps_of(tmp_path)) >= target:
                time.sleep(float(rng.uniform(0, 0.03)))
                os.kill(process, signal.SIGKILL)
                break
            time.sleep(0.003)
        (status,) = forks.statuses()
        if status == 0:
            break
        assert status == -signal.SIGKILL, said(tmp_path)
        kills += 1
    assert kills == 10
    steps, weights = whole
    assert by_step(steps_of(tmp_path)) == steps
    assert sorted(steps) == list(range(STEPS))
    assert len(steps_of(tmp_path)) > STEPS  # some steps were repeated
    assert torch.equal(torch.load(tmp_path / "weights.pt", weights_only=True), weights)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(train, whole, tmp_path, workers):
    train(tmp_path, workers=workers)
    assert by_step(steps_of(tmp_path)) == whole[0]
    assert torch.equal(torch.load(tmp_path / "weights.pt", weights_only=True), whole[1])


def test_a_run_goes_on_with_two_processes_where_one_stopped(train, whole, tmp_path):
    first = by_step(steps_of(train(tmp_path, max_steps=18)))
    train(tmp_path, devices=2, batch=BATCH // 2)
    ranks = [by_step(steps_of(tmp_path, rank)) for rank in (0, 1)]
    together = {step: ranks[0][step] + ranks[1][step] for step in range(18, STEPS)}
    assert {**first, **together} == whole[0]
    torch.testing.assert_close(torch.load(tmp_path / "weights.pt", weights_only=True), whole[1])


def test_a_mixture_is_gone_on_with_exactly(train, tmp_path):
    data = {"sizes": [37]}
    folders = [tmp_path / name for name in ("whole", "stopped")]
    for folder in folders:
        folder.mkdir()
    train(folders[0], data=data)
    for max_steps in (12, -1):
        train(folders[1], data=data, max_steps=max_steps)
    whole, stopped = (by_step(steps_of(folder)) for folder in folders)
    assert stopped == whole
    assert len(whole) == 37 // BATCH * EPOCHS
    weights = [torch.load(folder / "weights.pt", weights_only=True) for folder in folders]
    assert torch.equal(*weights)
