"""`make bench-registry`: the cost of the guard: MLflow's server with it and without it.

Starts a stack in a temporary home on free ports, and a second, plain `mlflow server` on the same PostgreSQL
and S3 with its own database. Each request is sent to both in turn, many times; the table for
docs/benchmarks.md has medians.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg2

from bench.__main__ import SERVICES, free_port
from registry.client.registry import MODEL_FILE, Registry, Version, digest_of
from registry.client.tracking_client import TrackingClient
from registry.evidence import keys
from registry.evidence.attestation import attest_verdict
from registry.evidence.verdict import CheckOutcome, Verdict
from registry.names import EVIDENCE
from registry.settings import KeySettings, RegistrySettings

TIMES = 200
NAME = "bench"
MODEL = b"0" * 3_000_000  # about as large as the largest model of the catalogue


def main() -> None:
    """Measure and print Markdown."""
    with (
        tempfile.TemporaryDirectory(prefix="greenroom-bench-") as folder,
        _servers(Path(folder)) as (url, plain),
    ):
        found = {
            "`log-metric`": _both(url, plain, _log_metric),
            "`model-versions/get`": _both(url, plain, _get),
            "`model-versions/set-tag`, no reserved one": _both(url, plain, _set_tag),
            "`transition-stage` to Archived": _both(url, plain, _move("Archived")),
            "`transition-stage` to Staging, 3 MB of files": _both(url, plain, _move("Staging")),
        }
    sys.stdout.write("| request | without, ms | with, ms | ratio |\n|---|---:|---:|---:|\n")
    for name, (without, with_it) in found.items():
        sys.stdout.write(f"| {name} | {without:.1f} | {with_it:.1f} | {with_it / without:.2f} |\n")


Ask = Callable[[httpx.Client, Version], httpx.Response]


def _log_metric(http: httpx.Client, version: Version) -> httpx.Response:
    now = int(time.time() * 1000)
    return http.post(
        "runs/log-metric", json={"run_id": version.run_id, "key": "m", "value": 1.0, "timestamp": now}
    )


def _get(http: httpx.Client, version: Version) -> httpx.Response:
    return http.get("model-versions/get", params={"name": NAME, "version": version.number})


def _set_tag(http: httpx.Client, version: Version) -> httpx.Response:
    body = {"name": NAME, "version": str(version.number), "key": "note", "value": str(time.time())}
    return http.post("model-versions/set-tag", json=body)


def _move(stage: str) -> Ask:
    def move(http: httpx.Client, version: Version) -> httpx.Response:
        about = {"name": NAME, "version": str(version.number), "archive_existing_versions": False}
        other = "Archived" if stage == "Staging" else "None"
        http.post("model-versions/transition-stage", json={**about, "stage": other}).raise_for_status()
        began = time.perf_counter()
        answer = http.post("model-versions/transition-stage", json={**about, "stage": stage})
        answer.extensions["seconds"] = time.perf_counter() - began  # not the move before, which only prepares
        return answer

    return move


def _both(url: str, plain: str, ask: Ask) -> tuple[float, float]:
    """Return the median of each server's answers in milliseconds, the plain one's first."""
    taken: tuple[list[float], list[float]] = ([], [])
    with _client(plain) as without, _client(url) as guarded:
        sides = [(without, _prepared(plain)), (guarded, _prepared(url))]
        for turn in range(TIMES + 20):
            for (http, version), times in zip(sides, taken, strict=True):
                began = time.perf_counter()
                answer = ask(http, version)
                seconds = answer.extensions.get("seconds", time.perf_counter() - began)
                answer.raise_for_status()
                if turn >= 20:  # the first ones warm up
                    times.append(seconds * 1000)
    return statistics.median(taken[0]), statistics.median(taken[1])


def _client(url: str) -> httpx.Client:
    return httpx.Client(base_url=f"{url}/api/2.0/mlflow/", timeout=60)


def _prepared(url: str) -> Version:
    """Return a new version, with a run, two files and, where there is a guard, evidence."""
    with TrackingClient(RegistrySettings(tracking_uri=url)) as client:
        registry = Registry(client)
        if NAME not in registry.models():
            client.post("registered-models/create", {"name": NAME})
            client.post("experiments/create", {"name": NAME})
        experiment = client.get("experiments/get-by-name", {"experiment_name": NAME})["experiment"]
        experiment_id = experiment["experiment_id"]
        run = client.post("runs/create", {"experiment_id": experiment_id, "start_time": 1})["run"]["info"]
        made = client.post("logged-models", {"experiment_id": experiment_id, "name": NAME})["model"]["info"]
        client.put_artifact(made["artifact_uri"], "MLmodel", b"flavors: {}")
        client.put_artifact(made["artifact_uri"], MODEL_FILE, MODEL)
        body = {"name": NAME, "source": f"models:/{made['model_id']}", "model_id": made["model_id"]}
        answer = client.post("model-versions/create", {**body, "run_id": run["run_id"]})
        version = registry.version(NAME, int(answer["model_version"]["version"]))
        registry.tag(version, EVIDENCE, _evidence(registry, version))
    return version


def _evidence(registry: Registry, version: Version) -> str:
    files = registry.files(version)
    passed = CheckOutcome(check="Bench", suite="model_evaluation", required=True, status="passed", reason="-")
    verdict = Verdict(
        model=NAME,
        task="regression",
        model_digest=digest_of(files, MODEL_FILE) or "",
        policy_digest="sha256:" + "0" * 64,
        dataset_digests={},
        outcomes=(passed,),
    )
    return attest_verdict(
        verdict,
        version=version.number,
        source=version.source,
        files=files,
        report_digest="sha256:" + "0" * 64,
        signer=keys.signer("gate", KeySettings()),
    )


@contextmanager
def _servers(folder: Path) -> Iterator[tuple[str, str]]:
    """A guarded stack and a plain server beside it; yields their addresses."""
    ports = {name: free_port() for name in SERVICES}
    os.environ["GREENROOM_HOME"] = str(folder / "home")
    os.environ["GREENROOM_LOCAL_WORKER"] = "false"  # it would take CPU time
    os.environ.update({f"GREENROOM_{name}_PORT": str(port) for name, port in ports.items()})
    greenroom = str(Path(sys.executable).parent / "greenroom")
    try:
        subprocess.run([greenroom, "up", "--no-train"], check=True, stdout=subprocess.DEVNULL)
        process, plain = _plain_server(folder / "home", ports)
        try:
            yield f"http://127.0.0.1:{ports['MLFLOW']}", plain
        finally:
            process.terminate()
            process.wait()
    finally:
        subprocess.run([greenroom, "down"], check=False, stdout=subprocess.DEVNULL)


def _plain_server(home: Path, ports: dict[str, int]) -> tuple["subprocess.Popen[bytes]", str]:
    known = dict(line.split("=", 1) for line in (home / "stack.env").read_text().splitlines())
    options: dict[str, Any] = {"host": "127.0.0.1", "port": ports["POSTGRES"], "dbname": "postgres"}
    connection = psycopg2.connect(**options, user="postgres", password=known["GREENROOM_POSTGRES_PASSWORD"])
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE plain OWNER mlflow")
    connection.close()
    port = free_port()
    secret = known["GREENROOM_MLFLOW_DB_PASSWORD"]
    env = {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": f"postgresql+psycopg2://mlflow:{secret}@127.0.0.1:{ports['POSTGRES']}/plain",
        "MLFLOW_ARTIFACTS_DESTINATION": "s3://greenroom/plain",
        "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{ports['S3']}",
        "AWS_ACCESS_KEY_ID": known["GREENROOM_S3_ACCESS_KEY"],
        "AWS_SECRET_ACCESS_KEY": known["GREENROOM_S3_SECRET_KEY"],
        "AWS_DEFAULT_REGION": "us-east-1",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONUNBUFFERED": "1",
    }
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    with (home / "logs" / "plain.log").open("wb") as log:
        process = subprocess.Popen([*command, "--serve-artifacts"], env=env, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            if httpx.get(f"{url}/health", timeout=1).is_success:
                break
        except httpx.TransportError:
            time.sleep(0.1)
    return process, url


if __name__ == "__main__":
    main()
