"""The gauges that Prometheus reads from node-exporter's textfile collector."""

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from checks.drift import Drift, Performance
from flows.monitoring.prometheus import write_gauges
from flows.monitoring.result import MonitoringResult
from registry.evidence.verdict import CheckOutcome


def samples(folder: Path) -> dict[tuple[str, str, str], float]:
    """Return the values of a folder's one file, by name, version and feature."""
    (file,) = folder.iterdir()
    assert file.name == "greenroom_monitor_genre.prom"
    return {
        (sample.name, sample.labels["version"], sample.labels.get("feature", "")): sample.value
        for family in text_string_to_metric_families(file.read_text())
        for sample in family.samples
    }


def test_each_version_has_the_gauges_of_what_was_measured(tmp_path: Path) -> None:
    outcome = CheckOutcome(
        check="PredictionDrift",
        suite="train_test_validation",
        required=True,
        status="failed",
        reason="0.4",
        value=0.4,
    )
    drift = Drift((outcome,), {"tempo": 0.3, 'a "loud" one\n': 0.1})
    performance = Performance(rows=300, score=0.5, low=0.4, high=0.6, at_training=0.7, worse=True)
    folder = tmp_path / "textfiles"
    write_gauges(
        folder,
        "genre",
        [
            MonitoringResult("genre", 2, "drift", 4_000, ("drift",), drift, performance),
            MonitoringResult("genre", 1, "too few rows", 3),
        ],
    )
    values = samples(folder)
    assert values.pop(("greenroom_monitor_last_run_timestamp_seconds", "2", "")) > 1e9
    assert values.pop(("greenroom_monitor_last_run_timestamp_seconds", "1", "")) > 1e9
    assert values == {
        ("greenroom_monitor_rows", "2", ""): 4_000,
        ("greenroom_monitor_rows", "1", ""): 3,
        ("greenroom_monitor_drifting", "2", ""): 1,
        ("greenroom_monitor_feature_drift", "2", "tempo"): 0.3,
        ("greenroom_monitor_feature_drift", "2", 'a "loud" one\n'): 0.1,
        ("greenroom_monitor_prediction_drift", "2", ""): 0.4,
        ("greenroom_monitor_score", "2", ""): 0.5,
        ("greenroom_monitor_score_at_training", "2", ""): 0.7,
    }
    write_gauges(folder, "genre", [MonitoringResult("genre", 3, "ok", 9)])
    assert ("greenroom_monitor_rows", "2", "") not in samples(folder)


def test_without_a_folder_nothing_is_written(tmp_path: Path) -> None:
    write_gauges(None, "genre", [MonitoringResult("genre", 0, "too few rows", 0)])
    assert list(tmp_path.iterdir()) == []
