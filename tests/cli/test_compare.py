"""``tstar compare`` on hand-made runs whose numbers can be counted."""

import json

import pytest

from tstar.cli.main import main
from tstar.evaluation import JudgeReplies, compare, get_benchmark, score
from tstar.evaluation.seeds import combined, combined_difference
from tstar.evaluation.statistics import bootstrap_intervals

CLIPS = {
    str(n): {"speed": [{"question": f"Which of {n}?\nA. slowly\nB. very fast\nC. it stands", "answer": "B. very fast"}]}
    for n in range(40)
}


def mlvu(count=24):
    row = {"duration": 300, "candidates": ["1", "4", "2", "7"], "answer": "2", "question_type": "count"}
    return {"4_count": [row | {"video": f"{n}.mp4", "question": f"How many {n}?"} for n in range(count)]}


ANNOTATIONS = {"tempcompass": CLIPS, "mlvu": mlvu()}


def said(suite, right, first=0):
    """Answers of which ``right`` are right, from number ``first`` on."""
    items = get_benchmark(suite).load(ANNOTATIONS[suite])
    return {item.id: item.answer if first <= n < first + right else "A" for n, item in enumerate(items)}


class Maker:
    """Makes run folders as ``tstar fit`` leaves them, as far as their answers are concerned."""

    def __init__(self, root):
        self.root = root
        for suite, content in ANNOTATIONS.items():
            (root / "suites" / suite).mkdir(parents=True)
            if suite == "tempcompass":
                (root / "suites" / suite / "multi-choice.json").write_text(json.dumps(content))
            else:
                (root / "suites" / suite / "4_count.json").write_text(json.dumps(content["4_count"]))

    def run(self, name, answers, tokens=80, frames=40, model="m", rules="official"):
        path = self.root / "runs" / name
        for suite, own in answers.items():
            (path / "predictions" / suite).mkdir(parents=True)
            rows = [self.row(key, text, tokens, frames, model) for key, text in own.items()]
            stored = path / "predictions" / suite / "full.jsonl"
            stored.write_text("".join(json.dumps(row) + "\n" for row in rows))
            (path / "eval").mkdir(exist_ok=True)
            report = score(suite, ANNOTATIONS[suite], own, rules=rules)
            (path / "eval" / f"{suite}.full.json").write_text(report.to_json())
        places = {suite: str(self.root / "suites" / suite) for suite in answers}
        settings = {"max_frames": frames, "fps": 4.0, "benchmarks": places}
        (path / "eval" / "evaluation.json").write_text(json.dumps({"model": model, "settings": settings}))
        return path

    @staticmethod
    def row(key, text, tokens, frames, model):
        looked = {"frames": f"{frames} at 4 fps", "visual_tokens": tokens, "frame_count": frames}
        return {"id": key, "prompt_sha": "0", "model": model, "mode": "full", "response": text, "error": None} | looked


@pytest.fixture
def maker(tmp_path):
    return Maker(tmp_path)


def run(capsys, *arguments, status=0):
    assert main(["compare", *map(str, arguments)]) == status
    return capsys.readouterr()


def both(maker):
    first = maker.run("a", {"tempcompass": said("tempcompass", 20), "mlvu": said("mlvu", 12)})
    second = maker.run("b", {"tempcompass": said("tempcompass", 26, 2), "mlvu": said("mlvu", 9)}, tokens=40)
    return first, second


def test_two_runs_in_numbers(maker, capsys):
    first, second = both(maker)
    found = json.loads(run(capsys, first, second, "--json").out)
    assert (found["first"], found["second"], found["left_out"]) == ([str(first)], [str(second)], [])
    clips, count = found["suites"]
    assert (clips["suite"], clips["n"], clips["clusters"], clips["rules"]) == ("tempcompass", 40, 40, "official")
    reports = [score("tempcompass", CLIPS, said("tempcompass", *right)) for right in ((20,), (26, 2))]
    shown = clips["values"]["multi-choice/avg"]
    assert (shown["first"], shown["second"]) == (0.5, 0.65)
    assert shown["difference"] == pytest.approx(0.15)
    assert shown["first_interval"] == list(reports[0].intervals["multi-choice/avg"])
    expected = compare(*reports)
    assert shown["interval"] == list(expected.differences["multi-choice/avg"].interval)
    assert (clips["only_first"], clips["only_second"]) == (2, 8)
    assert clips["p_value"] == pytest.approx(expected.p_value) == pytest.approx(2 * (1 + 10 + 45) / 2**10)
    assert clips["fingerprint"] == reports[0].fingerprint
    # with independent questions: n (z_a + z_b)^2 (psi - delta^2) / n / delta^2
    assert clips["needed"] == pytest.approx(7.849 * (10 / 40 - 0.15**2) / 0.15**2, rel=0.08)
    assert clips["budgets"] == [{"visual_tokens": 80.0, "frames": 40.0}, {"visual_tokens": 40.0, "frames": 40.0}]
    assert count["values"]["m_avg"]["difference"] == pytest.approx(-3 / 24)
    assert found["mean"]["difference"] == pytest.approx((0.15 - 3 / 24) / 2)
    low, high = found["mean"]["interval"]
    assert low < found["mean"]["difference"] < high


def test_the_page_says_all_of_it(maker, capsys):
    first, second = both(maker)
    out = run(capsys, first, second).out
    assert out.startswith(f"A: {first}\nB: {second}\n")
    lines = out.splitlines()
    (clips,) = [line for line in lines if line.startswith("| tempcompass |")]
    assert clips.startswith("| tempcompass | 40 | 50.0 [")
    assert "| +15.0 [" in clips
    assert "| 2 / 8 | 0.11 | 80 (40 frames) | 40 (40 frames) |" in clips
    assert any(line.startswith("| mean over suites |  | 50.0 [") for line in lines)
    assert "- tempcompass: B has 0.50 times the visual tokens of A" in lines
    assert "- mlvu: B has 0.50 times the visual tokens of A" in lines
    assert any("McNemar's exact test" in line for line in lines)
    same = run(capsys, first, first).out
    assert "- mlvu: equal budget" in same
    assert "| +0.0 [" in same
    assert "0 / 0 | 1 |" in same


def test_seeds_of_one_model_are_one_side(maker, capsys):
    runs = [maker.run(f"a{n}", {"mlvu": said("mlvu", right)}) for n, right in enumerate((10, 12, 15))]
    other = [maker.run(f"b{n}", {"mlvu": said("mlvu", right, 3)}, tokens=90) for n, right in enumerate((14, 15))]
    sides = ",".join(map(str, runs)), ",".join(map(str, other))
    (found,) = json.loads(run(capsys, *sides, "--json").out)["suites"]
    benchmark = get_benchmark("mlvu")
    cells = [
        [benchmark.cells(score("mlvu", ANNOTATIONS["mlvu"], said("mlvu", *right)).items)["m_avg"] for right in rights]
        for rights in (((10,), (12,), (15,)), ((14, 3), (15, 3)))
    ]
    one, change = combined({"mlvu": cells[0]}), combined_difference({"mlvu": cells[0]}, {"mlvu": cells[1]})
    shown = found["values"]["m_avg"]
    assert shown["first"] == pytest.approx(37 / 72)
    assert (shown["first_interval"], shown["interval"]) == (list(one.interval), list(change.interval))
    assert (found["p_value"], found["only_first"]) == (change.p_value, None)
    assert [budget["visual_tokens"] for budget in found["budgets"]] == [80.0, 90.0]
    out = run(capsys, *sides).out
    assert "A is the mean of 3 runs, B of 2; [a, b]: 95% interval over questions, in whole clusters, and seeds" in out
    out = run(capsys, sides[0], other[0]).out
    assert "of the model with one run the seed's part is unknown and not in the intervals" in out


def test_reports_of_score_and_stored_predictions(maker, tmp_path, capsys):
    first, second = both(maker)
    responses = tmp_path / "said.json"
    responses.write_text(json.dumps(said("mlvu", 9)))
    place = maker.root / "suites" / "mlvu"
    assert (
        main(
            [
                "score",
                "mlvu",
                "--annotations",
                str(place),
                "--responses",
                str(responses),
                "--out",
                str(tmp_path / "r.json"),
            ]
        )
        == 0
    )
    capsys.readouterr()
    stored = first / "predictions" / "mlvu" / "full.jsonl"
    (expected,) = json.loads(run(capsys, first, second, "--benchmarks", "mlvu", "--json").out)["suites"]
    (found,) = json.loads(run(capsys, stored, tmp_path / "r.json", "--json").out)["suites"]
    assert found["budgets"] == [expected["budgets"][0], None]
    assert {k: v for k, v in found.items() if k != "budgets"} == {k: v for k, v in expected.items() if k != "budgets"}
    assert "visual tokens are not known of both" in run(capsys, stored, tmp_path / "r.json").out
    (found,) = json.loads(run(capsys, stored, responses, "--annotations", f"mlvu={place}", "--json").out)["suites"]
    assert found["values"] == expected["values"]
    (strict,) = json.loads(run(capsys, stored, tmp_path / "r.json", "--rules", "strict", "--json").out)["suites"]
    assert strict["rules"] == "strict"


def test_answers_are_scored_again_by_other_rules(maker, capsys):
    """Letters in brackets: the official rule of TempCompass reads none of them."""
    bracketed = {key: f"({text}) so" for key, text in said("tempcompass", 30).items()}
    first = maker.run("a", {"tempcompass": bracketed})
    second = maker.run("b", {"tempcompass": said("tempcompass", 30)}, rules="strict")
    told = run(capsys, first, second, status=2).err
    assert "only reports on the same items by the same rules can be compared" in told
    assert "different: rules" in told
    (found,) = json.loads(run(capsys, first, second, "--rules", "strict", "--json").out)["suites"]
    assert found["values"]["multi-choice/avg"]["difference"] == 0.0
    (found,) = json.loads(run(capsys, first, second, "--rules", "official", "--json").out)["suites"]
    assert found["values"]["multi-choice/avg"]["difference"] == 0.75
    place = maker.root / "suites" / "tempcompass"
    place.rename(maker.root / "moved")
    told = run(capsys, first, second, "--rules", "strict", status=2).err
    assert f"strict ones need its annotations, which are not in {place}: give --annotations tempcompass=PATH" in told
    moved = f"tempcompass={maker.root / 'moved'}"
    run(capsys, first, second, "--rules", "strict", "--annotations", moved)
    (maker.root / "moved" / "multi-choice.json").write_text(json.dumps(dict(list(CLIPS.items())[:39])))
    told = run(capsys, first, second, "--rules", "strict", "--annotations", moved, status=2).err
    assert "its tempcompass report is about other questions than" in told


def test_other_questions_are_refused(maker, capsys, monkeypatch):
    first = maker.run("a", {"mlvu": said("mlvu", 9)})
    monkeypatch.setitem(ANNOTATIONS, "mlvu", {"4_count": [row | {"answer": "7"} for row in mlvu()["4_count"]]})
    second = maker.run("b", {"mlvu": said("mlvu", 9)})
    told = run(capsys, first, second, status=2).err
    assert "only reports on the same items by the same rules can be compared" in told
    assert "different: fingerprint" in told
    monkeypatch.setitem(ANNOTATIONS, "mlvu", mlvu(23))
    third = maker.run("c", {"mlvu": said("mlvu", 9)})
    assert "1 items in one of them only" in run(capsys, first, third, status=2).err


def test_suites_that_only_one_has_are_left_out_and_said(maker, capsys):
    first = maker.run("a", {"tempcompass": said("tempcompass", 20), "mlvu": said("mlvu", 12)})
    second = maker.run("b", {"mlvu": said("mlvu", 12)})
    out = run(capsys, first, second).out
    assert "- left out, as not all have it: tempcompass" in out
    assert "mean over suites" not in out
    third = maker.run("c", {"tempcompass": said("tempcompass", 20)})
    told = run(capsys, second, third, status=2).err
    assert f"there is no suite that all of them answered ({second}: mlvu; {third}: tempcompass)" in told


def test_answers_that_wait_for_a_judge_are_not_compared(maker, capsys):
    rows = [
        {"question_id": f"v_{n}", "video_name": f"x{n}", "question": "what?", "answer": "red", "type": 4}
        for n in (0, 1)
    ]
    runs = [maker.run(name, {"mlvu": said("mlvu", 12)}) for name in "ab"]
    unjudged = score("activitynetqa", rows, {"v_0": "red", "v_1": "red"}).to_json()
    for path in runs:
        (path / "eval" / "activitynetqa.full.json").write_text(unjudged)
    out = run(capsys, *runs).out
    assert "| activitynetqa" not in out
    assert "- activitynetqa: 2 answers wait for a judge: tstar score activitynetqa " in out
    told = run(capsys, *runs, "--benchmarks", "activitynetqa", status=2).err
    assert "activitynetqa: 2 answers wait for a judge: tstar score activitynetqa " in told
    replies = JudgeReplies({f"v_{n}": ["{'pred': 'yes', 'score': 5}"] for n in (0, 1)})
    (maker.root / "r.json").write_text(
        score("activitynetqa", rows, {"v_0": "red", "v_1": "red"}, judge_replies=replies).to_json()
    )
    (found,) = json.loads(run(capsys, maker.root / "r.json", maker.root / "r.json", "--json").out)["suites"]
    assert found["values"]["accuracy"]["first"] == 1.0


def test_frames_of_an_evaluation_apart(maker, capsys):
    """A folder below eval/ is compared with its own run; the same answers on other frames do not hide what was looked at."""
    path = maker.run("a", {"mlvu": said("mlvu", 9)})
    apart = path / "eval" / "max_frames=80-baselines=False"
    apart.mkdir()
    (apart / "mlvu.full.json").write_text((path / "eval" / "mlvu.full.json").read_text())
    (apart / "evaluation.json").write_text(json.dumps({"model": "m", "settings": {"max_frames": 80, "fps": 4.0}}))
    stored = path / "predictions" / "mlvu" / "full.jsonl"
    more = [maker.row(key, text, 160, 80, "m") for key, text in said("mlvu", 9).items()]
    stored.write_text(stored.read_text() + "".join(json.dumps(row) + "\n" for row in more))
    (found,) = json.loads(run(capsys, path, apart, "--json").out)["suites"]
    assert [(budget["visual_tokens"], budget["frames"]) for budget in found["budgets"]] == [(80.0, 40.0), (160.0, 80.0)]
    (apart / "evaluation.json").unlink()
    (found,) = json.loads(run(capsys, path, apart, "--json").out)["suites"]
    assert found["budgets"][1] is None  # which of the two it was is not known


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "A"], "nowhere: no such file or folder; give a run's folder"),
        ([",", "A"], "a model's runs are given as PATH or PATH,PATH"),
        (["EMPTY", "A"], "holds no reports (eval/SUITE.full.json)"),
        (["A", "A", "--benchmarks", "mlvo"], "has no answers to 'mlvo'; did you mean 'mlvu'"),
        (["said.json", "A"], "said.json: of which benchmark are these responses? say it by --annotations NAME=PATH"),
        (["said.json", "A", "--benchmarks", "mlvu"], "give --annotations mlvu=PATH to score them"),
        (["broken.json", "A"], "broken.json: not a report written by Report.to_json"),
        (["strict.json", "A", "--rules", "lmms-eval"], "holds no report by the rules lmms-eval (it has strict)"),
        (
            ["A", "A", "--rules", "lmms-eval", "--annotations", "mlvu=gone"],
            "need its annotations, which are not in gone",
        ),
    ],
)
def test_a_mistake_is_one_line_and_status_2(maker, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(maker.root)
    path = maker.run("a", {"mlvu": said("mlvu", 9)})
    (maker.root / "EMPTY").mkdir()
    (maker.root / "said.json").write_text(json.dumps(said("mlvu", 9)))
    (maker.root / "broken.json").write_text(json.dumps({"intervals": {}, "items": [{"id": "x"}]}))
    strict = json.loads(score("mlvu", ANNOTATIONS["mlvu"], {}, rules="strict").to_json())
    (maker.root / "strict.json").write_text(json.dumps({"reports": {"strict": strict}}))
    told = run(capsys, *(str(path) if part == "A" else part for part in arguments), status=2).err
    assert message in told
    assert told.count("\n") == 1


def videomme(count):
    return [
        {"video_id": f"{n}", "videoID": f"v{n}", "question_id": f"{n}-1", "duration": "short", "domain": "d"}
        | {"sub_category": "s", "task_type": "t", "question": f"What {n}?", "options": ["A. x", "B. y"], "answer": "A"}
        for n in range(count)
    ]


def test_the_test_is_over_questions_that_count_for_both(maker, capsys):
    """Of 50 questions the first answers half, all rightly; of those the second has a fifth wrong, and it answers the others too."""
    rows = videomme(50)
    said = {"a": lambda n: "A" if n < 25 else "?", "b": lambda n: "A" if n % 5 else "B"}
    for name, text in said.items():
        report = score("videomme", rows, {f"{n}-1": text(n) for n in range(50)})
        (maker.root / f"{name}.json").write_text(report.to_json())
    paths = maker.root / "a.json", maker.root / "b.json"
    (found,) = json.loads(run(capsys, *paths, "--json").out)["suites"]
    assert found["values"]["accuracy"]["difference"] == pytest.approx(-0.2)
    assert (found["only_first"], found["only_second"], found["unpaired"]) == (5, 0, 25)
    assert found["p_value"] == pytest.approx(2 / 2**5)
    assert "- videomme: 25 of 50 questions are not counted for both" in run(capsys, *paths).out
    (found,) = json.loads(run(capsys, paths[0], paths[0], "--json").out)["suites"]
    assert (found["only_first"], found["only_second"], found["unpaired"], found["p_value"]) == (0, 0, 25, 1.0)


def test_a_rule_that_counts_no_answer_has_no_intervals(maker, capsys):
    """Video-MME's official accuracy is of the answered; a model that never answers has none."""
    rows = videomme(9)
    paths = []
    for name, text in (("silent", "?"), ("loud", "A")):
        paths.append(maker.root / f"{name}.json")
        paths[-1].write_text(score("videomme", rows, {f"{n}-1": text for n in range(9)}).to_json())
    (found,) = json.loads(run(capsys, *paths, "--json").out)["suites"]
    shown = found["values"]["accuracy"]
    assert (shown["first"], shown["first_interval"], shown["difference"]) == (0.0, None, None)
    assert shown["second_interval"] == list(
        bootstrap_intervals(
            {
                "x": get_benchmark("videomme").cells(score("videomme", rows, {f"{n}-1": "A" for n in range(9)}).items)[
                    "accuracy"
                ]
            }
        )["x"]
    )
    assert "| – | 0 / 0 |" in run(capsys, *paths).out
    three = f"{paths[0]},{paths[1]}"
    (found,) = json.loads(run(capsys, three, paths[1], "--json").out)["suites"]
    assert found["p_value"] is None
