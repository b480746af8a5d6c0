"""``tstar ablate``: the models of a table trained one by one, each evaluated at its rows' frame counts, then the table."""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tstar.cli.ablation_file import Ablation, AblationModel, check_seeds, read_ablation
from tstar.cli.parser import typed_command
from tstar.errors import ConfigError, TstarError, suggest

if TYPE_CHECKING:
    from tstar.cli.ablation_jobs import Group, Training
    from tstar.reports.ablation import Row
    from tstar.reports.runs import Run

FAILED_ROWS = 1
"""Exit status where a model could not be trained or evaluated."""
Runs = dict[str, dict[str, "Run"]]
"""By the name of the group's first model, and by seed."""


def run(arguments: argparse.Namespace, settings: list[tuple[str, str]]) -> int:
    """Train and evaluate what is not there yet, then write the table; returns the exit status."""
    path = Path(arguments.file)
    ablation = read_ablation(path, arguments.scale, settings)
    chosen = choose(ablation.models, arguments.rows)
    seeds = arguments.seeds if arguments.seeds is not None else list(ablation.seeds)
    check_seeds(seeds, "--seeds")
    name = path.stem if ablation.scale == "miniature" else f"{path.stem}-{ablation.scale}"
    folder = Path(arguments.runs) / name
    out = Path(arguments.out) if arguments.out else Path("reports") / name
    if out.is_file():
        raise ConfigError(f"--out must be a folder, got the file {out}")
    if arguments.workers < 1:
        raise ConfigError(f"--workers must be at least 1, got {arguments.workers}")
    if arguments.list:
        return show_rows(ablation, chosen, seeds, folder)
    check_suites(ablation)
    if arguments.records is not None:
        from tstar.cli.ablation_records import take_records

        for line in take_records(Path(arguments.records), ablation.models, folder):
            tell(line)
    status = 0
    if not arguments.report_only:
        status = work(trainings(ablation, chosen, seeds, folder), folder, arguments.workers)
        if status > FAILED_ROWS:
            return status
    command = typed_command(without="--report-only")
    results = write_table(ablation, seeds, folder, out, command)
    if arguments.json:
        print(json.dumps(results, indent=1, ensure_ascii=False))
    else:
        print(f"table: {out / 'README.md'}", flush=True)
    return status


def tell(text: str) -> None:
    """A line for the user, beside the output: ``--json`` prints the table's data there and nothing else.

    Whatever number a launcher gave this process: each of them has work of its own. A terminal that is gone ends none of it.
    """
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def choose(models: Sequence[AblationModel], names: str | None) -> list[AblationModel]:
    """The models of those names, in the table's order; all if none are named."""
    if names is None:
        return list(models)
    wanted = [name.strip() for name in names.split(",")]
    known = [model.name for model in models]
    for name in wanted:
        if name not in known:
            raise ConfigError(f"--rows: there is no model '{name}'{suggest(name, known)}")
    return [model for model in models if model.name in wanted]


def check_suites(ablation: Ablation) -> None:
    """ConfigError where there is nothing to evaluate a model on."""
    for model in ablation.models:
        if not model.recipe.evaluation.get("benchmarks"):
            raise ConfigError(
                f"evaluation.benchmarks is empty at the scale {ablation.scale}, so no model could be evaluated; name the suites' "
                "folders, as --evaluation.benchmarks.mlvu DIR --evaluation.benchmarks.videomme DIR"
            )


def trainings(
    ablation: Ablation, chosen: Sequence[AblationModel], seeds: Sequence[int], folder: Path
) -> list["Training"]:
    """What has to be there for the chosen models' rows: models that are one and the same are trained once."""
    from tstar.cli.ablation_jobs import Training, groups

    names = {model.name for model in chosen}
    wanted = [group for group in groups(ablation.models) if names & {model.name for model in group.models}]
    return [Training(group, seed, folder) for seed in seeds for group in wanted]


def work(wanted: Sequence["Training"], folder: Path, workers: int) -> int:
    """Run the jobs that are not finished; 0, :data:`FAILED_ROWS`, or 128 + the signal that stopped it."""
    from tstar.cli.ablation_jobs import check_unchanged, write_recipe
    from tstar.cli.fit import check_files
    from tstar.cli.stage_cli import check_types
    from tstar.data.cores import usable_cores
    from tstar.reports.job_queue import JobQueue

    models = {training.group.name: training.group for training in wanted}
    for group in models.values():  # before an hour has passed
        check_types(group.models[0].recipe)
        check_files(group.models[0].recipe)
    for training in wanted:
        check_unchanged(training)
    for group in models.values():
        write_recipe(group, folder)
    cores = max(1, usable_cores() // workers)
    environment = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(cores)}
    tell(f"{len(models)} models, {len(wanted)} runs, in {folder}; {workers} at once; logs are in {folder / 'logs'}")
    jobs = [training.job() for training in wanted]
    outcome = JobQueue(jobs, folder, workers=workers, environment=environment, tell=tell).run()
    if outcome.stopped:
        tell("stopped; the same command goes on from the last checkpoints")
        return 128 + outcome.stopped
    for name, reason in outcome.failed.items():
        tell(f"failed: {name}: {reason}; the same command tries it again")
    return FAILED_ROWS if outcome.failed else 0


def show_rows(ablation: Ablation, models: Sequence[AblationModel], seeds: Sequence[int], folder: Path) -> int:
    """List models, rows and what is finished."""
    from tstar.cli.ablation_jobs import changes

    print(f"{ablation.title}; scale {ablation.scale}, seeds {', '.join(map(str, seeds))}, in {folder}")
    for model in models:
        own = trainings(ablation, [model], seeds, folder)
        done = [training.job().finished() and not changes(training) for training in own]
        rows = ", ".join(f"{budget.frames} frames" for budget in model.budgets)
        first = own[0].group.name
        same = "" if first == model.name else f", the same model as {first}"
        print(
            f"  {model.name:<26} {model.label} ({model.text or model.category}): {rows}; {sum(done)}/{len(done)} done{same}"
        )
    return 0


def write_table(ablation: Ablation, seeds: Sequence[int], folder: Path, out: Path, command: str) -> dict[str, Any]:
    """Read what there is, of all rows and seeds, and write the table; returns its data."""
    from tstar.cli.ablation_jobs import groups
    from tstar.reports.ablation import Table, write_ablation_report

    models = groups(ablation.models)
    runs, left_out = found_runs(models, folder)
    measured = [int(seed) for own in runs.values() for seed in own]
    every = sorted({*ablation.seeds, *seeds, *measured})
    of = {model.name: group for group in models for model in group.models}
    rows = [
        row
        for model in ablation.models
        for row in rows_of(model, of[model.name].name, every, runs.get(of[model.name].name, {}))
    ]
    table = Table(
        title=ablation.title,
        scale=ablation.scale,
        suites=list(ablation.models[0].recipe.evaluation["benchmarks"]),
        rows=rows,
        orderings=ablation.orderings,
        grid=ablation.grid,
        margin=ablation.margin / 100,
        average_of=ablation.average_of,
        equal=ablation.equal,
        note=ablation.note,
        left_out=left_out,
    )
    return write_ablation_report(table, folder, out, command)


def found_runs(models: Sequence["Group"], folder: Path) -> tuple[Runs, dict[str, str]]:
    """The finished evaluations, whatever their seed; and by name, why a run cannot be in the table."""
    from tstar.cli.ablation_jobs import Training, changes, told
    from tstar.data.files import damage_named
    from tstar.reports.runs import Asked, check_questions, check_shards, read_run

    runs: Runs = {}
    left_out: dict[str, str] = {}
    asked: Asked = {}
    shards: dict[str, tuple[str, str]] = {}
    there = [Training(group, seed, folder) for group in models for seed in seeds_there(folder / "models", group.name)]
    for training in sorted(there, key=lambda one: one.taken):  # what was trained here says what records have to be like
        if not (training.path / "eval").is_dir():
            continue
        try:
            with damage_named(training.path):
                if changed := changes(training):
                    raise ConfigError(f"made with other settings: {told(changed)}")
                if not training.finished(training.group.frames[0]):
                    continue
                run = read_run(training.path)
                whole = [one for one in run.other_frames if training.finished(one.max_frames)]
                run = replace(run, other_frames=whole)
                check_questions(run, asked)
                check_shards(run, shards)
                runs.setdefault(training.group.name, {})[str(training.seed)] = run
        except TstarError as error:
            left_out[training.name] = str(error)
    return {name: {seed: own[seed] for seed in sorted(own, key=int)} for name, own in runs.items()}, left_out


def seeds_there(folder: Path, name: str) -> list[int]:
    """Seeds of a model that have a folder."""
    found = [path.name[len(name) + 1 :] for path in folder.glob(f"{name}-*")]
    return sorted(int(seed) for seed in found if seed.isdecimal())


def rows_of(model: AblationModel, trained_as: str, seeds: Sequence[int], runs: dict[str, "Run"]) -> list["Row"]:
    """The table's rows of one model."""
    from tstar.reports.ablation import Row

    tokens = token_counter(model)
    return [
        Row(
            model=model.name,
            label=model.label,
            category=model.category,
            text=model.text,
            frames=budget.frames,
            tokens=tokens(budget.frames),
            paper_frames=budget.paper_frames,
            paper_tokens=budget.published_tokens,
            published=budget.published,
            seeds=[str(seed) for seed in seeds],
            runs=runs,
            grid=model.grid,
            same_as=None if trained_as == model.name else trained_as,
        )
        for budget in model.budgets
    ]


def token_counter(model: AblationModel) -> Callable[[int], int]:
    """Exact visual tokens by frames, from the compressor that the last stage trains, without weights."""
    import torch

    from tstar.compressors import build_compressor
    from tstar.vision import OpenClipTower, VisionConfig

    arguments = list(model.recipe.stages.values())[-1]["model"]["init_args"]
    with torch.device("meta"):
        tower = OpenClipTower.skeleton(VisionConfig(**arguments["vision"]))
        sizes: dict[str, Any] = {"d_vision": tower.d_vision, "grid": tower.grid, "d_language": 32}
        compressor = build_compressor(**arguments["compressor"], **sizes)
    return compressor.num_tokens
