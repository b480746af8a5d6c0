"""Films of a single shot: motion, change, action, order, counting, anomaly; each with its caption and questions.

A plot's caption says everything its questions ask for, so that the same questions can be asked about the words alone.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from tstar.data.miniature.config import SIZE
from tstar.data.miniature.film import Actor, Film, Shot
from tstar.data.miniature.prompts import Question, choose, pick_count, pick_order
from tstar.data.miniature.words import (
    ACTIONS,
    ANOMALIES,
    COLOURS,
    DIRECTIONS,
    PLURALS,
    SHAPES,
    TEXTURES,
    Look,
    Side,
    cast,
    colours_for,
    join_words,
    name_of,
    pick_palette,
    with_article,
)

PACES = {
    "slowly": (1.0, 1.0),
    "fast": (4.0, 4.0),
    "faster and faster": (0.5, 5.0),
    "slower and slower": (5.0, 0.5),
    "it stands still": (0.0, 0.0),
}
"""Speed at the start and end of a clip, pixels a frame."""
STEADY = 2.0
"""Speed where nobody asks for it."""


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A film, what it shows in words, and what can be asked about it; the question it was made for comes first."""

    film: Film
    caption: str
    questions: tuple[Question, ...]


def set_scene(rng: random.Random, side: Side, texture: str, frames: int, actors: tuple[Actor, ...]) -> Shot:
    """A shot of the actors with its own palette, background drift, swaying, light and specks."""
    drift = (round(rng.uniform(-0.6, 0.6), 2), round(rng.uniform(-0.6, 0.6), 2))
    return Shot(
        frames=frames,
        texture=texture,
        palette=pick_palette(rng, side, texture),
        actors=actors,
        drift=drift,
        sway=rng.choice((0.0, 0.0, 1.5)),
        light=(round(rng.uniform(0.8, 1.15), 2), round(rng.uniform(0.8, 1.15), 2)),
        specks=rng.randint(0, 5),
        seed=rng.getrandbits(32),
    )


def place(rng: random.Random, look: Look, radius: int = 12) -> Actor:
    """An actor that stands somewhere well inside the frame."""
    low, high = radius + 4, SIZE - radius - 4
    return Actor(shape=look[1], colour=look[0], radius=radius, x=rng.randint(low, high), y=rng.randint(low, high))


def ask_texture(rng: random.Random, texture: str) -> Question:
    return choose(rng, "background", "What is the background like?", texture, TEXTURES)


def ask_colour(rng: random.Random, look: Look) -> Question:
    return choose(rng, "colour", f"What colour is the {look[1]}?", look[0], list(COLOURS))


def ask_direction(rng: random.Random, look: Look, direction: str) -> Question:
    return choose(rng, "direction", f"Which way does the {name_of(look)} move?", direction, list(DIRECTIONS))


def ask_speed(rng: random.Random, look: Look) -> Question:
    """How fast the object moves; two of the four options are always the two that swap when time runs backwards."""
    paces = ["faster and faster", "slower and slower", *rng.sample(("slowly", "fast", "it stands still"), 2)]
    text = f"How fast does the {name_of(look)} move?"
    return Question(skill="speed", text=text, answer=rng.choice(paces), options=tuple(paces))


def motion(rng: random.Random, side: Side) -> Plot:
    """One object moves, perhaps beside others that move another way."""
    texture = rng.choice(TEXTURES)
    looks = cast(rng, side, [texture] * rng.randint(1, 3))
    direction = rng.choice(list(DIRECTIONS))
    speed = ask_speed(rng, looks[0])
    still = speed.answer == "it stands still"
    start, end = PACES[speed.answer]
    hero = replace(place(rng, looks[0]), direction="" if still else direction, speed=start, end_speed=end)
    others = [replace(place(rng, look, 7), direction=rng.choice(list(DIRECTIONS)), speed=1.5) for look in looks[1:]]
    frames = rng.randint(24, 40)
    if start > end:  # where it ends is well inside the frame, so that its slow part can be seen
        (dx, dy), way, around = DIRECTIONS[direction], (start + end) / 2 * (frames - 1), SIZE + 2 * hero.radius
        x, y = ((c - step * way + hero.radius) % around - hero.radius for c, step in ((hero.x, dx), (hero.y, dy)))
        hero = replace(hero, x=x, y=y)
    film = Film(kind="motion", shots=(set_scene(rng, side, texture, frames, (*others, hero)),))
    how = "stands still" if still else f"moves {direction} {speed.answer}"
    beside = [f"a {name_of((o.colour, o.shape))} moves {o.direction}" for o in others]
    sentence = join_words([f"{with_article(name_of(looks[0]))} {how}", *beside])
    questions = [speed, ask_texture(rng, texture), *(ask_colour(rng, look) for look in looks)]
    moves = [] if still else [ask_direction(rng, looks[0], direction)]
    moves += [ask_direction(rng, o.look, o.direction) for o in others]
    return Plot(film=film, caption=f"{sentence} on a {texture} background.", questions=(*moves, *questions))


def change(rng: random.Random, side: Side) -> Plot:
    """One object takes another colour or size while it moves."""
    texture = rng.choice(TEXTURES)
    ((_, shape),) = cast(rng, side, [texture])
    first, second = rng.sample(colours_for(side, shape, texture), 2)
    turns = (f"it turns from {first} to {second}", f"it turns from {second} to {first}")
    options = (*turns, "it grows", "it shrinks")
    what = rng.choice(options)
    hero = place(rng, (first, shape))
    if what == "it grows":
        hero = replace(hero, radius=7, end_radius=20)
    elif what == "it shrinks":
        hero = replace(hero, radius=20, end_radius=7)
    else:
        hero = replace(hero, end_colour=second)
        if what == turns[1]:
            hero = replace(hero, colour=second, end_colour=first)
    direction = rng.choice(list(DIRECTIONS))
    hero = replace(hero, direction=direction, speed=1.5)
    film = Film(kind="change", shots=(set_scene(rng, side, texture, rng.randint(24, 36), (hero,)),))
    grown = what in ("it grows", "it shrinks")
    caption = f"a {f'{first} ' if grown else ''}{shape} moves {direction} on a {texture} background and {what}."
    asked = Question(skill="attribute_change", text=f"What happens to the {shape}?", answer=what, options=options)
    way = choose(rng, "direction", f"Which way does the {shape} move?", direction, list(DIRECTIONS))
    return Plot(film=film, caption=caption, questions=(asked, way, ask_texture(rng, texture)))


def action(rng: random.Random, side: Side) -> Plot:
    """One object spins, bounces, shakes or blinks."""
    texture = rng.choice(TEXTURES)
    look = cast(rng, side, [texture])[0]
    while look[1] == "circle":  # a circle's spinning cannot be seen
        look = cast(rng, side, [texture])[0]
    what = rng.choice(ACTIONS)
    hero = replace(place(rng, look, 14), x=rng.randint(34, 62), y=rng.randint(34, 62), action=what)
    film = Film(kind="action", shots=(set_scene(rng, side, texture, rng.randint(24, 36), (hero,)),))
    asked = Question(skill="action", text=f"What does the {name_of(look)} do?", answer=what, options=ACTIONS)
    caption = f"there is {with_article(name_of(look))} on a {texture} background and {what}."
    return Plot(film=film, caption=caption, questions=(asked, ask_colour(rng, look), ask_texture(rng, texture)))


def order(rng: random.Random, side: Side, seconds: int = 6) -> Plot:
    """Four objects show themselves one after another."""
    texture = rng.choice(TEXTURES)
    looks = cast(rng, side, [texture] * 4)
    shapes, options = pick_order(rng, [shape for _, shape in looks])
    looks.sort(key=lambda look: shapes.index(look[1]))
    step = 2 * seconds
    actors = tuple(replace(place(rng, look), shown=((k * step, (k + 1) * step - 2),)) for k, look in enumerate(looks))
    film = Film(kind="order", shots=(set_scene(rng, side, texture, 4 * step, actors),))
    caption = (
        f"on a {texture} background, {', then '.join(with_article(name_of(look)) + ' appears' for look in looks)}."
    )
    text = "In what order do the shapes appear?"
    asked = Question(skill="order", text=text, answer=", ".join(shapes), options=options)
    k = rng.randrange(3)
    others = [shape for shape in shapes if shape != shapes[k]]
    pool = [*others, rng.choice([shape for shape in SHAPES if shape not in shapes])]
    more = (
        Question(skill="order", text="Which shape appears first?", answer=shapes[0], options=tuple(shapes)),
        Question(skill="order", text="Which shape appears last?", answer=shapes[3], options=tuple(shapes)),
        choose(rng, "order", f"Which shape appears right after the {shapes[k]}?", shapes[k + 1], pool),
        ask_colour(rng, looks[0]),
    )
    return Plot(film=film, caption=caption, questions=(asked, *more))


def count(rng: random.Random, side: Side, seconds: int = 9) -> Plot:
    """One object shows itself several times, others in between."""
    texture = rng.choice(TEXTURES)
    looks = cast(rng, side, [texture] * 3)
    times, options = pick_count(rng)
    events = [looks[0]] * times + [rng.choice(looks[1:]) for _ in range(rng.randint(1, 8 - times))]
    rng.shuffle(events)
    frames = 8 * seconds
    step = frames // len(events)
    actors = []
    for k, look in enumerate(events):
        start = k * step + rng.randint(0, step - 8)
        actors.append(replace(place(rng, look), shown=((start, start + 6),)))
    film = Film(kind="count", shots=(set_scene(rng, side, texture, frames, tuple(actors)),))
    listed = ", then ".join(f"{with_article(name_of(look))} appears" for look in events)
    text = f"How many times does the {name_of(looks[0])} appear?"
    asked = Question(skill="count", text=text, answer=str(times), options=options)
    first = Question(skill="order", text="Which shape appears first?", answer=events[0][1])
    questions = (asked, first, ask_texture(rng, texture))
    return Plot(film=film, caption=f"on a {texture} background, {listed}.", questions=questions)


def anomaly(rng: random.Random, side: Side, seconds: int = 6) -> Plot:
    """Objects move about, and for a second something strange happens to the whole picture."""
    texture = rng.choice(TEXTURES)
    looks = cast(rng, side, [texture] * 2)
    actors = [replace(place(rng, look), direction=rng.choice(list(DIRECTIONS)), speed=STEADY) for look in looks]
    what = rng.choice(ANOMALIES)
    frames = 8 * seconds
    start = rng.randint(8, frames - 16)
    shot = set_scene(rng, side, texture, frames, tuple(actors))
    film = Film(kind="anomaly", shots=(shot,), anomaly=(what, start, 8))
    moves = join_words([f"{with_article(name_of(a.look))} moves {a.direction}" for a in actors])
    asked = choose(rng, "anomaly", "What strange thing happens in the video?", what, ANOMALIES)
    questions = (asked, *(ask_direction(rng, a.look, a.direction) for a in actors), ask_texture(rng, texture))
    caption = f"{moves} on a {texture} background, and then {what}."
    return Plot(film=film, caption=caption, questions=questions)


def topic(rng: random.Random, side: Side, seconds: int = 10) -> Plot:
    """Five scenes; three of them are full of one shape, two of others."""
    main, minor, other, absent = rng.sample(SHAPES, 4)
    shapes = [main, main, main, minor, other]
    rng.shuffle(shapes)
    shots = []
    for shape, texture in zip(shapes, rng.sample(TEXTURES, 5), strict=True):
        colours = colours_for(side, shape, texture)
        way = rng.choice(list(DIRECTIONS))
        actors = [
            replace(place(rng, (rng.choice(colours), shape), 9), direction=way, speed=STEADY)
            for _ in range(rng.randint(3, 4))
        ]
        shots.append(set_scene(rng, side, texture, seconds * 8 // 5, tuple(actors)))
    scenes = [f"{PLURALS[shape]} on a {shot.texture} background" for shape, shot in zip(shapes, shots, strict=True)]
    options = tuple(PLURALS[shape] for shape in (main, minor, other, absent))
    asked = Question(skill="topic", text="What is this video mainly about?", answer=options[0], options=options)
    film = Film(kind="topic", shots=tuple(shots))
    first = ask_texture_of(rng, "first", shots[0].texture, [shot.texture for shot in shots])
    return Plot(film=film, caption=f"{', then '.join(scenes)}.", questions=(asked, first))


def ask_texture_of(rng: random.Random, which: str, texture: str, textures: list[str]) -> Question:
    """Which background the first or last scene has; wrong options are the other scenes' as far as they go."""
    others = list(dict.fromkeys(t for t in textures if t != texture))
    others += rng.sample([t for t in TEXTURES if t != texture and t not in others], max(0, 3 - len(others)))
    options = (texture, *rng.sample(others, 3))
    text = f"What is the background of the {which} scene like?"
    return Question(skill="background", text=text, answer=texture, options=options)


CLIPS: dict[str, Callable[[random.Random, Side], Plot]] = {
    "motion": motion,
    "change": change,
    "action": action,
    "order": order,
    "count": count,
    "anomaly": anomaly,
    "topic": topic,
}
