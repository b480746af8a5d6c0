"""Published splits of the benchmarks, told by how many questions they have of each kind."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tstar.evaluation.items import Item


class Split(NamedTuple):
    """What a published split is made of."""

    questions: int
    parts: Mapping[str, Mapping[str, int]] = {}
    """Of categories that the annotations are published with, how many questions have each value."""
    clusters: int | None = None
    """Videos or pictures, where that number is published."""

    def is_of(self, items: Sequence[Item]) -> bool:
        """Whether ``items`` have all these numbers."""
        if len(items) != self.questions:
            return False
        if self.clusters is not None and len({item.cluster for item in items}) != self.clusters:
            return False
        return all(Counter(item.categories.get(name) for item in items) == part for name, part in self.parts.items())


def whole(category: str, counts: Mapping[str, int]) -> Split:
    """A split that is the sum of its parts by one category."""
    return Split(sum(counts.values()), {category: counts})
