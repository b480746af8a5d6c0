"""Films told frame by frame: what is told is what is drawn there, seen by leaving things out of the film and drawing it again."""

import re
from dataclasses import replace

import numpy as np
import pytest

from tstar.data.miniature.film import Actor, Film, Needle, Shot
from tstar.data.miniature.icons import picture
from tstar.data.miniature.render import render
from tstar.data.miniature.seeds import item_rng
from tstar.data.miniature.storyboard import place_word, seen, storyboard
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
    assert len(storyboard(Film(kind="scene", shots=(shot,) * 8))) == 8
    assert len(storyboard(Film(kind="scene", shots=(replace(shot, frames=2),)))) == 1
