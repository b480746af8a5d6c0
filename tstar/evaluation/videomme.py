"""Video-MME, without and with subtitles: 900 videos from seconds to an hour, three questions each.

Fu et al., "Video-MME", arXiv:2405.21075; one table, a row a question, published as parquet and read from JSON Lines
with the same fields too. The official accuracy counts answered questions only; ``accuracy_all`` counts all. With
subtitles the prompt opens with what is said while the model's frames are shown; 744 of the videos have them, of the
others the same is asked as without.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from tstar.errors import DataError
from tstar.evaluation.base import Benchmark
from tstar.evaluation.cells import item_cell, right_of_counted
from tstar.evaluation.extraction import UNPARSED
from tstar.evaluation.files import LETTERS, as_record, field, letter_of, media_root, table_rows, text_list
from tstar.evaluation.harness_rules import mcq_verdict
from tstar.evaluation.items import FAILED, MISSING, Item, ItemScore, Verdict
from tstar.evaluation.responses import ResponseLine, ResponseSet
from tstar.evaluation.splits import whole
from tstar.evaluation.statistics import Cell
from tstar.evaluation.subtitles import read_subtitles, shown_at

DURATIONS = ("short", "medium", "long")
OPENING = (
    "Select the best answer to the following multiple-choice question based on the video. "
    "Respond with only the letter (A, B, C, or D) of the correct option."
)
SUBTITLED_OPENING = OPENING.replace("the video.", "the video and the subtitles.")
SUBTITLES_HEAD = "This video's subtitles are listed below:"
ENDINGS = (".mp4", ".MP4", ".mkv")
"""What the published videos' names end in, nearly all in the first."""
_LETTERED = re.compile(r"\s*([A-Z])[.):]\s*")
# deleted one after the other; two entries are pairs run together, as in the published list, and hardly ever match
ANSWER_PHRASES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option isThe correct option is",
    "Best answer:Best option:",
    "Answer:",
    "Option:",
    "The correct answer",
    "The correct option",
)


class VideoMME(Benchmark):
    """``accuracy`` (official: of the answered), ``accuracy_all``, the official one by duration, domain, …

    Under the other rules ``accuracy`` is of all questions too.
    """

    main = "accuracy"
    main_values = ("accuracy", "accuracy_all")
    columns = ("accuracy",)
    in_mean = "accuracy"
    breakdown = (("duration", ""),)
    uncounted = frozenset({FAILED, MISSING, UNPARSED})
    rule_names = ("official", "strict", "lmms-eval")
    counts = frozenset({"answered"})
    published = {"test": whole("duration", dict.fromkeys(DURATIONS, 900))._replace(clusters=900)}  # noqa: RUF012
    subtitled: ClassVar[bool] = False
    """Whether what is said is shown beside the frames."""

    def read(self, annotations: Any, media: Path | None = None) -> list[Item]:
        """Rows of a ``.jsonl``, ``.json`` or ``.parquet`` table; of a folder ``test.jsonl`` or else parquet.

        Videos, and subtitles where they are shown, are looked for below the folder, or that of the table.
        """
        rows, where = table_rows(annotations, ("test.jsonl",))
        folder = media_root(annotations, media)
        return [_item(row, folder, self.subtitled, f"{where}, row {number}") for number, row in enumerate(rows)]

    def official(self, item: Item, line: ResponseLine) -> Verdict:
        """The first capital A to D once the answer phrases are gone; unread answers leave the denominator."""
        text = (line.response or "").strip()
        for phrase in ANSWER_PHRASES:
            text = text.replace(phrase, "")
        found = re.search("[ABCD]", text)
        if found is None:
            return Verdict(None, UNPARSED, False)
        return Verdict(found[0], "first", found[0] == item.answer)

    def lmms_eval(self, item: Item, line: ResponseLine) -> Verdict:
        """The harness's reader of letters; an unread answer is wrong."""
        return mcq_verdict(item, line.response or "")

    def cells(self, scores: Sequence[ItemScore]) -> dict[str, list[Cell]]:
        """One stratum everywhere: all these accuracies are over questions."""
        tables = self.main_cells(scores) | right_of_counted(scores, "duration")
        for category in ("domain", "sub_category", "task_type"):
            tables |= right_of_counted(scores, category, f"{category}/")
        return tables

    def main_cells(self, scores: Sequence[ItemScore]) -> dict[str, list[Cell]]:
        """Of the counted questions, and of all."""
        counted = [item_cell(item) for item in scores]
        pairs = zip(scores, counted, strict=True)
        every = [cell if item.counted else Cell(item.cluster, "", float(item.correct), 1.0) for item, cell in pairs]
        return {"accuracy": counted, "accuracy_all": every}

    def extra_values(self, scores: Sequence[ItemScore]) -> dict[str, float]:
        """How many questions were answered with a letter."""
        return {"answered": float(sum(item.how not in self.uncounted for item in scores))}

    def official_responses(self, data: Any, items: Sequence[Item], where: str) -> ResponseSet | None:
        """The official list of videos with their ``questions``; videos flagged ``missing`` are left out."""
        if not isinstance(data, Sequence) or not data or not isinstance(data[0], Mapping) or "questions" not in data[0]:
            return None
        truths = {item.id: item.answer for item in items}
        lines = []
        for number, video in enumerate(data):
            place = f"{where}, video {number}"
            record = as_record(video, place)
            questions = field(record, "questions", list, place)
            if record.get("missing"):
                continue
            for row in questions:
                question = as_record(row, f"{place}, question")
                question_id = field(question, "question_id", str, f"{place}, question")
                spot = f"{place}, question {question_id}"
                if (said := question.get("answer")) is not None and said != truths.get(question_id, said):
                    raise DataError(f"{spot}: 'answer' is {said!r} but the annotations say {truths[question_id]}")
                if "response" in question:
                    lines.append(ResponseLine(question_id, field(question, "response", (str, type(None)), spot)))
        return ResponseSet(lines)


class VideoMMESubtitles(VideoMME):
    """Video-MME with subtitles, of the videos that have a file of them in the folder of the media; see :meth:`lacks`."""

    subtitled = True

    def lacks(self, items: Sequence[Item], folder: Path) -> str:
        """Without a single file of subtitles these would be the questions of the benchmark without."""
        if any(item.subtitles for item in items):
            return ""
        return (
            f"no video has subtitles: subtitle/<videoID>.srt is looked for below {folder}, in no tar; name the folder in "
            f"evaluation.benchmarks.{self.name}.media, or ask without subtitles (videomme)"
        )

    def beside(self, items: Sequence[Item]) -> str:
        """Of how many videos there are subtitles; "" for answers that are scored without the media."""
        videos = {item.cluster for item in items}
        subtitled = {item.cluster for item in items if item.subtitles}
        return f"subtitles of {len(subtitled)} of {len(videos)} videos" if subtitled else ""

    def prompt_for(self, item: Item, folder: Path, timestamps: Sequence[float]) -> str:
        """The item's prompt, with the subtitles that are shown together with the frames."""
        if not item.subtitles or not timestamps:
            return item.prompt
        return self.prompt_with_subtitles(item, shown_at(read_subtitles(folder / item.subtitles), timestamps))

    def prompt_with_subtitles(self, item: Item, lines: Sequence[str]) -> str:
        """The official prompt below ``lines``; with none of them the prompt is the one without subtitles."""
        if not lines:
            return item.prompt
        return "\n".join([SUBTITLES_HEAD, *lines, SUBTITLED_OPENING + item.prompt.removeprefix(OPENING)])


def _item(row: Any, folder: Path | None, subtitled: bool, where: str) -> Item:
    record = as_record(row, where)
    lines = text_list(record, "options", where)
    options = []
    for letter, line in zip(LETTERS, lines, strict=False):
        found = _LETTERED.match(line)
        if not found or found[1] != letter:
            raise DataError(f"{where}: field 'options' must start with their letters, got {line!r} for {letter}")
        options.append(line[found.end() :])
    duration = field(record, "duration", str, where)
    if duration not in DURATIONS:
        raise DataError(f"{where}: field 'duration' must be one of {', '.join(DURATIONS)}, got {duration!r}")
    named = {name: field(record, name, str, where) for name in ("domain", "sub_category", "task_type")}
    question, video = field(record, "question", str, where), field(record, "videoID", str, where)
    return Item(
        id=field(record, "question_id", str, where),
        media=_there(folder, f"data/{video}", ENDINGS) or f"data/{video}",  # in a tar it may be
        subtitles=_there(folder, f"subtitle/{video}", (".srt",)) if subtitled else "",
        question=question,
        prompt="\n".join([OPENING, question, *lines, "The best answer is:"]),
        options=tuple(options),
        answer=letter_of(record, "answer", len(options), where),
        categories={"duration": duration, **named},
        cluster=field(record, "video_id", str, where),
    )


def _there(folder: Path | None, name: str, endings: Sequence[str]) -> str:
    """``name`` with the first of ``endings`` with which it is a file below ``folder``; "" if there is none."""
    if folder is None:
        return ""
    return next((name + ending for ending in endings if (folder / (name + ending)).is_file()), "")
