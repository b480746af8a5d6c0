"""Loss curves of the seeds of one recipe: a panel a stage, a line a seed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tstar.data.files import written_beside
from tstar.errors import ConfigError
from tstar.reports.runs import Run

SMOOTHING = 40
"""A stage's losses are averaged over windows of 1/40 of it."""


def loss_curves(group: Sequence[Run], path: Path, title: str) -> bool:
    """Write the PNG; False, and no file, where no run has losses.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    plt = pyplot()
    names = [stage.name for stage in group[0].stages]
    if not any(stage.train_loss for run in group for stage in run.stages):
        return False
    size = (max(7.0, 4.2 * len(names)), 3.8)  # the title needs its width also over a single panel
    figure, axes = plt.subplots(1, len(names), figsize=size, squeeze=False, constrained_layout=True)
    held_out = False
    for place, (name, axis) in enumerate(zip(names, axes[0], strict=True)):
        for number, run in enumerate(group):
            stage, colour = run.stages[place], f"C{number}"
            if stage.train_loss:
                steps, losses = np.array(stage.train_loss).T  # [n], [n]
                window = max(1, len(losses) // SMOOTHING)
                axis.plot(steps, smoothed(losses, window), colour, linewidth=1.4, label=f"seed {run.seed}")
            if stage.val_loss:
                held_out = True
                axis.plot(*np.array(stage.val_loss).T, colour, marker="o", linestyle="none", markersize=5)
        axis.set_title(name, fontsize=11)
        axis.set_xlabel("optimizer step")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("loss, nats a token")
    axes[0][0].legend(frameon=False, fontsize=9)
    dots = "; dots: held-out loss" if held_out else ""
    told = f"training loss, moving average over 1/{SMOOTHING} of a stage{dots}"
    figure.suptitle(f"{title}\n{told}", fontsize=11)
    save_figure(figure, path)
    return True


def save_figure(figure: Any, path: Path) -> None:
    """Write a PNG whole, whoever else draws the same one meanwhile, and close the figure."""
    with written_beside(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    pyplot().close(figure)


def smoothed(values: npt.NDArray[np.float64], window: int) -> npt.NDArray[np.float64]:
    """Mean over the ``window`` values round each one; at the ends over those of them that there are. [n] -> [n]"""
    ones = np.ones(min(window, len(values)))
    return np.convolve(values, ones, "same") / np.convolve(np.ones(len(values)), ones, "same")


def plain_ticks(axis: Any) -> None:
    """Ticks of a drawn logarithmic axis (``plot.xaxis`` or ``yaxis``) as 20, 50, 100 instead of powers of ten; few between them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = axis.get_view_interval()
    marks = (1, 2, 5) if high > 12 * low else (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)
    axis.set_major_locator(LogLocator(base=10, subs=marks, numticks=20))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def pyplot() -> Any:
    """matplotlib's drawing module, without a window; ConfigError where it is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise ConfigError("plots need matplotlib: pip install matplotlib (or reinstall tstar)") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot
