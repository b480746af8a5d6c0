"""Every benchmark of the registry goes into every layout, and what is written says the same as our own scorers."""

import csv
import itertools
import json
import re

import pytest

from tstar.evaluation import get_benchmark, list_benchmarks, score
from tstar.evaluation.judging import read_replies
from tstar.evaluation.prediction_store import PredictionStore, prompt_sha
from tstar.integrations.exports import export_run
from tstar.integrations.official_files import has_official_file

from ..evaluation.fixtures import ANNOTATIONS

SAID = ["B", "(C)", "D. it is", "The answer is A", "", "banana", "a dog is running", "(B) text"]
REPLIES = ["{'pred': 'yes', 'score': 4}", "{'pred': 'no', 'score': 1}", "{'pred': 'yes', 'score': 5}"]
JUDGED = ("activitynetqa", "chat_temporal")
NAMES = [name for name in list_benchmarks() if not name.startswith("mini-")]
FILES = {
    "vnbench": "VNBench-main-4try.json",
    "videomme": "test.jsonl",
    "videomme_subtitles": "test.jsonl",
    "chat_temporal": "temporal_qa.json",
    "lvbench": "video_info.meta.jsonl",
    "nextqa": "test.jsonl",
    "seed_image": "SEED-Bench.json",
    "mmstar": "mmstar.jsonl",
    "ai2d": "ai2d.jsonl",
}


def lay_out(name, folder):
    """The fixture as the benchmark's official files."""
    folder.mkdir(parents=True)
    content = ANNOTATIONS[name]
    tables = {FILES[name]: content} if name in FILES else {f"{stem}.json": rows for stem, rows in content.items()}
    for file, rows in tables.items():
        lines = file.endswith(".jsonl")
        (folder / file).write_text("\n".join(map(json.dumps, rows)) if lines else json.dumps(rows))
    return folder


def answered(run, name, folder, said):
    store = PredictionStore(run / "predictions" / name / "full.jsonl")
    texts = itertools.cycle(said)
    for item in get_benchmark(name).load(folder):
        text = next(texts)
        row = {"id": item.id, "prompt_sha": prompt_sha(item), "model": "m", "mode": "full", "frames": "8 at 2 fps"}
        store.append(row | {"response": text} | ({"error": "broken"} if text is None else {}))
    judged = [json.dumps({"id": row["id"], "reply": REPLIES[k % 3]}) for k, row in enumerate(store.rows())]
    (run / "replies.jsonl").write_text("\n".join(judged))
    record = {"model": "m", "settings": {"max_frames": 8, "benchmarks": {name: str(folder)}}}
    (run / "eval").mkdir(exist_ok=True)
    (run / "eval" / "evaluation.json").write_text(json.dumps(record))
    return run


def exported(run, layout, out, name):
    """The files, with a judge's replies where there can be no numbers without."""
    replies = {name: run / "replies.jsonl"} if name in JUDGED else {}
    return export_run(run, layout, out, replies=replies).files


def score_of(name, folder, responses, run, rules="official"):
    replies = read_replies(run / "replies.jsonl") if name in JUDGED else None
    return score(name, folder, responses, rules, replies)


@pytest.fixture(params=NAMES)
def case(request, tmp_path):
    """A benchmark's name, its folder, and runs that answered it: in one every question, in the other some failed."""
    folder = lay_out(request.param, tmp_path / "suite")
    runs = {
        kind: answered(tmp_path / kind, request.param, folder, said)
        for kind, said in {"whole": SAID, "failing": ["B", None, "D"]}.items()
    }
    return request.param, folder, runs


def mean(numbers):
    return sum(numbers) / len(numbers)


def test_official_files_are_scored_alike(case, tmp_path):
    name, folder, runs = case
    if not has_official_file(get_benchmark(name)):
        pytest.skip(f"{name} has no official result file")
    for kind, run in runs.items():
        files = exported(run, "official", tmp_path / f"out {kind}", name)
        stored = score_of(name, folder, run / "predictions" / name / "full.jsonl", run)
        if name == "mvbench":
            percents = json.loads(files[0].read_text())
            assert percents.pop("Avg") == pytest.approx(100 * stored.aggregate["accuracy"], abs=0.005)
            assert percents == {task: pytest.approx(100 * stored.aggregate[task], abs=0.005) for task in percents}
            assert len(files) == (2 if kind == "whole" else 1)  # what failed has no place among the answers
            if kind == "failing":
                continue
        again = score_of(name, folder, files[-1:] if name == "mvbench" else files, run)
        assert verdicts(again) == verdicts(stored)
        assert again.aggregate[main_of(name)] == stored.aggregate[main_of(name)]


def main_of(name):
    return get_benchmark(name).main


def verdicts(report):
    return [(item.id, item.extracted, item.correct) for item in report.items]


AGGREGATIONS = {
    "lvbench_score": mean,
    "exact_match": mean,
    "mvbench_accuracy": lambda kept: (
        100 * mean([entry["score"] for entry in kept if entry["pred_answer"] != ""] or [0])
    ),
    "seed_image": lambda kept: mean([entry["pred"].lower() == entry["answer"].lower() for entry in kept]),
    "seed_all": lambda kept: mean([entry["pred"].lower() == entry["answer"].lower() for entry in kept]),
    "videomme_perception_score": lambda kept: 100 * mean([entry["score"] for entry in kept]),
    "gpt_eval_score": lambda kept: mean([int(entry["score"]) for entry in kept]),
    "gpt_eval_accuracy": lambda kept: 100 * mean(["yes" in entry["Correctness"] for entry in kept]),
    "gpt_eval_score_temporal": lambda kept: mean([entry["score"] for entry in kept]),
    "vnbench_independent": lambda kept: mean([entry["correct"] for entry in kept]),
}


def parts_mean(kept):
    parts = {}
    for entry in kept:
        parts.setdefault(entry["l2_category"], []).append(entry["score"])
    return mean([mean(own) for own in parts.values()])


def test_lmms_eval_numbers_are_the_harness_aggregations_of_its_samples(case, tmp_path):
    name, folder, runs = case
    for kind, run in runs.items():
        files = exported(run, "lmms-eval", tmp_path / f"out {kind}", name)
        results = json.loads(next(f for f in files if f.name.endswith("_results.json")).read_text())
        questions = len(get_benchmark(name).load(folder))
        assert sum(result["samples"] for result in results["results"].values()) == questions
        for task, result in results["results"].items():
            (path,) = [f for f in files if f.name.endswith(f"_samples_{task}.jsonl")]
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            for key, value in result.items():
                metric = key.split(",")[0]
                aggregation = parts_mean if name == "mmstar" else AGGREGATIONS.get(metric)
                if aggregation is None or "stderr" in key or "," not in key:
                    continue
                kept = [line[metric] for line in lines if metric in line]
                assert value == pytest.approx(aggregation(kept)), (task, metric)


def test_lmms_eval_task_names_are_the_harness_own(tmp_path):
    names = {}
    for name in NAMES:
        run = answered(tmp_path / name, name, lay_out(name, tmp_path / f"suite {name}"), ["A"])
        files = export_run(run, "lmms-eval", tmp_path / "out").files
        names[name] = [m[1] for f in files if (m := re.search(r"_samples_(.*)\.jsonl", f.name))]
    assert names["lvbench"] == ["lvbench"]
    assert names["nextqa"] == ["nextqa_mc_test"]
    assert names["seed_image"] == ["seedbench"]
    assert sorted(names["mvbench"]) == sorted(f"mvbench_{task}" for task in ANNOTATIONS["mvbench"])
    assert (names["mmstar"], names["ai2d"], names["mlvu"]) == (["mmstar"], ["ai2d"], ["mlvu_dev"])
    tasks = ("multi_choice", "yes_no", "caption_matching", "captioning")
    assert sorted(names["tempcompass"]) == sorted(f"tempcompass_{task}" for task in tasks)
    assert (names["activitynetqa"], names["chat_temporal"]) == (["activitynetqa"], ["videochatgpt_temporal"])
    assert (names["videomme"], names["videomme_subtitles"]) == (["videomme"], ["videomme_w_subtitle"])


def test_files_for_harnesses_are_read_back_by_score(case, tmp_path):
    name, folder, runs = case
    for kind, run in runs.items():
        rows = [json.loads(line) for line in (run / "predictions" / name / "full.jsonl").read_text().splitlines()]
        blank = {row["id"]: row["response"] or "" for row in rows}  # what failed is an empty text to lmms-eval
        for layout, responses in (("lmms-eval", blank), ("vlmevalkit", {row["id"]: row["response"] for row in rows})):
            files = exported(run, layout, tmp_path / f"{layout} {kind}", name)
            wanted = [f for f in files if "_samples_" in f.name or (f.suffix == ".tsv" and "_score" not in f.name)]
            if layout == "vlmevalkit" and "" in responses.values():
                continue  # an empty cell is no answer in a table
            for rules in ("official", "strict"):
                again = score_of(name, folder, wanted, run, rules)
                assert verdicts(again) == verdicts(score_of(name, folder, responses, run, rules)), (layout, rules)


def test_without_a_judge_there_are_answers_and_no_numbers(tmp_path):
    name = "chat_temporal"
    run = answered(tmp_path / "run", name, lay_out(name, tmp_path / "suite"), ["She jumps."])
    for layout in ("lmms-eval", "vlmevalkit"):
        found = export_run(run, layout, tmp_path / layout)
        assert found.notes == ["chat_temporal has no numbers without a judge: --judge-replies chat_temporal=FILE"]
        assert not any("_score" in f.name or "_rating" in f.name for f in found.files)
        for path in found.files:
            assert "gpt_eval" not in path.read_text()


def test_vlmevalkit_tables_hold_every_question(case, tmp_path):
    name, folder, runs = case
    files = exported(runs["whole"], "vlmevalkit", tmp_path / "out", name)
    questions = get_benchmark(name).load(folder)
    tables = {p.name: list(csv.DictReader(p.open(newline=""), delimiter="\t")) for p in files if p.suffix == ".tsv"}
    said = [row["prediction"] for file, rows in tables.items() if "_score" not in file for row in rows]
    assert sorted(said) == sorted(itertools.islice(itertools.cycle(SAID), len(questions)))
    report = score_of(name, folder, runs["whole"] / "predictions" / name / "full.jsonl", runs["whole"])
    scored = [float(row["score"]) for file, rows in tables.items() if "_score" in file for row in rows]
    assert sorted(scored) == sorted(float(item.correct) for item in report.items)
    for rows in tables.values():
        assert [row["index"] for row in rows] == [str(n) for n in range(len(rows))]
    if name in ("mmstar", "ai2d", "seed_image"):
        (path,) = [f for f in files if f.name.endswith("_acc.csv")]
        (row,) = csv.DictReader(path.open(newline=""))
        assert float(row["Overall"]) == pytest.approx(report.aggregate[get_benchmark(name).main])
        assert "frame" not in path.name
    else:
        assert any(f.name.endswith("_rating.json") for f in files)
    if name == "tempcompass":
        assert {file.split("_8frame")[0] for file in tables} == {
            f"whole_TempCompass_{part}" for part in ("MCQ", "YorN", "Captioning")
        }
