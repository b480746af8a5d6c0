"""Time of the selective scan against length, on logarithmic axes, with the lines that the machine sets."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

LABELS = {
    "transformers": "transformers, loop over positions",
    "reference": "tstar reference, loop over positions",
    "torch": "tstar torch, chunks of PyTorch operations",
    "cpu": "tstar cpu, fused kernel",
}
COLOURS = {"transformers": "#b2182b", "reference": "#ef8a62", "torch": "#4393c3", "cpu": "#053061"}


def draw_curve(section: Mapping[str, Any], machine: Mapping[str, Any], path: Path) -> None:
    """Draw section ``curve`` into a PNG."""
    from matplotlib.figure import Figure  # takes a second, and only a report needs it

    figure = Figure(figsize=(8.5, 5.2), layout="constrained")
    axes = figure.add_subplot()
    rows = section["rows"]
    for name, label in LABELS.items():
        points = [(row["length"], row["times"][name]) for row in rows if name in row["times"]]
        if not points:
            continue
        lengths, times = [length for length, _ in points], [time for _, time in points]
        axes.plot(lengths, [t["median"] for t in times], marker="o", markersize=4, color=COLOURS[name], label=label)
        axes.fill_between(
            lengths, [t["low"] for t in times], [t["high"] for t in times], color=COLOURS[name], alpha=0.2, linewidth=0
        )
    lengths = [row["length"] for row in rows]
    exponentials = [n * section["exps_per_position"] / section["exp_s"] for n in lengths]
    moved = [n * section["bytes_per_position"] / section["copy_bytes_s"] for n in lengths]
    axes.plot(lengths, exponentials, ":", color="#444444", label="its exponentials alone, torch.exp")
    axes.plot(lengths, moved, "--", color="#444444", label="its bytes alone, as new copies")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(lengths, [f"{n:,}" for n in lengths])
    inner, states = section["I_S"]
    axes.set_xlabel("positions L")
    axes.set_ylabel("seconds a call")
    axes.set_title(
        f"Selective scan, forward, fp32, {inner:,} channels × {states} states\n"
        f"{machine['cpu']}, {machine['threads']} threads", fontsize=10,
    )  # fmt: skip
    axes.grid(True, which="major", alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
