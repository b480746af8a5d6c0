"""Cases, what is kept of them, and the page; processes that measure are played by numbers known beforehand."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from tstar.errors import ConfigError
from tstar.reports import profile, profile_case
from tstar.reports.measured_cost import ChildError, Spread
from tstar.reports.profile import ProfileStore, run_cases, seconds_left
from tstar.reports.profile_cases import ANSWER, LABELS, PARTS, Case, Model
from tstar.reports.profile_report import headline, results_of, significant, write_profile

HERE = {
    **{"cpu": "a processor", "cores": 2, "threads": 1, "memory_gib": 8.0, "system": "Linux x86_64"},
    "versions": {"python": "3.11.7", "torch": "2.14.1"},
}
MIB = 2**20


def model(**more):
    given = {
        "stage": "tstar.stages.video_sft.VideoSFT",
        "vision": {"model": "tstar/pretrained/miniature/vision"},
        "language": {"path": "tstar/pretrained/miniature/language", "template": "miniature"},
        "compressor": {"name": "mambamia", "preset": "miniature", "query_interval": 6, "keep": "last"},
    }
    return Model(**{**given, **more})


def case(frames=8, label="MambaMia", protocol="parts", **more):
    given = {
        **{"model": model(), "parts": ANSWER, "device": "cpu", "precision": "fp32", "matmul_precision": "highest"},
        **{"warmup": 1, "samples": 5, "text_tokens": 256, "seed": 0, "group": "g"},
    }
    return Case(**{**given, "frames": frames, "label": label, "protocol": protocol, **more})


def measured(*parts, seconds=0.5, calls=5, **more):
    """A result whose parts took ``seconds`` each, and all of them as much together."""
    times = {part: [seconds * (1 + 0.1 * n) for n in range(calls)] for part in parts}
    times = {name: vars(Spread.of(own)) for name, own in times.items()}
    memory = {"weights": 3 * MIB, "input": 1 * MIB, "needed": 200 * MIB, "total": 204 * MIB, "by_part": {}}
    common = {"visual_tokens": 18, "positions": 274, "native_context": 2048, "parameters": {}, "decoders": []}
    return {"status": "measured", "seconds": times, "memory": memory, "distinct_frames": None, **common, **more}


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


# the page


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


@pytest.fixture
def results():
    cases = [case(frames, label, "paper") for frames in (8, 16) for label in ("pooling", "MambaMia")]
    cases += [case(8, "MambaMia", videos=("a.mp4",), parts=tuple(PARTS))]
    ended = {"status": "out of memory", "reason": "64 GiB", "log": "a long one"}
    found = [
        measured("total", "without_encoding", seconds=0.2),
        measured("total", "without_encoding", seconds=1234.0, calls=1),
        ended,
        measured("total", "without_encoding", seconds=0.8, positions=5000),
        measured(*PARTS, "total", seconds=0.1, distinct_frames=5),
    ]
    alone = model(
        compressor={"name": "mambamia", "preset": "paper"}, language={"path": "phi", "template": "phi3"}, random=True
    )
    wide = [case(8, "MambaMia", model=alone, parts=("compress",))]
    groups = {"small": ("All of it", cases), "wide": ("At the paper's width", wide)}
    return results_of("Figure", "tstar profile x", HERE, groups, {"small": found, "wide": [measured("compress")]})


def test_every_table_says_whose_weights_and_which_scale(results, tmp_path):
    written = write_profile(results, tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert {path.name for path in written} == {path.name for path in tmp_path.iterdir()}
    tables = [block for block in page.split("\n\n") if block.startswith("**")]
    whole = "(miniature, compressor with random weights, encoder and language model pretrained, fp32, a processor, 1 thread)"
    assert [whole in table for table in tables] == [True, True, True, False]
    assert "(random weights, fp32, a processor, 1 thread)" in tables[3]
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in page.splitlines()
        if line.startswith("| ") and "---" not in line
    ]
    pooling, ended, slow = [row for row in rows if len(row) == 9][1:4]
    assert pooling == ["pooling", "8", "18", "0.24 [0.22, 0.26]", "0.24", "0.24 [0.22, 0.26]", "4.0", "200", "5"]
    assert slow == ["MambaMia", "8", "18", "1,234", "1,234", "1,234", "4.0", "200", "1"]
    assert ended == ["pooling", "16", "out of memory", *["–"] * 6]
    parts = next(row for row in rows if len(row) == 14 and row[0])
    assert parts == ["MambaMia", "8", "18", *["0.12"] * 6, "0.72", "0.12 [0.11, 0.13]", "4.0", "200", "5"]
    assert "| MambaMia | 8 | 18 | 0.6 [0.55, 0.65] | 4.0 | 200 | 5 |" in page
    assert "positions beyond the 2,048 that" in page
    assert "of 8 as few as 5 differ" in page
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert "a long one" not in page


@pytest.mark.parametrize("parts", [("compress",), ANSWER])
def test_what_more_frames_cost_is_said_of_what_is_drawn(parts, tmp_path):
    cases = [case(frames, "MambaMia", parts=parts) for frames in (64, 8, 16)] + [case(8, "pooling", parts=parts)]
    cases += [case(frames, label, "paper") for frames in (8, 16) for label in ("MambaMia", "pooling")]
    whole = parts[0] if len(parts) == 1 else "total"
    found = [measured(*parts, whole, seconds=seconds) for seconds in (3.2, 0.1, 0.2, 9.0)]
    for result, total in zip(found, (51, 17, 34, 5), strict=True):
        result["memory"] = result["memory"] | {"total": total}
    found += [{"status": "failed", "reason": "x"}] * 4
    results = results_of("Figure", "tstar profile x", HERE, {"g": ("All of it", cases)}, {"g": found})
    written = write_profile(results, tmp_path)
    assert tmp_path / "g_cost.png" in written  # no number by the paper's protocol: parts are drawn
    page = (tmp_path / "README.md").read_text()
    rows = [line for line in page.splitlines() if " to " in line and line.startswith("|")]
    assert rows == ["| MambaMia | 8 to 64 | 8 | 32 | 3 | 2.00 from 16 to 64 |"]
    assert f"Seconds: {LABELS[whole]}; power 1" in page


def test_peaks_that_are_not_exact_stand_over_tables_and_plots(results, tmp_path):
    for row in results["groups"][1]["rows"]:
        row["memory"] = row["memory"] | {"peaks_reset": False}
    assert [headline(group, results).endswith(", memory not exact") for group in results["groups"]] == [False, True]
    write_profile(results, tmp_path)
    small, wide = (tmp_path / "README.md").read_text().split("## ")[1:]
    assert "- **memory is not exact**: this system does not set back its record" in wide
    assert "not exact" not in small


def test_numbers_go_into_a_table_for_machines(results, tmp_path):
    write_profile(results, tmp_path)
    with (tmp_path / "results.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 2 + 2 + 1 + 2 + 7 + 1
    decode = next(row for row in rows if row["part"] == "decode")
    assert float(decode["median_s"]) == pytest.approx(0.12)
    assert int(decode["needed_bytes"]) == 200 * MIB
    (ended,) = [row for row in rows if row["status"] == "out of memory"]
    assert (ended["label"], ended["frames"], ended["median_s"]) == ("pooling", "16", "")


def test_plots_are_drawn_where_there_are_numbers(results, tmp_path):
    names = {path.name for path in write_profile(results, tmp_path)}
    assert {"small_cost.png", "small_parts.png", "wide_cost.png"} < names
    assert "wide_parts.png" not in names  # one part has no shares
    for name in names:
        if name.endswith(".png"):
            with Image.open(tmp_path / name) as image:
                assert min(image.size) > 300
    for row in results["groups"][1]["rows"]:
        row["status"] = "failed"
    other = tmp_path / "other"
    assert not any(path.name.startswith("wide") for path in write_profile(results, other))
    assert "| MambaMia | 8 | failed |" in (other / "README.md").read_text()


@pytest.mark.parametrize(
    ("value", "text"), [(12345.6, "12,346"), (123.4, "123"), (12.34, "12.3"), (0.01234, "0.0123"), (1.2e-4, "0.000120")]
)
def test_seconds_have_three_digits(value, text):
    assert significant(value) == text


def test_results_of_no_folder_are_made(tmp_path):
    assert not Path(tmp_path / "x").exists()
    ProfileStore(tmp_path / "x" / "r.jsonl", HERE).add(case(), measured("total"))
    assert (tmp_path / "x" / "r.jsonl").read_text().count("\n") == 1
