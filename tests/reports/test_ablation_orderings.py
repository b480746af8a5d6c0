"""Orderings held against reports whose accuracies are chosen."""

import pytest

from tstar.errors import ConfigError
from tstar.evaluation import get_benchmark
from tstar.reports.ablation_orderings import (
    HOLDS,
    NOISE,
    REVERSED,
    UNKNOWN,
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


def test_a_difference_is_paired_and_over_the_seeds_that_both_have():
    found = difference(row(60, 40), row(30, 20, 99))
    assert found.difference == pytest.approx(0.25)
    assert found.first == pytest.approx(0.25)
    assert difference(row(60), {}) is None
    assert difference(None, row(60)) is None
    same = difference(row(50), row(50))
    assert same.interval[0] <= same.difference == 0.0 <= same.interval[1]


@pytest.mark.parametrize(
    ("comparisons", "verdict"),
    [
        (["good@8 > fair@8"], HOLDS),
        (["good@8 < fair@8"], REVERSED),
        (["good@8 ~ fair@8"], REVERSED),
        (["fair@8 ~ alike@8"], HOLDS),
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
    text = paragraph([ordering], 1)
    assert "said" in text
    assert f"of {len(comparisons)} comparisons" in text
    assert "one seed" in text
    assert "3 seeds" in paragraph([ordering], 3)


def test_what_cannot_be_read_is_named():
    with pytest.raises(ConfigError, match=r"'s': must be like .* got 'good > fair'"):
        check_orderings([("s", ["good > fair"])], ["good@8"])
    with pytest.raises(ConfigError, match=r"there is no row 'god@8'; did you mean 'good@8'"):
        check_orderings([("s", ["good@8 > god@8"])], ["good@8"])
    check_orderings([("s", ["good@8 > good@8"])], ["good@8"])
    assert paragraph([], 1) == ""
