"""Cases, and what is kept of them; processes that measure are played by numbers known beforehand."""

import json
from types import SimpleNamespace

import pytest
import torch

from tstar.errors import ConfigError
from tstar.reports import profile, profile_case
from tstar.reports.measured_cost import ChildError
from tstar.reports.profile import ProfileStore, run_cases, seconds_left
from tstar.reports.profile_cases import ANSWER, PARTS, Case

from .profile_results import HERE, MIB, case, measured, model

# cases


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"frames": 0}, "--frames must be at least 1, got 0"),
        ({"samples": 0}, "--samples must be at least 1, got 0"),
        ({"warmup": -1}, "--warmup must be at least 0, got -1"),
        ({"time_limit": 0.0}, "--time-limit must be above 0, got 0"),
        ({"memory_limit_gib": -2.0}, "--memory-limit-gib must be above 0, got -2"),
        ({"precision": "bf15"}, "unknown precision 'bf15'; did you mean 'bf16'"),
        ({"parts": ("compres",)}, "unknown part 'compres'; did you mean 'compress'"),
        ({"parts": ()}, "--parts needs at least one"),
        ({"parts": ("encode", "prefill")}, "compress is missing in encode, prefill"),
        ({"parts": ("decode", "preprocess", "encode")}, "need --videos DIR"),
        ({"parts": ("preprocess", "encode"), "videos": ("a.mp4",)}, "preprocess takes the frames that decode gives"),
        ({"parts": ("compress",), "protocol": "paper"}, "the paper's protocol is about a whole answer"),
    ],
)
def test_what_cannot_be_measured_is_refused(one_line, change, reason):
    with pytest.raises(ConfigError) as caught:
        case(**change)
    one_line(caught.value, reason)


def test_a_case_goes_to_its_process_and_back():
    whole = case(videos=("a.mp4", "b.mp4"), parts=tuple(PARTS), memory_limit_gib=2.0)
    assert Case.from_json(json.loads(json.dumps(whole.to_json()))) == whole


@pytest.mark.parametrize(
    ("change", "parts", "words"),
    [
        ({}, ANSWER, "compressor with random weights, encoder and language model pretrained"),
        ({}, ("compress",), "random weights"),
        ({}, ("encode",), "pretrained weights"),
        ({"random": True}, ANSWER, "random weights"),
        (
            {"vision": {"model": "ViT-L-14", "pretrained": "random"}},
            ANSWER,
            "encoder and compressor with random weights, language model pretrained",
        ),
        ({"checkpoint": "runs/a/last.ckpt"}, ANSWER, "weights of runs/a/last.ckpt"),
    ],
)
def test_whose_weights_they_are_is_said(change, parts, words):
    assert model(**change).weights(parts) == words


def test_another_compressor_takes_over_what_both_have():
    base = model(
        compressor={"name": "mambamia", "preset": "miniature", "query_interval": 4, "ssm": "mamba2", "keep": "last"}
    )
    carried = {"preset": "miniature", "query_interval": 4}
    assert base.with_compressor({"name": "bi_gpt_neox"}).compressor == {**carried, "name": "bi_gpt_neox"}
    assert base.with_compressor({"name": "bimamba"}).compressor == {**carried, "ssm": "mamba2", "name": "bimamba"}
    pooled = base.with_compressor({"name": "avg_pool", "kernel": [3, 3]}).compressor
    assert pooled == {"preset": "miniature", "name": "avg_pool", "kernel": [3, 3]}
    assert base.with_compressor({"name": "mambamia", "keep": "first"}).compressor == {
        **base.compressor,
        "keep": "first",
    }
    with pytest.raises(ConfigError, match="unknown compressor 'manba'; did you mean 'mamba'"):
        base.with_compressor({"name": "manba"})


# what is kept


def test_results_of_no_folder_are_made(tmp_path):
    assert not (tmp_path / "x").exists()
    ProfileStore(tmp_path / "x" / "r.jsonl", HERE).add(case(), measured("total"))
    assert (tmp_path / "x" / "r.jsonl").read_text().count("\n") == 1


def test_what_is_finished_is_found_again_and_only_that(tmp_path):
    path = tmp_path / "results.jsonl"
    store = ProfileStore(path, HERE)
    store.add(case(8), measured("compress"))
    store.add(case(16), {"status": "out of memory", "reason": "r"})
    store.add(case(32), {"status": "failed", "reason": "r"})
    store.add(case(64), measured("compress"))
    text = path.read_text()
    path.write_text(text[:-20])  # killed while it wrote
    again = ProfileStore(path, HERE)
    assert again.get(case(8)) == store.get(case(8)) == measured("compress")
    assert again.get(case(8, label="of another name", group="h", time_limit=5.0)) is not None
    assert again.get(case(8, samples=6)) is None
    assert again.get(case(16))["status"] == "out of memory"
    assert again.get(case(16, memory_limit_gib=4.0)) is None  # may be enough
    assert again.get(case(32)) is None  # is tried again
    assert again.get(case(64)) is None
    again.add(case(64), measured("compress", seconds=2.0))  # on a line of its own
    assert ProfileStore(path, HERE).get(case(64)) == measured("compress", seconds=2.0)
    assert ProfileStore(path, {**HERE, "threads": 2}).get(case(8)) is None
    assert ProfileStore(path, HERE, fresh=True).get(case(8)) is None


def test_what_the_time_limit_cut_is_measured_again_with_more_time(tmp_path):
    store = ProfileStore(tmp_path / "r.jsonl", HERE)
    store.add(case(8, time_limit=60.0), measured("compress", cut=True))
    store.add(case(16, time_limit=60.0), measured("compress", cut=False))
    store.add(case(32, time_limit=60.0), measured("compress"))  # as before that was written down
    store.add(case(64, time_limit=60.0), {"status": "time limit", "reason": "r"})
    for limit, kept in ((30.0, [8, 16, 32, 64]), (60.0, [8, 16, 32, 64]), (61.0, [16, 32])):
        assert [n for n in (8, 16, 32, 64) if store.get(case(n, time_limit=limit)) is not None] == kept
    assert store.written(case(8)) == measured("compress", cut=True)


def test_what_ran_out_of_memory_is_tried_again_with_clearly_more(tmp_path, monkeypatch):
    gib = 2**30
    store = ProfileStore(tmp_path / "r.jsonl", HERE)
    ended = {"status": "out of memory", "reason": "r"}
    store.add(case(8), {**ended, "free_bytes": 10 * gib})
    store.add(case(16, memory_limit_gib=4.0), {**ended, "free_bytes": 10 * gib})
    store.add(case(32), ended)  # as before that was written down
    for free, limit, kept in (
        (10.9, None, [8, 32]),  # of 16 the limit is gone
        (11.1, None, [32]),
        (10.0, 4.0, [8, 16]),
        (20.0, 4.0, [8, 16]),
        (20.0, 4.1, [8]),
        (20.0, 3.9, [8, 16]),
        (20.0, 10.5, []),
    ):
        monkeypatch.setattr(profile, "free_bytes", lambda device, free=free: free * gib)
        found = [n for n in (8, 16, 32) if store.get(case(n, memory_limit_gib=limit)) is not None]
        assert found == kept, (free, limit)


def test_what_was_free_is_written_down_with_what_ran_out_of_memory(monkeypatch):
    def child(*_):
        free[0] = 1  # while it runs
        raise ChildError("killed", -9)

    free = [7 * MIB]
    monkeypatch.setattr(profile, "available_bytes", lambda: free[0])
    monkeypatch.setattr(profile, "run_child", child)
    assert profile.measured_apart(case(8))["free_bytes"] == 7 * MIB
    assert "free_bytes" not in profile.measured_apart(case(8, device="cuda:0"))  # the host's ran out
    monkeypatch.setattr(profile, "run_child", lambda *_: {"status": "out of memory", "free_bytes": 5})  # the device's
    assert profile.measured_apart(case(8, device="cuda:0"))["free_bytes"] == 5


def test_a_process_tells_a_bad_video_from_a_bad_setting(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(profile_case, "yield_first", lambda: None)
    monkeypatch.setattr(profile_case, "limit_memory", lambda case: 9 * MIB)
    video = tmp_path / "broken.mp4"
    video.write_bytes(b"no video")

    def answer(**more):
        asked = case(2, model=model(random=True), videos=(str(video),), **more)
        assert profile_case.main(["measure", json.dumps(asked.to_json())]) == 0
        return json.loads(capsys.readouterr().out)

    told = answer(parts=("decode",))
    assert told["status"] == "failed"  # the others go on, and it is tried again
    assert f"cannot open video {video}" in told["reason"]
    assert answer(parts=("decode",), decoder="none")["status"] == "mistake"

    def exhausted(*_):
        raise MemoryError("too much")

    monkeypatch.setattr(profile_case, "measure", exhausted)
    assert answer(parts=("decode",)) == {"status": "out of memory", "reason": "too much", "free_bytes": 9 * MIB}


def test_a_case_that_ends_otherwise_is_recorded_and_the_rest_goes_on(tmp_path, monkeypatch):
    ends = {
        8: measured("total"),
        16: ChildError("took too long", None),
        32: ChildError("killed", -9),
        64: ChildError("status 1:\nTraceback\nKeyError: 'x'", 1),
        128: {"status": "out of memory", "reason": "64 GiB"},
        256: measured("total"),
    }
    asked, now = [], [0.0]
    monkeypatch.setattr(profile.time, "monotonic", lambda: now[0])

    def child(program, name, settings, environment, time_limit):
        now[0] += 10.0
        asked.append((settings["frames"], time_limit))
        end = ends[settings["frames"]]
        if isinstance(end, Exception):
            raise end
        return end

    monkeypatch.setattr(profile, "run_child", child)
    cases = [case(frames, time_limit=77.0) for frames in ends]
    told = []
    found = run_cases(cases, ProfileStore(tmp_path / "r.jsonl", HERE), told.append)
    statuses = ["measured", "time limit", "out of memory", "failed", "out of memory", "measured"]
    assert [result["status"] for result in found] == statuses
    assert found[3]["reason"] == "KeyError: 'x'"
    assert asked == [(frames, 77.0) for frames in ends]
    assert [line.split("]")[0] for line in told[::2]] == [f"[{n}/6" for n in range(1, 7)]
    assert "left" not in told[0]  # nothing is known yet
    assert told[2].endswith("16 frames; about 50 s left")
    assert told[1] == "  0.6 s (0.55 to 0.65), 200 MiB beyond weights and input"
    assert told[3] == "  time limit (not one measurement in 77 s)"

    asked.clear()
    again = run_cases(cases, ProfileStore(tmp_path / "r.jsonl", HERE), told.append)
    assert [frames for frames, _ in asked] == [64]  # the failure
    assert [result["status"] for result in again] == statuses
    assert told[-1].endswith("(measured before)")

    ends[512] = {"status": "mistake", "reason": "query_interval must be a divisor"}
    with pytest.raises(ConfigError, match="MambaMia, 512 frames: query_interval must be"):
        run_cases([case(512)], ProfileStore(tmp_path / "r.jsonl", HERE), told.append)


def test_the_time_left_follows_how_times_grew():
    def linear(frames):
        return 10 + 0.1 * frames

    def square(frames):
        return 10 + 0.01 * frames**2

    took = [(case(1, "start"), 10.0)]
    took += [(case(frames, "linear"), linear(frames)) for frames in (8, 16, 32)]
    took += [(case(frames, "square"), square(frames)) for frames in (8, 16, 32)]
    todo = [case(frames, label) for frames in (64, 128) for label in ("linear", "square")]
    expected = sum(linear(frames) + square(frames) for frames in (64, 128))
    assert seconds_left(todo, took) == pytest.approx(expected, rel=0.01)
    assert seconds_left([case(2**20, "square", time_limit=500.0)], took) == 500.0
    assert seconds_left([], took) == 0


@pytest.mark.parametrize(
    ("seconds", "limit", "counted", "cut"),
    [
        ([10, 10, 10, 6, 6, 6], 100, {"total": [10, 10], "without_encoding": [6, 6]}, False),
        ([10, 10, 10, 40], 79, {"total": [10, 10], "without_encoding": [40]}, True),  # no warm-up
        # a second would end at 80, beyond half of the time
        ([40, 45], 100, {"total": [40], "without_encoding": [45]}, True),
        ([70, 20, 20, 20], 150, {"total": [70], "without_encoding": [20, 20]}, False),  # slow, so that one is enough
        ([55], 100, {"total": [55]}, True),  # encoding and what follows might take as long again
    ],
)
def test_a_finished_measurement_is_not_lost_to_the_time_limit(monkeypatch, seconds, limit, counted, cut):
    now, left = [0.0], iter(seconds)

    def work(*_, **__):
        now[0] += next(left)

    monkeypatch.setattr(profile_case.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(profile_case.time, "perf_counter", lambda: now[0])
    meter = SimpleNamespace(base=0, peak=lambda: 7, resets=False)
    monkeypatch.setattr(profile_case, "PeakMeter", lambda device: meter)
    own = SimpleNamespace(device="cpu", warmup=1, samples=2)
    chain = SimpleNamespace(
        case=own, inputs=lambda: iter([torch.zeros(1)]), through=work, step=lambda *_: None, compute=work
    )
    times, memory, left_out = profile_case._paper(chain, float(limit))
    assert times == counted
    assert left_out == cut
    assert (memory["needed"], memory["peaks_reset"]) == (7, False)
    assert now[0] <= limit
