"""``tstar miniature-models``: train the miniature's frozen parts from a fixed seed, and examine them."""

import argparse
import json
import os
import platform
import shlex
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from tstar.cli.progress import bar, say
from tstar.data.cores import usable_cores
from tstar.data.miniature import COURSES, lessons
from tstar.data.miniature.captioned import GROUP, captioned_group
from tstar.data.miniature.seeds import item_rng
from tstar.errors import ConfigError, DataError

PARTS = ("vision", "language")
CARD = "card.json"
GROUPS = 16
"""Groups of pictures in a batch of the encoder's."""
FURTHER_RATE = 5e-4
"""Peak rate of the language model's last lessons; it falls over all of them."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is drawn, read and trained."""

    galleries: tuple[tuple[str, int, int], ...]
    """Of the encoder: course, groups of four pictures, steps."""
    readings: tuple[tuple[str, int, int, int], ...]
    """Of the language model: course, lessons, steps, batch size."""
    further: tuple[str, int, int, int]
    """What it reads in the end, at ``FURTHER_RATE`` and with new optimizers."""
    exam: int
    """Questions of each kind; the encoder's exams have their own sizes in proportion."""


PLANS = {
    "default": Plan(
        galleries=(("shapes", 8000, 1600), ("whole", 20_000, 5600)),
        readings=(
            ("look-ups", 51_200, 800, 64),
            ("letters", 60_000, 1000, 64),
            ("short", 25_600, 800, 32),
            ("whole", 115_200, 3600, 32),
        ),
        further=("counts", 32_000, 1000, 32),
        exam=1000,
    ),
    "tiny": Plan(
        galleries=(("shapes", 16, 1), ("whole", 16, 2)),
        readings=(("look-ups", 16, 1, 8), ("letters", 16, 1, 8), ("whole", 32, 1, 8)),
        further=("counts", 16, 1, 8),
        exam=12,
    ),
}


def run(arguments: argparse.Namespace) -> int:
    """Make what is missing below ``--out``; returns the exit status."""
    out, work, plan = Path(arguments.out), Path(arguments.work), PLANS[arguments.scale]
    if arguments.compile is None:
        compiler = shutil.which(shlex.split(os.environ.get("CXX") or "g++")[0])
        arguments.compile = arguments.scale != "tiny" and compiler is not None
    wanted = {part: made_of(part, plan, arguments) for part in PARTS}
    makers: dict[str, Callable[..., dict[str, Any]]] = {"vision": make_vision, "language": make_language}
    parts = arguments.part or PARTS
    cards = {part: found for part in parts if (found := _finished(out / part, wanted[part], part, arguments.overwrite))}
    for part in (part for part in parts if part not in cards):
        cards[part] = _make(part, makers[part], out, work, plan, wanted[part], arguments)
    page = write_model_card(out)
    if page is not None and not arguments.json:
        say(f"model card: {page}")
    if arguments.json:
        print(json.dumps({"out": str(out), **cards}, indent=1))
    else:
        say(f"miniature parts in {out}: {', '.join(cards)}")
    return 0


def made_of(part: str, plan: Plan, arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that a part follows from."""
    of_its_own = {"vision": ("galleries",), "language": ("readings", "further")}[part]
    return {"seed": arguments.seed, **{name: getattr(plan, name) for name in of_its_own}, "exam": plan.exam}


def write_model_card(out: Path) -> Path | None:
    """Write the page from the records of both parts, if both are there."""
    from tstar.reports.miniature_card import model_card

    records = {part: out / part / CARD for part in PARTS}
    if not all(path.is_file() for path in records.values()):
        return None
    page = out / "README.md"
    page.write_text(model_card({part: json.loads(path.read_text()) for part, path in records.items()}))
    return page


def _finished(folder: Path, wanted: dict[str, Any], part: str, overwrite: bool) -> dict[str, Any] | None:
    """The record of a part that is there already; None where it has to be made."""
    card = folder / CARD
    if not card.is_file():
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError(f"{folder} holds files but no {CARD}: give another --out, or empty the folder")
        return None
    if overwrite:
        return None
    try:
        found: dict[str, Any] = json.loads(card.read_text())
        made = found["made"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{card} cannot be read: give another --out, or --overwrite") from error
    if made != json.loads(json.dumps(wanted)):
        raise ConfigError(f"{folder} holds a {part} part made otherwise ({made}); give another --out, or --overwrite")
    return found


def _make(
    part: str,
    maker: Callable[..., dict[str, Any]],
    out: Path,
    work: Path,
    plan: Plan,
    wanted: dict[str, Any],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Train one part in ``work``, examine it, and move it to its place when it is whole."""
    own = work / part
    own.mkdir(parents=True, exist_ok=True)
    fresh = own / "finished"
    facts = maker(fresh, own, plan, arguments)
    card = {"made": wanted, **facts, "machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    card["compiled"] = arguments.compile
    card["versions"] = {name: version(name) for name in ("torch", "transformers", "open_clip_torch", "numpy")}
    (fresh / CARD).write_text(json.dumps(card, indent=1) + "\n")
    out.mkdir(parents=True, exist_ok=True)
    beside = out / f".{part}.part"  # a copy that is cut short must not look finished
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(fresh, beside)
    shutil.rmtree(out / part, ignore_errors=True)
    beside.rename(out / part)
    shutil.rmtree(own)
    return card


def make_vision(fresh: Path, work: Path, plan: Plan, arguments: argparse.Namespace) -> dict[str, Any]:
    """Draw, train, examine the encoder."""
    from tstar.reports.miniature_exams import caption_retrieval, linear_probes
    from tstar.vision.miniature import Gallery, train_miniature_encoder

    galleries = []
    for course, groups, steps in plan.galleries:
        with bar(f"pictures of {course}", "groups", quiet=arguments.json) as update:
            galleries.append(Gallery(*draw_groups(course, groups, arguments.seed, arguments.workers, update), steps))
    with bar("encoder", "steps", quiet=arguments.json) as update:
        history = train_miniature_encoder(
            fresh,
            galleries,
            group=GROUP,
            groups_per_step=GROUPS,
            seed=arguments.seed,
            state=work / "state.pt",
            progress=update,
            compiled=arguments.compile,
        )
    share = plan.exam / 1000
    return {
        "galleries": [list(gallery) for gallery in plan.galleries],
        "steps": sum(gallery.steps for gallery in galleries),
        "batch": GROUP * GROUPS,
        "seconds": round(history.seconds),
        "loss": round(history.recent(100), 4),
        "retrieval": caption_retrieval(fresh, max(4, int(128 * share)), arguments.seed),
        "probes": linear_probes(fresh, max(16, int(4000 * share)), max(8, int(1000 * share)), arguments.seed),
    }


def make_language(fresh: Path, work: Path, plan: Plan, arguments: argparse.Namespace) -> dict[str, Any]:
    """Write the lessons, train, examine the language model."""
    from tstar.language.miniature import Reading, train_miniature_language
    from tstar.nn.small_training import History, Schedule
    from tstar.reports.miniature_exams import text_exam

    def reading(name: str, course: str, count: int, steps: int, batch_size: int) -> Reading:
        return Reading(lessons(COURSES[course], count, arguments.seed, "lessons", name), steps, batch_size)

    def read(readings: list[Reading], state: str, **how: Any) -> History:
        with bar("language model", "steps", quiet=arguments.json) as update:
            return train_miniature_language(
                fresh,
                readings,
                seed=arguments.seed,
                state=work / state,
                progress=update,
                compiled=arguments.compile,
                **how,
            )

    first = read([reading(planned[0], *planned) for planned in plan.readings], "state.pt")
    schedule = Schedule(steps=plan.further[2], lr=FURTHER_RATE, decay=1.0)
    last = read([reading("further", *plan.further)], "further.pt", start=fresh, schedule=schedule)
    readings = [*plan.readings, plan.further]
    return {
        "readings": [list(reading) for reading in readings],
        "steps": sum(steps for _, _, steps, _ in readings),
        "seconds": round(first.seconds + last.seconds),
        "loss": round(last.recent(100), 4),
        "exam": text_exam(fresh, plan.exam, arguments.seed),
    }


def draw_groups(
    course: str, number: int, seed: int, workers: int | None, progress: Callable[[int, int], None]
) -> tuple[np.ndarray, list[str]]:
    """Pictures uint8 [4 * number, S, S, 3] and their captions."""
    portions = [(course, seed, first, min(number, first + 250)) for first in range(0, number, 250)]
    pictures: list[np.ndarray] = []
    captions: list[str] = []
    workers = workers or usable_cores()
    with ProcessPoolExecutor(min(workers, len(portions)), mp_context=get_context("spawn")) as pool:
        for (*_, done), (drawn, told) in zip(portions, pool.map(_draw_portion, portions), strict=True):
            pictures.append(drawn)
            captions += told
            progress(done, number)
    return np.concatenate(pictures), captions


def _draw_portion(portion: tuple[str, int, int, int]) -> tuple[np.ndarray, list[str]]:
    from tstar.data.miniature.captioned import draw

    course, seed, first, last = portion
    rngs = (item_rng(seed, "captions", course, k) for k in range(first, last))
    return draw([pair for rng in rngs for pair in captioned_group(rng, "train", course)])
