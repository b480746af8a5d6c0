"""What harnesses leave is read as what was answered, joined to the right questions or refused."""

import copy
import csv
import json
import random
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from tstar.errors import DataError
from tstar.evaluation import get_benchmark, list_benchmarks
from tstar.evaluation.response_layouts import harness_responses
from tstar.integrations.answers import Answers, Evaluated
from tstar.integrations.lmms_eval_files import write_lmms_eval
from tstar.integrations.vlmevalkit_files import write_vlmevalkit

from .fixtures import ANNOTATIONS

MOMENT = datetime(2026, 11, 28, 9, 5, 7)


def mlvu(counts=(5, 4)):
    """Two of MLVU's files, whose questions partly ask the same."""
    draw = random.Random(0)
    tables = {}
    for stem, kind, count in zip(("4_count", "5_order"), ("count", "order"), counts, strict=True):
        rows = []
        for number in range(count):
            options = draw.sample(["one", "two", "three", "four", "five"], 4)
            row = {
                "video": f"{kind}_{number}.mp4",
                "duration": 300,
                "question": f"How many {kind}s, part {number // 2}?",
            }
            rows.append(row | {"candidates": options, "answer": draw.choice(options), "question_type": kind})
        tables[stem] = rows
    benchmark = get_benchmark("mlvu")
    return benchmark, benchmark.load(tables)


def sample(item, number, said, **more):
    """A line as lmms-eval 0.7 writes one: its own prompt, the metric's own dictionary."""
    options = "\n".join(f"({letter}) {text}" for letter, text in zip("ABCDE", item.options, strict=False))
    asked = next(line for line in item.prompt.splitlines() if line.startswith("Question: ")).removeprefix("Question: ")
    line = {
        "doc_id": number,
        "target": item.answer,
        "filtered_resps": [said],
        "doc_hash": "0" * 64,
        "input": f"\n{asked}\n{options}\nOnly give the best option.\nBest option: (",
        "token_counts": [{"output_tokens": 1}],
        "mlvu_percetion_score": {"question_id": asked, "task_type": item.categories["task"], "pred_answer": said},
    }
    return line | more


def row(item, number, said, **more):
    """A row as VLMEvalKit's table of MLVU has it."""
    asked = next(line for line in item.prompt.splitlines() if line.startswith("Question: ")).removeprefix("Question: ")
    found = {"index": number, "task_type": item.categories["task"], "video": item.media.split("/")[-1]}
    found |= {"question": asked, "answer": item.truth, "candidates": repr(list(item.options)), "prediction": said}
    return found | more


SAID = ["A", "B) x", "C", "nothing of it", "D", "A", "B", "C", "D"]


def test_samples_of_the_harness_are_joined_by_row(tmp_path):
    benchmark, items = mlvu()
    lines = [sample(item, n, SAID[n]) for n, item in enumerate(items)]
    random.Random(1).shuffle(lines)
    path = tmp_path / "20261128_090507_samples_mlvu_dev.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert dict(benchmark.responses(path, items)) == {item.id: SAID[n] for n, item in enumerate(items)}
    path.write_text(json.dumps(lines[0]) + "\n")
    assert len(benchmark.responses(path, items)) == 1


def test_rows_within_one_task_and_several_files_are_told_by_what_they_show(tmp_path):
    """Rows that start at 0 in the second file: by the whole set's numbers they would be the first file's questions."""
    benchmark, items = mlvu()
    paths = []
    for name, own in (("order", items[5:]), ("count", items[:5])):
        paths.append(tmp_path / f"samples_{name}.jsonl")
        paths[-1].write_text("".join(json.dumps(sample(item, n, f"{name} {n}")) + "\n" for n, item in enumerate(own)))
    found = benchmark.responses(paths, items)
    assert {key: found[key] for key in ("4_count:4", "5_order:0")} == {"4_count:4": "count 4", "5_order:0": "order 0"}
    assert len(found) == 9
    assert benchmark.score(items, found).counts["missing"] == 0


def test_what_the_model_wrote_counts_not_what_a_filter_left():
    benchmark, items = mlvu()
    lines = [sample(items[0], 0, "A", resps=[["A. it is so"]]), sample(items[1], 1, "B", resps=["B."])]
    lines.append(sample(items[2], 2, "C", resps="C, all of it"))
    assert list(benchmark.responses(lines, items).values()) == ["A. it is so", "B.", "C, all of it"]
    two = [sample(items[0], 0, "A", resps=[["A", "B"]])]
    with pytest.raises(DataError, match=r"responses, line 1: field 'resps' must hold one answer, got \"\['A', 'B'\]\""):
        benchmark.responses(two, items)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"input": "another question"},
            r"line 3: does not show the question of 4_count:2 \('(?i:h)ow many counts, part 1\?'\)",
        ),
        ({"doc_id": 1}, "line 3: does not show the (question|options) of 4_count:1"),
        ({"doc_id": 9}, "line 3: has row 9, of which the annotations have none"),
        ({"doc_id": -1}, "line 3: has row -1, of which"),
        ({"target": "E"}, "line 3: has E as the answer of 4_count:2, the annotations have [A-D]"),
        ({"doc_id": "2"}, "line 3: field 'doc_id' must be int, got str"),
        ({"filtered_resps": None}, "line 3: field 'filtered_resps' must be list or str, got NoneType"),
        ({"filtered_resps": [3]}, "line 3: field 'filtered_resps' must hold one answer, got '3'"),
        ({"input": None}, "line 3: field 'input' must be str, got NoneType"),
    ],
)
def test_a_sample_that_does_not_fit_is_named(tmp_path, change, message):
    benchmark, items = mlvu()
    lines = [sample(item, n, SAID[n]) for n, item in enumerate(items)]
    lines[2] |= change
    path = tmp_path / "samples.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(DataError, match=f"samples.jsonl, {message}"):
        benchmark.responses(path, items)


def test_options_in_another_order_are_another_question():
    """Two tries of one question differ in nothing else, and the letters mean other things."""
    benchmark = get_benchmark("vnbench")
    items = benchmark.load(ANNOTATIONS["vnbench"])
    shown = "\n".join(items[1].prompt.splitlines())
    line = {"doc_id": 0, "target": "", "filtered_resps": ["A"], "input": shown, "vnbench_circular": {}}
    with pytest.raises(DataError, match="does not show the options of video0042_ret_insert2_0 in their order"):
        benchmark.responses([line], items)
    named = line | {"vnbench_circular": {"id": items[1].id}}
    assert list(benchmark.responses([named], items)) == [items[1].id]
    with pytest.raises(DataError, match="line 1: has D as the answer of video0042_ret_insert2_1"):
        benchmark.responses([named | {"target": "D"}], items)


@pytest.mark.parametrize("ending", ["tsv", "json", "xlsx"])
def test_tables_of_the_kit(tmp_path, ending):
    """Its failures and what tables have in their place are failures; numbers that were cells are texts again."""
    benchmark, items = mlvu()
    said = ["A", "Failed to obtain answer via API.", None, 4, "=B", "nan", "two\nlines", " C", float("nan")]
    rows = [row(item, n, said[n]) for n, item in enumerate(items)]
    path = tmp_path / f"model_MLVU_MCQ.{ending}"
    if ending == "json":
        path.write_text(json.dumps(rows))
    elif ending == "tsv":
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, rows[0], delimiter="\t", quoting=csv.QUOTE_ALL)
            writer.writeheader()
            writer.writerows(rows)
    else:
        openpyxl = pytest.importorskip("openpyxl")
        book = openpyxl.Workbook()
        book.active.append(list(rows[0]))
        for number, one in enumerate(rows, start=2):
            for place, value in enumerate(one.values(), start=1):
                cell = book.active.cell(number, place, None if value != value else value)
                cell.data_type = "s" if isinstance(value, str) else cell.data_type
        book.save(path)
    expected = ["A", None, None, "4", "=B", None, "two\nlines", " C", None]
    assert list(benchmark.responses(path, items).values()) == expected


def test_the_kit_s_order_of_tasks_may_be_another(tmp_path):
    benchmark, items = mlvu()
    order = [*items[5:], *items[:5]]
    rows = [row(item, n, f"said {item.id}") for n, item in enumerate(order)]
    assert dict(benchmark.responses(rows, items)) == {item.id: f"said {item.id}" for item in items}
    lettered = {k: v for k, v in row(items[0], 0, "B").items() if k != "candidates"}
    lettered |= dict(zip("ABCD", items[0].options, strict=True)) | {"answer": items[0].answer}
    assert list(benchmark.responses([lettered], items)) == ["4_count:0"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": "another"}, "line 2: does not show the question of 4_count:1"),
        ({"video": "count_0.mp4"}, "line 2: is about the video count_0.mp4, 4_count:1 about video/4_count/count_1.mp4"),
        ({"candidates": "['x', 'y']"}, "line 2: does not show the options of 4_count:1 in their order"),
        ({"candidates": "['x', "}, "line 2: field 'candidates' must be a list, got"),
        ({"index": "x"}, "line 2: field 'index' must be a whole number from 0, got 'x'"),
        ({"index": 77}, "line 2: has row 77, of which the annotations have none"),
        ({"answer": "E"}, "line 2: has E as the answer of 4_count:1"),
    ],
)
def test_a_row_that_does_not_fit_is_named(change, message):
    benchmark, items = mlvu()
    rows = [row(item, n, "A") for n, item in enumerate(items)]
    rows[1] |= change
    with pytest.raises(DataError, match=f"responses, {message}"):
        benchmark.responses(rows, items)
    del rows[1]["prediction"]
    rows[1]["index"] = 1
    with pytest.raises(DataError, match="line 2: field 'prediction' is missing"):
        benchmark.responses(rows, items)


def test_a_single_response_may_stand_without_a_list():
    """As lmms-eval 0.7.3 writes it."""
    benchmark, items = mlvu()
    lines = [sample(item, n, SAID[n]) | {"filtered_resps": SAID[n]} for n, item in enumerate(items)]
    expected = [sample(item, n, SAID[n]) for n, item in enumerate(items)]
    assert dict(benchmark.responses(lines, items)) == dict(benchmark.responses(expected, items))


def test_parts_that_ask_the_same_are_not_guessed():
    benchmark, items = mlvu((2, 2))
    twins = [replace(item, id=f"5_order:{n}", categories={"task": "order"}) for n, item in enumerate(items[:2])]
    other = items[0].prompt.replace("counts", "others")
    first = replace(items[0], id="3_ego:0", prompt=other, question="How many others, part 0?")
    items = [first, *items[:2], *twins]
    lines = [sample(item, n, "A") for n, item in enumerate(items[1:3])]
    with pytest.raises(DataError, match=r"line 1: may be 4_count:0 or 5_order:0, which ask the same"):
        benchmark.responses(lines, items)


def test_other_layouts_are_left_alone():
    _, items = mlvu()
    for data in ({}, [], "text", {"a": "b"}, [["x"]], [{"id": "4_count:0", "response": "A"}], [{"index": 0}]):
        assert harness_responses(data, items, "x") is None


def answers(name):
    benchmark = get_benchmark(name)
    items = benchmark.load(copy.deepcopy(ANNOTATIONS[name.removeprefix("mini-")]))
    said = ["B", "(C) or so", None, "", "the first one"]
    rows = {
        item.id: {
            "id": item.id,
            "response": said[n % 5],
            "error": "broken" if said[n % 5] is None else None,
            "model": "m",
        }
        for n, item in enumerate(items)
    }
    prompts = {item.id: item.prompt for item in items}
    return Answers(benchmark, items, rows, "full", "m", prompts), Evaluated(Path("runs/x"), {}, {"max_frames": 8}, None)


WITH_LETTERS = [name for name in list_benchmarks() if not get_benchmark(name).judged]


@pytest.mark.parametrize("name", WITH_LETTERS)
def test_what_export_writes_for_lmms_eval_is_read_back(tmp_path, name):
    own, evaluated = answers(name)
    paths = [path for path in write_lmms_eval(evaluated, [own], tmp_path, MOMENT) if path.suffix == ".jsonl"]
    found = own.benchmark.responses(paths, own.items)
    assert dict(found) == {key: text or "" for key, text in own.responses.items()}  # it knows no failures


@pytest.mark.parametrize("name", WITH_LETTERS)
def test_what_export_writes_for_the_kit_is_read_back(tmp_path, name):
    own, evaluated = answers(name)
    written = write_vlmevalkit(evaluated, [own], tmp_path, MOMENT)
    paths = [path for path in written if path.suffix == ".tsv" and not path.stem.endswith("_score")]
    found = own.benchmark.responses(paths, own.items)
    assert dict(found) == {key: text or None for key, text in own.responses.items()}  # an empty cell is a failure


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_a_table_of_ids_and_responses(tmp_path, ending):
    _, items = mlvu()
    benchmark = get_benchmark("mlvu")
    mark = {"csv": ",", "tsv": "\t"}[ending]
    path = tmp_path / f"answers.{ending}"
    lines = [f"id{mark}response", f"4_count:0{mark}B", f'4_count:1{mark}"C, or\nD"', f"4_count:2{mark}"]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    found = benchmark.responses(path, items)
    assert dict(found) == {"4_count:0": "B", "4_count:1": "C, or\nD", "4_count:2": None}
    report = benchmark.score(items, found)
    assert (report.counts["failed"], report.counts["missing"]) == (1, 6)
    path.write_text(f"id{mark}answer\n4_count:0{mark}B\n")
    with pytest.raises(DataError, match=r"row 0: field 'response' is missing \(found: answer, id\)"):
        benchmark.responses(path, items)
    path.write_text(f"id{mark}response\n4_count:0{mark}B{mark}C\n")
    with pytest.raises(DataError, match="row 0: has more cells than the header"):
        benchmark.responses(path, items)
    path.write_text(f"id{mark}response\n9_none:0{mark}B\n")
    with pytest.raises(DataError, match="1 response ids are not in the annotations"):
        benchmark.score(items, benchmark.responses(path, items))


def test_an_xlsx_without_its_package_or_content(tmp_path, monkeypatch):
    benchmark, items = mlvu()
    path = tmp_path / "answers.xlsx"
    with pytest.raises(DataError, match="no such file"):
        benchmark.responses(path, items)
    path.write_bytes(b"no table")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(DataError, match=r"reading xlsx needs openpyxl: pip install openpyxl, or save the table as TSV"):
        benchmark.responses(path, items)


def test_a_broken_xlsx_and_one_of_ids(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    benchmark, items = mlvu()
    path = tmp_path / "answers.xlsx"
    path.write_bytes(b"no table")
    with pytest.raises(DataError, match="not a readable xlsx table"):
        benchmark.responses(path, items)
    book = openpyxl.Workbook()
    for cells in (["id", None, "response"], ["4_count:0", "note", "B"], [None, None, None], ["4_count:1", None, None]):
        book.active.append(cells)
    book.save(path)
    assert dict(benchmark.responses(path, items)) == {"4_count:0": "B", "4_count:1": None}
