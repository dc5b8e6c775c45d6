"""The flow that drift starts: train, gate, and take what passed as far as the policy lets it."""

from dataclasses import dataclass

from prefect import flow, get_run_logger, task

from checks.comparing import NAME as COMPARISON
from flows.monitor_settings import MonitorSettings
from flows.notifying import HOOKS
from flows.retrying import RETRIES
from flows.train import train
from registry.announcing import announce
from registry.client import TrackingClient
from registry.errors import EvidenceError, RegistryRefusedError
from registry.evidence import Verdict
from registry.nudging import nudge
from registry.stage import Stage
from registry.stages import Registry

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
    outcome = train(model)
    if not outcome.passed:
        return Retrained(model, outcome.version, Stage.NONE.value, "refused by the gate")
    stage, why = take_up(model, outcome.version, MonitorSettings().retrain_promotes)
    get_run_logger().info("%s version %d is in %s: %s", model, outcome.version, stage, why)
    return Retrained(model, outcome.version, stage, why)


@task(**RETRIES)
def take_up(model: str, number: int, policy: str) -> tuple[str, str]:
    """Move a version up and return where it is then, and why there; the server may refuse, which is told."""
    with TrackingClient() as client:
        registry = Registry(client)
        version = registry.version(model, number)
        if version.stage is Stage.PRODUCTION:  # a try before this one got that far
            return version.stage.value, "it is there already"
        try:
            version = registry.promote(version, Stage.STAGING, REASON)
            ahead, why = may_go_on(registry.verdict(version), policy)
            if ahead:
                version = registry.promote(version, Stage.PRODUCTION, f"{REASON}; {why}")
                nudge(lambda text: get_run_logger().warning(text))
        except (RegistryRefusedError, EvidenceError) as error:
            announce("refused", f"Greenroom: {version} was refused", str(error))
            return version.stage.value, str(error)
    announce("promoted", f"Greenroom: {version} is in {version.stage}", f"{REASON}. {why}")
    return version.stage.value, why


def may_go_on(verdict: Verdict, policy: str) -> tuple[bool, str]:
    """Return whether a version in Staging goes on to Production by itself, and why."""
    if policy != "production":
        return False, "it waits in Staging for a person (GREENROOM_RETRAIN_PROMOTES=staging)"
    if verdict.incumbent is None:
        return True, "there is no version in Production to compare with"
    compared = next((o for o in verdict.outcomes if o.check == COMPARISON), None)
    if compared is None or compared.status != "passed" or compared.value is None:
        return False, "it waits in Staging: the gate did not compare it"
    if compared.value <= 0:
        return False, f"it waits in Staging, for it is no better: {compared.reason}"
    return True, compared.reason
