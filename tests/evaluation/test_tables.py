"""Annotation tables: parquet, TSV, CSV and JSON hold the same rows, and what is cut off is named by file, row and field."""

import csv
import json

import pytest

from tstar.errors import DataError
from tstar.evaluation.files import (
    identifier,
    lettered_columns,
    marked_options,
    number_in,
    picture_of,
    read_table,
    table_rows,
)

ROWS = [
    {"id": "1", "question": 'which "one", then?', "answer": "two\nlines"},
    {"id": "2", "question": "tab\there", "answer": "ü"},
]


def write_separated(path, rows, separator):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.json", "t.jsonl"])
def test_every_form_of_a_table_gives_the_same_rows(tmp_path, name):
    path = tmp_path / name
    if path.suffix == ".json":
        path.write_text(json.dumps(ROWS, indent=1))
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, ROWS)))
    else:
        write_separated(path, ROWS, {".csv": ",", ".tsv": "\t"}[path.suffix])
    assert table_rows(path, ()) == (ROWS, str(path))
    assert table_rows(tmp_path, ("absent.csv", name)) == (ROWS, str(path))
    assert table_rows(ROWS, ()) == (ROWS, "annotations")


def test_pictures_within_a_table_become_hashes_and_long_texts_are_read(tmp_path):
    rows = [{"image": "A" * 200_000, "question": "q" * 150_000}, {"image": "A" * 200_000, "question": "q"}]
    write_separated(tmp_path / "t.tsv", [*rows, {"image": "x.png", "question": ""}], "\t")
    limit = csv.field_size_limit()
    first, second, third = read_table(tmp_path / "t.tsv")
    assert csv.field_size_limit() == limit
    assert first["image"].startswith("sha256:")
    assert len(first["question"]) == 150_000
    assert picture_of(first, "7") == ("images/7", first["image"])
    assert picture_of(second, "8") == ("images/8", first["image"])  # the same picture by another name
    assert picture_of(third, "9") == ("x.png", "x.png")
    assert picture_of({}, "9") == picture_of({"image": "…"}, "9") == ("images/9", "9")
    assert picture_of({"image": {"bytes": None, "path": "a.jpg"}}, "9") == ("a.jpg", "a.jpg")


def test_parquet_is_read_without_its_pictures(tmp_path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"id": n, "image": {"bytes": b"x" * 9, "path": ""}, "more": [b"y", b"z"]} for n in range(150)]
    (tmp_path / "data").mkdir()
    for part in range(2):
        half = pa.Table.from_pylist(rows[75 * part : 75 * (part + 1)])
        parquet.write_table(half, tmp_path / "data" / f"test-0000{part}-of-00002.parquet")
    found, where = table_rows(tmp_path, ("t.jsonl",))
    assert [row["id"] for row in found] == list(range(150))
    assert where == str(tmp_path)
    assert picture_of(found[0], "0") == ("images/0", found[149]["image"]["bytes"])
    assert len(set(found[0]["more"])) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3", r"t\.csv, row 1: has fewer cells than the header; is the file cut off"),
        ("a,b\n1,2,3\n", r"t\.csv, row 0: has more cells"),
        ('a,b\n1,2\n3,"4', r"t\.csv, row 1: broken table"),
    ],
)
def test_a_cut_table_is_named(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / "t.csv")


def test_what_is_no_table_is_named(tmp_path):
    with pytest.raises(DataError, match=r"holds neither a\.csv, b\.jsonl nor a \.parquet table"):
        table_rows(tmp_path, ("a.csv", "b.jsonl"))
    with pytest.raises(DataError, match=r"gone\.tsv: no such file"):
        table_rows(tmp_path / "gone.tsv", ())
    with pytest.raises(DataError, match=r"gone\.parquet: no such file"):
        table_rows(tmp_path / "gone.parquet", ())
    (tmp_path / "t.json").write_text('{"rows": 3}')
    with pytest.raises(DataError, match=r"t\.json: must be a table of questions, got dict"):
        table_rows(tmp_path / "t.json", ())
    with pytest.raises(DataError, match=r"t\.json: field 'rows' must be list, got int"):
        table_rows(tmp_path / "t.json", (), within="rows")
    with pytest.raises(DataError, match="annotations: must be a table of questions, got int"):
        table_rows(3, ())


def test_fields_that_tables_write_as_text_or_number():
    assert identifier({"id": 7}, "id", "x") == identifier({"id": "7"}, "id", "x") == "7"
    assert number_in({"n": "4"}, "n", range(5), "x") == number_in({"n": 4}, "n", range(5), "x") == 4
    for value in ("5", -1, "", "04", "four"):
        with pytest.raises(DataError, match="x: field 'n' must be a whole number from 0 to 4, got"):
            number_in({"n": value}, "n", range(5), "x")
    for value in (True, 1.0, None):
        with pytest.raises(DataError, match="x: field 'n' must be str or int"):
            number_in({"n": value}, "n", range(5), "x")
    with pytest.raises(DataError, match="x: field 'id' is empty"):
        identifier({"id": ""}, "id", "x")


def test_columns_of_options_have_no_gaps():
    assert lettered_columns({"B": "y", "A": "x", "C": "", "D": None, "I": "no column of options"}, "x") == ("x", "y")
    assert lettered_columns({"B": "y", "C": None}, "x") == lettered_columns({"A": "", "B": ""}, "x") == ()
    for row in (
        {"A": "x", "B": "y", "C": "", "D": "z"},
        {"A": "x", "B": ""},
        {"A": "x"},
        {"A": "", "B": "y", "C": "z"},
    ):
        with pytest.raises(
            DataError, match=r"x: columns A.* must hold two or more options without a gap, got texts in"
        ):
            lettered_columns(row, "x")


@pytest.mark.parametrize(
    ("text", "mark", "question", "options"),
    [
        ("Who?\n(A) he\n(B) (she)\n(C) A or (B)\n(D) no", r"\({}\)", "Who?", ("he", "(she)", "A or (B)", "no")),
        ("Who? (A)he (B)she", r"\({}\)", "Who?", ("he", "she")),
        ("DATA: x, A: one, two, B: three", "{}:", "DATA: x,", ("one, two,", "three")),
        ("(B) x", r"\({}\)", "(B) x", ()),
    ],
)
def test_options_behind_marks(text, mark, question, options):
    assert marked_options(text, mark) == (question, options)
