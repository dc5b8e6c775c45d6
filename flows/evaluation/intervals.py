"""Intervals of a metric: the cluster bootstrap, as scores.py explains it."""

from dataclasses import dataclass

import numpy as np

from checks.bootstrap import DRAWS, Floats, percentile_interval
from checks.data.splits import Groups, Positions

# An interval of fewer draws than this share, because a metric is not defined for the others, is none.
_ENOUGH = 0.9


@dataclass(frozen=True)
class Interval:
    """A score and its 95 % interval; `low` and `high` are None where too few draws have a score."""

    value: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        """Return it as people read it."""
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"

    def negated(self) -> "Interval":
        """Return the same of the negated score, as a loss is reported."""
        low, high = (None if end is None else -end for end in (self.high, self.low))
        return Interval(-self.value, low, high)


def bootstrap_samples(
    rows: int, groups: Groups | None, *, count: int = DRAWS, seed: int = 0
) -> list[Positions]:
    """Return positions of rows, drawn `count` times: whole groups, or single rows without groups."""
    random = np.random.default_rng(seed)
    if groups is None:
        return [random.integers(rows, size=rows) for _ in range(count)]
    _, group_of_row = np.unique(groups, return_inverse=True)
    ends = np.cumsum(np.bincount(group_of_row))[:-1]
    members = np.split(np.argsort(group_of_row, kind="stable"), ends)
    return [
        np.concatenate([members[group] for group in random.integers(len(members), size=len(members))])
        for _ in range(count)
    ]


def interval(scores: Floats) -> Interval:
    """Return a score, the first of `scores`, with the interval of the others, of those that are finite."""
    value, drawn = float(scores[0]), scores[1:]
    finite = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or len(finite) < _ENOUGH * len(drawn):
        return Interval(value, None, None)
    return Interval(value, *percentile_interval(finite))
