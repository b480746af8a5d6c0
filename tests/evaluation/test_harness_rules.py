"""lmms-eval's reader of letters: every kind of place, their order, and what it reads by accident."""

import random

import pytest

from tstar.evaluation.harness_rules import extract_mcq_answer, scored_text


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A dog is running.", "A"),
        ("CD player", "D"),
        ("THE MAN", "A"),
        ("USA. is it", "A"),
        ("I'd say the answer is unclear, B or C", "C"),
        ("Error: /videos/ABC.mp4 can not load", "C"),
        ("b", ""),
        ("The answer is B and not D here", "D"),
    ],
)
def test_the_readings_that_the_protocol_names(text, letter):
    assert extract_mcq_answer(text, "ABCD") == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("", ""),
        (" \n", ""),
        ("...", ""),
        ("!?;", ""),
        ("B", "B"),
        (' "B." ', "B"),
        ("'B'!", "B"),
        ("B ,", "B"),
        # the start beats the end, the end beats a phrase, a phrase beats brackets, and so on
        ("B (A) C: D", "B"),
        ("It is (A), the answer is B, C", "C"),
        ("(A) or so; the answer is B here", "B"),
        ("(A) and B. or C: no", "A"),
        ("x B. or C: no", "B"),
        ("x B: or C) no", "B"),
        ("x B) or C no", "B"),
        ("x B or xC?", "C"),  # the question mark is stripped and "C " is at the end of a word: later than "B "
        ("xBx", "B"),
        ("xBxA", "A"),
        ("xB, xA, x", "A"),
        # the beginning or the end of a word is neither start nor end
        ("Apple", "A"),  # only by the last resort
        ("Apple or (C)", "C"),
        ("xA but x(B)x", "B"),
        ("B2 or (A)", "B"),  # a digit is no letter
        ("1B", "B"),
        ("éA (B) x", "B"),
        # the last of equal kinds
        ("x (A) (B) (A) x", "A"),
        ("x (A) (B) x", "B"),
        # Chinese, Japanese, Korean
        ("我认为答案是B选项吧", "B"),
        ("答えはCです", "C"),
        ("정답은 D입니다", "D"),
        ("답: A입니다", "A"),
        ("我选A吧", "A"),
        # full-width letters are none
        ("Ｂ", ""),
        # nothing of the letters
        ("E", ""),
        ("(E) is best", ""),
        ("the answer is clear", ""),
        # a phrase counts once per phrase: its first occurrence
        ("the answer is A, no, the answer is b, so x", "A"),
        ("The answer is A x. I choose C since A x", "A"),  # the A behind the later phrase is farthest
        ("ANSWER IS B ok", "B"),
        ("my choice is Cats or Bears x", "B"),
    ],
)
def test_kinds_of_places_and_their_order(text, letter):
    assert extract_mcq_answer(text, "ABCD") == letter


@pytest.mark.parametrize(
    ("response", "text"),
    [
        (" B\n", "B"),
        ("<think>A?</think> B", "B"),
        ("<think>A</think>x<think>C</think>B", "xB"),
        ("<analysis>A\nB</analysis>\nC", "C"),
        ("<think>A <think>B</think> C</think> D", "D"),
        ("x <think>A <think>B</think> C", "x  C"),  # to the first end
        ("A</think> B", "B"),  # the template wrote the beginning
        ("A</think> B</think> C", "C"),
        ("A</analysis> <think>B</think> C", "C"),
        ("A</think> <think>B", "A</think> <think>B"),
        ("<think>A B", "<think>A B"),
        ("</think><think> B", "</think><think> B"),
        ("<think></think>", ""),
    ],
)
def test_thoughts_are_removed_before_scoring(response, text):
    assert scored_text(response) == text


def test_only_the_given_letters_are_read():
    assert extract_mcq_answer("the answer is F x", "ABCD") == ""
    assert extract_mcq_answer("the answer is F x", "ABCDEF") == "F"
    assert extract_mcq_answer("(E) x (B)x", "AB") == "B"
    assert extract_mcq_answer("B", "") == ""


def plain_reading(text, letters):
    """The table of the protocol as a list of candidates, each kind written out."""
    if not text.strip():
        return ""
    text = text.strip()
    for mark in ",.!?;:'\"":
        text = text.strip(mark)
    bare, text = text.strip(), " " + text + " "
    best, reading = (-1, -1), ""

    def candidate(priority, position, letter):
        nonlocal best, reading
        if position >= 0 and (priority, position) > best:
            best, reading = (priority, position), letter

    for letter in letters:
        if bare.startswith(letter) and not (len(bare) > 1 and bare[1].isalpha()):
            candidate(10, 0, letter)
        if bare.endswith(letter) and not (len(bare) > 1 and bare[-2].isalpha()):
            candidate(9, len(text) - 1, letter)
        for phrase in ("the answer is", "answer is", "correct option is", "i choose", "the best answer is", "答案是"):
            if phrase in text.lower():
                candidate(7, text.find(letter, text.lower().index(phrase) + len(phrase)), letter)
        for priority, mark in (
            (6, f"({letter})"),
            (5, letter + "."),
            (4, letter + ":"),
            (3, letter + ")"),
            (2, letter + " "),
        ):
            candidate(priority, text.rfind(mark), letter)
        candidate(0, text.rfind(letter), letter)  # beaten by any other kind, as a kind of its own would be
    return reading


def test_thousands_of_put_together_answers_equal_a_plain_reading():
    draw = random.Random(11)
    pieces = [
        "A",
        "B",
        "C",
        "D",
        "E",
        "(A)",
        "(B)",
        "C.",
        "D:",
        "A)",
        "NASA",
        "a",
        "b",
        "é",
        "。",
        " ",
        "\n",
        "  ",
        ".",
        ",",
        '"',
    ]
    pieces += [
        "The answer is",
        "answer is",
        "the correct option is",
        "I choose",
        "The best answer is",
        "答案是",
        "dog",
        "Apple",
        "x",
        ":",
        "not",
    ]
    for _ in range(5000):
        text = draw.choice(["", " "]).join(draw.choices(pieces, k=draw.randint(0, 9)))
        assert extract_mcq_answer(text, "ABCD") == plain_reading(text, "ABCD"), text
