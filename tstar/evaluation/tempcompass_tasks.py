"""TempCompass' rules for one answer, task by task, and what its judge is asked and says.

Every rule takes an answer already cleaned and gives None where it matches nothing: then a judge decides, or it is wrong.
"""

import re
from collections.abc import Iterable

from tstar.evaluation.extraction import UNPARSED, clean_response, extract_letter, match_option
from tstar.evaluation.files import LETTERS
from tstar.evaluation.items import UNJUDGED, Item, Verdict
from tstar.evaluation.judging import JudgeRequest

MULTI_CHOICE, YES_NO, CAPTION_MATCHING, CAPTIONING = "multi-choice", "yes_no", "caption_matching", "captioning"
TASKS = (MULTI_CHOICE, YES_NO, CAPTION_MATCHING, CAPTIONING)
JUDGE, JUDGE_FAILED = "judge", "judge failed"
LABEL_WORDS = ("Sentence", "Option", "Caption")
INVALID_REQUEST = "invalid_request_error"
PARAMETERS = {"temperature": 1.0, "max_tokens": 128, "top_p": 1, "presence_penalty": 1}
JUDGE_SYSTEM = "You answer questions about videos and check the answers of others."
KINDS = {MULTI_CHOICE: "Multiple-choice", YES_NO: "Yes/no", CAPTION_MATCHING: "Caption matching"}
CHECK = """\
You are given a {kind} question about a video, its true answer, and what a model answered. Decide, by the question and the \
true answer, whether the model's answer is correct. If it is, reply with the word "Correct", if it is not, with the word \
"Incorrect".

{Kind} question:
{question}
True answer: {truth}
Model's answer: {response}"""
CHOOSE = """\
You are given a description of a video and a multiple-choice question about that video. Choose the answer that follows from the \
description, and say in a few words why. If none of the choices is right, or the description does not tell, answer "None of the \
choices are correct". Reply in this form:
Reasoning: (why)
Answer: (letter and text of the choice)

For example:
Description: A boat drifts away from the pier.
Question:
Where does the boat move?
A. towards the pier
B. away from the pier
C. in a circle
Reasoning: The description says that the boat drifts away from the pier.
Answer: B. away from the pier

Description: {response}
Question:
{question}
"""


def match(item: Item, text: str) -> Verdict | None:
    """The verdict of the rules of ``item``'s task on a cleaned answer; None if none matches."""
    rule = {MULTI_CHOICE: _multi_choice, YES_NO: _yes_no, CAPTION_MATCHING: _caption_matching}
    task = item.categories["task"]
    return rule[task](item, text) if task in rule else None


def strict(item: Item, response: str) -> Verdict:
    """The strict rule where options have no letters, or labels in their place."""
    text = clean_response(response)
    if item.categories["task"] == YES_NO:
        index = match_option(text, item.options)
        said = None if index is None else item.options[index]
        return Verdict(said, UNPARSED if said is None else "4", said == item.answer)
    found = extract_letter(_labels_as_letters(text, _labels(item)), item.options)
    return Verdict(found.letter, found.how, found.letter == item.answer)


def judge_request(item: Item, text: str) -> JudgeRequest | None:
    """What the judge is asked about a cleaned answer, None where a rule matches it."""
    if match(item, text) is not None:
        return None
    task = item.categories["task"]
    if task == CAPTIONING:
        content = CHOOSE.format(question=item.judge_question, response=text)
    else:
        kind = KINDS[task]
        content = CHECK.format(kind=kind.lower(), Kind=kind, question=item.question, truth=item.truth, response=text)
    messages = ({"role": "system", "content": JUDGE_SYSTEM}, {"role": "user", "content": content})
    return JudgeRequest(item.id, messages, PARAMETERS)


def judged(item: Item, replies: Iterable[str], *, failed: Verdict) -> Verdict:
    """The verdict of the first of a judge's replies that can be read.

    Args:
        item: the question, which no rule decides.
        replies: in the order of the attempts.
        failed: the verdict of a captioning question with replies none of which can be read.

    Returns:
        That verdict. Without a readable reply a captioning question is unjudged, or ``failed`` where the judge was asked in
        vain; any other answer is wrong.
    """
    said = [reply.strip() for reply in replies]
    if item.categories["task"] != CAPTIONING:
        verdict = next((mark for mark in map(is_correct, said) if mark is not None), None)
        return Verdict(None, UNPARSED if verdict is None else JUDGE, bool(verdict))
    reply = next((reply for reply in said if reply not in ("", INVALID_REQUEST)), None)
    if reply is None:
        return failed if said else Verdict(None, UNJUDGED, False)
    answer, right = chosen(reply, item.truth)
    return Verdict(answer, JUDGE, right, rating=float(right))


def is_correct(reply: str) -> bool | None:
    """What a judge says of an answer, None if it says nothing: it starts with, or contains, Correct or Incorrect."""
    for word in ("Correct", "Incorrect"):
        if reply.startswith(word):
            return word == "Correct"
    if "Incorrect" in reply:
        return False
    return True if "Correct" in reply else None


def chosen(reply: str, truth: str) -> tuple[str, bool]:
    """What a judge chose by a caption, and whether that is the true choice.

    The last line with "Answer" holds the choice, else the whole reply does; only one letter with a full stop may be in it.
    """
    lines = [line.replace("Answer:", "").strip() for line in reply.split("\n") if "Answer" in line]
    answer = lines[-1] if lines else reply
    letters = sum(answer.count(f"{letter}.") for letter in "ABCD")
    return answer, letters == 1 and answer.split(". ")[0] == truth.split(". ")[0]


def _multi_choice(item: Item, text: str) -> Verdict | None:
    """Whole answer line, bare capital letter, ``A.``… or ``A)``… at the start."""
    letter = item.truth[:1]
    if text == item.truth:
        return Verdict(letter, "answer line", True)
    if text in ("A", "B", "C", "D"):
        return Verdict(text, "letter", text == letter)
    for mark, how in ((".", "letter and full stop"), (")", "letter and bracket")):
        if text.startswith(tuple(f"{one}{mark}" for one in "ABCD")):
            return Verdict(text[0], how, text[0] == letter)
    return None


def _yes_no(item: Item, text: str) -> Verdict | None:
    """Starts with yes or no, in any case and be it only the beginning of a word."""
    said = next((word for word in ("yes", "no") if text.lower().startswith(word)), None)
    return None if said is None else Verdict(said, "start", said == item.truth)


def _caption_matching(item: Item, text: str) -> Verdict | None:
    """A whole option line, its sentence, or its label or bare index; of several matches the last counts."""
    lines = option_lines(item.question)
    parts = [line.split(": ") for line in lines]
    behind = text.split(") ")[1] if ") " in text else None
    matched: tuple[str, str] | None = None
    for line in lines:
        if line == text:
            matched = line, "option line"
    for part in parts:
        if part[1] in (text, behind):
            matched = part[1], "sentence"
    labels = [part[0] for part in parts]
    for label in labels + [index_of(label) for label in labels]:
        if label in (text, text.replace(".", "")):
            matched = label, "label"
    if matched is None:
        return None
    label, sentence = item.truth.split(": ")[:2]
    right = (item.truth, item.truth.split(":")[0], sentence, *label.split()[1:2])
    return Verdict(*matched, matched[0] in right)


def option_lines(question: str) -> list[str]:
    """Lines of a caption matching question that hold its options: all but the first."""
    return question.split("\n")[1:]


def index_of(label: str) -> str:
    """``Caption A`` without its word: ``A``."""
    for word in LABEL_WORDS:
        label = label.replace(f"{word} ", "")
    return label


def _labels(item: Item) -> list[str]:
    if item.categories["task"] != CAPTION_MATCHING:
        return []
    return [index_of(line.split(": ")[0]) for line in option_lines(item.question)]


def _labels_as_letters(text: str, labels: list[str]) -> str:
    """``text`` with "Caption B" and "Option 2" as "option B", and with a number that stands for an option as its letter."""
    if not labels:
        return text
    letters = dict(zip(labels, LETTERS, strict=False))
    one = "|".join(map(re.escape, labels))
    word = rf"\b(?i:{'|'.join(LABEL_WORDS)})\s+({one})(?!\w)"
    text = re.sub(word, lambda found: f"option {letters[found[1]]}", text)
    if not all(label.isdecimal() for label in labels):
        return text
    behind = r"\((?=\d+\))|\b(?i:answer\s+is|answer\s*:|option\s*:)\s*\W*|(?<=\d)(?:\s*[,/&]\s*|\s+(?:or|and)\s+)"
    number = rf"(?m)(^[^\w\n]*|{behind})({one})(?!\w)"
    return re.sub(number, lambda found: found[1] + letters[found[2]], text)
