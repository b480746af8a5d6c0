"""Whatever a model or a judge writes, every benchmark gives a verdict on it under every rule set it has."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tstar.evaluation import JudgeReplies, Report, get_benchmark, list_benchmarks
from tstar.evaluation.files import LETTERS

from .fixtures import ANNOTATIONS

PIECES = [
    "A",
    "B",
    "(C)",
    "D.",
    "E)",
    "b",
    "yes",
    "No",
    "Caption A: ",
    "Option 1",
    "The answer is",
    "Best option: (",
    "</s>",
]
PIECES += [
    "</think>",
    "<answer>",
    "答案是",
    "Correct",
    "Incorrect",
    "Answer:",
    "{'pred': 'yes', 'score': 4}",
    "{",
    "1",
    "4.8",
    "\n",
    " ",
]
any_text = st.one_of(
    st.text(max_size=40),
    st.text(st.characters(codec=None), max_size=10),  # lone surrogates too
    st.lists(st.sampled_from(PIECES), max_size=6).map("".join),
    st.lists(st.sampled_from(PIECES), max_size=6).map(" ".join),
)


def check(name, response, reply):
    """The response has a verdict under every rule set, with no reply of a judge and with this one."""
    benchmark = get_benchmark(name)
    items = benchmark.load(ANNOTATIONS[name.removeprefix("mini-")])
    options = {item.id: (*LETTERS[: len(item.options)], *item.options) for item in items}
    responses = {item.id: response for item in items}
    asked = {request.id for request in benchmark.judge_requests(items, responses)}
    assert asked <= options.keys()
    assert benchmark.readable(reply) in (True, False)
    for rules in benchmark.rule_names:
        for replies in (JudgeReplies({}), JudgeReplies({key: [reply] for key in options}, "made up")):
            report = benchmark.score(items, responses, rules, replies)
            assert [item.id for item in report.items] == list(options)
            for item in report.items:
                assert item.how
                assert item.correct in (-1, 0, 1)
                assert item.rating is None or 0 <= item.rating <= 5 or rules == "official"
                if rules == "strict" and options[item.id]:
                    assert item.correct in (0, 1)
                    assert item.extracted is None or item.extracted in options[item.id]
            for value, number in report.aggregate.items():
                assert value in benchmark.counts | benchmark.ratings or -1 <= number <= 1
            assert Report.from_json(report.to_json()) == report


@pytest.mark.parametrize("name", [name for name in list_benchmarks() if not name.startswith("mini-")])
@settings(max_examples=15, deadline=None, derandomize=True)
@given(response=any_text, reply=any_text)
def test_any_response_gets_a_verdict_under_every_rule_set(name, response, reply):
    check(name, response, reply)


@pytest.mark.slow
@pytest.mark.parametrize("name", list_benchmarks())
@settings(max_examples=40, deadline=None, derandomize=True)
@given(response=any_text, reply=any_text)
def test_many_responses_get_one(name, response, reply):
    check(name, response, reply)


@pytest.mark.parametrize("name", [name for name in list_benchmarks() if name.startswith("mini-")])
def test_a_miniature_suite_is_scored_as_its_format_is(name):
    assert type(get_benchmark(name)) is type(get_benchmark(name.removeprefix("mini-")))
