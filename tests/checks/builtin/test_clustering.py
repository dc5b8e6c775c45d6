"""The gate on clusterings of real tracks: which pass, and what is refused and why."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.cluster import KMeans

from catalog.spec import Check, GatePolicy
from checks.builtin.context import CheckContext
from checks.builtin.run import is_builtin, run_check
from checks.comparison import IncumbentModel, compare
from checks.gate import run_gate
from registry.evidence.verdict import CheckOutcome, Incumbent, Verdict
from registry.model_format.onnx_model import OnnxModel
from tests.checks.support.unlabelled import Sides, sides


@pytest.fixture(scope="module")
def rows() -> Sides:
    return sides("clusters")


@pytest.fixture(scope="module")
def model(rows: Sides) -> OnnxModel:
    return rows.exported(rows.fitted())


def judged(rows: Sides, model: OnnxModel, folder: Path) -> dict[str, CheckOutcome]:
    """What Greenroom's own checks of the model's policy come to; DeepChecks is left out."""
    own = GatePolicy(checks=tuple(check for check in rows.spec.gate.checks if is_builtin(check)))
    verdict: Verdict = rows.gate(run_gate, model, folder, gate=own)
    return {outcome.check: outcome for outcome in verdict.outcomes}


@pytest.mark.slow
def test_an_honest_clustering_passes_every_check(rows: Sides, model: OnnxModel, tmp_path: Path) -> None:
    verdict = rows.gate(run_gate, model, tmp_path)
    assert verdict.passed, verdict.refusals
    assert [o.status for o in verdict.outcomes] == ["passed"] * len(rows.spec.gate.checks)
    names = {o.check for o in verdict.outcomes}
    assert {"IsSingleValue", "DataDuplicates", "FeatureDrift", "TrainTestSamplesMix"} <= names
    reports = {path.name for path in tmp_path.glob("*.html")}
    assert reports == {"data_integrity.html", "train_test_validation.html"}
    value = {o.check: o.value for o in verdict.outcomes}
    assert 0.17 < value["ClusterSilhouette"] < 1
    assert 0.8 < value["ClusterStability"] < 1


def test_clusters_of_shuffled_features_are_refused(tmp_path: Path) -> None:
    """K-means finds clusters in anything; there are none here, and other samples give other ones."""
    shuffled = sides("clusters", shuffled=True)
    found = judged(shuffled, shuffled.exported(shuffled.fitted()), tmp_path)
    for check in ("ClusterSilhouette", "ClusterStability"):
        assert found[check].status == "failed", found[check]
        assert found[check].value is not None
    assert "at least 0.17 is asked for" in found["ClusterSilhouette"].reason


def test_clusters_learned_from_shuffled_rows_are_refused_on_real_ones(rows: Sides, tmp_path: Path) -> None:
    shuffled = sides("clusters", shuffled=True)
    found = judged(rows, shuffled.exported(shuffled.fitted()), tmp_path)
    assert found["ClusterSilhouette"].status == "failed"
    assert found["ClusterStability"].status == "failed"


def test_a_cluster_of_a_few_odd_rows_is_refused(rows: Sides, tmp_path: Path) -> None:
    pipeline = rows.fitted()
    centres = pipeline[-1].cluster_centers_.copy()
    centres[0] = 50.0  # where no track is
    pipeline[-1].cluster_centers_ = centres
    found = judged(rows, rows.exported(pipeline), tmp_path)["ClusterSize"]
    assert found.status == "failed"
    assert found.value == 0.0
    assert "0.0% of held-out rows" in found.reason


def test_one_cluster_for_all_has_the_lowest_silhouette(rows: Sides, tmp_path: Path) -> None:
    pipeline = rows.fitted()
    pipeline.steps[-1] = ("model", KMeans(1).fit(pipeline[:-1].transform(rows.features(rows.train))))
    found = judged(rows, rows.exported(pipeline), tmp_path)["ClusterSilhouette"]
    assert (found.status, found.value) == ("failed", -1.0)


def test_a_worse_clustering_than_the_one_in_production_is_refused(rows: Sides, model: OnnxModel) -> None:
    worse = rows.exported(rows.fitted(len(rows.spec.candidates) - 1))  # the Gaussian mixture
    incumbent = Incumbent(version=3, digest=None)
    outcome = compare(
        CheckContext(rows.spec, rows.train, rows.test, worse), IncumbentModel(incumbent, lambda: model)
    )
    assert outcome.status == "failed"
    assert "worse by more than 0.02 beyond noise" in outcome.reason
    back = compare(
        CheckContext(rows.spec, rows.train, rows.test, model), IncumbentModel(incumbent, lambda: worse)
    )
    assert back.status == "passed"
    assert back.value == pytest.approx(-outcome.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"condition": "greater_than"}, "greater_than"),
        ({"condition_params": {"least": 0.1}}, "threshold"),
        ({"params": {"refit": 3}}, "refit"),
    ],
)
def test_a_misspelt_condition_is_an_error_and_so_refuses(
    rows: Sides, model: OnnxModel, changes: dict[str, object], says: str
) -> None:
    good = next(c for c in rows.spec.gate.checks if c.check == "ClusterStability")
    check = Check(**{**good.model_dump(), **changes})
    outcome = run_check(check, CheckContext(rows.spec, rows.train, rows.test, model))
    assert outcome.status == "error"
    assert says in outcome.reason


def test_what_is_no_number_is_an_error(rows: Sides, model: OnnxModel) -> None:
    broken = rows.test.assign(energy=rows.test["energy"].where(rows.test.index % 2 == 0, np.nan))
    check = next(c for c in rows.spec.gate.checks if c.check == "ClusterSilhouette")
    assert run_check(check, CheckContext(rows.spec, rows.train, broken, model)).status == "error"
