"""Generating a world: plan every item, draw what is missing, write the annotations, and world.json last."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from tstar.data.cores import usable_cores
from tstar.data.miniature import mp4, suites, training
from tstar.data.miniature.clips import Plot
from tstar.data.miniature.config import FPS, SIZE, VERSION, WorldConfig
from tstar.data.miniature.render import render
from tstar.data.miniature.stories import NEEDLE_TYPES
from tstar.errors import ConfigError

Key = tuple[Any, ...]
"""Name of an item: family, then what its planner takes."""
_VIDEO_FILES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v")
_STARTED, _FINISHED = "config.json", "world.json"


@dataclass(frozen=True, kw_only=True)
class Medium:
    """One file of the world and what it shows."""

    path: str
    """Relative to the world's folder."""
    split: str
    plot: Plot


def user_haystacks(config: WorldConfig) -> list[Path]:
    """The user's videos that stand in for the generated haystacks, at most ``config.haystacks``."""
    if config.haystack_dir is None:
        return []
    found = sorted(p for p in Path(config.haystack_dir).iterdir() if p.suffix.lower() in _VIDEO_FILES)
    if not found:
        raise ConfigError(f"haystack_dir {config.haystack_dir} holds no video ({', '.join(_VIDEO_FILES)})")
    return found[: config.haystacks]


@lru_cache(maxsize=2)
def _source_frames(path: Path) -> np.ndarray:
    return mp4.read_haystack(path)


def haystack_name(config: WorldConfig, haystack: int) -> str:
    """``hay0003``, or the user's file name in letters, digits and dashes."""
    if config.haystack_dir is None:
        return f"hay{haystack:04d}"
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', user_haystacks(config)[haystack].stem)}-{haystack}"


def item_keys(config: WorldConfig) -> list[Key]:
    """All items of a world."""
    haystacks = len(user_haystacks(config)) if config.haystack_dir is not None else config.haystacks
    return [
        *(("images", k) for k in range(config.images)),
        *(("videos", k) for k in range(config.videos)),
        *(("val_videos", k) for k in range(config.val_videos)),
        *(("vnbench", k, kind) for k in range(haystacks) for kind in NEEDLE_TYPES),
        *(("mlvu", task, k) for task in suites.MLVU_TASKS for k in range(config.mlvu)),
        *(("videomme", duration, k) for duration in suites.DURATIONS for k in range(config.videomme)),
        *(("tempcompass", k) for k in range(config.tempcompass)),
    ]


def plan(config: WorldConfig, key: Key) -> list[Medium]:
    """The files of an item, not yet drawn."""
    family, *name = key
    if family == "images":
        return [Medium(path=f"images/{name[0]:06d}.png", split="train", plot=training.plan_image(config, *name))]
    if family in ("videos", "val_videos"):
        split = "train" if family == "videos" else "val"
        plot = training.plan_video(config, name[0], split)
        return [Medium(path=f"{family}/{name[0]:06d}.mp4", split=split, plot=plot)]
    folder = f"benchmarks/mini-{family}"
    if family == "vnbench":
        haystack, kind = name
        source = None
        if config.haystack_dir is not None:
            file = user_haystacks(config)[haystack]
            source = file.name, len(_source_frames(file))
        path = f"{folder}/VNBench/{haystack_name(config, haystack)}_{kind}.mp4"
        return [Medium(path=path, split="eval", plot=suites.plan_vnbench(config, haystack, kind, source))]
    if family == "mlvu":
        task, index = name
        path = f"{folder}/video/{task}/{suites.MLVU_TASKS[task][1]}_{index}.mp4"
        return [Medium(path=path, split="eval", plot=suites.plan_mlvu(config, task, index))]
    if family == "videomme":
        path = f"{folder}/data/{suites.videomme_name(*name)}.mp4"
        return [Medium(path=path, split="eval", plot=suites.plan_videomme(config, *name))]
    clips = suites.plan_tempcompass(config, *name)
    return [Medium(path=f"{folder}/videos/{clip}.mp4", split="eval", plot=plot) for clip, plot in clips.items()]


def draw_items(out: Path, config: WorldConfig, keys: list[Key]) -> int:
    """Draw the files of some items that are not there yet; how many files the items have (what a worker does)."""
    done = 0
    for key in keys:
        for medium in plan(config, key):
            done += 1
            path = out / medium.path
            if path.exists():  # it was renamed into place, so it is whole
                continue
            film = medium.plot.film
            source = _source_frames(Path(config.haystack_dir or "") / film.source) if film.source else None
            frames = render(film, source)
            if path.suffix == ".png":
                mp4.write_png(path, frames[0])
            else:
                mp4.write_mp4(path, frames)
    return done


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def _json_lines(records: Iterable[Any]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _json_list(records: Iterable[Any]) -> str:
    return "[\n" + ",\n".join(json.dumps(record, ensure_ascii=False) for record in records) + "\n]\n"


def _annotation_texts(config: WorldConfig, plans: dict[Key, list[Medium]]) -> tuple[dict[str, str], dict[str, int]]:
    """Text of every annotation file by path, and the number of records in each."""
    lists: dict[str, list[Any]] = {
        f"annotations/{name}.json": [] for name in ("align", "image_sft", "video_sft", "video_val")
    }
    lists["annotations/scenes.jsonl"] = []
    lists["benchmarks/mini-vnbench/VNBench-main-4try.json"] = []
    lists |= {f"benchmarks/mini-mlvu/json/{task}.json": [] for task in suites.MLVU_TASKS}
    lists["benchmarks/mini-videomme/test.jsonl"] = []
    choices: dict[str, Any] = {}
    meta: dict[str, Any] = {}
    for (family, *name), media in plans.items():
        plot = media[0].plot
        if family == "images":
            lists["annotations/align.json"].append(training.align_record(config, name[0], plot))
            lists["annotations/image_sft.json"].append(training.image_record(config, name[0], plot))
        elif family == "videos":
            lists["annotations/video_sft.json"] += training.video_records(config, name[0], plot)
        elif family == "val_videos":
            lists["annotations/video_val.json"] += training.video_records(config, name[0], plot, "val")
        elif family == "vnbench":
            records = suites.vnbench_records(config, name[0], name[1], haystack_name(config, name[0]), plot)
            lists["benchmarks/mini-vnbench/VNBench-main-4try.json"] += records
        elif family == "mlvu":
            lists[f"benchmarks/mini-mlvu/json/{name[0]}.json"].append(
                suites.mlvu_record(config, name[0], name[1], plot)
            )
        elif family == "videomme":
            lists["benchmarks/mini-videomme/test.jsonl"] += suites.videomme_records(config, name[0], name[1], plot)
        else:
            clips = {Path(medium.path).stem: medium.plot for medium in media}
            for table, part in zip((choices, meta), suites.tempcompass_records(config, name[0], clips), strict=True):
                table |= part
        for medium in media:
            scene = {"path": medium.path, "split": medium.split, "caption": medium.plot.caption, "fps": FPS}
            lists["annotations/scenes.jsonl"].append({**scene, **medium.plot.film.to_json()})
    texts = {path: (_json_lines if path.endswith("jsonl") else _json_list)(rows) for path, rows in lists.items()}
    folder = "benchmarks/mini-tempcompass"
    texts[f"{folder}/multi-choice.json"] = json.dumps(choices, indent=1) + "\n"
    texts[f"{folder}/meta_info.json"] = json.dumps(meta, indent=1) + "\n"
    counts = {path: len(rows) for path, rows in lists.items()}
    asked = sum(len(questions) for clip in choices.values() for questions in clip.values())
    return texts, {**counts, f"{folder}/multi-choice.json": asked, f"{folder}/meta_info.json": len(meta)}


def _check_folder(out: Path, wanted: dict[str, Any]) -> None:
    """Refuse a folder that holds another world, or anything that is no world."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir():
        raise ConfigError(f"{out} is a file, not a folder: give another --out")
    known = [out / name for name in (_FINISHED, _STARTED) if (out / name).exists()]
    if not known:
        raise ConfigError(f"{out} holds files but no {_FINISHED}: give another --out, or empty the folder")
    try:
        found = json.loads(known[0].read_text(encoding="utf-8"))
        theirs = {"version": found["version"], **found["config"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{known[0]} cannot be read: give another --out, or delete {out}") from error
    ours = {"version": wanted["version"], **wanted["config"]}
    other = [f"{k} {theirs.get(k)!r} there, {ours.get(k)!r} asked for" for k in ours if theirs.get(k) != ours[k]]
    if other:
        raise ConfigError(f"{out} holds another world ({'; '.join(other)}): give another --out, or delete {out}")


def _batches(keys: list[Key]) -> list[list[Key]]:
    """Items in portions of about a second's work, videos first."""
    films = [key for key in keys if key[0] != "images"]
    images = [key for key in keys if key[0] == "images"]
    return [group[k : k + step] for group, step in ((films, 4), (images, 100)) for k in range(0, len(group), step)]


def _draw_all(
    out: Path,
    config: WorldConfig,
    keys: list[Key],
    total: int,
    workers: int,
    progress: Callable[[int, int], None],
) -> None:
    done = 0
    if workers <= 1:
        for batch in _batches(keys):
            done += draw_items(out, config, batch)
            progress(done, total)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(draw_items, out, config, batch) for batch in _batches(keys)]
        try:
            for job in as_completed(jobs):
                done += job.result()
                progress(done, total)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def generate_world(
    out: Path,
    config: WorldConfig,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Generate a world in the folder ``out``, or go on with one that was interrupted.

    Processes are spawned, so a script must call this under ``if __name__ == "__main__":`` (or with one worker).

    Args:
        workers: processes; None: one for each CPU core that this process may use.
        progress: called with (files done, files in all) every second or so.

    Returns:
        The manifest, which is also the content of ``world.json``: version, config, counts, annotation hashes.

    Raises:
        ConfigError: ``out`` holds a world of another config, or something else.
    """
    out = Path(out)
    started = {"version": VERSION, "config": config.to_json()}
    _check_folder(out, started)
    if (out / _FINISHED).exists():
        manifest: dict[str, Any] = json.loads((out / _FINISHED).read_text(encoding="utf-8"))
        return manifest
    keys = item_keys(config)
    plans = {key: plan(config, key) for key in keys}
    media = [medium for group in plans.values() for medium in group]
    _write_text(out / _STARTED, json.dumps(started, indent=1) + "\n")
    for folder in {(out / medium.path).parent for medium in media}:
        folder.mkdir(parents=True, exist_ok=True)
    if workers is None:
        workers = usable_cores()
    _draw_all(out, config, keys, len(media), workers, progress or (lambda done, total: None))
    texts, records = _annotation_texts(config, plans)
    for path, text in texts.items():
        _write_text(out / path, text)
    manifest = {
        "title": "miniature world",
        **started,
        "fps": FPS,
        "size": SIZE,
        "media": len(media),
        "seconds": round(sum(m.plot.film.frames for m in media if m.path.endswith("mp4")) / FPS, 1),
        "records": records,
        "haystacks": {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in user_haystacks(config)},
        "sha256": {path: hashlib.sha256(text.encode()).hexdigest() for path, text in texts.items()},
    }
    _write_text(out / _FINISHED, json.dumps(manifest, indent=1) + "\n")
    return manifest
