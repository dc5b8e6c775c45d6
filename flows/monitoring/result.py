"""What monitoring found out about one version."""

from dataclasses import dataclass
from typing import Literal

from checks.drift import Drift, Performance

Status = Literal["ok", "drift", "too few rows", "no reference"]


@dataclass(frozen=True)
class Seen:
    """What was seen of one version. `version` is 0 where nothing was predicted at all."""

    model: str
    version: int
    status: Status
    rows: int
    reasons: tuple[str, ...] = ()
    drift: Drift | None = None
    performance: Performance | None = None
    notes: tuple[str, ...] = ()


def numbers(seen: Seen) -> dict[str, float]:
    """Return what was measured, by the names of its metrics."""
    found = {"rows": float(seen.rows), "drifting": float(seen.status == "drift")}
    if drift := seen.drift:
        found |= {f"drift.{name}": score for name, score in drift.features.items()}
        for name, check in (("feature_drift", "FeatureDrift"), ("prediction_drift", "PredictionDrift")):
            if (value := drift.value(check)) is not None:
                found[name] = value
    if known := seen.performance:
        found |= {
            "feedback_rows": float(known.rows),
            "score": known.score,
            "score_low": known.low,
            "score_high": known.high,
            "score_at_training": known.at_training,
        }
    return found
