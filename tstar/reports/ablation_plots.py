"""Pictures of a measured table: accuracy against visual tokens, and against frames where a model has several rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tstar.reports.curves import plain_ticks, pyplot, save_figure

Numbers = dict[str, Any]
MEAN = "mean"


def accuracy_by_tokens(results: Numbers, path: Path) -> bool:
    """Every measured row at its tokens, a colour a category, with its interval; rows of one model are joined by a line.

    Returns:
        False, and no file is written, where nothing was measured.
    """
    rows = _measured(results)
    if not rows:
        return False
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(11.5, 6.2), constrained_layout=True)
    categories = list(dict.fromkeys(row["category"] for row in rows))
    places = _side_by_side(rows)
    for model in dict.fromkeys(row["model"] for row in rows):
        own = sorted((row for row in rows if row["model"] == model), key=lambda row: row["tokens"])
        axis.errorbar(
            [places[row["name"]] for row in own],
            [_mean(row) for row in own],
            yerr=_errors(own),
            fmt="o-",
            color=f"C{categories.index(own[0]['category']) % 10}",
            markersize=5,
            capsize=2,
            elinewidth=0.7,
            linewidth=1,
        )
    for number, category in enumerate(categories):
        axis.plot([], [], "o", color=f"C{number % 10}", label=category)
    axis.set_xscale("log")
    plain_ticks(axis.xaxis)
    _dress(axis, results, "visual tokens of a whole video (logarithmic)")
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    axis.margins(x=0.12)  # for the names
    _name_points(axis, rows, categories)
    save_figure(figure, path)
    return True


def _side_by_side(rows: Sequence[Numbers]) -> dict[str, float]:
    """Where each row is drawn: rows of as many tokens a little apart, lest their bars hide one another."""
    places: dict[str, float] = {}
    for tokens in {row["tokens"] for row in rows}:
        own = [row["name"] for row in rows if row["tokens"] == tokens]
        places |= {name: tokens * 1.012 ** (number - (len(own) - 1) / 2) for number, name in enumerate(own)}
    return places


def _name_points(axis: Any, rows: Sequence[Numbers], categories: Sequence[str]) -> None:
    """Every model's name beside its last point, at the nearest height where it covers no other name."""
    from matplotlib.patheffects import withStroke

    axis.figure.canvas.draw()  # only now are sizes known
    low, high = axis.get_window_extent().intervaly
    last = {row["model"]: row for row in sorted(rows, key=lambda row: row["tokens"])}
    places = _side_by_side(rows)
    taken: list[Any] = []
    for row in sorted(last.values(), key=_mean):
        name = row["model"] if row["same_as"] is None else f"{row['model']} = {row['same_as']}"
        text = axis.annotate(
            name,
            (max(places[other["name"]] for other in rows if other["tokens"] == row["tokens"]), _mean(row)),
            xytext=(5, -2),
            textcoords="offset points",
            fontsize=6.5,
            color=f"C{categories.index(row['category']) % 10}",
            path_effects=[withStroke(linewidth=2.5, foreground="white")],  # over the bars of others
            zorder=5,
        )
        text.set_in_layout(False)  # else the axes would shrink once more, for names that reach out of them
        box = text.get_window_extent()
        step = 1.05 * box.height  # touching counts as overlapping
        for up in sorted(range(-2 * len(last), 2 * len(last) + 1), key=abs):
            moved = box.translated(0, up * step)
            free = not any(moved.overlaps(other) for other in taken)
            if free and low <= moved.y0 and moved.y1 <= high:
                text.set_position((5, -2 + up * step * 72 / axis.figure.dpi))
                box = moved
                break
        taken.append(box)


def accuracy_by_frames(results: Numbers, path: Path) -> bool:
    """Models with several measured rows, a line each; False, and no file, where there is none."""
    rows = _measured(results)
    models = [m for m in dict.fromkeys(row["model"] for row in rows) if [row["model"] for row in rows].count(m) > 1]
    if not models:
        return False
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(9.4, 4.8), constrained_layout=True)
    for number, model in enumerate(models):
        own = sorted((row for row in rows if row["model"] == model), key=lambda row: row["frames"])
        axis.errorbar(
            [row["frames"] * 1.01 ** (number - len(models) / 2) for row in own],  # side by side, not over one another
            [_mean(row) for row in own],
            yerr=_errors(own),
            fmt="o-",
            color=f"C{number % 10}",
            markersize=5,
            capsize=2,
            elinewidth=0.8,
            label=own[0]["label"],
        )
    axis.set_xscale("log", base=2)
    frames = sorted({row["frames"] for row in rows if row["model"] in models})
    axis.set_xticks(frames, [str(count) for count in frames])
    axis.minorticks_off()
    _dress(axis, results, "frames of a video, at most")
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    save_figure(figure, path)
    return True


def accuracy_on_grid(results: Numbers, path: Path) -> bool:
    """A cell for every pair of two settings, brighter the better; False, and no file, where the rows are no grid."""
    rows = [row for row in _measured(results) if row["grid"]]
    if not rows:
        return False
    plt = pyplot()
    across, down = (sorted({row["grid"][axis] for row in rows}) for axis in (1, 0))
    figure, axis = plt.subplots(figsize=(1.6 * len(across) + 3.4, 1.0 * len(down) + 2.0), constrained_layout=True)
    values = [[float("nan")] * len(across) for _ in down]
    for row in rows:
        values[down.index(row["grid"][0])][across.index(row["grid"][1])] = _mean(row)
    image = axis.imshow(values, cmap="viridis", aspect="auto")
    figure.colorbar(image, ax=axis, label="accuracy in percent, mean over suites")
    for row in rows:
        place = across.index(row["grid"][1]), down.index(row["grid"][0])
        (below,), (above,) = _errors([row])
        width = f" ± {max(below, above):.1f}" if row["summary"][MEAN].get("interval") else ""
        text = f"{_mean(row):.1f}{width}\n{row['tokens']} tokens"
        shade = image.norm(_mean(row))
        axis.text(*place, text, ha="center", va="center", fontsize=8, color="black" if shade > 0.6 else "white")
    axis.set_xticks(range(len(across)), [str(value) for value in across])
    axis.set_yticks(range(len(down)), [str(value) for value in down])
    axis.set_ylabel(f"{results['grid'][0]} (of the published scale)")
    axis.set_xlabel(results["grid"][1])
    chance = f", chance {100 * results['chance'][MEAN]:.1f}" if MEAN in results["chance"] else ""
    axis.set_title(f"{results['title']}\n± half of the 95% interval {_over(rows)}{chance}", fontsize=10.5)
    save_figure(figure, path)
    return True


def _measured(results: Numbers) -> list[Numbers]:
    return [row for row in results["rows"] if MEAN in row["summary"]]


def _mean(row: Numbers) -> float:
    """The mean over suites in percent."""
    return float(100 * row["summary"][MEAN]["mean"])


def _errors(rows: Sequence[Numbers]) -> list[list[float]]:
    """How far the interval reaches below and above the mean, in points; 0 where nothing counted. [2, n]"""
    below, above = [], []
    for row in rows:
        own = row["summary"][MEAN]
        low, high = own.get("interval") or (own["mean"], own["mean"])
        below.append(100 * max(0.0, own["mean"] - low))
        above.append(100 * max(0.0, high - own["mean"]))
    return [below, above]


def _over(rows: Sequence[Numbers]) -> str:
    """What the intervals of these rows are over."""
    lone = all(len(row["seeds"]) == 1 for row in rows if row["seeds"])
    return "over videos, one seed" if lone else "over videos and, of several seeds, over seeds"


def _dress(axis: Any, results: Numbers, x_label: str) -> None:
    for label, height, style in (
        ("chance", results["chance"].get(MEAN), ":"),
        ("without the video, mean over models", (results["blind"].get(MEAN) or {}).get("mean"), "--"),
    ):
        if height is not None:
            axis.axhline(100 * height, color="0.45", linestyle=style, linewidth=1, label=label, zorder=0)
    axis.set_title(f"{results['title']}\nbars: 95% interval {_over(results['rows'])}", fontsize=10.5)
    axis.set_xlabel(x_label)
    axis.set_ylabel("accuracy in percent, mean over suites")
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


PLOTS = (
    ("accuracy_tokens.png", accuracy_by_tokens),
    ("accuracy_frames.png", accuracy_by_frames),
    ("accuracy_grid.png", accuracy_on_grid),
)
"""File names and what draws them, where the rows allow it."""
