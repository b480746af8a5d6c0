"""From a film to pixels."""

import math

import numpy as np

from tstar.data.miniature.config import SIZE
from tstar.data.miniature.drawing import background, sprite, stamp
from tstar.data.miniature.film import Actor, Film, Needle, Shot
from tstar.data.miniature.icons import PASTE, picture, small_picture
from tstar.data.miniature.lettering import draw_subtitle
from tstar.data.miniature.seeds import noise
from tstar.data.miniature.words import DIRECTIONS


def travelled(actor: Actor, frame: int, frames: int) -> float:
    """Pixels an actor has moved by ``frame`` of a shot of ``frames``; its speed changes evenly."""
    end = actor.speed if actor.end_speed is None else actor.end_speed
    return actor.speed * frame + (end - actor.speed) * frame * frame / (2 * max(1, frames - 1))


def position(actor: Actor, frame: int, frames: int) -> tuple[float, float]:
    """Centre of an actor; one that leaves on one side comes back on the other."""
    x, y = actor.x, actor.y
    if actor.direction:
        dx, dy = DIRECTIONS[actor.direction]
        way, around, edge = travelled(actor, frame, frames), SIZE + 2 * actor.radius, actor.radius
        x, y = (x + dx * way + edge) % around - edge, (y + dy * way + edge) % around - edge
    swing = 14 * math.sin(2 * math.pi * frame / 10)
    if actor.action == "it bounces up and down":
        y += swing
    elif actor.action == "it shakes from side to side":
        x += swing
    return x, y


def _draw_actor(pixels: np.ndarray, actor: Actor, frame: int, frames: int, sway: tuple[float, float]) -> None:
    if actor.shown and not any(start <= frame < end for start, end in actor.shown):
        return
    if actor.action == "it blinks" and frame % 8 >= 4:
        return
    radius = actor.radius
    if actor.end_radius:
        radius = round(radius + (actor.end_radius - radius) * frame / max(1, frames - 1))
    colour = actor.end_colour if actor.end_colour and frame * 2 >= frames else actor.colour
    degrees = frame * 15 % 360 if actor.action == "it spins" else 0
    x, y = position(actor, frame, frames)
    paint, cover = sprite(actor.shape, colour, radius, degrees)
    half = paint.shape[0] / 2
    # floor, not round: halves go to the even side there, and a steady object would hop by 0 and 2 pixels
    stamp(pixels, paint, cover, math.floor(x + sway[0] - half + 0.5), math.floor(y + sway[1] - half + 0.5))


def _render_shot(shot: Shot) -> list[np.ndarray]:
    tile = background(shot.texture, shot.palette, shot.seed)
    numbers = noise(shot.seed + 2, shot.specks, 5)
    frames = []
    for frame in range(shot.frames):
        turn = 2 * math.pi * (frame / 40 + shot.seed % 7 / 7)
        sway = shot.sway * math.sin(turn), shot.sway * math.cos(turn)
        shift = round(shot.drift[1] * frame + sway[1]), round(shot.drift[0] * frame + sway[0])
        pixels = np.roll(tile, shift, axis=(0, 1))
        for x, y, dx, dy, tone in numbers:
            left, top = int((x * SIZE + (dx - 0.5) * frame) % SIZE), int((y * SIZE + (dy - 0.5) * frame) % SIZE)
            pixels[top : top + 2, left : left + 2] = 40 + 140 * tone
        for actor in shot.actors:
            _draw_actor(pixels, actor, frame, shot.frames, sway)
        dark, light = shot.light
        pixels *= dark + (light - dark) * frame / max(1, shot.frames - 1)
        frames.append(np.clip(pixels, 0, 255).astype(np.uint8))
    return frames


def _apply_anomaly(pixels: np.ndarray, what: str, frame: int) -> np.ndarray:
    """One frame [SIZE, SIZE, 3] with the anomaly on it; ``frame`` counts from the anomaly's start."""
    if what == "the screen turns black":
        return np.zeros_like(pixels)
    if what == "the screen turns white":
        return np.full_like(pixels, 255)
    if what == "the colours are inverted":
        return 255 - pixels
    if what == "the picture loses its colours":
        red, green, blue = np.moveaxis(pixels.astype(np.float32), 2, 0)
        grey = 0.299 * red + 0.587 * green + 0.114 * blue
        return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)
    if what == "the picture shakes":
        return np.roll(pixels, (12 if frame % 2 else -12, 8 if frame % 4 < 2 else -8), axis=(0, 1))
    blocks = pixels.reshape(SIZE // 16, 16, SIZE // 16, 16, 3).mean(axis=(1, 3))
    return np.repeat(np.repeat(blocks, 16, axis=0), 16, axis=1).astype(np.uint8)


def _draw_needle(pixels: np.ndarray, needle: Needle) -> None:
    if needle.kind == "subtitle":
        draw_subtitle(pixels, needle.word)
    for left, top in needle.spots:
        pixels[top : top + PASTE, left : left + PASTE] = small_picture(needle.word)


def render(film: Film, source: np.ndarray | None = None) -> np.ndarray:
    """All frames of a film, [film.frames, SIZE, SIZE, 3] (uint8).

    Args:
        source: frames [film.source_frames, SIZE, SIZE, 3] of the user's video, for a film that stands on one.
    """
    base = list(source) if source is not None else [frame for shot in film.shots for frame in _render_shot(shot)]
    if film.anomaly:
        what, start, length = film.anomaly
        for frame in range(start, start + length):
            base[frame] = _apply_anomaly(base[frame], what, frame - start)
    if film.reverse:
        base.reverse()
    finished: list[np.ndarray] = []
    rest = iter(base)
    for frame in range(film.frames):
        here = [needle for needle in film.needles if needle.start <= frame < needle.start + needle.frames]
        inserted = [needle for needle in here if needle.kind == "insert"]
        if inserted:
            finished.append(picture(inserted[0].word, inserted[0].variant))
            continue
        pixels = next(rest)
        if here:
            pixels = pixels.copy()
            for needle in here:
                _draw_needle(pixels, needle)
        finished.append(pixels)
    return np.stack(finished)
