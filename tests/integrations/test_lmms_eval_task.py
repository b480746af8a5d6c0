"""The VNBench task for lmms-eval, loaded as the harness loads it, gives what our own scorer gives."""

import importlib.util
import json
import random

import pytest
import yaml

from tstar.errors import DataError
from tstar.evaluation import get_benchmark, score
from tstar.integrations import TASKS

FOLDER = TASKS / "vnbench"
KINDS = ("ret_insert1", "cnt_edit2", "ord_edit1", "ret_edit1")


def docs():
    rows = []
    for name in ("video0001", "v_ab-C_x", "4010069381"):
        for kind in KINDS:
            options = [f"{kind} {letter}" for letter in "pqrs"]
            for attempt in range(4):
                own = options[attempt:] + options[:attempt]
                letter = "ABCD"[own.index(options[1])]
                row = {"video": f"./VNBench/{name}_{kind}.mp4", "question": f"What, {kind}?", "options": own}
                rows.append(row | {"gt": options[1], "gt_option": letter, "type": kind, "try": attempt, "length": 30.5})
    return rows


@pytest.fixture(scope="module")
def task():
    """The YAML with its functions, found as lmms-eval finds them: in the Python file beside it."""

    def function(loader, node):
        module, name = loader.construct_scalar(node).rsplit(".", 1)
        spec = importlib.util.spec_from_file_location(module, FOLDER / f"{module}.py")
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return getattr(loaded, name)

    class Loader(yaml.FullLoader):
        pass

    Loader.add_constructor("!function", function)
    return yaml.load((FOLDER / "vnbench.yaml").read_text(), Loader)


def test_scores_are_those_of_our_scorer(task):
    rows, draw = docs(), random.Random(1)
    said = [row["gt_option"] if draw.random() < 0.8 else draw.choice(["A", "b", "", "Answer: C", "D."]) for row in rows]
    kept = [task["process_results"](row, [text.strip()]) for row, text in zip(rows, said, strict=True)]
    values = {
        metric["metric"]: metric["aggregation"]([entry[metric["metric"]] for entry in kept])
        for metric in task["metric_list"]
    }
    ids = [item.id for item in get_benchmark("vnbench").load(rows)]
    report = score("vnbench", rows, dict(zip(ids, said, strict=True)))
    assert 0 < report.aggregate["circular"] < report.aggregate["independent"] < 1
    assert values == {f"vnbench_{name}": pytest.approx(report.aggregate[name]) for name in ("circular", "independent")}
    assert all(metric["higher_is_better"] for metric in task["metric_list"])


def test_what_is_asked_is_the_official_prompt(task, tmp_path, monkeypatch):
    row = docs()[5]
    (item,) = get_benchmark("vnbench").load([row])
    assert task["doc_to_text"](row) == item.prompt
    assert task["doc_to_text"](row, {"pre_prompt": "X: ", "post_prompt": "!"}) == f"X: {item.prompt}!"
    assert row[task["doc_to_target"]] == item.answer
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"no such video: VNBench/video0001_cnt_edit2\.mp4; set VNBENCH_DIR"):
        task["doc_to_visual"](row)
    (tmp_path / "VNBench").mkdir()
    (tmp_path / "VNBench" / "video0001_cnt_edit2.mp4").write_bytes(b"")
    assert task["doc_to_visual"](row) == ["VNBench/video0001_cnt_edit2.mp4"]
    monkeypatch.chdir("/")
    monkeypatch.setenv("VNBENCH_DIR", str(tmp_path))
    assert task["doc_to_visual"](row) == [str(tmp_path / "VNBench" / "video0001_cnt_edit2.mp4")]


def test_the_yaml_names_what_the_harness_needs(task):
    needed = {"task", "dataset_path", "dataset_kwargs", "test_split", "output_type", "doc_to_visual", "doc_to_text"}
    assert needed | {"doc_to_target", "generation_kwargs", "process_results", "metric_list"} <= set(task)
    assert task["generation_kwargs"]["do_sample"] is False
    assert json.dumps(task["dataset_kwargs"]) == '{"data_files": {"test": "VNBench-main-4try.json"}}'
