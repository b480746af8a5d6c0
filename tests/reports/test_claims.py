"""Claims: one holder at a time, the dead make room, whoever asks at once."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time

import pytest

from tstar.reports import claims
from tstar.reports.claims import holder_of, take


def test_a_claim_is_held_by_one_until_it_is_given_back(tmp_path):
    path = tmp_path / "claims" / "a.json"
    first = take(path)
    assert first is not None
    assert take(path) is None
    holder = holder_of(path)
    assert holder.alive
    assert holder.host == socket.gethostname()
    assert str(os.getpid()) in str(holder)
    first.release()
    assert holder_of(path) is None
    second = take(path)
    assert second is not None
    second.release()
    assert list(path.parent.iterdir()) == []


def test_the_claim_of_a_killed_process_is_taken_over(tmp_path):
    path = tmp_path / "a.json"
    code = """
import sys, time
from pathlib import Path
from tstar.reports.claims import take
take(Path(sys.argv[1]))
print(1, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert take(path) is None
        process.kill()
        process.wait()
    claim = take(path)
    assert claim is not None
    assert os.listdir(tmp_path) == ["a.json"]
    claim.release()


def test_a_living_child_holds_the_claim_of_a_dead_parent(tmp_path):
    path = tmp_path / "a.json"
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    claim = take(path)
    claim.works_through(child.pid)
    content = json.loads(path.read_text())
    content["processes"][str(os.getpid())] = (
        "another life"  # this process as if it had died and its number were used again
    )
    path.write_text(json.dumps(content))
    assert holder_of(path).alive
    child.kill()
    child.wait()
    assert not holder_of(path).alive
    claim.release()


def test_silence_decides_about_another_machine(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"host": "elsewhere", "processes": {"1": "5"}, "token": "x"}))
    assert take(path) is None
    past = time.time() - claims.STALE_SECONDS - 1
    os.utime(path, (past, past))
    claim = take(path)
    assert claim is not None
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.01)
    claim.release()


def test_a_holder_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.02)
    path = tmp_path / "a.json"
    claim = take(path)
    os.utime(path, (1, 1))
    for _ in range(200):
        if path.stat().st_mtime > 1:
            break
        time.sleep(0.02)
    assert holder_of(path).silent < 60
    claim.release()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": 3}'])
def test_a_damaged_claim_counts_by_its_age(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(content)
    assert take(path) is None
    os.utime(path, (1, 1))
    claim = take(path)
    assert claim is not None
    claim.release()


def _race(path, results, barrier):
    barrier.wait()
    claim = take(path)
    results.put(claim is not None)
    barrier.wait()  # nobody gives it back before all have asked
    if claim is not None:
        claim.release()


@pytest.mark.parametrize("dead", [False, True])
def test_of_many_that_ask_at_once_one_gets_it(tmp_path, dead):
    spawn = multiprocessing.get_context("fork")
    for attempt in range(10):
        path = tmp_path / f"{attempt}.json"
        if dead:
            path.write_text(json.dumps({"host": socket.gethostname(), "processes": {"999999999": "1"}, "token": "x"}))
        results, barrier = spawn.Queue(), spawn.Barrier(4)
        processes = [spawn.Process(target=_race, args=(path, results, barrier)) for _ in range(4)]
        for process in processes:
            process.start()
        won = [results.get(timeout=30) for _ in processes]
        for process in processes:
            process.join()
        assert sum(won) == 1
        assert not path.exists()
