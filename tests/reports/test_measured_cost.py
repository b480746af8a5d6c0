"""Times, peaks and child processes, against numbers known beforehand."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tstar.reports import measured_cost
from tstar.reports.measured_cost import ChildError, PeakMeter, Spread, machine, peak_of, repeated, run_child, seconds_of

MIB = 2**20


@pytest.mark.parametrize("count", [1, 2, 3, 4, 10, 101])
def test_quartiles_are_numpys(count):
    times = np.random.default_rng(count).exponential(size=count).tolist()
    spread = Spread.of(times)
    quartiles = np.percentile(times, [25, 50, 75])
    assert (spread.quartile1, spread.median, spread.quartile3) == pytest.approx(tuple(quartiles))
    assert (spread.mean, spread.least, spread.greatest) == pytest.approx((np.mean(times), min(times), max(times)))
    assert spread.calls == count


class Clock:
    """Time that passes when :meth:`work` is called, so many seconds as are next in the list."""

    def __init__(self, monkeypatch, seconds):
        self.now, self.seconds = 0.0, iter(seconds)
        monkeypatch.setattr(measured_cost.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(measured_cost.time, "perf_counter", lambda: self.now)

    def work(self):
        self.now += next(self.seconds)


@pytest.mark.parametrize(
    ("seconds", "options", "counted", "cut"),
    [
        ([9, 8, 1, 2, 3], {"warmup": 2, "samples": 3}, [1, 2, 3], False),
        ([5], {"warmup": 0, "samples": 1}, [5], False),
        ([70], {"warmup": 2, "samples": 3}, [70], False),  # slow: no warm-up and no second one
        ([70], {"warmup": 2, "samples": 3, "until": 80.0}, [70], False),  # nor would there be any with more time
        ([50, 61], {"warmup": 2, "samples": 3}, [61], False),
        ([1, 2, 99], {"warmup": 1, "samples": 5}, [2, 99], False),
        ([3, 3, 3], {"warmup": 1, "samples": 9, "until": 11.0}, [3, 3], True),  # a fourth would end at 12
        ([3, 3, 3], {"warmup": 1, "samples": 2, "until": 9.0}, [3, 3], False),  # none is left
        ([30], {"warmup": 1, "samples": 9, "until": 31.0}, [30], True),  # a second would end at 60: the warm-up counts
        ([3, 9], {"warmup": 5, "samples": 9, "until": 14.0}, [9], True),
    ],
)
def test_what_counts_of_repeated_measurements(monkeypatch, seconds, options, counted, cut):
    clock = Clock(monkeypatch, seconds)
    assert repeated(lambda: {"a": seconds_of(clock.work)}, **options) == ({"a": counted}, cut)
    assert next(clock.seconds, None) is None  # no more calls than that


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux sets the record back")
def test_peaks_are_of_what_is_there_at_once():
    def filled(size):
        return np.ones(size, dtype=np.uint8)

    def in_turn():
        for _ in range(3):
            filled(64 * MIB)

    def together():
        return [filled(64 * MIB) for _ in range(3)]

    peak_of(in_turn)
    assert peak_of(in_turn) == pytest.approx(64 * MIB, rel=0.05)
    assert peak_of(together) == pytest.approx(192 * MIB, rel=0.05)
    meter = PeakMeter()
    held = filled(32 * MIB)
    in_turn()
    assert meter.peak() == pytest.approx(96 * MIB, rel=0.05)
    meter.restart()
    assert meter.peak() == pytest.approx(32 * MIB, rel=0.1)  # from the beginning's size, not from the restart's
    del held


def test_a_record_that_is_not_set_back_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measured_cost, "CLEAR_REFS", tmp_path)  # no file, so that nothing can be written to it
    sizes = iter([100 * MIB, 70 * MIB])
    monkeypatch.setattr(measured_cost, "_resident", lambda: 60 * MIB)
    monkeypatch.setattr(measured_cost, "_highest", lambda: next(sizes))
    meter = PeakMeter()
    assert (meter.peak(), meter.resets) == (40 * MIB, False)  # what was needed before is in it
    assert peak_of(lambda: None) == 10 * MIB
    assert "peaks may be wrong" in capsys.readouterr().err


SCRIPT = """
import json, os, sys, time
case, settings = sys.argv[1], json.loads(sys.argv[2])
if case == "sleep":
    time.sleep(60)
if case == "fail":
    sys.exit("what went wrong")
if case == "killed":
    os.kill(os.getpid(), 9)
print("some words before")
print(json.dumps({"case": case, "settings": settings, "variable": os.environ["OF_A_TEST"]}))
"""


def test_a_child_answers_or_its_end_is_told(tmp_path, monkeypatch):
    script = tmp_path / "child_of_a_test.py"
    script.write_text(SCRIPT)
    settings, variables = {"a": [1, 2]}, {"OF_A_TEST": "yes"}
    answer = {"case": "answer", "settings": settings, "variable": "yes"}
    assert run_child(script, "answer", settings, variables) == answer
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    assert run_child("child_of_a_test", "answer", settings, variables) == answer
    for case, status, words in (
        ("sleep", None, "longer than 0.5 s"),
        ("fail", 1, "what went wrong"),
        ("killed", -signal.SIGKILL, "ended with status"),
    ):
        with pytest.raises(ChildError, match=words) as caught:
            run_child(script, case, settings, variables, time_limit=0.5 if case == "sleep" else None)
        assert caught.value.status == status


LONG = """
import os, sys, time
from pathlib import Path
from tstar.reports.parent_process import stop_with_parent
stop_with_parent()
Path("pid").write_text(str(os.getpid()))
time.sleep(60)
"""
STARTER = """
import signal, sys
from tstar.reports.measured_cost import run_child
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
run_child("long_child", "x", {}, {})
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the system must tell children of their parent's death"
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_child_does_not_outlive_the_one_that_waits_for_it(tmp_path, number, monkeypatch):
    (tmp_path / "long_child.py").write_text(LONG)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    pid = tmp_path / "pid"
    with subprocess.Popen([sys.executable, "-c", STARTER], cwd=tmp_path) as parent:
        assert within_seconds(60, lambda: pid.exists() and pid.read_text())
        parent.send_signal(number)
        status = parent.wait(20)
    assert status == (128 + number if number == signal.SIGTERM else -number)
    assert within_seconds(10, lambda: not is_running(int(pid.read_text())))


def within_seconds(seconds, happens):
    """Whether something is so before that long has passed."""
    until = time.monotonic() + seconds
    while not (found := happens()) and time.monotonic() < until:
        time.sleep(0.05)
    return found


def is_running(pid):
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_machine_is_told():
    here = machine(3)
    assert here["threads"] == 3
    assert here["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert here["versions"]["numpy"] == np.__version__
    assert here["memory_gib"] > 0
