"""The targets, compared with the measured values. This module measures nothing."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from bench.serving.wrk import Load

OURS, NO_MODEL = "Greenroom", "Greenroom without the model call"
MLFLOW = "mlflow models serve"

# Runs by server and number of connections; a server that could not be measured is not in it.
Loads = Mapping[str, Mapping[int, Load]]


@dataclass(frozen=True)
class Target:
    """One target and its measured value; None when it could not be measured."""

    aim: str
    measured: str | None
    reached: bool

    def row(self) -> str:
        """Return its row of the Markdown table."""
        verdict = "yes" if self.reached else "**no**" if self.measured else "not measured"
        return f"| {self.aim} | {self.measured or '-'} | {verdict} |"


@dataclass(frozen=True)
class Beside:
    """Measurements other than the load: seconds and MB."""

    http_1000: float
    sklearn_as_fitted: float
    sklearn_one_job: float
    ready_from_registry: float
    ready_from_cache: float
    resident: float
    proportional: float | None


def targets(loads: Loads, beside: Beside, peers: tuple[str, ...]) -> list[Target]:
    """Return every target with its verdict. `peers` are the names that count as peers, limits left out."""
    faster = max((n for n in loads if n.startswith(MLFLOW)), key=lambda n: _rate(loads, n, 16), default="")
    best = max((n for n in peers if n in loads), key=lambda n: _rate(loads, n, 64), default="")
    in_process = min(beside.sklearn_as_fitted, beside.sklearn_one_job)
    ready = max(beside.ready_from_registry, beside.ready_from_cache)
    return [
        _at_least(
            f"≥ 60 × `{MLFLOW}` at 16 connections", _ratio(loads, OURS, faster, 16), 60, f" × {faster}"
        ),
        _at_least("≥ 5 × the best peer at 64 connections", _ratio(loads, OURS, best, 64), 5, f" × {best}"),
        _at_least(
            "≥ 0.8 of the same endpoint without a model, at 16 and 64 connections",
            min(_ratio(loads, OURS, NO_MODEL, count) for count in (16, 64)),
            0.8,
        ),
        _at_most(
            "p99 ≤ 2 × that endpoint's, at 16 and 64 connections",
            max(_p99(loads, OURS, count) / _p99(loads, NO_MODEL, count) for count in (16, 64)),
            2,
            " ×",
        ),
        Target(
            "1,000 rows over HTTP faster than scikit-learn in process",
            f"{beside.http_1000 * 1000:.1f} ms beside {in_process * 1000:.1f} ms",
            beside.http_1000 < in_process,
        ),
        _at_most("start to ready with five models ≤ 3 s", ready, 3, " s"),
        _at_most("resident memory per worker with five models ≤ 250 MB", beside.resident, 250, " MB", 0),
    ]


def _at_least(aim: str, found: float, bound: float, unit: str = "") -> Target:
    return Target(aim, None if math.isnan(found) else f"{found:.2f}{unit}", found >= bound)


def _at_most(aim: str, found: float, bound: float, unit: str = "", digits: int = 2) -> Target:
    return Target(aim, None if math.isnan(found) else f"{found:.{digits}f}{unit}", found <= bound)


def _rate(loads: Loads, name: str, connections: int) -> float:
    run = loads.get(name, {}).get(connections)
    return run.per_second if run else math.nan


def _p99(loads: Loads, name: str, connections: int) -> float:
    run = loads.get(name, {}).get(connections)
    return run.p99 if run else math.nan


def _ratio(loads: Loads, name: str, other: str, connections: int) -> float:
    return _rate(loads, name, connections) / _rate(loads, other, connections)
