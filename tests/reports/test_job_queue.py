"""The queue of commands: order, failures, several workers, signals, and going on."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tstar.reports import claims, job_queue
from tstar.reports.claims import take
from tstar.reports.job_queue import Job, JobQueue, Step

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are looked up in /proc")
WRITE = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text(sys.argv[2])"


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(job_queue, "WAIT_SECONDS", 0.05)


def job(folder, name, *parts, code=WRITE):
    def step(part):
        file = folder / f"{name}.{part}"
        return Step(part, lambda: [sys.executable, "-c", code, str(file), part], file.is_file)

    return Job(name, tuple(step(part) for part in parts))


def queue(jobs, folder, **options):
    told = []
    return JobQueue(jobs, folder / "queue", tell=told.append, **options), told


def test_every_step_runs_once_and_a_second_run_finds_all_done(tmp_path):
    jobs = [job(tmp_path, name, "one", "two") for name in "abc"]
    own, told = queue(jobs, tmp_path, workers=2)
    outcome = own.run()
    assert sorted(outcome.done) == ["a", "b", "c"]
    assert outcome.failed == {}
    assert {path.name for path in tmp_path.glob("*.two")} == {"a.two", "b.two", "c.two"}
    assert sum("done in" in line for line in told) == 3
    record = json.loads((tmp_path / "queue" / "jobs" / "a.json").read_text())
    assert list(record) == ["one", "two"]
    assert list((tmp_path / "queue" / "claims").iterdir()) == []
    again, told = queue(jobs, tmp_path)
    assert again.run().done == ["a", "b", "c"]
    assert told == []
    assert list(job_queue.recorded_seconds(tmp_path / "queue", "a")) == ["one", "two"]
    for damaged in ("{", "[1]", '{"one": "x"}'):
        (tmp_path / "queue" / "jobs" / "a.json").write_text(damaged)
        assert job_queue.recorded_seconds(tmp_path / "queue", "a") == {}
    assert job_queue.recorded_seconds(tmp_path / "queue", "none") == {}


def test_a_failed_job_is_told_and_the_others_go_on(tmp_path):
    broken = Job(
        "b", (Step("x", lambda: [sys.executable, "-c", "print('no disk'); raise SystemExit(3)"], lambda: False),)
    )
    quiet = Job("q", (Step("x", lambda: [sys.executable, "-c", ""], lambda: False),))
    absent = Job("z", (Step("x", lambda: [str(tmp_path / "no_such_program")], lambda: False),))
    own, _ = queue([broken, quiet, absent, job(tmp_path, "a", "one")], tmp_path)
    outcome = own.run()
    assert outcome.done == ["a"]
    assert "status 3" in outcome.failed["b"]
    assert "no disk" in outcome.failed["b"]
    assert "status 0" in outcome.failed["q"]  # it ended well and left nothing
    assert "FileNotFoundError" in outcome.failed["z"]
    assert "no disk" in json.loads((tmp_path / "queue" / "failed" / "b.json").read_text())["reason"]
    repaired, _ = queue([job(tmp_path, "b", "one")], tmp_path)
    assert repaired.run().done == ["b"]
    assert not (tmp_path / "queue" / "failed" / "b.json").exists()


def test_what_another_holds_is_waited_for(tmp_path):
    own, told = queue([job(tmp_path, "a", "one")], tmp_path)
    claim = take(tmp_path / "queue" / "claims" / "a.json")
    thread = threading.Timer(0.4, claim.release)
    thread.start()
    assert own.run().done == ["a"]
    assert any("is at it" in line for line in told)


def test_two_queues_on_one_folder_share_the_work(tmp_path):
    code = "import sys, time; open(sys.argv[1], 'x').write(sys.argv[2]); time.sleep(0.05)"  # a second writer would fail
    jobs = [job(tmp_path, f"j{k}", "one", code=code) for k in range(6)]
    first, _ = queue(jobs, tmp_path)
    second, _ = queue(jobs, tmp_path)
    helper = threading.Thread(target=second._work)
    helper.start()
    outcome = first.run()
    helper.join()
    assert outcome.failed == second.outcome.failed == {}
    assert set(outcome.done) | set(second.outcome.done) == {one.name for one in jobs}


def test_a_signal_reaches_the_command_and_the_next_run_goes_on(tmp_path):
    code = """
import pathlib, signal, sys, time
def stop(*_):
    pathlib.Path(sys.argv[1] + ".saved").write_text("x")
    raise SystemExit(143)
signal.signal(signal.SIGTERM, stop)
pathlib.Path(sys.argv[1] + ".begun").write_text("x")
time.sleep(0 if pathlib.Path(sys.argv[1] + ".saved").exists() else 60)
pathlib.Path(sys.argv[1]).write_text("x")
"""
    jobs = [job(tmp_path, "a", "one", code=code), job(tmp_path, "b", "one")]
    own, _ = queue(jobs, tmp_path)

    def interrupt():
        while not (tmp_path / "a.one.begun").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    outcome = own.run()
    assert outcome.stopped == signal.SIGINT
    assert outcome.done == []
    assert outcome.failed == {}
    assert (tmp_path / "a.one.saved").exists()
    assert not (tmp_path / "b.one").exists()
    again, _ = queue(jobs, tmp_path)
    assert again.run().done == ["a", "b"]


SLEEPER = """
import os, pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, lambda *_: None)
other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
pathlib.Path(sys.argv[1] + ".tmp").write_text(f"{os.getpid()} {other.pid}")
os.replace(sys.argv[1] + ".tmp", sys.argv[1] + ".pids")
while True:
    time.sleep(1)
"""
"""A command that does not stop when it is asked to, and has started another."""


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_for(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("it did not come")


@linux
def test_a_second_signal_ends_the_command_and_all_it_has_started(tmp_path):
    own, _ = queue([job(tmp_path, "a", "one", code=SLEEPER)], tmp_path)
    pids = tmp_path / "a.one.pids"

    def interrupt():
        wait_for(pids.exists)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)

    threading.Thread(target=interrupt).start()
    assert own.run().stopped == signal.SIGINT
    wait_for(lambda: all(gone(pid) for pid in pids.read_text().split()))


@linux
def test_a_job_that_another_has_taken_over_is_ended_and_left_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.05)
    own, told = queue([job(tmp_path, "a", "one", code=SLEEPER)], tmp_path)
    pids, claim = tmp_path / "a.one.pids", tmp_path / "queue" / "claims" / "a.json"
    theirs = {"host": "elsewhere", "processes": {"7": "1"}, "token": "another"}

    def take_over():
        wait_for(pids.exists)
        (tmp_path / "theirs").write_text(json.dumps(theirs))
        (tmp_path / "theirs").replace(claim)
        wait_for(lambda: all(gone(pid) for pid in pids.read_text().split()))
        (tmp_path / "a.one").write_text("done by the other")
        claim.unlink()

    thread = threading.Thread(target=take_over)
    thread.start()
    outcome = own.run()
    thread.join()
    assert outcome.done == ["a"]
    assert outcome.failed == {}
    assert any("another process has taken it over" in line for line in told)


@linux
def test_a_command_whose_claim_cannot_name_it_is_ended(tmp_path, monkeypatch):
    pids = tmp_path / "a.one.pids"

    def full(claim, pid):
        wait_for(pids.exists)
        raise OSError("disk full")

    monkeypatch.setattr(claims.Claim, "works_through", full)
    own, _ = queue([job(tmp_path, "a", "one", code=SLEEPER)], tmp_path)
    assert own.run().failed == {"a": "OSError: disk full"}
    assert all(gone(pid) for pid in pids.read_text().split()[:1])
    assert list((tmp_path / "queue" / "claims").iterdir()) == []


def test_a_command_is_told_nothing_of_the_launcher_of_its_queue(tmp_path, monkeypatch):
    """Else, under `srun -n 4`, three of four models would be trained by processes that take themselves for another's helpers."""
    ranks = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "GROUP_RANK", "NODE_RANK", "TORCHELASTIC_RUN_ID"]
    ranks += ["SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "OMPI_COMM_WORLD_RANK", "JSM_NAMESPACE_RANK"]
    for name in [*ranks, "SLURM_JOB_ID", "RANKING"]:
        monkeypatch.setenv(name, "3")
    code = "import json, os, sys; open(sys.argv[1], 'w').write(json.dumps(dict(os.environ)))"
    own, _ = queue([job(tmp_path, "a", "one", code=code)], tmp_path, environment={"OMP_NUM_THREADS": "5"})
    assert own.run().done == ["a"]
    seen = json.loads((tmp_path / "a.one").read_text())
    assert [name for name in ranks if name in seen] == []
    assert (seen["SLURM_JOB_ID"], seen["RANKING"], seen["OMP_NUM_THREADS"]) == ("3", "3", "5")
    assert seen["PATH"] == os.environ["PATH"]


def test_a_failure_that_can_be_neither_written_nor_told_ends_no_worker(tmp_path, monkeypatch):
    def full(path, text):
        if path.parent.name == "failed":
            raise OSError("disk full")
        path.write_text(text)

    def gone(text):
        raise BrokenPipeError("the terminal is gone")

    monkeypatch.setattr(job_queue, "write_atomically", full)
    broken = Job("b", (Step("x", lambda: [sys.executable, "-c", "raise SystemExit(3)"], lambda: False),))
    own = JobQueue([broken, job(tmp_path, "a", "one")], tmp_path / "queue", tell=gone)
    outcome = own.run()
    assert outcome.done == ["a"]
    assert list(outcome.failed) == ["b"]
    assert "x ended with status 3" in outcome.failed["b"]


def test_the_time_left_counts_rounds_of_all_workers(tmp_path):
    jobs = [job(tmp_path, name, "one") for name in "abcdef"]
    (tmp_path / "queue" / "jobs").mkdir(parents=True)
    (tmp_path / "queue" / "jobs" / "a.json").write_text('{"one": 600.0}')
    own, _ = queue(jobs, tmp_path, workers=4)
    own.outcome.done = ["a"]
    assert own._time_left() == ", 1 of 6 done, about 20 min left"  # five on four: two rounds
    own.outcome.failed = {"b": "", "c": "", "d": "", "e": ""}
    assert own._time_left() == ", 1 of 6 done, about 10 min left"  # one is not quicker for the three that are idle
    alone, _ = queue(jobs, tmp_path)
    alone.outcome.done, alone._busy = ["a"], {"b"}
    assert alone._time_left() == ", 1 of 6 done, about 50 min left"
    theirs = take(tmp_path / "queue" / "claims" / "c.json")
    assert alone._time_left() == ", 1 of 6 done, about 30 min left"  # another call is at one
    theirs.release()


def test_a_failure_is_forgotten_when_the_job_is_finished_by_hand(tmp_path):
    (tmp_path / "queue" / "failed").mkdir(parents=True)
    (tmp_path / "queue" / "failed" / "a.json").write_text('{"reason": "no memory"}')
    (tmp_path / "a.one").write_text("done by hand")
    own, _ = queue([job(tmp_path, "a", "one")], tmp_path)
    assert own.run().done == ["a"]
    assert not (tmp_path / "queue" / "failed" / "a.json").exists()


def test_a_job_that_cannot_be_looked_at_fails_and_the_others_go_on(tmp_path, monkeypatch):
    def damaged():
        raise ValueError("no JSON")

    own, _ = queue([Job("b", (Step("x", lambda: [], damaged),)), job(tmp_path, "a", "one")], tmp_path)
    outcome = own.run()
    assert outcome.done == ["a"]
    assert outcome.failed == {"b": "ValueError: no JSON"}
    broken, _ = queue([job(tmp_path, "c", "one")], tmp_path)
    monkeypatch.setattr(broken, "_work", lambda: None)  # a worker that dies
    assert "was not run" in broken.run().failed["c"]


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the system must tell children of their parent's death"
)
def test_a_command_is_stopped_when_the_queue_is_killed(tmp_path):
    """As ``tstar`` starts: asked by TSTAR_PARENT, it hears of the death of the process that started it."""
    child = """
import time
from tstar.reports.parent_process import stop_with_parent
stop_with_parent()
print("up", flush=True)
time.sleep(60)
"""
    code = f"""
import os, subprocess, sys
env = {{**os.environ, "TSTAR_PARENT": str(os.getpid())}}
process = subprocess.Popen([sys.executable, "-c", {child!r}], env=env, stdout=subprocess.PIPE)
process.stdout.readline()
print(process.pid, flush=True)
process.wait()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        pid = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
    stat = Path(f"/proc/{pid}/stat")
    for _ in range(200):
        try:
            if stat.read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except FileNotFoundError:
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the child outlived its parent")
