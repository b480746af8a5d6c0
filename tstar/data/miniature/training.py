"""Training records in LLaVA's format: captions, open questions, and lettered questions in the suites' own words."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tstar.data.miniature.clips import CLIPS, Plot, anomaly, count, order, topic
from tstar.data.miniature.config import WorldConfig
from tstar.data.miniature.prompts import FORMATS, MLVU_SYSTEM, Question, arrange, prompt, reply
from tstar.data.miniature.seeds import item_rng
from tstar.data.miniature.stills import still
from tstar.data.miniature.stories import NEEDLE_TYPES, needle_story, story
from tstar.data.miniature.words import Side

DESCRIBE_IMAGE = ("Describe the image.", "What does the image show?", "Write a caption for this image.")
DESCRIBE_VIDEO = ("Describe the video.", "What happens in the video?", "Write a caption for this video.")
_KINDS = (*CLIPS, "story", *NEEDLE_TYPES)
_WEIGHTS = [{"motion": 3, "change": 3, "action": 2, "order": 3, "count": 3, "story": 4}.get(kind, 2) for kind in _KINDS]
_IMAGE_FORMATS = [style for style in FORMATS if style != "videomme"]  # that one speaks of a video
Turn = dict[str, str]
Record = dict[str, Any]


def training_plot(rng: random.Random, side: Side, *, longest: bool = False, kinds: Sequence[str] = ()) -> Plot:
    """A film of any kind, or of one of these, 3 to 16 s long; with ``longest``, up to 26 s, as long as any in the suites.

    The longer a film, the further apart are the frames that are looked at; what passes in a second is then seen once, and not
    on a frame that the compressor keeps.
    """
    kind = rng.choice(kinds) if kinds else rng.choices(_KINDS, weights=_WEIGHTS)[0]
    if kind == "story":
        scenes = rng.randint(1, 8 if longest else 6)
        return story(rng, side, scenes, rng.randint(max(14, 26 // scenes), max(22, 36 // scenes)))
    if kind in NEEDLE_TYPES:
        if longest:
            scenes = rng.randint(1, 6)
            return needle_story(rng, side, kind, scenes, rng.randint(32, 156) // scenes)
        return needle_story(rng, side, kind)
    if kind == "order":
        return order(rng, side, rng.randint(5, 12 if longest else 8))
    if kind == "count":
        return count(rng, side, rng.randint(9, 14 if longest else 12))
    if kind == "anomaly":
        return anomaly(rng, side, rng.randint(4, 14 if longest else 8))
    if kind == "topic":
        return topic(rng, side, rng.randint(7, 14 if longest else 12))
    return CLIPS[kind](rng, side)


def plan_image(config: WorldConfig, index: int) -> Plot:
    return still(item_rng(config.seed, "train", "images", index), "train")


def plan_video(config: WorldConfig, index: int, split: str = "train") -> Plot:
    """Training video ``index``, or with split "val" one for the validation loss, from held-out scenes."""
    rng = item_rng(config.seed, split, "videos", index)
    return training_plot(rng, "train" if split == "train" else "eval", longest=rng.random() < 0.5)


def ask(question: str, answer: str) -> list[Turn]:
    """One round of a conversation."""
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def lettered_round(rng: random.Random, question: Question, style: str, medium: str = "video") -> list[Turn]:
    """The question with its options in a suite's words; the right letter is drawn afresh, so that no other round tells it."""
    position = rng.randrange(4)
    options = arrange(rng, question, position)
    text = prompt(style, question.text, options)
    if style == "mlvu" and medium == "video" and rng.random() < 0.5:
        text = f"{MLVU_SYSTEM}\n{text}"
    return ask(text, reply(style, options, position))


def _record(name: str, medium: str, path: str, turns: list[Turn]) -> Record:
    first, *rest = turns
    return {
        "id": name,
        medium: path,
        "conversations": [{"from": "human", "value": f"<image>\n{first['value']}"}, *rest],
    }


def align_record(config: WorldConfig, index: int, plot: Plot) -> Record:
    """An image and its caption."""
    rng = item_rng(config.seed, "train", "align", index)
    turns = ask(rng.choice(DESCRIBE_IMAGE), plot.caption)
    return _record(f"align_{index:06d}", "image", f"images/{index:06d}.png", turns)


def image_record(config: WorldConfig, index: int, plot: Plot) -> Record:
    """An image and one to five questions, open, lettered, or both."""
    rng = item_rng(config.seed, "train", "image_sft", index)
    questions = rng.sample(plot.questions, min(len(plot.questions), rng.randint(3, 5)))
    turns = mixed_rounds(rng, questions, rng.choice(_IMAGE_FORMATS), SEEN, "image")
    return _record(f"image_sft_{index:06d}", "image", f"images/{index:06d}.png", turns)


@dataclass(frozen=True, kw_only=True)
class Ways:
    """How questions are asked: shares of those asked openly only and both ways; the rest have options only."""

    opened: float
    both: float


WORDS = Ways(opened=0.25, both=0.2)
"""About scenes in words: letters are what is hard to learn."""
SEEN = Ways(opened=0.7, both=0.1)
"""About pictures and films: what is hard is to see, and an open answer says more of it, in fewer words, than a letter."""


def mixed_rounds(
    rng: random.Random, questions: Sequence[Question], style: str, ways: Ways, medium: str = "video"
) -> list[Turn]:
    """Every question open, lettered, or first open and then lettered, so that its letter has only to be looked up."""
    turns: list[Turn] = []
    for question in questions:
        way = rng.random() if question.options else 0.0
        if way < ways.opened + ways.both:
            turns += ask(question.text, question.answer)
        if way > ways.opened:
            turns += lettered_round(rng, question, style, medium)
    return turns


def video_records(config: WorldConfig, index: int, plot: Plot, split: str = "train") -> list[Record]:
    """A video with open and lettered questions; its caption is asked for at the end, or the answers would be read off it."""
    rng = item_rng(config.seed, split, "video_sft", index)
    folder = "videos" if split == "train" else "val_videos"
    first, *rest = plot.questions
    questions = [first, *rng.sample(rest, min(len(rest), rng.randint(3, 5)))]
    rng.shuffle(questions)
    turns = mixed_rounds(rng, questions, rng.choice(FORMATS), SEEN)
    turns += ask(rng.choice(DESCRIBE_VIDEO), plot.caption)
    name = f"video_{'sft' if split == 'train' else split}_{index:06d}"
    return [_record(name, "video", f"{folder}/{index:06d}.mp4", turns)]
