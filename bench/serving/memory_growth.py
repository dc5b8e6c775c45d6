"""The rules for a flat run: memory, open files and threads. This module measures nothing.

Memory: the slope of the second half, over requests and not over time, by Theil and Sen (the median of the
slopes of all pairs, which a swap's short peak does not move), is at most `MAX_GROWTH` MB per 100,000
requests. The first half may grow: caches fill, the allocator settles.

Open files and threads: the median of the last fifth is no more than `MAX_HANDLES` and `MAX_THREADS` above
that of the fifth in the middle; and after the clients have left, no more than `MAX_HANDLES` files above
before they came.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

MAX_GROWTH = 1.0
MAX_HANDLES = 4
MAX_THREADS = 1


@dataclass(frozen=True)
class Sample:
    """One second: requests so far, resident MB, open files, threads."""

    requests: int
    megabytes: float
    files: int
    threads: int


@dataclass(frozen=True)
class Finding:
    """One rule: its text, the measured value, whether it holds."""

    rule: str
    found: str
    holds: bool


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the median slope of all pairs of points (Theil and Sen); 0 for fewer than two."""
    # At most some 40,000 pairs, spread evenly.
    thinned = points[:: max(1, len(points) // 280)]
    slopes = [
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for index, earlier in enumerate(thinned)
        for later in thinned[index + 1 :]
        if later[0] != earlier[0]
    ]
    return statistics.median(slopes) if slopes else 0.0


def flat(samples: Sequence[Sample], before: Sample, after: Sample) -> list[Finding]:
    """Apply the rules to the samples of one run, and to those before the clients came and after they left."""
    if len(samples) < 10:
        return [Finding("at least ten samples", str(len(samples)), holds=False)]
    second = samples[len(samples) // 2 :]
    growth = slope([(one.requests / 100_000, one.megabytes) for one in second])
    fifth = max(1, len(samples) // 5)
    middle, last = samples[2 * fifth : 3 * fifth], samples[-fifth:]
    files = statistics.median(s.files for s in last) - statistics.median(s.files for s in middle)
    threads = statistics.median(s.threads for s in last) - statistics.median(s.threads for s in middle)
    left = after.files - before.files
    return [
        Finding(
            f"memory grows by at most {MAX_GROWTH:g} MB per 100,000 requests in the second half",
            f"{growth:+.2f} MB",
            growth <= MAX_GROWTH,
        ),
        Finding(f"open files grow by at most {MAX_HANDLES}", f"{files:+.0f}", files <= MAX_HANDLES),
        Finding(f"threads grow by at most {MAX_THREADS}", f"{threads:+.0f}", threads <= MAX_THREADS),
        Finding(
            f"at most {MAX_HANDLES} more files open after the callers went than before they came",
            f"{left:+d}",
            left <= MAX_HANDLES,
        ),
    ]
