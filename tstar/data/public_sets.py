"""The public training sets: which files they are, how many records they should hold, and which of those are trained on.

Sizes are those that the sets were published with; a file of another size is read all the same, and said to be other.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tstar.data.annotations import Record
from tstar.errors import ConfigError, DataError, suggest

BASE_SEED = 2025
BASE_SIZE = 131_000

_NUMBER = r"\s*(?:0(?:\.\d+)?|\.\d+|1(?:\.0*)?)\s*"
_BOX = re.compile(rf"\[(?=[^\]]*\.){_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")
_REGION = re.compile(
    r"bounding[ -]box(?:es)? coordinate|coordinates? of the bounding[ -]box|for this region", re.IGNORECASE
)
_LENGTHS = r"(?:0_30_s|30_60_s|1_2_m|2_3_m)"
_FOLDER = re.compile(rf"{_LENGTHS}_(?:academic_v0_1|youtube_v0_1|activitynetqa|activitynet|nextqa|perceptiontest)")
_KIND = re.compile(r"_(cap|oe|mc)(?=_|$)")


@dataclass(frozen=True)
class SourceFile:
    """One annotation file of a set."""

    path: Path
    stratum: str = ""
    """Folder and kind, for sets that are drawn evenly."""
    prefix: str = ""
    """What its media paths lack to start from the media folder."""


@dataclass(frozen=True, kw_only=True)
class RecordSet:
    """How the records of one set are found and chosen."""

    name: str
    source: str
    """What is given as SOURCE, for people."""
    text: str
    published: int | None = None
    """Records in the published files."""
    kept: int | None = None
    """Of those, how many are left by the published composition, about."""
    drop: Callable[[Record], str | None] | None = None
    """Reason for leaving a record out, or None."""
    mend: bool = False
    kinds: frozenset[str] | None = None
    """Kinds of files of a folder: cap (captions), oe (open-ended), mc (multiple choice). None: SOURCE is files, not a folder."""
    draw: int | None = None
    """So many records are drawn, from folders and kinds in proportion."""

    def files(self, sources: list[Path]) -> list[SourceFile]:
        """The annotation files that ``sources`` name.

        Raises:
            DataError: a source is missing, a file where a folder is wanted or the other way round, or a folder holds none.
        """
        if self.kinds is None:
            for source in sources:
                if source.is_dir():
                    raise DataError(f"{source} is a folder; --set {self.name} reads {self.source}")
            return [SourceFile(source) for source in sources]
        found = [file for source in sources for file in _video_files(source, self.kinds, self.name)]
        if not found:
            raise DataError(
                f"no annotation files of {', '.join(sorted(self.kinds))} below {', '.join(map(str, sources))}; "
                f"--set {self.name} reads {self.source}"
            )
        return found


def _video_files(source: Path, kinds: frozenset[str], name: str) -> list[SourceFile]:
    """Files of LLaVA-Video-178K below a folder, in the order of their paths; those of other folders (LLaVA-Hound) are not its."""
    if not source.is_dir():
        raise DataError(f"--set {name} reads the folder of LLaVA-Video-178K with its subfolders, and {source} is none")
    found = []
    for path in sorted(source.rglob("*.json*")):
        folder, kind = _FOLDER.search(path.relative_to(source).as_posix()), _KIND.findall(path.stem)
        if folder and kind and kind[-1] in kinds and path.suffix in (".json", ".jsonl"):
            found.append(SourceFile(path, f"{folder.group()}/{kind[-1]}", path.parent.relative_to(source).as_posix()))
    return found


def about_boxes(record: Record) -> str | None:
    """Whether a record is about detection (paper section 6; the rule is ours): Visual Genome's regions, four decimals of a box, or
    a question for boxes or about a region."""
    if record.media.startswith("vg/"):
        return "region of Visual Genome"
    for turn in record.conversations:
        text = turn["value"]
        if "[" in text and _BOX.search(text):
            return "box in the text"
        if turn["from"] == "human" and _REGION.search(text):
            return "question about a box"
    return None


def about_boxes_or_flan(record: Record) -> str | None:
    """As :func:`about_boxes`, and what comes from Vision-Flan."""
    return "Vision-Flan" if "vflan" in record.media or "vision_flan" in record.media.lower() else about_boxes(record)


_ALL = frozenset({"cap", "oe", "mc"})
_178K = "the folder of LLaVA-Video-178K (subfolders 0_30_s_academic_v0_1, ...)"
SETS: dict[str, RecordSet] = {
    s.name: s
    for s in (
        RecordSet(name="plain", source="files in the LLaVA form", text="every record of your own files"),
        RecordSet(
            name="llava_pretrain",
            source="blip_laion_cc_sbu_558k.json",
            text="LLaVA-Pretrain: captions for alignment",
            published=558_128,
        ),
        RecordSet(
            name="llava_instruct",
            source="llava_instruct_150k.json",
            text="LLaVA-Instruct-150K: conversations about COCO pictures",
            published=157_712,
        ),
        RecordSet(
            name="llava_mix665k",
            source="llava_v1_5_mix665k.json",
            text="LLaVA-1.5's mixture without detection and boxes",
            published=665_298,
            kept=531_000,
            drop=about_boxes,
            mend=True,
        ),
        RecordSet(
            name="elva_substitute",
            source="llava_v1_5_mix665k.json",
            text="stands in for the Elva mixture, whose list is not published: the same without boxes and Vision-Flan",
            published=665_298,
            kept=531_000,
            drop=about_boxes_or_flan,
            mend=True,
        ),
        RecordSet(
            name="llava_video_178k",
            source=_178K,
            text="captions, open-ended and multiple-choice questions of all folders but LLaVA-Hound",
            kinds=_ALL,
        ),
        RecordSet(
            name="llava_video_base",
            source=_178K,
            text=f"{BASE_SIZE:,} of its questions, drawn evenly from folders and kinds with seed {BASE_SEED}, no captions",
            kinds=_ALL - {"cap"},
            draw=BASE_SIZE,
        ),
    )
}


def get_set(name: str) -> RecordSet:
    """A set by name; :class:`ConfigError` if there is none."""
    if name not in SETS:
        raise ConfigError(f"--set: unknown set '{name}'{suggest(name, SETS)}")
    return SETS[name]
