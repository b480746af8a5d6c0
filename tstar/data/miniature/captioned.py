"""Pictures with captions for the encoder's training, in groups whose members differ in one detail.

A batch of unrelated scenes is told apart by its colours alone; beside a near twin, what differs has to be seen: a shape, a
place, a size, a number, a word. Only combinations that training may use occur (see ``words``).
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tstar.data.miniature.clips import set_scene
from tstar.data.miniature.config import SIZE
from tstar.data.miniature.film import Actor, Film, Needle
from tstar.data.miniature.icons import VARIANTS
from tstar.data.miniature.render import render
from tstar.data.miniature.stories import NEEDLE_TYPES, needle_story, story, tell_needles
from tstar.data.miniature.storyboard import place_word
from tstar.data.miniature.words import (
    ANOMALIES,
    FRUITS,
    NAMES,
    OBJECTS,
    PLURALS,
    POOLS,
    SHAPES,
    TEXTURES,
    Side,
    background_held_out,
    cast,
    colours_for,
    join_words,
    name_of,
    pick_palette,
    with_article,
)

GROUP = 4
"""Pictures of one group."""
FIELDS = {"colour": 0.7, "shape": 0.9, "size": 0.5, "place": 0.6, "background": 0.6}
"""What a caption may tell of a scene, and how often it does; where less is told, each part of it counts more."""
CHANGES = {"colour": 1, "shape": 4, "size": 2, "place": 3, "background": 2}
"""How often the members of a group differ in this; colours and backgrounds are learnt from anything, shapes are not."""
LONGEST = 23
"""Words and commas of a base scene's caption, at most; a changed detail may add a few, and so may what lies over the scene."""
Captioned = tuple[Film, str]
"""A film of one frame and what is to be seen on it."""


@dataclass(frozen=True, kw_only=True)
class Thing:
    """An object of a scene."""

    colour: str
    shape: str
    radius: int
    x: int
    y: int

    @property
    def size(self) -> str:
        return "small" if self.radius < 11 else "large"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Objects on a background, before it is drawn; ``seed`` gives everything a caption does not tell."""

    texture: str
    palette: str
    things: tuple[Thing, ...]
    told: frozenset[str]
    """What the caption says of it, of ``FIELDS``."""
    seed: int


def scene_caption(scene: Scene) -> str:
    """``"a small red star at top left on a dotted navy background"``, or less."""
    parts = []
    for thing in scene.things:
        words = [word for field, word in (("size", thing.size), ("colour", thing.colour)) if field in scene.told]
        words.append(thing.shape if "shape" in scene.told else "thing")
        place = f" at {place_word(thing.x, thing.y)}" if "place" in scene.told else ""
        parts.append(f"{with_article(' '.join(words))}{place}")
    ground = f" on a {scene.texture} {scene.palette} background" if "background" in scene.told else ""
    return join_words(parts) + ground


def draw_scene(scene: Scene, side: Side) -> Film:
    """The scene as a film of one frame."""
    rng = random.Random(scene.seed)
    actors = tuple(Actor(shape=t.shape, colour=t.colour, radius=t.radius, x=t.x, y=t.y) for t in scene.things)
    shot = replace(set_scene(rng, side, scene.texture, 1, actors), palette=scene.palette)
    return Film(kind="scene", shots=(shot,))


def _point(rng: random.Random, others: list[tuple[int, int]]) -> tuple[int, int]:
    """A place whose object does not cover another one's centre."""
    while True:
        x, y = rng.randint(6, SIZE - 7), rng.randint(6, SIZE - 7)
        if all(abs(x - a) + abs(y - b) > 26 for a, b in others):
            return x, y


def _radius(rng: random.Random) -> int:
    return rng.choice((7, 8, 9, 12, 14, 16, 18, 20))


def random_scene(rng: random.Random, side: Side) -> Scene:
    """One to three objects."""
    texture = rng.choice(TEXTURES)
    looks = cast(rng, side, [texture] * rng.choice((1, 1, 1, 1, 2, 2, 3)))
    points: list[tuple[int, int]] = []
    for _ in looks:
        points.append(_point(rng, points))
    things = tuple(
        Thing(colour=colour, shape=shape, radius=_radius(rng), x=x, y=y)
        for (colour, shape), (x, y) in zip(looks, points, strict=True)
    )
    scene = Scene(
        texture=texture,
        palette=pick_palette(rng, side, texture),
        things=things,
        told=frozenset(),
        seed=rng.getrandbits(32),
    )
    while not scene.told or len(scene_caption(scene).replace(",", " ,").split()) > LONGEST:
        scene = replace(scene, told=frozenset(field for field, share in FIELDS.items() if rng.random() < share))
    return scene


def changed(rng: random.Random, side: Side, scene: Scene, what: str, k: int) -> Scene:
    """The scene with another colour, shape, size, place of object ``k``, or another background.

    Whatever would make a combination that is held out is drawn again; the new one may equal the old.
    """
    while True:
        thing, texture, palette = scene.things[k], scene.texture, scene.palette
        if what == "colour":
            thing = replace(thing, colour=rng.choice(colours_for(side, thing.shape, texture)))
        elif what == "shape":
            shape = rng.choice(SHAPES)
            legal = colours_for(side, shape, texture)
            thing = replace(thing, shape=shape, colour=thing.colour if thing.colour in legal else rng.choice(legal))
        elif what == "place":
            x, y = _point(rng, [(t.x, t.y) for n, t in enumerate(scene.things) if n != k])
            thing = replace(thing, x=x, y=y)
        elif what == "size":
            thing = replace(thing, radius=_radius(rng))
        else:
            texture = rng.choice(TEXTURES)
            palette = pick_palette(rng, side, texture)
        things = (*scene.things[:k], thing, *scene.things[k + 1 :])
        allowed = all(t.colour in colours_for(side, t.shape, texture) for t in things)
        if (
            allowed
            and background_held_out(texture, palette) == (side == "eval")
            and len({(t.colour, t.shape) for t in things}) == len(things)
        ):
            return replace(scene, texture=texture, palette=palette, things=things, seed=rng.getrandbits(32))


def scenes(rng: random.Random, side: Side) -> list[Captioned]:
    """A scene and others whose captions differ from its in one detail."""
    base = random_scene(rng, side)
    what = rng.choices(sorted(base.told), weights=[CHANGES[field] for field in sorted(base.told)])[0]
    k = rng.randrange(len(base.things))
    group = [base]
    for _ in range(20):
        scene = changed(rng, side, base, what, k)
        if scene_caption(scene) not in [scene_caption(other) for other in group]:
            group.append(scene)
        if len(group) == GROUP:
            break
    while len(group) < GROUP:  # two sizes, say, are no four
        group.append(changed(rng, side, rng.choice(group), what, k))
    return [(draw_scene(scene, side), scene_caption(scene)) for scene in group]


def shapes(rng: random.Random, side: Side) -> list[Captioned]:
    """One object in different shapes, and little else told."""
    base = random_scene(rng, side)
    told = frozenset(("shape", "place") if rng.random() < 0.5 else ("shape",))
    base = replace(base, things=base.things[:1], told=told)
    group = [base]
    while len(group) < GROUP:
        scene = changed(rng, side, base, "shape", 0)
        if scene.things[0].shape not in [other.things[0].shape for other in group]:
            group.append(scene)
    return [(draw_scene(scene, side), scene_caption(scene)) for scene in group]


def crowds(rng: random.Random, side: Side) -> list[Captioned]:
    """Different numbers of equal objects, perhaps beside others."""
    texture = rng.choice(TEXTURES)
    first, second = cast(rng, side, [texture] * 2)
    palette = pick_palette(rng, side, texture)
    more = rng.randint(0, 3)
    group = []
    for number in rng.sample(range(1, 7), GROUP):
        looks = [first] * number + [second] * more
        cells = rng.sample(range(9), len(looks))
        actors = tuple(
            Actor(
                shape=look[1],
                colour=look[0],
                radius=rng.randint(9, 12),
                x=16 + 32 * (cell % 3) + rng.randint(-3, 3),
                y=16 + 32 * (cell // 3) + rng.randint(-3, 3),
            )
            for look, cell in zip(looks, cells, strict=True)
        )
        shot = replace(set_scene(rng, side, texture, 1, actors), palette=palette)
        parts = [
            f"{n} {look[0]} {look[1] if n == 1 else PLURALS[look[1]]}"
            for n, look in ((number, first), (more, second))
            if n
        ]
        group.append((Film(kind="crowd", shots=(shot,)), f"{join_words(parts)} on a {texture} {palette} background"))
    return group


def pictures(rng: random.Random, side: Side) -> list[Captioned]:
    """Fruits, landmarks or everyday objects that fill the frame."""
    pool = POOLS[rng.choice(("fruit", "fruit", "landmark", "object"))]
    group = []
    for word in rng.sample(pool, GROUP):
        needle = Needle(kind="insert", word=word, start=0, frames=1, variant=rng.randrange(VARIANTS))
        thing = word if pool == POOLS["landmark"] else with_article(word)
        group.append((Film(kind="picture", shots=(), needles=(needle,)), f"a picture of {thing}"))
    return group


def overlays(rng: random.Random, side: Side) -> list[Captioned]:
    """One scene under different secret words, or under different numbers of pasted pictures."""
    scene = random_scene(rng, side)
    caption, film = scene_caption(scene), draw_scene(scene, side)
    if rng.random() < 0.6:
        needles = [Needle(kind="subtitle", word=word, start=0, frames=1) for word in rng.sample(NAMES, GROUP)]
    else:
        words = rng.sample((*OBJECTS, *FRUITS), 2)
        needles = []
        for number, word in zip(rng.sample(range(1, 7), GROUP), words * GROUP, strict=False):
            cells = rng.sample([(column, row) for column in range(4) for row in range(4)], number)
            spots = tuple((24 * column + rng.randint(0, 4), 24 * row + rng.randint(0, 4)) for column, row in cells)
            needles.append(Needle(kind="paste", word=word, start=0, frames=1, spots=spots))
    return [(replace(film, needles=(n,)), f"{tell_needles((n,))[:-1]} over {caption}") for n in needles]


def anomalies(rng: random.Random, side: Side) -> list[Captioned]:
    """One scene as it is and under what can happen to a whole picture."""
    scene = random_scene(rng, side)
    film, caption = draw_scene(scene, side), scene_caption(scene)
    group = [(film, caption)]
    # a shaking picture is no different on a single frame
    for what in rng.sample([a for a in ANOMALIES if a != "the picture shakes"], GROUP - 1):
        blank = what.endswith(("black", "white"))
        group.append((replace(film, anomaly=(what, 0, 1)), what if blank else f"{what}: {caption}"))
    return group


def film_frames(rng: random.Random, side: Side) -> list[Captioned]:
    """Frames of stories with needles in them, told as they stand there."""
    group = []
    for _ in range(GROUP):
        kind = rng.choice(NEEDLE_TYPES)
        film = (needle_story(rng, side, kind, 1) if rng.random() < 0.4 else story(rng, side, 1, 30)).film
        group.append(freeze(rng, film))
    return group


def freeze(rng: random.Random, film: Film) -> Captioned:
    """One moment of a story of a single scene."""
    (shot,) = film.shots
    (actor,) = shot.actors
    texture, palette = shot.texture, shot.palette
    shown = f"{with_article(name_of(actor.look))} on a {texture} {palette} background"
    still = Film(kind="scene", shots=(replace(shot, frames=1, seed=rng.getrandbits(32)),))
    needle = rng.choice(film.needles) if film.needles else None
    if needle is None:
        return still, shown
    needle = replace(needle, start=0, frames=1)
    if needle.kind == "insert":
        return Film(kind="picture", shots=(), needles=(needle,)), tell_needles((needle,)).replace(" appears.", "")
    return replace(still, needles=(needle,)), f"{tell_needles((needle,))[:-1]} over {shown}"


Maker = Callable[[random.Random, Side], list[Captioned]]
COURSES: dict[str, dict[Maker, int]] = {
    "shapes": {shapes: 1},
    "whole": {scenes: 62, crowds: 8, pictures: 8, overlays: 12, anomalies: 4, film_frames: 6},
}
"""Shares of the kinds of groups; shapes come first, because beside everything else they are hardly ever learnt."""


def captioned_group(rng: random.Random, side: Side, course: str = "whole") -> list[Captioned]:
    """Four pictures of one kind with their captions."""
    makers, weights = zip(*COURSES[course].items(), strict=True)
    return rng.choices(makers, weights=weights)[0](rng, side)


def draw(films: Sequence[Captioned]) -> tuple[np.ndarray, list[str]]:
    """Pictures uint8 [n, S, S, 3] of films of one frame, and their captions."""
    return np.stack([render(film)[0] for film, _ in films]), [caption for _, caption in films]
