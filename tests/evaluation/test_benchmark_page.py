"""The page about benchmarks names every one of them, its rules and the values that tables show."""

import re
from pathlib import Path

import pytest

from tstar.evaluation import RULES, get_benchmark, list_benchmarks
from tstar.evaluation.extraction import extract_letter

PAGE = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text()


@pytest.mark.parametrize("name", [name for name in list_benchmarks() if not name.startswith("mini-")])
def test_a_benchmark_is_on_the_page(name):
    benchmark = get_benchmark(name)
    sections = [part for part in PAGE.split("\n### ")[1:] if name in part.split("\n")[0].replace(",", "").split()]
    assert len(sections) == 1
    assert f"| `{name}`" in PAGE or f", `{name}`" in PAGE
    for value in benchmark.main_values:
        assert f"`{value}`" in sections[0] or f"`<task>/{value.split('/')[-1]}`" in sections[0]


def test_the_rules_are_on_the_page():
    for rules in RULES:
        assert f"| `{rules}` |" in PAGE


def test_the_examples_of_the_strict_rule_s_steps_hold():
    step, examples = "", 0
    for line in PAGE.split("| step |")[1].split("\n\n")[0].split("\n")[2:]:
        name, _, read, unread = (cell.strip() for cell in line.strip("|").split(" | "))
        step = name.strip("` ") or step
        for text in re.findall(r"`([^`…]+)`", read):
            assert extract_letter(text, ("slowly", "very fast", "no", "a dog")).how == step, text
            examples += 1
        for text in re.findall(r"`([^`…]+)`", unread):
            assert extract_letter(text, ("slowly", "very fast", "no", "a dog")).how != step, text
            examples += 1
    assert examples > 20
