"""A published split is known by its numbers of every kind of question, not by its size alone."""

import pytest

from tstar.evaluation import get_benchmark, list_benchmarks
from tstar.evaluation.items import Item
from tstar.evaluation.splits import Split, whole


def items(name):
    """As many as the benchmark's largest split has, with its categories and clusters."""
    split = max(get_benchmark(name).published.values(), key=lambda split: split.questions)
    values = {part: [value for value, n in counts.items() for _ in range(n)] for part, counts in split.parts.items()}
    clusters = split.clusters or 1
    return [
        Item(
            id=str(n),
            media="x",
            prompt="?",
            options=("a", "b"),
            answer="A",
            categories={part: own[n] for part, own in values.items()},
            cluster=str(n % clusters),
        )
        for n in range(split.questions)
    ]


@pytest.mark.parametrize("name", [name for name in list_benchmarks() if not name.startswith("mini-")])
def test_the_whole_split_is_known_and_a_set_of_its_size_is_not(name):
    suite = get_benchmark(name)
    made = items(name)
    split = suite.published[suite.split_of(made)]
    assert split.questions == len(made)
    for counts in split.parts.values():
        assert sum(counts.values()) == split.questions
    assert suite.split_of(made[2:]) == ""
    for part in split.parts:
        first = made[0].categories[part]
        if len(split.parts[part]) > 1:
            alike = [Item(**{**vars(item), "categories": item.categories | {part: first}}) for item in made]
            assert suite.split_of(alike) == ""
    if split.clusters:
        assert suite.split_of([Item(**{**vars(item), "cluster": "one"}) for item in made]) == ""


def test_generated_suites_are_no_split():
    for name in ("vnbench", "mlvu", "videomme", "tempcompass"):
        assert get_benchmark(name).split_of(items(name))
        assert get_benchmark(f"mini-{name}").split_of(items(name)) == ""


def test_a_split_is_the_sum_of_its_parts():
    assert whole("kind", {"a": 2, "b": 3}) == Split(5, {"kind": {"a": 2, "b": 3}})
