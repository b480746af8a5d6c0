"""Plots of measured costs: seconds and memory against frames, and how a call's time is shared among its parts."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tstar.reports.curves import plain_ticks, pyplot, save_figure
from tstar.reports.measured_cost import MIB
from tstar.reports.profile_cases import LABELS, PARTS

Row = Mapping[str, Any]

COLOURS = ("#7f7f7f", "#8c510a", "#b2182b", "#1b7837", "#2166ac", "#762a83", "#e08214", "#35978f", "#c51b7d", "#000000")
PART_COLOURS = {
    "decode": "#bdbdbd",
    "preprocess": "#969696",
    "encode": "#e08214",
    "compress": "#2166ac",
    "prefill": "#1b7837",
    "first_token": "#762a83",
}
MARKS = "os^vD<>ph*"
ACROSS = 3
"""Panels side by side."""


def cost_plot(group: Row, path: Path, head: str) -> bool:
    """Seconds and memory of a group's cases against frames; False, and no file, where nothing was measured.

    Args:
        group: as in ``results.json``.
        path: of the PNG.
        head: what the title says beside the group's.
    """
    rows = plotted(group)
    protocol = rows[0]["protocol"]
    if not any(row["status"] == "measured" for row in rows):
        return False
    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.8), constrained_layout=True)
    labels = list(dict.fromkeys(row["label"] for row in rows))
    for number, label in enumerate(labels):
        own = sorted((row for row in rows if row["label"] == label), key=lambda row: row["frames"])
        style = _style(number)
        _draw_seconds(left, own, style, label)
        _draw_memory(right, own, style, label)
    every = sorted({row["frames"] for row in rows})
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(every, [f"{frames:,}" for frames in every])
        axes.set_xlabel("frames")
        plain_ticks(axes.yaxis)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    left.set_ylabel(f"seconds, {clock_of(rows[0])}")
    right.set_ylabel("peak memory with weights and input, MiB")
    left.legend(frameon=False, fontsize=9)
    _title(figure, group["title"], head, _told(rows, protocol))
    save_figure(figure, path)
    return True


def plotted(group: Row) -> list[Row]:
    """The group's cases that are drawn against frames: by the paper's protocol if one of them has numbers, else by parts."""
    paper = [row for row in group["rows"] if row["protocol"] == "paper"]
    parts = [row for row in group["rows"] if row["protocol"] == "parts"]
    return paper if not parts or any(row["status"] == "measured" for row in paper) else parts


def clock_of(row: Row) -> str:
    """What a drawn case's seconds are of, in words."""
    return "from frames to the first token" if row["protocol"] == "paper" else LABELS[whole_of(row)]


def whole_of(row: Row) -> str:
    """What a case's seconds of all its parts are called."""
    return "total" if len(row["parts"]) > 1 else row["parts"][0]


def _draw_seconds(axes: Any, rows: Sequence[Row], style: Mapping[str, Any], label: str) -> None:
    measured = [row for row in rows if row["status"] == "measured"]
    name = whole_of(rows[0])
    frames = [row["frames"] for row in measured]
    own = [row["seconds"][name] for row in measured]
    colour = style["color"]
    axes.plot(frames, [one["median"] for one in own], **style, label=label)
    axes.fill_between(
        frames,
        [one["quartile1"] for one in own],
        [one["quartile3"] for one in own],
        color=colour,
        alpha=0.2,
        linewidth=0,
    )
    after = [
        (row["frames"], row["seconds"]["without_encoding"]) for row in measured if "without_encoding" in row["seconds"]
    ]
    if after:
        axes.plot(
            *zip(*((m, one["median"]) for m, one in after), strict=True), color=colour, linestyle=":", linewidth=1.2
        )
    _ended(axes, rows, colour)


def _draw_memory(axes: Any, rows: Sequence[Row], style: Mapping[str, Any], label: str) -> None:
    points = [(row["frames"], row["memory"]["total"] / MIB) for row in rows if row["status"] == "measured"]
    if points:
        axes.plot(*zip(*points, strict=True), **style, label=label)
    _ended(axes, rows, style["color"])


def _ended(axes: Any, rows: Sequence[Row], colour: str) -> None:
    """A cross at the top for each case without numbers."""
    frames = [row["frames"] for row in rows if row["status"] != "measured"]
    if not frames:
        return
    place = axes.get_xaxis_transform()  # frames across, share of the height up
    axes.plot(frames, [0.98] * len(frames), "x", color=colour, transform=place, clip_on=False, markersize=7)


def _told(rows: Sequence[Row], protocol: str) -> str:
    told = ["bands: quartiles"]
    if protocol == "paper":
        told.append("dotted: without encoding")
    reasons = sorted({row["status"] for row in rows if row["status"] != "measured"})
    if reasons:
        told.append(f"crosses: {' or '.join(reasons)}")
    return "; ".join(told)


def parts_plot(group: Row, path: Path, head: str) -> bool:
    """Shares of the parts in the sum of their times, a panel a label; False, and no file, where parts were not timed apart."""
    rows = [row for row in group["rows"] if row["protocol"] == "parts" and row["status"] == "measured"]
    parts = [part for part in PARTS if any(part in row["parts"] for row in rows)]
    if len(parts) < 2:
        return False
    plt = pyplot()
    labels = list(dict.fromkeys(row["label"] for row in rows))
    across = min(len(labels), ACROSS)
    down = -(-len(labels) // across)
    size = (max(8.0, 4.0 * across), 1.1 + 2.9 * down)
    figure, axes = plt.subplots(down, across, figsize=size, squeeze=False, sharey=True, constrained_layout=True)
    for panel, label in zip(axes.flat, labels, strict=False):
        _stack(panel, sorted((row for row in rows if row["label"] == label), key=lambda row: row["frames"]), parts)
        panel.set_title(label, fontsize=10, pad=14)
    for panel in axes.flat[len(labels) :]:
        panel.set_visible(False)
    for panel in axes[:, 0]:
        panel.set_ylabel("share of the time, %")
    handles, names = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(parts), frameon=False, fontsize=9)
    _title(figure, group["title"], head, "above each bar: seconds of all parts in a row; below: frames")
    save_figure(figure, path)
    return True


def _stack(panel: Any, rows: Sequence[Row], parts: Sequence[str]) -> None:
    places = range(len(rows))
    sums = [sum(row["seconds"][part]["median"] for part in parts) for row in rows]
    base = [0.0] * len(rows)
    for part in parts:
        shares = [100 * row["seconds"][part]["median"] / whole for row, whole in zip(rows, sums, strict=True)]
        panel.bar(places, shares, bottom=base, color=PART_COLOURS[part], width=0.8, label=LABELS[part])
        base = [below + share for below, share in zip(base, shares, strict=True)]
    for place, row in zip(places, rows, strict=True):
        panel.text(place, 101, f"{row['seconds']['total']['median']:.2g}", ha="center", va="bottom", fontsize=7)
    panel.set_ylim(0, 100)
    panel.set_xticks(places, [f"{row['frames']:,}" for row in rows], fontsize=8)
    panel.spines[["top", "right"]].set_visible(False)


def _style(number: int) -> dict[str, Any]:
    """Of a label's line: open marks of its own shape, and thinner the later it is drawn, so that lines in one place all show."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKS[number % len(MARKS)],
        "markersize": 6,
        "markerfacecolor": "none",
        "linewidth": max(0.9, 2.7 - 0.45 * number),
    }


def _title(figure: Any, title: str, head: str, told: str) -> None:
    width = int(12 * figure.get_figwidth())  # letters of that size in a line
    figure.suptitle("\n".join([title, *textwrap.wrap(head, width), told]), fontsize=10)
