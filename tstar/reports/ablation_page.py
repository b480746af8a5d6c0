"""The page of a measured table, from what ``results.json`` holds and nothing else."""

from typing import Any

from tstar.evaluation.statistics import LEVEL
from tstar.evaluation.table import ABSENT, markdown_table
from tstar.reports.records import RECORDS

Numbers = dict[str, Any]


def page(results: Numbers) -> str:
    """Markdown: the table beside the published one, what became of the orderings, plots, times and versions."""
    text = [f"# {results['title']}\n"]
    small = [
        *(["all suites are generated"] if results["generated_suites"] else []),
        *(["all models are tiny"] if results["tiny_models"] else []),
    ]
    if small:
        text.append(
            f"{' and '.join(small).capitalize()}: these accuracies say nothing about the benchmarks they are named after, and the "
            "published numbers stand beside them for their order only.\n"
        )
    text += [_table(results), _alone(results), _notes(results)]
    if results["orderings"]:
        text += ["## The paper's orderings\n", results["paragraph"] + "\n", _orderings(results)]
    text += [f"![{name}]({name})\n" for name in results["plots"]]
    text += ["## What it took\n", _costs(results), "## Versions\n", _versions(results)]
    if results["failed"]:
        text += ["## Failed\n", "".join(f"- {name}: {reason}\n" for name, reason in results["failed"].items())]
    if results["left_out"]:
        text += ["## Left out\n", "".join(f"- {name}: {reason}\n" for name, reason in results["left_out"].items())]
    text += ["## Command\n", f"```\n{results['command']}\n```\n"]
    if results["runs"]:
        text.append(f"[{RECORDS}]({RECORDS}) holds settings, losses, every answer and its verdict.\n")
    return "\n".join(part for part in text if part)


def published_name(column: str) -> str:
    """The published column that stands beside a measured one: ``mlvu`` beside ``mini-mlvu``."""
    return column.removeprefix("mini-")


def parameters(count: int | None) -> str:
    """How many were trained, as 0.21M."""
    return ABSENT if count is None else f"{count / 1e6:.3g}M"


def _table(results: Numbers) -> str:
    columns = [column for column in results["columns"] if any(column in row["summary"] for row in results["rows"])]
    beside = {
        column: name
        for column in columns
        if (name := results["joined"].get(column)) and any(name in row["published"] for row in results["rows"])
    }
    header = ["category", "model", "trained", "frames", "tokens"]
    for column in columns:
        header += [column] + (["paper"] if column in beside else [])
    lines = []
    if columns and results["chance"]:
        lines.append(_floor("chance", {c: f"{100 * v:.1f}" for c, v in results["chance"].items()}, columns, beside))
    if columns and results["blind"]:
        told = {
            c: f"{100 * v['mean']:.1f} ({100 * v['min']:.1f} to {100 * v['max']:.1f})"
            for c, v in results["blind"].items()
        }
        runs = max(own["n"] for own in results["blind"].values())
        lines.append(_floor(f"without the video (blind), {runs} runs", told, columns, beside))
    for row in results["rows"]:
        label = f"{row['label']} ({row['text']})" if row["text"] else row["label"]
        if row["same_as"]:
            label += f"; at this scale the same model as `{row['same_as']}`"
        frames = (
            f"{row['frames']} (paper {row['paper_frames']})"
            if row["paper_frames"] != row["frames"]
            else str(row["frames"])
        )
        tokens = str(row["tokens"])
        if row["paper_tokens"] is not None and row["paper_tokens"] != row["tokens"]:
            tokens += f" ({row['paper_tokens']})"
        cells = [row["category"], label, parameters(row["parameters_trained"]), frames, tokens]
        for column in columns:
            cells.append(_cell(row["summary"].get(column)))
            if column in beside:
                cells.append(_published(row, beside[column]))
        lines.append(cells)
    return markdown_table(header, lines)


def _floor(label: str, cells: dict[str, str], columns: list[str], beside: dict[str, str]) -> list[str]:
    """A line of what needs no video."""
    line = ["", label, "", "", ""]
    for column in columns:
        line += [cells.get(column, ABSENT)] + ([""] if column in beside else [])
    return line


def _alone(results: Numbers) -> str:
    """The published columns that no measured one stands beside, as a table of their own; "" if there are none."""
    shown = {
        name for column, name in results["joined"].items() if any(column in row["summary"] for row in results["rows"])
    }
    names = list(dict.fromkeys(name for row in results["rows"] for name in row["published"] if name not in shown))
    if not names:
        return ""
    lines = [[row["name"], *(_published(row, name) for name in names)] for row in results["rows"] if row["published"]]
    titles = [f"average (of {', '.join(results['average_of'])})" if name == "average" else name for name in names]
    return "Published, and nothing measured stands beside it:\n\n" + markdown_table(["model@frames", *titles], lines)


def _published(row: Numbers, name: str) -> str:
    value = row["published"].get(name)
    return ABSENT if value is None else f"{value:g}"


def _cell(own: Numbers | None) -> str:
    """Mean in percent with its interval, and the deviation over several seeds."""
    if not own:
        return ABSENT
    told = f"{100 * own['mean']:.1f}"
    if own.get("interval"):
        low, high = own["interval"]
        told += f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{told} ± {100 * own['sd']:.1f}" if own.get("sd") is not None else told


def _notes(results: Numbers) -> str:
    notes = [
        f"accuracy in percent; [a, b]: {LEVEL:.0%} interval over videos (VNBench: the four tries of a question), of several seeds "
        "also over seeds; ± s: standard deviation over seeds (n - 1)",
        "chance: what uniform guessing gives; blind: the same models asked without the video, mean (least to greatest)",
        "trained: parameters that learn in the last stage; tokens: visual tokens of a video with as many frames as the row allows, "
        "in brackets the paper's",
        "mean: plain mean over suites, VNBench with its independent score; paper: as printed",
        *([results["note"]] if results["note"] else []),
    ]
    every = [row["name"] for row in results["rows"] if not row["seeds"]]
    some = [
        f"{row['name']} ({len(row['seeds'])} of {len(row['wanted_seeds'])})"
        for row in results["rows"]
        if 0 < len(row["seeds"]) < len(row["wanted_seeds"])
    ]
    if every:
        notes.append(f"not measured: {', '.join(every)}")
    if some:
        notes.append(f"not with every seed: {', '.join(some)}")
    gains = [row for row in results["rows"] if row["over_blind"]]
    if gains:
        least = min(gains, key=lambda row: row["over_blind"]["difference"])
        low, high = least["over_blind"]["interval"]
        notes.append(
            f"over the same model without the video (blind), mean over suites: least "
            f"{100 * least['over_blind']['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] points, by {least['name']}"
        )
    if results["below_blind"]:
        notes.append(f"**not surely above blind: {', '.join(results['below_blind'])}**")
    elif gains:
        notes.append("every measured row is above blind")
    if any(len(row["seeds"]) > 1 for row in gains):
        notes.append(_seeds_alone(gains))
    return "".join(f"- {note}\n" for note in notes)


def _seeds_alone(rows: list[Numbers]) -> str:
    """With how many seeds rows are above blind, where each is judged alone; few seeds make the interval over all of them wide."""
    every = [row for row in rows if len(row["seeds_above_blind"]) == len(row["seeds"])]
    some = [row for row in rows if 0 < len(row["seeds_above_blind"]) < len(row["seeds"])]
    none = [row["name"] for row in rows if not row["seeds_above_blind"]]
    told = f"each seed alone, by its interval over videos: {len(every)} of {len(rows)} rows are above blind with every seed"
    if some:
        counts = (f"{row['name']} ({len(row['seeds_above_blind'])} of {len(row['seeds'])})" for row in some)
        told += f"; with some: {', '.join(counts)}"
    return f"{told}; with none: {', '.join(none)}" if none else told


def _orderings(results: Numbers) -> str:
    lines = []
    most = max(
        (count for ordering in results["orderings"] for one in ordering["comparisons"] for count in one["seeds"]),
        default=0,
    )
    for ordering in results["orderings"]:
        lines.append([f"**{ordering['said']}**", "", f"**{ordering['verdict']}**"])
        for one in ordering["comparisons"]:
            told = _gap(one) if one["difference"] is not None else ABSENT
            if one["difference"] is not None and min(one["seeds"]) < most:
                told += f"; {one['seeds'][0]} and {one['seeds'][1]} seeds"
            lines.append([f"{one['left']} {_word(one['operator'])} {one['right']}", told, one["verdict"]])
    table = markdown_table(["the paper's", "left minus right, points", "here"], lines)
    equal = results["equal"]
    if equal:
        names = " and ".join(equal["rows"])
        table += f"\n{names} compute the same function. They are {_gap(equal)} points apart: so much is chance in training.\n"
    return table


def _gap(found: Numbers) -> str:
    low, high = found["interval"]
    return f"{100 * found['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _word(operator: str) -> str:
    return {">": "better than", "<": "worse than", "~": "like", ">=": "as good as, or better than"}[operator]


def _costs(results: Numbers) -> str:
    lines, total = [], 0.0
    for run in results["runs"]:
        steps = run["step_seconds"]
        whole = {"fit": run["seconds"]} if run["seconds"] is not None and run["starts"] <= 1 else {}
        steps = steps or whole  # a resumed run's own records are of its last start
        total += sum(steps.values())
        fit = steps.get("fit")
        others = sum(seconds for name, seconds in steps.items() if name != "fit")
        memory = run["peak_memory_mib"]
        lines.append(
            [
                run["run"].rpartition("/")[2],
                ABSENT if fit is None else f"{fit / 60:.1f} min",
                f"{others / 60:.1f} min" if others else ABSENT,
                ABSENT if memory is None else f"{memory / 1024:.1f} GiB",
                str(run["starts"]),
            ]
        )
    if not lines:
        return "Nothing was run.\n"
    header = ["model and seed", "training and first evaluation", "other frames", "peak memory", "starts"]
    told = f"\n{len(lines)} runs, {total / 60:.0f} minutes of wall time over all starts that were not killed, added up over "
    told += "models that ran side by side.\n"
    return markdown_table(header, lines) + told


def _versions(results: Numbers) -> str:
    found: dict[str, list[str]] = {}
    for run in results["runs"]:
        packages = ", ".join(f"{name} {number}" for name, number in run["packages"].items())
        told = f"Python {run['python']}, {packages}; {run['machine']}" if packages else "not recorded"
        found.setdefault(told, []).append(run["run"].rpartition("/")[2])
    if len(found) == 1:
        return f"{next(iter(found))}.\n"
    return "".join(f"- {', '.join(names)}: {told}\n" for told, names in found.items()) or "Nothing was run.\n"
