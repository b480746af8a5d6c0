"""Pictures of a measured table: accuracy against visual tokens, and against frames where a model has several rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tstar.reports.curves import pyplot

Numbers = dict[str, Any]
MEAN = "mean"


def accuracy_by_tokens(results: Numbers, path: Path) -> bool:
    """Every measured row at its tokens, a colour a category, with its interval; False, and no file, where nothing was measured."""
    rows = _measured(results)
    if not rows:
        return False
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(8.6, 5.4), constrained_layout=True)
    categories = list(dict.fromkeys(row["category"] for row in rows))
    for number, category in enumerate(categories):
        own = [row for row in rows if row["category"] == category]
        axis.errorbar(
            [row["tokens"] for row in own],
            [100 * row["summary"][MEAN]["mean"] for row in own],
            yerr=_errors(own),
            fmt="o",
            color=f"C{number % 10}",
            markersize=6,
            capsize=2,
            elinewidth=0.8,
            label=category,
        )
    for row in rows:
        place = row["tokens"], 100 * row["summary"][MEAN]["mean"]
        axis.annotate(row["model"], place, xytext=(5, 3), textcoords="offset points", fontsize=6.5)
    axis.set_xscale("log")
    _dress(axis, results, "visual tokens of a whole video (logarithmic)")
    axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True


def accuracy_by_frames(results: Numbers, path: Path) -> bool:
    """Models with several measured rows, a line each; False, and no file, where there is none."""
    rows = _measured(results)
    models = [m for m in dict.fromkeys(row["model"] for row in rows) if [row["model"] for row in rows].count(m) > 1]
    if not models:
        return False
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(7.2, 4.6), constrained_layout=True)
    for number, model in enumerate(models):
        own = sorted((row for row in rows if row["model"] == model), key=lambda row: row["frames"])
        axis.errorbar(
            [row["frames"] * 1.01 ** (number - len(models) / 2) for row in own],  # side by side, not over one another
            [100 * row["summary"][MEAN]["mean"] for row in own],
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
    axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True


def accuracy_on_grid(results: Numbers, path: Path) -> bool:
    """A cell for every pair of two settings, darker the better; False, and no file, where the rows are no grid."""
    rows = [row for row in _measured(results) if row["grid"]]
    if not rows:
        return False
    plt = pyplot()
    across, down = (sorted({row["grid"][axis] for row in rows}) for axis in (1, 0))
    figure, axis = plt.subplots(figsize=(1.6 * len(across) + 2.2, 1.0 * len(down) + 2.0), constrained_layout=True)
    values = [[float("nan")] * len(across) for _ in down]
    for row in rows:
        values[down.index(row["grid"][0])][across.index(row["grid"][1])] = 100 * row["summary"][MEAN]["mean"]
    image = axis.imshow(values, cmap="viridis", aspect="auto")
    for row in rows:
        place = across.index(row["grid"][1]), down.index(row["grid"][0])
        text = f"{100 * row['summary'][MEAN]['mean']:.1f}\n{row['tokens']} tokens"
        shade = image.norm(100 * row["summary"][MEAN]["mean"])
        axis.text(*place, text, ha="center", va="center", fontsize=8, color="black" if shade > 0.6 else "white")
    axis.set_xticks(range(len(across)), [str(value) for value in across])
    axis.set_yticks(range(len(down)), [str(value) for value in down])
    axis.set_ylabel(f"{results['grid'][0]} (of the published scale)")
    axis.set_xlabel(results["grid"][1])
    axis.set_title(f"{results['title']}\naccuracy in percent, mean over suites", fontsize=10.5)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True


def _measured(results: Numbers) -> list[Numbers]:
    return [row for row in results["rows"] if MEAN in row["summary"]]


def _errors(rows: Sequence[Numbers]) -> list[list[float]]:
    """Below and above the mean, in points: the interval of one seed, or the deviation over several. [2, n]"""
    below, above = [], []
    for row in rows:
        own = row["summary"][MEAN]
        low, high = own.get("interval") or (own["mean"] - (own["sd"] or 0.0), own["mean"] + (own["sd"] or 0.0))
        below.append(100 * (own["mean"] - low))
        above.append(100 * (high - own["mean"]))
    return [below, above]


def _dress(axis: Any, results: Numbers, x_label: str) -> None:
    seeds = max(len(row["seeds"]) for row in results["rows"])
    bars = "bars: 95% interval over videos, one seed" if seeds == 1 else f"bars: standard deviation over {seeds} seeds"
    axis.set_title(f"{results['title']}\n{bars}", fontsize=10.5)
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
