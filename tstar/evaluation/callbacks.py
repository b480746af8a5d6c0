"""Suites inside a run: a sample of each at every validation, all of them with their baselines at the end."""

import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType

from lightning.pytorch import Callback, LightningModule, Trainer

from tstar.errors import ConfigError
from tstar.evaluation import Report, get_benchmark
from tstar.evaluation.runner import EvaluationConfig, Progress, SuiteRunner
from tstar.ops.cpu_threads import threads_of_waiting_ranks
from tstar.stages import Stage
from tstar.stages.checkpoint_io import write_atomically

Reports = dict[str, dict[str, Report]]


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Let SIGTERM and SIGINT end the process with the status a scheduler expects, 128 + number."""

    def stop(number: int, frame: FrameType | None) -> None:
        print("stopped; the answers so far are kept, the same command goes on from them", file=sys.stderr)
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class BenchmarkEvaluation(Callback):
    """Log ``val/<suite>`` (fractions) during training, ``test/<suite>/<mode>`` at the end; keep the reports of the last run.

    Args:
        config: suites and how they are asked.
        folder: predictions and reports go below it.
        model: hash of the checkpoint under evaluation; "" while training, where answers are kept by step.
        complete: every question and the baselines, as at the end, instead of ``validation_items`` of each suite.
        limit: at most about so many questions of a suite, also in a complete run; for trials.
        tag: folder below ``eval`` for the reports of an evaluation that is not the recipe's own.
    """

    def __init__(
        self,
        config: EvaluationConfig,
        folder: Path,
        *,
        model: str = "",
        complete: bool = False,
        limit: int | None = None,
        tag: str = "",
        progress: Progress | None = None,
    ) -> None:
        self.config, self.folder, self.model = config, folder, model
        self.complete, self.limit, self.tag, self.progress = complete, limit, tag, progress
        self.reports: Reports = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Only a stage can answer."""
        if not isinstance(pl_module, Stage):
            raise ConfigError(f"BenchmarkEvaluation needs a tstar stage, got {type(pl_module).__name__}")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run the suites on the first process while the others wait, and log the headline values."""
        limit = self.limit if self.complete else self.config.validation_items
        if trainer.sanity_checking or not self.config.benchmarks or limit == 0:
            return
        assert isinstance(pl_module, Stage)
        with pl_module.whole_model():
            if trainer.is_global_zero:
                at_once = stopping_at_once() if self.complete else nullcontext()  # answers are on disk as they come
                with at_once, threads_of_waiting_ranks():
                    self.reports = self._run(pl_module, trainer.global_step, limit)
            trainer.strategy.barrier("benchmarks")
        for name, modes in self.reports.items():
            for mode, report in modes.items():
                key = f"test/{name}/{mode}" if self.complete else f"val/{name}"
                value = report.aggregate[get_benchmark(name).in_mean]
                pl_module.log(key, value, rank_zero_only=True)

    def _run(self, stage: Stage, step: int, limit: int | None) -> Reports:
        folder = self.folder / "predictions" if self.complete else self.folder / "validation" / f"step={step}"
        if not self.complete:
            shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed and came by here on other weights
        runner = SuiteRunner(stage, self.config, folder, self.model or f"step {step}", self.progress)
        modes = self.config.modes if self.complete else ("full",)
        reports = {name: {mode: runner.run(name, mode, limit) for mode in modes} for name in self.config.benchmarks}
        if self.complete:
            out = self.folder / "eval" / self.tag
            out.mkdir(parents=True, exist_ok=True)
            for name, by_mode in reports.items():
                for mode, report in by_mode.items():
                    write_atomically(out / f"{name}.{mode}.json", report.to_json())
        return reports
