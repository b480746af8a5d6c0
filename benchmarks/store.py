"""Finished sections of a benchmark, kept in a file, so that a run that was stopped goes on where it was."""

import json
from pathlib import Path
from typing import Any

from timing import to_json

from tstar.errors import ConfigError


class Store:
    """Finished sections, in a file if there is to be one.

    Raises:
        ConfigError: the file holds sections of other sizes, versions or another machine.
    """

    def __init__(self, path: Path | None, settings: dict[str, Any], machine: dict[str, Any], fresh: bool) -> None:
        self.path = path
        self.content: dict[str, Any] = {"settings": settings, "machine": machine, "sections": {}}
        if path is None or fresh or not path.exists():
            return
        try:
            found = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ConfigError(
                f"{path} is no JSON ({error}); take another --out, or --fresh to write over it"
            ) from error
        for part in ("settings", "machine"):
            if found.get(part) != self.content[part]:
                raise ConfigError(
                    f"{path} has sections of other {part}; take another --out, or --fresh to write over it"
                )
        self.content = found

    def add(self, name: str, section: dict[str, Any]) -> None:
        self.content["sections"][name] = to_json(section)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = self.path.with_suffix(".tmp")
            unfinished.write_text(json.dumps(self.content, indent=1) + "\n")
            unfinished.replace(self.path)
