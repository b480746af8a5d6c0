"""The page, the numbers and the plot of a run of the operator benchmark."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from operators_plot import draw_curve
from operators_targets import median, ratio, targets

from tstar.reports.measured_cost import GIB

Row = Sequence[str]


def write_report(folder: Path, content: Mapping[str, Any], date: str | None = None) -> list[Path]:
    """Write ``operators.md``, ``operators.json`` and, where the curve was measured, ``operators.png``.

    Args:
        folder: made if need be.
        content: settings, machine and sections, as :class:`Store` in ``operators.py`` has them.
        date: goes into the page as it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    numbers, page, plot = (folder / f"operators.{ending}" for ending in ("json", "md", "png"))
    numbers.write_text(json.dumps(content, indent=1) + "\n")
    written = [numbers, page]
    if "curve" in content["sections"]:
        draw_curve(content["sections"]["curve"], content["machine"], plot)
        written.append(plot)
    page.write_text(markdown(content, date))
    return written


def markdown(content: Mapping[str, Any], date: str | None = None) -> str:
    sections = content["sections"]
    parts = [_head(content, date), _targets(sections)]
    parts += [write(sections[name]) for name, write in WRITERS.items() if name in sections]
    return "\n\n".join(parts) + "\n"


def _head(content: Mapping[str, Any], date: str | None) -> str:
    here, settings = content["machine"], content["settings"]
    options = f"{'--quick ' if settings['quick'] else ''}--threads {here['threads']} --seed {settings['seed']}"
    options += "" if settings["quick"] else f" --seconds {settings['seconds']:g}"
    versions = ", ".join(f"{name} {version}" for name, version in here["versions"].items())
    lines = [
        "# Speed and memory of the operators",
        "",
        "How fast are the operators and the layers built of them, beside the machine's own limits and beside transformers?",
        "",
        f"    python benchmarks/operators.py {options} --report reports",
        "",
        f"- CPU: {here['cpu']}, {here['cores']} cores, {here['threads']} threads, {here['memory_gib']} GiB; "
        f"{', '.join(here['instructions'])}; {here['system']}",
        f"- Versions: {versions}",
        f"- Seed {settings['seed']}; each measurement about {settings['seconds']:g} s after calls that do not count. Times "
        "are medians with the quickest and the slowest call; what is compared was measured in turns. Peaks are of one call "
        "in a process of its own, beyond what the process held before it.",
    ]
    if date:
        lines.append(f"- {date}")
    if settings["quick"]:
        lines += ["", "**Toy sizes: this page shows that the benchmark runs, and none of its numbers means anything.**"]
    return "\n".join(lines)


def _targets(sections: Mapping[str, Any]) -> str:
    rows: list[Row] = []
    remarks: dict[str, list[str]] = {}  # by what explains them: one sentence may explain several
    for target in targets():
        value = target.measured(sections)
        unit = f" {target.unit}" if target.unit else ""
        aim = f"{target.sense} {target.limit:g}{unit}"
        if value is None:
            rows.append((target.label, aim, "not measured", ""))
            continue
        rows.append((target.label, aim, f"{value:.3g}{unit}", "yes" if target.met(value) else "**no**"))
        if not target.met(value):
            text = f"{target.label}: {value:.3g}{unit}, {aim} wanted."
            why = target.remark(sections)
            remarks.setdefault(why or text, []).append(text if why else "")
    text = "## Targets\n\n" + table(("target", "aim", "measured", "met"), rows)
    if remarks:
        text += "\n\nMissed:\n\n" + "\n".join(
            f"- {' '.join([*missed, why]).strip()}" for why, missed in remarks.items()
        )
    return text


def _machine(section: Any) -> str:
    rows = [(name, ms(timing)) for name, timing in section["times"].items()]
    rates = ", ".join(f"{name} {rate:.1f} GB/s" for name, rate in section["copy_gb_s"].items())
    return (
        "## The machine\n\nThree arrays [L, I] in fp32 are copied into arrays that exist, and into new ones, which the "
        "system has to give first, as it has for any operator's result; bytes read and written both count.\n\n"
        + table(("work", "ms"), rows)
        + f"\n\nCopying: {rates}. Matrix products: fp32 {section['matmul_fp32_gflop_s']:.0f} GFLOP/s, "
        f"bf16 {section['matmul_bf16_gflop_s']:.0f} GFLOP/s. `torch.exp`: {section['exp_g_s']:.2f} · 10⁹ a second."
    )


def _operator(title: str, section: Any, kinds: Sequence[str], copies: str) -> str:
    """Table of an operator: a row for every type, backend and kind; ``copies`` names what it is set beside, if anything."""
    header = ["type", "backend", "forward, ms", "forward and backward, ms", "both over forward"]
    if copies:
        header += [f"forward over {copies} into existing", "into new"]
    rows: list[Row] = []
    for name, times in section["times"].items():
        for backend in ("cpu", "torch"):
            for kind in kinds:
                key = f"{backend} {kind}".strip()
                forward, both = f"{key} forward", f"{key} both"
                row = [name, key, ms(times[forward]), ms(times[both]), f"{ratio(times, both, forward):.2f}"]
                if copies:
                    row += [f"{ratio(times, forward, f'copy into {k}'):.2f}" for k in ("existing", "new")]
                rows.append(row)
        rows += [(name, k, ms(times[k]), *[""] * (len(header) - 3)) for k in times if k.startswith("copy")]
    shape = next(f"{key.replace('_', ', ')} = {value}" for key, value in section.items() if isinstance(value, list))
    return f"## {title}\n\n{shape}\n\n" + table(header, rows)


def _scan(section: Any) -> str:
    text = _operator("Selective scan", section, ("bare", "fused"), "three copies")
    beside = section["beside_transformers"]
    text += "\n\nBare: u, step, A, B, C. Fused: also softplus of the step with its bias, skip and gate."
    text += f"\n\nBeside transformers in fp32, forward, at L = {beside['length']}{_shortened(beside)}:\n\n"
    if not beside["scan_alone"]:
        text += "The installed version has no scan that can be called by itself, so only whole layers are compared.\n\n"
    return text + _comparison(beside["times"])


def _ssd(section: Any) -> str:
    text = _operator("State-space dual scan", section, ("",), "")
    beside = section["beside_transformers"]
    text += f"\n\nA whole Mamba-2 layer beside transformers', same weights, forward, at L = {beside['length']}{_shortened(beside)}:"
    rows = [
        (
            name,
            f"{p['tstar'] / 2**20:.1f}",
            f"{p['transformers'] / 2**20:.1f}",
            f"{p['tstar'] / max(p['transformers'], 1):.3f}",
        )
        for name, p in beside["peak_bytes"].items()
    ]
    header = ("type", "peak of tstar, MiB", "of transformers", "ratio")
    return text + "\n\n" + _comparison(beside["times"]) + "\n\n" + table(header, rows)


def _conv(section: Any) -> str:
    return _operator("Causal convolution", section, ("",), "one copy") + "\n\nWith bias and SiLU."


def _stack(section: Any) -> str:
    rows = [
        (
            name,
            ms(run["time"]),
            f"{100 * run['product_share']:.1f} % of {1e3 * run['profiled_s']:.0f}",
            f"{run['peak_bytes'] / GIB:.2f}",
            f"{run['matmul_bf16_gflop_s']:.0f}",
        )
        for name, run in section["runs"].items()
    ]
    header = (
        "machine",
        "ms",
        "share of matrix products, of ms profiled",
        "peak beyond weights, GiB",
        "bf16 products, GFLOP/s",
    )
    limited = "; ".join(
        f"{name}: {', '.join(f'`{k}={v}`' for k, v in run['environment'].items())}"
        for name, run in section["runs"].items()
        if run["environment"]
    )
    return (
        f"## The stack on one clip\n\n{section['layers']} layers, {section['frames']} frames = {section['positions']} "
        f"positions, bf16 autocast, no gradients. The share is of own times in a profile of one call. {limited}.\n\n"
        + table(header, rows)
    )


def _length(section: Any) -> str:
    text = (
        f"## The stack against length\n\n{section['layers']} layers; exponents by least squares, time a position in µs."
    )
    for name, run in section["runs"].items():
        rows = [
            (str(r["frames"]), str(r["positions"]), ms(r["time"]), f"{1e6 * r['time']['median'] / r['positions']:.2f}")
            for r in run["rows"]
        ]
        title = f"\n\n{name[0].upper()}{name[1:]}: exponent {run['slope']:.3f}.\n\n"
        text += title + table(("frames", "positions", "ms", "µs a position"), rows)
    return text


def _train(section: Any) -> str:
    return (
        f"## A training step\n\nThe whole compressor, {section['layers']} layers, {section['frames']} frames, bf16 autocast, "
        "layers computed again in the backward pass (gradient checkpointing), no optimiser: forward and backward take "
        f"{ms(section['time'])} ms; peak beyond the weights, gradients included, {section['peak_bytes'] / GIB:.2f} GiB "
        f"(weights {section['weights_bytes'] / GIB:.2f} GiB)."
    )


def _curve(section: Any) -> str:
    names = list(dict.fromkeys(name for row in section["rows"] for name in [*row["times"], *row["left_out"]]))
    rows = [
        (str(row["length"]), *(ms(row["times"][n]) if n in row["times"] else row["left_out"].get(n, "") for n in names))
        for row in section["rows"]
    ]
    return (
        "## Selective scan against length\n\n![time against length](operators.png)\n\nBare scan in fp32, ms. The dashed line "
        "is the time to move its inputs and its output once at the rate of copying into new arrays; the dotted one that of one "
        "exponential for each position, channel and state at `torch.exp`'s rate.\n\n" + table(("L", *names), rows)
    )


WRITERS: dict[str, Callable[[Any], str]] = {
    "machine": _machine,
    "scan": _scan,
    "ssd": _ssd,
    "conv": _conv,
    "stack": _stack,
    "length": _length,
    "train": _train,
    "curve": _curve,
}


def _comparison(times: Mapping[str, Any]) -> str:
    rows = [
        (
            name,
            ms(pair["tstar"]),
            ms(pair["transformers"]),
            f"{median(pair, 'transformers') / median(pair, 'tstar'):.1f}",
        )
        for name, pair in times.items()
    ]
    return table(("what", "tstar, ms", "transformers, ms", "times faster"), rows)


def _shortened(beside: Mapping[str, Any]) -> str:
    if beside["length"] == beside["wanted"]:
        return ""
    return f" (transformers' does not fit into this machine's memory at {beside['wanted']})"


def ms(timing: Mapping[str, Any]) -> str:
    """Median and spread in milliseconds, three digits or all whole ones."""
    median, low, high = (1e3 * timing[name] for name in ("median", "low", "high"))
    digits = 0 if median >= 100 else 1 if median >= 10 else 2
    return f"{median:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def table(header: Row, rows: Sequence[Row]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
