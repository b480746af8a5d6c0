"""What every benchmark shares: items, verdicts, reports, and the walk from responses to a report.

A benchmark adds how its annotation files are read, its prompt, its official rule for one answer, and which cells
(:mod:`tstar.evaluation.statistics`) make up its aggregates. Nothing here loads a model.
"""

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from tstar.errors import ConfigError, DataError, suggest
from tstar.evaluation.extraction import UNPARSED, extract_letter
from tstar.evaluation.files import LETTERS
from tstar.evaluation.responses import ResponseLine, ResponseSet, load_response_source, plain_responses
from tstar.evaluation.statistics import (
    Cell,
    Difference,
    aggregate,
    bootstrap_intervals,
    mcnemar_exact,
    paired_differences,
)

Rules = Literal["official", "strict"]
RULES: tuple[Rules, ...] = ("official", "strict")
FAILED, MISSING = "failed", "missing"


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question as the benchmark asks it."""

    id: str
    media: str
    """Path of the video relative to the benchmark's folder."""
    prompt: str
    """Official user prompt, without the visual marker."""
    system: str = ""
    """Official system text; "" leaves the model its own."""
    prefill: str = ""
    """Text that the assistant's answer is started with; a response is what comes after it."""
    options: tuple[str, ...]
    """Option texts without their letters."""
    answer: str
    """Letter of the truth; MLVU has two items with ``@``, whose answer is none of the options."""
    truth: str = ""
    """The annotation's own answer text, where a scorer compares with it."""
    categories: dict[str, str] = field(default_factory=dict)
    cluster: str
    """Unit of resampling: the video; for VNBench the group of four tries."""

    @property
    def chance(self) -> float:
        """Probability that a uniform guess among the options is right: 1/options, 0 where no option is."""
        return 1 / len(self.options) if self.answer in LETTERS[: len(self.options)] else 0.0


@dataclass(frozen=True)
class ItemScore:
    """Verdict on one item, with all that the aggregates need.

    ``how`` is the rule that read the answer, or one of ``unparsed`` (no letter found), ``failed`` (response was null)
    and ``missing`` (never asked). ``counted`` is False where the official rule leaves the item out of the denominator.
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
            items = tuple(ItemScore(**item) for item in data.pop("items"))
            intervals = {name: (float(low), float(high)) for name, (low, high) in data.pop("intervals").items()}
            return cls(items=items, intervals=intervals, **data)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"not a report written by Report.to_json ({error}); score the responses again") from None


@dataclass(frozen=True)
class Verdict:
    """What a rule makes of one response: what it read, by which step, and whether that is right."""

    extracted: str | None
    how: str
    correct: bool


@dataclass(frozen=True)
class Comparison:
    """Two reports on the same items: each main value's difference, and McNemar's exact test over the items."""

    differences: dict[str, Difference]
    only_first: int
    only_second: int
    p_value: float


class Benchmark(ABC):
    """One benchmark or a miniature suite in its format; ``name`` is what reports and folders carry."""

    main: ClassVar[str]
    """Name of the headline value in a report's aggregate."""
    main_values: ClassVar[tuple[str, ...]]
    """Values that come with a chance level and enter paired comparisons."""
    columns: ClassVar[tuple[str, ...]]
    """Values that the comparison table has a column for."""
    in_mean: ClassVar[str]
    """The value that enters the mean over suites."""
    breakdown: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Categories that tables break the suite down by, each with what its aggregates' names start with."""
    category_names: ClassVar[Mapping[str, str]] = {}
    """What tables call a category's values, where the annotations' own words do not say it."""
    uncounted: ClassVar[frozenset[str]] = frozenset()
    """Outcomes that the official rule leaves out of the denominator."""

    def __init__(self, name: str) -> None:
        self.name = name

    def load(self, annotations: Path | str | Sequence[Any] | Mapping[str, Any]) -> list[Item]:
        """Items of the official annotation file or folder, or of its parsed content.

        Raises DataError naming file, row and field for anything that is not as published, and for repeated ids.
        """
        items = self.read(Path(annotations) if isinstance(annotations, str) else annotations)
        source = str(annotations) if isinstance(annotations, (str, Path)) else "annotations"
        if not items:
            raise DataError(f"{source}: holds no {self.name} questions")
        _no_duplicates((item.id for item in items), source)
        return items

    def responses(self, source: Any, items: Sequence[Item]) -> ResponseSet:
        """Responses of a path or parsed content, in the plain layout or one of the benchmark's official ones."""
        if isinstance(source, ResponseSet):
            return source
        data, where = load_response_source(source)
        own = self.official_responses(data, items, where)
        return plain_responses(data, where) if own is None else own

    def score(self, items: Sequence[Item], responses: Mapping[str, str | None], rules: str = "official") -> Report:
        """Judge every item and aggregate.

        Args:
            items: all that should have been answered, ids unique.
            responses: by item id; None is a failure, an absent id was never asked.
            rules: ``official`` (the published scorer with its accidents) or ``strict`` (one reader for all, whatever is
                failed, missing or unreadable is wrong).
        """
        check_rules(rules)
        _no_duplicates((item.id for item in items), "items")
        known = {item.id for item in items}
        unknown = [item_id for item_id in responses if item_id not in known]
        if unknown:
            raise DataError(
                f"{self.name}: {len(unknown)} response ids are not in the annotations "
                f"(first: {', '.join(unknown[:3])}); ids look like {items[0].id if items else '-'}"
            )
        scores = tuple(entry for item in items for entry in self._judge(item, responses, rules))
        tables = self.cells(scores)
        counts = _count(scores)
        if isinstance(responses, ResponseSet) and responses.repeated:
            counts["repeated"] = responses.repeated
        return Report(
            benchmark=self.name,
            rules=rules,
            items=scores,
            aggregate={name: aggregate(cells) for name, cells in tables.items()} | self.extra_values(scores),
            intervals=bootstrap_intervals(tables),
            chance=self.chance(items),
            counts=counts,
        )

    def chance(self, items: Sequence[Item]) -> dict[str, float]:
        """Main values of a model that guesses uniformly, item by item and independently, and always answers."""
        guesses = [_entry(item, None, Verdict(None, "guess", False), correct=item.chance) for item in items]
        tables = self.cells(guesses)
        return {name: aggregate(tables[name]) for name in self.main_values}

    def compare(self, first: Report, second: Report) -> Comparison:
        """Paired comparison, ``second - first``; DataError unless both scored the same items by the same rules."""
        last = [{item.id: item for item in report.items} for report in (first, second)]
        if first.benchmark != second.benchmark or first.rules != second.rules or last[0].keys() != last[1].keys():
            raise DataError(
                f"only reports on the same items by the same rules can be compared, got {_signature(first)} and "
                f"{_signature(second)}, {len(last[0].keys() ^ last[1].keys())} items in one of them only"
            )
        tables = [self.cells(report.items) for report in (first, second)]
        main = [{name: table[name] for name in self.main_values} for table in tables]
        pairs = [(bool(item.correct), bool(last[1][key].correct)) for key, item in last[0].items()]
        only_first, only_second = pairs.count((True, False)), pairs.count((False, True))
        p_value = mcnemar_exact(only_first, only_second)
        return Comparison(paired_differences(*main), only_first, only_second, p_value)

    @abstractmethod
    def read(self, annotations: Any) -> list[Item]:
        """Items of a ``Path`` or of parsed annotations; ids need not be checked."""

    @abstractmethod
    def official(self, item: Item, line: ResponseLine) -> Verdict:
        """The official rule for one response, which is not None."""

    @abstractmethod
    def cells(self, scores: Sequence[ItemScore]) -> dict[str, list[Cell]]:
        """The cells of every aggregate; all main values are always among them, categories only where present."""

    def official_responses(self, data: Any, items: Sequence[Item], where: str) -> ResponseSet | None:
        """Responses in a layout of the benchmark's own scorer, None if ``data`` is in no such layout."""
        return None

    def extra_values(self, scores: Sequence[ItemScore]) -> dict[str, float]:
        """Aggregate entries that are counts rather than rates."""
        return {}

    def _judge(self, item: Item, responses: Mapping[str, str | None], rules: str) -> list[ItemScore]:
        if item.id not in responses:
            return [self._entry(item, None, Verdict(None, MISSING, False), rules)]
        lines = [ResponseLine(item.id, responses[item.id])]
        if isinstance(responses, ResponseSet):
            every = responses.lines(item.id)
            lines = every if rules == "official" and responses.keep_repeats else every[-1:]
        return [self._entry(item, line.response, self._verdict(item, line, rules), rules) for line in lines]

    def _verdict(self, item: Item, line: ResponseLine, rules: str) -> Verdict:
        if line.response is None:
            return Verdict(None, FAILED, False)
        if rules == "official":
            return self.official(item, line)
        found = extract_letter(line.response, item.options)
        return Verdict(found.letter, found.how, found.letter == item.answer)

    def _entry(self, item: Item, response: str | None, verdict: Verdict, rules: str) -> ItemScore:
        return _entry(item, response, verdict, counted=rules != "official" or verdict.how not in self.uncounted)


def check_rules(rules: str) -> None:
    """ConfigError unless ``rules`` is one that the scorers know."""
    if rules not in RULES:
        raise ConfigError(f"unknown rules {rules!r}{suggest(rules, RULES)}")


def letter_lines(options: Sequence[str], pattern: str = "{letter}. {text}") -> str:
    """Options one a line with their letters: ``A. red`` or, with ``({letter}) {text}``, ``(A) red``."""
    return "\n".join(pattern.format(letter=LETTERS[i], text=text) for i, text in enumerate(options))


def right_of_counted(
    scores: Iterable[ItemScore], category: str | None = None, prefix: str = ""
) -> dict[str, list[Cell]]:
    """One single-stratum table of counted items a value of ``category``, named ``prefix`` + value."""
    tables: dict[str, list[Cell]] = {}
    for item in scores:
        if category is None or category in item.categories:
            name = prefix + (item.categories[category] if category else "")
            tables.setdefault(name, []).append(item_cell(item))
    return tables


def item_cell(item: ItemScore, stratum: str = "") -> Cell:
    """An item's verdict out of one trial, or nothing out of none where it is not counted."""
    return Cell(item.cluster, stratum, float(item.correct) if item.counted else 0.0, float(item.counted))


def _entry(
    item: Item, response: str | None, verdict: Verdict, *, correct: float | None = None, counted: bool = True
) -> ItemScore:
    return ItemScore(
        id=item.id,
        response=response,
        extracted=verdict.extracted,
        how=verdict.how,
        correct=verdict.correct if correct is None else correct,
        answer=item.answer,
        categories=dict(item.categories),
        cluster=item.cluster,
        chance=item.chance,
        counted=counted,
    )


def _count(scores: Sequence[ItemScore]) -> dict[str, int]:
    """n items; each is answered (a letter was found), unparsed, failed (null) or missing (never asked)."""
    last = {item.id: item.how for item in scores}
    hows = Counter(last.values())
    apart = {how: hows[how] for how in (UNPARSED, FAILED, MISSING)}
    return {"n": len(last), "answered": len(last) - sum(apart.values()), **apart}


def _no_duplicates(ids: Iterable[str], where: str) -> None:
    repeated = [item_id for item_id, count in Counter(ids).items() if count > 1]
    if repeated:
        raise DataError(f"{where}: {len(repeated)} ids occur more than once (first: {', '.join(repeated[:3])})")


def _signature(report: Report) -> str:
    return f"{report.benchmark} ({report.rules}, n={report.counts['n']})"
