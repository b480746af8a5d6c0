"""The page and numbers of the data benchmark."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

GIB = 2**30


def write_report(folder: Path, content: Mapping[str, Any]) -> list[Path]:
    """Write ``data.md`` and ``data.json`` into ``folder``, made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers, page = folder / "data.json", folder / "data.md"
    numbers.write_text(json.dumps(content, indent=1) + "\n")
    page.write_text(markdown(content))
    return [numbers, page]


def markdown(content: Mapping[str, Any]) -> str:
    """The page."""
    here, settings = content["machine"], content["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in here["versions"].items())
    quick = "--quick " if settings["quick"] else ""
    lines = [
        "# What data costs",
        "",
        f"`python benchmarks/data.py {quick}--workers {settings['workers']} --seed {settings['seed']} --report DIR`",
        "",
        f"{here['cpu']}, {here['cores']} cores, {here['memory_gib']} GiB; {versions}.",
        "Every ratio is of two things measured in turns in one run; times are medians.",
    ]
    for part, title in TITLES.items():
        section = content["sections"].get(part)
        if section is not None:
            lines += ["", f"## {title}", "", *(f"- {line}" for line in summary(part, section))]
    return "\n".join(lines) + "\n"


TITLES = {
    "stream": "Streaming shards of JPEG frames",
    "shard": "Making shards",
    "memory": "Memory of storing one video",
    "decodes": "Memory over many decodes",
    "annotations": "Reading annotations",
    "fit": "Waiting for data while training",
}


def summary(part: str, section: Mapping[str, Any]) -> list[str]:
    """A part in lines."""
    return {
        "stream": _stream,
        "shard": _shard,
        "memory": _memory,
        "decodes": _decodes,
        "annotations": _annotations,
        "fit": _fit,
    }[part](section)


def _median(section: Mapping[str, Any], name: str) -> float:
    return section["times"][name]["median"]


def _stream(section: Mapping[str, Any]) -> list[str]:
    lines = []
    for name in section["times"]:
        if name.startswith("stream "):
            workers = name.split()[1]
            ours, bare, pillow = (_median(section, f"{of} {workers}") for of in ("stream", "bare", "pillow"))
            lines.append(
                f"{workers} workers: {section['frames'] / ours:,.0f} frames/s to finished batches; a bare loop of Pillow decodes "
                f"{section['frames'] / pillow:,.0f}: {pillow / ours:.0%} of its rate (target 80 %); one of torchvision's decoder "
                f"that writes each picture over the last {section['frames'] / bare:,.0f}: {bare / ours:.0%}"
            )
    tars, files, bare = _median(section, "read tars"), _median(section, "read files"), _median(section, "bare 0")
    lines.append(
        f"reading out of tars, checksums and JSON included: {section['bytes'] / tars / 1e6:,.0f} MB/s, loose files "
        f"{section['bytes'] / files / 1e6:,.0f} MB/s; the difference is {(tars - files) / bare:.1%} of decoding (target 10 %)"
    )
    return lines


def _shard(section: Mapping[str, Any]) -> list[str]:
    ours, bare = _median(section, "shard"), _median(section, "bare")
    return [
        f"{section['videos'] / ours:.2f} videos/s, {section['videos'] / bare:.2f} by bare decord and JPEG in as many processes: "
        f"{bare / ours:.0%} of its rate (target 85 %)",
        f"largest process {section['largest_process_bytes'] / GIB:.2f} GiB (target 1.5)",
    ]


def _memory(section: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{row['seconds']:,.0f} s of {row['size'][0]} x {row['size'][1]}, {row['frames']} frames kept: "
        f"{row['peak_bytes'] / GIB:.3f} GiB beyond what the process held, {row['taken']:.1f} s"
        for row in section["videos"]
    ]
    return [*lines, f"largest process {section['largest_process_bytes'] / GIB:.2f} GiB (target 1.5)"]


def _decodes(section: Mapping[str, Any]) -> list[str]:
    return [
        f"{decoder}: {sizes[0] / 2**20:.1f} MiB after {section['decodes'] // 10:,} decodes, {sizes[-1] / 2**20:.1f} MiB after "
        f"{section['decodes']:,}"
        for decoder, sizes in section["resident_bytes"].items()
    ]


def _annotations(section: Mapping[str, Any]) -> list[str]:
    size, peak = section["bytes"] / 1e9, section["largest_process_bytes"] / GIB
    return [
        f"{section['records']:,} records, {size:.2f} GB: read and checked in {section['seconds']:.1f} s, with the box filter in "
        f"{section['seconds_filtered']:.1f} s (target 60), laid out over shards in {section['seconds_layout']:.1f} s more",
        f"largest size of the process {peak:.2f} GiB, the file's mapped pages included (target 3)",
    ]


def _fit(section: Mapping[str, Any]) -> list[str]:
    shares = {name: row["waited"] / row["epoch"] for name, row in section.items()}
    return [
        f"{name}: {row['waited']:.2f} of {row['epoch']:.1f} s, {shares[name]:.1%} (target 5 %), {row['steps']} steps"
        for name, row in section.items()
    ]
