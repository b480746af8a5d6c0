"""What every benchmark shares: the walk from annotations and responses to a report.

A benchmark adds how its annotation files are read, its prompt, its official rule for one answer, and which cells
(:mod:`tstar.evaluation.statistics`) make up its aggregates. Nothing here loads a model.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from tstar.errors import ConfigError, DataError, suggest
from tstar.evaluation.collector import collector_paused
from tstar.evaluation.differing import final_verdicts
from tstar.evaluation.extraction import UNPARSED, extract_letter
from tstar.evaluation.harness_rules import scored_text
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
from tstar.evaluation.media import SuiteMedia
from tstar.evaluation.response_layouts import harness_responses
from tstar.evaluation.responses import ResponseLine, ResponseSet, joined_sets, load_response_source, plain_responses
from tstar.evaluation.splits import Split
from tstar.evaluation.statistics import (
    Cell,
    aggregate,
    bootstrap_intervals,
    cluster_numbers,
    mcnemar_exact,
    paired_differences,
)

BOTH = ("official", "strict")
"""Rules that every benchmark has, and every report tells of."""


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
    pictures_only: ClassVar[bool] = False
    """Whether its questions are about single pictures: they have no order, and no middle one."""
    counts: ClassVar[frozenset[str]] = frozenset()
    """Aggregates that are numbers of items."""
    ratings: ClassVar[frozenset[str]] = frozenset()
    """Aggregates that are means of a judge's marks, 0 to 5; all others are fractions."""
    published: ClassVar[Mapping[str, Split]] = {}
    """Published splits by name; of a miniature suite, the format's."""
    max_new_tokens: ClassVar[int | None] = None
    """Longest answer that the protocol allows; None where a letter is asked for, for which any bound will do."""

    def __init__(self, name: str) -> None:
        self.name = name

    def load(
        self, annotations: Path | str | Sequence[Any] | Mapping[str, Any], media: Path | None = None
    ) -> list[Item]:
        """Items of the official annotation file or folder, or of its parsed content.

        Args:
            annotations: the file, the folder or the content.
            media: folder or tar of the media, which some benchmarks publish in several layouts: items are about those that are
                there. Without it, and without media in it, they are about the first of the published layouts.

        Raises DataError naming file, row and field for anything that is not as published, and for repeated ids.
        """
        with collector_paused():
            items = self.read(Path(annotations) if isinstance(annotations, str) else annotations, media)
        source = str(annotations) if isinstance(annotations, (str, Path)) else "annotations"
        if not items:
            raise DataError(f"{source}: holds no {self.name} questions")
        _no_duplicates((item.id for item in items), source)
        elsewhere = media is not None and media.exists() and any(item.elsewhere for item in items)
        return SuiteMedia(media).placed(items) if media is not None and elsewhere else items

    def responses(self, source: Any, items: Sequence[Item]) -> ResponseSet:
        """Responses of a path or parsed content in the plain layout, a harness's or one of the benchmark's official ones.

        Several paths are read as one, as of a harness that writes a file a task.
        """
        if isinstance(source, ResponseSet):
            return source
        listed = isinstance(source, Sequence) and source and not isinstance(source, (str, bytes))
        if listed and all(isinstance(part, (str, Path)) for part in source):
            return joined_sets([self.responses(part, items) for part in source])
        data, where = load_response_source(source)
        found = harness_responses(data, items, where)
        found = self.official_responses(data, items, where) if found is None else found
        return plain_responses(data, where) if found is None else found

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
        return self.score_all(items, responses, replies, (rules,))[rules]

    def score_all(
        self,
        items: Sequence[Item],
        responses: Mapping[str, str | None],
        replies: JudgeReplies | None = None,
        rules: Sequence[str] | None = None,
    ) -> dict[str, Report]:
        """Reports by each of ``rules``, or by all that the benchmark has; see :meth:`score`.

        Each says what official and strict rules make of the same responses, whatever it was made by.
        """
        wanted = tuple(rules or self.rule_names)
        for name in wanted:
            self.check_rules(name)
        replies = replies or JudgeReplies({})
        self._check_ids(items, responses, replies)
        if not isinstance(responses, ResponseSet):
            responses = ResponseSet(ResponseLine(item_id, response) for item_id, response in responses.items())
        with collector_paused():
            scores = {name: self._judged(items, responses, name, replies) for name in dict.fromkeys((*BOTH, *wanted))}
            return self._reports(wanted, scores, items, responses, replies)

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
        """Name of the published split that ``items`` are, told by their numbers; "" for any other set, as a generated one."""
        known = {} if self.name.startswith("mini-") else self.published
        return next((name for name, split in known.items() if split.is_of(items)), "")

    def chance(self, items: Sequence[Item]) -> dict[str, float]:
        """Main values of a model that guesses uniformly, item by item and independently, and always answers."""
        guess = Verdict(None, "guess", False)
        guesses = [ItemScore.of(item, None, guess, guessed=True) for item in items]
        return {name: aggregate(cells) for name, cells in self.main_cells(guesses).items()}

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
                + (
                    "; a report of an earlier version has another one: score the answers again"
                    if "fingerprint" in differ
                    else ""
                )
            )
        main = [self.main_cells(report.items) for report in (first, second)]
        both = [(item, last[1][key]) for key, item in last[0].items()]
        pairs = [(self.merit(one), self.merit(two)) for one, two in both if one.counted and two.counted]
        only_first, only_second = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
        return Comparison(
            differences=paired_differences(*main, ratings=self.ratings),
            only_first=only_first,
            only_second=only_second,
            p_value=mcnemar_exact(only_first, only_second),
            unpaired=len(both) - len(pairs),
        )

    @abstractmethod
    def read(self, annotations: Any, media: Path | None = None) -> list[Item]:
        """Items of a ``Path`` or of parsed annotations; ids need not be checked.

        Args:
            annotations: where or what they are.
            media: folder in which it may be looked up how the media are laid out; None is that of the annotations.
        """

    @abstractmethod
    def official(self, item: Item, line: ResponseLine) -> Verdict:
        """The official rule for one response, which is not None."""

    @abstractmethod
    def cells(self, scores: Sequence[ItemScore]) -> dict[str, list[Cell]]:
        """The cells of every aggregate; all main values are always among them, categories only where present."""

    def main_cells(self, scores: Sequence[ItemScore]) -> dict[str, list[Cell]]:
        """Those of :meth:`headlines`, which a benchmark of many categories has without making the others."""
        tables = self.cells(scores)
        return {name: tables[name] for name in self.headlines(tables)}

    def headlines(self, tables: Mapping[str, Sequence[Cell]]) -> Sequence[str]:
        """Names of the ``tables`` that come with a chance level and enter paired comparisons."""
        return self.main_values

    def prompt_for(self, item: Item, folder: Path, timestamps: Sequence[float]) -> str:
        """What the model is asked: the item's prompt, unless the protocol shows more than it holds, as subtitles are.

        Args:
            item: the question.
            folder: the benchmark's, which ``item.media`` and ``item.subtitles`` are relative to.
            timestamps: seconds of the frames that the model sees; with none of them it is the item's prompt.

        Raises DataError where what is shown beside cannot be read; the question then fails.
        """
        return item.prompt

    def lacks(self, items: Sequence[Item], folder: Path) -> str:
        """What is not there at all of what :meth:`prompt_for` shows beside the media, and what to do; "" if nothing is lacking.

        Args:
            items: all questions.
            folder: that of the media.
        """
        return ""

    def beside(self, items: Sequence[Item]) -> str:
        """How much of what :meth:`prompt_for` shows beside the media there is; "" where nothing is shown."""
        return ""

    def official_responses(self, data: Any, items: Sequence[Item], where: str) -> ResponseSet | None:
        """Responses in a layout of the benchmark's own scorer, None if ``data`` is in no such layout."""
        return None

    def lmms_eval(self, item: Item, line: ResponseLine) -> Verdict:
        """lmms-eval's rule for a response as :meth:`harness_text` leaves it; for benchmarks that have it in ``rule_names``."""
        raise NotImplementedError(f"{self.name} names the rules lmms-eval but has none")

    def harness_text(self, response: str) -> str:
        """What lmms-eval's scorer of the benchmark is given of a response."""
        return scored_text(response)

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

    def merit(self, item: ItemScore) -> float:
        """What an item is worth in a paired test, which asks on how many items one report is above the other."""
        return float(item.correct > 0)

    def extra_values(self, scores: Sequence[ItemScore]) -> dict[str, float]:
        """Aggregate entries that are counts rather than rates."""
        return {}

    def _check_ids(self, items: Sequence[Item], responses: Iterable[str], replies: Iterable[str]) -> None:
        _no_duplicates((item.id for item in items), "items")
        known = {item.id for item in items}
        for what, given in (("response", responses), ("judge's reply", replies)):
            unknown = [item_id for item_id in given if item_id not in known]
            if unknown:
                raise DataError(
                    f"{self.name}: {len(unknown)} {what} ids are not in the annotations "
                    f"(first: {', '.join(unknown[:3])}); ids look like {items[0].id if items else '-'}"
                )

    def _judged(
        self, items: Sequence[Item], responses: ResponseSet, rules: str, replies: JudgeReplies
    ) -> tuple[ItemScore, ...]:
        """Verdicts by one rule, in the order of the items; several of an item whose repeated lines the rule sees."""
        rule = {"official": self.official, "strict": self.strict, "lmms-eval": self.lmms_eval}[rules]
        repeats, replied = rules == "official" and responses.keep_repeats, len(replies) > 0
        missing, failed = Verdict(None, MISSING, False), Verdict(None, FAILED, False)
        scores = []
        for item in items:
            lines = responses.lines(item.id)
            if not lines:
                scores.append(ItemScore.of(item, None, missing, counted=self.counts_in(rules, None, missing)))
            for line in lines if repeats else lines[-1:]:
                said = line.response
                if replied:
                    line = line._replace(replies=tuple(replies.get(item.id, ())))
                if rules == "lmms-eval" and said is not None:
                    line = line._replace(response=self.harness_text(said))
                verdict = failed if said is None else rule(item, line)
                scores.append(ItemScore.of(item, said, verdict, counted=self.counts_in(rules, said, verdict)))
        return tuple(scores)

    def _reports(
        self,
        wanted: Sequence[str],
        scores: Mapping[str, tuple[ItemScore, ...]],
        items: Sequence[Item],
        responses: ResponseSet,
        replies: JudgeReplies,
    ) -> dict[str, Report]:
        """Reports by the ``wanted`` rules, from the verdicts by these and others."""
        tables = {name: self.cells(own) for name, own in scores.items()}
        values = {
            name: {value: aggregate(cells) for value, cells in tables[name].items() if cells} | self.extra_values(own)
            for name, own in scores.items()
        }
        verdicts = {name: final_verdicts(own) for name, own in scores.items()}
        every = (cells for own in tables.values() for cells in own.values())
        clusters = cluster_numbers(every, len({item.cluster for item in items}))
        chance, split, hashed = self.chance(items), self.split_of(items), fingerprint(items)
        beside = self.beside(items)
        repeated = {"repeated": responses.repeated} if responses.repeated else {}
        reports = {}
        for name in wanted:
            others: dict[str, dict[str, Any]] = {}
            for other in (rules for rules in BOTH if rules != name):
                pairs = zip(items, verdicts[name], verdicts[other], strict=True)
                differing = [item.id for item, own, another in pairs if own != another]
                shown = {value: values[other][value] for value in self.headlines(tables[other])}
                others[other] = {"aggregate": shown, "differ": len(differing), "differing": differing}
            reports[name] = Report(
                benchmark=self.name,
                rules=name,
                items=scores[name],
                aggregate=values[name],
                intervals=bootstrap_intervals(tables[name], ratings=self.ratings, clusters=clusters),
                chance=chance,
                counts=_count(scores[name]) | repeated,
                split=split,
                fingerprint=hashed,
                beside=beside,
                judge=replies.model,
                judge_dates=replies.dates,
                reasons=dict(replies.unanswered),
                other_rules=others,
            )
        return reports


def check_rules(rules: str) -> None:
    """ConfigError unless ``rules`` is one that the scorers know."""
    if rules not in RULES:
        raise ConfigError(f"unknown rules {rules!r}{suggest(rules, RULES)}")


def _count(scores: Sequence[ItemScore]) -> dict[str, int]:
    """n items; each is answered (a letter was found), unparsed, failed (null), missing (never asked) or unjudged."""
    last = {item.id: item.how for item in scores}
    hows = Counter(last.values())
    apart = {how: hows[how] for how in (UNPARSED, FAILED, MISSING)}
    apart |= {UNJUDGED: hows[UNJUDGED]} if hows[UNJUDGED] else {}
    return {"n": len(last), "answered": len(last) - sum(apart.values()), **apart}


def _no_duplicates(ids: Iterable[str], where: str) -> None:
    listed = list(ids)
    if len(set(listed)) < len(listed):
        repeated = [item_id for item_id, count in Counter(listed).items() if count > 1]
        raise DataError(f"{where}: {len(repeated)} ids occur more than once (first: {', '.join(repeated[:3])})")


def _signature(report: Report) -> str:
    return f"{report.benchmark} ({report.rules}, n={report.counts['n']})"
