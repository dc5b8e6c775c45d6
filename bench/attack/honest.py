"""What is there by right before anything is attacked: versions that the gate's key has signed."""

from typing import Any
from uuid import uuid4

from bench.attack.target import Target
from registry.client.registry import MODEL_FILE, Registry, Version, digest_of
from registry.digests import tree_digest
from registry.evidence import keys
from registry.evidence.attestation import attest_verdict
from registry.evidence.verdict import CheckOutcome, Status, Verdict
from registry.names import EVIDENCE, Stage

# What MLflow's ONNX flavour writes, in short.
MLMODEL = b"""flavors:
  onnx: {data: model.onnx}
  python_function:
    data: model.onnx
    env: {conda: conda.yaml, virtualenv: python_env.yaml}
    loader_module: mlflow.onnx
"""
CONTENT = b"the bytes of a model"


def prepare(target: Target) -> None:
    """Make the model of the stand: version 1 in Production with the alias `champion`, 2 in Staging, 3 that the
    gate never saw, 4 that it refused.
    """
    target.model = f"attack-{uuid4().hex[:8]}"
    experiment = new_model(target, target.model)
    target.places = {"experiment": experiment}
    made = [register(target, target.model, experiment) for _ in range(4)]
    registry = Registry(target.client)
    move(target, attest(target, made[0]), Stage.STAGING)
    move(target, made[0], Stage.PRODUCTION)
    alias = {"name": target.model, "alias": "champion", "version": "1"}
    target.client.post("registered-models/alias", alias)
    move(target, attest(target, made[1]), Stage.STAGING)
    attest(target, made[3], status="failed")
    for version in made:
        number = version.number
        target.places |= {
            f"source{number}": version.source,
            f"model{number}": version.source.removeprefix("models:/"),
            f"run{number}": version.run_id,
            f"files{number}": location(target, version),
            f"artifacts{number}": str(registry.run(version)["info"]["artifact_uri"]),
            f"evidence{number}": registry.version(target.model, number).tags.get(EVIDENCE, ""),
        }


def prey(
    target: Target, stage: Stage | None = Stage.PRODUCTION, *, attested: bool = True, experiment: str = ""
) -> Version:
    """Make a model of one version for a way that damages what it is tried on."""
    name = f"prey-{uuid4().hex[:10]}"
    own = new_model(target, name)
    version = register(target, name, experiment or own)
    if not attested:
        return version
    version = attest(target, version)
    if stage is not None:
        move(target, version, Stage.STAGING)
    if stage is Stage.PRODUCTION:
        move(target, version, Stage.PRODUCTION)
    return Registry(target.client).version(name, version.number)


def new_model(target: Target, name: str) -> str:
    """Register a model without versions; returns the id of an experiment for its runs."""
    target.client.post("registered-models/create", {"name": name})
    return str(target.client.post("experiments/create", {"name": name})["experiment_id"])


def register(target: Target, name: str, experiment: str, content: bytes = CONTENT) -> Version:
    """Register a version of a model that a run logged."""
    client = target.client
    run = client.post("runs/create", {"experiment_id": experiment, "start_time": 1})["run"]["info"]
    body = {"experiment_id": experiment, "name": name, "source_run_id": run["run_id"]}
    logged: dict[str, Any] = client.post("logged-models", body)["model"]["info"]
    client.put_artifact(logged["artifact_uri"], "MLmodel", MLMODEL)
    client.put_artifact(logged["artifact_uri"], MODEL_FILE, content)
    about = {"source": f"models:/{logged['model_id']}", "model_id": logged["model_id"]}
    answer = client.post("model-versions/create", {"name": name, "run_id": run["run_id"], **about})
    return Registry(client).version(name, int(answer["model_version"]["version"]))


def attest(target: Target, version: Version, status: Status = "passed") -> Version:
    """Put signed evidence on a version, as the gate does."""
    registry = Registry(target.client)
    registry.tag(version, EVIDENCE, envelope(target, version, status=status))
    return registry.version(version.model, version.number)


def envelope(target: Target, version: Version, *, status: Status = "passed", signer: Any = None) -> str:
    """Return evidence about a version, signed with the gate's key or with another."""
    registry = Registry(target.client)
    files = registry.files(version)
    current = registry.in_stage(version.model, Stage.PRODUCTION)
    incumbent = registry.evidence_identity(current) if current and current.number != version.number else None
    outcome = CheckOutcome(
        check="Performance", suite="model_evaluation", required=True, status=status, reason="1 < 2"
    )
    verdict = Verdict(
        model=version.model,
        task="regression",
        model_digest=digest_of(files, MODEL_FILE) or "",
        policy_digest="sha256:" + "0" * 64,
        dataset_digests={"train": "sha256:" + "1" * 64, "test": "sha256:" + "2" * 64},
        incumbent=incumbent,
        outcomes=(outcome,),
    )
    return attest_verdict(
        verdict,
        version=version.number,
        source=version.source,
        files=files,
        report_digest=tree_digest({}),
        signer=signer or keys.signer("gate", target.keys),
    )


def move(target: Target, version: Version, stage: Stage) -> Version:
    """Move a version by right."""
    return Registry(target.client).promote(version, stage)


def location(target: Target, version: Version) -> str:
    """Return where a version's files are."""
    about = {"name": version.model, "version": version.number}
    return str(target.client.get("model-versions/get-download-uri", about)["artifact_uri"])
