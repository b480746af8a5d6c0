"""Nothing of the evaluation side is ever trained on: whole films, needles, questions and looks, over all that is trained."""

import hashlib
import json

import pytest

from tstar.data.miniature import COURSES, SCALES, lessons
from tstar.data.miniature.captioned import COURSES as VISION_COURSES
from tstar.data.miniature.captioned import captioned_group
from tstar.data.miniature.seeds import item_rng
from tstar.data.miniature.words import background_held_out, held_out
from tstar.data.miniature.world import item_keys, plan

CHANCE = {"seed", "drift", "sway", "light", "specks"}
"""What a film's drawing varies and nobody is asked about."""


@pytest.fixture(scope="module")
def world():
    """Every medium of the default world, planned and not drawn: those trained on, and the others."""
    config = SCALES["default"]
    media = [medium for key in item_keys(config) for medium in plan(config, key)]
    sides = {True: [], False: []}
    for medium in media:
        sides[medium.split == "train"].append(medium)
    return sides[True], sides[False]


@pytest.fixture(scope="module")
def pictures():
    """Films of the encoder's training, as many as are quick to plan."""
    rngs = [(item_rng(0, "captions", course, k), course) for course in VISION_COURSES for k in range(1500)]
    return [film for rng, course in rngs for film, _ in captioned_group(rng, "train", course)]


def without(data, names):
    if isinstance(data, dict):
        return {key: without(value, names) for key, value in data.items() if key not in names}
    return [without(value, names) for value in data] if isinstance(data, (list, tuple)) else data


def key_of(*parts):
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def film_key(film, names=frozenset()):
    return key_of(without(film.to_json(), CHANCE | names))


def looks(film):
    """(shape, colour, texture) of every object, with the colour that it turns to."""
    return {
        (actor.shape, colour, shot.texture)
        for shot in film.shots
        for actor in shot.actors
        for colour in (actor.colour, actor.end_colour)
        if colour
    }


def grounds(film):
    return {(shot.texture, shot.palette) for shot in film.shots}


def cast(film):
    """What can be told of a film without any place or time: backgrounds and objects, shot by shot."""
    return [
        (s.texture, s.palette, [(a.shape, a.colour, a.end_colour, a.action, a.direction) for a in s.actors])
        for s in film.shots
    ]


def questions_of(medium):
    film = film_key(medium.plot.film)
    return {key_of(q.text, sorted(q.options), q.answer, film) for q in medium.plot.questions}


def test_a_world_is_as_large_as_it_says(world):
    trained, held = world
    assert (len(trained), len(held)) == (8000 + 6000, 24 + 10 * 9 + 5 * 20 + 3 * 12 + 8 * 10)


def test_the_hash_here_sees_what_is_asked_and_not_the_noise(world):
    from dataclasses import replace

    film = next(m.plot.film for m in world[0] if m.plot.film.shots and m.plot.film.needles)
    shot = film.shots[0]
    noisy = replace(film, shots=(replace(shot, seed=shot.seed + 1, specks=9, sway=9.0), *film.shots[1:]))
    assert film_key(noisy) == film_key(film)
    other = replace(shot, actors=(replace(shot.actors[0], direction="x"), *shot.actors[1:]))
    moved = replace(film.needles[0], start=film.needles[0].start + 1)
    assert film_key(replace(film, shots=(other, *film.shots[1:]))) != film_key(film)
    assert film_key(replace(film, needles=(moved, *film.needles[1:]))) != film_key(film)


def test_no_evaluation_film_is_trained_on(world, pictures):
    trained, held = world
    for names in (frozenset(), {"x", "y", "start", "frames", "speed", "variant"}):
        seen = {film_key(medium.plot.film, names) for medium in trained} | {film_key(film, names) for film in pictures}
        assert not seen & {film_key(medium.plot.film, names) for medium in held}
    scenes = {key_of(cast(film)) for film in (*(m.plot.film for m in trained), *pictures) if film.shots}
    assert all(medium.plot.film.shots for medium in held)  # none without a scene, which could not be held out
    assert not scenes & {key_of(cast(medium.plot.film)) for medium in held}
    assert len(scenes) > 6000


def test_no_evaluation_needle_is_placed_as_in_training(world):
    """Needles of films: words are common to both sides, their frames are not."""
    trained, held = (
        {
            (needle.kind, needle.word, needle.start)
            for m in media
            if m.path.endswith("mp4")
            for needle in m.plot.film.needles
        }
        for media in world
    )
    assert not trained & held
    assert {start % 4 for *_, start in trained} == {0, 1}
    assert {start % 4 for *_, start in held} == {2, 3}
    assert {(kind, word) for kind, word, _ in held} <= {(kind, word) for kind, word, _ in trained}


def test_no_evaluation_question_is_trained_on(world):
    trained, held = ([questions_of(medium) for medium in media] for media in world)
    assert not set().union(*trained) & set().union(*held)
    assert len(set().union(*held)) > 600


def test_looks_and_backgrounds_that_are_set_aside_stay_aside(world, pictures):
    trained, held = world
    films = [*(medium.plot.film for medium in trained), *pictures]
    assert not any(held_out(*look) for film in films for look in looks(film))
    assert not any(background_held_out(*ground) for film in films for ground in grounds(film))
    assert all(held_out(*look) for medium in held for look in looks(medium.plot.film))
    assert all(background_held_out(*ground) for medium in held for ground in grounds(medium.plot.film))
    assert len(set().union(*map(looks, films))) == 6 * 8 * 8 * 3 // 4


def test_no_evaluation_scene_is_told_in_a_lesson(world):
    """By the words of a scene, without the end mark: the suites' own captions, where they have one."""
    read = {
        piece for name, course in COURSES.items() for p in lessons(course, 1500, 0, "lessons", name) for piece, _ in p
    }
    told = {line for text in read for line in text.removeprefix("<|user|>\n").split("\n") if line.endswith(".")}
    captions = {medium.plot.caption for medium in world[1] if medium.plot.caption}
    assert len(captions) > 100
    assert len(told) > 2000
    assert not captions & told
    assert not captions & {medium.plot.caption for medium in world[0]}
