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
        ("<think>Maybe the answer is B", None, "unparsed"),
        ("Ｂ", "B", "3a"),
        ("（B）", "B", "3a"),
        ("B\u200b", "B", "3a"),
        ('"B"', "B", "3a"),
        ("`B`.", "B", "3a"),
        # the start
        ("B. very fast", "B", "3b"),
        ("B) because", "B", "3b"),
        ("(B) very slow", "B", "3b"),
        ("B: it is", "B", "3b"),
        ("B\nbecause of the crane", "B", "3b"),
        ("**B.** It moves", "B", "3b"),
        ("**B**: It moves", "B", "3b"),
        ("B. very fast. It is not A. The lift moves", "B", "3b"),
        ("A. slowly\nB. very fast\nC. it stands still\nD. a dog", None, "unparsed"),  # the options, said again
        ("A. slowly\nB. ve", None, "unparsed"),
        ("A. slowly B. very fast C. it stands still D. a dog", None, "unparsed"),
        ("(A) slowly\n(B) very fast\nAnswer: B", "B", "3c"),
        ("B\n\nExplanation:\nA. It is not slow.\nC. It moves.", "B", "3b"),
        ("A. slowly. (B) is wrong, (C) is wrong, (D) is wrong", "A", "3b"),
        ("A.M. the lift moves", None, "unparsed"),
        ("D.J. plays", None, "unparsed"),
        ("(A) is wrong", None, "unparsed"),
        # a statement; the last one wins
        ("The answer is C", "C", "3c"),
        ("the ANSWER IS **C**.", "C", "3c"),
        ("Answer: (C), I think", "C", "3c"),
        ("I choose option D here", "D", "3c"),
        ("Best option: (D", None, "unparsed"),
        ("Best Option: (D) x", "D", "3c"),
        ("First the answer is A, but no: the answer is B", "B", "3c"),
        ("The answer is A. Option C would be odd", "A", "3c"),  # a statement comes before what is only mentioned
        ("The answer is B. Option A is incorrect because it moves.", "B", "3c"),
        ("It is not option B.", None, "unparsed"),
        ("Neither option A nor option B is correct.", None, "unparsed"),
        ("I cannot decide between option A and option B.", None, "unparsed"),
        ("Option A: slowly. Option B: very fast. Option D: a dog.", None, "unparsed"),
        ("It is option A (slowly) or option B", None, "unparsed"),
        ("The correct option is B", "B", "3c"),
        ("**Answer**: B", "B", "3c"),
        ("**Answer:** B", "B", "3c"),
        ('The answer is "B"', "B", "3c"),
        ("The answer is: B. very fast", "B", "3c"),
        ("The answer is A because it moves", "A", "3c"),
        ("The answer is B, not A", "B", "3c"),
        ("<answer>B</answer>", "B", "3c"),
        (r"So it is $\boxed{\text{B}}$", "B", "3c"),
        ("答案是B", "B", "3c"),
        ("所以答案：B。", "B", "3c"),
        ("정답은 B입니다.", "B", "3c"),
        # several letters, and articles
        ("The answer is A or B", None, "unparsed"),
        ("Answer: A/C", None, "unparsed"),
        ("the answer is (A) or (B)", None, "unparsed"),
        ("Answer: B, C and D", None, "unparsed"),
        ("(A) or (B)", None, "unparsed"),
        ("The answer is A person", None, "unparsed"),
        ("Answer: A man walks", None, "unparsed"),
        ("The answer is A dog", "D", "4"),
        ("The answer is A, A dog would bark", "A", "3c"),
        # one bracketed letter
        ("It must be (B) then", "B", "3d"),
        ("Either (A) or (B)", None, "unparsed"),
        ("Either (A) slowly or (B)", None, "unparsed"),
        ("I cannot tell (A).", None, "unparsed"),
        ("It must be (C): it stands still", "C", "3d"),
        ("(B), yes, (B)", "B", "3b"),
        ("Yes (B), yes (B)", None, "unparsed"),
        # an option's text
        ("very fast", "B", "4"),
        ("Very   FAST.", "B", "4"),
        ("ｖｅｒｙ fast", "B", "4"),
        ("The lift moves very fast.", "B", "4"),
        ("It moves slowly or very fast", None, "unparsed"),
        ("Sorry, I cannot determine if it moves very fast.", None, "unparsed"),
        ("I am unable to see a dog in the video.", None, "unparsed"),
        ("It is not very fast.", None, "unparsed"),
        ("Slowly is wrong", None, "unparsed"),
        ("Very fast, I do not doubt it", "B", "4"),  # as what it starts with
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


@pytest.mark.parametrize(
    ("response", "options", "letter"),
    [
        ("3.5", "1234", None),
        ("1,000", "1234", None),
        ("-2", "1234", None),
        ("2-3", "1234", None),
        ("4 or 5", "1234", None),
        ("I counted 2 in 10 frames", "1234", None),
        ("there are 3.", "1234", "C"),
        ("12:30", ("12", "30", "3"), None),
        ("2-3", ("12", "30", "3"), None),
        ("at 12:30.", ("12:30", "1:30"), "A"),
        ("3 dogs in 5 seconds", ("3 dogs", "4 dogs"), "A"),
        ("1.3 dogs", ("3 dogs", "4 dogs"), None),
    ],
)
def test_numbers_are_not_cut_from_numbers(response, options, letter):
    assert extract_letter(response, tuple(options)).letter == letter


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("No, it does not move", "B"),
        ("no it does not", "B"),
        ("Yes\nThe lift moves", "A"),
        ("The answer is **no**.", "B"),
        ("Answer: Yes, it moves", "A"),
        ("I have no idea.", None),
        ("There is no way to tell", None),
        ("No video was provided", None),
        ("Yes or no", None),
        ("no, yes", None),
        ("not sure", "C"),
    ],
)
def test_yes_and_no_are_read_as_answers_only(response, letter):
    assert extract_letter(response, ("yes", "no", "not sure")).letter == letter


def test_denial_in_the_option_itself_is_none():
    options = ("it does not move", "there is no dog", "it moves")
    assert extract_letter("I think it does not move at all", options).letter == "A"
    assert extract_letter("It is option A, it does not move", options).letter == "A"
    assert extract_letter("It must be (B): there is no dog", options).letter == "B"
    assert extract_letter("It does not, so it moves", options).letter is None


def test_equal_options_are_never_told_apart_by_text():
    assert extract_letter("two", ("two", "two", "three")).letter is None
    assert extract_letter("three", ("two", "two", "three")).letter == "C"
    assert extract_letter("it is two", ("two", "two", "three")).letter is None


def test_cleaning_and_normalising():
    assert clean_response("a</think>  b </s><|im_end|> ") == "b"
    assert normalise(" Ab\t c.. ") == "ab c."
    assert normalise("") == ""
