"""The encoder's pictures: captions say what the drawing holds, groups differ in one detail, held-out looks stay on their side."""

import re
from collections import Counter

import numpy as np
import pytest

from tstar.data.miniature import captioned
from tstar.data.miniature.captioned import (
    COURSES,
    captioned_group,
    draw,
    draw_scene,
    random_scene,
    scene_caption,
    scenes,
)
from tstar.data.miniature.seeds import item_rng
from tstar.data.miniature.words import (
    ACTIONS,
    ANOMALIES,
    FRUITS,
    LANDMARKS,
    NAMES,
    OBJECTS,
    background_held_out,
    held_out,
)

COLOURS = "red|green|blue|yellow|orange|purple|pink|white"
SHAPES = "circle|square|triangle|star|heart|cross"
TEXTURES = "plain|striped|checkered|dotted|wavy|zigzag|gridded|cloudy"
ROWS, COLUMNS = ("top", "", "bottom"), ("left", "", "right")
SIDES = ("train", "eval")
OBJECT = re.compile(rf"an? (small |large )?((?:{COLOURS}) )?({SHAPES}|thing)(?: at ([a-z ]+))?")


def groups(side, number, seed=0, course="whole"):
    return [captioned_group(item_rng(seed, "captioned tests", side, k), side, course) for k in range(number)]


@pytest.fixture(scope="module", params=SIDES)
def many(request):
    return request.param, [group for course in COURSES for group in groups(request.param, 1500, course=course)]


def cell(x, y):
    row, column = next(k for k in range(3) if y < 32 * (k + 1)), next(k for k in range(3) if x < 32 * (k + 1))
    return f"{ROWS[row]} {COLUMNS[column]}".strip() or "middle"


def triples(film):
    return {(a.shape, a.colour, shot.texture) for shot in film.shots for a in shot.actors}


def grounds(film):
    return {(shot.texture, shot.palette) for shot in film.shots}


def test_groups_have_four_pictures_of_one_frame(many):
    _, found = many
    for group in found:
        assert len(group) == 4
        for film, caption in group:
            assert film.frames == 1
            assert re.fullmatch(r"[A-Za-z0-9 ,:]+", caption), caption


def test_looks_stay_on_their_side_and_every_word_occurs(many):
    side, found = many
    seen = set().union(*(triples(film) for group in found for film, _ in group))
    backgrounds = set().union(*(grounds(film) for group in found for film, _ in group))
    assert {held_out(*look) for look in seen} == {side == "eval"}
    assert {background_held_out(*ground) for ground in backgrounds} == {side == "eval"}
    assert len(seen) > 0.9 * 6 * 8 * 8 * (0.25 if side == "eval" else 0.75)
    assert len(backgrounds) == 8 * 4 * (0.25 if side == "eval" else 0.75)
    text = {word for group in found for _, caption in group for word in re.findall(r"\w+", caption)}
    assert {*f"{COLOURS}|{SHAPES}|{TEXTURES}".split("|")} <= text
    assert {*NAMES, *["small", "large", "middle"]} <= text
    assert {word for name in (*FRUITS, *LANDMARKS, *OBJECTS) for word in name.split()} <= text


def scene_facts(film, caption):
    """A caption of random objects, read against the film: a list of (what is said, what is there)."""
    (shot,) = film.shots
    *objects, ground = re.split(r" on (?=a \w+ \w+ background)", caption) if "background" in caption else (caption, "")
    parts = re.split(r", | and ", objects[0])
    assert len(parts) == len(shot.actors), caption
    facts = []
    for part, actor in zip(parts, shot.actors, strict=True):
        match = OBJECT.fullmatch(part)
        assert match, caption
        size, colour, shape, place = match.groups()
        facts += [(size.strip(), "small" if actor.radius <= 10 else "large")] if size else []
        facts += [(colour.strip(), actor.colour)] if colour else []
        facts += [(shape, actor.shape)] if shape != "thing" else []
        facts += [(place, cell(actor.x, actor.y))] if place else []
    facts += [(ground, f"a {shot.texture} {shot.palette} background")] if ground else []
    return facts


def test_scene_captions_are_true_to_what_is_drawn():
    told = Counter()
    for k in range(600):
        side = SIDES[k % 2]
        scene = random_scene(item_rng("scene", k), side)
        film, caption = draw_scene(scene, side), scene_caption(scene)
        facts = scene_facts(film, caption)
        assert facts, caption
        assert all(said == there for said, there in facts), (caption, film)
        told[len(scene.told)] += 1
        shot = film.shots[0]
        assert (shot.texture, shot.palette) == (scene.texture, scene.palette)
    assert set(told) >= {1, 2, 3}


def test_crowds_count_what_is_drawn():
    for k in range(200):
        group = captioned.crowds(item_rng("crowd", k), SIDES[k % 2])
        numbers = []
        for film, caption in group:
            (shot,) = film.shots
            crowd, ground = caption.split(" on a ")
            assert ground == f"{shot.texture} {shot.palette} background"
            said = {}
            for part in crowd.split(" and "):
                number, colour, shape = part.split()
                said[colour, shape if number == "1" else shape.removesuffix("es" if shape == "crosses" else "s")] = int(
                    number
                )
            assert said == Counter((a.colour, a.shape) for a in shot.actors)
            assert len({cell(a.x, a.y) for a in shot.actors}) == len(shot.actors)
            numbers.append(next(iter(said.values())))
        assert len(set(numbers)) == 4


def needle_words(needle):
    """What a picture with this needle is said to show, by hand."""
    article = "" if needle.word in (*LANDMARKS, "grapes") else "an " if needle.word[0] in "aeiou" else "a "
    if needle.kind == "subtitle":
        return f"the secret word {needle.word} is shown"
    if needle.kind == "insert":
        return f"a picture of {article}{needle.word}"
    plural = {
        "strawberry": "strawberries",
        "blueberry": "blueberries",
        "mango": "mangoes",
        "peach": "peaches",
        "grapes": "grapes",
    }
    number = len(needle.spots)
    return f"{number} {needle.word if number == 1 else plural.get(needle.word, needle.word + 's')} are pasted in"


def test_pictures_overlays_and_anomalies_are_told_as_they_are(many):
    _, found = many
    kinds = Counter()
    for group in found:
        for film, caption in group:
            if film.needles:
                (needle,) = film.needles
                assert (needle.start, needle.frames) == (0, 1)
                kinds[needle.kind] += 1
                assert caption.split(" over ")[0] == needle_words(needle)
                rest = caption.split(" over ")[1:]
            elif film.anomaly:
                what, start, frames = film.anomaly
                assert (start, frames) == (0, 1)
                assert what in ANOMALIES
                assert caption.split(": ")[0] == what
                kinds["anomaly"] += 1
                rest = caption.split(": ")[1:]
                assert bool(rest) == (not what.startswith("the screen"))
            else:
                rest = [caption]
                kinds["plain"] += 1
            for scene in rest:
                if film.kind == "scene" and film.shots:
                    assert all(said == there for said, there in scene_facts(film, scene)), caption
    assert min(kinds.values()) > 30
    assert set(kinds) == {"subtitle", "insert", "paste", "anomaly", "plain"}


def parts_of(caption):
    """What a scene's caption says of each object, field by field."""
    scene, _, ground = caption.partition(" on a ")
    found = []
    for part in re.split(r", | and ", scene):
        match = OBJECT.fullmatch(part)
        found += [(k, word) for k, word in enumerate(match.groups())]
    return [*found, (4, ground)]


@pytest.mark.parametrize("side", SIDES)
def test_members_of_a_group_of_scenes_differ_in_one_detail_of_one_object(side):
    """A shape may bring its colour along: with the old one it could be a combination that the side may not use."""
    details, distinct = Counter(), Counter()
    for k in range(1000):
        captions = [caption for _, caption in scenes(item_rng("details", k), side)]
        distinct[len(set(captions))] += 1
        base = parts_of(captions[0])
        changed = set()
        for caption in captions[1:]:
            other = parts_of(caption)
            assert len(other) == len(base)
            changed |= {place for place, (a, b) in enumerate(zip(base, other, strict=True)) if a != b}
        assert len({place // 4 for place in changed}) <= 1, captions  # one object, or the background
        fields = frozenset(base[place][0] for place in changed)
        assert len(fields) <= 1 or fields == {1, 2}, captions
        details[fields] += 1
    assert set().union(*details) == {0, 1, 2, 3, 4}
    shapes = details[frozenset({2})] + details[frozenset({1, 2})]
    assert shapes > max(n for fields, n in details.items() if 2 not in fields)  # shapes are what is hard to learn
    assert distinct[4] > 600
    assert distinct[1] < 50


@pytest.mark.parametrize("side", SIDES)
def test_groups_of_shapes_tell_four_shapes_of_one_object(side):
    for k in range(300):
        group = captioned.shapes(item_rng("shapes", k), side)
        (place, *others) = {caption.partition(" at ")[2] for _, caption in group}
        assert not others
        named = []
        for film, caption in group:
            (actor,) = film.shots[0].actors
            assert caption == f"a {actor.shape}" + (f" at {cell(actor.x, actor.y)}" if place else "")
            named.append(actor.shape)
        assert len(set(named)) == 4


def test_the_same_seed_gives_the_same_pictures_and_another_others():
    one, again, other = (draw([pair for group in groups("train", 3, seed) for pair in group]) for seed in (0, 0, 1))
    assert one[0].shape == (12, 96, 96, 3)
    assert one[0].dtype == np.uint8
    assert np.array_equal(one[0], again[0])
    assert one[1] == again[1]
    assert not np.array_equal(one[0], other[0])
    assert one[1] != other[1]


def test_what_differs_is_to_be_seen():
    """Two pictures of a group whose captions differ are no equal pixels, and no caption leads to a single flat picture."""
    for group in groups("train", 60, seed=5):
        pictures, captions = draw(group)
        for a in range(4):
            for b in range(a):
                if captions[a] != captions[b]:
                    assert not np.array_equal(pictures[a], pictures[b]), (captions[a], captions[b])


def test_actions_are_no_matter_of_single_pictures(many):
    _, found = many
    told = [action.removeprefix("it ") for action in ACTIONS]
    assert not any(action in caption for group in found for _, caption in group for action in told)
