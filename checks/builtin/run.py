"""Checks that are Greenroom's own, for what DeepChecks does not look at: clusters and neighbours.

A policy names them like DeepChecks' checks; their conditions are `at_least` and `at_most` of a number. They
run in this process, since they ask the ONNX file itself.
"""

import math
from collections.abc import Callable, Mapping

from catalog.spec import Check
from checks.builtin import clustering, similarity
from checks.builtin.context import Look, Measured
from checks.worker_process import RawOutcome

_MEASURES: Mapping[str, Callable[..., Measured]] = {**clustering.MEASURES, **similarity.MEASURES}
_CONDITIONS: Mapping[str, Callable[[float, float], bool]] = {
    "at_least": lambda value, threshold: value >= threshold,
    "at_most": lambda value, threshold: value <= threshold,
}


def is_own(check: Check) -> bool:
    """Whether a check is one of Greenroom's."""
    return check.check in _MEASURES


def look(check: Check, at: Look) -> RawOutcome:
    """Return what one of Greenroom's checks comes to; whatever it raises is the status `error`."""
    try:
        measured = _MEASURES[check.check](at, **check.params)
        threshold = check.condition_params["threshold"]
        good = _CONDITIONS[check.condition](measured.value, threshold)
    except Exception as error:  # noqa: BLE001 - a broken model or declaration: no result, no pass
        reason = f"{type(error).__name__}: {error}"
        return RawOutcome(check=check.check, status="error", reason=reason)
    reason = f"{measured.said}; {check.condition.replace('_', ' ')} {threshold:g} is asked for"
    if not math.isfinite(measured.value):
        return RawOutcome(check=check.check, status="error", reason=f"{reason}, and that is no number")
    status = "passed" if good else "failed"
    return RawOutcome(check=check.check, status=status, reason=reason, value=measured.value)
