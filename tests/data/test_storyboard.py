"""Films told frame by frame: what is told is what is drawn there, seen by leaving things out of the film and drawing it again."""

import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from tstar.data.miniature import COURSES
from tstar.data.miniature.film import Actor, Film, Needle, Shot
from tstar.data.miniature.icons import picture
from tstar.data.miniature.lessons import storyboard_lesson
from tstar.data.miniature.render import render
from tstar.data.miniature.seeds import item_rng
from tstar.data.miniature.storyboard import glimpses, look_frames, place_word, seen, storyboard
from tstar.data.miniature.training import training_plot

THING = re.compile(
    r"an? (?:(small|large) )?(\w+) (circle|square|triangle|star|heart|cross) at the ([a-z]+(?: left| right)?)"
)


def without(film, actor):
    shots = tuple(replace(shot, actors=tuple(a for a in shot.actors if a is not actor)) for shot in film.shots)
    return replace(film, shots=shots)


def looks_of(film):
    board = storyboard(film)
    return [((2 * k + 1) * film.frames // (2 * len(board)), phrase) for k, phrase in enumerate(board)]


@pytest.mark.parametrize("index", range(16))
def test_what_is_told_is_what_is_drawn(index):
    film = training_plot(item_rng("storyboard", index), "train").film
    drawn = render(film)
    left_out = [(a, render(without(film, a))) for shot in film.shots for a in shot.actors]
    for frame, phrase in looks_of(film):
        if phrase.startswith("a picture of"):
            (needle,) = (n for n in film.needles if n.start <= frame < n.start + n.frames)
            assert np.array_equal(drawn[frame], picture(needle.word, needle.variant))
            assert phrase.endswith(needle.word)
            continue
        told = [(colour, shape) for _, colour, shape, _ in THING.findall(phrase)]
        changed = (
            []
            if phrase.startswith("the screen")
            else [a for a, other in left_out if (other[frame] != drawn[frame]).any()]
        )
        looks = [{(a.colour, a.shape), (a.end_colour or a.colour, a.shape)} for a in changed]
        assert all(own & set(told) for own in looks), (frame, phrase)
        # what is told and not drawn is on its way around, from one edge to the other
        assert len(told) - len(changed) <= len([1 for shot in film.shots for a in shot.actors if a.direction])
        assert len(told) == len(changed) or film.kind != "order"


@pytest.mark.parametrize("direction", ["left", "right", "up", "down"])
def test_places_are_where_the_object_is_drawn(direction):
    actor = Actor(shape="circle", colour="red", radius=8, x=48, y=48, direction=direction, speed=4)
    film = Film(kind="scene", shots=(Shot(frames=16, texture="plain", palette="grey", actors=(actor,)),))
    drawn, empty = render(film), render(without(film, actor))
    for frame in range(16):
        rows, columns = np.nonzero((drawn[frame] != empty[frame]).any(-1))
        if rows.min() > 0 and rows.max() < 95 and columns.min() > 0 and columns.max() < 95:
            (match,) = THING.findall(seen(film, frame))
            assert match[3] == place_word(columns.mean() + 0.5, rows.mean() + 0.5)


def test_changes_anomalies_and_needles_are_told_while_they_last():
    actor = Actor(shape="star", colour="red", radius=7, x=48, y=48, end_colour="blue", end_radius=20)
    shot = Shot(frames=10, texture="dotted", palette="navy", actors=(actor,))
    word = Needle(kind="subtitle", word="Bob", start=2, frames=2)
    cut = Needle(kind="insert", word="grapes", start=5, frames=3)
    film = Film(kind="scene", shots=(shot,), needles=(word, cut), anomaly=("the screen turns black", 8, 2))
    told = [seen(film, frame) for frame in range(film.frames)]
    assert len(told) == 13
    assert told[0] == "a small red star at the middle on a dotted background"
    assert [k for k, phrase in enumerate(told) if phrase.endswith("; the secret word Bob")] == [2, 3]
    assert [k for k, phrase in enumerate(told) if phrase == "a picture of grapes"] == [5, 6, 7]
    assert told[8] == "a large blue star at the middle on a dotted background"  # the sixth frame but for the picture
    assert told[11:] == ["the screen turns black"] * 2
    backwards = Film(kind="scene", shots=(shot,), reverse=True)
    assert [seen(backwards, k) for k in range(10)] == [
        seen(replace(backwards, reverse=False), 9 - k) for k in range(10)
    ]


def test_a_film_is_looked_at_now_and_then():
    shot = Shot(frames=24, texture="plain", palette="grey", actors=())
    assert storyboard(Film(kind="scene", shots=(shot,))) == ["a plain background"] * 4
    assert len(storyboard(Film(kind="scene", shots=(shot,) * 8))) == 12
    assert len(storyboard(Film(kind="scene", shots=(replace(shot, frames=2),)))) == 1


def test_glimpses_count_the_looks_at_what_passes():
    """Against what the phrases of the same looks say."""
    star = Actor(shape="star", colour="red", radius=9, x=48, y=48, shown=((0, 6), (20, 26)))
    shot = Shot(frames=40, texture="plain", palette="grey", actors=(star,))
    word = Needle(kind="subtitle", word="Bob", start=11, frames=8)
    cut = Needle(kind="insert", word="apple", start=30, frames=8)
    film = Film(
        kind="scene", shots=(shot, replace(shot, texture="wavy", actors=())), needles=(word, cut), anomaly=("x", 60, 8)
    )
    phrases = storyboard(film)
    assert look_frames(film) == [(2 * k + 1) * 88 // 24 for k in range(12)]
    said = lambda text: sum(text in phrase for phrase in phrases)  # noqa: E731
    passing, scenes = glimpses(film)
    assert passing == [said("Bob"), said("an apple"), said("; x"), 1, 1]
    assert said("red star") == 2
    assert scenes == [said("plain"), said("wavy")]
    assert min(passing) == 1
    assert 0 in glimpses(film, most=4)[0]


STEPS = {(1, 0): "right", (-1, 0): "left", (0, 1): "down", (0, -1): "up"}
PLACES = ["top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right"]


def one(found):
    assert len(set(found)) == 1, found
    return next(iter(found))


def direction(places):
    """Of steps from a place to a neighbour; longer ones go around the edge."""
    cells = [(PLACES.index(place) % 3, PLACES.index(place) // 3) for place in places]
    moves = [(x - before_x, y - before_y) for (before_x, before_y), (x, y) in pairwise(cells)]
    return one([STEPS[move] for move in moves if move in STEPS])


def answer_from(phrases, question):
    """What a reader of the phrases answers; every question has to be known, and every answer to follow."""
    text = ". ".join(phrases)
    say = lambda pattern: re.fullmatch(pattern, question)  # noqa: E731
    things = [
        (colour, shape, place, one(re.findall(r"on an? (\w+) background", phrase)))
        for phrase in phrases
        for _, colour, shape, place in THING.findall(phrase)
    ]
    shapes = list(dict.fromkeys(shape for _, shape, _, _ in things))
    backgrounds = re.findall(r"(\w+) background", text)
    pictures = re.findall(r"a picture of (?:an? )?([A-Za-z ]+)", text)
    secrets = re.findall(r"the secret word (\w+)", text)
    anomalies = re.findall(r"the (?:screen|picture|colours) (?:turns|loses|shakes|are)[a-z ]*", text)
    if m := say(r"What shape appears on the (\w+) background\?"):
        return one([shape for _, shape, _, texture in things if texture == m[1]])
    if m := say(r"What is the background like when the (\w+)(?: shape)? appears\?"):
        return one([texture for colour, shape, _, texture in things if m[1] in (colour, shape)])
    if say(r"What is the background like\?"):
        return one(backgrounds)
    if m := say(r"What is the background of the (first|last) scene like\?"):
        return backgrounds[0 if m[1] == "first" else -1]
    if m := say(r"Which shape appears (first|last)\?"):
        return things[0 if m[1] == "first" else -1][1]
    if m := say(r"Which shape appears right after the (\w+)\?"):
        return shapes[shapes.index(m[1]) + 1]
    if say(r"In what order do the shapes appear\?"):
        return ", ".join(shapes)
    if m := say(r"What colour is the (\w+)\?"):
        return one([colour for colour, shape, _, _ in things if shape == m[1]])
    if m := say(r"Which way does the (?:(\w+) )?(\w+) move\?"):
        return direction([p for colour, shape, p, _ in things if shape == m[2] and m[1] in (None, colour)])
    if m := say(r"What happens to the (\w+)\?"):
        sizes, colours = re.findall(rf"(small|large) \w+ {m[1]}", text), re.findall(rf"(\w+) {m[1]}", text)
        if len(set(sizes)) == 2:
            return "it grows" if sizes[0] == "small" else "it shrinks"
        assert len(set(colours)) == 2
        return f"it turns from {colours[0]} to {colours[-1]}"
    if m := say(r"How many times does the (\w+) (\w+) appear\?"):
        return str(len([1 for colour, shape, _, _ in things if (colour, shape) == m.groups()]))
    if say(r"What strange thing happens in the video\?"):
        return one(anomalies)
    if say(r"What is this video mainly about\?"):
        scenes = Counter(shape for shape, _ in {(shape, texture) for _, shape, _, texture in things})
        ((shape, times),) = scenes.most_common(1)
        assert times == 3
        return "crosses" if shape == "cross" else f"{shape}s"
    if say(r"What is the secret word\?"):
        return one(secrets)
    if say(r"What (?:kind of fruit|is the name of the landmark) .+\?"):
        return one(pictures)
    if say(r"What is the order of the secret words .+\?"):
        return ", ".join(dict.fromkeys(secrets))
    if say(r"What is the order of (?:fruits|images) .+\?"):
        return ", ".join(dict.fromkeys(pictures))
    if say(r"Some .+ How many \w+ appeared in the video in total\?"):
        return str(sum(map(int, re.findall(r"; (\d+) ", text))))
    if say(r"How many (?:secret )?\w+ appeared in the video\?"):
        return str(len(secrets or pictures))
    raise AssertionError(f"a question that nobody knows: {question}")


def test_every_question_about_a_storyboard_can_be_answered_from_it():
    asked = Counter()
    for index in range(1200):
        turns = storyboard_lesson(item_rng("told", index), COURSES["whole"], "vnbench", "train")
        board, turns[0]["value"] = turns[0]["value"].split("\n", 1)
        phrases = board.removesuffix(".").split(". ")
        assert all(re.search(r" background|picture of|screen turns", phrase) for phrase in phrases)
        for question, answer in zip(turns[::2], turns[1::2], strict=True):
            if "\n" not in question["value"]:  # with letters the same questions are asked
                assert answer_from(phrases, question["value"]) == answer["value"], (phrases, question, answer)
                asked[" ".join(question["value"].split()[:2])] += 1
    assert {"What happens", "Which way", "How many", "In what", "What strange", "What shape"} <= set(asked)
    assert asked["How many"] > 30
