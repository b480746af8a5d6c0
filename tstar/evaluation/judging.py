"""What passes between a benchmark and a judge: questions about responses, and the replies, which need no network to be read.

A benchmark writes the requests and reads the replies; :mod:`tstar.evaluation.judge_client` asks a server.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any


@dataclass(frozen=True)
class JudgeRequest:
    """One question to a judge, in the form of OpenAI's chat completions."""

    id: str
    """Of the item."""
    messages: tuple[Mapping[str, str], ...]
    """``{"role", "content"}`` each."""
    parameters: Mapping[str, Any] = dataclass_field(default_factory=dict)
    """Sampling parameters of the protocol, e.g. ``{"temperature": 0, "max_tokens": 64}``."""


class JudgeReplies(Mapping[str, Sequence[str]]):
    """Replies by item id in the order of the attempts; the first that can be read counts.

    Args:
        replies: by item id.
        model: the judge as the server named it; "" if that is not known.
    """

    def __init__(self, replies: Mapping[str, Sequence[str]], model: str = "") -> None:
        self._replies, self.model = dict(replies), model

    def __getitem__(self, item_id: str) -> Sequence[str]:
        return self._replies[item_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._replies)

    def __len__(self) -> int:
        return len(self._replies)
