"""The flow that drift starts: train, gate, and promote as far as the policy allows."""

from dataclasses import dataclass

from prefect import flow, get_run_logger, task

from catalog.spec import ModelSpec
from checks.comparison import INCUMBENT_COMPARISON
from flows.monitoring.settings import MonitorSettings
from flows.orchestration.notifications import HOOKS
from flows.orchestration.retries import BOUNDED
from flows.training.flow import run_training
from flows.training.outcome import TrainingOutcome, notify_outcome
from registry.client.registry import Registry
from registry.client.tracking_client import TrackingClient
from registry.errors import EvidenceError, RegistryRefusedError
from registry.evidence.verdict import Verdict
from registry.names import Stage
from registry.notify.people import notify

REASON = "Trained because of drift"


@dataclass(frozen=True)
class RetrainingResult:
    """A new version, its stage, and the reason why it is in no higher stage."""

    model: str
    version: int
    stage: str
    why: str


@flow(name="retrain", flow_run_name="retrain-{model}", validate_parameters=False, **HOOKS)
def retrain(model: str) -> RetrainingResult:
    """Train a model of the catalogue; move the version to Staging if it passed the gate.

    With GREENROOM_RETRAIN_PROMOTES=production the version goes on to Production if it scores higher than the
    version there, by the gate's own comparison, or if there is none. Raises like the flow `train`.
    """
    promotion = _DriftPromotion(MonitorSettings().retrain_promotes)
    outcome = run_training(model, promote=promotion.promote, notify=promotion.notify)
    why = "; ".join(outcome.refusals) if outcome.passed and outcome.refusals else promotion.why
    get_run_logger().info("%s version %d is in %s: %s", model, outcome.version, outcome.stage, why)
    return RetrainingResult(model, outcome.version, outcome.stage, why)


class _DriftPromotion:
    """The last step of a training because of drift; keeps the reason for the version's stage in `why`."""

    def __init__(self, policy: str) -> None:
        self._policy, self.why = policy, "refused by the gate"

    def promote(self, spec: ModelSpec, number: int) -> tuple[str, list[str]]:
        """Promote a version that passed the gate; return its stage and the server's refusals."""
        stage, self.why, refused = promote_by_policy(spec.name, number, self._policy)
        return stage, [self.why] if refused else []

    def notify(self, outcome: TrainingOutcome) -> None:
        """Notify people of a refusal, or of the stage and why the version is there."""
        if outcome.refusals:
            notify_outcome(outcome)
            return
        version = f"{outcome.model} version {outcome.version}"
        notify("promoted", f"Greenroom: {version} is in {outcome.stage}", f"{REASON}. {self.why}")


@task(**BOUNDED)
def promote_by_policy(model: str, number: int, policy: str) -> tuple[str, str, bool]:
    """Promote a version as far as the policy allows.

    Return its stage, the reason for that stage, and whether the server refused a promotion.
    """
    with TrackingClient() as client:
        registry = Registry(client)
        version = registry.version(model, number)
        if version.stage is Stage.PRODUCTION:  # an earlier try of this task promoted it
            return version.stage.value, "it is there already", False
        try:
            version = registry.promote(version, Stage.STAGING, REASON)
            allowed, why = may_go_to_production(registry.verdict(version), policy)
            if allowed:
                version = registry.promote(version, Stage.PRODUCTION, f"{REASON}; {why}")
        except (RegistryRefusedError, EvidenceError) as error:
            return version.stage.value, str(error), True
    return version.stage.value, why, False


def may_go_to_production(verdict: Verdict, policy: str) -> tuple[bool, str]:
    """Return whether a version in Staging goes to Production without a person, and why."""
    if policy != "production":
        return False, "it waits in Staging for a person (GREENROOM_RETRAIN_PROMOTES=staging)"
    if verdict.incumbent is None:
        return True, "there is no version in Production to compare with"
    comparison = next((o for o in verdict.outcomes if o.check == INCUMBENT_COMPARISON), None)
    if comparison is None or comparison.status != "passed" or comparison.value is None:
        return False, "it waits in Staging: the gate did not compare it"
    if comparison.value <= 0:
        return False, f"it waits in Staging, for it is no better: {comparison.reason}"
    return True, comparison.reason
