"""Annotation files: what is read, and that every refusal names file, row and reason."""

import json
import re

import pytest

from tstar.data.annotations import Record, read_annotations
from tstar.errors import DataError

TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A dog."}]
GOOD = {"id": "a", "image": "coco/1.jpg", "conversations": TURNS}


def save(tmp_path, rows, name="a.json"):
    path = tmp_path / name
    text = json.dumps(rows) if name.endswith(".json") else "\n".join(json.dumps(r, ensure_ascii=False) for r in rows)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_pictures_videos_and_text(tmp_path, name):
    rows = [
        GOOD,
        {"id": 7, "video": "films/ä b.mp4", "conversations": TURNS * 2, "data_source": "x"},
        {"id": "t", "image": None, "conversations": [{"from": "human", "value": ""}, {"from": "gpt", "value": ""}]},
    ]
    records = read_annotations(save(tmp_path, rows, name))
    assert records[0] == Record("a", "image", "coco/1.jpg", tuple(TURNS))
    assert [(r.id, r.modality, r.media, len(r.conversations)) for r in records[1:]] == [
        ("7", "video", "films/ä b.mp4", 4),
        ("t", "text", "", 2),
    ]


def test_keys_of_a_turn_that_nothing_reads_are_dropped(tmp_path):
    rows = [{**GOOD, "conversations": [{**t, "weight": 1} for t in TURNS]}]
    assert read_annotations(save(tmp_path, rows))[0].conversations == tuple(TURNS)


def test_line_separators_inside_a_text_do_not_cut_a_json_line(tmp_path):
    text = "one\u2028two\u0085three\x0b"
    rows = [{**GOOD, "conversations": [TURNS[0], {"from": "gpt", "value": text}]}]
    assert read_annotations(save(tmp_path, rows, "a.jsonl"))[0].conversations[1]["value"] == text


def test_byte_order_marks_carriage_returns_and_empty_lines_are_accepted(tmp_path):
    (tmp_path / "a.jsonl").write_text("\ufeff" + json.dumps(GOOD) + "\r\n\r\n" + json.dumps(GOOD) + "\r\n")
    assert len(read_annotations(tmp_path / "a.jsonl")) == 2
    (tmp_path / "a.json").write_text("\ufeff" + json.dumps([GOOD]))
    assert len(read_annotations(tmp_path / "a.json")) == 1


def changed(**changes):
    return {k: v for k, v in {**GOOD, **changes}.items() if v is not ...}


HUMAN, ANSWER = TURNS
MALFORMED = {
    "a list": ([1], "a record must be an object, found list"),
    "no id": (changed(id=...), "'id' must be a text or a whole number, found None"),
    "empty id": (changed(id=""), "'id' must be .*found ''"),
    "id of another type": (changed(id=["a"]), r"'id' must be .*found \['a'\]"),
    "true as id": (changed(id=True), "'id' must be .*found True"),
    "no conversations": (changed(conversations=...), "'conversations' must be a non-empty list"),
    "empty conversations": (changed(conversations=[]), "'conversations' must be a non-empty list"),
    "no answer": (changed(conversations=[HUMAN]), "must pair every human turn with an answer, found 1 turns"),
    "answer first": (changed(conversations=[ANSWER, HUMAN]), r"turn 0 must be \{'from': 'human'"),
    "two questions": (changed(conversations=[HUMAN, HUMAN]), r"turn 1 must be \{'from': 'gpt'"),
    "turn without text": (changed(conversations=[HUMAN, {"from": "gpt"}]), "turn 1 must be"),
    "number as text": (changed(conversations=[HUMAN, {"from": "gpt", "value": 3}]), "turn 1 must be .*'value': 3"),
    "turn of text": (changed(conversations=["hi", ANSWER]), "turn 0 must be .*found 'hi'"),
    "both media": (changed(video="a.mp4"), "one picture or one video, found both"),
    "empty path": (changed(image=""), "'image' must be a path, found ''"),
    "list of paths": (changed(image=["1.jpg"]), r"'image' must be a path, found \['1.jpg'\]"),
    "path with a zero byte": (changed(image="a\0b"), "'image' must be a path"),
    "absolute path": (changed(image="/etc/passwd"), "'image' must lie inside the media folder, found '/etc/passwd'"),
    "path that climbs": (changed(image="a/../../b.jpg"), "'image' must lie inside the media folder"),
    "video that climbs": (changed(image=..., video="../v.mp4"), "'video' must lie inside the media folder"),
}


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_record_is_named_by_file_row_and_reason(tmp_path, name, case):
    row, reason = MALFORMED[case]
    path = tmp_path / name
    rows = [json.dumps(GOOD), json.dumps(row)]
    path.write_text(f"[{', '.join(rows)}]" if name == "rows.json" else "\n".join(rows))
    with pytest.raises(DataError) as caught:
        read_annotations(path)
    message = str(caught.value)
    assert message.startswith(f"{path} row 1: ")
    assert re.search(reason, message), message
    assert "\n" not in message


def test_a_long_value_is_shortened(tmp_path):
    rows = [changed(conversations=[{"from": "human", "value": ["x" * 5000]}, ANSWER])]
    with pytest.raises(DataError) as caught:
        read_annotations(save(tmp_path, rows))
    assert len(str(caught.value)) < len(str(tmp_path)) + 250


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.json", b"", "cannot be read as JSON"),
        ("a.json", b'[{"id": 1', "cannot be read as JSON"),
        ("a.json", b'{"id": 1}', "must hold a JSON list of records, found object"),
        ("a.json", b"[]", "holds no records"),
        ("a.json", b'["\xff"]', "row 0 is not valid JSON"),
        ("a.json", json.dumps([{**GOOD, "id": "\ud83d"}]).encode(), r"half a character \(\\ud83d\)"),
        ("a.jsonl", json.dumps({**GOOD, "id": "\ud83d"}).encode(), r"row 0 .*half a character \(\\ud83d\)"),
        ("a.jsonl", b"\n\n", "holds no records"),
        ("a.jsonl", json.dumps(GOOD).encode() + b'\n\n{"id": 1\n', "row 2 is not valid JSON"),
    ],
)
def test_a_file_that_is_not_annotations_is_named(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        read_annotations(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no such annotation file: .*none\.json"):
        read_annotations(tmp_path / "none.json")
