"""The four evaluation suites: their videos, and their annotations in the format of the benchmarks they are named after.

Every item is planned from its own seed and from held-out scenes; see docs of the formats in ``tstar/evaluation``.
"""

from dataclasses import replace
from typing import Any

from tstar.data.miniature.clips import Plot, action, anomaly, change, count, motion, order, place, set_scene, topic
from tstar.data.miniature.config import FPS, WorldConfig
from tstar.data.miniature.film import Film
from tstar.data.miniature.prompts import Question, arrange, lettered
from tstar.data.miniature.seeds import LETTERS, balanced_letter, item_rng
from tstar.data.miniature.stories import NEEDLE_TYPES, hide, story
from tstar.data.miniature.words import OPPOSITE, TEXTURES, cast

Record = dict[str, Any]

TRIES = ((0, 1, 2, 3), (0, 2, 3, 1), (3, 0, 2, 1), (2, 3, 1, 0))
"""Position of option i of try 0 in each try, the same for every video; no rotations."""
MLVU_TASKS = {
    "1_plotQA": ("plotQA", "plot"),
    "4_count": ("count", "count"),
    "5_order": ("order", "order"),
    "6_anomaly_reco": ("anomaly_reco", "anomaly"),
    "7_topic_reasoning": ("topic_reasoning", "topic"),
}
"""Annotation file -> (question type, file name of its videos)."""
DURATIONS = {"short": (2, 2, 14), "medium": (4, 4, 21), "long": (6, 8, 22)}
"""mini-videomme: fewest and most scenes, frames of a scene."""
TASK_TYPES = {
    **{"plot": "Object Reasoning", "direction": "Action Recognition", "background": "Spatial Perception"},
    **{"order": "Temporal Perception", "colour": "Attribute Perception", "ret_edit1": "OCR Problems"},
    **{"ret_insert2": "Object Recognition", "cnt_edit1": "Counting Problem"},
}


# mini-vnbench


def plan_vnbench(config: WorldConfig, haystack: int, kind: str, source: tuple[str, int] | None = None) -> Plot:
    """Haystack number ``haystack`` with needles of one type; its film is the same under all nine types.

    Args:
        source: name and frame count of the user's video that is the haystack.
    """
    if source:
        film = Film(kind="user", shots=(), source=source[0], source_frames=source[1])
    else:
        rng = item_rng(config.seed, "eval", "haystacks", haystack)
        film = story(rng, "eval", rng.randint(4, 6), rng.randint(22, 26)).film
    film, question = hide(item_rng(config.seed, "eval", "vnbench", haystack, kind), "eval", film, kind)
    return Plot(film=film, caption="", questions=(question,))


def vnbench_records(config: WorldConfig, haystack: int, kind: str, name: str, plot: Plot) -> list[Record]:
    """The four tries of one video; ``name`` is the haystack's."""
    rng = item_rng(config.seed, "eval", "vnbench", haystack, kind, "options")
    number = haystack * len(NEEDLE_TYPES) + NEEDLE_TYPES.index(kind)
    (question,) = plot.questions
    base = arrange(rng, question, balanced_letter(number, config.seed, "eval", "vnbench"))
    records = []
    for attempt, positions in enumerate(TRIES):
        options = [base[positions.index(place)] for place in range(4)]
        records.append(
            {
                "video": f"./VNBench/{name}_{kind}.mp4",
                "question": question.text,
                "options": options,
                "gt": question.answer,
                "gt_option": LETTERS[options.index(question.answer)],
                "type": kind,
                "try": attempt,
                "length": plot.film.frames / FPS,
                "needle_time": [needle.start / FPS for needle in plot.film.needles],
                "needle_duration": plot.film.needles[0].frames / FPS,
            }
        )
    return records


# mini-mlvu


def plan_mlvu(config: WorldConfig, task: str, index: int) -> Plot:
    """One video of a task."""
    rng = item_rng(config.seed, "eval", "mlvu", task, index)
    kind = MLVU_TASKS[task][1]
    if kind == "plot":
        return story(rng, "eval", rng.randint(4, 6), rng.randint(18, 24))
    if kind == "count":
        return count(rng, "eval", rng.randint(10, 14))
    if kind == "order":
        return order(rng, "eval", rng.randint(8, 12))
    return (anomaly if kind == "anomaly" else topic)(rng, "eval", rng.randint(10, 14))


def mlvu_record(config: WorldConfig, task: str, index: int, plot: Plot) -> Record:
    question_type, kind = MLVU_TASKS[task]
    rng = item_rng(config.seed, "eval", "mlvu", task, index, "options")
    question = rng.choice(plot.questions[:3]) if kind == "plot" else plot.questions[0]
    return {
        "video": f"{kind}_{index}.mp4",
        "duration": plot.film.frames / FPS,
        "question": question.text,
        "candidates": arrange(rng, question, balanced_letter(index, config.seed, "eval", "mlvu", task)),
        "answer": question.answer,
        "question_type": question_type,
    }


# mini-videomme


def plan_videomme(config: WorldConfig, duration: str, index: int) -> Plot:
    """A film of the duration with a secret word, a fruit or (not in short films) several secret words in it."""
    rng = item_rng(config.seed, "eval", "videomme", duration, index)
    fewest, most, frames = DURATIONS[duration]
    kind = rng.choice(("ret_edit1", "ret_insert2", *(["cnt_edit1"] if duration != "short" else [])))
    told = story(rng, "eval", rng.randint(fewest, most), frames)
    film, question = hide(rng, "eval", told.film, kind)
    return Plot(film=film, caption="", questions=(question, *told.questions))


def videomme_records(config: WorldConfig, duration: str, index: int, plot: Plot) -> list[Record]:
    """Three questions of different skills on one video; the number in its ids follows from duration and index."""
    rng = item_rng(config.seed, "eval", "videomme", duration, index, "options")
    by_skill = {question.skill: question for question in rng.sample(plot.questions[1:], len(plot.questions) - 1)}
    chosen = [plot.questions[0], *rng.sample(list(by_skill.values()), 2)]
    video_id = f"{list(DURATIONS).index(duration) * 300 + index + 1:03d}"
    records = []
    for number, question in enumerate(chosen):
        letter = balanced_letter(3 * index + number, config.seed, "eval", "videomme", duration)
        records.append(
            {
                "video_id": video_id,
                "duration": duration,
                "domain": "Miniature",
                "sub_category": plot.film.kind,
                "url": "",
                "videoID": videomme_name(duration, index),
                "question_id": f"{video_id}-{number + 1}",
                "task_type": TASK_TYPES[question.skill],
                "question": question.text,
                "options": lettered(arrange(rng, question, letter)).split("\n"),
                "answer": LETTERS[letter],
            }
        )
    return records


def videomme_name(duration: str, index: int) -> str:
    return f"mini_{duration}_{index:03d}"


# mini-tempcompass


def _backwards(question: Question) -> Question:
    """The same question about the same clip played backwards."""
    answer = question.answer
    swaps = {"faster and faster": "slower and slower", "it grows": "it shrinks", **OPPOSITE}
    swaps |= {after: before for before, after in swaps.items()}
    if answer.startswith("it turns from "):
        before, after = answer.removeprefix("it turns from ").split(" to ")
        swaps[answer] = f"it turns from {after} to {before}"
    return replace(question, answer=swaps.get(answer, answer))


def _speed(plot: Plot) -> Question:
    return next(question for question in plot.questions if question.skill == "speed")


def plan_tempcompass(config: WorldConfig, group: int) -> dict[str, Plot]:
    """Ten clips of a group by id: two played both ways, four orders of the same four scenes, two actions."""
    rng = item_rng(config.seed, "eval", "tempcompass", group)
    clips: dict[str, Plot] = {}
    moving = motion(rng, "eval")
    while not moving.film.shots[0].actors[-1].direction or "it stands still" in _speed(moving).options:
        moving = motion(rng, "eval")
    changing = change(rng, "eval")
    pairs = {
        1: replace(moving, questions=(moving.questions[0], _speed(moving))),
        2: replace(changing, questions=changing.questions[:2]),
    }
    for number, plot in pairs.items():
        name = str(100000 + 10 * group + number)
        clips[name] = plot
        backwards = tuple(_backwards(question) for question in plot.questions)
        clips[f"{name}_reverse"] = replace(plot, film=replace(plot.film, reverse=True), questions=backwards)
    textures = rng.sample(TEXTURES, 4)
    looks = cast(rng, "eval", textures)
    scenes = [
        (look[1], set_scene(rng, "eval", texture, 8, (place(rng, look),)))
        for look, texture in zip(looks, textures, strict=True)
    ]
    turns = [[*scenes[k:], *scenes[:k]] for k in range(4)]
    orders = tuple(", ".join(shape for shape, _ in turn) for turn in turns)
    shapes = tuple(shape for shape, _ in scenes)
    for k, turn in enumerate(turns):
        asked = (
            Question(skill="order", text="In what order do the shapes appear?", answer=orders[k], options=orders),
            Question(skill="order", text="Which shape appears first?", answer=turn[0][0], options=shapes),
        )
        film = Film(kind="concat", shots=tuple(shot for _, shot in turn))
        clips[f"{100003 + 10 * group}_concat_{k}"] = Plot(film=film, caption="", questions=asked)
    for number in (4, 5):
        plot = action(rng, "eval")
        clips[str(100000 + 10 * group + number)] = replace(plot, questions=plot.questions[:1])
    return clips


def tempcompass_records(config: WorldConfig, group: int, clips: dict[str, Plot]) -> tuple[Record, Record]:
    """The group's part of multi-choice.json and of meta_info.json; a clip's variants share options and their order."""
    choices: Record = {}
    meta: Record = {}
    orders: dict[tuple[str, str], list[str]] = {}
    for number, (name, plot) in enumerate(clips.items()):
        choices[name], meta[name] = {}, {"eval_dim": {}}
        for question in plot.questions:
            key = name.split("_")[0], question.text
            if key not in orders:
                rng = item_rng(config.seed, "eval", "tempcompass", *key)
                letter = balanced_letter(10 * group + number, config.seed, "eval", "tempcompass", question.skill)
                orders[key] = arrange(rng, question, letter)
            lines = lettered(orders[key]).split("\n")
            answer = lines[orders[key].index(question.answer)]
            record = {"question": "\n".join([question.text, *lines]), "answer": answer}
            choices[name].setdefault(question.skill, []).append(record)
            meta[name]["eval_dim"][question.skill] = {"type": _fine_type(question)}
    return choices, meta


def _fine_type(question: Question) -> str:
    """The fine-grained type of the published meta_info.json that fits."""
    if question.skill == "attribute_change":
        return "color & light change" if question.answer.startswith("it turns") else "size & shape change"
    return {
        "action": "fine-grained action",
        "direction": "object motion",
        "speed": "absolute speed",
        "order": "order",
    }[question.skill]
