"""Suites inside a run: a sample of each at every validation, all of them with their baselines at the end."""

import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy

from tstar.errors import ConfigError
from tstar.evaluation import Report, get_benchmark
from tstar.evaluation.files import read_json
from tstar.evaluation.items import fingerprint
from tstar.evaluation.meeting import wait_for_all
from tstar.evaluation.runner import Progress, SuiteRunner
from tstar.evaluation.settings import EvaluationConfig
from tstar.evaluation.suites import Suite
from tstar.stages import Stage
from tstar.stages.checkpoint_io import write_atomically

Reports = dict[str, dict[str, Report]]


@contextmanager
def stopping_at_once(
    told: str = "the answers so far are kept, the same command goes on from them",
) -> Iterator[None]:
    """Let SIGTERM and SIGINT end the process with the status a scheduler expects, 128 + number.

    Args:
        told: what the user reads of what was done so far.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        print(f"stopped; {told}", file=sys.stderr)
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
        self.resumed = False
        """Whether answers of an earlier start were used."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Only a stage can answer, and only a process that has a whole model."""
        if not isinstance(pl_module, Stage):
            raise ConfigError(f"BenchmarkEvaluation needs a tstar stage, got {type(pl_module).__name__}")
        strategy = trainer.strategy
        if isinstance(strategy, DeepSpeedStrategy) and strategy.zero_stage_3 and self._limit != 0:
            raise ConfigError(
                "evaluation.validation_items must be 0 with DeepSpeed's ZeRO-3: an answer needs the whole model in one process; "
                "the suites are run at the end, or use configs/trainer/fsdp.yaml"
            )

    @property
    def _limit(self) -> int | None:
        if not self.config.benchmarks:
            return 0
        return self.limit if self.complete else self.config.validation_items

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Have every process answer its share of the suites; the first one scores all of it and logs the headline values."""
        if trainer.sanity_checking or self._limit == 0:
            return
        assert isinstance(pl_module, Stage)
        at_once = stopping_at_once() if self.complete else nullcontext()  # answers are on disk as they come
        with pl_module.whole_model(), at_once:
            self.reports = self._run(pl_module, trainer)
        for name, modes in self.reports.items():
            for mode, report in modes.items():
                key = f"test/{name}/{mode}" if self.complete else f"val/{name}"
                value = report.aggregate.get(get_benchmark(name).in_mean)
                if value is not None and not report.unmeasured:  # a part without the headline, answers for a judge
                    pl_module.log(key, value, rank_zero_only=True)

    def _run(self, stage: Stage, trainer: Trainer) -> Reports:
        """Reports by suite and mode, in the first process; nothing in the others."""
        step, process = trainer.global_step, trainer.global_rank
        folder = self.folder / "predictions" if self.complete else self.folder / "validation" / f"step={step}"
        if not self.complete and process == 0:
            shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed and came by here on other weights
        wait_for_all()
        model, progress = self.model or f"step {step}", self.progress if process == 0 else None
        runner = SuiteRunner(
            stage,
            self.config,
            folder,
            model,
            progress,
            process=process,
            processes=trainer.world_size,
            precision=str(trainer.precision),
        )
        with runner:
            for name in self.config.benchmarks:  # that media are missing is found out before hours are spent
                self._check_report(runner.suite(name, self._limit))
            asked = [(name, mode) for name in self.config.benchmarks for mode in self._modes(runner, name)]
            if self.complete:
                self.resumed = any(runner.begun(name, mode, self._limit) for name, mode in asked)
                wait_for_all()
            for name, mode in asked:
                runner.ask(name, mode, self._limit)
            wait_for_all()
            reports: Reports = {}
            for name, mode in asked if process == 0 else ():
                reports.setdefault(name, {})[mode] = runner.report(name, mode, self._limit)
        if self.complete and process == 0:
            self._write(reports)
        return reports

    def _check_report(self, suite: Suite) -> None:
        """ConfigError where a report on other questions would be replaced, as of another set under the suite's name."""
        name = suite.benchmark.name
        for path in sorted((self.folder / "eval" / self.tag).glob(f"{name}.*.json")) if self.complete else ():
            earlier = read_json(path)
            known = earlier.get("fingerprint") if isinstance(earlier, dict) else None
            if known and known != fingerprint(suite.items):
                raise ConfigError(
                    f"{path} is about other questions of {name} than {suite.place.annotations} has; give --out another folder, or "
                    "move the report away"
                )

    def _modes(self, runner: SuiteRunner, name: str) -> list[str]:
        return runner.modes(name, self._limit) if self.complete else ["full"]

    def _write(self, reports: Reports) -> None:
        out = self.folder / "eval" / self.tag
        out.mkdir(parents=True, exist_ok=True)
        for name, by_mode in reports.items():
            for mode, report in by_mode.items():
                write_atomically(out / f"{name}.{mode}.json", report.to_json())
