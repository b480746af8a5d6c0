"""What the operators are meant to reach, and whether the numbers of a run say that they do.

Every verdict and every remark is computed from a run's sections.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from operators_stack import LENGTH_RUNS, RUNS

from tstar.reports.measured_cost import GIB

Sections = Mapping[str, Any]
Value = Callable[[Any], "float | None"]


def _none(sections: Sections) -> str:
    return ""


@dataclass(frozen=True)
class Target:
    """One aim."""

    section: str
    label: str
    sense: Literal["at most", "at least"]
    limit: float
    unit: str
    value: Value
    """From the section; None where this run could not measure it."""
    remark: Callable[[Sections], str] = _none
    """From all sections, for a target that is missed."""

    def measured(self, sections: Sections) -> float | None:
        return self.value(sections[self.section]) if self.section in sections else None

    def met(self, value: float) -> bool:
        return value <= self.limit if self.sense == "at most" else value >= self.limit


def median(times: Mapping[str, Any], name: str) -> float:
    return times[name]["median"]


def ratio(times: Mapping[str, Any], above: str, below: str) -> float:
    return median(times, above) / median(times, below)


def _scan_remark(sections: Sections) -> str:
    times = sections["scan"]["times"]["fp32"]
    scan = median(times, "cpu bare forward")
    text = f"The scan takes {1e3 * scan:.1f} ms"
    for kind in ("existing", "new"):
        text += f", three copies into {kind} arrays {1e3 * median(times, f'copy into {kind}'):.1f} ms"
    if "machine" in sections:
        _, length, inner, states = sections["scan"]["B_L_I_S"]
        exponentials = length * inner * states / (1e9 * sections["machine"]["exp_g_s"])
        text += (
            f". Its {length * inner * states / 1e6:.0f} million exponentials alone would take {1e3 * exponentials:.1f} ms "
            f"at `torch.exp`'s rate, {exponentials / scan:.2f} of the scan's time and "
            f"{exponentials / median(times, 'copy into new'):.2f} of three copies into new arrays'"
        )
    return text + "."


def _beside_remark(sections: Sections) -> str:
    times = sections["scan"]["beside_transformers"]["times"]
    pairs = [
        f"{name} {median(t, 'transformers'):.2f} s to {1e3 * median(t, 'tstar'):.1f} ms" for name, t in times.items()
    ]
    return (
        f"transformers' times to ours, at L = {sections['scan']['beside_transformers']['length']}: {', '.join(pairs)}."
    )


def _share_remark(run: str) -> Callable[[Sections], str]:
    def remark(sections: Sections) -> str:
        measured = sections["stack"]["runs"][run]
        largest = [f"`{name}` {t:.2f} s" for name, t in list(measured["largest_own_times_s"].items())[:6]]
        return f"Of {measured['profiled_s']:.2f} s profiled, the largest own times: {', '.join(largest)}."

    return remark


def _length_remark(run: str) -> Callable[[Sections], str]:
    def remark(sections: Sections) -> str:
        rows = sections["length"]["runs"][run]["rows"]
        base = rows[0]["time"]["median"] / rows[0]["positions"]
        parts = [f"{r['frames']} frames {r['time']['median'] / r['positions'] / base:.2f}" for r in rows]
        return f"Time for each position, over that of the shortest clip: {', '.join(parts)}."

    return remark


def _train_remark(sections: Sections) -> str:
    weights = sections["train"]["weights_bytes"] / GIB
    return f"{weights:.2f} GiB of the peak are the gradients, as large as the weights."


def _over(above: str, below: str) -> Value:
    return lambda section: ratio(section["times"]["fp32"], above, below)


def _faster(name: str) -> Value:
    def value(section: Any) -> float | None:
        times = section["beside_transformers"]["times"]
        return ratio(times[name], "transformers", "tstar") if name in times else None

    return value


def _smaller(name: str) -> Value:
    def value(section: Any) -> float:
        peaks = section["beside_transformers"]["peak_bytes"][name]
        return peaks["tstar"] / max(peaks["transformers"], 1)

    return value


def _of_run(run: str, key: str, factor: float) -> Value:
    return lambda section: factor * section["runs"][run][key]


def targets() -> list[Target]:
    """All of them, in the order of the report."""
    aims = []
    for kind in ("existing", "new"):
        label = f"selective scan, fp32 forward over three copies of [L, I] into {kind} arrays"
        value = _over("cpu bare forward", f"copy into {kind}")
        aims.append(Target("scan", label, "at most", 1.7, "×", value, _scan_remark))
    for kind in ("bare", "fused"):
        label = f"selective scan, {kind}, fp32, forward and backward over forward"
        aims.append(Target("scan", label, "at most", 4, "×", _over(f"cpu {kind} both", f"cpu {kind} forward")))
    for kind in ("bare", "fused"):
        label = f"selective scan, {kind}, fp32, times faster than transformers'"
        aims.append(Target("scan", label, "at least", 150, "×", _faster(f"scan {kind}"), _beside_remark))
    for name in ("fp32", "bf16"):
        label = f"Mamba-2 layer, {name}, times faster than transformers'"
        aims.append(Target("ssd", label, "at least", 5, "×", _faster(name)))
    for name in ("fp32", "bf16"):
        label = f"Mamba-2 layer, {name}, peak memory over transformers'"
        aims.append(Target("ssd", label, "at most", 0.25, "×", _smaller(name)))
    for run in RUNS:
        label = f"stack on one clip, {run}: "
        share, peak = _of_run(run, "product_share", 100), _of_run(run, "peak_bytes", 1 / GIB)
        aims.append(Target("stack", label + "matrix products", "at least", 50, "%", share, _share_remark(run)))
        aims.append(Target("stack", label + "peak beyond weights", "at most", 1.5, "GiB", peak))
    for run in LENGTH_RUNS:
        label = f"stack, exponent of time against frames, {run}"
        aims.append(Target("length", label, "at most", 1.05, "", _of_run(run, "slope", 1), _length_remark(run)))
    label = "training step, peak beyond weights"
    return [*aims, Target("train", label, "at most", 8, "GiB", lambda s: s["peak_bytes"] / GIB, _train_remark)]
