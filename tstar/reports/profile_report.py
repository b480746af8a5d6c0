"""Measured costs as a page, numbers and plots.

Every title says what weights and which scale it is about: nobody shall take a miniature's or a random model's numbers for more.
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tstar.evaluation.table import ABSENT, markdown_table
from tstar.reports.measured_cost import MIB, SLOW
from tstar.reports.profile_cases import ANSWER, LABELS, PARTS, RESET, Case
from tstar.reports.profile_plots import Row, clock_of, cost_plot, parts_plot, plotted, whole_of
from tstar.reports.seed_numbers import Numbers
from tstar.stages.checkpoint_io import write_atomically

TYPES = {"fp32": ""} | {
    half: f": encoder and language model have {half} weights, the compressor fp32 weights and {half} operations"
    for half in ("bf16", "fp16")
}
"""What a precision means."""
NAMED = (("encoder", "vision", "encode"), ("language model", "language", "prefill"))
"""Modules that are files, under which key the page's group has them, and the part in which they run."""
COLUMNS = (
    *("group", "label", "compressor", "protocol", "frames", "visual_tokens", "status", "part"),
    *("median_s", "quartile1_s", "quartile3_s", "mean_s", "least_s", "greatest_s", "calls"),
    *("part_needed_bytes", "needed_bytes", "weights_bytes", "input_bytes", "total_bytes"),
    *("weights", "precision", "device"),
)
"""Of the CSV file: a line a part, and one of a case without numbers."""


def results_of(
    title: str,
    command: str,
    here: Mapping[str, Any],
    groups: Mapping[str, tuple[str, Sequence[Case]]],
    found: Mapping[str, Sequence[Mapping[str, Any]]],
    left: int = 0,
) -> Numbers:
    """What was measured, as plain data.

    Args:
        title: of the page.
        command: that repeats it.
        here: the machine.
        groups: title and cases of each group by name.
        found: what each case of a group came to.
        left: cases that would be measured now.
    """
    return {
        "title": title,
        "command": command,
        "left": left,
        "machine": dict(here),
        "groups": [_group(name, *group, found[name]) for name, group in groups.items()],
    }


def _group(name: str, title: str, cases: Sequence[Case], found: Sequence[Mapping[str, Any]]) -> Numbers:
    parts = [part for part in PARTS if any(part in case.parts for case in cases)]
    first = cases[0]
    rows = [
        {
            "label": case.label,
            "compressor": case.model.compressor,
            "frames": case.frames,
            "protocol": case.protocol,
            "parts": list(case.parts),
            **{key: value for key, value in result.items() if key != "log"},
        }
        for case, result in zip(cases, found, strict=True)
    ]
    return {
        "name": name,
        "title": title,
        "miniature": first.model.is_miniature,
        "weights": first.model.weights(parts),
        "parts": parts,
        "vision": first.model.vision["model"],
        "language": first.model.language["path"],
        "device": first.device,
        "precision": first.precision,
        "matmul_precision": first.matmul_precision,
        "warmup": first.warmup,
        "samples": first.samples,
        "text_tokens": first.text_tokens,
        "videos": len(first.videos),
        "seed": first.seed,
        "rows": rows,
    }


def write_profile(results: Numbers, out: Path) -> list[Path]:
    """Write ``results.json``, ``results.csv``, ``README.md`` and the plots into ``out``; returns what was written."""
    out.mkdir(parents=True, exist_ok=True)
    plots = {}
    for group in results["groups"]:
        for kind, draw in (("cost", cost_plot), ("parts", parts_plot)):
            path = out / f"{group['name']}_{kind}.png"
            if draw(group, path, headline(group, results)):
                plots[group["name"], kind] = path.name
    files = {
        "results.json": json.dumps(results, indent=1, ensure_ascii=False) + "\n",
        "results.csv": table_text(results),
        "README.md": page(results, plots),
    }
    for name, text in files.items():
        write_atomically(out / name, text)
    return [out / name for name in (*files, *plots.values())]


def headline(group: Numbers, results: Numbers) -> str:
    """Whether it is a miniature, weights, precision and device of a group, and whether peaks of memory are wrong: what has to
    stand over its tables and plots."""
    here = results["machine"]
    device = here["gpu"] if "gpu" in here else f"{here['cpu']}, {_count(here['threads'], 'thread')}"
    inexact = ", memory not exact" if _inexact(group) else ""
    return f"{'miniature, ' if group['miniature'] else ''}{group['weights']}, {group['precision']}, {device}{inexact}"


def _inexact(group: Numbers) -> bool:
    """Whether a peak may hold what was needed before it; results of before that was written down are exact."""
    return any(not row["memory"].get(RESET, True) for row in group["rows"] if row["status"] == "measured")


def table_text(results: Numbers) -> str:
    """The CSV file."""
    text = io.StringIO()
    lines = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    lines.writeheader()
    for group in results["groups"]:
        for row in group["rows"]:
            common = {
                **{key: group[key] for key in ("weights", "precision", "device")},
                **{key: row[key] for key in ("label", "protocol", "frames", "status")},
                "group": group["name"],
                "compressor": row["compressor"]["name"],
            }
            if row["status"] != "measured":
                lines.writerow(common)
                continue
            memory = row["memory"]
            common |= {f"{key}_bytes": memory[key] for key in ("needed", "weights", "input", "total")}
            for part, seconds in row["seconds"].items():
                spread = {f"{key}_s": seconds[key] for key in seconds if key != "calls"}
                own = {"part": part, "calls": seconds["calls"], "part_needed_bytes": memory["by_part"].get(part, "")}
                lines.writerow({**common, **spread, **own, "visual_tokens": row["visual_tokens"]})
    return text.getvalue()


def page(results: Numbers, plots: Mapping[tuple[str, str], str]) -> str:
    """The page as Markdown.

    Args:
        results: what ``results.json`` holds.
        plots: files by group and kind.
    """
    here = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in here["versions"].items())
    threads = _count(here["threads"], "thread")
    gpu = f"{here['gpu']}; " if "gpu" in here else ""
    text = [
        f"# {results['title']}\n",
        f"`{results['command']}`\n",
        f"{gpu}{here['cpu']}, {threads} of {here['cores']} cores, {here['memory_gib']} GiB; {versions}.\n",
        "Every row was measured in a process of its own. Seconds are medians with quartiles in brackets. *Held* are the weights of "
        "what runs and its input, counted; *needed* is the most memory beyond those during the calls, measured: "
        + ("what PyTorch allocates on the device.\n" if gpu else "the process's resident memory.\n"),
    ]
    if results["left"]:
        text.append(
            f"**{_count(results['left'], 'case')} still to be measured, or once more: failed, or ended by other limits.**\n"
        )
    for group in results["groups"]:
        text += [f"## {group['title']}\n", _about(group)]
        text += [
            f"![{kind}]({plots[group['name'], kind]})\n" for kind in ("cost", "parts") if (group["name"], kind) in plots
        ]
        text += _growth(group, headline(group, results))
        for protocol, table in (("paper", _paper_table), ("parts", _parts_table)):
            rows = _by_label([row for row in group["rows"] if row["protocol"] == protocol])
            if rows:
                text.append(table(group, rows, headline(group, results)))
    return "\n".join(text)


def _by_label(rows: Sequence[Row]) -> list[Row]:
    labels = list(dict.fromkeys(row["label"] for row in rows))
    return sorted(rows, key=lambda row: (labels.index(row["label"]), row["frames"]))


def _about(group: Numbers) -> str:
    parts = set(group["parts"])
    used = {name: group[key] for name, key, part in NAMED if part in parts}
    names = [f"{name} {path}" for name, path in used.items()]
    names += [f"shapes as of {group[key]}" for name, key, _ in NAMED if name not in used]
    given = f"{group['videos']} videos" if group["videos"] else "random pixels"
    given = given if {"decode", "encode"} & parts else f"random input of {LABELS[group['parts'][0]]}"
    prompt = f", a prompt of {group['text_tokens']} other tokens" if "prefill" in parts else ""
    calls = f"{group['samples']} calls after {_count(group['warmup'], 'warm-up')}; what takes more than {SLOW:g} s is called once"
    lines = [
        f"- **{'miniature, ' if group['miniature'] else ''}{group['weights']}**: {', '.join(names)}",
        f"- {group['precision']}{TYPES[group['precision']]}; products of fp32 matrices: {group['matmul_precision']}",
        f"- one clip at a time, {given}{prompt}; {calls}",
        *(f"- {LABELS[part]}: {PARTS[part]}" for part in group["parts"]),
    ]
    if _inexact(group):
        lines.append(
            "- **memory is not exact**: this system does not set back its record of a process's largest size, so what is needed "
            "may hold what was needed before, in loading too"
        )
    beyond = [row for row in group["rows"] if row.get("native_context") and row["positions"] > row["native_context"]]
    if beyond and "prefill" in parts:
        made_for = beyond[0]["native_context"]
        lines.append(
            f"- positions beyond the {made_for:,} that the language model was made for cost what they cost, but mean nothing"
        )
    repeated = [row for row in group["rows"] if (row.get("distinct_frames") or row["frames"]) < row["frames"]]
    if repeated:
        least = min(repeated, key=lambda row: row["distinct_frames"] / row["frames"])
        lines.append(
            f"- videos of fewer frames than are asked for give some several times, decoded once (of {least['frames']:,} as few as "
            f"{least['distinct_frames']:,} differ)"
        )
    return "\n".join(lines) + "\n"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _growth(group: Numbers, head: str) -> list[str]:
    """How seconds and memory grow with the frames, of every label that has numbers of several; the same cases as in the plot."""
    rows = [row for row in _by_label(plotted(group)) if row["status"] == "measured"]
    names = ["frames", "times as many", "times the seconds", "times the memory", "seconds grow by the power"]
    lines = []
    for label in dict.fromkeys(row["label"] for row in rows):
        own = [row for row in rows if row["label"] == label]
        if len(own) < 2:
            continue
        least, before, most = own[0], own[-2], own[-1]
        power = math.log(_seconds(most) / _seconds(before)) / math.log(most["frames"] / before["frames"])
        lines.append(
            [
                label,
                f"{least['frames']:,} to {most['frames']:,}",
                significant(most["frames"] / least["frames"]),
                significant(_seconds(most) / _seconds(least)),
                significant(most["memory"]["total"] / least["memory"]["total"]),
                f"{power:.2f} from {before['frames']:,} to {most['frames']:,}",
            ]
        )
    if not lines:
        return []
    told = f"Seconds: {clock_of(rows[0])}; power 1: twice the frames take twice the time, 2: four times. Memory: held and needed.\n"
    return [f"**What more frames cost ({head})**\n\n{told}\n{markdown_table(['', *names], lines)}"]


def _seconds(row: Row) -> float:
    """The median of all that a case measures as one."""
    return float(row["seconds"][whole_of(row)]["median"])


def _paper_table(group: Numbers, rows: Sequence[Row], head: str) -> str:
    """Time to the first token."""
    names = [
        "frames",
        "visual tokens",
        "first token, s",
        "mean, s",
        "without encoding, s",
        "held, MiB",
        "needed, MiB",
        "calls",
    ]
    lines = []
    for row in rows:
        cells = [row["label"], f"{row['frames']:,}"]
        if row["status"] != "measured":
            lines.append([*cells, row["status"], *[ABSENT] * (len(names) - 2)])
            continue
        seconds = row["seconds"]
        lines.append(
            [
                *cells,
                f"{row['visual_tokens']:,}",
                spread(seconds["total"]),
                significant(seconds["total"]["mean"]),
                spread(seconds["without_encoding"]) if "without_encoding" in seconds else ABSENT,
                mebibytes(row["memory"]["weights"] + row["memory"]["input"]),
                mebibytes(row["memory"]["needed"]),
                str(seconds["total"]["calls"]),
            ]
        )
    inside = f"The clock of *first token* runs over {', '.join(LABELS[p] for p in ANSWER)}, from frames decoded and made squares "
    inside += "before; tokenising, later tokens and text are not in it.\n"
    return (
        f"**Time to the first token, the paper's protocol ({head})**\n\n{inside}\n{markdown_table(['', *names], lines)}"
    )


def _parts_table(group: Numbers, rows: Sequence[Row], head: str) -> str:
    """Each part apart."""
    parts = [part for part in PARTS if any(part in row["parts"] for row in rows)]
    several = ["sum, s", "total, s"] if len(parts) > 1 else []
    names = [
        "frames",
        "visual tokens",
        *(f"{LABELS[part]}, s" for part in parts),
        *several,
        "held, MiB",
        "needed, MiB",
        "calls",
    ]
    lines = []
    for row in rows:
        cells = [row["label"], f"{row['frames']:,}"]
        if row["status"] != "measured":
            lines.append([*cells, row["status"], *[ABSENT] * (len(names) - 2)])
            continue
        seconds = row["seconds"]
        own = [seconds[part] for part in parts]
        lines.append(
            [
                *cells,
                f"{row['visual_tokens']:,}",
                *(spread(one) if len(parts) == 1 else significant(one["median"]) for one in own),
                *([significant(sum(one["median"] for one in own)), spread(seconds["total"])] if several else []),
                mebibytes(row["memory"]["weights"] + row["memory"]["input"]),
                mebibytes(row["memory"]["needed"]),
                str(own[0]["calls"]),
            ]
        )
    what = "Each part apart, and all of them measured as one" if several else f"{LABELS[parts[0]].capitalize()} alone"
    return f"**{what} ({head})**\n\n{markdown_table(['', *names], lines)}"


def significant(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 1e-3 else f"{value:.6f}"


def spread(seconds: Mapping[str, Any]) -> str:
    """``0.123 [0.120, 0.131]``; of one call only the value."""
    median = significant(seconds["median"])
    if seconds["calls"] < 2:
        return median
    return f"{median} [{significant(seconds['quartile1'])}, {significant(seconds['quartile3'])}]"


def mebibytes(size: int) -> str:
    """Bytes in MiB."""
    return f"{size / MIB:,.0f}" if size >= 100 * MIB else f"{size / MIB:.1f}"
