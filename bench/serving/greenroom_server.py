"""A private local stack with models in Production, and predictors that serve them."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from bench.__main__ import SERVICES, free_port
from bench.serving.models import FIVE
from bench.serving.processes import Running, clean_environment, start, wait
from catalog.loader import load_catalog
from infra.local.supervisor import marked
from registry.client.registry import MODEL_FILE, Registry, Version, digest_of
from registry.client.tracking_client import TrackingClient
from registry.evidence.verdict import CheckOutcome, Verdict, policy_digest
from registry.names import Stage
from registry.settings import KeySettings, RegistrySettings

PREDICTOR = (sys.executable, "-m", "serving")

# As MLflow's ONNX flavour writes it.
MLMODEL = b"""flavors:
  onnx: {data: model.onnx}
  python_function:
    data: model.onnx
    env: {conda: conda.yaml, virtualenv: python_env.yaml}
    loader_module: mlflow.onnx
"""


@dataclass(frozen=True)
class House:
    """A stack: its home, its tracking server, and where extra declarations are."""

    home: Path
    url: str
    catalog: Path

    def client(self) -> TrackingClient:
        """Return a client of the tracking server."""
        return TrackingClient(RegistrySettings(tracking_uri=self.url))

    def tracking_server(self) -> list[psutil.Process]:
        """Return the processes of MLflow's server."""
        return [process for process, _, _ in marked("mlflow")]


@contextmanager
def house(folder: Path, catalog: Path) -> Iterator[House]:
    """Start a stack in `folder` on free ports without training; stops it at the end.

    Ends the stack's own predictor and Prefect at once: nothing here needs them, and they take CPU time.
    """
    ports = {name: free_port() for name in SERVICES}
    home = folder / "home"
    # This process's own settings too: it signs with the stack's gate key.
    os.environ["GREENROOM_HOME"] = str(home)
    os.environ["GREENROOM_LOCAL_WORKER"] = "false"  # it would take CPU time
    os.environ.update({f"GREENROOM_{name}_PORT": str(port) for name, port in ports.items()})
    greenroom = str(Path(sys.executable).parent / "greenroom")
    try:
        subprocess.run([greenroom, "up", "--no-train"], check=True, stdout=subprocess.DEVNULL)
        _end("predictor", "prefect")
        yield House(home, f"http://127.0.0.1:{ports['MLFLOW']}", catalog)
    finally:
        subprocess.run([greenroom, "down"], check=False, stdout=subprocess.DEVNULL)


def _end(*services: str) -> None:
    found = [process for service in services for process, _, _ in marked(service)]
    for process in found:
        process.terminate()
    _, alive = psutil.wait_procs(found, timeout=15)
    for process in alive:
        process.kill()


def publish(client: TrackingClient, name: str, content: bytes) -> Version:
    """Register a version with these bytes, sign that it passed the gate, and put it into Production."""
    registry = Registry(client)
    if name not in registry.models():
        client.post("registered-models/create", {"name": name})
        client.post("experiments/create", {"name": name})
    experiment = client.get("experiments/get-by-name", {"experiment_name": name})["experiment"]
    about = {"experiment_id": experiment["experiment_id"]}
    run = client.post("runs/create", {**about, "start_time": int(time.time() * 1000)})["run"]["info"]
    made = client.post("logged-models", {**about, "name": name})["model"]["info"]
    client.put_artifact(made["artifact_uri"], "MLmodel", MLMODEL)
    client.put_artifact(made["artifact_uri"], MODEL_FILE, content)
    body = {"name": name, "source": f"models:/{made['model_id']}", "model_id": made["model_id"]}
    answer = client.post("model-versions/create", {**body, "run_id": run["run_id"]})
    version = registry.version(name, int(answer["model_version"]["version"]))
    return promote(registry, version)


def promote(registry: Registry, version: Version) -> Version:
    """Sign a verdict on a version, against the one in Production now, and promote it."""
    # The server compares the policy with its catalogue; an extra model has the policy of its base.
    spec = load_catalog()[FIVE.get(version.model, (version.model,))[0]]
    current = registry.in_stage(version.model, Stage.PRODUCTION)
    files = registry.files(version)
    passed = CheckOutcome(check="Bench", suite="model_evaluation", required=True, status="passed", reason="-")
    verdict = Verdict(
        model=version.model,
        task=spec.task,
        model_digest=digest_of(files, MODEL_FILE) or "",
        policy_digest=policy_digest(spec.gate),
        dataset_digests={},
        incumbent=registry.evidence_identity(current) if current else None,
        outcomes=(passed,),
    )
    registry.attest(version, verdict, KeySettings(), {})
    for stage in (Stage.STAGING, Stage.PRODUCTION):
        version = registry.promote(version, stage)
    return version


@dataclass
class Predictor:
    """A predictor process of a house."""

    running: Running
    url: str
    ready_after: float

    def serving(self) -> dict[str, int]:
        """Return the version of each model that is served."""
        models = httpx.get(f"{self.url}/readyz", timeout=5).json()["models"]
        return {name: model["version"] for name, model in models.items() if model["status"] == "serving"}


def predictor(
    of: House, cache: Path, *, models: int, command: tuple[str, ...] = PREDICTOR, **settings: str
) -> Predictor:
    """Start `python -m serving`, or another command; return it when it serves that many models."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = clean_environment(
        GREENROOM_HOME=str(of.home),
        GREENROOM_TRACKING_URI=of.url,
        GREENROOM_CATALOG_PATH=str(of.catalog),
        GREENROOM_SERVING_PORT=str(port),
        GREENROOM_SERVING_CACHE=str(cache),
        # No server writes a line per request.
        GREENROOM_SERVING_LOG_FORMAT="quiet",
    )
    began = time.monotonic()
    running = start(command, of.home / "logs" / f"bench-{port}.log", {**environment, **settings})
    started = Predictor(running, url, 0.0)
    try:
        wait(running, lambda: len(started.serving()) >= models, 60, every=0.01)
    except BaseException:
        running.stop()
        raise
    started.ready_after = time.monotonic() - began
    return started
