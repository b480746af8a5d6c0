"""The strict rule, step by step: which letter, and which step read it."""

import pytest

from tstar.evaluation.extraction import clean_response, extract_letter, normalise

OPTIONS = ("slowly", "very fast", "it stands still", "a dog")


@pytest.mark.parametrize(
    ("response", "letter", "how"),
    [
        # the whole text
        ("B", "B", "3a"),
        ("b", "B", "3a"),
        (" (C)\n", "C", "3a"),
        ("[C]", "C", "3a"),
        ("**D**", "D", "3a"),
        ("**(D)**", "D", "3a"),
        ("(**D**)", "D", "3a"),
        ("A.", "A", "3a"),
        ("A)", "A", "3a"),
        ("A:", "A", "3a"),
        ("(A).", "A", "3a"),
        ("**A.**", "A", "3a"),
        ("B</s>", "B", "3a"),
        ("B <|im_end|></s>", "B", "3a"),
        ("<think>It is A. No, (C)?</think>\nB", "B", "3a"),
        ("<think>A</think> C </think> D", "D", "3a"),
        # the start
        ("B. very fast", "B", "3b"),
        ("B) because", "B", "3b"),
        ("(B) very slow", "B", "3b"),
        ("B: it is", "B", "3b"),
        ("B\nbecause of the crane", "B", "3b"),
        ("**B.** It moves", "B", "3b"),
        ("**B**: It moves", "B", "3b"),
        # a statement; the last one wins
        ("The answer is C", "C", "3c"),
        ("the ANSWER IS **C**.", "C", "3c"),
        ("Answer: (C), I think", "C", "3c"),
        ("I choose option D here", "D", "3c"),
        ("Best option: (D", None, "unparsed"),
        ("Best Option: (D) x", "D", "3c"),
        ("First the answer is A, but no: the answer is B", "B", "3c"),
        ("The answer is A. Option C would be odd", "C", "3c"),
        # one bracketed letter
        ("It must be (B) then", "B", "3d"),
        ("Either (A) or (B)", None, "unparsed"),
        ("(B), yes, (B)", "B", "3b"),
        ("Yes (B), yes (B)", None, "unparsed"),
        # an option's text
        ("very fast", "B", "4"),
        ("Very   FAST.", "B", "4"),
        ("ｖｅｒｙ fast", "B", "4"),
        ("The lift moves very fast.", "B", "4"),
        ("It moves slowly or very fast", None, "unparsed"),
        ("A dog is running", "D", "4"),  # by its text; the article is no letter
        # nothing
        ("", None, "unparsed"),
        ("</s>", None, "unparsed"),
        ("E", None, "unparsed"),
        ("(e)", None, "unparsed"),
        ("b.", None, "unparsed"),
        ("the answer is b", None, "unparsed"),
        ("A cat is running", None, "unparsed"),
        ("B and C", None, "unparsed"),
        ("BAD", None, "unparsed"),
        ("The answer is Bold", None, "unparsed"),
        ("Sorry, I cannot tell", None, "unparsed"),
    ],
)
def test_letter_and_step(response, letter, how):
    found = extract_letter(response, OPTIONS)
    assert (found.letter, found.how) == (letter, how)


def test_letters_end_with_the_item_s_options():
    assert extract_letter("C", ("yes", "no")).letter is None
    assert extract_letter("The answer is C", ("yes", "no")).letter is None
    assert extract_letter("F", tuple("uvwxyz")).letter == "F"
    assert extract_letter("c", ("yes", "no")).letter is None


def test_an_option_inside_another_does_not_compete_and_is_not_cut_from_words():
    assert extract_letter("it was a red ball", ("red ball", "ball", "blue ball", "cube")).letter == "A"
    assert extract_letter("there are 14 of them", ("4", "14", "1", "7")).letter == "B"
    assert extract_letter("there are 14 of them", ("4", "2", "1", "7")).letter is None
    assert extract_letter("a woman walks", ("man", "dog")).letter is None
    assert extract_letter("那是狗跑", ("狗", "猫")).letter == "A"


def test_equal_options_are_never_told_apart_by_text():
    assert extract_letter("two", ("two", "two", "three")).letter is None
    assert extract_letter("three", ("two", "two", "three")).letter == "C"
    assert extract_letter("it is two", ("two", "two", "three")).letter is None


def test_cleaning_and_normalising():
    assert clean_response("a</think>  b </s><|im_end|> ") == "b"
    assert normalise(" Ab\t c.. ") == "ab c."
    assert normalise("") == ""
