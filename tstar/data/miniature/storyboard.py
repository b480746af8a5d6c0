"""A film told frame by frame: what a viewer has who looks now and then, and has to put together what happens."""

from tstar.data.miniature.config import SIZE
from tstar.data.miniature.film import Actor, Film, Needle, Shot
from tstar.data.miniature.render import position
from tstar.data.miniature.words import LANDMARKS, PLACES, PLURALS, join_words, with_article

EVERY = 6
"""Frames between two looks, where there is room for them: what a compressor keeps of 4 frames a second with a stride of 3."""
MOST = 12
"""Looks at a film."""


def place_word(x: float, y: float) -> str:
    """Which of the nine places a point (pixels) lies in; beside the frame, the nearest."""
    column, row = (min(2, max(0, int(value * 3 / SIZE))) for value in (x, y))
    return PLACES[3 * row + column]


def look_frames(film: Film, most: int = MOST) -> list[int]:
    """The frames looked at: up to ``most``, evenly spread over the finished film."""
    looks = max(1, min(most, film.frames // EVERY))
    return [(2 * k + 1) * film.frames // (2 * looks) for k in range(looks)]


def storyboard(film: Film, most: int = MOST) -> list[str]:
    """What is to be seen on the frames looked at, one phrase each; the film must have shots of its own."""
    return [seen(film, frame) for frame in look_frames(film, most)]


def glimpses(film: Film, most: int = MOST) -> tuple[list[int], list[int]]:
    """How many looks fall on each thing that comes and goes (needles, appearances, the anomaly), and on each scene."""
    looks = look_frames(film, most)
    base = [frame for frame in (_base_frame(film, look) for look in looks) if frame is not None]
    passing = [sum(n.start <= look < n.start + n.frames for look in looks) for n in film.needles]
    if film.anomaly:
        passing.append(_within(base, film.anomaly[1], sum(film.anomaly[1:])))
    scenes, first = [], 0
    for shot in film.shots:
        scenes.append(_within(base, first, first + shot.frames))
        passing += [_within(base, first + start, first + end) for actor in shot.actors for start, end in actor.shown]
        first += shot.frames
    return passing, scenes


def _within(frames: list[int], start: int, end: int) -> int:
    return sum(start <= frame < end for frame in frames)


def _base_frame(film: Film, frame: int) -> int | None:
    """Which frame of the shots a frame of the finished film shows; None where a picture is inserted."""
    inserted = [needle for needle in film.needles if needle.kind == "insert"]
    if any(needle.start <= frame < needle.start + needle.frames for needle in inserted):
        return None
    base = frame - sum(needle.frames for needle in inserted if needle.start < frame)
    return film.base_frames - 1 - base if film.reverse else base


def seen(film: Film, frame: int) -> str:
    """What is to be seen on a frame of the finished film."""
    here = [needle for needle in film.needles if needle.start <= frame < needle.start + needle.frames]
    base = _base_frame(film, frame)
    if base is None:
        (word,) = (needle.word for needle in here if needle.kind == "insert")
        return f"a picture of {word if word in LANDMARKS else with_article(word)}"
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
