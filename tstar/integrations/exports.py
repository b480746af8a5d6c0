"""A run's answers written in another tool's layout."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from tstar.errors import ConfigError, suggest
from tstar.evaluation import get_benchmark
from tstar.integrations.answers import answered_suites, read_answers, read_evaluated
from tstar.integrations.lmms_eval_files import write_lmms_eval
from tstar.integrations.official_files import has_official_file, write_official
from tstar.integrations.vlmevalkit_files import table_writer, write_vlmevalkit

LAYOUTS = ("lmms-eval", "vlmevalkit", "official")


@dataclass(frozen=True)
class Exported:
    """What an export left."""

    files: list[Path]
    notes: list[str]
    """What is not in them, or not as it was: for the user to know."""


def export_run(
    run: Path,
    layout: str,
    out: Path,
    *,
    benchmarks: Sequence[str] | None = None,
    annotations: Mapping[str, Path] | None = None,
    mode: str = "full",
    frames: str | None = None,
    replies: Mapping[str, Path] | None = None,
    file_format: str = "tsv",
    moment: datetime | None = None,
) -> Exported:
    """Write a run's answers below ``out``.

    Args:
        run: its folder, or the ``--out`` of an evaluation.
        layout: lmms-eval, vlmevalkit or official.
        out: folder; files of an earlier export of the same moment are replaced.
        benchmarks: suites; default all that have answers and, for ``official``, a result file of their own.
        annotations: files or folders of suites that do not lie where the recipe says.
        mode: full, or one of the baselines.
        frames: which answers, where several were stored.
        replies: files of a judge's replies, by suite.
        file_format: of VLMEvalKit's tables.
        moment: that files are named after; default now.

    Raises:
        ConfigError: a suite or layout is not there, or which answers are wanted is not clear.
        DataError: a file is missing or damaged.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"--layout must be one of {', '.join(LAYOUTS)}, got '{layout}'")
    if out.is_file():
        raise ConfigError(f"--out must be a folder, got the file {out}")
    table_writer(file_format)  # a missing package is found before anything is written
    evaluated = read_evaluated(run)
    there = answered_suites(evaluated, mode)
    for name in [*(benchmarks or ()), *(annotations or ()), *(replies or ())]:
        if name not in there:
            raise ConfigError(f"{run} has no answers to '{name}' in mode {mode}{suggest(name, there)}")
    suites = [
        read_answers(
            evaluated,
            name,
            annotations=(annotations or {}).get(name),
            mode=mode,
            frames=frames,
            replies=(replies or {}).get(name),
        )
        for name in benchmarks or there
        if benchmarks or layout != "official" or has_official_file(get_benchmark(name))
    ]
    notes = [
        f"{answers.benchmark.name}: {answers.other_prompts} stored answers to other questions are left out"
        for answers in suites
        if answers.other_prompts
    ]
    if layout != "official":
        unjudged = [answers.benchmark.name for answers in suites if answers.unjudged]
        notes += [f"{name} has no numbers without a judge: --judge-replies {name}=FILE" for name in unjudged]
    left_out = [] if benchmarks else [n for n in there if n not in {answers.benchmark.name for answers in suites}]
    notes += [f"{name} has no official result file and is left out" for name in left_out]
    if not suites:
        raise ConfigError(f"{run} has no answers in mode {mode} that the layout {layout} has a place for")
    moment = moment or datetime.now(timezone.utc)
    if layout == "lmms-eval":
        return Exported(write_lmms_eval(evaluated, suites, out, moment), notes)
    if layout == "vlmevalkit":
        return Exported(write_vlmevalkit(evaluated, suites, out, moment, file_format), notes)
    files = []
    for answers in suites:
        paths, said = write_official(answers, out / answers.benchmark.name)
        files += paths
        notes += [f"{answers.benchmark.name}: {line}" for line in said]
    return Exported(files, notes)
