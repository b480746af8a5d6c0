"""What every benchmark shares: the walk from annotations and responses to a report.

A benchmark adds how its annotation files are read, its prompt, its official rule for one answer, and which cells
(:mod:`tstar.evaluation.statistics`) make up its aggregates. Nothing here loads a model.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from tstar.errors import ConfigError, DataError, suggest
from tstar.evaluation.extraction import UNPARSED, extract_letter
from tstar.evaluation.files import LETTERS
from tstar.evaluation.items import (
    FAILED,
    MISSING,
    RULES,
    UNJUDGED,
    Comparison,
    Item,
    ItemScore,
    Report,
    Verdict,
    fingerprint,
)
from tstar.evaluation.judging import JudgeReplies, JudgeRequest
from tstar.evaluation.responses import ResponseLine, ResponseSet, load_response_source, plain_responses
from tstar.evaluation.statistics import Cell, aggregate, bootstrap_intervals, mcnemar_exact, paired_differences


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
    rule_names: ClassVar[tuple[str, ...]] = ("official", "strict")
    """Rules that this benchmark has; ``lmms-eval`` only where that harness has the benchmark."""
    judged: ClassVar[bool] = False
    """Whether nothing can be scored without a judge's replies."""
    counts: ClassVar[frozenset[str]] = frozenset()
    """Aggregates that are numbers of items."""
    ratings: ClassVar[frozenset[str]] = frozenset()
    """Aggregates that are means of a judge's marks, 0 to 5; all others are fractions."""
    published: ClassVar[Mapping[str, int]] = {}
    """Questions of each published split."""

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

    def score(
        self,
        items: Sequence[Item],
        responses: Mapping[str, str | None],
        rules: str = "official",
        replies: JudgeReplies | None = None,
    ) -> Report:
        """Judge every item and aggregate.

        Args:
            items: all that should have been answered, ids unique.
            responses: by item id; None is a failure, an absent id was never asked.
            rules: ``official`` (the published scorer with its accidents), ``strict`` (one reader for all, whatever is
                failed, missing or unreadable is wrong) or ``lmms-eval`` (that harness's scorer of the benchmark).
            replies: what a judge said to :meth:`judge_requests`.
        """
        self.check_rules(rules)
        _no_duplicates((item.id for item in items), "items")
        known = {item.id for item in items}
        unknown = [item_id for item_id in responses if item_id not in known]
        if unknown:
            raise DataError(
                f"{self.name}: {len(unknown)} response ids are not in the annotations "
                f"(first: {', '.join(unknown[:3])}); ids look like {items[0].id if items else '-'}"
            )
        replies = replies or JudgeReplies({})
        scores = tuple(entry for item in items for entry in self._judge(item, responses, rules, replies))
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
            split=self.split_of(items),
            fingerprint=fingerprint(items),
            judge=replies.model,
        )

    def judge_requests(self, items: Sequence[Item], responses: Mapping[str, str | None]) -> list[JudgeRequest]:
        """What a judge has to be asked about these responses, in the order of the items; [] where rules alone decide."""
        found = (self.judge_request(i, r) for i in items if (r := responses.get(i.id)) is not None)
        return [request for request in found if request is not None]

    def check_rules(self, rules: str) -> None:
        """ConfigError unless ``rules`` is one that this benchmark has."""
        check_rules(rules)
        if rules not in self.rule_names:
            raise ConfigError(f"{self.name} has no rules {rules!r}; it has {', '.join(self.rule_names)}")

    def split_of(self, items: Sequence[Item]) -> str:
        """Name of the published split that ``items`` are, told by their number; "" for any other set."""
        return next((name for name, count in self.published.items() if count == len(items)), "")

    def chance(self, items: Sequence[Item]) -> dict[str, float]:
        """Main values of a model that guesses uniformly, item by item and independently, and always answers."""
        guesses = [_entry(item, None, Verdict(None, "guess", False), correct=item.chance) for item in items]
        tables = self.cells(guesses)
        return {name: aggregate(tables[name]) for name in self.main_values}

    def compare(self, first: Report, second: Report) -> Comparison:
        """Paired comparison, ``second - first``; DataError unless both scored the same items by the same rules."""
        last = [{item.id: item for item in report.items} for report in (first, second)]
        alike = ("benchmark", "rules", "fingerprint", "judge")
        differ = [name for name in alike if getattr(first, name) != getattr(second, name)]
        if differ or last[0].keys() != last[1].keys():
            raise DataError(
                f"only reports on the same items by the same rules can be compared, got {_signature(first)} and "
                f"{_signature(second)}, {len(last[0].keys() ^ last[1].keys())} items in one of them only"
                + (f"; different: {', '.join(differ)}" if differ else "")
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

    def lmms_eval(self, item: Item, line: ResponseLine) -> Verdict:
        """lmms-eval's rule for one response, which is not None; for benchmarks that name it in ``rule_names``."""
        raise NotImplementedError(f"{self.name} names the rules lmms-eval but has none")

    def strict(self, item: Item, line: ResponseLine) -> Verdict:
        """The strict rule for one response, which is not None."""
        found = extract_letter(line.response or "", item.options)
        return Verdict(found.letter, found.how, found.letter == item.answer)

    def counts_in(self, rules: str, response: str | None, verdict: Verdict) -> bool:
        """Whether an item with this outcome is in the denominator under ``rules``."""
        return rules != "official" or verdict.how not in self.uncounted

    def judge_request(self, item: Item, response: str) -> JudgeRequest | None:
        """What a judge is asked about one response, None if the rules decide it alone."""
        return None

    def readable(self, reply: str) -> bool:
        """Whether a judge's reply can be read as a verdict; one that cannot is asked for again."""
        return True

    def extra_values(self, scores: Sequence[ItemScore]) -> dict[str, float]:
        """Aggregate entries that are counts rather than rates."""
        return {}

    def _judge(
        self, item: Item, responses: Mapping[str, str | None], rules: str, replies: JudgeReplies
    ) -> list[ItemScore]:
        if item.id not in responses:
            return [self._entry(item, None, Verdict(None, MISSING, False), rules)]
        lines = [ResponseLine(item.id, responses[item.id])]
        if isinstance(responses, ResponseSet):
            every = responses.lines(item.id)
            lines = every if rules == "official" and responses.keep_repeats else every[-1:]
        lines = [replace(line, replies=tuple(replies.get(item.id, ()))) for line in lines] if replies else lines
        return [self._entry(item, line.response, self._verdict(item, line, rules), rules) for line in lines]

    def _verdict(self, item: Item, line: ResponseLine, rules: str) -> Verdict:
        if line.response is None:
            return Verdict(None, FAILED, False)
        rule = {"official": self.official, "strict": self.strict, "lmms-eval": self.lmms_eval}[rules]
        return rule(item, line)

    def _entry(self, item: Item, response: str | None, verdict: Verdict, rules: str) -> ItemScore:
        return _entry(item, response, verdict, counted=self.counts_in(rules, response, verdict))


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
        rating=verdict.rating,
    )


def _count(scores: Sequence[ItemScore]) -> dict[str, int]:
    """n items; each is answered (a letter was found), unparsed, failed (null), missing (never asked) or unjudged."""
    last = {item.id: item.how for item in scores}
    hows = Counter(last.values())
    apart = {how: hows[how] for how in (UNPARSED, FAILED, MISSING)}
    apart |= {UNJUDGED: hows[UNJUDGED]} if hows[UNJUDGED] else {}
    return {"n": len(last), "answered": len(last) - sum(apart.values()), **apart}


def _no_duplicates(ids: Iterable[str], where: str) -> None:
    repeated = [item_id for item_id, count in Counter(ids).items() if count > 1]
    if repeated:
        raise DataError(f"{where}: {len(repeated)} ids occur more than once (first: {', '.join(repeated[:3])})")


def _signature(report: Report) -> str:
    return f"{report.benchmark} ({report.rules}, n={report.counts['n']})"
