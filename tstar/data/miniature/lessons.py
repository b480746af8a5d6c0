"""What the miniature language model reads before it ever sees a picture: scenes told in words, and questions about them.

Naming an answer is learnt in a few hundred steps; giving its letter is a second look-up on top of the first, and a small
model finds it late or never; nor does it find by itself which of several objects a word belongs to. So the first two courses ask
for nothing but that: a property of one of several objects (*look-ups*), and the letter of a word that is given (*binding*), in few
words. Later ones keep some of both, ask many questions openly before they ask for the letter, and tell short scenes first.
"""

import random
import re
from dataclasses import dataclass, replace
from itertools import pairwise

from tstar.data.annotations import Turn
from tstar.data.conversations import get_template
from tstar.data.miniature import words
from tstar.data.miniature.clips import Plot, motion
from tstar.data.miniature.prompts import FORMATS, Question, pick_order, prompt, reply
from tstar.data.miniature.seeds import LETTERS, item_rng
from tstar.data.miniature.stills import scene, still
from tstar.data.miniature.stories import story
from tstar.data.miniature.storyboard import glimpses, storyboard
from tstar.data.miniature.training import WORDS, ask, lettered_round, mixed_rounds, training_plot
from tstar.data.miniature.words import Side

Pieces = list[tuple[str, bool]]
_POOLS: tuple[tuple[str, ...], ...] = (
    *(words.SHAPES, tuple(words.COLOURS), words.TEXTURES, words.PLACES, tuple(words.DIRECTIONS), words.SPEEDS),
    *(words.NAMES, words.FRUITS, words.LANDMARKS, words.OBJECTS, words.ACTIONS, words.ANOMALIES),
    *(tuple(words.PLURALS[shape] for shape in words.SHAPES), tuple(map(str, range(1, 17)))),
)
_BINDING = ("Which option says {}?", "The answer is {}. Which option is it?")
_TOO_FINE = ("speed", "action")
"""Skills that a storyboard's places and times do not tell."""
_COUNTS = ("count", "cnt_edit1", "cnt_edit2", "cnt_insert1")
_SHORTLY = ("{}?", "And {}?", *_BINDING)


@dataclass(frozen=True, kw_only=True)
class Course:
    """A mixture of lessons."""

    longest_caption: int
    """Scenes told in more characters than this are left out, but for look-ups, which need several objects."""
    rounds: tuple[int, int]
    """Fewest and most questions about one scene."""
    styles: tuple[float, float, float, float]
    """Shares of the suites' formats, in the order of ``FORMATS``."""
    binding: float = 0.25
    """Share of lessons that ask for the letter of a given word."""
    captions: float = 0.05
    """Share of lessons that are a caption alone."""
    lookups: float = 0.1
    """Share of lessons that ask openly about one of several objects."""
    storyboards: float = 0.0
    """Share of lessons about films told frame by frame."""
    counting: float = 0.0
    """Share of told scenes that are films with something to count, beyond those among the rest."""
    few_words: bool = False
    """Binding without the suites' formats and without options that are orders of several words."""


LOOK_UPS = Course(longest_caption=250, rounds=(2, 2), styles=(1, 1, 1, 1), binding=0.0, captions=0.0, lookups=1.0)
"""Which word goes with which, and nothing else."""
BINDING = Course(
    longest_caption=250, rounds=(2, 2), styles=(1, 1, 1, 1), binding=0.7, captions=0.0, lookups=0.3, few_words=True
)
"""Which letter a word has, and some look-ups, or they are forgotten."""
SHORT = Course(longest_caption=90, rounds=(2, 3), styles=(1, 2, 0, 2))
"""Scenes of one sentence, the suites' short formats."""
WHOLE = Course(longest_caption=1000, rounds=(3, 5), styles=(1, 1, 1, 1), binding=0.1, storyboards=0.15)
"""Everything the training sets and suites have."""
COUNTS = replace(WHOLE, counting=0.3)
"""The same with more to count: the letter of a count is learnt last."""
COURSES = {"look-ups": LOOK_UPS, "letters": BINDING, "short": SHORT, "whole": WHOLE, "counts": COUNTS}


def told_plot(rng: random.Random, side: Side, longest_caption: int, counting: float = 0.0) -> Plot:
    """A picture's or film's plot whose caption is no longer than so many characters; a share of them counts."""
    kinds = _COUNTS if counting and rng.random() < counting else ()
    while True:
        plot = still(rng, side) if not kinds and rng.random() < 0.4 else training_plot(rng, side, kinds=kinds)
        if len(plot.caption) <= longest_caption:
            return plot


def binding_question(rng: random.Random) -> Question:
    """Which option says what the question itself names."""
    chosen = _options(rng, 4)
    text = rng.choice(_BINDING).format(chosen[0])
    return Question(skill="binding", text=text, answer=chosen[0], options=chosen)


def _options(rng: random.Random, number: int, orders: bool = True) -> tuple[str, ...]:
    """Words of one pool; with ``orders`` sometimes four orders of the same four words."""
    pool = rng.choice([pool for pool in _POOLS if len(pool) >= number])
    if orders and number == 4 and rng.random() < 0.25:
        return pick_order(rng, rng.sample(pool, 4))[1]
    return tuple(rng.sample(pool, number))


def binding_lesson(rng: random.Random, style: str, few_words: bool) -> list[Turn]:
    """Letters of given words: in a suite's format or in few words, then several more about the same options."""
    number = rng.choice((2, 3, 4, 4))
    options = list(_options(rng, number, orders=not few_words))
    position = rng.randrange(number)
    if number == 4 and not few_words and rng.random() < 0.6:
        text = prompt(style, rng.choice(_BINDING).format(options[position]), options)
        turns = ask(text, reply(style, options, position))
    else:
        mark = rng.choice(("{}. {}", "{}. {}", "({}) {}"))
        listed = "\n".join(mark.format(letter, word) for letter, word in zip(LETTERS, options, strict=False))
        question = rng.choice(_SHORTLY).format(options[position])
        first, second = (listed, question) if rng.random() < 0.5 else (question, listed)
        turns = ask(f"{first}\n{second}", LETTERS[position])
    for _ in range(rng.randint(2, 5)):
        position = rng.randrange(number)
        turns += ask(rng.choice(_SHORTLY).format(options[position]), LETTERS[position])
    return turns


def bare_binding(rng: random.Random) -> Pieces:
    """The same without roles, line by line, so that question and letter stand next to each other."""
    number = rng.choice((2, 3, 4, 4))
    options = _options(rng, number, orders=False)
    listed = "\n".join(f"{letter}. {word}" for letter, word in zip(LETTERS, options, strict=False))
    pieces = [(f"{listed}\n", False)]
    for _ in range(rng.randint(4, 8)):
        position = rng.randrange(number)
        pieces += [(f" {options[position]}?\n", False), (LETTERS[position], True), ("\n", False)]
    return pieces


def lookup_plot(rng: random.Random, side: Side) -> Plot:
    """A picture, a shot or a story with several objects: with one, no question needs a look-up."""
    while True:
        kind = rng.choice(("picture", "shot", "story", "story"))
        if kind == "story":
            plot = story(rng, side, rng.randint(2, 4), scene_frames=20)
        else:
            plot = scene(rng, side) if kind == "picture" else motion(rng, side)
        objects = sum(len(shot.actors) for shot in plot.film.shots)
        if objects > 1 and len(plot.caption) <= LOOK_UPS.longest_caption:
            return plot


def lookup_lesson(rng: random.Random, side: Side) -> list[Turn]:
    """A scene or film of several objects and two open questions: with more, one answer would be read off another.

    About a story one of them asks which object belongs to which background. These words stand far apart, and as one kind of
    question among eight it was never learnt.
    """
    plot = lookup_plot(rng, side)
    far = [question for question in plot.questions if question.skill == "plot"]
    near = [question for question in plot.questions if question.skill != "plot"]
    pair = [rng.choice(far), rng.choice(near)] if far else rng.sample(near, 2)
    rng.shuffle(pair)
    return _about(plot.caption, [turn for question in pair for turn in ask(question.text, question.answer)])


def storyboard_lesson(rng: random.Random, course: Course, style: str, side: Side) -> list[Turn]:
    """A film told frame by frame, and questions about it: what moved, changed, came in which order and how often."""
    questions: list[Question] = []
    while not questions:
        plot = training_plot(rng, side)
        phrases = storyboard(plot.film)
        questions = _told_by(phrases, plot)
    questions = rng.sample(questions, min(len(questions), rng.randint(*course.rounds)))
    return _about(f"{'. '.join(phrases)}.", mixed_rounds(rng, questions, style, WORDS))


def _told_by(phrases: list[str], plot: Plot) -> list[Question]:
    """The questions that a storyboard answers: what falls between two looks is not asked for, nor counted what is seen twice."""
    passing, scenes = glimpses(plot.film)
    if 0 in passing or 0 in scenes:
        return []
    left_out = {*_TOO_FINE, *(() if set(passing) <= {1} else _COUNTS)}
    return [
        question
        for question in plot.questions
        if question.skill not in left_out and (question.skill != "direction" or _moves(phrases, question))
    ]


def _moves(phrases: list[str], question: Question) -> bool:
    """Whether the object that is asked for is once seen a place further on in its direction."""
    name = question.text.removeprefix("Which way does the ").removesuffix(" move?")
    places = re.findall(rf"{name} at the ((?:top|bottom)(?: left| right)?|left|middle|right)", ". ".join(phrases))
    cells = [divmod(words.PLACES.index(place), 3) for place in places]
    dx, dy = words.DIRECTIONS[question.answer]
    return any((x - x0, y - y0) == (dx, dy) for (y0, x0), (y, x) in pairwise(cells))


def _about(text: str, turns: list[Turn]) -> list[Turn]:
    """The conversation with the text ahead of its first question."""
    first, *rest = turns
    return [{"from": "human", "value": f"{text}\n{first['value']}"}, *rest]


def lesson(rng: random.Random, course: Course, side: Side = "train") -> Pieces:
    """One lesson as pieces of text, each with whether it is learnt."""
    kind = rng.random()
    chat = get_template("miniature")
    if kind < course.captions:
        return get_template("plain").pieces(ask("", told_plot(rng, side, course.longest_caption).caption))
    style = rng.choices(FORMATS, weights=course.styles)[0]
    if kind < course.captions + course.binding:
        if course.few_words and rng.random() < 0.5:
            return bare_binding(rng)
        return chat.pieces(binding_lesson(rng, style, course.few_words))
    if kind < course.captions + course.binding + course.lookups:
        return chat.pieces(lookup_lesson(rng, side))
    if kind > 1 - course.storyboards:
        return chat.pieces(storyboard_lesson(rng, course, style, side))
    plot = told_plot(rng, side, course.longest_caption, course.counting)
    questions = rng.sample(plot.questions, min(len(plot.questions), rng.randint(*course.rounds)))
    return chat.pieces(_about(plot.caption, mixed_rounds(rng, questions, style, WORDS)))


def lessons(course: Course, count: int, *name: object) -> list[Pieces]:
    """Lesson ``i`` depends on ``name`` and ``i`` alone."""
    return [lesson(item_rng(*name, index), course) for index in range(count)]


def exam(kind: str, index: int, *name: object) -> tuple[list[Turn], str]:
    """One question about a held-out scene in words, and its skill.

    Args:
        kind: "letter", "open" or "binding".
        index: which.
        name: of the exam.
    """
    rng = item_rng(*name, kind, index)
    style = rng.choice(FORMATS)
    if kind == "binding":
        question = binding_question(rng)
        return lettered_round(rng, question, style), question.skill
    plot = told_plot(rng, "eval", 1000)
    question = rng.choice([q for q in plot.questions if q.options or kind == "open"])
    if kind == "open":
        turns = ask(question.text, question.answer)
    else:
        turns = lettered_round(rng, question, style)
    return _about(plot.caption, turns), question.skill
