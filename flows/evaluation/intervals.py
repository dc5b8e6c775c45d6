"""Intervals of a metric: the cluster bootstrap, as scores.py explains it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flows.data.splits import Groups, Positions

Floats = npt.NDArray[np.float64]

DRAWS = 400
_PERCENTILES = (2.5, 97.5)
# An interval of fewer draws than this share, because a metric is not defined for the others, is none.
_ENOUGH = 0.9


@dataclass(frozen=True)
class Interval:
    """A score and its 95 % interval; `low` and `high` are None where there is no telling."""

    value: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        """Return it as people read it."""
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"

    def turned(self) -> "Interval":
        """Return the same of the negated score, as a loss is reported."""
        return Interval(-self.value, _negated(self.high), _negated(self.low))


def draws(rows: int, groups: Groups | None, *, count: int = DRAWS, seed: int = 0) -> list[Positions]:
    """Return positions of rows, drawn again `count` times: whole groups, or single rows without groups."""
    random = np.random.default_rng(seed)
    if groups is None:
        return [random.integers(rows, size=rows) for _ in range(count)]
    _, of = np.unique(groups, return_inverse=True)
    members = np.split(np.argsort(of, kind="stable"), np.cumsum(np.bincount(of))[:-1])
    return [
        np.concatenate([members[one] for one in random.integers(len(members), size=len(members))])
        for _ in range(count)
    ]


def interval(value: float, drawn: Floats) -> Interval:
    """Return a score with the interval that its draws span; draws without a score are left out."""
    good = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or len(good) < _ENOUGH * len(drawn):
        return Interval(value, None, None)
    low, high = np.percentile(good, _PERCENTILES)
    return Interval(value, float(low), float(high))


def _negated(value: float | None) -> float | None:
    return None if value is None else -value
