"""Training images: scenes of one to three objects, crowds, needle pictures and subtitles; films of one frame."""

import random

from tstar.data.miniature.clips import Plot, ask_colour, ask_texture, set_scene
from tstar.data.miniature.film import Actor, Film, Needle
from tstar.data.miniature.icons import VARIANTS
from tstar.data.miniature.prompts import Question, choose, pick_count
from tstar.data.miniature.stories import tell_needles
from tstar.data.miniature.words import (
    FRUITS,
    LANDMARKS,
    NAMES,
    OBJECTS,
    PLACES,
    PLURALS,
    POOLS,
    SHAPES,
    SIZES,
    TEXTURES,
    Look,
    Side,
    cast,
    join_words,
    name_of,
    with_article,
)


def _in_cell(rng: random.Random, look: Look, cell: int, radius: int) -> Actor:
    """An actor in one of the 3 x 3 cells of the frame."""
    x, y = 16 + 32 * (cell % 3) + rng.randint(-6, 6), 16 + 32 * (cell // 3) + rng.randint(-6, 6)
    return Actor(shape=look[1], colour=look[0], radius=radius, x=x, y=y)


def _somewhere(cell: int) -> str:
    place = PLACES[cell]
    return (
        f"in the {place}"
        if place == "middle"
        else f"on the {place}"
        if place in ("left", "right")
        else f"at the {place}"
    )


def scene(rng: random.Random, side: Side) -> Plot:
    """One to three objects, each in its own place."""
    texture = rng.choice(TEXTURES)
    looks = cast(rng, side, [texture] * rng.randint(1, 3))
    cells = rng.sample(range(9), len(looks))
    sizes = rng.choices(list(SIZES), k=len(looks))
    actors = [_in_cell(rng, *item) for item in zip(looks, cells, (SIZES[size] for size in sizes), strict=True)]
    parts = [
        f"a {size} {name_of(look)} {_somewhere(cell)}" for size, look, cell in zip(sizes, looks, cells, strict=True)
    ]
    questions: list[Question] = []
    for look, cell, size in zip(looks, cells, sizes, strict=True):
        questions += [
            ask_colour(rng, look),
            choose(rng, "shape", f"What shape is {look[0]}?", look[1], SHAPES),
            choose(rng, "position", f"Where is the {name_of(look)}?", PLACES[cell], PLACES),
            Question(skill="size", text=f"Is the {name_of(look)} small or large?", answer=size),
        ]
    rng.shuffle(questions)
    questions.append(ask_texture(rng, texture))
    film = Film(kind="scene", shots=(set_scene(rng, side, texture, 1, tuple(actors)),))
    return Plot(film=film, caption=f"{join_words(parts)} on a {texture} background.", questions=tuple(questions))


def crowd(rng: random.Random, side: Side) -> Plot:
    """One to six objects of one shape and colour, and up to three others."""
    texture = rng.choice(TEXTURES)
    looks = cast(rng, side, [texture] * 2)
    number, options = pick_count(rng)
    others = rng.randint(0, 3)
    cells = rng.sample(range(9), number + others)
    actors = [_in_cell(rng, looks[0] if k < number else looks[1], cell, 11) for k, cell in enumerate(cells)]
    parts = [
        f"{amount} {look[0]} {look[1] if amount == 1 else PLURALS[look[1]]}"
        for amount, look in zip((number, others), looks, strict=True)
        if amount
    ]
    text = f"How many {PLURALS[looks[0][1]]} are there?"
    questions = (
        Question(skill="count", text=text, answer=str(number), options=options),
        ask_texture(rng, texture),
        choose(rng, "shape", f"What shape is {looks[0][0]}?", looks[0][1], SHAPES),
    )
    film = Film(kind="crowd", shots=(set_scene(rng, side, texture, 1, tuple(actors)),))
    return Plot(film=film, caption=f"{join_words(parts)} on a {texture} background.", questions=questions)


def needle_picture(rng: random.Random, side: Side) -> Plot:
    """A fruit, landmark or everyday object that fills the image."""
    pool = rng.choice(("fruit", "fruit", "landmark", "object"))
    word = rng.choice(POOLS[pool])
    variant = rng.randrange(VARIANTS)
    film = Film(
        kind="picture", shots=(), needles=(Needle(kind="insert", word=word, start=0, frames=1, variant=variant),)
    )
    text = {
        "fruit": "What kind of fruit appears in this image?",
        "landmark": "What is the name of the landmark in the picture?",
        "object": "What appears in this image?",
    }[pool]
    question = choose(rng, "picture", text, word, POOLS[pool])
    thing = word if word in LANDMARKS else with_article(word)
    return Plot(film=film, caption=f"a picture of {thing}.", questions=(question,))


def overlay(rng: random.Random, side: Side) -> Plot:
    """A scene with a secret word or with pasted pictures over it."""
    texture = rng.choice(TEXTURES)
    look = cast(rng, side, [texture])[0]
    cell = rng.randrange(3)  # the subtitle leaves the upper row free
    shot = set_scene(rng, side, texture, 1, (_in_cell(rng, look, cell, 12),))
    if rng.random() < 0.5:
        word = rng.choice(NAMES)
        needle = Needle(kind="subtitle", word=word, start=0, frames=1)
        question = choose(rng, "secret_word", "What is the secret word?", word, NAMES)
    else:
        word = rng.choice((*OBJECTS, *FRUITS))
        number, options = pick_count(rng)
        free = rng.sample([(24 * column, 40 + 28 * row) for column in range(4) for row in range(2)], number)
        spots = tuple((left + rng.randint(0, 3), top + rng.randint(0, 6)) for left, top in free)
        needle = Needle(kind="paste", word=word, start=0, frames=1, spots=spots)
        text = f"How many {PLURALS[word]} are there?"
        question = Question(skill="count", text=text, answer=str(number), options=options)
    film = Film(kind="overlay", shots=(shot,), needles=(needle,))
    caption = f"{with_article(name_of(look))} {_somewhere(cell)} on a {texture} background; {tell_needles((needle,))}"
    return Plot(film=film, caption=caption, questions=(question, ask_colour(rng, look), ask_texture(rng, texture)))


def still(rng: random.Random, side: Side) -> Plot:
    """Any of them."""
    kinds = (scene, crowd, needle_picture, overlay)
    return rng.choices(kinds, weights=(52, 16, 18, 14))[0](rng, side)
