"""``tstar ablate``: the models of a table trained one by one, each evaluated at its rows' frame counts, then the table."""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tstar.cli.ablation_file import Ablation, AblationModel, read_ablation
from tstar.cli.progress import say
from tstar.errors import ConfigError, suggest

if TYPE_CHECKING:
    from tstar.reports.ablation import Row
    from tstar.reports.job_queue import Job

FAILED_ROWS = 1
"""Exit status where a model could not be trained or evaluated."""


def run(arguments: argparse.Namespace, settings: list[tuple[str, str]]) -> int:
    """Train and evaluate what is not there yet, then write the table; returns the exit status."""
    path = Path(arguments.file)
    ablation = read_ablation(path, arguments.scale)
    models = choose(ablation.models, arguments.rows)
    seeds = arguments.seeds if arguments.seeds is not None else list(ablation.seeds)
    small = ablation.scale.startswith("miniature")
    name = path.stem if small else f"{path.stem}-{ablation.scale}"
    folder = Path(arguments.runs) / name
    out = Path(arguments.out) if arguments.out else Path("reports") / name
    if out.is_file():
        raise ConfigError(f"--out must be a folder, got the file {out}")
    if arguments.workers < 1:
        raise ConfigError(f"--workers must be at least 1, got {arguments.workers}")
    if arguments.list:
        return show_rows(ablation, models, seeds, folder)
    status = 0
    if not arguments.report_only:
        status = work(models, seeds, folder, arguments.workers, settings)
        if status > FAILED_ROWS:
            return status
    command = shlex.join(["tstar", *sys.argv[1:]])
    results = write_table(ablation, models, seeds, folder, out, command)
    if arguments.json:
        print(json.dumps(results, indent=1, ensure_ascii=False))
    else:
        print(f"table: {out / 'README.md'}", flush=True)
    return status


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


def work(
    models: Sequence[AblationModel], seeds: Sequence[int], folder: Path, workers: int, settings: list[tuple[str, str]]
) -> int:
    """Run the jobs that are not finished; 0, :data:`FAILED_ROWS`, or 128 + the signal that stopped it."""
    from tstar.cli.fit import check_files
    from tstar.cli.stage_cli import check_types
    from tstar.reports.job_queue import JobQueue

    for model in models:  # before an hour has passed
        check_types(model.recipe)
        check_files(model.recipe)
    recipes = write_recipes(models, folder)
    jobs = [job_of(model, seed, recipes[model.name], folder, settings) for seed in seeds for model in models]
    cores = max(1, (os.cpu_count() or 1) // workers)
    environment = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(cores)}
    say(f"{len(models)} models, {len(seeds)} seeds, in {folder}; {workers} at once; logs are in {folder / 'logs'}")
    outcome = JobQueue(jobs, folder, workers=workers, environment=environment, tell=say).run()
    if outcome.stopped:
        say("stopped; the same command goes on from the last checkpoints")
        return 128 + outcome.stopped
    for name, reason in outcome.failed.items():
        say(f"failed: {name}: {reason}; the same command tries it again")
    return FAILED_ROWS if outcome.failed else 0


def write_recipes(models: Sequence[AblationModel], folder: Path) -> dict[str, Path]:
    """Each model's resolved recipe as a file that ``tstar fit`` can be given too."""
    paths = {}
    for model in models:
        paths[model.name] = path = folder / "recipes" / f"{model.name}.yaml"
        text = yaml.safe_dump(model.recipe.as_yaml(), sort_keys=False)
        if not path.is_file() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return paths


def job_of(model: AblationModel, seed: int, recipe: Path, folder: Path, settings: list[tuple[str, str]]) -> "Job":
    """Training and the first row's evaluation, then one evaluation for each other row."""
    from tstar.reports.job_queue import Job, Step

    name, place = f"{model.name}-{seed}", folder / "models"
    own = place / name
    tstar = [sys.executable, "-m", "tstar.cli.main"]
    first, *others = [budget.frames for budget in model.budgets]
    suites = list(model.recipe.evaluation.get("benchmarks") or {})
    fixed = [("seed_everything", str(seed)), ("data.seed", str(seed)), ("evaluation.max_frames", str(first))]

    def fit() -> list[str]:
        words = [*tstar, "fit", "--config", str(recipe), "--runs", str(place), "--name", name]
        words += [word for key, value in [*fixed, *settings] for word in (f"--{key}", value)]
        return [*words, "--ckpt"] if (own / "config.yaml").is_file() else words

    def again(frames: int) -> Callable[[], list[str]]:
        return lambda: [*tstar, "validate", "--ckpt", str(own), "--max-frames", str(frames), "--no-baselines"]

    def evaluated(folder: Path) -> Callable[[], bool]:
        return lambda: all((folder / f"{suite}.full.json").is_file() for suite in suites) and bool(suites)

    steps = [Step("fit", fit, evaluated(own / "eval"))]
    for frames in others:
        done = evaluated(own / "eval" / f"max_frames={frames}-baselines=False")
        steps.append(Step(f"{frames} frames", again(frames), done))
    return Job(name, tuple(steps))


def show_rows(ablation: Ablation, models: Sequence[AblationModel], seeds: Sequence[int], folder: Path) -> int:
    """List models, rows and what is finished."""
    print(f"{ablation.title}; scale {ablation.scale}, seeds {', '.join(map(str, seeds))}, in {folder}")
    for model in models:
        done = [job_of(model, seed, Path(), folder, []).finished() for seed in seeds]
        rows = ", ".join(f"{budget.frames} frames" for budget in model.budgets)
        print(
            f"  {model.name:<26} {model.label} ({model.text or model.category}): {rows}; {sum(done)}/{len(done)} done"
        )
    return 0


def write_table(
    ablation: Ablation, models: Sequence[AblationModel], seeds: Sequence[int], folder: Path, out: Path, command: str
) -> dict[str, Any]:
    """Read what there is and write the table; returns its data."""
    from tstar.reports.ablation import Table, write_ablation_report

    rows = [row for model in models for row in rows_of(model, seeds, folder)]
    table = Table(ablation.title, ablation.scale, rows, ablation.orderings, ablation.grid)
    return write_ablation_report(table, folder, out, command)


def rows_of(model: AblationModel, seeds: Sequence[int], folder: Path) -> list["Row"]:
    """The table's rows of one model, with the runs that are finished."""
    from tstar.reports.ablation import Row
    from tstar.reports.runs import read_run

    found = {}
    for seed in seeds:
        place = folder / "models" / f"{model.name}-{seed}"
        if (place / "eval").is_dir():
            found[str(seed)] = read_run(place)
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
            runs=found,
            grid=model.grid,
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
