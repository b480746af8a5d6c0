"""Training records in LLaVA's format: captions, open questions, and lettered questions in the suites' own words."""

import random
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


def training_plot(rng: random.Random, side: Side) -> Plot:
    """A film of any kind, 3 to 16 s long."""
    kind = rng.choices(_KINDS, weights=_WEIGHTS)[0]
    if kind == "story":
        scenes = rng.randint(1, 6)
        return story(rng, side, scenes, rng.randint(max(14, 26 // scenes), max(22, 36 // scenes)))
    if kind in NEEDLE_TYPES:
        return needle_story(rng, side, kind)
    if kind == "order":
        return order(rng, side, rng.randint(5, 8))
    if kind == "count":
        return count(rng, side, rng.randint(9, 12))
    if kind == "anomaly":
        return anomaly(rng, side, rng.randint(4, 8))
    if kind == "topic":
        return topic(rng, side, rng.randint(7, 12))
    return CLIPS[kind](rng, side)


def plan_image(config: WorldConfig, index: int) -> Plot:
    return still(item_rng(config.seed, "train", "images", index), "train")


def plan_video(config: WorldConfig, index: int, split: str = "train") -> Plot:
    """Training video ``index``, or with split "val" one for the validation loss, from held-out scenes."""
    return training_plot(item_rng(config.seed, split, "videos", index), "train" if split == "train" else "eval")


def _round(question: str, answer: str) -> list[Turn]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def _lettered(rng: random.Random, question: Question, style: str, position: int, medium: str = "video") -> list[Turn]:
    options = arrange(rng, question, position)
    text = prompt(style, question.text, options)
    if style == "mlvu" and medium == "video" and rng.random() < 0.5:
        text = f"{MLVU_SYSTEM}\n{text}"
    return _round(text, reply(style, options, position))


def _lettered_rounds(rng: random.Random, questions: list[Question], letters: list[int]) -> list[Turn]:
    """All questions in the same style; takes the right letters' positions from the front of ``letters``."""
    style = rng.choice(FORMATS)
    return [turn for question in questions for turn in _lettered(rng, question, style, letters.pop(0))]


def _positions(rng: random.Random, number: int) -> list[int]:
    """Positions of the right letters: every four use all four."""
    return [position for _ in range(0, number, 4) for position in rng.sample(range(4), 4)]


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
    turns = _round(rng.choice(DESCRIBE_IMAGE), plot.caption)
    return _record(f"align_{index:06d}", "image", f"images/{index:06d}.png", turns)


def image_record(config: WorldConfig, index: int, plot: Plot) -> Record:
    """An image and one to four rounds of open and lettered questions."""
    rng = item_rng(config.seed, "train", "image_sft", index)
    turns = _image_turns(rng, plot)
    return _record(f"image_sft_{index:06d}", "image", f"images/{index:06d}.png", turns)


def _image_turns(rng: random.Random, plot: Plot) -> list[Turn]:
    questions = list(plot.questions[:4])
    letters = _positions(rng, 4)
    turns: list[Turn] = []
    for question in questions:
        if question.options and rng.random() < 0.6:
            turns += _lettered(rng, question, rng.choice(_IMAGE_FORMATS), letters.pop(), "image")
        else:
            turns += _round(question.text, question.answer)
    return turns


def _open_turns(rng: random.Random, plot: Plot) -> list[Turn]:
    turns = _round(rng.choice(DESCRIBE_VIDEO), plot.caption)
    first, *rest = plot.questions
    for question in (first, *rng.sample(rest, min(len(rest), rng.randint(1, 2)))):
        turns += _round(question.text, question.answer)
    return turns


def _choice_turns(rng: random.Random, plot: Plot, letters: list[int]) -> list[Turn]:
    first, *rest = (question for question in plot.questions if question.options)
    return _lettered_rounds(rng, [first, *rng.sample(rest, min(len(rest), rng.randint(1, 3)))], letters)


def video_records(config: WorldConfig, index: int, plot: Plot, split: str = "train") -> list[Record]:
    """Two or three conversations about a video: open questions, and lettered ones in one or two suites' styles."""
    rng = item_rng(config.seed, split, "video_sft", index)
    folder = "videos" if split == "train" else "val_videos"
    letters = _positions(rng, 8)
    talks = [_open_turns(rng, plot), *(_choice_turns(rng, plot, letters) for _ in range(rng.randint(1, 2)))]
    return [
        _record(
            f"video_{'sft' if split == 'train' else split}_{index:06d}_{k}", "video", f"{folder}/{index:06d}.mp4", talk
        )
        for k, talk in enumerate(talks)
    ]


def text_documents(count: int, seed: int) -> list[list[Turn]]:
    """Conversations without a picture: a scene in words, then questions and answers as in the training sets and suites.

    Document ``i`` depends on ``seed`` and ``i`` alone.
    """
    documents = []
    for index in range(count):
        rng = item_rng(seed, "text", index)
        if rng.random() < 0.3:
            plot = still(rng, "train")
            turns = _image_turns(rng, plot)
        else:
            plot = training_plot(rng, "train")
            open_only = rng.random() < 0.35
            turns = _open_turns(rng, plot)[2:] if open_only else _choice_turns(rng, plot, _positions(rng, 4))
        first, *rest = turns
        documents.append([{"from": "human", "value": f"{plot.caption}\n{first['value']}"}, *rest])
    return documents


def plain_captions(count: int, seed: int) -> list[str]:
    """Captions of images and videos as the training sets have them, half each."""
    captions = []
    for index in range(count):
        rng = item_rng(seed, "caption", index)
        captions.append((still(rng, "train") if index % 2 == 0 else training_plot(rng, "train")).caption)
    return captions
