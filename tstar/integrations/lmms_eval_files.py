"""A run's answers as lmms-eval leaves its own: ``results.json`` and a file of samples a task.

Layout of lmms-eval 0.7. Values are by the ``lmms-eval`` rules where a benchmark has them, else by its official ones: what the
harness would print for these answers. The questions were asked with the official prompts, not the harness's.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tstar import __version__
from tstar.data.files import write_whole
from tstar.evaluation import Benchmark, Item, ItemScore, Report
from tstar.evaluation.activitynetqa import TYPES as ACTIVITYNETQA_TYPES
from tstar.evaluation.activitynetqa import ActivityNetQA
from tstar.evaluation.ai2d import AI2D
from tstar.evaluation.cells import item_cell
from tstar.evaluation.chat_temporal import ChatTemporal
from tstar.evaluation.extraction import UNPARSED
from tstar.evaluation.files import LETTERS
from tstar.evaluation.items import UNJUDGED
from tstar.evaluation.lvbench import LVBench
from tstar.evaluation.mlvu import MLVU
from tstar.evaluation.mmstar import MMStar
from tstar.evaluation.mvbench import MVBench
from tstar.evaluation.nextqa import NextQA
from tstar.evaluation.seed_image import SeedImage
from tstar.evaluation.statistics import Cell, aggregate
from tstar.evaluation.tempcompass import TempCompass
from tstar.evaluation.tempcompass_tasks import JUDGE, JUDGE_FAILED
from tstar.evaluation.videomme import VideoMME, VideoMMESubtitles
from tstar.evaluation.vnbench import VNBench
from tstar.integrations.answers import Answers, Evaluated, entry_of

LAYOUT = "0.7"
UNMATCHED = (UNPARSED, UNJUDGED, JUDGE, JUDGE_FAILED)
"""How TempCompass's answers were read that no rule of a task matched."""


Sampler = Callable[[Item, ItemScore], dict[str, Any]]
Valuer = Callable[[Report, str], dict[str, float]]


@dataclass(frozen=True)
class HarnessTask:
    """A benchmark as lmms-eval has it."""

    task: Callable[[Item], str]
    """Which of its tasks a question belongs to."""
    sample: Sampler
    """What the task keeps of one answer, by metric."""
    values: Valuer
    """Aggregates of a task by metric, in the harness's own units (percent for most)."""
    target: Callable[[Item], Any] = lambda item: item.answer
    """What the task's documents have as the answer."""
    filter: str = "none"
    group: str = ""
    """What the harness calls the task's group."""


def harness_task(benchmark: Benchmark) -> HarnessTask:
    """lmms-eval's names for a benchmark; one that it does not have is written under its own name and values."""
    known = entry_of(TASKS, benchmark)
    return _own_task(benchmark) if known is None or benchmark.name.startswith("mini-") else known


def rules_of(benchmark: Benchmark) -> str:
    """The rules that the harness's numbers follow."""
    return "lmms-eval" if "lmms-eval" in benchmark.rule_names else "official"


def write_lmms_eval(evaluated: Evaluated, suites: list[Answers], out: Path, moment: datetime) -> list[Path]:
    """Write all suites' samples and one ``results.json`` into the model's folder below ``out``; returns the files.

    Args:
        evaluated: whose answers they are.
        suites: the answers to each.
        out: the harness's ``--output_path``.
        moment: that the files are named after.
    """
    folder = out / model_folder(evaluated.path)
    folder.mkdir(parents=True, exist_ok=True)
    stamp = moment.strftime("%Y%m%d_%H%M%S")
    tables: dict[str, dict[str, Any]] = {name: {} for name in ("results", "configs", "versions", "n-shot", "n-samples")}
    tables |= {"higher_is_better": {}, "task_hashes": {}, "group_subtasks": {}}
    paths = []
    for answers in suites:
        kind, rules = harness_task(answers.benchmark), rules_of(answers.benchmark)
        report = answers.benchmark.score(answers.asked, _as_told(answers), rules, answers.replies)
        scores = {score.id: score for score in report.items}
        tasks: dict[str, list[tuple[int, Item]]] = {}
        for item in answers.items:
            numbered = tasks.setdefault(kind.task(item), [])
            numbered.append((len(numbered), item))
        for task, items in tasks.items():
            lines = [
                _sample(number, item, scores[item.id], answers, kind)
                for number, item in items
                if item.id in answers.rows
            ]
            if not lines:
                continue
            if kind.group:
                tables["group_subtasks"].setdefault(kind.group, []).append(task)
            paths.append(folder / f"{stamp}_samples_{task}.jsonl")
            text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
            write_whole(paths[-1], text.encode("utf-8", "backslashreplace"))
            values = {} if answers.unjudged else kind.values(report, task)
            _enter(tables, task, values, kind.filter, len(items), lines, evaluated.settings)
    paths.append(folder / f"{stamp}_results.json")
    whole = _results(tables, evaluated, stamp)
    write_whole(paths[-1], json.dumps(whole, ensure_ascii=False, indent=2).encode("utf-8", "backslashreplace"))
    return paths


def _as_told(answers: Answers) -> dict[str, str | None]:
    """Responses as the harness has them: it knows no failures, which are empty texts there, and wrong where a judge decides."""
    blank = None if answers.benchmark.judged else ""
    return {key: blank if text is None else text for key, text in answers.responses.items()}


def model_folder(run: Path) -> str:
    """The harness's folder for a model: the last two parts of its path, joined."""
    parts = run.absolute().parts[-2:]
    return re.sub(r"[\"<>:/|\\?*\[\]]+", "__", "/".join(parts))


def _sample(number: int, item: Item, score: ItemScore, answers: Answers, kind: HarnessTask) -> dict[str, Any]:
    """One line; beside the harness's fields the question's id, and of our own log what it has no place for."""
    row = answers.rows[item.id]
    line: dict[str, Any] = {
        "doc_id": number,
        "target": str(kind.target(item)),
        "filtered_resps": [score.response or ""],
        "doc_hash": _hash([item.id, item.prompt, item.options, item.answer, item.truth]),
        "input": answers.prompts[item.id],
        **({} if answers.unjudged else kind.sample(item, score)),
        "tstar": {"id": item.id, "visual_tokens": row.get("visual_tokens"), "error": row.get("error")},
    }
    if row.get("answer_tokens") is not None:
        read = row["prompt_tokens"] + row["visual_tokens"]
        line["token_counts"] = [{"input_tokens": read, "output_tokens": row["answer_tokens"]}]
    return line


def _enter(
    tables: dict[str, dict[str, Any]],
    task: str,
    values: Mapping[str, float],
    filter_name: str,
    total: int,
    lines: list[dict[str, Any]],
    settings: Mapping[str, Any],
) -> None:
    result: dict[str, Any] = {"alias": task}
    for metric, value in values.items():
        result |= {f"{metric},{filter_name}": value, f"{metric}_stderr,{filter_name}": "N/A"}
    tables["results"][task] = result | {"samples": len(lines)}
    kwargs = {"max_new_tokens": settings.get("max_new_tokens"), "do_sample": False, "temperature": 0}
    tables["configs"][task] = {"task": task, "metadata": {"version": 0.0}, "generation_kwargs": kwargs}
    tables["versions"][task] = 0.0
    tables["n-shot"][task] = 0
    tables["higher_is_better"][task] = dict.fromkeys(values, True)
    tables["n-samples"][task] = {"original": total, "effective": len(lines)}
    hashes = [f"sample_{place}{line['doc_hash']}" for place, line in enumerate(lines)]
    tables["task_hashes"][task] = hashlib.sha256("".join(hashes).encode()).hexdigest()


def _results(tables: dict[str, dict[str, Any]], evaluated: Evaluated, stamp: str) -> dict[str, Any]:
    settings = evaluated.settings
    looked = {key: settings[key] for key in ("max_frames", "fps", "decoder") if key in settings}
    told = ",".join([f"pretrained={evaluated.path}", *(f"{key}={value}" for key, value in looked.items())])
    return {
        "results": tables["results"],
        "group_subtasks": tables["group_subtasks"],
        **{key: tables[key] for key in ("configs", "versions", "n-shot", "higher_is_better", "n-samples")},
        "config": {
            "model": "tstar",
            "model_args": told,
            "batch_size": str(settings.get("batch_size", "")),
            "limit": None,
            "gen_kwargs": "",
        },
        "git_hash": None,
        "date": stamp,
        "lmms_eval_version": f"layout of {LAYOUT}, written by tstar {__version__}",
        "task_hashes": tables["task_hashes"],
        "model_source": "tstar",
        "model_name": str(evaluated.path),
        "start_time": 0.0,
        "end_time": evaluated.seconds,
        "total_evaluation_time_seconds": None if evaluated.seconds is None else str(evaluated.seconds),
    }


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace")).hexdigest()


def _own_task(benchmark: Benchmark) -> HarnessTask:
    """A benchmark that the harness has not: one task of its name, main values as fractions."""

    def sample(item: Item, score: ItemScore) -> dict[str, Any]:
        entry = {"question_id": item.id, **score.categories, "pred_answer": score.extracted, "answer": item.answer}
        return dict.fromkeys(benchmark.main_values, entry | {"score": float(score.correct)})

    def values(report: Report, task: str) -> dict[str, float]:
        return {value: report.aggregate[value] for value in benchmark.main_values}

    return HarnessTask(lambda item: benchmark.name.replace("-", "_"), sample, values)


def _said(score: ItemScore) -> str:
    return score.extracted or ""


def _mlvu_sample(item: Item, score: ItemScore) -> dict[str, Any]:
    entry = {"question_id": item.question, "task_type": item.categories["task"], "pred_answer": _said(score)}
    return {"mlvu_percetion_score": {**entry, "answer": item.answer}}


def _videomme_sample(item: Item, score: ItemScore) -> dict[str, Any]:
    kinds = item.categories
    entry = {
        "question_id": item.id,
        "duration": kinds["duration"],
        "category": kinds["domain"],
        "sub_category": kinds["sub_category"],
        "task_category": kinds["task_type"],
        "pred_answer": _said(score),
        "answer": item.answer,
        "score": float(score.correct),
        "videoID": Path(item.media).stem,
    }
    return {"videomme_perception_score": entry}


def _tempcompass_sample(item: Item, score: ItemScore) -> dict[str, Any]:
    aspect = item.categories["aspect"]
    entry = {
        "video_id": item.cluster,
        "question": item.question,
        "gt-answer": item.truth,
        "video-llm-prediction": score.response or "",
        "match_success": score.how not in UNMATCHED,
        "rating": int(score.correct),
        "dim": aspect,
    }
    return {"avg_accuracy": entry, f"{aspect}_accuracy": entry}


def _tempcompass_task(item: Item) -> str:
    return f"tempcompass_{item.categories['task'].replace('-', '_')}"


def _tempcompass_values(report: Report, task: str) -> dict[str, float]:
    kind = task.removeprefix("tempcompass_").replace("multi_choice", "multi-choice")
    own = {k.removeprefix(f"{kind}/"): v for k, v in report.aggregate.items() if k.startswith(f"{kind}/")}
    return {f"{k}_accuracy": 100 * v for k, v in own.items() if "/" not in k and k != "match_rate"}


def _activitynetqa_sample(item: Item, score: ItemScore) -> dict[str, Any]:
    shown = {"video_name": item.cluster, "question": item.question, "answer": item.answer, "pred": score.response}
    kind = ACTIVITYNETQA_TYPES.index(item.categories["type"])
    said = {"Correctness": score.extracted or "no", "score": score.rating or 0}
    entry = {**shown, "question_id": item.id, "type": kind, **said}
    return {"gpt_eval_score": entry, "gpt_eval_accuracy": entry}


def _chat_temporal_sample(item: Item, score: ItemScore) -> dict[str, Any]:
    shown = {"video_name": item.cluster, "Q": item.question, "A": item.answer, "pred": score.response}
    return {"gpt_eval_score_temporal": {**shown, "score": score.rating or 0}}


def _vnbench_sample(item: Item, score: ItemScore) -> dict[str, Any]:
    shared = {"id": item.id, "type": item.categories["type"], "correct": bool(score.correct)}
    shared |= {"pred_answer": score.extracted, "answer": item.answer}
    return {"vnbench_circular": {"group": item.cluster, **shared}, "vnbench_independent": shared}


def _mvbench_sample(item: Item, score: ItemScore) -> dict[str, Any]:
    said = (score.response or "").strip()
    truth = LETTERS[item.options.index(item.truth)]  # of equal options the harness means the first
    return {"mvbench_accuracy": {"pred_answer": said, "gt_answer": truth, "score": int(score.correct)}}


def _mmstar_sample(item: Item, score: ItemScore) -> dict[str, Any]:
    entry = {"question_id": item.id, "l2_category": item.categories["l2_category"], "score": float(score.correct)}
    return {item.categories["category"]: entry, "average": entry}


def _mmstar_values(report: Report, task: str) -> dict[str, float]:
    """Means over the parts, of all and of each category."""
    cells: dict[str, list[Cell]] = {}
    for score in report.items:
        cells.setdefault(score.categories["category"], []).append(item_cell(score, score.categories["l2_category"]))
    return {name: aggregate(own) for name, own in cells.items()} | {"average": report.aggregate["macro"]}


def _seed_sample(item: Item, score: ItemScore) -> dict[str, Any]:
    entry = {"pred": (score.response or "").strip()[:1], "answer": item.answer, "question_id": item.id}
    return {"seed_image": entry, "seed_all": entry}


def _single(metric: str, name: str) -> tuple[Sampler, Valuer]:
    """Of a task that keeps the verdict alone, under ``metric``; its value is our ``name``."""
    return (
        lambda item, score: {metric: float(score.correct)},
        lambda report, task: {metric: report.aggregate[name]},
    )


TASKS: dict[type[Benchmark], HarnessTask] = {
    MLVU: HarnessTask(
        lambda item: "mlvu_dev" if ":" in item.id else "mlvu_test",
        _mlvu_sample,
        lambda report, task: {"mlvu_percetion_score": 100 * report.aggregate["m_avg"]},  # the harness's own spelling
    ),
    VideoMME: HarnessTask(
        lambda item: "videomme",
        _videomme_sample,
        lambda report, task: {"videomme_perception_score": 100 * report.aggregate["accuracy_all"]},
    ),
    VideoMMESubtitles: HarnessTask(
        lambda item: "videomme_w_subtitle",
        _videomme_sample,
        lambda report, task: {"videomme_perception_score": 100 * report.aggregate["accuracy_all"]},
    ),
    TempCompass: HarnessTask(
        _tempcompass_task,
        _tempcompass_sample,
        _tempcompass_values,
        target=lambda item: item.truth,
    ),
    VNBench: HarnessTask(  # the task in lmms_eval_tasks/vnbench; the harness has none
        lambda item: "vnbench",
        _vnbench_sample,
        lambda report, task: {f"vnbench_{name}": report.aggregate[name] for name in ("circular", "independent")},
    ),
    LVBench: HarnessTask(lambda item: "lvbench", *_single("lvbench_score", "accuracy")),
    NextQA: HarnessTask(
        lambda item: "nextqa_mc_test",
        *_single("exact_match", "accuracy"),
        target=lambda item: LETTERS.index(item.answer),
    ),
    MVBench: HarnessTask(
        lambda item: f"mvbench_{item.categories['task']}",
        _mvbench_sample,
        lambda report, task: {"mvbench_accuracy": 100 * report.aggregate[task.removeprefix("mvbench_")]},
        target=lambda item: item.truth,
        group="mvbench",
    ),
    SeedImage: HarnessTask(
        lambda item: "seedbench",
        _seed_sample,
        lambda report, task: dict.fromkeys(("seed_image", "seed_all"), report.aggregate["accuracy"]),
    ),
    MMStar: HarnessTask(lambda item: "mmstar", _mmstar_sample, _mmstar_values),
    AI2D: HarnessTask(lambda item: "ai2d", *_single("exact_match", "accuracy"), filter="flexible-extract"),
    ActivityNetQA: HarnessTask(
        lambda item: "activitynetqa",
        _activitynetqa_sample,
        lambda report, task: {
            "gpt_eval_score": report.aggregate["score"],
            "gpt_eval_accuracy": 100 * report.aggregate["accuracy"],
        },
    ),
    ChatTemporal: HarnessTask(
        lambda item: "videochatgpt_temporal",
        _chat_temporal_sample,
        lambda report, task: {"gpt_eval_score_temporal": report.aggregate["score"]},
    ),
}
