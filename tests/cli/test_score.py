"""``tstar score`` as a user meets it: every rule side by side, files of all kinds in, one line for a mistake."""

import json
import sys

import pytest

from tstar.cli.main import main
from tstar.evaluation import Report, list_benchmarks, score

CLIPS = {
    str(n): {"speed": [{"question": "Which?\nA. slowly\nB. very fast\nC. it stands", "answer": "B. very fast"}]}
    for n in range(30)
}
SAID = {f"multi-choice:{n}:speed:0": ["B", "(B) very fast", "A. slowly", None][n % 4] for n in range(28)}
OUTPUT = """\
tempcompass: part of a split: 30 questions in 30 clusters, fingerprint {fingerprint}

|  | official rules | strict rules | lmms-eval rules | chance |
| --- | ---: | ---: | ---: | ---: |
| multi-choice/avg | 23.3 [{official}] | 46.7 [{strict}] | 23.3 [{official}] | 33.3 |
"""


@pytest.fixture
def files(tmp_path):
    (tmp_path / "multi-choice.json").write_text(json.dumps(CLIPS))
    lines = "".join(json.dumps({"id": key, "response": text}) + "\n" for key, text in SAID.items())
    (tmp_path / "answers.jsonl").write_text(lines)
    return ["tempcompass", "--annotations", str(tmp_path), "--responses", str(tmp_path / "answers.jsonl")]


def run(capsys, *arguments, status=0):
    assert main(["score", *map(str, arguments)]) == status
    return capsys.readouterr()


def spread(report):
    low, high = report.intervals["multi-choice/avg"]
    return f"{100 * low:.1f}, {100 * high:.1f}"


def test_all_rules_are_printed_side_by_side_with_intervals_and_differences(files, capsys):
    out = run(capsys, *files).out
    official, strict = (score("tempcompass", CLIPS, SAID, rules=rules) for rules in ("official", "strict"))
    expected = OUTPUT.format(fingerprint=official.fingerprint, official=spread(official), strict=spread(strict))
    assert out.startswith(expected)
    assert "| multi-choice/match_rate | 46.7 [" in out
    assert "| unparsed | 7 | 0 | 7 |\n| failed | 7 | 7 | 7 |\n| missing | 2 | 2 | 2 |\n" in out
    assert "failed: multi-choice:3:speed:0, multi-choice:7:speed:0, multi-choice:11:speed:0, " in out
    assert "missing: multi-choice:28:speed:0, multi-choice:29:speed:0\n" in out
    assert "the rules differ on 7 of 30 questions\n" in out
    assert "| multi-choice:1:speed:0 | (B) very fast | B | –, wrong | B, right | –, wrong |" in out
    assert "| B | 30 | 100.0 | 23.3 | 23.3 |" in out  # of thirty: seven said B, seven A, the rest none that is read
    assert "| none | 0 | 0.0 | 53.3 | – |" in out


def test_only_twenty_questions_are_named_and_json_has_all(tmp_path, files, capsys):
    said = dict.fromkeys(SAID, "(B) it says in a very long sentence with a | and more than forty characters")
    files[4] = str(tmp_path / "answers.json")
    (tmp_path / "answers.json").write_text(json.dumps(said))
    out = run(capsys, *files, "--out", tmp_path / "all.json").out
    assert out.count("| multi-choice:") == 20
    assert "| (B) it says in a ve … n forty characters | B | –, wrong | B, right |" in out
    assert "and 8 more; --out FILE and --json have all of them" in out
    assert out.endswith(f"written to {tmp_path / 'all.json'}\n")
    written = json.loads((tmp_path / "all.json").read_text())
    assert json.loads(run(capsys, *files, "--json").out) == written
    assert written.keys() == {"benchmark", "split", "fingerprint", "reports", "differ"}
    assert len(written["differ"]) == 28
    assert written["differ"][0]["readings"]["strict"] == {
        "extracted": "B",
        "how": "3b",
        "outcome": "right",
        "rating": None,
    }
    assert Report.from_data(written["reports"]["strict"]) == score("tempcompass", CLIPS, said, rules="strict")


def test_half_characters_of_an_answer_are_written_as_json_has_them(tmp_path, files, capsys):
    half = "(B) very fast \ud83d"
    (tmp_path / "answers.jsonl").write_text(json.dumps({"id": "multi-choice:0:speed:0", "response": half}) + "\n")
    assert Report.from_json(run(capsys, *files, "--rules", "strict", "--json").out).items[0].response == half
    assert "| (B) very fast \\ud83d |" in run(capsys, *files).out


def test_one_rule_is_one_report_and_printed_beside_the_others(files, capsys):
    report = Report.from_json(run(capsys, *files, "--rules", "strict", "--json").out)
    assert report == score("tempcompass", CLIPS, SAID, rules="strict")
    out = run(capsys, *files, "--rules", "strict").out
    assert "| multi-choice/avg | 46.7 [" in out
    assert "|  | strict rules | official rules | chance |" in out
    assert "the rules differ on 7 of 30 questions\n" in out
    assert "| multi-choice:1:speed:0 | (B) very fast | B | B, right | –, wrong |" in out
    assert "answers by letter, strict rules" in out
    differing = report.other_rules["official"]["differing"]
    assert len(differing) == report.other_rules["official"]["differ"] == 7
    assert "multi-choice:1:speed:0" in differing
    out = run(capsys, *files, "--rules", "lmms-eval").out
    assert "|  | lmms-eval rules | official rules | strict rules | chance |" in out


def test_a_terminal_gets_a_drawn_table(files, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    out = run(capsys, *files).out
    assert "official rules" in out
    assert "| ---" not in out
    assert "23.3 [" in out


def test_predictions_on_several_frame_counts_are_not_mixed(tmp_path, files, capsys):
    rows = [
        {
            "id": key,
            "response": "B" if frames == 8 else "A",
            "model": "m",
            "mode": "full",
            "frames": f"{frames} at 2 fps",
        }
        for frames in (8, 16)
        for key in SAID
    ]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = run(capsys, *files, status=2).err
    assert (
        "holds predictions of 2 settings of frames (16 at 2 fps, 8 at 2 fps); keep the lines of one, or choose by --frames"
        in told
    )
    assert "| multi-choice/avg | 93.3 [" in run(capsys, *files, "--frames", "8 at 2 fps").out
    told = run(capsys, *files, "--frames", "9", status=2).err
    assert "--frames: no prediction has '9' (there are: 8 at 2 fps, 16 at 2 fps)" in told


def test_several_files_and_a_table(tmp_path, files, capsys):
    keys = list(SAID)
    (tmp_path / "one.csv").write_text("id,response\n" + "".join(f"{key},B\n" for key in keys[:10]))
    (tmp_path / "two.tsv").write_text("id\tresponse\n" + "".join(f"{key}\tB\n" for key in keys[10:]))
    out = run(capsys, *files[:4], tmp_path / "one.csv", tmp_path / "two.tsv").out
    assert "| answered | 28 | 28 | 28 |" in out


@pytest.fixture
def judged(tmp_path):
    rows = [{"Q": f"What is {n}?", "A": "This.", "video_name": f"v_{n}"} for n in range(3)]
    (tmp_path / "temporal_qa.json").write_text(json.dumps(rows))
    (tmp_path / "said.json").write_text(json.dumps({f"v_{n}_0": "that" for n in range(3)}))
    replies = [
        {"id": f"v_{n}_0", "reply": f"{{'score': {n + 2}}}", "model": "judge-1", "date": "2026-11-28"} for n in range(2)
    ]
    (tmp_path / "replies.jsonl").write_text("".join(json.dumps(row) + "\n" for row in replies))
    return ["chat_temporal", "--annotations", str(tmp_path), "--responses", str(tmp_path / "said.json")]


def test_marks_of_a_judge_are_printed_as_marks(tmp_path, judged, capsys):
    out = run(capsys, *judged, "--judge-replies", tmp_path / "replies.jsonl").out
    assert ", judged by judge-1 (2026-11-28)" in out
    assert "| score | 2.50 [" in out
    assert "unjudged: v_2_0\n" in out
    assert "letter" not in out


def test_a_judge_is_asked_for_where_there_has_to_be_one(tmp_path, judged, capsys):
    assert "chat_temporal is judged: give --judge-replies FILE" in run(capsys, *judged, status=2).err
    for other in ("url", "model", "template", "cache"):  # nothing would be made of it
        both = ["--judge-replies", tmp_path / "replies.jsonl", f"--judge-{other}", "http://localhost:1"]
        assert (
            f"--judge-replies is what a judge said, and --judge-{other} is for asking"
            in run(capsys, *judged, *both, status=2).err
        )
    assert "go with a judge to ask" in run(capsys, *judged, "--judge-template", "x.yaml", status=2).err
    assert "no judge model is named" in run(capsys, *judged, "--judge-url", "http://localhost:1", status=2).err


def test_a_judge_is_asked_and_its_replies_are_kept(tmp_path, judged, capsys, monkeypatch):
    from tstar.evaluation import judge_client

    asked = []

    def judge_with(benchmark, items, responses, settings, cache, progress):
        from tstar.evaluation import JudgeReplies

        asked.append((settings.url, settings.model, settings.template, str(cache), dict(responses)))
        progress(3, 3)
        said = {item.id: ["{'score': 4}"] for item in items[:2]}
        return JudgeReplies(said, "judge-2", "2026-11-28", {items[2].id: "status 500"})

    monkeypatch.setattr(judge_client, "judge_with", judge_with)
    options = ["--judge-url", "http://localhost:1/v1", "--judge-model", "m"]
    out = run(capsys, *judged, *options).out
    assert "| score | 4.00 [" in out
    assert "unjudged: v_2_0\nno answer of the judge (status 500): v_2_0\n" in out
    kept = f"{tmp_path / 'said.json'}.judge.jsonl"
    assert asked == [("http://localhost:1/v1", "m", None, kept, {f"v_{n}_0": "that" for n in range(3)})]
    run(capsys, *judged, *options, "--judge-template", "t.yaml", "--judge-cache", tmp_path / "c.jsonl", "--json")
    assert asked[1][2:4] == ("t.yaml", str(tmp_path / "c.jsonl"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: "tempcompas"}, "unknown benchmark 'tempcompas'; did you mean 'tempcompass'"),
        ({2: "nowhere"}, "nowhere"),
        ({4: "gone.jsonl"}, "gone.jsonl: no such file"),
        ({5: "--out", 6: "no/such/folder/x.json"}, "--out: there is no folder"),
        ({0: "mvbench", 5: "--rules", 6: "lax"}, "invalid choice: 'lax'"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(files, capsys, change, message):
    arguments = {**dict(enumerate(files)), **change}
    try:
        status = main(["score", *(arguments[place] for place in sorted(arguments))])
    except SystemExit as error:  # argparse's own
        status = error.code
    told = capsys.readouterr().err
    assert status == 2
    assert message in told
    assert told.count("\n") == 1


def test_rules_that_a_benchmark_lacks_are_refused(files, capsys):
    without = [name for name in list_benchmarks() if name.endswith("vnbench")]
    told = run(capsys, without[0], *files[1:], "--rules", "lmms-eval", status=2).err
    assert "has no rules 'lmms-eval'; it has official, strict" in told
