"""A run's answers as VLMEvalKit leaves its own: a table of annotations with predictions, one with scores, and a rating.

Scores are by the official rules of each benchmark. A question of which nothing came back has ``FAILURE`` as its prediction: the
kit's words, without the rest of its sentence, in which its readers would find a letter. One that was never asked has no row.
"""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from tstar.data.files import write_whole
from tstar.errors import ConfigError
from tstar.evaluation import Benchmark, Item, Report
from tstar.evaluation.ai2d import AI2D
from tstar.evaluation.files import LETTERS
from tstar.evaluation.mlvu import MLVU
from tstar.evaluation.mmstar import MMStar
from tstar.evaluation.mvbench import MVBench
from tstar.evaluation.response_layouts import FAILURE
from tstar.evaluation.seed_image import SeedImage
from tstar.evaluation.statistics import Cell, aggregate
from tstar.evaluation.tempcompass import TempCompass
from tstar.evaluation.tempcompass_tasks import CAPTION_MATCHING, CAPTIONING, MULTI_CHOICE, YES_NO
from tstar.evaluation.videomme import VideoMME, VideoMMESubtitles
from tstar.integrations.answers import Answers, Evaluated, entry_of

FORMATS = ("tsv", "json", "xlsx")


@dataclass(frozen=True)
class Table:
    """A benchmark as VLMEvalKit has it."""

    dataset: Callable[[Item], str]
    """Name of the data set that a question is in, without the frames."""
    columns: Callable[[Item], dict[str, Any]]
    """The annotation's columns of one question, but ``index``."""
    rating: Callable[[Report], Any] | None = None
    """What its ``_rating.json`` holds; by default our aggregates."""
    ending: str = ""
    """What follows the frames in its name."""
    accuracies: bool = False
    """The kit writes ``_acc.csv`` in place of a rating, as for all its lettered questions about pictures."""


def table_of(benchmark: Benchmark) -> Table:
    """The kit's names for a benchmark; one that it does not have gets a table under its own name."""
    known = entry_of(TABLES, benchmark)
    if known is None or benchmark.name.startswith("mini-"):
        return Table(lambda item: benchmark.name, known.columns if known else _plain_columns)
    return known


def write_vlmevalkit(
    evaluated: Evaluated, suites: Sequence[Answers], out: Path, moment: datetime, file_format: str = "tsv"
) -> list[Path]:
    """Write all suites' tables below ``out``, the kit's ``--work-dir``, and link the newest beside them.

    Args:
        evaluated: whose answers they are.
        suites: the answers to each.
        out: folder.
        moment: that the run is named after.
        file_format: of the tables: tsv, json, or xlsx, which needs the package openpyxl.

    Returns:
        The files, without the links.
    """
    write = table_writer(file_format)
    model = evaluated.path.absolute().name
    folder = out / model / moment.strftime("T%Y%m%d-%H%M%S")
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    status: dict[str, Any] = {}
    for answers in suites:
        kind = table_of(answers.benchmark)
        for dataset in dict.fromkeys(map(kind.dataset, answers.asked)):
            name = dataset + _frames_of(evaluated, answers) + kind.ending
            items = [item for item in answers.items if kind.dataset(item) == dataset]
            rows, base = _rows(answers, items, kind), folder / f"{model}_{name}"
            paths.append(base.with_name(f"{base.name}.{file_format}"))
            write(paths[-1], rows)
            status[name] = {"failed": sum(row["prediction"] == FAILURE for row in rows)}
            if answers.unjudged:
                continue
            asked = {item.id: answers.responses[item.id] for item in items if item.id in answers.rows}
            own = [item for item in items if item.id in asked]
            report = answers.benchmark.score(own, asked, "official", answers.replies)
            scored = [{**row, "score": float(s.correct)} for row, s in zip(rows, report.items, strict=True)]
            paths.append(base.with_name(f"{base.name}_score.{file_format}"))
            write(paths[-1], scored)
            paths.append(base.with_name(f"{base.name}_acc.csv" if kind.accuracies else f"{base.name}_rating.json"))
            if kind.accuracies:
                _write_table(paths[-1], [_accuracies(report, answers.benchmark)], ",")
            else:
                _write_json(paths[-1], kind.rating(report) if kind.rating else report.aggregate)
            status[name]["judge_model"] = report.judge or "exact_matching"
    paths.append(folder / "status.json")
    _write_json(paths[-1], {"commit": None, "datasets": status})
    for path in paths:
        link = out / model / path.name
        link.unlink(missing_ok=True)
        link.symlink_to(Path(folder.name) / path.name)
    return paths


def _rows(answers: Answers, items: Sequence[Item], kind: Table) -> list[dict[str, Any]]:
    """Rows of one table: questions are numbered as they lie in it, and those that were asked have one."""
    rows = []
    for number, item in enumerate(items):
        if item.id in answers.rows:
            said = answers.responses[item.id]
            rows.append({"index": number, **kind.columns(item), "prediction": FAILURE if said is None else said})
    return rows


def table_writer(file_format: str) -> Callable[[Path, Sequence[Mapping[str, Any]]], None]:
    """The function that writes rows as a table of this format; ConfigError if there is none, or its package is missing."""
    if file_format == "xlsx":
        try:
            import openpyxl  # type: ignore[import-untyped]  # noqa: F401
        except ImportError:
            raise ConfigError("--format xlsx needs openpyxl: pip install openpyxl, or choose tsv or json") from None
    writers = {"tsv": _write_tsv, "json": _write_json, "xlsx": _write_xlsx}
    if file_format not in writers:
        raise ConfigError(f"--format must be one of {', '.join(FORMATS)}, got '{file_format}'")
    return writers[file_format]


def _write_json(path: Path, value: Any) -> None:
    write_whole(path, json.dumps(value, ensure_ascii=False, indent=4).encode("utf-8", "backslashreplace"))


def _write_tsv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    _write_table(path, rows, "\t")


def _write_table(path: Path, rows: Sequence[Mapping[str, Any]], delimiter: str) -> None:
    stream = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(stream, columns, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, stream.getvalue().encode("utf-8", "backslashreplace"))


def _write_xlsx(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    from openpyxl import Workbook
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    def cell(value: Any) -> Any:
        text = ILLEGAL_CHARACTERS_RE.sub("", value) if isinstance(value, str) else value
        return str(text) if isinstance(text, (list, dict)) else text

    book = Workbook()
    sheet = book.active
    columns = list(dict.fromkeys(key for row in rows for key in row))
    sheet.append(columns)
    for number, row in enumerate(rows, start=2):
        for place, name in enumerate(columns, start=1):
            target = sheet.cell(number, place, cell(row.get(name)))
            if isinstance(row.get(name), str):
                target.data_type = "s"  # an answer that begins with = is no formula
    stream = io.BytesIO()
    book.save(stream)
    write_whole(path, stream.getvalue())


def _frames_of(evaluated: Evaluated, answers: Answers) -> str:
    """The kit's ending for so many frames; "" for pictures, or where it is not recorded."""
    frames = evaluated.settings.get("max_frames")
    moving = any(item.media_kind != "image" for item in answers.items)
    return f"_{frames}frame" if frames and moving and answers.mode == "full" else ""


def _plain_columns(item: Item) -> dict[str, Any]:
    """A question in the columns that the kit's tables of lettered questions have."""
    options = dict(zip(LETTERS, item.options, strict=False))
    asked = {"id": item.id, "media": item.media, "question": item.question or item.prompt}
    return {**asked, **options, "answer": item.answer, **item.categories}


def _listed(texts: Sequence[str]) -> str:
    """A list as the kit's tables hold it: Python's own writing, which it evaluates."""
    return repr(list(texts))


def _videomme_columns(item: Item) -> dict[str, Any]:
    video = PurePosixPath(item.media).stem
    kinds = item.categories
    return {
        "video": video,
        "video_path": f"./video/{video}.mp4",
        "duration": kinds["duration"],
        "domain": kinds["domain"],
        "candidates": _listed([f"{letter}. {text}" for letter, text in zip(LETTERS, item.options, strict=False)]),
        "sub_category": kinds["sub_category"],
        "task_type": kinds["task_type"],
        "subtitle_path": f"./subtitle/{video}.srt",
        "question": item.question,
        "answer": item.answer,
    }


def _mlvu_columns(item: Item) -> dict[str, Any]:
    path = PurePosixPath(item.media)
    return {
        "task_type": item.categories["task"],
        "prefix": f"./MLVU/{path.parent}",
        "video": path.name,
        "question": item.question,
        "answer": item.truth,
        "candidates": _listed(item.options),
    }


def _tempcompass_columns(item: Item) -> dict[str, Any]:
    task = item.categories["task"]
    shared = {"task_type": task, "prefix": "./videos", "suffix": ".mp4", "video": item.cluster}
    asked = {"question": item.question, "answer": item.truth, "dim": item.categories["aspect"]}
    if task in (MULTI_CHOICE, CAPTION_MATCHING):
        first, *rest = item.question.split("\n")
        return shared | asked | {"question": first, "candidates": _listed(rest)}
    return (
        shared | asked | ({"mc_question": item.judge_question, "mc_answer": item.truth} if task == CAPTIONING else {})
    )


def _tempcompass_table(item: Item) -> str:
    apart = {YES_NO: "TempCompass_YorN", CAPTIONING: "TempCompass_Captioning"}
    return apart.get(item.categories["task"], "TempCompass_MCQ")


def _videomme_rating(report: Report) -> dict[str, Any]:
    """Mean scores by duration, and within each by domain, sub-category and task type."""
    rating: dict[str, Any] = {}
    for duration in ("short", "medium", "long", "overall"):
        own = [score for score in report.items if duration in ("overall", score.categories["duration"])]
        parts: dict[str, dict[str, list[float]]] = {"domain": {}, "sub_category": {}, "task_type": {}}
        for score in own:
            for part, table in parts.items():
                table.setdefault(score.categories[part], []).append(float(score.correct))
        rating[duration] = {"overall": _mean([float(score.correct) for score in own])}
        rating[duration] |= {part: {name: _mean(v) for name, v in table.items()} for part, table in parts.items()}
    return rating


def _mean(values: Sequence[float]) -> str:
    """As the kit writes it, a text of two decimals; "nan" of nothing."""
    return f"{aggregate([Cell('', '', value, 1) for value in values]):.2f}" if values else "nan"


def _mvbench_columns(item: Item) -> dict[str, Any]:
    folder, video = item.media.removeprefix("video/").rsplit("/", 1)
    title = item.categories["task"].replace("fine_grained", "fine-grained").replace("_", " ")
    start, end = item.window or (None, None)
    return {
        "task_type": " ".join(word.capitalize() for word in title.split()),
        "prefix": f"video/{folder}/",
        "data_type": "frame" if item.media_kind == "frames" else "video",
        "bound": item.window is not None,
        "start": start,
        "end": end,
        "video": video,
        "question": item.question,
        "answer": item.truth,
        "candidates": _listed(item.options),
    }


def _picture_columns(item: Item) -> dict[str, Any]:
    return {
        "question": item.question,
        **dict(zip(LETTERS, item.options, strict=False)),
        "answer": item.answer,
        **{name.replace("question type", "category"): value for name, value in item.categories.items()},
    }


def _accuracies(report: Report, benchmark: Benchmark) -> dict[str, Any]:
    """One row: over all, then by category."""
    named = dict.fromkeys(score.categories[name] for name, _ in benchmark.breakdown for score in report.items)
    return {"split": "none", "Overall": report.aggregate[benchmark.main]} | {n: report.aggregate[n] for n in named}


TABLES: dict[type[Benchmark], Table] = {
    VideoMME: Table(lambda item: "Video-MME", _videomme_columns, _videomme_rating),
    VideoMMESubtitles: Table(lambda item: "Video-MME", _videomme_columns, _videomme_rating, ending="_subs"),
    MLVU: Table(lambda item: "MLVU_MCQ", _mlvu_columns),
    TempCompass: Table(_tempcompass_table, _tempcompass_columns),
    MVBench: Table(lambda item: "MVBench", _mvbench_columns),
    SeedImage: Table(lambda item: "SEEDBench_IMG", _picture_columns, accuracies=True),
    MMStar: Table(lambda item: "MMStar", _picture_columns, accuracies=True),
    AI2D: Table(lambda item: "AI2D_TEST", _picture_columns, accuracies=True),
}
