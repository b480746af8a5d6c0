"""What is asked and what came of it: items, verdicts, reports. Plain values that no benchmark and no model is needed for."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

from tstar.errors import DataError
from tstar.evaluation.files import LETTERS
from tstar.evaluation.statistics import Difference

Rules = Literal["official", "strict", "lmms-eval"]
RULES: tuple[Rules, ...] = ("official", "strict", "lmms-eval")
FAILED, MISSING, UNJUDGED = "failed", "missing", "unjudged"
VIDEO_ENDINGS = ("mp4", "webm", "mkv", "avi")
"""Of videos' names; a fingerprint does not tell them."""
NO_REPORT = "not a report written by Report.to_json"


MediaKind = Literal["video", "image", "frames"]


class MediaPlace(NamedTuple):
    """Where else an item's media may lie, and what they are there; the fields are those of :class:`Item`."""

    media: str
    media_kind: MediaKind = "video"
    window: tuple[float, float] | None = None
    frame_rate: float | None = None


@dataclass(kw_only=True)
class Item:
    """One question as the benchmark asks it; a value, though not frozen, which costs four times as much to make."""

    id: str
    media: str
    """Path of the video, image or folder of frames relative to the benchmark's folder; without its ending where the
    benchmark publishes several."""
    media_kind: MediaKind = "video"
    """A video file, one picture, or a folder of pictures numbered in the order of time."""
    window: tuple[float, float] | None = None
    """Seconds of the video that the question is about: frames are sampled from there. None is all of it."""
    annotated_window: tuple[float, float] | None = None
    """The same as the annotations say it, also where the media are cut to it already and ``window`` is None."""
    frame_rate: float | None = None
    """Pictures a second of a folder of frames."""
    elsewhere: tuple[MediaPlace, ...] = ()
    """Where the media are looked for, in this order, if they are not at ``media``: benchmarks are published in several layouts."""
    subtitles: str = ""
    """Path of an ``.srt`` beside the video, for protocols that show the model what is said; "" shows none."""
    question: str = ""
    """The annotation's own question, without options and instruction: judges are shown it, and logs are matched by it."""
    judge_question: str = ""
    """What a judge is asked about the answer, where that is another question."""
    prompt: str
    """Official user prompt, without the visual marker."""
    system: str = ""
    """Official system text; "" leaves the model its own."""
    prefill: str = ""
    """Text that the assistant's answer is started with; a response is what comes after it."""
    options: tuple[str, ...]
    """Option texts without their letters; () where the answer is free text."""
    answer: str
    """Letter of the truth, or its text where the options are shown without letters; MLVU has two items with ``@``,
    whose answer is none of the options. Free text where there are no options."""
    truth: str = ""
    """The annotation's own answer text, where a scorer compares with it."""
    categories: dict[str, str] = field(default_factory=dict)
    cluster: str
    """Unit of resampling: the video; for VNBench the group of four tries."""

    @property
    def chance(self) -> float:
        """Probability that a uniform guess among the options is right: 1/options, 0 where no option is."""
        there = self.answer in LETTERS[: len(self.options)] or self.answer in self.options
        return 1 / len(self.options) if self.options and there else 0.0


@dataclass
class ItemScore:
    """Verdict on one item, with all that the aggregates need; a value as :class:`Item` is.

    ``how`` is the rule that read the answer, or one of ``unparsed`` (no letter found), ``failed`` (response was null),
    ``missing`` (never asked) and ``unjudged`` (no readable reply of the judge that it needs). ``counted`` is False
    where the rule leaves the item out of the denominator.
    """

    id: str
    response: str | None
    extracted: str | None
    how: str
    correct: bool | float
    answer: str
    categories: dict[str, str]
    cluster: str
    chance: float
    counted: bool = True
    rating: float | None = None
    """A judge's mark, where the benchmark has one beside right and wrong."""

    @classmethod
    def of(
        cls,
        item: Item,
        response: str | None,
        verdict: "Verdict",
        *,
        guessed: bool = False,
        counted: bool = True,
    ) -> "ItemScore":
        """The ``verdict`` on a response to ``item``; of a uniform guess its probability of being right."""
        extracted, how, correct, rating = verdict
        chance = item.chance
        return cls(
            item.id,
            response,
            extracted,
            how,
            chance if guessed else correct,
            item.answer,
            item.categories,
            item.cluster,
            chance,
            counted,
            rating,
        )

    @property
    def category(self) -> dict[str, str]:
        """``categories``, under the name that prediction files use."""
        return self.categories


@dataclass(frozen=True)
class Report:
    """Scores of one response set; accuracies are fractions 0 to 1.

    ``items`` has one entry an item in annotation order (an official rule that sees a repeated line has one a line);
    ``chance`` holds what uniform guessing would give for the main values.
    """

    benchmark: str
    rules: str
    items: tuple[ItemScore, ...]
    aggregate: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    chance: dict[str, float]
    counts: dict[str, int]
    split: str = ""
    """Published split that the questions are, e.g. ``dev``; "" for a part of one, or a set of one's own."""
    fingerprint: str = ""
    """Hash over what was asked, see :func:`fingerprint`: reports with different ones are not about the same questions."""
    beside: str = ""
    """What was shown beside the media, as ``subtitles of 744 of 900 videos``; "" for nothing."""
    judge: str = ""
    """Model that judged, as the server named it; "" where nothing was judged."""
    judge_dates: str = ""
    """Days of the judge's first and last reply, as ``2026-11-28`` or ``2026-11-28/2026-11-30``."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why an item failed, was never asked, or has no answer of the judge, by its id, as far as that is known."""
    other_rules: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What official and strict rules make of the same responses, where they are not the report's own: by rules ``aggregate``,
    the values that tables show, ``differ``, on how many questions they come to another verdict, and ``differing``, their ids."""

    @property
    def unmeasured(self) -> bool:
        """Whether no answer is judged yet, so that its values are no measurement."""
        return not self.counts.get("answered") and bool(self.counts.get(UNJUDGED))

    def named(self, how: str) -> list[str]:
        """Ids of the items that ended as ``how``, e.g. ``"failed"``, ``"missing"`` or ``"unparsed"``."""
        return [item.id for item in self.items if item.how == how]

    def to_json(self) -> str:
        """The whole report as one JSON object, read back by :meth:`from_json`."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """A report written by :meth:`to_json`; DataError if it is not one."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise DataError(f"{NO_REPORT} ({error}); score the responses again") from None
        return cls.from_data(data)

    @classmethod
    def from_data(cls, data: Any) -> "Report":
        """A report from what its JSON holds; DataError if that is no report."""
        try:
            data = dict(data)
            items = tuple(ItemScore(**item) for item in data.pop("items"))
            intervals = {name: (float(low), float(high)) for name, (low, high) in data.pop("intervals").items()}
            return cls(items=items, intervals=intervals, **data)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{NO_REPORT} ({error}); score the responses again") from None


class Verdict(NamedTuple):
    """What a rule makes of one response: what it read, by which step, and whether that is right."""

    extracted: str | None
    how: str
    correct: bool | float
    rating: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Two reports on the same items: each main value's difference, and McNemar's exact test over the items.

    Where items have marks only, it is the sign test, over those whose marks differ.
    """

    differences: dict[str, Difference]
    only_first: int
    only_second: int
    p_value: float
    unpaired: int = 0
    """Items that the rule leaves out of the denominator of one report or both; the test is over the others."""


def fingerprint(items: Iterable[Item]) -> str:
    """Hash over what is asked, about which videos, and what is true, whatever the order; 16 hex digits.

    It covers ids, prompts, system texts, beginnings of answers, options, answers, truths, categories, names of videos, and the
    windows that the annotations ask about. It is the same wherever and in whichever of its published forms a benchmark's media
    lie: folders and endings of videos, paths of pictures, and which videos have subtitles there are not in it.
    """
    return hashlib.sha256("\x1d".join(sorted(map(_asked, items))).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _asked(item: Item) -> str:
    video = ""
    if item.media_kind != "image":
        name = item.media.rpartition("/")[2]
        stem, _, ending = name.rpartition(".")
        video = stem if ending.lower() in VIDEO_ENDINGS else name
    window = item.annotated_window or item.window
    texts = [item.id, item.prompt, item.system, item.prefill, item.answer, item.truth, video]
    texts.append("" if window is None else f"{window[0]!r} {window[1]!r}")
    texts += item.options
    texts += map("=".join, sorted(item.categories.items()))
    return "\x1e".join(texts)
