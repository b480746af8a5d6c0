"""The prediction store: resumes by its whole key, survives a killed writer, and takes verdicts whole or not at all."""

import json
import os
import subprocess
import sys
import threading

import pytest

from tstar.data.files import alone_in
from tstar.evaluation import get_benchmark, score
from tstar.evaluation.prediction_store import FIELDS, PredictionStore, prompt_sha, with_verdicts


def row(item_id="4_count:0", response="C)", **changes):
    fields = {"id": item_id, "prompt_sha": "aa", "response": response, "model": "m1", "mode": "full"}
    return fields | {"frames": {"count": 8, "sha": "ff"}, "visual_tokens": 12, "seconds": {"total": 0.5}} | changes


KEY = {"prompt_sha": "aa", "model": "m1", "mode": "full", "frames": {"sha": "ff", "count": 8}}


def test_a_row_is_on_disk_at_once_and_found_again_by_its_whole_key(tmp_path):
    store = PredictionStore(tmp_path / "predictions" / "mlvu.jsonl")
    assert store.rows() == []
    store.append(row())
    (line,) = store.path.read_text().splitlines()
    assert list(json.loads(line)) == list(FIELDS)
    again = PredictionStore(store.path)
    for opened in (store, again):
        assert opened.get("4_count:0", **KEY)["response"] == "C)"
        for name, other in [("prompt_sha", "bb"), ("model", "m2"), ("mode", "blind"), ("frames", 8)]:
            assert opened.get("4_count:0", **(KEY | {name: other})) is None
        assert opened.get("4_count:1", **KEY) is None


def test_the_last_line_of_a_key_wins_and_modes_live_side_by_side(tmp_path):
    store = PredictionStore(tmp_path / "x.jsonl")
    for response in (None, "A)", "B)"):
        store.append(row(response=response))
    store.append(row(mode="blind", response="D)"))
    again = PredictionStore(store.path)
    assert again.repeated == store.repeated == 2
    assert [entry["response"] for entry in again.rows()] == ["B)", "D)"]


@pytest.mark.parametrize("keep", [1, 20, -1])  # bytes of the last line that the killed writer got out
def test_a_truncated_last_line_is_counted_and_does_not_swallow_the_next(tmp_path, keep):
    path = tmp_path / "x.jsonl"
    store = PredictionStore(path)
    store.append(row())
    store.append(row("4_count:1", response="größer"))
    whole = path.read_bytes()
    start = whole.index(b"\n") + 1
    path.write_bytes(whole[: start + keep] if keep > 0 else whole[:-2])
    resumed = PredictionStore(path)
    assert resumed.damaged == 1
    assert [entry["id"] for entry in resumed.rows()] == ["4_count:0"]
    resumed.append(row("4_count:1", response="B)"))
    again = PredictionStore(path)
    assert again.damaged == 1
    assert [entry["response"] for entry in again.rows()] == ["C)", "B)"]


def test_a_cut_inside_a_character_and_lines_that_are_no_rows_are_counted(tmp_path):
    path = tmp_path / "x.jsonl"
    PredictionStore(path).append(row())
    with path.open("ab") as file:
        file.write(b'{"id": "x"}\n[1, 2]\n3\n\n{"id": "gr\xc3')
    store = PredictionStore(path)
    assert store.damaged == 4
    assert len(store.rows()) == 1


def test_a_last_line_without_its_line_break_is_whole(tmp_path):
    path = tmp_path / "x.jsonl"
    PredictionStore(path).append(row())
    path.write_bytes(path.read_bytes()[:-1])
    store = PredictionStore(path)
    store.append(row("4_count:1"))
    assert [len(PredictionStore(path).rows()), store.damaged] == [2, 0]


def test_odd_text_comes_back_as_it_was(tmp_path):
    store = PredictionStore(tmp_path / "x.jsonl")
    odd = "B)\nline two\u2028 \x00 \ud83c größer"
    store.append(row(response=odd))
    assert PredictionStore(store.path).rows()[0]["response"] == odd


def test_rows_are_written_together_and_synced_before_anything_else_happens(tmp_path, monkeypatch):
    store, done = PredictionStore(tmp_path / "x.jsonl"), []
    sync = os.fsync

    def synced(descriptor):
        done.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    store.extend([row(f"4_count:{n}") for n in range(5)])
    assert done == [str(store.path), str(tmp_path)]  # its lines, then its name
    store.extend([row("4_count:5")])
    assert done[2:] == [str(store.path)]
    assert [entry["id"] for entry in PredictionStore(store.path).rows()] == [f"4_count:{n}" for n in range(6)]


def test_a_failure_does_not_take_the_place_of_an_answer(tmp_path):
    store = PredictionStore(tmp_path / "x.jsonl")
    for response, error in ((None, "gone"), ("A)", None), (None, "gone again")):
        store.append(row(response=response, error=error))
    for opened in (store, PredictionStore(store.path)):
        assert opened.get("4_count:0", **KEY)["response"] == "A)"
        assert opened.repeated == 2


def test_processes_write_a_file_each_read_all_and_are_joined(tmp_path):
    path = tmp_path / "full.jsonl"
    PredictionStore(path).append(row("4_count:0", "A)"))
    stores = [PredictionStore(path, process) for process in range(3)]
    for process, store in enumerate(stores):
        store.append(row(f"4_count:{process}", f"{'ABC'[process]})"))
    names = ["full.jsonl", "full.rank0.jsonl", "full.rank1.jsonl", "full.rank2.jsonl"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    PredictionStore(tmp_path / "blind.jsonl", 1).append(row("4_count:9", mode="blind"))  # another mode's stays
    for process in (None, 0, 7):  # whatever the number of processes is now
        found = PredictionStore(path, process)
        assert [(r["id"], r["response"]) for r in found.rows()] == [(f"4_count:{k}", f"{'ABC'[k]})") for k in range(3)]
    found.rewrite(found.rows())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["blind.rank1.jsonl", "full.jsonl"]
    assert [r["id"] for r in PredictionStore(path).rows()] == ["4_count:0", "4_count:1", "4_count:2"]


def test_a_kill_while_files_are_joined_loses_nothing(tmp_path, monkeypatch):
    path = tmp_path / "full.jsonl"
    PredictionStore(path, 0).append(row("4_count:0"))
    PredictionStore(path, 1).append(row("4_count:1"))

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    store = PredictionStore(path)
    monkeypatch.setattr(type(path), "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        store.rewrite(store.rows())
    monkeypatch.undo()
    again = PredictionStore(path)
    assert [r["id"] for r in again.rows()] == ["4_count:0", "4_count:1"]
    again.rewrite(again.rows())
    assert [p.name for p in tmp_path.iterdir()] == ["full.jsonl"]


def test_what_another_evaluation_wrote_meanwhile_is_not_lost(tmp_path):
    path = tmp_path / "full.jsonl"
    PredictionStore(path).extend([row("4_count:0"), row("4_count:1", None, error="gone"), row("4_count:2", "old")])
    ours, theirs = PredictionStore(path), PredictionStore(path)
    part = PredictionStore(path, 0)
    theirs.extend([row("4_count:1", "D)"), row("4_count:3", "D)", frames=32), row("4_count:0", "again")])
    part.append(row("4_count:4", "E)"))
    ours.rewrite([r | {"how": "first"} for r in ours.rows() if r["id"] != "4_count:2"])
    assert [p.name for p in tmp_path.iterdir()] == ["full.jsonl"]
    expected = [
        ("4_count:0", "C)", "first"),
        ("4_count:1", "D)", None),
        ("4_count:3", "D)", None),
        ("4_count:4", "E)", None),
    ]
    assert [(r["id"], r["response"], r["how"]) for r in PredictionStore(path).rows()] == expected


SEVERAL = """
import sys
from tstar.evaluation.prediction_store import PredictionStore
path, who, process = sys.argv[1], sys.argv[2], sys.argv[3]
store = PredictionStore(path, int(process) if process else None)
for n in range(30):
    store.append({"id": f"{n}", "prompt_sha": "aa", "response": who, "model": who, "mode": "full", "frames": 8})
    if n % 3 == 0:
        store = PredictionStore(path, int(process) if process else None)
        store.rewrite(store.rows())
"""


def test_evaluations_that_write_anew_all_the_time_keep_all_rows_of_one_another(tmp_path):
    path = tmp_path / "full.jsonl"
    asked = [("a", ""), ("b", ""), ("c", "0"), ("d", "0")]
    running = [subprocess.Popen([sys.executable, "-c", SEVERAL, path, *who]) for who in asked]
    assert [process.wait(60) for process in running] == [0] * 4
    store = PredictionStore(path)
    assert sorted((r["model"], int(r["id"])) for r in store.rows()) == [(who, n) for who, _ in asked for n in range(30)]
    assert store.damaged == 0


def test_a_store_waits_while_another_process_writes_the_file_anew(tmp_path):
    store, done = PredictionStore(tmp_path / "full.jsonl"), []
    with alone_in(tmp_path):
        thread = threading.Thread(target=lambda: done.append(store.append(row())))
        thread.start()
        thread.join(0.2)
        assert not done
        assert not store.path.exists()
    thread.join(10)
    assert done
    assert len(PredictionStore(store.path).rows()) == 1


def test_all_rows_of_a_question_are_found_by_its_id(tmp_path):
    store = PredictionStore(tmp_path / "x.jsonl")
    for mode in ("full", "blind"):
        store.append(row(mode=mode))
    store.append(row("4_count:1"))
    assert [r["mode"] for r in store.of_item("4_count:0")] == ["full", "blind"]
    assert store.of_item("none") == []


def test_rows_without_a_key_or_with_an_unknown_mode_are_a_bug(tmp_path):
    store = PredictionStore(tmp_path / "x.jsonl")
    with pytest.raises(AssertionError, match="a prediction needs"):
        store.append({"id": "x"})
    with pytest.raises(AssertionError, match="mode must be one of full, shuffled, single_frame, blind, got 'half'"):
        store.append(row(mode="half"))
    assert not store.path.exists()


def annotations():
    question = {"video": "v.mp4", "question": "?", "candidates": ["1", "4", "2", "7"], "answer": "2"}
    return {"4_count": [question] * 3}


def test_verdicts_are_filled_in_where_item_and_response_agree(tmp_path):
    store = PredictionStore(tmp_path / "x.jsonl")
    store.append(row(response="C)"))
    store.append(row("4_count:1", response=None, error="cannot decode v.mp4"))
    store.append(row(mode="blind", response="A)"))
    report = score("mini-mlvu", annotations(), {"4_count:0": "C)", "4_count:1": None})
    store.rewrite(with_verdicts(report, store.rows()))
    scored = PredictionStore(store.path).rows()
    assert [(r["extracted"], r["how"], r["correct"]) for r in scored] == [
        ("C", "bracket", True),
        (None, "failed", False),
        (None, None, None),
    ]
    assert scored[0]["category"] == {"task": "count"}
    assert [(r["rules"], r["counted"], r["rating"]) for r in scored] == [("official", True, None)] * 2 + [(None,) * 3]
    assert scored[0]["seconds"] == {"total": 0.5}
    blind = score("mini-mlvu", annotations(), {"4_count:0": "A)"})
    store.rewrite(with_verdicts(blind, scored))
    assert [r["correct"] for r in PredictionStore(store.path).rows()] == [True, False, False]
    assert list(tmp_path.iterdir()) == [store.path]


def test_a_failed_rewrite_leaves_the_file_as_it_was(tmp_path):
    store = PredictionStore(tmp_path / "x.jsonl")
    store.append(row())
    before = store.path.read_bytes()

    def rows():
        yield row()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.rewrite(rows())
    assert store.path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [store.path]


def test_a_store_is_scored_as_a_response_file_of_its_full_mode(tmp_path):
    store = PredictionStore(tmp_path / "x.jsonl")
    store.append(row(response="A)"))
    store.append(row(response="C)"))
    store.append(row("4_count:1", response="C)", error="out of memory"))
    store.append(row(mode="blind", response="B)"))
    report = score("mlvu", annotations(), store.path)
    assert [item.how for item in report.items] == ["bracket", "failed", "missing"]
    assert report.aggregate["m_avg"] == pytest.approx(1 / 3)


def test_the_prompt_hash_changes_with_every_text_the_model_is_given():
    (item, *_) = get_benchmark("mlvu").load(annotations())
    changed = [item.__class__(**(vars(item) | {name: "other"})) for name in ("system", "prompt", "prefill")]
    assert len({prompt_sha(other) for other in [item, *changed]}) == 4
    assert prompt_sha(item.__class__(**(vars(item) | {"id": "other"}))) == prompt_sha(item)
    assert prompt_sha(item, item.prompt) == prompt_sha(item) == "9367e4605fd563b8"  # stored answers are found by it
    assert prompt_sha(item, "with subtitles") == prompt_sha(
        changed[1].__class__(**(vars(item) | {"prompt": "with subtitles"}))
    )
