"""The page, numbers and plot of the compressor benchmark."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tstar.reports.measured_cost import GIB

FAMILIES = {
    "pooling and projector": ("no compression", "average", "bilinear", "3D pooling"),
    "convolution": ("C-Abstractor",),
    "cross-attention": ("2D resampler", "3D resampler"),
    "self-attention": ("GPT-NeoX", "Bi-GPT-NeoX"),
    "no weights": ("token merging", "k-means", "density peaks"),
    "state space": ("Mamba", "Bi-Mamba", "MambaMia", "BIMBA"),
}
COLOURS = ("#878787", "#8c510a", "#5e3c99", "#b2182b", "#1b7837", "#053061")


def write_report(folder: Path, content: Mapping[str, Any]) -> list[Path]:
    """Write ``compressors.md``, ``compressors.json`` and ``compressors.png`` into ``folder``, made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers, page, plot = (folder / f"compressors.{ending}" for ending in ("json", "md", "png"))
    numbers.write_text(json.dumps(content, indent=1) + "\n")
    page.write_text(markdown(content))
    draw(content, plot)
    return [numbers, page, plot]


def markdown(content: Mapping[str, Any]) -> str:
    """The page."""
    here, settings = content["machine"], content["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in here["versions"].items())
    options = (
        f"{'--quick ' if settings['quick'] else ''}--threads {here['threads']} --precision {settings['precision']}"
    )
    lines = [
        "# What compressors cost",
        "",
        f"`python benchmarks/compressors.py {options} --seed {settings['seed']} --report DIR`",
        "",
        f"{here['cpu']}, {here['threads']} threads of {here['cores']} cores, {here['memory_gib']} GiB; {versions}. One clip, no",
        f"gradients, {settings['precision']} products, {settings['grid'][0]} x {settings['grid'][1]} patches of width "
        f"{settings['d_vision']}, visual tokens of width {settings['d_language']}; random weights.",
        "Seconds are medians, or of the only call where one takes more than a minute; memory is the peak of a call beyond weights",
        "and features.",
        "",
        "![Time and memory](compressors.png)",
        "",
    ]
    frames = settings["frames"]
    heads = [f"{what}, {m} frames" for m in frames for what in ("tokens", "seconds", "GiB")]
    lines += [f"| compressor | parameters | {' | '.join(heads)} |", f"|---|{'---:|' * (1 + len(heads))}"]
    for label, by_frames in clips(content).items():
        cells = []
        for m in frames:
            row = by_frames[m]
            cells += [f"{row['tokens']:,}", f"{seconds_of(row):.2f}", f"{gib_of(row):.2f}"]
        lines.append(f"| {label} | {by_frames[frames[0]]['parameters'] / 1e6:.1f}M | {' | '.join(cells)} |")
    lines += ["", *_long(content)]
    return "\n".join(lines) + "\n"


def clips(content: Mapping[str, Any]) -> dict[str, dict[int, dict[str, Any]]]:
    """Rows by label and frames."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for row in content["sections"].values():
        if row["kind"] == "clip":
            found.setdefault(row["label"], {})[row["frames"]] = row
    return found


def _long(content: Mapping[str, Any]) -> list[str]:
    rows = [row for row in content["sections"].values() if row["kind"] == "long"]
    lines = [
        f"## Long videos in segments of {content['settings']['segment_frames']} frames",
        "",
        "Features are made as they are read. What a layer makes goes through a temporary file. Peaks are beyond weights, the",
        "visual tokens themselves included. Ratios to the fewest frames are of peak and weights; then without tokens.",
        "",
        "| compressor | frames | positions | seconds | peak GiB | of it visual tokens | ratio | without tokens |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        first = min((other for other in rows if other["label"] == row["label"]), key=lambda other: other["frames"])
        needed, needed_first = (r["peak_bytes"] + r["weights_bytes"] for r in (row, first))
        without_tokens = (needed - row["tokens_bytes"]) / (needed_first - first["tokens_bytes"])
        share = f"{row['tokens']:,} in {row['tokens_bytes'] / GIB:.3f}"
        lines.append(
            f"| {row['label']} | {row['frames']:,} | {row['positions']:,} | {row['seconds']:.1f} | "
            f"{row['peak_bytes'] / GIB:.3f} | {share} | {needed / needed_first:.2f} | {without_tokens:.2f} |"
        )
    return lines


def family(label: str) -> str:
    """The family whose longest name begins the label."""
    named = [(len(start), name) for name, starts in FAMILIES.items() for start in starts if label.startswith(start)]
    if not named:
        raise ValueError(f"no family of FAMILIES begins like {label!r}; add one")
    return max(named)[1]


def draw(content: Mapping[str, Any], path: Path) -> None:
    """Time and memory of every member, a row each, few frames and many."""
    from matplotlib.figure import Figure  # takes a second, and only a report needs it

    rows = clips(content)
    figure = Figure(figsize=(11, 1.5 + 0.27 * len(rows)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    few, many = content["settings"]["frames"]
    for place, (label, by_frames) in enumerate(rows.items()):
        colour = COLOURS[list(FAMILIES).index(family(label))]
        for axes, value in ((left, seconds_of), (right, gib_of)):
            x = [value(by_frames[m]) for m in (few, many)]
            axes.plot(x, [place, place], "-", color=colour, linewidth=1.5, alpha=0.5)
            axes.plot(x[:1], [place], "o", markerfacecolor="white", color=colour, markersize=6)
            axes.plot(x[1:], [place], "o", color=colour, markersize=6)
    left.set_yticks(range(len(rows)), list(rows), fontsize=9)
    left.invert_yaxis()
    left.set_xscale("log")
    left.set_xlabel(f"seconds a clip (open: {few} frames, filled: {many})")
    right.set_xlim(left=0)
    right.set_xlabel("peak memory beyond weights and features, GiB")
    for axes in (left, right):
        axes.grid(True, which="major", alpha=0.3)
    here = content["machine"]
    figure.suptitle(f"Compressors at the published size, {here['cpu']}, {here['threads']} threads", fontsize=11)
    figure.savefig(path, dpi=130)


def seconds_of(row: Mapping[str, Any]) -> float:
    """Median time of a call."""
    return row["time"]["median"]


def gib_of(row: Mapping[str, Any]) -> float:
    """Peak of a call."""
    return row["peak_bytes"] / GIB
