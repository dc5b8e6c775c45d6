"""Registers versions in a real tracking server through its REST API."""

from typing import Any
from uuid import uuid4

from catalog.spec import Check, GatePolicy
from registry.client import TrackingClient
from registry.evidence import VERDICT_ARTIFACT, CheckOutcome, Status, Verdict, digest, policy_digest
from registry.stages import MODEL_FILE, Registry, Version

POLICY = GatePolicy(
    checks=(
        Check(check="Performance", suite="model_evaluation", condition="c", why="w"),
        Check(check="Drift", suite="train_test_validation", condition="c", why="w"),
        Check(check="Segments", suite="model_evaluation", condition="c", required=False, why="w"),
    )
)
CONTENT = b"the bytes of a model"


def outcome(check: str, status: Status = "passed", *, required: bool = True) -> CheckOutcome:
    return CheckOutcome(
        check=check, suite="model_evaluation", required=required, status=status, reason=f"{check}: 1 < 2"
    )


def verdict(model: str, *outcomes: CheckOutcome, content: bytes = CONTENT) -> Verdict:
    """Return a verdict about `content`; without outcomes, one that passes POLICY."""
    return Verdict(
        model=model,
        task="regression",
        model_digest=digest(content),
        policy_digest=policy_digest(POLICY),
        dataset_digests={"train": "sha256:0"},
        outcomes=outcomes
        or (outcome("Performance"), outcome("Drift"), outcome("Segments", "failed", required=False)),
    )


class Registrar:
    """Makes versions of a model with a name of its own."""

    def __init__(self, client: TrackingClient) -> None:
        self.client = client
        self.registry = Registry(client)
        self.name = f"t{uuid4().hex[:10]}"
        client.post("registered-models/create", {"name": self.name})
        self._experiment = client.post("experiments/create", {"name": self.name})["experiment_id"]

    def run(self, evidence: Verdict | bytes | None, content: bytes | None) -> dict[str, Any]:
        """Make a run that holds the model's bytes and a verdict; return what MLflow says of it."""
        answer = self.client.post("runs/create", {"experiment_id": self._experiment, "start_time": 1})
        info: dict[str, Any] = answer["run"]["info"]
        if content is not None:
            self.client.put_artifact(info["artifact_uri"], MODEL_FILE, content)
        if evidence is not None:
            raw = evidence if isinstance(evidence, bytes) else evidence.model_dump_json().encode()
            self.client.put_artifact(info["artifact_uri"], VERDICT_ARTIFACT, raw)
        return info

    def version(self, evidence: Verdict | bytes | None = None, *, content: bytes | None = CONTENT) -> Version:
        """Register a version from a run with some evidence."""
        info = self.run(evidence, content)
        return self._registered({"source": info["artifact_uri"], "run_id": info["run_id"]})

    def version_without_run(self) -> Version:
        """Register a version from a model that was logged outside of any run."""
        made = self.client.post("logged-models", {"experiment_id": self._experiment, "name": self.name})
        model = made["model"]["info"]
        self.client.put_artifact(model["artifact_uri"], MODEL_FILE, CONTENT)
        source = f"models:/{model['model_id']}"
        return self._registered({"source": source, "model_id": model["model_id"]})

    def _registered(self, body: dict[str, str]) -> Version:
        made = self.client.post("model-versions/create", {"name": self.name, **body})["model_version"]
        return self.registry.version(self.name, int(made["version"]))

    def good(self) -> Version:
        """Register a version with a passing verdict on its bytes."""
        return self.version(verdict(self.name))
