"""What passes between a benchmark and a judge: questions about responses, and the replies, which need no network to be read.

A benchmark writes the requests and reads the replies; :mod:`tstar.evaluation.judge_client` asks a server.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any

import yaml

from tstar.data.files import write_whole
from tstar.errors import ConfigError, DataError
from tstar.evaluation.files import as_record, field, read_json_or_lines, read_text

FIELDS = ("question", "answer", "prediction")
"""What a judge's prompt has places for, in braces."""
_PLACE = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True)
class JudgeRequest:
    """One question to a judge, in the form of OpenAI's chat completions."""

    id: str
    """Of the item."""
    messages: tuple[Mapping[str, str], ...]
    """``{"role", "content"}`` each."""
    parameters: Mapping[str, Any] = dataclass_field(default_factory=dict)
    """Sampling parameters of the protocol, e.g. ``{"temperature": 0, "max_tokens": 64}``."""


@dataclass(frozen=True)
class JudgePrompt:
    """What a judge is told and asked; ``{question}``, ``{answer}`` and ``{prediction}`` are filled in, other braces stay."""

    system: str
    """"" for none."""
    user: str

    def messages(self, question: str, answer: str, prediction: str) -> tuple[Mapping[str, str], ...]:
        """The two messages about one response; braces in the three texts are not looked at."""
        texts = dict(zip(FIELDS, (question, answer, prediction), strict=True))

        def filled(template: str) -> str:
            return _PLACE.sub(lambda place: texts.get(place[1], place[0]), template)

        user = {"role": "user", "content": filled(self.user)}
        return ({"role": "system", "content": filled(self.system)}, user) if self.system else (user,)


class JudgeReplies(Mapping[str, Sequence[str]]):
    """Replies by item id in the order of the attempts; the first that can be read counts.

    Args:
        replies: by item id.
        model: the judge as the server named it; "" if that is not known.
        dates: the days of the first and the last reply, ``2026-11-28`` or ``2026-11-28/2026-11-30``; "" if not known.
        unanswered: why there is no reply, by the ids of items that the judge was asked about in vain.
    """

    def __init__(
        self,
        replies: Mapping[str, Sequence[str]],
        model: str = "",
        dates: str = "",
        unanswered: Mapping[str, str] | None = None,
    ) -> None:
        self._replies, self.model, self.dates = dict(replies), model, dates
        self.unanswered = dict(unanswered or {})

    def __getitem__(self, item_id: str) -> Sequence[str]:
        return self._replies[item_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._replies)

    def __len__(self) -> int:
        return len(self._replies)


def read_prompt(path: str | Path) -> JudgePrompt:
    """A judge's prompt from a YAML file with the texts ``user`` and, if wanted, ``system``.

    Raises:
        ConfigError: it is no such file, it names a field that there is not, or the judge would not see the prediction.
        DataError: it cannot be read.
    """
    if not Path(path).is_file():
        raise ConfigError(f"{path}: no such file; a judge's template is one with the texts 'user' and 'system'")
    try:
        content = yaml.safe_load(read_text(Path(path)))
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        raise ConfigError(f"{path}: broken YAML{f' at line {where.line + 1}' if where else ''}") from None
    known = isinstance(content, dict) and {"user"} <= content.keys() <= {"system", "user"}
    if not known or not all(isinstance(text, str) for text in content.values()):
        raise ConfigError(f"{path}: a judge's template has the texts 'user' and, if wanted, 'system', and nothing else")
    named = _PLACE.findall(content["user"])
    wrong = [name for name in (*named, *_PLACE.findall(content.get("system", ""))) if name not in FIELDS]
    if wrong or not {"answer", "prediction"} <= set(named):
        raise ConfigError(
            f"{path}: 'user' must hold {{answer}} and {{prediction}}, and may hold {{question}}"
            + (f"; {{{wrong[0]}}} is no field" if wrong else "")
        )
    return JudgePrompt(content.get("system", ""), content["user"])


def read_replies(path: str | Path) -> JudgeReplies:
    """Replies from JSON Lines of ``{"id", "reply"}``; lines of one id are successive attempts.

    ``model`` and ``date`` beside them are the judge and when it said it, ``request`` the hash that a cache files it under.

    Raises:
        DataError: the file is no such list, or holds replies of two judges or about two responses to one question.
    """
    rows = read_json_or_lines(Path(path))
    rows = [rows] if isinstance(rows, Mapping) else rows  # a file of one line
    if not isinstance(rows, list):
        raise DataError(f'{path}: must hold lines of {{"id", "reply"}}, got {type(rows).__name__}')
    replies: dict[str, list[str]] = {}
    requests: dict[str, str] = {}
    models, dates = [], []
    for number, row in enumerate(rows):
        place = f"{path}, row {number}"
        record = as_record(row, place)
        item_id, reply = field(record, "id", str, place), field(record, "reply", (str, type(None)), place)
        request = str(record.get("request", ""))
        if requests.setdefault(item_id, request) != request:
            raise DataError(f"{place}: replies about two different responses to {item_id}; keep those about one")
        replies.setdefault(item_id, []).append(reply or "")
        models.append(str(record.get("model") or ""))
        dates.append(str(record.get("date") or ""))
    return JudgeReplies(replies, one_judge(models, str(path)), days_of(dates))


def write_replies(path: str | Path, replies: JudgeReplies) -> None:
    """Write what :func:`read_replies` reads, whole or not at all, so that a scoring can be repeated without the judge."""
    about = {"model": replies.model, "date": replies.dates}
    lines = [json.dumps({"id": key, "reply": reply, **about}) + "\n" for key, said in replies.items() for reply in said]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, "".join(lines).encode())


def one_judge(models: Sequence[str], where: str) -> str:
    """The one name among ``models``, "" if there is none; DataError if there are several."""
    names = sorted({model for model in models if model})
    if len(names) > 1:
        raise DataError(
            f"{where}: replies of {len(names)} judges ({', '.join(names[:3])}); numbers of different judges cannot be in one "
            "table: keep the replies of one, or let one judge everything"
        )
    return names[0] if names else ""


def days_of(dates: Sequence[str]) -> str:
    """First and last day of dates that begin with one, as ``2026-11-28/2026-11-30``; the one day if they are the same."""
    days = sorted({day for date in dates for day in re.findall(r"\d{4}-\d{2}-\d{2}", date)})
    return "/".join(dict.fromkeys((days[0], days[-1]))) if days else ""
