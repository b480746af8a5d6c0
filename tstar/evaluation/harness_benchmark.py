"""Benchmarks of which no scorer but lmms-eval's reads text: papers report its numbers, so its rule is the official one."""

from tstar.evaluation.base import Benchmark
from tstar.evaluation.items import Item, Verdict
from tstar.evaluation.responses import ResponseLine


class HarnessBenchmark(Benchmark):
    """``official`` and ``lmms-eval`` give the same."""

    rule_names = ("official", "strict", "lmms-eval")

    def official(self, item: Item, line: ResponseLine) -> Verdict:
        """lmms-eval's rule."""
        return self.lmms_eval(item, line._replace(response=self.harness_text(line.response or "")))
