"""Subtitles: what is said when, in files as they are found, and which of it belongs to the frames that are seen."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tstar.errors import DataError
from tstar.evaluation.subtitles import Subtitle, parse_subtitles, read_subtitles, shown_at

FILE = """1
00:00:01,500 --> 00:00:03,000
<font color="white" size=".72c">Hi guys, I'm going</font>
<font color="white" size=".72c">to show you</font>

2
00:00:03,000 --> 00:00:04,250
10

3
01:02:03,004 --> 01:02:04,000 X1:40 X2:600
{\\an8}how to   <i>bake</i>
"""


def test_a_file_gives_times_and_texts_without_markup(tmp_path):
    path = tmp_path / "a.srt"
    path.write_bytes(("\ufeff" + FILE.replace("\n", "\r\n")).encode())
    expected = [
        Subtitle(1.5, 3.0, "Hi guys, I'm going to show you"),
        Subtitle(3.0, 4.25, "10"),  # a number that is said
        Subtitle(3723.004, 3724.0, "how to bake"),
    ]
    assert read_subtitles(path) == expected
    assert parse_subtitles(FILE, "x") == expected


def test_numbers_and_thousandths_may_be_missing_and_texts_empty_or_broken_by_blank_lines():
    text = "00:00:01 --> 00:00:02.5\n7\n\n00:00:03,5 --> 0:00:04\none\n\ntwo\n\n00:00:05,000 --> 00:00:06,000\n"
    found = parse_subtitles(text, "x")
    assert found == [Subtitle(1, 2.5, "7"), Subtitle(3.5, 4, "one two"), Subtitle(5, 6, "")]
    assert parse_subtitles("\n \n", "x") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!DOCTYPE html>\n<p>404</p>", "line 1: not an .srt file, expected a number or a time, got '<!DOCTYPE html>'"),
        ("1\n00:00:01,000 --> soon\nx", "line 2: two times such as 00:01:02,500 --> 00:01:04,000 are expected"),
        ("1\n00:00:01,000 -> 00:00:02,000\nx", "line 2: not an .srt file"),
        (FILE + "\n4\n--> \n", "line 15: two times"),
        (f"1\n{'9' * 5000}:00:01,000 --> 00:00:02,000\nx", "line 2: two times"),
    ],
)
def test_what_is_no_subtitle_file_is_named(text, message, tmp_path):
    path = tmp_path / "a.srt"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_subtitles(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.srt: no such file"):
        read_subtitles(tmp_path / "gone.srt")
    (tmp_path / "b.srt").write_bytes(b"1\n\xff\xfe")
    with pytest.raises(DataError, match=r"b\.srt: not UTF-8"):
        read_subtitles(tmp_path / "b.srt")


@given(st.text(st.sampled_from("0123456789:,.-> \n<f>{}\\x\u0663\ufeff"), max_size=60))
def test_any_text_is_read_or_named(text):
    try:
        found = parse_subtitles(text, "here")
    except DataError as error:
        found, named = [], str(error)
    else:
        named = "here, line"
    assert named.startswith("here, line")
    assert all(one.start >= 0 and "\n" not in one.text for one in found)


def test_a_subtitle_is_shown_from_its_start_until_its_end_and_listed_once():
    lines = [Subtitle(0, 2, "a"), Subtitle(2, 4, "b"), Subtitle(3, 9, "c"), Subtitle(4, 4, "never"), Subtitle(8, 9, "")]
    assert shown_at(lines, [0]) == ["a"]
    assert shown_at(lines, [2]) == ["b"]
    assert shown_at(lines, [8.5, 3.5, 3.6, 1]) == ["a", "b", "c"]  # in the order of the subtitles
    assert shown_at(lines, [9, 100]) == shown_at(lines, []) == []


def test_selection_equals_a_plain_double_loop():
    draw = random.Random(4)
    for _ in range(200):
        starts = [draw.uniform(0, 20) for _ in range(draw.randint(0, 8))]
        lines = [Subtitle(start, start + draw.uniform(-1, 5), str(k)) for k, start in enumerate(starts)]
        times = [draw.choice([draw.uniform(0, 25), *starts]) for _ in range(draw.randint(0, 6))]
        assert shown_at(lines, times) == [s.text for s in lines if any(s.start <= t < s.end for t in times)]
