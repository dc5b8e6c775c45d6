"""From what a similarity finds to what was asked for. Nothing here knows of HTTP."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from serving.inference.response import Outputs
from serving.inference.similarity_query import DEFAULT_NEIGHBOURS

# The nearest are what drift is seen in, and a hundred of each answer would fill a log.
LOGGED = 10


@dataclass(frozen=True, slots=True)
class Wish:
    """How many neighbours are wanted, and the place of what must not be among them; -1 is nothing."""

    k: int = DEFAULT_NEIGHBOURS
    itself: int = -1


def chosen(found: Outputs, wishes: Sequence[Wish]) -> Outputs:
    """Return the nearest `k` of each row without the thing that was asked about; -1 where there are fewer.

    `found` has shape (rows, all that the model finds), nearest first; the result is as wide as the largest k.
    """
    shares = found.shares
    if shares is None:
        raise ValueError("it finds no neighbours")
    itself, most = (np.array([getattr(wish, name) for wish in wishes])[:, None] for name in ("itself", "k"))
    others = found.labels != itself
    place = np.cumsum(others, axis=1) - 1
    rows, columns = np.nonzero(others & (place < most))
    labels = np.full((len(wishes), int(most.max())), -1, dtype=np.int64)
    distances = np.zeros(labels.shape, dtype=np.float32)
    to = place[rows, columns]
    labels[rows, to], distances[rows, to] = found.labels[rows, columns], shares[rows, columns]
    return replace(found, labels=labels, shares=distances)


def logged(found: Outputs) -> Outputs:
    """Return what the prediction log keeps: the first few of each row."""
    shares = found.shares
    return replace(
        found, labels=found.labels[:, :LOGGED], shares=None if shares is None else shares[:, :LOGGED]
    )
