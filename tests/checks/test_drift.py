"""Drift and performance of a window against a training's rows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ks_2samp

from catalog.spec import ModelSpec
from checks.drift import REPORT_FILE, Limits, find_drift, measure_performance
from checks.errors import GateUnavailableError
from checks.precomputed import ScoredRows, score_rows
from registry.model_format.onnx_model import OnnxModel
from tests.checks.support.sample_models import Rows, StandIn
from tests.checks.support.unlabelled import sides

LIMITS = Limits(0.2, 0.2)


@pytest.mark.slow
def test_deepchecks_finds_no_drift_in_held_out_rows_and_does_in_shifted_ones(
    genre: ModelSpec, genre_rows: Rows, genre_model: OnnxModel, tmp_path: Path
) -> None:
    reference = score_rows(genre, genre_model, genre_rows[0])
    well = find_drift(genre, reference, score_rows(genre, genre_model, genre_rows[1]), LIMITS, tmp_path / "a")
    assert [(o.check, o.status) for o in well.outcomes] == [
        ("FeatureDrift", "passed"),
        ("PredictionDrift", "passed"),
    ]
    assert set(well.features) == set(genre.features)
    assert max(well.features.values()) == well.value("FeatureDrift")
    assert "Prediction Drift" in (tmp_path / "a" / REPORT_FILE).read_text()
    metal = genre_rows[1][genre_rows[1]["track_genre"] == "metal"]
    rows = score_rows(genre, genre_model, metal.assign(loudness=metal["loudness"] + 3))
    ill = find_drift(genre, reference, rows, LIMITS, tmp_path / "b")
    assert [o.status for o in ill.outcomes] == ["failed", "failed"]
    assert ill.features["loudness"] > well.features["loudness"] + 0.2


@pytest.mark.slow
def test_regression_drifts_by_its_numbers(
    energy: ModelSpec, energy_rows: Rows, energy_model: OnnxModel, tmp_path: Path
) -> None:
    reference = score_rows(energy, energy_model, energy_rows[0])
    rows = score_rows(energy, energy_model, energy_rows[1].assign(loudness=0.0))
    found = find_drift(energy, reference, rows, LIMITS, tmp_path)
    assert [o.status for o in found.outcomes] == ["failed", "failed"]
    assert found.features["loudness"] > 0.9


def small(count: int = 10) -> ScoredRows:
    random = np.random.default_rng(0)
    columns = ["danceability", "valence"]
    return ScoredRows(pd.DataFrame(random.random((count, 2)), columns=columns), random.random(count))


def test_worker_that_leaves_a_check_out_is_no_pass(
    constant_spec: ModelSpec, stand_in: StandIn, tmp_path: Path
) -> None:
    said = [{"check": "FeatureDrift", "status": "passed", "reason": "fine", "value": 0.1}]
    stand_in(f"cat > $3/outcomes.json <<'END'\n{json.dumps({'outcomes': said})}\nEND")
    found = find_drift(constant_spec, small(), small(), LIMITS, tmp_path / "report")
    assert [(o.check, o.status) for o in found.outcomes] == [
        ("FeatureDrift", "passed"),
        ("PredictionDrift", "missing"),
    ]


def test_without_deepchecks_it_could_not_tell(
    constant_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GREENROOM_CHECKS_PYTHON", str(tmp_path / "nowhere"))
    with pytest.raises(GateUnavailableError):
        find_drift(constant_spec, small(), small(), LIMITS, tmp_path / "report")


def known(count: int, right: float, seed: int) -> tuple[ScoredRows, Any]:
    """Rows of two classes of which a share is predicted right."""
    random = np.random.default_rng(seed)
    truth = random.choice(["a", "b"], count)
    wrong = np.where(truth == "a", "b", "a")
    said = np.where(random.random(count) < right, truth, wrong)
    shares = pd.DataFrame({"a": np.where(said == "a", 0.9, 0.1), "b": np.where(said == "a", 0.1, 0.9)})
    return ScoredRows(pd.DataFrame({"x": np.zeros(count)}), said, shares), truth


@pytest.mark.parametrize("metric", ["balanced_accuracy", "neg_log_loss"])
def test_score_that_fell_is_worse_and_one_that_did_not_is_not(genre: ModelSpec, metric: str) -> None:
    spec = genre.model_copy(update={"metric": metric})
    held_out = known(1_000, 0.8, 1)
    same = measure_performance(spec, known(500, 0.8, 2), held_out)
    assert not same.worse
    assert same.low < same.score < same.high
    fallen = measure_performance(spec, known(500, 0.65, 3), held_out)
    assert fallen.worse
    assert fallen.score < fallen.at_training
    assert (fallen.rows, fallen.at_training) == (500, same.at_training)
    better = measure_performance(spec, known(500, 0.95, 4), held_out)
    assert not better.worse


def test_score_of_a_regression(energy: ModelSpec) -> None:
    spec = energy.model_copy(update={"metric": "r2"})
    random = np.random.default_rng(0)
    truth = random.random(600)

    def side(noise: float) -> tuple[ScoredRows, Any]:
        said = truth + random.normal(0, noise, 600)
        return ScoredRows(pd.DataFrame({"x": np.zeros(600)}), said), truth

    held_out = side(0.1)
    assert not measure_performance(spec, side(0.1), held_out).worse
    assert measure_performance(spec, side(0.2), held_out).worse


def test_few_false_alarms_of_performance(energy: ModelSpec) -> None:
    """One in 200 is asked for; of 6 that are no worse, two would be no chance."""
    spec = energy.model_copy(update={"metric": "balanced_accuracy"})
    held_out = known(1_000, 0.7, 0)
    alarms = sum(measure_performance(spec, known(200, 0.7, n), held_out).worse for n in range(1, 7))
    assert alarms <= 1


def test_rows_in_groups_are_allowed_for(energy: ModelSpec) -> None:
    """A fall that is beyond the noise of rows may be within that of a few artists."""
    spec = energy.model_copy(update={"metric": "balanced_accuracy"})
    live, held_out = known(400, 0.66, 1), known(1_000, 0.8, 2)
    assert measure_performance(spec, live, held_out).worse
    by_rows = measure_performance(spec, live, held_out, 0.01)
    assert by_rows.worse  # no wider than by rows: nothing is added
    by_groups = measure_performance(spec, live, held_out, 0.3)
    assert not by_groups.worse
    assert by_groups.low < by_rows.low < by_rows.high < by_groups.high
    assert measure_performance(spec, known(400, 0.2, 3), held_out, 0.3).worse


def test_metric_that_cannot_be_computed_is_said(genre: ModelSpec) -> None:
    spec = genre.model_copy(update={"metric": "neg_log_loss"})
    live, truth = known(300, 0.8, 1)
    with pytest.raises(ValueError, match="labels"):
        measure_performance(spec, (live, np.full(len(truth), "c")), known(300, 0.8, 2))


@pytest.mark.slow
def test_clusters_drift_by_their_shares(tmp_path: Path) -> None:
    """The loudest tracks fall into other clusters than the training's did. There are no probabilities."""
    known = sides("clusters")
    model = known.exported(known.fitted())
    reference = score_rows(known.spec, model, known.train)
    assert reference.classes == sorted(model.description.classes)
    loud = known.test.sort_values("loudness").tail(300)
    ill = find_drift(known.spec, reference, score_rows(known.spec, model, loud), LIMITS, tmp_path)
    assert [o.status for o in ill.outcomes] == ["failed", "failed"]


def test_neighbours_drift_by_how_far_they_are() -> None:
    """Things of the index are their own neighbours, so it is the nearest other one that counts."""
    known = sides("similar")
    model = known.exported(known.fitted())
    reference = score_rows(known.spec, model, known.train)
    assert reference.labels.min() > 0
    assert reference.classes == []
    asked = score_rows(known.spec, model, known.test)
    assert ks_2samp(reference.labels, asked.labels).statistic < 0.1
    # Each value is one that the training has, in combinations that it has not.
    random = np.random.default_rng(0)
    mixed = known.test.assign(
        **{name: random.permutation(known.test[name].to_numpy()) for name in known.spec.features}
    )
    strange = score_rows(known.spec, model, mixed)
    assert ks_2samp(reference.labels, strange.labels).statistic > 0.2
