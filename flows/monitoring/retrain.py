"""The flow that drift starts: train, gate, and take what passed as far as the policy lets it."""

from dataclasses import dataclass

from prefect import flow, get_run_logger, task

from catalog.spec import ModelSpec
from checks.comparison import INCUMBENT_COMPARISON
from flows.monitoring.settings import MonitorSettings
from flows.orchestration.notifications import HOOKS, tell_outcome
from flows.orchestration.retries import BOUNDED
from flows.training.flow import training
from flows.training.outcome import Outcome
from registry.client.registry import Registry
from registry.client.tracking_client import TrackingClient
from registry.errors import EvidenceError, RegistryRefusedError
from registry.evidence.verdict import Verdict
from registry.names import Stage
from registry.notify.people import notify

REASON = "Trained because of drift"


@dataclass(frozen=True)
class Retrained:
    """A new version, where it is, and why it is not further up."""

    model: str
    version: int
    stage: str
    why: str


@flow(name="retrain", flow_run_name="retrain-{model}", validate_parameters=False, **HOOKS)
def retrain(model: str) -> Retrained:
    """Train a model of the catalogue; take the version that the gate let pass to Staging.

    With GREENROOM_RETRAIN_PROMOTES=production it goes on to Production if it scores higher than the version
    there, by the gate's own comparison, or if there is none. Raises like the flow `train`.
    """
    why = ["refused by the gate"]

    def last(spec: ModelSpec, number: int) -> tuple[str, list[str]]:
        stage, why[0], refused = take_up(spec.name, number, MonitorSettings().retrain_promotes)
        return stage, [why[0]] if refused else []

    def tell(outcome: Outcome) -> None:
        if outcome.refusals:
            tell_outcome(outcome)
            return
        version = f"{outcome.model} version {outcome.version}"
        notify("promoted", f"Greenroom: {version} is in {outcome.stage}", f"{REASON}. {why[0]}")

    outcome = training(model, last=last, tell=tell)
    if outcome.passed and outcome.refusals:
        why[0] = "; ".join(outcome.refusals)
    get_run_logger().info("%s version %d is in %s: %s", model, outcome.version, outcome.stage, why[0])
    return Retrained(model, outcome.version, outcome.stage, why[0])


@task(**BOUNDED)
def take_up(model: str, number: int, policy: str) -> tuple[str, str, bool]:
    """Move a version up; return where it is then, why there, and whether the server refused to move it."""
    with TrackingClient() as client:
        registry = Registry(client)
        version = registry.version(model, number)
        if version.stage is Stage.PRODUCTION:  # a try before this one got that far
            return version.stage.value, "it is there already", False
        try:
            version = registry.promote(version, Stage.STAGING, REASON)
            ahead, why = may_go_on(registry.verdict(version), policy)
            if ahead:
                version = registry.promote(version, Stage.PRODUCTION, f"{REASON}; {why}")
        except (RegistryRefusedError, EvidenceError) as error:
            return version.stage.value, str(error), True
    return version.stage.value, why, False


def may_go_on(verdict: Verdict, policy: str) -> tuple[bool, str]:
    """Return whether a version in Staging goes on to Production by itself, and why."""
    if policy != "production":
        return False, "it waits in Staging for a person (GREENROOM_RETRAIN_PROMOTES=staging)"
    if verdict.incumbent is None:
        return True, "there is no version in Production to compare with"
    compared = next((o for o in verdict.outcomes if o.check == INCUMBENT_COMPARISON), None)
    if compared is None or compared.status != "passed" or compared.value is None:
        return False, "it waits in Staging: the gate did not compare it"
    if compared.value <= 0:
        return False, f"it waits in Staging, for it is no better: {compared.reason}"
    return True, compared.reason
