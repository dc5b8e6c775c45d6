"""Signs evidence as the gate would, for versions that tests make up; the server that judges it is real."""

from datetime import datetime
from typing import Any

from catalog.spec import GatePolicy
from registry.client.registry import MODEL_FILE, Registry, Version, digest_of
from registry.client.tracking_client import TrackingClient
from registry.evidence import keys
from registry.evidence.attestation import attest_verdict
from registry.evidence.verdict import CheckOutcome, Incumbent, Status, Verdict, policy_digest
from registry.names import EVIDENCE, Stage
from registry.settings import KeySettings
from tests.conftest import Stack

# What MLflow's ONNX flavour writes, in short.
MLMODEL = b"""flavors:
  onnx: {data: model.onnx}
  python_function:
    data: model.onnx
    env: {conda: conda.yaml, virtualenv: python_env.yaml}
    loader_module: mlflow.onnx
"""
# Of nothing that there is.
NO_DIGEST = "sha256:" + "0" * 64


def key_settings(stack: Stack) -> KeySettings:
    """Return the keys of a stack; an operator's is made when it is first asked for."""
    folder = stack.home / "keys"
    settings = KeySettings(
        gate_key=str(folder / "gate.pem"),
        operator_key=str(folder / "operator.pem"),
        trusted_keys=str(folder / "trusted"),
    )
    if not settings.operator_key_path.exists():
        keys.create("operator", settings)
    return settings


class Gate:
    """Signs what it is told to, with a stack's own gate key."""

    def __init__(self, client: TrackingClient, settings: KeySettings) -> None:
        self.registry = Registry(client)
        self.settings = settings

    def envelope(
        self,
        version: Version,
        *,
        passed: bool = True,
        policy: GatePolicy | None = None,
        created_at: datetime | None = None,
        signer: Any = None,
        **changed: Any,
    ) -> str:
        """Return signed evidence about a version and the incumbent of now; arguments say what to get wrong.

        `changed` are `version`, `source`, `files`, `model` or `incumbent`.
        """
        files = changed.get("files", self.registry.files(version))
        current = self.registry.in_stage(version.model, Stage.PRODUCTION)
        if current and current.number == version.number:
            current = None
        incumbent: Incumbent | None = self.registry.evidence_identity(current) if current else None
        verdict = Verdict(
            model=changed.get("model", version.model),
            task="regression",
            model_digest=digest_of(files, MODEL_FILE) or NO_DIGEST,
            policy_digest=policy_digest(policy) if policy else NO_DIGEST,
            dataset_digests={"train": "sha256:" + "1" * 64, "test": "sha256:" + "2" * 64},
            incumbent=changed.get("incumbent", incumbent),
            outcomes=(outcome("Performance", "passed" if passed else "failed"),),
        )
        return attest_verdict(
            verdict,
            version=changed.get("version", version.number),
            source=changed.get("source", version.source),
            files=files,
            report_digest="sha256:" + "3" * 64,
            signer=signer or keys.signer("gate", self.settings),
            created_at=created_at,
        )

    def attest(self, version: Version, **wrong: Any) -> Version:
        """Put such evidence on the version."""
        self.registry.tag(version, EVIDENCE, self.envelope(version, **wrong))
        return self.registry.version(version.model, version.number)

    def to_production(self, version: Version) -> Version:
        """Attest a version and promote it."""
        self.attest(version)
        self.registry.promote(version, Stage.STAGING)
        return self.registry.promote(version, Stage.PRODUCTION)


def outcome(check: str, status: Status = "passed", *, required: bool = True) -> CheckOutcome:
    """Return the outcome of one check."""
    return CheckOutcome(
        check=check, suite="model_evaluation", required=required, status=status, reason=f"{check}: 1 < 2"
    )
