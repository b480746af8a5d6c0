"""Lists of media that cannot be used, so that a second set does not try them again."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from tstar.data.annotation_rows import find_rows, parse_row
from tstar.errors import DataError

QUARANTINE = "quarantine.jsonl"
MARK = "in quarantine: "


def quarantine_lines(skipped: Sequence[Mapping[str, str]]) -> str:
    """JSON Lines of media that cannot be used: media, reason, and how many records want it; not of those that may come yet."""
    skipped = [skip for skip in skipped if skip.get("kind") in ("unusable", "quarantine")]
    counts = Counter(skip["media"] for skip in skipped)
    reasons = {skip["media"]: skip["reason"].removeprefix(MARK) for skip in reversed(skipped)}
    lines = ({"media": media, "reason": reasons[media], "records": count} for media, count in counts.items())
    return "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)


def read_quarantine(path: Path) -> dict[str, str]:
    """Unusable media and why, from such lines."""
    if not path.is_file():
        raise DataError(f"no such quarantine list: {path}")
    rows = find_rows(path) if path.stat().st_size else ()
    found = {}
    for place in range(len(rows)):
        row = parse_row(rows[place], f"{path} line {place}")
        if not isinstance(row, dict) or not isinstance(row.get("media"), str):
            raise DataError(f"{path} line {place} must be {{'media': path, 'reason': text}}")
        found[row["media"]] = str(row.get("reason", ""))
    return found
