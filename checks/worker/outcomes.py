"""From DeepChecks' results to one outcome per check: passed, failed, error or not_run."""

import math
from collections.abc import Callable, Mapping
from numbers import Number

from deepchecks.core.check_result import BaseCheckResult, CheckFailure
from deepchecks.core.checks import BaseCheck
from deepchecks.core.condition import ConditionCategory
from deepchecks.core.errors import DeepchecksNotSupportedError
from deepchecks.utils.metrics import get_gain

# A warning is a condition that was not met: DeepChecks' own default counts it as one too.
_STATUS = {
    ConditionCategory.PASS: "passed",
    ConditionCategory.WARN: "failed",
    ConditionCategory.FAIL: "failed",
    ConditionCategory.ERROR: "error",
}
_WORST_FIRST = ("error", "failed", "not_run", "passed")
_SIDES = {" - Train Dataset": "training rows", " - Test Dataset": "held-out rows"}


def refused_declaration(name: str, reason: str) -> dict:
    """Return the outcome of a check that could not even be started."""
    return {"check": name, "status": "error", "reason": reason, "value": None, "details": []}


def read_results(built: Mapping[str, BaseCheck], results: list[BaseCheckResult]) -> list[dict]:
    """Return one outcome for each check of `built` that has a result; the worst of several counts."""
    outcomes = []
    for name, check in built.items():
        details = [_read(name, result) for result in results if result.check is check]
        if not details:
            continue  # no outcome is what the gate calls `missing`
        worst = min(details, key=lambda detail: _WORST_FIRST.index(detail["status"]))
        worst_details = [detail for detail in details if detail["status"] == worst["status"]]
        outcomes.append(
            {
                "check": name,
                "status": worst["status"],
                "reason": "; ".join(_sentence(detail) for detail in worst_details),
                # Where both sides have a number, every check of one table is worse the higher it is.
                "value": max((d["value"] for d in worst_details if d["value"] is not None), default=None),
                "scores": _scores(name, results, check),
                "details": details,
            }
        )
    return outcomes


def _scores(name: str, results: list[BaseCheckResult], check: BaseCheck) -> dict[str, float]:
    """Return the score of each feature, where a check has them and could compute them."""
    if name != "FeatureDrift":
        return {}
    values = [r.value for r in results if r.check is check and not isinstance(r, CheckFailure)]
    return {
        str(feature): float(result["Drift score"])
        for value in values
        for feature, result in value.items()
        if isinstance(result["Drift score"], Number) and math.isfinite(result["Drift score"])
    }


def _sentence(detail: dict) -> str:
    return f"{detail['rows']}: {detail['reason']}" if detail["rows"] else detail["reason"]


def _read(name: str, result: BaseCheckResult) -> dict:
    header = result.get_header()
    rows = next((side for suffix, side in _SIDES.items() if header.endswith(suffix)), None)
    status, reason, value = _judge(name, result)
    return {"rows": rows, "status": status, "reason": reason, "value": value}


def _judge(name: str, result: BaseCheckResult) -> tuple[str, str, float | None]:
    if isinstance(result, CheckFailure):
        error = result.exception
        status = "not_run" if isinstance(error, DeepchecksNotSupportedError) else "error"
        return status, f"{type(error).__name__}: {getattr(error, 'message', None) or error}", None
    if not result.conditions_results:
        return "not_run", "no condition was judged", None
    conditions = [(_STATUS[c.category], f"{c.name}: {c.details}") for c in result.conditions_results]
    status = min((s for s, _ in conditions), key=_WORST_FIRST.index)
    reason = "; ".join(text for s, text in conditions if s == status)
    try:
        value = _measure(name, result.value)
    except Exception as error:  # noqa: BLE001 - the condition may have misread an unexpected shape, too
        return "error", f"{reason}; its result cannot be read: {type(error).__name__}: {error}", None
    if value is not None and not math.isfinite(value):
        # `nan >= threshold` is false, so some of DeepChecks' conditions let it pass.
        return "error", f"{reason}; but the result is {value}, which no threshold can judge", None
    return status, reason, value


def _measure(name: str, value: object) -> float | None:
    """Return the number that the condition is about, or None where there is no single one."""
    if name in _MEASURES:
        return float(_MEASURES[name](value))
    if isinstance(value, Number) and not isinstance(value, bool):
        return float(value)
    return None


def _degradation(table: object) -> float:
    """Largest relative fall of a score from the training to the held-out rows."""
    scores = table.assign(Class=table["Class"].astype(str)).pivot(
        index=["Class", "Metric"], columns="Dataset", values="Value"
    )
    return ((scores["Train"] - scores["Test"]) / scores["Train"].abs()).max(skipna=False)


def _gain(value: Mapping) -> float:
    """Smallest gain over the naive model, over metrics and classes; 1 is perfect, 0 no better."""
    gains = []
    for metric, scores in value["scores"].items():
        perfect = value["scorers_perfect"][metric]
        for pair in [scores] if "Origin" in scores else scores.values():
            gains.append(get_gain(pair["Simple"], pair["Origin"], perfect, 50.0))
    return min(gains, key=lambda gain: (not math.isnan(gain), gain))


def _largest(values: list) -> float:
    # DeepChecks leaves a score that it could not compute (None) out of the condition.
    return max((math.nan if v is None else float(v) for v in values), key=lambda v: (math.isnan(v), v))


_MEASURES: dict[str, Callable] = {
    "ConflictingLabels": lambda value: value["percent_of_conflicting_samples"],
    "DatasetsSizeComparison": lambda value: value["Test"],
    "FeatureDrift": lambda value: _largest([feature["Drift score"] for feature in value.values()]),
    "FeatureLabelCorrelation": lambda value: _largest(list(value.values())),
    "LabelDrift": lambda value: value["Drift score"],
    "NewCategoryTrainTest": lambda value: max(value["Ratio of New Categories"], default=0.0),
    "PredictionDrift": lambda value: value["Drift score"],
    "NewLabelTrainTest": lambda value: len(value["new_labels"]),
    "SimpleModelComparison": _gain,
    "SingleDatasetPerformance": lambda value: value["Value"].min(skipna=False),
    "TrainTestPerformance": _degradation,
    "TrainTestSamplesMix": lambda value: value["ratio"],
}
