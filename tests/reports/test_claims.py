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


@pytest.fixture
def clock(monkeypatch):
    """This process's clock, to be set forward."""

    class Clock:
        ahead = 0.0

    real = time.monotonic
    monkeypatch.setattr(claims.time, "monotonic", lambda: real() + Clock.ahead)
    return Clock


@pytest.mark.parametrize("host", ["elsewhere", socket.gethostname()])  # names of machines are not their own alone
def test_silence_decides_where_processes_cannot_be_seen(tmp_path, clock, host):
    path = tmp_path / "a.json"
    content = {"host": host, "boot": "another", "container": "another", "processes": {"1": "5"}, "token": "x"}
    path.write_text(json.dumps(content))
    os.utime(path, (1, 1))  # its clock, or the file server's, may say anything
    assert take(path) is None
    clock.ahead += claims.STALE_SECONDS - 5
    assert take(path) is None
    os.utime(path, (2, 2))  # a sign of life
    assert take(path) is None
    clock.ahead += claims.STALE_SECONDS - 5
    assert take(path) is None
    clock.ahead += 10
    claim = take(path)
    assert claim is not None
    claim.release()


def test_a_process_is_judged_here_only_in_the_same_start_and_container(tmp_path):
    path = tmp_path / "a.json"
    claim = take(path)
    content = json.loads(path.read_text())
    assert content["boot"]
    assert content["container"].startswith("pid:")
    claim.release()
    for key in ("boot", "container"):
        path.write_text(json.dumps({**content, "processes": {"999999999": "1"}, key: "another"}))
        assert holder_of(path).alive
        path.write_text(json.dumps({**content, "processes": {"999999999": "1"}}))
        assert not holder_of(path).alive


@pytest.mark.parametrize("how", ["beat", "works_through"])
def test_a_holder_that_was_taken_over_notices_and_takes_nothing_back(tmp_path, monkeypatch, how):
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.02 if how == "beat" else 60)
    path = tmp_path / "a.json"
    claim = take(path)
    other = json.dumps({"host": "elsewhere", "processes": {}, "token": "another"})
    (tmp_path / "other").write_text(other)
    (tmp_path / "other").replace(path)
    if how == "works_through":
        claim.works_through(os.getpid())
    assert claim.lost.wait(20)
    claim.release()
    assert path.read_text() == other


def test_a_holder_whose_file_is_gone_has_lost_the_work(tmp_path, monkeypatch):
    """As after a long sleep, in which another has done it and given it back."""
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.02)
    claim = take(tmp_path / "a.json")
    assert not claim.lost.is_set()
    (tmp_path / "a.json").unlink()
    assert claim.lost.wait(20)
    claim.release()
    assert list(tmp_path.iterdir()) == []


DEAD = {"host": "h", **claims._machine(), "processes": {"999999999": "1"}}


def test_who_took_a_dead_holder_for_the_present_one_leaves_the_new_one_alone(tmp_path, monkeypatch):
    """Between the look at a dead holder's file and its replacement another has taken it over."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps({**DEAD, "token": "dead"}))
    dead = holder_of(path)
    assert not dead.alive
    claim = take(path)
    monkeypatch.setattr(claims, "holder_of", lambda path: dead)
    assert take(path) is None
    assert os.listdir(tmp_path) == ["a.json"]
    assert json.loads(path.read_text())["token"] == claim.token
    claim.release()


def test_who_died_while_it_took_a_dead_holder_over_is_taken_over_in_turn(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({**DEAD, "token": "first"}))

    def killed(*_):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(claims, "_there", killed)
        patch.setattr(claims, "_remove", lambda path, token: None)
        with pytest.raises(SystemExit):
            take(path)
    (right,) = set(tmp_path.iterdir()) - {path}
    assert take(path) is None  # this process lives
    right.write_text(json.dumps({**DEAD, "token": "second"}))
    claim = take(path)
    assert claim is not None
    assert os.listdir(tmp_path) == ["a.json"]
    claim.release()


def test_a_child_that_has_ended_is_no_sign_of_life(tmp_path):
    """One that was gone before it could be written down, of a parent that is gone too."""
    path = tmp_path / "a.json"
    content = {"host": "h", **claims._machine(), "processes": {"999999999": "gone"}, "token": "x"}
    path.write_text(json.dumps(content))
    assert not holder_of(path).alive


def test_a_holder_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.02)
    path = tmp_path / "a.json"
    claim = take(path)
    os.utime(path, (1, 1))
    for _ in range(200):
        if path.stat().st_mtime > 1:
            break
        time.sleep(0.02)
    assert not claim.lost.is_set()
    claim.release()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": 3}', '{"processes": [1], "token": 5}'])
def test_a_damaged_claim_counts_by_its_silence(tmp_path, clock, content):
    path = tmp_path / "a.json"
    path.write_text(content)
    assert take(path) is None
    clock.ahead += claims.STALE_SECONDS + 1
    claim = take(path)
    assert claim is not None
    claim.release()


@pytest.mark.parametrize("processes", [{"abc": "1"}, {"99999999999999999999": "1"}, {"-1": "1"}])
def test_numbers_that_are_no_processes_are_not_alive(tmp_path, processes):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"host": "h", **claims._machine(), "processes": processes, "token": "x"}))
    assert not holder_of(path).alive


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
            content = {"host": "h", **claims._machine(), "processes": {"999999999": "1"}, "token": "x"}
            path.write_text(json.dumps(content))
        results, barrier = spawn.Queue(), spawn.Barrier(4)
        processes = [spawn.Process(target=_race, args=(path, results, barrier)) for _ in range(4)]
        for process in processes:
            process.start()
        won = [results.get(timeout=30) for _ in processes]
        for process in processes:
            process.join()
        assert sum(won) == 1
        assert not path.exists()
