"""A run's answers in other tools' layouts: what stands where, and whether scoring them again gives the same."""

import csv
import json
from datetime import datetime
from pathlib import Path

import pytest

from tstar.cli.main import main
from tstar.errors import ConfigError, DataError
from tstar.evaluation import get_benchmark, score
from tstar.evaluation.prediction_store import PredictionStore, prompt_sha
from tstar.integrations.exports import export_run

MOMENT = datetime(2026, 11, 28, 9, 5, 7)
LETTERS = "ABCD"
SETTINGS = {"max_frames": 8, "fps": 2.0, "decoder": "auto", "max_new_tokens": 4, "batch_size": 3}
SAID = ["A", "(B) x", "C.", "the second one", "D) it", "", None, ...]
"""Answers in turn: readable, unreadable, empty, failed, and never asked."""


def vnbench_rows():
    rows = []
    for name in ("video0001", "v_ab-C_x"):
        for kind in ("ret_insert1", "cnt_edit2", "ord_edit1"):
            options = [f"{kind} {letter}" for letter in "pqrs"]
            for attempt in range(4):
                own = options[attempt:] + options[:attempt]
                letter = LETTERS[own.index(options[1])]
                rows.append(
                    {
                        "video": f"./VNBench/{name}_{kind}.mp4",
                        "question": f"What, {kind}?",
                        "options": own,
                        "gt": options[1],
                        "gt_option": letter,
                        "type": kind,
                        "try": attempt,
                        "length": 30.5,
                        "needle_time": [1.0],
                    }
                )
    return rows


def mlvu_tables():
    def rows(kind, count):
        options = ["1", "4", "2", "7"]
        return [
            {"video": f"{kind}_{k // 2}.mp4", "duration": 200, "question": f"How many {k}?", "candidates": options}
            | {"answer": options[k % 4], "question_type": kind}
            for k in range(count)
        ]

    return {"4_count": rows("count", 9), "5_order": rows("order", 5)}


def videomme_rows():
    options = ["A. Two.", "B. Three.", "C. Four.", "D. Six."]
    kinds = [("001", "short"), ("417", "medium"), ("901", "long")]
    return [
        {"video_id": video, "duration": duration, "domain": "Life Record", "sub_category": "Food", "url": "x"}
        | {"videoID": f"yt{video}", "question_id": f"{video}-{k}", "task_type": "Counting Problem"}
        | {"question": f"How many eggs, {k}?", "options": options, "answer": LETTERS[k]}
        for video, duration in kinds
        for k in range(1, 4)
    ]


def tempcompass_table():
    def question(k):
        return {
            "question": f"How fast, {k}?\nA. slowly\nB. fast\nC. not",
            "answer": ["A. slowly", "B. fast", "C. not"][k % 3],
        }

    return {
        "1021": {"speed": [question(k) for k in range(4)], "order": [question(1)]},
        "1021_reverse": {"speed": [question(k) for k in range(2, 5)]},
        "77": {"direction": [question(0)]},
    }


ANNOTATIONS = {
    "vnbench": ("VNBench-main-4try.json", vnbench_rows),
    "videomme": ("test.json", videomme_rows),
    "tempcompass": ("multi-choice.json", tempcompass_table),
}


@pytest.fixture
def suites(tmp_path):
    """Folders of the suites by name."""
    folders = {name: tmp_path / "suites" / name for name in (*ANNOTATIONS, "mlvu")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    for name, (file, make) in ANNOTATIONS.items():
        (folders[name] / file).write_text(json.dumps(make()))
    (folders["videomme"] / "test.jsonl").write_text("\n".join(map(json.dumps, videomme_rows())))
    for stem, rows in mlvu_tables().items():
        (folders["mlvu"] / f"{stem}.json").write_text(json.dumps(rows))
    return folders


def answered(run: Path, suites, said=SAID, frames="8 at 2 fps", model="abc"):
    """Store answers to all suites as a run does; returns the responses by suite."""
    responses = {}
    for name, folder in suites.items():
        store = PredictionStore(run / "predictions" / name / "full.jsonl")
        for number, item in enumerate(get_benchmark(name).load(folder)):
            text = said[number % len(said)]
            if text is ...:
                continue
            error = {"error": "cannot decode"} if text is None else {"visual_tokens": 30}
            row = {"id": item.id, "prompt_sha": prompt_sha(item), "model": model, "mode": "full", "frames": frames}
            store.append(row | {"response": text} | error)
            responses.setdefault(name, {})[item.id] = text
    record = {
        "model": model,
        "seconds": 12.5,
        "settings": SETTINGS | {"benchmarks": {n: str(f) for n, f in suites.items()}},
    }
    (run / "eval").mkdir(exist_ok=True)
    (run / "eval" / "evaluation.json").write_text(json.dumps(record))
    return responses


@pytest.fixture
def run(tmp_path, suites):
    answered(tmp_path / "runs" / "demo", suites)
    return tmp_path / "runs" / "demo"


def facts(report):
    """What two scorings of the same answers share; a list's row that was never asked can only be written as failed."""
    return report.aggregate, [(i.id, i.extracted, i.how, i.correct, i.counted) for i in report.items]


@pytest.mark.parametrize("rules", ["official", "strict"])
@pytest.mark.parametrize(("name", "file"), [("vnbench", "vnbench.jsonl"), ("videomme", "videomme.json")])
def test_an_official_file_scored_again_gives_the_same_report(run, suites, tmp_path, name, file, rules):
    exported = export_run(run, "official", tmp_path / "out", benchmarks=[name])
    assert exported.files == [tmp_path / "out" / name / file]
    stored = score(name, suites[name], run / "predictions" / name / "full.jsonl", rules)
    again = score(name, suites[name], exported.files[0], rules)
    assert stored.counts["failed"]
    assert stored.counts["missing"]
    assert facts(again) == facts(stored)
    assert again.counts == stored.counts


@pytest.mark.parametrize("rules", ["official", "strict"])
def test_tempcompass_lists_keep_their_places(run, suites, tmp_path, rules):
    exported = export_run(run, "official", tmp_path / "out", benchmarks=["tempcompass"])
    stored = score("tempcompass", suites["tempcompass"], run / "predictions" / "tempcompass" / "full.jsonl", rules)
    again = score("tempcompass", suites["tempcompass"], exported.files[0], rules)
    assert again.aggregate == stored.aggregate
    assert [(i.id, i.extracted, i.correct) for i in again.items] == [
        (i.id, i.extracted, i.correct) for i in stored.items
    ]
    table = json.loads(exported.files[0].read_text())
    truth = tempcompass_table()
    for video, aspects in table.items():
        for aspect, rows in aspects.items():
            assert [{k: row[k] for k in ("question", "answer")} for row in rows] == truth[video][aspect]
    assert "never asked" in exported.notes[0]


def test_official_lines_are_those_that_the_scorers_read(run, tmp_path):
    exported = export_run(run, "official", tmp_path / "out")
    names = {path.parent.name: path for path in exported.files}
    assert sorted(names) == ["tempcompass", "videomme", "vnbench"]
    assert any("mlvu has no official result file" in note for note in exported.notes)
    line = json.loads(names["vnbench"].read_text().splitlines()[1])
    assert set(line) == {"question_id", "pred", "gt", "type", "try", "prompt"}
    assert (line["question_id"], line["pred"], line["try"]) == ("video0001_ret_insert1_1", "(B) x", 1)
    videos = json.loads(names["videomme"].read_text())
    assert [(v["video_id"], v["missing"], len(v["questions"])) for v in videos] == [
        ("001", False, 3),
        ("417", False, 3),
        ("901", False, 3),
    ]
    assert videos[0]["questions"][0]["options"] == ["A. Two.", "B. Three.", "C. Four.", "D. Six."]
    assert [q.get("response", "absent") for v in videos for q in v["questions"]][5:9] == ["", None, "absent", "A"]


def test_a_video_of_which_nothing_was_asked_is_flagged(tmp_path, suites):
    answered(tmp_path / "run", {"videomme": suites["videomme"]}, ["A"] * 6 + [...] * 3)
    exported = export_run(tmp_path / "run", "official", tmp_path / "out")
    videos = json.loads(exported.files[0].read_text())
    assert [v["missing"] for v in videos] == [False, False, True]


def samples_of(files, task):
    (path,) = [file for file in files if file.name.endswith(f"_samples_{task}.jsonl")]
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lmms_eval_layout(run, suites, tmp_path):
    files = export_run(run, "lmms-eval", tmp_path / "out", moment=MOMENT).files
    assert {file.parent for file in files} == {tmp_path / "out" / "runs__demo"}
    assert all(file.name.startswith("20261128_090507_") for file in files)
    whole = json.loads((tmp_path / "out" / "runs__demo" / "20261128_090507_results.json").read_text())
    documented = "results group_subtasks configs versions n-shot higher_is_better n-samples config git_hash date "
    documented += (
        "lmms_eval_version task_hashes model_source model_name start_time end_time total_evaluation_time_seconds"
    )
    assert sorted(whole) == sorted(documented.split())
    tasks = ["mlvu_dev", "tempcompass_multi_choice", "videomme", "vnbench"]
    assert sorted(whole["results"]) == tasks
    for task in tasks:
        lines = samples_of(files, task)
        assert whole["results"][task]["samples"] == len(lines) == whole["n-samples"][task]["effective"]
        assert len({line["doc_id"] for line in lines}) == len(lines)
        assert whole["results"][task]["alias"] == task
        assert set(whole["higher_is_better"][task]) == {
            key.split(",")[0] for key in whole["results"][task] if key.endswith(",none") and "_stderr" not in key
        }
    assert whole["n-samples"]["mlvu_dev"]["original"] == 14
    assert whole["total_evaluation_time_seconds"] == "12.5"
    assert "max_frames=8" in whole["config"]["model_args"]


def test_lmms_eval_values_are_those_of_the_samples(run, tmp_path):
    """The harness's own aggregations over what its samples keep, written here once more; not every question was asked."""
    files = export_run(run, "lmms-eval", tmp_path / "out", moment=MOMENT).files
    values = json.loads(next(f for f in files if f.name.endswith("results.json")).read_text())["results"]

    def mean(numbers):
        return sum(numbers) / len(numbers)

    rated = [line["avg_accuracy"] for line in samples_of(files, "tempcompass_multi_choice")]
    own = values["tempcompass_multi_choice"]
    assert own["avg_accuracy,none"] == pytest.approx(100 * mean([entry["rating"] for entry in rated]))
    for aspect in ("speed", "direction"):
        ratings = [entry["rating"] for entry in rated if entry["dim"] == aspect]
        assert own[f"{aspect}_accuracy,none"] == pytest.approx(100 * mean(ratings))
    told = [line["videomme_perception_score"] for line in samples_of(files, "videomme")]
    assert [entry["score"] for entry in told] == [float(e["pred_answer"] == e["answer"]) for e in told]
    right = 100 * mean([entry["score"] for entry in told])
    assert values["videomme"]["videomme_perception_score,none"] == pytest.approx(right)
    tasks, groups = {}, {}
    for line in samples_of(files, "mlvu_dev"):
        entry = line["mlvu_percetion_score"]
        tasks.setdefault(entry["task_type"], []).append(entry["pred_answer"] == entry["answer"])
    macro = 100 * mean([mean(verdicts) for verdicts in tasks.values()])
    assert values["mlvu_dev"]["mlvu_percetion_score,none"] == pytest.approx(macro)
    lines = samples_of(files, "vnbench")
    for line in lines:
        entry = line["vnbench_circular"]
        groups.setdefault(entry["type"], {}).setdefault(entry["group"], []).append(entry["correct"])
    circular = mean([mean([sum(tries) == 4 for tries in own.values()]) for own in groups.values()])
    assert values["vnbench"]["vnbench_circular,none"] == pytest.approx(circular)
    assert all(isinstance(line["filtered_resps"], list) and line["input"] and line["target"] for line in lines)


def test_a_complete_set_of_answers_has_the_harness_values(tmp_path, suites):
    """With every question answered by one letter, the numbers follow from the annotations alone."""
    answered(tmp_path / "run", suites, ["B"])
    files = export_run(tmp_path / "run", "lmms-eval", tmp_path / "out", moment=MOMENT).files
    values = json.loads(next(f for f in files if f.name.endswith("results.json")).read_text())["results"]
    rows = vnbench_rows()
    assert values["vnbench"]["vnbench_circular,none"] == 0
    independent = sum(row["gt_option"] == "B" for row in rows) / len(rows)
    assert values["vnbench"]["vnbench_independent,none"] == pytest.approx(independent)
    right = sum(row["answer"] == "B" for row in videomme_rows())
    assert values["videomme"]["videomme_perception_score,none"] == pytest.approx(100 * right / 9)
    questions = [(aspect, row) for own in tempcompass_table().values() for aspect, rows in own.items() for row in rows]
    for aspect in ("speed", "order", "direction"):
        own = [row["answer"].startswith("B") for name, row in questions if name == aspect]
        assert values["tempcompass_multi_choice"][f"{aspect}_accuracy,none"] == pytest.approx(100 * sum(own) / len(own))
    tables = [[row["answer"] == "4" for row in table] for table in mlvu_tables().values()]
    macro = 100 * sum(sum(own) / len(own) for own in tables) / 2
    assert values["mlvu_dev"]["mlvu_percetion_score,none"] == pytest.approx(macro)


def table(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def test_vlmevalkit_layout(run, suites, tmp_path):
    files = export_run(run, "vlmevalkit", tmp_path / "out", moment=MOMENT).files
    folder = tmp_path / "out" / "demo" / "T20261128-090507"
    names = ["Video-MME_8frame", "MLVU_MCQ_8frame", "TempCompass_MCQ_8frame", "vnbench_8frame"]
    wanted = [f"demo_{n}{end}" for n in names for end in (".tsv", "_score.tsv", "_rating.json")]
    assert sorted(file.name for file in files) == sorted([*wanted, "status.json"])
    for file in files:
        assert (tmp_path / "out" / "demo" / file.name).resolve() == (folder / file.name).resolve()
    rows = table(folder / "demo_Video-MME_8frame.tsv")
    columns = "index video video_path duration domain candidates sub_category task_type subtitle_path question answer prediction"
    assert list(rows[0]) == columns.split()
    assert [row["index"] for row in rows] == ["0", "1", "2", "3", "4", "5", "6", "8"]
    assert [row["prediction"] for row in rows][5:] == ["", "Failed to obtain answer", "A"]
    assert eval(rows[0]["candidates"]) == ["A. Two.", "B. Three.", "C. Four.", "D. Six."]  # as the kit reads it
    mlvu = table(folder / "demo_MLVU_MCQ_8frame.tsv")
    assert (mlvu[0]["answer"], mlvu[0]["prefix"], mlvu[0]["video"]) == ("1", "./MLVU/video/4_count", "count_0.mp4")
    scored = table(folder / "demo_Video-MME_8frame_score.tsv")
    report = score("videomme", suites["videomme"], run / "predictions" / "videomme" / "full.jsonl")
    right = {item.id: float(item.correct) for item in report.items if item.how != "missing"}
    assert [float(row["score"]) for row in scored] == list(right.values())
    rating = json.loads((folder / "demo_Video-MME_8frame_rating.json").read_text())
    assert rating["overall"]["overall"] == f"{sum(right.values()) / len(right):.2f}"
    assert set(rating) == {"short", "medium", "long", "overall"}


def test_the_failure_text_yields_no_letter_to_the_kits_readers():
    from tstar.evaluation.response_layouts import FAILURE

    assert not set(FAILURE) & set(LETTERS)


def test_vlmevalkit_tables_as_json_and_in_a_second_run(run, tmp_path):
    export_run(run, "vlmevalkit", tmp_path / "out", file_format="json", moment=MOMENT)
    later = datetime(2026, 11, 29)
    files = export_run(
        run, "vlmevalkit", tmp_path / "out", file_format="json", moment=later, benchmarks=["vnbench"]
    ).files
    link = tmp_path / "out" / "demo" / "demo_vnbench_8frame.json"
    assert link.resolve().parent.name == "T20261129-000000"
    assert json.loads(link.read_text())[0]["prediction"] == "A"
    assert len(files) == 4


def test_vlmevalkit_tables_for_excel(run, tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    files = export_run(run, "vlmevalkit", tmp_path / "out", file_format="xlsx", benchmarks=["vnbench"]).files
    sheet = openpyxl.load_workbook(files[0]).active
    assert [cell.value for cell in sheet[1]][-1] == "prediction"
    assert sheet.max_row == 1 + 21


def test_excel_without_its_package_is_refused_before_anything_is_written(run, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    with pytest.raises(ConfigError, match="pip install openpyxl, or choose tsv"):
        export_run(run, "vlmevalkit", tmp_path / "out", file_format="xlsx")
    assert not (tmp_path / "out").exists()


def test_answers_under_several_conditions_are_told_apart(tmp_path, suites):
    own = {"vnbench": suites["vnbench"]}
    run = tmp_path / "run"
    answered(run, own, ["A"], frames="4 at 2 fps")
    answered(run, own, ["B"], frames="8 at 2 fps")
    with pytest.raises(ConfigError, match=r"several.*frames '4 at 2 fps'.*'8 at 2 fps'; choose by --frames"):
        export_run(run, "official", tmp_path / "out")
    files = export_run(run, "official", tmp_path / "out", frames="4 at 2 fps").files
    assert {json.loads(line)["pred"] for line in files[0].read_text().splitlines()} == {"A"}
    with pytest.raises(ConfigError, match="none of frames '5 at 2 fps'"):
        export_run(run, "official", tmp_path / "out", frames="5 at 2 fps")
    ids = [item.id for item in get_benchmark("vnbench").load(suites["vnbench"])]
    report = score("vnbench", suites["vnbench"], dict.fromkeys(ids, "B"))
    (run / "eval" / "vnbench.full.json").write_text(report.to_json())  # what the recipe's own evaluation left
    files = export_run(run, "official", tmp_path / "out").files
    assert {json.loads(line)["pred"] for line in files[0].read_text().splitlines()} == {"B"}


def test_annotations_may_lie_elsewhere_and_answers_to_other_questions_are_named(tmp_path, suites):
    run = tmp_path / "run"
    answered(run, {"mlvu": suites["mlvu"]}, ["A"])
    tables = mlvu_tables()
    tables["4_count"][0]["question"] = "Another?"
    moved = tmp_path / "moved"
    moved.mkdir()
    for stem, rows in tables.items():
        (moved / f"{stem}.json").write_text(json.dumps(rows))
    exported = export_run(run, "lmms-eval", tmp_path / "out", annotations={"mlvu": moved})
    assert exported.notes == ["mlvu: 1 stored answers to other questions are left out"]
    assert len(samples_of(exported.files, "mlvu_dev")) == 13
    for rows in tables.values():
        for row in rows:
            row["question"] = "Something else?"
    for stem, rows in tables.items():
        (moved / f"{stem}.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match=r"its 14 answers are to other questions"):
        export_run(run, "lmms-eval", tmp_path / "out", annotations={"mlvu": moved})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["RUN", "--benchmarks", "vnbnch"], "no answers to 'vnbnch' in mode full; did you mean 'vnbench'"),
        (["RUN", "--annotations", "vnbnch=x"], "no answers to 'vnbnch'"),
        (["RUN", "--annotations", "vnbench=nowhere.json"], "nowhere.json: no such file"),
        (["RUN", "--benchmarks", "mlvu"], "mlvu has no official result file; "),
        (["RUN", "--mode", "blind"], "no answers in mode blind"),
        (["nowhere"], "nowhere: holds no predictions; give the folder of a run"),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(run, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    words = [str(run) if word == "RUN" else word for word in words]
    assert main(["export", *words, "--layout", "official", "--out", "out"]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_command_names_what_it_wrote(run, tmp_path, capsys):
    assert main(["export", str(run), "--layout", "official", "--out", str(tmp_path / "out"), "--json"]) == 0
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert all(Path(file).is_file() for file in found["files"])
    assert "warning: mlvu has no official result file and is left out" in told.err
    with pytest.raises(SystemExit):
        main(["export", str(run), "--layout", "offical", "--out", "x"])
    with pytest.raises(SystemExit):
        main(["export", str(run), "--layout", "official", "--out", "x", "--annotations", "mlvu"])
    assert "must be like mlvu=PATH" in capsys.readouterr().err
