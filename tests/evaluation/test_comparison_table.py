"""The comparison table: rows, columns, mean, and that a miniature says so."""

import io
from dataclasses import replace

import pytest

from tstar.errors import ConfigError
from tstar.evaluation import score
from tstar.evaluation.table import by_reason, comparison_table, not_answered, not_answered_lines
from tstar.reports.run_report import write_report


def clips():
    return {str(n): {"speed": [{"question": "Which?\nA. x\nB. y\nC. z", "answer": "A. x"}]} for n in range(8)}


def tempcompass(name, right, **kwargs):
    answers = {f"multi-choice:{n}:speed:0": "A" if n < right else "B" for n in range(8)}
    return score(name, clips(), answers, **kwargs)


def vnbench(name, right):
    """Two groups of four; the first ``right`` tries answered rightly."""
    rows, answers = [], {}
    for n in range(8):
        fields = {"video": f"./VNBench/{n // 4}_cnt_edit1.mp4", "type": "cnt_edit1", "try": n % 4, "question": "?"}
        rows.append(fields | {"options": ["1", "2", "3", "4"], "gt": "1", "gt_option": "A"})
        answers[f"{n // 4}_cnt_edit1_{n % 4}"] = "A" if n < right else "B"
    return score(name, rows, answers)


def miniature():
    return {
        "mini-vnbench": {"full": vnbench("mini-vnbench", 6), "blind": vnbench("mini-vnbench", 2)},
        "mini-tempcompass": {
            "single_frame": tempcompass("mini-tempcompass", 3),
            "full": tempcompass("mini-tempcompass", 4),
            "blind": tempcompass("mini-tempcompass", 1),
        },
    }


def test_rows_columns_and_mean():
    table = comparison_table(miniature())
    assert table.columns == ("mini-vnbench independent", "mini-vnbench circular", "mini-tempcompass", "mean")
    assert [label for label, _ in table.rows] == ["chance", "blind (question only)", "single frame", "model"]
    values = {label: [entry.value for entry in entries] for label, entries in table.rows}
    assert values["chance"] == pytest.approx([25, 100 / 256, 100 / 3, (25 + 100 / 3) / 2])
    assert values["blind (question only)"] == pytest.approx([25, 0, 12.5, 18.75])
    assert values["single frame"] == [None, None, 37.5, None]
    assert values["model"] == pytest.approx([75, 50, 50, 62.5])  # the mean takes the independent score
    intervals = {label: [entry.interval for entry in entries] for label, entries in table.rows}
    low, high = intervals["model"][2]
    assert 0 < low < 50 < high < 100
    assert intervals["model"][3] is None
    assert set(intervals["blind (question only)"]) == {None}


def test_markdown_says_what_it_is():
    text = comparison_table(miniature()).to_markdown()
    lines = text.splitlines()
    assert "miniature" in lines[0]
    assert lines[2] == "|  | mini-vnbench independent | mini-vnbench circular | mini-tempcompass | mean |"
    assert "| chance | 25.0 | 0.4 | 33.3 | 29.2 |" in lines
    assert "| single frame | – | – | 37.5 | – |" in lines
    assert any(line.startswith("| model | 75.0 [") and line.endswith("| 62.5 |") for line in lines)
    assert (
        "mini-vnbench: official rule, n = 8 questions in 2 clusters (answered 8, unparsed 0, failed 0, missing 0)"
        in text
    )
    assert "95% interval" in text
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_rich_rendering_keeps_brackets_and_title():
    from rich.console import Console

    stream = io.StringIO()
    Console(file=stream, width=160).print(comparison_table(miniature()).to_rich())
    assert "miniature" in stream.getvalue()
    assert "50.0 [" in stream.getvalue()
    assert "n = 8 questions" in stream.getvalue()


def test_only_miniatures_are_called_so_and_absent_rows_are_left_out():
    table = comparison_table({"tempcompass": {"full": tempcompass("tempcompass", 4)}})
    assert "miniature" not in table.to_markdown()
    assert [label for label, _ in table.rows] == ["chance", "model"]
    both = {"tempcompass": {"full": tempcompass("tempcompass", 4)}} | miniature()
    assert "miniature suites (mini-)" in comparison_table(both).title


def test_other_rules_numbers_and_denominators_are_told():
    full = tempcompass("tempcompass", 4)
    table = comparison_table({"tempcompass": {"full": full, "blind": tempcompass("tempcompass", 1, rules="strict")}})
    assert "tempcompass: official rule, n = 8" in table.notes[0]
    assert "blind (question only): strict rule, n = 8" in table.notes[0]


def test_unknown_suites_modes_and_swapped_reports_are_refused():
    report = tempcompass("tempcompass", 4)
    with pytest.raises(ConfigError, match="unknown benchmark 'tempcompas'; did you mean 'tempcompass'"):
        comparison_table({"tempcompas": {"full": report}})
    with pytest.raises(ConfigError, match="unknown mode 'single-frame' of tempcompass; did you mean 'single_frame'"):
        comparison_table({"tempcompass": {"single-frame": report}})
    with pytest.raises(ConfigError, match="the full report under mini-tempcompass is one of tempcompass"):
        comparison_table({"mini-tempcompass": {"full": report}})
    with pytest.raises(ConfigError, match="at least one suite"):
        comparison_table({})


def unanswered():
    """Of eight questions two failed, of one video, two were never asked, and two of the others are right."""
    ids = [f"multi-choice:{n}:speed:0" for n in range(8)]
    answers = dict.fromkeys(ids[:4], "B") | {ids[0]: "A", ids[1]: "A"} | dict.fromkeys(ids[4:6])
    reasons = dict.fromkeys(ids[4:6], "cannot decode v.mp4") | {i: f"{i[13]}.mp4 is not in suite" for i in ids[6:]}
    full = replace(score("tempcompass", clips(), answers), reasons=reasons)
    blind = replace(tempcompass("tempcompass", 3), reasons={ids[6]: "6.mp4 is not in suite", ids[0]: "crashed"})
    return {"tempcompass": {"full": full, "blind": blind}}


def test_what_has_no_answer_is_counted_named_and_weighed():
    notes = comparison_table(unanswered()).notes
    (line,) = [note for note in notes if "questions 2 failed" in note]
    assert "of 8 questions 2 failed, for their media cannot be read and 2 were never asked" in line
    assert "cannot decode v.mp4 (multi-choice:4:speed:0, multi-choice:5:speed:0)" in line
    assert line.endswith("; and 1 more reasons")
    assert not any("failed, for" in note for note in comparison_table(miniature()).notes)


def test_what_was_asked_has_a_row_of_its_own_where_questions_were_not():
    reports = miniature()
    before = dict(comparison_table(reports).rows)
    assert "model, of what was asked" not in before
    suite = next(iter(reports))
    table = comparison_table(unanswered() | {suite: reports[suite]})
    rows = dict(table.rows)
    first, second = rows["model"], rows["model, of what was asked"]
    place = next(n for n, column in enumerate(table.columns) if column.startswith(suite))
    assert (first[0].value, second[0].value) == (25.0, pytest.approx(100 / 3))  # two of eight, two of six
    assert first[place].value == second[place].value == before["model"][0].value  # all of it was asked
    assert list(rows)[-1] == "model, of what was asked"
    assert second[-1].value > first[-1].value


def test_every_question_without_an_answer_is_listed_with_its_reason():
    found = not_answered(unanswered())
    assert found == {
        "tempcompass": {
            "multi-choice:4:speed:0": "cannot decode v.mp4",
            "multi-choice:5:speed:0": "cannot decode v.mp4",
            "multi-choice:6:speed:0": "6.mp4 is not in suite",
            "multi-choice:7:speed:0": "7.mp4 is not in suite",
            "multi-choice:0:speed:0": "crashed (blind (question only) only)",
        }
    }
    assert by_reason(found["tempcompass"])["cannot decode v.mp4"] == [
        "multi-choice:4:speed:0",
        "multi-choice:5:speed:0",
    ]
    assert not_answered(miniature()) == {}
    assert not_answered_lines(miniature()) == []


def test_the_page_lists_what_has_no_answer(tmp_path):
    path, _ = write_report(tmp_path, "", unanswered(), checkpoint="x.ckpt", sampling="4 frames")
    text = path.read_text()
    assert "**Not answered**" in text
    assert "- tempcompass: cannot decode v.mp4: multi-choice:4:speed:0, multi-choice:5:speed:0\n" in text
    assert "- tempcompass: 7.mp4 is not in suite: multi-choice:7:speed:0\n" in text
    path, _ = write_report(tmp_path, "", miniature(), checkpoint="x.ckpt", sampling="4 frames")
    assert "Not answered" not in path.read_text()
