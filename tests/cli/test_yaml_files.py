"""Strict YAML: duplicates, numbers, and where a key stands."""

import pytest

from tstar.cli.yaml_files import load_yaml, parse_value
from tstar.errors import ConfigError


def write(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def test_every_key_knows_its_line(tmp_path):
    data, lines = load_yaml(write(tmp_path, "name: a\n\ntrainer:\n  max_epochs: 2\n  callbacks:\n  - class_path: X\n"))
    assert data == {"name": "a", "trainer": {"max_epochs": 2, "callbacks": [{"class_path": "X"}]}}
    assert {key: place.rsplit(":", 1)[1] for key, place in lines.items()} == {
        "name": "1",
        "trainer": "3",
        "trainer.max_epochs": "4",
        "trainer.callbacks": "5",
        "trainer.callbacks.0.class_path": "6",
    }


def test_a_key_given_twice_is_refused_with_both_lines(tmp_path):
    path = write(tmp_path, "data:\n  batch_size: 4\n  limit: 1\n  batch_size: 8\n")
    with pytest.raises(ConfigError, match=rf"{path}:4: 'batch_size' is given twice \(first in line 2\)"):
        load_yaml(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("2E5", 2e5),
        ("1.5", 1.5),
        ("3", 3),
        ("true", True),
        ("null", None),
        ("[1, 2]", [1, 2]),
        ("1e", "1e"),
    ],
)
def test_values_are_read_as_people_mean_them(text, value):
    assert parse_value(text) == value


@pytest.mark.parametrize(
    "text", ["a: [1", "a: b: c", "- 1\n- 2", "just words", "a: !!python/object/apply:os.getcwd []"]
)
def test_what_is_not_a_mapping_of_plain_values_is_refused_by_name(tmp_path, text):
    with pytest.raises(ConfigError, match=r"recipe\.yaml"):
        load_yaml(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no such config file: .*nowhere\.yaml"):
        load_yaml(tmp_path / "nowhere.yaml")


def test_a_file_is_as_it_stands_whatever_was_done_with_what_was_read_before(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("data:\n  shards: [a]\n")
    data, lines = load_yaml(path)
    data["data"]["shards"].append("b")
    lines.clear()
    assert load_yaml(path) == ({"data": {"shards": ["a"]}}, {"data": f"{path}:1", "data.shards": f"{path}:2"})
    path.write_text("data:\n  shards: [c]\n")
    assert load_yaml(path)[0] == {"data": {"shards": ["c"]}}
