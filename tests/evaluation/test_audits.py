"""Letter bias against counts made by hand."""

import random

import pytest

from tstar.evaluation import score
from tstar.evaluation.audits import NO_LETTER, letter_bias


def rows(letters, count=4):
    options = [f"thing {k}" for k in range(count)]
    return [
        {"video": "v.mp4", "question": "Which?", "candidates": options, "answer": options["ABCDE".index(letter)]}
        for letter in letters
    ]


def report_of(truths, answers, rules="strict"):
    responses = {f"4_count:{k}": text for k, text in enumerate(answers) if text is not Ellipsis}
    return score("mlvu", {"4_count": rows(truths)}, responses, rules)


def test_shares_and_accuracies_are_those_counted_by_hand():
    found = letter_bias(report_of("AABBBCDD", ["A", "B", "B", "B", "b)", "D", None, ...]))
    assert [row.letter for row in found] == ["A", "B", "C", "D", NO_LETTER]
    assert [row.n for row in found] == [2, 3, 1, 2, 0]
    assert [row.truth_share for row in found] == [2 / 8, 3 / 8, 1 / 8, 2 / 8, 0]
    assert [row.answer_share for row in found] == [1 / 8, 3 / 8, 0, 1 / 8, 3 / 8]
    assert [row.accuracy for row in found] == [1 / 2, 2 / 3, 0, 0, None]


def test_a_model_that_always_says_one_letter_shows():
    truths = random.Random(0).choices("ABCD", k=200)
    found = {row.letter: row for row in letter_bias(report_of(truths, ["C"] * 200))}
    assert found["C"].answer_share == 1
    assert {letter: row.accuracy for letter, row in found.items()} == {"A": 0, "B": 0, "C": 1, "D": 0, NO_LETTER: None}
    assert sum(row.truth_share for row in found.values()) == pytest.approx(1)


def test_letters_that_are_never_right_stay_where_a_later_one_was_said():
    found = letter_bias(report_of("AA", ["A", "D"]))
    assert [(row.letter, row.n, row.accuracy) for row in found] == [
        ("A", 2, 0.5),
        ("B", 0, None),
        ("C", 0, None),
        ("D", 0, None),
        (NO_LETTER, 0, None),
    ]


def test_what_an_official_rule_took_for_the_answer_is_no_letter_when_it_is_text():
    found = letter_bias(report_of("AB", ["the first", "B) it"], "official"))
    assert [row.answer_share for row in found] == [0, 0.5, 0.5]


def test_questions_without_letters_are_left_out():
    lost = {**rows("A")[0], "answer": "none of them"}  # MLVU's letter of such an answer is @
    report = score("mlvu", {"2_needle": [*rows("B"), lost]}, {"2_needle:0": "B", "2_needle:1": "A"}, "strict")
    assert [(row.letter, row.n) for row in letter_bias(report)] == [("A", 0), ("B", 1), (NO_LETTER, 0)]
    alone = score("mlvu", {"2_needle": [lost]}, {}, "strict")
    assert letter_bias(alone) == []
