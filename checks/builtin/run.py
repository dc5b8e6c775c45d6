"""Runs the built-in checks: Greenroom's own, for what DeepChecks does not look at.

A policy names them like DeepChecks' checks; their conditions are `at_least` and `at_most` of a number. They
run in this process, since they ask the ONNX file itself.
"""

import math
import operator
from collections.abc import Callable, Mapping

from catalog.spec import Check
from checks.builtin import tasks
from checks.builtin.context import CheckContext
from checks.job import RawOutcome

_CONDITIONS: Mapping[str, Callable[[float, float], bool]] = {"at_least": operator.ge, "at_most": operator.le}


def is_builtin(check: Check) -> bool:
    """Whether a check is one of Greenroom's own."""
    return check.check in tasks.measures()


def run_check(check: Check, context: CheckContext) -> RawOutcome:
    """Return the outcome of a built-in check; every exception is the status `error`."""
    try:
        measurement = tasks.measures()[check.check](context, **check.params)
        threshold = check.condition_params["threshold"]
        good = _CONDITIONS[check.condition](measurement.value, threshold)
    except Exception as error:  # noqa: BLE001 - a broken model or declaration: no result, no pass
        reason = f"{type(error).__name__}: {error}"
        return RawOutcome(check=check.check, status="error", reason=reason)
    reason = f"{measurement.sentence}; {check.condition.replace('_', ' ')} {threshold:g} is asked for"
    if not math.isfinite(measurement.value):
        return RawOutcome(check=check.check, status="error", reason=f"{reason}, and that is no number")
    status = "passed" if good else "failed"
    return RawOutcome(check=check.check, status=status, reason=reason, value=measurement.value)
