"""Registers versions in a real tracking server through its REST API."""

from typing import Any
from uuid import uuid4

from catalog.spec import Check, GatePolicy
from registry.client.registry import MODEL_FILE, Registry, Version
from registry.client.tracking_client import TrackingClient
from registry.digests import digest
from registry.evidence.verdict import VERDICT_ARTIFACT, CheckOutcome, Verdict, policy_digest
from registry.settings import KeySettings
from tests.evidence import MLMODEL, Gate, outcome

POLICY = GatePolicy(
    checks=(
        Check(check="Performance", suite="model_evaluation", condition="c", why="w"),
        Check(check="Drift", suite="train_test_validation", condition="c", why="w"),
        Check(check="Segments", suite="model_evaluation", condition="c", required=False, why="w"),
    )
)
CONTENT = b"the bytes of a model"


def verdict(model: str, *outcomes: CheckOutcome, content: bytes = CONTENT) -> Verdict:
    """Return a verdict about `content`; without outcomes, one that passes POLICY."""
    return Verdict(
        model=model,
        task="regression",
        model_digest=digest(content),
        policy_digest=policy_digest(POLICY),
        dataset_digests={"train": "sha256:" + "0" * 64},
        outcomes=outcomes
        or (outcome("Performance"), outcome("Drift"), outcome("Segments", "failed", required=False)),
    )


class Registrar:
    """Makes versions of a model with a name of its own."""

    def __init__(self, client: TrackingClient, settings: KeySettings) -> None:
        self.client = client
        self.registry = Registry(client)
        self.gate = Gate(client, settings)
        self.name = f"t{uuid4().hex[:10]}"
        client.post("registered-models/create", {"name": self.name})
        self._experiment = client.post("experiments/create", {"name": self.name})["experiment_id"]

    def run(self, evidence: Verdict | bytes | None = None) -> dict[str, Any]:
        """Make a run that holds a verdict, if one is given; return what MLflow says of it."""
        answer = self.client.post("runs/create", {"experiment_id": self._experiment, "start_time": 1})
        info: dict[str, Any] = answer["run"]["info"]
        if evidence is not None:
            raw = evidence if isinstance(evidence, bytes) else evidence.model_dump_json().encode()
            self.client.put_artifact(info["artifact_uri"], VERDICT_ARTIFACT, raw)
        return info

    def logged_model(self, content: bytes | None = CONTENT, run_id: str | None = None) -> dict[str, Any]:
        """Log a model of two files, as MLflow 3 does: beside the runs, under an id of its own."""
        body = {"experiment_id": self._experiment, "name": self.name}
        if run_id:
            body["source_run_id"] = run_id
        made: dict[str, Any] = self.client.post("logged-models", body)["model"]["info"]
        self.client.put_artifact(made["artifact_uri"], "MLmodel", MLMODEL)
        if content is not None:
            self.client.put_artifact(made["artifact_uri"], MODEL_FILE, content)
        return made

    def version(self, evidence: Verdict | bytes | None = None, *, content: bytes | None = CONTENT) -> Version:
        """Register a version of a model that a run logged, with a verdict in that run if one is given."""
        run_id = self.run(evidence)["run_id"]
        return self._registered({**self._source(content, run_id), "run_id": run_id})

    def version_without_run(self) -> Version:
        """Register a version from a model that was logged outside of any run."""
        return self._registered(self._source(CONTENT, None))

    def good(self) -> Version:
        """Register a version whose evidence allows it to go to Production now."""
        return self.gate.attest(self.version(verdict(self.name)))

    def in_production(self) -> Version:
        """Register a version and take it to Production."""
        return self.gate.to_production(self.version(verdict(self.name)))

    def artifact_uri(self, version: Version) -> str:
        """Return where a version's files are."""
        answer = self.client.get(
            "model-versions/get-download-uri", {"name": self.name, "version": version.number}
        )
        return str(answer["artifact_uri"])

    def _source(self, content: bytes | None, run_id: str | None) -> dict[str, str]:
        model_id = self.logged_model(content, run_id)["model_id"]
        return {"source": f"models:/{model_id}", "model_id": model_id}

    def _registered(self, body: dict[str, str]) -> Version:
        made = self.client.post("model-versions/create", {"name": self.name, **body})["model_version"]
        return self.registry.version(self.name, int(made["version"]))
