"""How long does scoring take? A hundred thousand questions of every lettered benchmark, from parsed annotations to intervals.

    python benchmarks/scoring.py

makes up annotations in each benchmark's published layout and answers of every kind (bare letters, sentences, options' texts,
unreadable ones, failures, questions never asked), on one core. Timed is all of ``score_all``: reading the annotations, official and
strict rules, on how many questions they differ, aggregates and intervals. The last line printed is JSON with every number.
``--items 2000`` is for trials.
"""

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tstar.evaluation import get_benchmark, list_benchmarks, score_all
from tstar.evaluation.files import LETTERS
from tstar.reports.measured_cost import machine

LIMIT = 5.0
"""Seconds that a hundred thousand questions may take."""
RULES = ("official", "strict")
WORDS = ("red", "blue", "dog", "cat", "runs", "sits", "near", "before", "after", "first", "the", "a", "of", "on")
Draw = random.Random


@dataclass(frozen=True)
class Row:
    """One benchmark's seconds, the best of the rounds."""

    benchmark: str
    questions: int
    clusters: int
    values: int
    """Aggregates, each with its interval by either rule."""
    load: float
    """Of the whole: reading the annotations."""
    whole: float
    core: float
    """What the core gave it; as much as ``whole`` on an idle machine."""


def words(draw: Draw, count: int) -> str:
    return " ".join(draw.choices(WORDS, k=count))


def options(draw: Draw, count: int = 4) -> list[str]:
    return [f"{words(draw, 3)} {number}" for number in draw.sample(range(100), count)]


def vnbench(n: int, draw: Draw) -> Any:
    kinds = [f"{family}_{needle}" for family in ("ret", "ord", "cnt") for needle in ("edit1", "insert1", "insert2")]
    rows = []
    for group in range(n // 4):
        kind, texts = kinds[group % 9], options(draw)
        for attempt in range(4):
            own = [*texts[attempt:], *texts[:attempt]]
            row = {"video": f"./VNBench/{group // 9}_{kind}.mp4", "question": f"{words(draw, 9)}?", "options": own}
            rows.append(row | {"gt": texts[0], "gt_option": LETTERS[own.index(texts[0])], "type": kind, "try": attempt})
    return rows


def mlvu(n: int, draw: Draw) -> Any:
    stems = ("1_plotQA", "2_needle", "3_ego", "4_count", "5_order", "6_anomaly_reco", "7_topic_reasoning")
    tables: dict[str, list[Any]] = {stem: [] for stem in stems}
    for number in range(n):
        stem, texts = stems[number % 7], options(draw)
        row = {"video": f"{stem}_{number // 14}.mp4", "question": f"{words(draw, 9)}?", "candidates": texts}
        tables[stem].append(
            row | {"answer": draw.choice(texts), "question_type": stem.split("_", 1)[1], "duration": 600}
        )
    return tables


def videomme(n: int, draw: Draw) -> Any:
    rows = []
    for number in range(n):
        lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, options(draw), strict=False)]
        row = {
            "video_id": f"{number // 3:05d}",
            "videoID": f"v{number // 3}",
            "question_id": f"{number // 3:05d}-{number % 3}",
        }
        row |= {"duration": draw.choice(("short", "medium", "long")), "domain": f"domain {number // 3 % 6}"}
        row |= {"sub_category": f"part {number // 3 % 30}", "task_type": f"task {draw.randrange(12)}", "options": lines}
        rows.append(row | {"question": f"{words(draw, 9)}?", "answer": draw.choice("ABCD")})
    return rows


def tempcompass(n: int, draw: Draw) -> Any:
    clips: dict[str, dict[str, list[Any]]] = {}
    aspects = ("action", "direction", "speed", "order", "attribute_change")
    for number in range(n):
        lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, options(draw, 3), strict=False)]
        row = {"question": "\n".join([f"{words(draw, 9)}?", *lines]), "answer": draw.choice(lines)}
        clips.setdefault(str(number // 4), {}).setdefault(aspects[number // 4 % 5], []).append(row)
    return clips


def lvbench(n: int, draw: Draw) -> Any:
    labels = (
        "entity recognition",
        "event understanding",
        "key information retrieval",
        "temporal grounding",
        "reasoning",
    )
    videos = []
    for video in range(n // 15 + 1):
        asked = []
        for number in range(video * 15, min(n, video * 15 + 15)):
            lines = [f"({letter}) {text}" for letter, text in zip(LETTERS, options(draw), strict=False)]
            row = {
                "uid": str(number),
                "question": "\n".join([f"{words(draw, 9)}?", *lines]),
                "time_reference": "00:10-00:20",
            }
            asked.append(
                row | {"answer": draw.choice("ABCD"), "question_type": draw.sample(labels, draw.randint(1, 3))}
            )
        if asked:
            videos.append({"key": f"v{video}", "type": "sport", "video_info": {}, "qa": asked})
    return videos


def nextqa(n: int, draw: Draw) -> Any:
    rows = []
    for number in range(n):
        row = {"video": str(number // 8), "qid": number % 8, "question": words(draw, 9), "answer": draw.randrange(5)}
        row |= {"type": draw.choice(("CW", "CH", "TN", "TC", "TP", "DO", "DL", "DC"))}
        rows.append(row | {f"a{place}": text for place, text in enumerate(options(draw, 5))})
    return rows


def mvbench(n: int, draw: Draw) -> Any:
    tasks = (
        "action_antonym",
        "object_existence",
        "moving_count",
        "scene_transition",
        "character_order",
        "state_change",
    )
    tables: dict[str, list[Any]] = {task: [] for task in tasks}
    for number in range(n):
        texts = options(draw)
        row = {
            "video": f"{number}.mp4",
            "question": f"{words(draw, 9)}?",
            "candidates": texts,
            "answer": draw.choice(texts),
        }
        tables[tasks[number % len(tasks)]].append(row)
    return tables


def seed_image(n: int, draw: Draw) -> Any:
    rows = []
    for number in range(n):
        row = {"question_id": str(number), "question": f"{words(draw, 9)}?", "answer": draw.choice("ABCD")}
        row |= {f"choice_{letter}": text for letter, text in zip("abcd", options(draw), strict=True)}
        rows.append(row | {"data_id": f"i{number // 2}", "data_type": "image", "question_type_id": number % 9 + 1})
    return {"questions": rows}


def mmstar(n: int, draw: Draw) -> Any:
    rows = []
    for number in range(n):
        listed = ", ".join(f"{letter}: {text}" for letter, text in zip(LETTERS, options(draw), strict=False))
        row = {"index": number, "question": f"{words(draw, 9)}?\nOptions: {listed}", "answer": draw.choice("ABCD")}
        rows.append(row | {"category": f"c{number % 6}", "l2_category": f"l{number % 18}", "image": f"{number}.jpg"})
    return rows


def ai2d(n: int, draw: Draw) -> Any:
    return [
        {
            "question": f"{words(draw, 9)}?",
            "options": options(draw),
            "answer": str(draw.randrange(4)),
            "image": f"{k // 4}.png",
        }
        for k in range(n)
    ]


MAKERS: dict[str, Callable[[int, Draw], Any]] = {
    function.__name__: function
    for function in (vnbench, mlvu, videomme, tempcompass, lvbench, nextqa, mvbench, seed_image, mmstar, ai2d)
}


MAKERS["videomme_subtitles"] = videomme


def answers(items: Sequence[Any], draw: Draw) -> dict[str, str | None]:
    """Mostly letters, as models answer; a tenth has to be searched or cannot be read, a fiftieth failed or is missing."""
    said: dict[str, str | None] = {}
    for item in items:
        letter = item.answer if draw.random() < 0.5 else draw.choice(LETTERS[: len(item.options)])
        text = item.options[max(0, LETTERS.find(letter)) % len(item.options)]
        kinds = [letter] * 60 + [f"{letter}."] * 20 + [f"({letter}) {text}"] * 5 + [f"The answer is {letter}."] * 3
        kinds += [f"I think that it is {text}, as one sees."] * 5 + [f"{words(draw, 12)}."] * 5
        found = draw.choice([*kinds, None, ...])
        if found is not ...:
            said[item.id] = found
    return said


def timed(name: str, n: int, rounds: int) -> Row:
    """Times of one benchmark."""
    annotations, benchmark = MAKERS[name](n, Draw(0)), get_benchmark(name)
    items = benchmark.load(annotations)
    said = answers(items, Draw(1))
    loads, wholes, cores = [], [], []
    for _ in range(rounds):
        begun = time.perf_counter()
        benchmark.load(annotations)
        loads.append(time.perf_counter() - begun)
        begun, worked = time.perf_counter(), time.process_time()
        reports = score_all(name, annotations, said, rules=RULES)
        wholes.append(time.perf_counter() - begun)
        cores.append(time.process_time() - worked)
    lead = reports["official"]
    clusters = len({item.cluster for item in lead.items})
    return Row(name, len(items), clusters, len(lead.aggregate), min(loads), min(wholes), min(cores))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000, metavar="N", help="questions (default: %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="of which the best counts (default: %(default)s)"
    )
    parser.add_argument("--benchmarks", metavar="A,B", help="only these (default: all)")
    args = parser.parse_args(arguments)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    lettered = [name for name in list_benchmarks() if not name.startswith("mini-") and not get_benchmark(name).judged]
    lacking = [name for name in lettered if name not in MAKERS]
    if lacking:
        print(f"no annotations can be made up for {', '.join(lacking)}; add them to MAKERS", file=sys.stderr)
        return 2
    wanted = args.benchmarks.split(",") if args.benchmarks else lettered
    print(f"{'':<18} {'questions':>9} {'clusters':>8} {'values':>6} {'reading':>9} {'whole':>9} {'on core':>9}")
    rows = []
    for name in wanted:
        rows.append(row := timed(name, args.items, args.rounds))
        told = f"{row.questions:9,} {row.clusters:8,} {row.values:6} {row.load:7.2f} s {row.whole:7.2f} s {row.core:7.2f} s"
        print(f"{name:<18} {told}", flush=True)
    slowest = max(rows, key=lambda row: row.whole)
    print(f"slowest: {slowest.benchmark}, {slowest.whole:.2f} s; the limit for 100,000 questions is {LIMIT:.0f} s")
    print(json.dumps({"machine": machine(1), "rows": [asdict(row) for row in rows]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
