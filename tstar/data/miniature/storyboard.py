"""A film told frame by frame: what a viewer has who looks now and then, and has to put together what happens."""

from tstar.data.miniature.config import SIZE
from tstar.data.miniature.film import Actor, Film, Needle, Shot
from tstar.data.miniature.render import position
from tstar.data.miniature.words import LANDMARKS, PLACES, PLURALS, join_words, with_article

EVERY = 6
"""Frames between two looks, where there is room for them: what a compressor keeps of 4 frames a second with a stride of 3."""


def place_word(x: float, y: float) -> str:
    """Which of the nine places a point (pixels) lies in; beside the frame, the nearest."""
    column, row = (min(2, max(0, int(value * 3 / SIZE))) for value in (x, y))
    return PLACES[3 * row + column]


def storyboard(film: Film, most: int = 8) -> list[str]:
    """What is to be seen on up to ``most`` frames, evenly spread, one phrase each."""
    looks = max(1, min(most, film.frames // EVERY))
    return [seen(film, (2 * k + 1) * film.frames // (2 * looks)) for k in range(looks)]


def seen(film: Film, frame: int) -> str:
    """What is to be seen on a frame of the finished film, which must have shots of its own."""
    here = [needle for needle in film.needles if needle.start <= frame < needle.start + needle.frames]
    for needle in here:
        if needle.kind == "insert":
            return f"a picture of {needle.word if needle.word in LANDMARKS else with_article(needle.word)}"
    inserted = [n for n in film.needles if n.kind == "insert"]
    base = frame - sum(max(0, min(n.frames, frame - n.start)) for n in inserted)
    base = film.base_frames - 1 - base if film.reverse else base
    what = ""
    if film.anomaly and film.anomaly[1] <= base < sum(film.anomaly[1:]):
        what = film.anomaly[0]
    if what.endswith(("black", "white")):
        return what
    for shot in film.shots:
        if base < shot.frames:
            break
        base -= shot.frames
    parts = [_told(actor, base, shot) for actor in shot.actors if _visible(actor, base)]
    scene = f"{join_words(parts)} on a {shot.texture} background" if parts else f"a {shot.texture} background"
    return "; ".join([scene, *map(_overlay, here), *([what] if what else [])])


def _visible(actor: Actor, frame: int) -> bool:
    shown = not actor.shown or any(start <= frame < end for start, end in actor.shown)
    return shown and not (actor.action == "it blinks" and frame % 8 >= 4)


def _told(actor: Actor, frame: int, shot: Shot) -> str:
    """``"a red star at the left"``, as it is on this frame of its shot; with its size if that changes."""
    radius = actor.radius + (actor.end_radius - actor.radius) * frame / max(1, shot.frames - 1)
    colour = actor.end_colour if actor.end_colour and 2 * frame >= shot.frames else actor.colour
    size = [] if not actor.end_radius else ["small"] if radius < 11 else ["large"]
    thing = with_article(" ".join([*size, colour, actor.shape]))
    return f"{thing} at the {place_word(*position(actor, frame, shot.frames))}"


def _overlay(needle: Needle) -> str:
    if needle.kind == "subtitle":
        return f"the secret word {needle.word}"
    number = len(needle.spots)
    return f"{number} {needle.word if number == 1 else PLURALS[needle.word]}"
