"""Films of several scenes, and needles hidden in films after VideoNIAH (arXiv:2406.09367)."""

import random
from dataclasses import replace

from tstar.data.miniature.clips import STEADY, Plot, ask_direction, ask_texture_of, place, set_scene
from tstar.data.miniature.config import NEEDLE_FRAMES
from tstar.data.miniature.film import Film, Needle
from tstar.data.miniature.icons import VARIANTS
from tstar.data.miniature.prompts import Question, choose, pick_count, pick_order, pick_total
from tstar.data.miniature.words import (
    COLOURS,
    DIRECTIONS,
    FRUITS,
    LANDMARKS,
    NAMES,
    OBJECTS,
    PLURALS,
    SHAPES,
    TEXTURES,
    Side,
    cast,
    name_of,
    needle_start_held_out,
    with_article,
)

NEEDLE_TYPES = (
    *("ret_edit1", "ret_insert1", "ret_insert2", "ord_edit1", "ord_insert1"),
    *("ord_insert2", "cnt_edit1", "cnt_edit2", "cnt_insert1"),
)
_GAP = 2
"""Frames that stay free between two needles."""


def story(rng: random.Random, side: Side, scenes: int, scene_frames: int) -> Plot:
    """Scenes with different backgrounds (up to eight), one moving object in each."""
    textures = rng.sample(TEXTURES, scenes)
    looks = cast(rng, side, textures)
    shots, ways = [], []
    for look, texture in zip(looks, textures, strict=True):
        ways.append(rng.choice(list(DIRECTIONS)))
        actor = replace(place(rng, look), direction=ways[-1], speed=STEADY)
        shots.append(set_scene(rng, side, texture, scene_frames + rng.randint(-2, 2), (actor,)))
    shapes = [shape for _, shape in looks]
    rest = list(dict.fromkeys(shapes))
    rest += rng.sample([shape for shape in SHAPES if shape not in rest], max(0, 4 - len(rest)))
    colours = [colour for colour, _ in looks]
    k = rng.randrange(scenes)
    backgrounds = list(dict.fromkeys(textures))
    backgrounds += rng.sample([t for t in TEXTURES if t not in backgrounds], max(0, 4 - len(backgrounds)))
    questions = [
        choose(rng, "plot", f"What shape appears on the {textures[k]} background?", shapes[k], rest),
        ask_direction(rng, looks[k], ways[k]),
        ask_texture_of(rng, "first", textures[0], textures),
        ask_texture_of(rng, "last", textures[-1], textures),
        choose(rng, "order", "Which shape appears first?", shapes[0], rest),
        choose(rng, "order", "Which shape appears last?", shapes[-1], rest),
    ]
    # never by colour and shape together: with the background they make the triples that are held out
    lonely = [(colour, t) for colour, t in zip(colours, textures, strict=True) if colours.count(colour) == 1]
    lonely += [(shape, t) for shape, t in zip(shapes, textures, strict=True) if shapes.count(shape) == 1]
    if lonely:
        word, texture = rng.choice(lonely)
        text = f"What is the background like when the {word if word in SHAPES else f'{word} shape'} appears?"
        questions.insert(1, choose(rng, "plot", text, texture, backgrounds))
    if shapes.count(shapes[k]) == 1:
        questions.append(choose(rng, "colour", f"What colour is the {shapes[k]}?", looks[k][0], list(COLOURS)))
    parts = [
        f"{with_article(name_of(look))} moves {way} on a {texture} background"
        for look, way, texture in zip(looks, ways, textures, strict=True)
    ]
    caption = f"{', then '.join(parts)}."
    return Plot(film=Film(kind="story", shots=tuple(shots)), caption=caption, questions=tuple(questions))


def needle_starts(rng: random.Random, side: Side, frames: int, number: int) -> list[int]:
    """First frames of needles that do not touch, in a finished video of ``frames``, at random."""
    snap = 2  # a start moves on by up to this, to a frame that the side may use
    slack = frames - 4 - number * (NEEDLE_FRAMES + _GAP + snap)
    if slack < 0:
        raise ValueError(f"{number} needles do not fit into {frames} frames")
    starts = []
    for k, extra in enumerate(sorted(rng.randint(0, slack) for _ in range(number))):
        start = 4 + extra + k * (NEEDLE_FRAMES + _GAP + snap)
        while needle_start_held_out(start) != (side == "eval"):
            start += 1
        starts.append(start)
    return starts


def _spots(rng: random.Random, number: int) -> tuple[tuple[int, int], ...]:
    cells = rng.sample([(column, row) for column in range(4) for row in range(4)], number)
    return tuple((24 * column + rng.randint(0, 4), 24 * row + rng.randint(0, 4)) for column, row in cells)


def _split_total(rng: random.Random, total: int) -> list[int]:
    while True:
        parts = [rng.randint(1, 4) for _ in range(3)]
        if 1 <= total - sum(parts) <= 4:
            return [*parts, total - sum(parts)]


def _needle_words(rng: random.Random, kind: str) -> tuple[list[str], list[int], Question]:
    """Words in order of appearance, how many pictures each pastes (0: not pasted), and the question."""
    if kind == "cnt_edit2":
        word = rng.choice(OBJECTS)
        total, options = pick_total(rng)
        things = PLURALS[word]
        text = (
            f"Some {things} were inserted into 4 small sections of the video. "
            f"How many {things} appeared in the video in total?"
        )
        return [word] * 4, _split_total(rng, total), Question(skill=kind, text=text, answer=str(total), options=options)
    if kind.startswith("cnt"):
        number, options = pick_count(rng)
        word = rng.choice((*FRUITS, *OBJECTS))
        things = "secret words" if kind == "cnt_edit1" else PLURALS[word]
        text = f"How many {things} appeared in the video?"
        words = rng.choices(NAMES, k=number) if kind == "cnt_edit1" else [word] * number
        return words, [0] * number, Question(skill=kind, text=text, answer=str(number), options=options)
    pool, text = {
        "ret_edit1": (NAMES, "What is the secret word?"),
        "ret_insert1": (LANDMARKS, "What is the name of the landmark in the picture?"),
        "ret_insert2": (FRUITS, "What kind of fruit appears in this video?"),
        "ord_edit1": (NAMES, "What is the order of the secret words that appeared in the video?"),
        "ord_insert1": (FRUITS, "What is the order of fruits appearing in the video?"),
        "ord_insert2": (OBJECTS, "What is the order of images appearing in the video?"),
    }[kind]
    if kind.startswith("ret"):
        word = rng.choice(pool)
        return [word], [0], choose(rng, kind, text, word, pool)
    words, options = pick_order(rng, rng.sample(pool, 4))
    return words, [0] * 4, Question(skill=kind, text=text, answer=", ".join(words), options=options)


def hide(rng: random.Random, side: Side, film: Film, kind: str) -> tuple[Film, Question]:
    """The film with needles of the VNBench type in it, and the question about them."""
    words, pasted, question = _needle_words(rng, kind)
    inserted = "insert" in kind
    frames = film.base_frames + (len(words) * NEEDLE_FRAMES if inserted else 0)
    starts = needle_starts(rng, side, frames, len(words))
    needles = tuple(
        Needle(
            kind="insert" if inserted else "paste" if spots else "subtitle",
            word=word,
            start=start,
            frames=NEEDLE_FRAMES,
            spots=_spots(rng, spots),
            variant=rng.randrange(VARIANTS) if inserted else 0,
        )
        for word, spots, start in zip(words, pasted, starts, strict=True)
    )
    return replace(film, kind=f"needle_{kind}", needles=needles), question


def tell_needles(needles: tuple[Needle, ...]) -> str:
    """The needles in words, one after the other."""
    parts = []
    for needle in needles:
        if needle.kind == "subtitle":
            parts.append(f"the secret word {needle.word} is shown")
        elif needle.kind == "insert":
            thing = needle.word if needle.word in LANDMARKS else with_article(needle.word)
            parts.append(f"a picture of {thing} appears")
        else:
            number = len(needle.spots)
            parts.append(f"{number} {needle.word if number == 1 else PLURALS[needle.word]} are pasted in")
    return f"{', then '.join(parts)}."


def needle_story(rng: random.Random, side: Side, kind: str, scenes: int | None = None, scene_frames: int = 0) -> Plot:
    """A story with needles of the VNBench type; the haystack is long enough for six of them, its scenes for ``scene_frames``."""
    scenes = scenes or rng.randint(1, 4)
    needs = {"cnt_edit1": 80, "cnt_edit2": 60, "ord_edit1": 60}.get(kind, 32)
    told = story(rng, side, scenes, max(16, needs // scenes + 3, scene_frames))
    film, question = hide(rng, side, told.film, kind)
    caption = f"{told.caption} in the video, {tell_needles(film.needles)}"
    return Plot(film=film, caption=caption, questions=(question, *rng.sample(told.questions, 3)))
