"""Benchmarks of free answers: a judge marks each against the annotation's own, 0 to 5, and may say whether it matches."""

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

from tstar.evaluation.base import Benchmark
from tstar.evaluation.items import FAILED, MISSING, UNJUDGED, Item, ItemScore, Verdict
from tstar.evaluation.judge_readings import Reading
from tstar.evaluation.judging import JudgePrompt, JudgeRequest
from tstar.evaluation.responses import ResponseLine
from tstar.evaluation.statistics import Cell

JUDGED = "judge"
NEITHER = "neither"
"""The judge's ``pred`` says neither yes nor no: its mark counts, its verdict does not."""
PARAMETERS = {"temperature": 0, "max_tokens": 64}


class JudgedBenchmark(Benchmark):
    """The first reply that a rule can read decides an item.

    ``official`` leaves items without one out of every mean. ``strict`` counts them, and what is failed or missing, as
    wrong and 0. ``lmms-eval`` knows no failures: they are answers like others there, and count as wrong and 0.
    """

    judged = True
    rule_names = ("official", "strict", "lmms-eval")
    judge_prompt: ClassVar[JudgePrompt]
    """What the judge is asked, in words of tstar's own."""

    @abstractmethod
    def read_reply(self, rules: str, reply: str) -> Reading | None:
        """What ``rules`` read in one reply of the judge, None if nothing."""

    @abstractmethod
    def verdict(self, reading: Reading) -> Verdict:
        """The verdict that a reading amounts to."""

    def judge_request(self, item: Item, response: str) -> JudgeRequest:
        """Question, annotated answer and response, and the demand for one dictionary."""
        messages = self.judge_prompt.messages(item.question, item.answer, response)
        return JudgeRequest(item.id, messages, PARAMETERS)

    def readable(self, reply: str) -> bool:
        """Whether both the official rule and the strict one can read it."""
        return all(self.read_reply(rules, reply) is not None for rules in ("official", "strict"))

    def official(self, item: Item, line: ResponseLine) -> Verdict:
        """The published scorer's reading."""
        return self._first(line, lambda reply: self.read_reply("official", reply))

    def strict(self, item: Item, line: ResponseLine) -> Verdict:
        """Only marks from 0 to 5 in whole numbers, wherever the dictionary stands in the reply."""
        return self._first(line, lambda reply: self.read_reply("strict", reply))

    def lmms_eval(self, item: Item, line: ResponseLine) -> Verdict:
        """That harness's reading."""
        return self._first(line, lambda reply: self.read_reply("lmms-eval", reply))

    def counts_in(self, rules: str, response: str | None, verdict: Verdict) -> bool:
        """Whether right or wrong is counted; marks count wherever there are any."""
        if rules == "strict":
            return True
        if verdict.how in (FAILED, MISSING):
            return rules != "official"
        return verdict.rating is not None and verdict.how != NEITHER

    def mark_cell(self, item: ItemScore) -> Cell:
        """An item's mark out of one trial: 0 where it is counted without one, nothing out of none where it is not counted."""
        return Cell(item.cluster, "", item.rating or 0.0, float(item.counted or item.rating is not None))

    def _first(self, line: ResponseLine, read: Callable[[str], Reading | None]) -> Verdict:
        found = next((reading for reply in line.replies if (reading := read(reply)) is not None), None)
        return Verdict(None, UNJUDGED, False) if found is None else self.verdict(found)
