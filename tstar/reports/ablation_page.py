"""The page of a measured table, from what ``results.json`` holds and nothing else."""

from typing import Any

from tstar.evaluation.statistics import LEVEL
from tstar.evaluation.table import ABSENT, markdown_table
from tstar.reports.records import RECORDS

Numbers = dict[str, Any]


def page(results: Numbers) -> str:
    """Markdown: the table beside the published one, what became of the orderings, plots, times and versions."""
    text = [f"# {results['title']}\n"]
    if results["miniature"]:
        text.append(
            "All suites are generated and all models are tiny: these accuracies say nothing about the benchmarks they are named "
            "after, and the published numbers stand beside them for their order only.\n"
        )
    text += [_table(results), _notes(results)]
    if results["orderings"]:
        text += ["## The paper's orderings\n", results["paragraph"] + "\n", _orderings(results)]
    text += [f"![{name}]({name})\n" for name in results["plots"]]
    text += ["## What it took\n", _costs(results), "## Versions\n", _versions(results)]
    if results["failed"]:
        text += ["## Failed\n", "".join(f"- {name}: {reason}\n" for name, reason in results["failed"].items())]
    text += ["## Command\n", f"```\n{results['command']}\n```\n"]
    if results["runs"]:
        text.append(f"[{RECORDS}]({RECORDS}) holds settings, losses, every answer and its verdict.\n")
    return "\n".join(text)


def _columns(results: Numbers) -> list[str]:
    """Measured columns in the order of the first row that has any."""
    return list(dict.fromkeys(column for row in results["rows"] for column in row["summary"]))


def published_name(column: str) -> str:
    """The published column that stands beside a measured one: ``mlvu`` beside ``mini-mlvu``, the average beside the mean."""
    return {"mean": "average"}.get(column, column.removeprefix("mini-"))


def _table(results: Numbers) -> str:
    columns = _columns(results)
    beside = {column: published_name(column) for column in columns}
    header = ["category", "model", "frames", "tokens"]
    for column in columns:
        header += [column] + (["paper"] if any(beside[column] in row["published"] for row in results["rows"]) else [])
    lines = []
    for row in results["rows"]:
        label = f"{row['label']} ({row['text']})" if row["text"] else row["label"]
        frames = (
            f"{row['frames']} (paper {row['paper_frames']})"
            if row["paper_frames"] != row["frames"]
            else str(row["frames"])
        )
        tokens = str(row["tokens"])
        if row["paper_tokens"] is not None and row["paper_tokens"] != row["tokens"]:
            tokens += f" ({row['paper_tokens']})"
        cells = [row["category"], label, frames, tokens]
        for column in columns:
            cells.append(_cell(row["summary"].get(column)))
            if any(beside[column] in other["published"] for other in results["rows"]):
                published = row["published"].get(beside[column])
                cells.append(ABSENT if published is None else f"{published:g}")
        lines.append(cells)
    return markdown_table(header, lines)


def _cell(own: Numbers | None) -> str:
    """Mean in percent with the interval of one seed or the deviation over several."""
    if not own:
        return ABSENT
    told = f"{100 * own['mean']:.1f}"
    if own.get("interval"):
        low, high = own["interval"]
        return f"{told} [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{told} ± {100 * own['sd']:.1f}" if own.get("sd") is not None else told


def _notes(results: Numbers) -> str:
    notes = [
        f"accuracy in percent; [a, b]: {LEVEL:.0%} interval of one seed, bootstrap over videos (VNBench: the four tries of a "
        "question); m ± s: mean and standard deviation (n - 1) over seeds",
        "tokens: visual tokens of a video with as many frames as the row allows, in brackets the paper's",
        "mean: plain mean over suites, VNBench with its independent score; paper: as printed",
    ]
    missing = [row["name"] for row in results["rows"] if len(row["seeds"]) < len(row["wanted_seeds"])]
    if missing:
        notes.append(f"not measured, or not with every seed: {', '.join(missing)}")
    gains = [row for row in results["rows"] if row["over_blind"]]
    if gains:
        least = min(gains, key=lambda row: row["over_blind"]["difference"])
        low, high = least["over_blind"]["interval"]
        notes.append(
            f"over the same model without the video (blind), mean over suites: least "
            f"{100 * least['over_blind']['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] points, by {least['name']}; "
            + (
                f"not surely above it: {', '.join(results['below_blind'])}"
                if results["below_blind"]
                else "every row is above it"
            )
        )
    return "".join(f"- {note}\n" for note in notes)


def _orderings(results: Numbers) -> str:
    lines = []
    for ordering in results["orderings"]:
        lines.append([f"**{ordering['said']}**", "", f"**{ordering['verdict']}**"])
        for one in ordering["comparisons"]:
            told = ABSENT
            if one["difference"] is not None:
                low, high = one["interval"]
                told = f"{100 * one['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
            lines.append([f"{one['left']} {_word(one['operator'])} {one['right']}", told, one["verdict"]])
    return markdown_table(["the paper's", "left minus right, points", "here"], lines)


def _word(operator: str) -> str:
    return {">": "better than", "<": "worse than", "~": "like"}[operator]


def _costs(results: Numbers) -> str:
    lines = []
    for run in results["runs"]:
        seconds = [run["training_seconds"], run["evaluation_seconds"]]
        memory = run["peak_memory_mib"]
        lines.append(
            [
                run["run"].rpartition("/")[2],
                *(ABSENT if value is None else f"{value / 60:.1f} min" for value in seconds),
                ABSENT if memory is None else f"{memory / 1024:.1f} GiB",
                str(run["starts"]),
            ]
        )
    if not lines:
        return "Nothing was run.\n"
    known = [run["seconds"] for run in results["runs"] if run["seconds"] is not None]
    total = f"\n{len(known)} models, {sum(known) / 60:.0f} minutes of wall time, added up over models that ran side by side.\n"
    return markdown_table(["model and seed", "training", "first evaluation", "peak memory", "starts"], lines) + total


def _versions(results: Numbers) -> str:
    found: dict[str, list[str]] = {}
    for run in results["runs"]:
        packages = ", ".join(f"{name} {number}" for name, number in run["packages"].items())
        told = f"Python {run['python']}, {packages}; {run['machine']}" if packages else "not recorded"
        found.setdefault(told, []).append(run["run"].rpartition("/")[2])
    if len(found) == 1:
        return f"{next(iter(found))}.\n"
    return "".join(f"- {', '.join(names)}: {told}\n" for told, names in found.items()) or "Nothing was run.\n"
