"""The result of monitoring one version."""

from dataclasses import dataclass
from typing import Literal

from checks.drift import Drift, Performance

Status = Literal["ok", "drift", "too few rows", "no reference"]


@dataclass(frozen=True)
class MonitoringResult:
    """The result for one version in one window. `version` is 0 if there was no prediction at all."""

    model: str
    version: int
    status: Status
    rows: int
    reasons: tuple[str, ...] = ()
    drift: Drift | None = None
    performance: Performance | None = None
    notes: tuple[str, ...] = ()

    def metrics(self) -> dict[str, float]:
        """Return the measured values, by the names of MLflow's metrics."""
        metrics = {"rows": float(self.rows), "drifting": float(self.status == "drift")}
        if drift := self.drift:
            metrics |= {f"drift.{name}": score for name, score in drift.features.items()}
            for name, check in (("feature_drift", "FeatureDrift"), ("prediction_drift", "PredictionDrift")):
                if (value := drift.value(check)) is not None:
                    metrics[name] = value
        if performance := self.performance:
            metrics |= {
                "feedback_rows": float(performance.rows),
                "score": performance.score,
                "score_low": performance.low,
                "score_high": performance.high,
                "score_at_training": performance.at_training,
            }
        return metrics
