"""MVBench: twenty tasks about time, 200 questions each, on short clips from eleven sources.

Li et al., "MVBench: A Comprehensive Multi-modal Video Understanding Benchmark", arXiv:2311.17005; one JSON list a task.
Its media come in two forms: whole videos, of which five tasks ask about a window (and one of those about a folder of
frames), and clips that are cut to the window already. The official scorer counts an empty answer as right.
"""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tstar.errors import DataError, suggest
from tstar.evaluation.base import Benchmark
from tstar.evaluation.cells import item_cell, right_of_counted
from tstar.evaluation.extraction import UNPARSED
from tstar.evaluation.files import LETTERS, as_record, field, read_json, text_list
from tstar.evaluation.items import FAILED, Item, ItemScore, MediaKind, MediaPlace, Verdict
from tstar.evaluation.letters import letter_lines
from tstar.evaluation.responses import ResponseLine, ResponseSet
from tstar.evaluation.splits import whole
from tstar.evaluation.statistics import Cell


@dataclass(frozen=True)
class Task:
    """Where a task's media lie: ``whole`` videos, and ``clips`` where those of the other form are elsewhere."""

    whole: str
    clips: str = ""
    windowed: bool = False


# in the order of the official scorer, whose result files have no ids
TASKS = {
    "action_sequence": Task("star/Charades_v1_480", "star/Charades_segment", windowed=True),
    "action_prediction": Task("star/Charades_v1_480", "star/Charades_segment", windowed=True),
    "action_antonym": Task("ssv2_video", "ssv2_video_mp4"),
    "fine_grained_action": Task("Moments_in_Time_Raw/videos"),
    "unexpected_action": Task("FunQA_test/test"),
    "object_existence": Task("clevrer/video_validation"),
    "object_interaction": Task("star/Charades_v1_480", "star/Charades_segment", windowed=True),
    "object_shuffle": Task("perception/videos"),
    "moving_direction": Task("clevrer/video_validation"),
    "action_localization": Task("sta/sta_video", "sta/sta_video_segment", windowed=True),
    "scene_transition": Task("scene_qa/video"),
    "action_count": Task("perception/videos"),
    "moving_count": Task("clevrer/video_validation"),
    "moving_attribute": Task("clevrer/video_validation"),
    "state_change": Task("perception/videos"),
    "fine_grained_pose": Task("nturgbd", "nturgbd_convert"),
    "character_order": Task("perception/videos"),
    "egocentric_navigation": Task("vlnqa"),
    "episodic_reasoning": Task("tvqa/frames_fps3_hq", "tvqa/video_fps3_hq_segment", windowed=True),
    "counterfactual_inference": Task("clevrer/video_validation"),
}
FRAMES = "episodic_reasoning"
FRAME_RATE = 3.0
FOLDERS = ("", "video/")
"""Of the benchmark's folder, those that hold the folders of :data:`TASKS`."""
SYSTEM = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
    "objects, and the action and pose of persons. Based on your observations, select the best option that accurately "
    "addresses the question.\n"
)
INSTRUCTION = "Only give the best option."
PREFILL = "Best option:("
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
FULL_STOPS = 32
"""The harness hands a flag to the place of a count, so that no more full stops are deleted."""


class MVBench(Benchmark):
    """Accuracy over questions, which on the complete set is the mean of the tasks', and each task."""

    main = "accuracy"
    main_values = ("accuracy",)
    columns = ("accuracy",)
    in_mean = "accuracy"
    breakdown = (("task", ""),)
    rule_names = ("official", "strict", "lmms-eval")
    published = {"test": whole("task", dict.fromkeys(TASKS, 200))}  # noqa: RUF012

    def read(self, annotations: Any, media: Path | None = None) -> list[Item]:
        """Questions of one task file, of a folder of them (or its ``json`` folder), or of ``{task: list}``.

        Items lie in the official order of the tasks. Their media are whole videos, or else clips, or one of both in a folder
        ``video``.
        """
        if isinstance(annotations, Path):
            paths = _task_files(annotations) if annotations.is_dir() else [annotations]
            tables = {path.stem: (read_json(path), str(path)) for path in paths}
        else:
            tables = {
                str(task): (rows, f"annotations, {task}")
                for task, rows in as_record(annotations, "annotations").items()
            }
        items = []
        for task, (rows, where) in tables.items():
            if task not in TASKS:
                raise DataError(f"{where}: no task of MVBench is called {task!r}{suggest(task, TASKS)}")
            if not isinstance(rows, Sequence) or isinstance(rows, str):
                raise DataError(f"{where}: must be one list of questions, got {type(rows).__name__}")
            items += [_item(row, task, n, f"{where}, row {n}") for n, row in enumerate(rows)]
        return items

    def official(self, item: Item, line: ResponseLine) -> Verdict:
        """Whether the first word behind the open bracket is part of ``(b)``, or the other way round."""
        said = "(" + (line.response or "").strip().split("\n")[0].lower().split(" ")[0]
        plain = said.replace(".", "")
        asked = ((letter, f"({letter.lower()})") for letter in LETTERS[: len(item.options)])
        meant = [letter for letter, option in asked if plain in option or option in said]
        letter = meant[0] if len(meant) == 1 else None  # no answer is part of every option's letter
        return Verdict(letter, "first word" if letter else UNPARSED, item.answer in meant)

    def lmms_eval(self, item: Item, line: ResponseLine) -> Verdict:
        """The harness's reader of letters; it takes the first of equal options for the true one."""
        truth = LETTERS[item.options.index(item.truth)]
        letter = first_free_letter(line.response or "")
        return Verdict(letter, "letter" if letter else UNPARSED, letter == truth)

    def counts_in(self, rules: str, response: str | None, verdict: Verdict) -> bool:
        """The harness leaves empty answers out, and a failure is one to it."""
        empty = verdict.how == FAILED or (response is not None and not self.harness_text(response))
        return rules != "lmms-eval" or not empty

    def cells(self, scores: Sequence[ItemScore]) -> dict[str, list[Cell]]:
        """One stratum everywhere."""
        return {"accuracy": [item_cell(item) for item in scores]} | right_of_counted(scores, "task")

    def official_responses(self, data: Any, items: Sequence[Item], where: str) -> ResponseSet | None:
        """The official ``res_list`` of ``{"pred": "(…", "gt": "(B) text"}``, told apart by its order alone.

        DataError unless every ``gt`` is the truth of the question in its place.
        """
        if not isinstance(data, Mapping) or "res_list" not in data:
            return None
        rows = field(data, "res_list", list, where)
        if len(rows) != len(items):
            raise DataError(
                f"{where}: 'res_list' holds {len(rows)} answers to {len(items)} questions; having no ids, it must be "
                "complete and in the order of the official tasks"
            )
        lines = []
        for number, (row, item) in enumerate(zip(rows, items, strict=True)):
            place = f"{where}, res_list {number}"
            record, truth = as_record(row, place), f"({item.answer}) {item.truth}"
            if field(record, "gt", str, place) != truth:
                raise DataError(f"{place}: 'gt' is {record['gt']!r} but {item.id} has {truth!r}; is the order another?")
            lines.append(ResponseLine(item.id, field(record, "pred", str, place).removeprefix("(")))
        return ResponseSet(lines)


def first_free_letter(response: str) -> str | None:
    """lmms-eval's reading of an answer: ``B. text`` as a whole, else the first letter a to e that stands alone.

    What stands alone is seen after most marks are gone: each is deleted if it is next to a space anywhere (or the text
    has a number like 1,000), and a space otherwise.
    """
    text = response.strip()
    whole = re.match(r"([A-E])\.\s*.+$", text, re.IGNORECASE)
    if whole:
        return whole[1].upper()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    number = re.search(r"\d,\d", text) is not None
    plain = text
    for mark in PUNCTUATION:
        plain = plain.replace(mark, "" if number or f"{mark} " in text or f" {mark}" in text else " ")
    plain = re.sub(r"\.(?!\d)", "", plain, count=FULL_STOPS)
    for mark in "'\")(":
        plain = plain.strip(mark)
    alone = re.search(r"\b[a-e]\b", plain.strip().lower())
    return alone[0].upper() if alone else None


def _task_files(folder: Path) -> list[Path]:
    for place in (folder, folder / "json"):
        found = [place / f"{task}.json" for task in TASKS if (place / f"{task}.json").is_file()]
        if found:
            return found
    raise DataError(f"{folder}: holds none of {', '.join(f'{task}.json' for task in TASKS)}, nor does its folder json/")


def _item(row: Any, task: str, number: int, where: str) -> Item:
    record = as_record(row, where)
    video, question = field(record, "video", str, where), field(record, "question", str, where)
    options, truth = text_list(record, "candidates", where), field(record, "answer", str, where)
    places = [index for index, option in enumerate(options) if option == truth]
    if not places:
        raise DataError(f"{where}: field 'answer' ({truth!r}) is none of its candidates ({', '.join(options)})")
    place = TASKS[task]
    window = _window(record, where) if place.windowed and {"start", "end"} & record.keys() else None
    kind: MediaKind = "frames" if task == FRAMES else "video"
    rate = FRAME_RATE if kind == "frames" else None
    forms = [[MediaPlace(f"{folder}{place.whole}/{video}", kind, window, rate) for folder in FOLDERS]]
    if place.clips:
        clips = [MediaPlace(f"{folder}{place.clips}/{video}") for folder in FOLDERS]
        # without a window it is not known what would be asked about of a whole video
        forms = [clips] if place.windowed and window is None else [*forms, clips]
    first, *elsewhere = itertools.chain.from_iterable(zip(*forms, strict=True))
    asked = f"Question: {question}\nOptions:\n{letter_lines(options, '({letter}) {text}')}"
    return Item(
        id=f"{task}:{number}",
        media=first.media,
        media_kind=first.media_kind,
        window=first.window,
        frame_rate=first.frame_rate,
        elsewhere=tuple(elsewhere),
        annotated_window=window,
        question=question,
        prompt=f"{asked.rstrip()}\n{INSTRUCTION}",
        system=SYSTEM,
        prefill=PREFILL,
        options=options,
        answer=LETTERS[places[-1]],  # of equal candidates the official truth is the last
        truth=truth,
        categories={"task": task},
        cluster=f"{place.whole}/{video}",
    )


def _window(record: Mapping[str, Any], where: str) -> tuple[float, float]:
    """Seconds from ``start`` to ``end``; DataError unless they are some of a video."""
    given = [field(record, name, (int, float), where) for name in ("start", "end")]
    for name, value, least in (("start", given[0], 0), ("end", given[1], given[0])):
        try:
            usable = math.isfinite(value) and (value > least if name == "end" else value >= least)
        except OverflowError:
            usable = False
        if not usable:
            wanted = "later than 'start'" if name == "end" else "0 or more"
            raise DataError(f"{where}: field '{name}' must be a number of seconds, {wanted}, got {str(value)[:20]}")
    return float(given[0]), float(given[1])
