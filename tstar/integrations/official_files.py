"""A run's answers as the benchmarks' own scorers take them, so that anybody can score again with the original code.

What is written is read back by :meth:`Benchmark.official_responses`, but for MVBench's, which holds numbers alone.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tstar.data.files import write_whole
from tstar.errors import ConfigError
from tstar.evaluation import Benchmark, Item
from tstar.evaluation.activitynetqa import ActivityNetQA
from tstar.evaluation.chat_temporal import ChatTemporal
from tstar.evaluation.files import LETTERS
from tstar.evaluation.lvbench import LVBench
from tstar.evaluation.mvbench import MVBench
from tstar.evaluation.nextqa import NextQA
from tstar.evaluation.seed_image import SeedImage
from tstar.evaluation.tempcompass import TempCompass
from tstar.evaluation.videomme import VideoMME
from tstar.evaluation.vnbench import VNBench
from tstar.integrations.answers import Answers, entry_of


class ResultFile(NamedTuple):
    """One file of a result: its name, and what is written into it."""

    name: str
    content: Any
    """A list for ``.jsonl``, a line an entry; else one JSON document."""
    notes: tuple[str, ...] = ()
    """What the layout cannot say about these answers."""


def official_files(answers: Answers) -> list[ResultFile]:
    """The result files of a suite; ConfigError where its benchmark knows none."""
    layout = entry_of(LAYOUTS, answers.benchmark)
    if layout is None:
        known = ", ".join(sorted(k.__name__ for k in LAYOUTS))
        raise ConfigError(f"{answers.benchmark.name} has no official result file; {known} have one")
    return layout(answers)


def write_official(answers: Answers, folder: Path) -> tuple[list[Path], list[str]]:
    """Write a suite's result files into ``folder``; returns them and what they cannot say."""
    paths: list[Path] = []
    notes: list[str] = []
    for name, content, said in official_files(answers):
        lines = content if name.endswith(".jsonl") else None
        text = (
            json.dumps(content, ensure_ascii=False, indent=1) + "\n"
            if lines is None
            else "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
        )
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / name, text.encode("utf-8", "backslashreplace"))
        paths.append(folder / name)
        notes += said
    return paths, notes


def has_official_file(benchmark: Benchmark) -> bool:
    """Whether :func:`official_files` knows the benchmark."""
    return entry_of(LAYOUTS, benchmark) is not None


def _vnbench(answers: Answers) -> list[ResultFile]:
    """Lines for the published scorer: null where nothing came back, no line where nothing was asked."""
    lines = [
        {
            "question_id": item.id,
            "pred": answers.responses[item.id],
            "gt": item.answer,
            "type": item.categories["type"],
            "try": int(item.id.rpartition("_")[2]),
            "prompt": item.prompt,
        }
        for item in answers.asked
    ]
    return [ResultFile("vnbench.jsonl", lines)]


def _videomme(answers: Answers) -> list[ResultFile]:
    """The list of videos with their questions; a video of which nothing was asked is flagged ``missing``."""
    videos: dict[str, dict[str, Any]] = {}
    for item in answers.items:
        shared = {key: item.categories[key] for key in ("duration", "domain", "sub_category")}
        video = videos.setdefault(item.cluster, {"video_id": item.cluster, **shared, "missing": True, "questions": []})
        question: dict[str, Any] = {
            "question_id": item.id,
            "task_type": item.categories["task_type"],
            "question": item.question,
            "options": [f"{letter}. {text}" for letter, text in zip(LETTERS, item.options, strict=False)],
            "answer": item.answer,
        }
        if item.id in answers.responses:
            question["response"] = answers.responses[item.id]
            video["missing"] = False
        video["questions"].append(question)
    return [ResultFile("videomme.json", list(videos.values()))]


def _tempcompass(answers: Answers) -> list[ResultFile]:
    """One file a task, nested as the annotations are. A list's rows have no id but their place, so none can be left out."""
    tables: dict[str, dict[str, dict[str, list[dict[str, Any]]]]] = {}
    asked_of = {_list_of(item) for item in answers.asked}
    unasked = 0
    for item in answers.items:
        task, video, aspect = _list_of(item)
        if (task, video, aspect) not in asked_of:
            continue
        unasked += item.id not in answers.responses
        truth = {"mc_question": item.judge_question, "mc_answer": item.truth}
        row: dict[str, Any] = {"question": item.question, **(truth if item.judge_question else {"answer": item.truth})}
        row["prediction"] = answers.responses.get(item.id)
        tables.setdefault(task, {}).setdefault(video, {}).setdefault(aspect, []).append(row)
    notes = (f"{unasked} questions that were never asked stand as failed (null) among the others of their video",)
    return [ResultFile(f"{task}.json", table, notes if unasked else ()) for task, table in tables.items()]


def _lvbench(answers: Answers) -> list[ResultFile]:
    """Letters by question, as the official helper reads them; "" where there is none."""
    letters = {score.id: score.extracted or "" for score in answers.report("official").items}
    return [ResultFile("lvbench.json", letters, _unlettered(answers, "stand as an empty letter"))]


def _nextqa(answers: Answers) -> list[ResultFile]:
    """Numbers of options by question; -1, which is none, where no letter was read."""
    numbers = {
        score.id: {"prediction": _number(score.extracted), "answer": _number(score.answer)}
        for score in answers.report("official").items
    }
    return [ResultFile("nextqa.json", numbers, _unlettered(answers, "stand as -1"))]


def _mvbench(answers: Answers) -> list[ResultFile]:
    """Percent by task; and what was answered, which has a place there only if it is complete."""
    report = answers.report("official")
    tasks = {task: round(100 * report.aggregate[task], 2) for task in _tasks(answers.asked)}
    percents = ResultFile("mvbench.json", tasks | {"Avg": round(100 * report.aggregate["accuracy"], 2)})
    if report.counts["failed"] or len(answers.asked) < len(answers.items):
        missing = len(answers.items) - report.counts["n"] + report.counts["failed"]
        note = f"{missing} answers are missing, which res_list has no place for: mvbench_answers.json is not written"
        return [percents._replace(notes=(note,))]
    right = {task: [0, 0] for task in tasks}
    for score in report.items:
        right[score.categories["task"]][0] += bool(score.correct)
        right[score.categories["task"]][1] += 1
    rows = [{"pred": f"({answers.responses[item.id]}", "gt": f"({item.answer}) {item.truth}"} for item in answers.items]
    return [percents, ResultFile("mvbench_answers.json", {"acc_dict": right, "res_list": rows})]


def _seed_image(answers: Answers) -> list[ResultFile]:
    """Lines of a submission; null where no letter was read."""
    scores = answers.report("official").items
    return [ResultFile("seed_image.jsonl", [{"question_id": s.id, "prediction": s.extracted} for s in scores])]


def _unlettered(answers: Answers, how: str) -> tuple[str, ...]:
    """Of how many questions the layout cannot tell whether they failed or had no letter in their answer."""
    counts = answers.report("official").counts
    count = counts["failed"] + counts["unparsed"]
    return (f"{count} failed answers, or answers without a letter, {how}",) if count else ()


def _number(letter: str | None) -> int:
    return LETTERS.index(letter) if letter else -1


def _tasks(items: list[Item]) -> list[str]:
    return list(dict.fromkeys(item.categories["task"] for item in items))


def _list_of(item: Item) -> tuple[str, str, str]:
    """Task, video and aspect of a TempCompass item."""
    task, video, aspect, _ = item.id.split(":")
    return task, video, aspect


def _activitynetqa(answers: Answers) -> list[ResultFile]:
    """Rows as Video-ChatGPT's inference leaves them for its scorer."""
    rows = [
        {"id": item.id, "question": item.question, "answer": item.answer, "pred": answers.responses[item.id]}
        for item in answers.asked
    ]
    return [ResultFile("activitynetqa.json", rows)]


def _chat_temporal(answers: Answers) -> list[ResultFile]:
    """The same of its temporal part, whose rows are known by video and question."""
    rows = [
        {"video_name": item.cluster, "Q": item.question, "A": item.answer, "pred": answers.responses[item.id]}
        for item in answers.asked
    ]
    return [ResultFile("chat_temporal.json", rows)]


LAYOUTS: dict[type[Benchmark], Callable[[Answers], list[ResultFile]]] = {
    VNBench: _vnbench,
    VideoMME: _videomme,
    TempCompass: _tempcompass,
    LVBench: _lvbench,
    NextQA: _nextqa,
    MVBench: _mvbench,
    SeedImage: _seed_image,
    ActivityNetQA: _activitynetqa,
    ChatTemporal: _chat_temporal,
}
