"""How far a version goes that was trained because of drift, and what may start such a training."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from catalog.loader import load_catalog
from checks.comparison import INCUMBENT_COMPARISON
from flows.monitoring.flow import EVENT
from flows.monitoring.retrain import may_go_to_production
from flows.monitoring.settings import MonitorSettings
from registry.evidence.verdict import CheckOutcome, Incumbent, Status, Verdict
from tests.conftest import ROOT


def verdict(status: Status | None, value: float | None = None, *, incumbent: bool = True) -> Verdict:
    """A verdict with a comparison that came to `status`, or with none."""
    compared = CheckOutcome(
        check=INCUMBENT_COMPARISON,
        suite="model_evaluation",
        required=True,
        status=status or "passed",
        reason="+1",
        value=value,
    )
    other = compared.model_copy(update={"check": "Other"})
    return Verdict(
        model="genre",
        task="classification",
        model_digest="sha256:0",
        policy_digest="sha256:0",
        dataset_digests={},
        incumbent=Incumbent(version=1, digest="sha256:1") if incumbent else None,
        outcomes=(other, *([compared] if status else [])),
    )


@pytest.mark.parametrize(
    ("found", "policy", "goes"),
    [
        (verdict("passed", 0.1), "production", True),
        (verdict(None, incumbent=False), "production", True),
        (verdict("passed", 0.1), "staging", False),
        (verdict(None, incumbent=False), "staging", False),
        (verdict("passed", 0.0), "production", False),
        (verdict("passed", -0.01), "production", False),  # no worse beyond noise, which the gate lets pass
        (verdict("failed", 0.1), "production", False),
        (verdict("error"), "production", False),
        (verdict(None), "production", False),
    ],
)
def test_policy(found: Verdict, policy: str, goes: bool) -> None:
    ahead, why = may_go_to_production(found, policy)
    assert ahead is goes
    assert why


def test_policy_is_staging_unless_said_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENROOM_HOME", str(tmp_path))
    assert MonitorSettings().retrain_promotes == "staging"
    monkeypatch.setenv("GREENROOM_RETRAIN_PROMOTES", "always")
    with pytest.raises(ValueError, match="retrain_promotes"):
        MonitorSettings()


def deployments(entrypoint: str) -> dict[str, Any]:
    declared = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))["deployments"]
    return {one["name"]: one for one in declared if one["entrypoint"] == entrypoint}


def test_every_model_is_monitored_and_retrained_by_its_own_event() -> None:
    names = set(load_catalog())
    looked, trained = (
        deployments("flows.monitoring.flow.monitor"),
        deployments("flows.monitoring.retrain.retrain"),
    )
    assert set(looked) == set(trained) == names
    for name in names:
        assert looked[name]["parameters"] == trained[name]["parameters"] == {"model": name}
        assert looked[name]["schedules"]
        (trigger,) = trained[name]["triggers"]
        assert trigger["expect"] == [EVENT]
        assert trigger["match"] == {"prefect.resource.id": f"greenroom.model.{name}"}
        assert trigger["parameters"] == {"model": name}
