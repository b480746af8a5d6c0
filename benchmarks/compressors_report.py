"""The page, numbers and plot of the compressor benchmark."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timing import GIB

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
            cells += [f"{row['tokens']:,}", f"{row['time']['median']:.2f}", f"{row['peak_bytes'] / GIB:.2f}"]
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
    """Time against memory of every member, a line from fewer to more frames."""
    from matplotlib.figure import Figure  # takes a second, and only a report needs it

    figure = Figure(figsize=(10, 6.5), layout="constrained")
    axes = figure.add_subplot()
    seen = set()
    for label, by_frames in clips(content).items():
        name = family(label)
        colour = COLOURS[list(FAMILIES).index(name)]
        rows = [by_frames[m] for m in sorted(by_frames)]
        x = [row["time"]["median"] for row in rows]
        y = [max(row["peak_bytes"], 1) / GIB for row in rows]
        axes.plot(x, y, "-", color=colour, linewidth=1, alpha=0.6)
        axes.plot(x[:1], y[:1], "o", markerfacecolor="white", color=colour, markersize=5)
        axes.plot(x[-1:], y[-1:], "o", color=colour, markersize=5, label=None if name in seen else name)
        axes.annotate(label, (x[-1], y[-1]), fontsize=6.5, xytext=(4, 2), textcoords="offset points", color=colour)
        seen.add(name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    few, many = content["settings"]["frames"]
    axes.set_xlabel(f"seconds a clip (open: {few} frames, filled: {many})")
    axes.set_ylabel("peak memory beyond weights and features, GiB")
    here = content["machine"]
    axes.set_title(f"Compressors at the published size, {here['cpu']}, {here['threads']} threads", fontsize=10)
    axes.grid(True, which="major", alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
