"""Orderings held against reports whose accuracies are chosen."""

import pytest

from tstar.errors import ConfigError, DataError
from tstar.evaluation import get_benchmark
from tstar.evaluation.contrasts import in_mean_cells
from tstar.evaluation.seeds import combined_difference
from tstar.reports.ablation_orderings import (
    BLIND,
    HOLDS,
    NOISE,
    REVERSED,
    UNKNOWN,
    Comparison,
    Gap,
    check_orderings,
    difference,
    hold_against,
    paragraph,
)

NAMED = {"duration": "short", "domain": "d", "sub_category": "s", "task_type": "t", "question": "which", "answer": "A"}
OPTIONS = ["A. a", "B. b", "C. c", "D. d"]
ROWS = [
    {"video_id": f"{k:03d}", "videoID": f"v{k}", "question_id": f"{k:03d}-1", "options": OPTIONS, **NAMED}
    for k in range(100)
]


def report(right, first=0):
    """The items first .. first + right - 1 answered rightly."""
    suite = get_benchmark("mini-videomme")
    items = suite.load(ROWS)
    return suite.score(items, {i.id: "A" if first <= k < first + right else "B" for k, i in enumerate(items)})


def row(*rights, first=0):
    return {str(seed): {"mini-videomme": report(right, first)} for seed, right in enumerate(rights)}


MEASURED = {"good@8": row(90), "fair@8": row(50), "alike@8": row(50, first=2), "none@8": {}}


def test_a_difference_is_over_all_seeds_of_both():
    found = difference(row(60, 40), row(30, 20, 25))
    assert found.difference == pytest.approx(0.25)
    assert found.seeds == (2, 3)
    assert difference({"0": row(60)["0"]}, {"1": row(40)["0"]}).difference == pytest.approx(0.2)
    assert difference(row(60), {}) is None
    assert difference(None, row(60)) is None
    assert difference({"0": {}}, row(60)) is None
    same = difference(row(50), row(50))
    assert same.interval[0] <= same.difference == 0.0 <= same.interval[1]
    assert same.seeds == (1, 1)


def test_a_seed_that_is_missing_takes_the_others_from_nobody():
    """One seed against one would be certain; that the left side has another, which says the opposite, must not be lost."""
    assert difference(row(90), row(50)).interval[0] > 0
    assert difference(row(90, 30), row(50)).interval[0] < 0


def test_the_same_runs_are_compared_seed_by_seed():
    left, right = row(30, 60, 90), row(28, 58, 88)
    apart, same = difference(left, right), difference(left, right, same_runs=True)
    assert apart.difference == same.difference == pytest.approx(0.02)
    assert apart.interval[0] < -0.4
    assert -0.02 < same.interval[0] < same.interval[1] < 0.06
    sides = [{"s": [in_mean_cells(r["mini-videomme"]) for r in side.values()]} for side in (right, left)]
    assert same.interval == combined_difference(*sides, same_runs=True).interval
    fewer = difference({seed: left[seed] for seed in "02"}, right, same_runs=True)
    assert fewer.seeds == (2, 2)
    assert difference({"0": left["0"]}, {"1": right["1"]}, same_runs=True) is None


def test_rows_of_one_model_are_the_same_runs():
    rows = {"a@8": row(30, 60, 90), "a@16": row(28, 58, 88), "b@16": row(28, 58, 88)}
    said = [("s", ["a@8 ~ a@16", "a@8 ~ b@16"])]
    (ordering,) = hold_against(said, rows, models={"a@8": "a", "a@16": "a", "b@16": "b"}, margin=0.1)
    assert [one.verdict for one in ordering.comparisons] == [HOLDS, NOISE]


def test_seeds_that_differ_make_the_interval_wide():
    """Two hundred answers would tell 8 points apart; two seeds that disagree by 36 do not."""
    found = difference(row(76, 40), row(50, 50))
    assert found.difference == pytest.approx(0.08)
    first, second = ([in_mean_cells(r["mini-videomme"]) for r in rows.values()] for rows in (row(50, 50), row(76, 40)))
    assert found.interval == combined_difference({"s": first}, {"s": second}).interval
    assert found.interval[0] < -0.5
    assert found.interval[1] > 0.5


def test_other_questions_are_refused():
    suite = get_benchmark("mini-videomme")
    fewer = {"0": {"mini-videomme": suite.score(items := suite.load(ROWS[:90]), {i.id: "A" for i in items})}}
    with pytest.raises(DataError, match="only on the same questions"):
        difference(row(50), fewer)


INTERVALS = [  # low and high in points, with a margin of 1, and what becomes of each operator
    ((2, 5), {">": HOLDS, "<": REVERSED, ">=": HOLDS, "~": REVERSED}),
    ((0.5, 5), {">": HOLDS, "<": REVERSED, ">=": HOLDS, "~": NOISE}),
    ((-0.5, 0.5), {">": NOISE, "<": NOISE, ">=": HOLDS, "~": HOLDS}),
    ((-0.5, 5), {">": NOISE, "<": NOISE, ">=": HOLDS, "~": NOISE}),
    ((-30, 30), {">": NOISE, "<": NOISE, ">=": NOISE, "~": NOISE}),
    ((-0.8, -0.2), {">": REVERSED, "<": HOLDS, ">=": HOLDS, "~": HOLDS}),
    ((-5, -0.5), {">": REVERSED, "<": HOLDS, ">=": NOISE, "~": NOISE}),
    ((-5, -2), {">": REVERSED, "<": HOLDS, ">=": REVERSED, "~": REVERSED}),
]


@pytest.mark.parametrize(("interval", "verdicts"), INTERVALS)
def test_an_interval_decides(interval, verdicts):
    gap = Gap(sum(interval) / 200, (interval[0] / 100, interval[1] / 100), (1, 1))
    assert {op: Comparison("a", op, "b", gap).verdict for op in verdicts} == verdicts
    wide = Comparison("a", "~", "b", gap, margin=0.5)
    assert wide.verdict == HOLDS
    assert Comparison("a", ">", "b", gap, above=False).verdict == BLIND


@pytest.mark.parametrize(
    ("comparisons", "verdict"),
    [
        (["good@8 > fair@8"], HOLDS),
        (["good@8 < fair@8"], REVERSED),
        (["good@8 ~ fair@8"], REVERSED),
        (["fair@8 ~ alike@8"], NOISE),
        (["good@8 >= fair@8"], HOLDS),
        (["fair@8 >= good@8"], REVERSED),
        (["good@8 ~ good@8"], UNKNOWN),
        (["fair@8 > alike@8"], NOISE),
        (["good@8 > fair@8", "fair@8 > alike@8"], NOISE),
        (["good@8 > fair@8", "fair@8 > good@8"], REVERSED),
        (["good@8 > none@8"], UNKNOWN),
        (["good@8 > never@9"], UNKNOWN),
        (["good@8 < fair@8", "good@8 > none@8"], REVERSED),
    ],
)
def test_verdicts(comparisons, verdict):
    (ordering,) = hold_against([("said", comparisons)], MEASURED)
    assert ordering.verdict == verdict
    text = paragraph([ordering])
    assert "said" in text
    counted = "the one comparison " if len(comparisons) == 1 else f"of {len(comparisons)} comparisons "
    assert counted in text
    assert "2 holds" not in text
    if verdict in (HOLDS, REVERSED):
        assert "with one seed" in text
        assert "of one seed" in text


def test_the_paragraph_counts_seeds_and_begins_with_what_tells_nothing():
    (ordering,) = hold_against([("said", ["a@8 > b@8"])], {"a@8": row(90, 95), "b@8": row(20, 25)})
    assert paragraph([ordering]).startswith("Seen here too: said (the one comparison holds).")
    assert "over seeds (2 a row)" in paragraph([ordering])
    both = {"a@8": row(90, 95), "b@8": row(20, 25), "c@8": row(20)}
    several, lone = hold_against([("s", ["a@8 > b@8"]), ("t", ["a@8 > c@8"])], both)
    text = paragraph([several, lone])
    assert "Seen here too: s (the one comparison holds). Seen with one seed: t (the one comparison holds)." in text
    assert "(1 or 2 a row)" in text
    (blind,) = hold_against([("said", ["good@8 > fair@8"])], MEASURED, not_above=["fair@8"])
    text = paragraph([blind], ["fair@8"])
    assert text.startswith(
        "Not surely better than the same model without the video, so that comparing them tells nothing: fair@8."
    )
    assert "Cannot be told, a side is not above blind: said" in text


def test_what_cannot_be_read_is_named():
    with pytest.raises(ConfigError, match=r"'s': must be like .* got 'good > fair'"):
        check_orderings([("s", ["good > fair"])], ["good@8"])
    with pytest.raises(ConfigError, match=r"there is no row 'god@8'; did you mean 'good@8'"):
        check_orderings([("s", ["good@8 > god@8"])], ["good@8"])
    check_orderings([("s", ["good@8 > good@8"])], ["good@8"])
    assert paragraph([]) == ""
