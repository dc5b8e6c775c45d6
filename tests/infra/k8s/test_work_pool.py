"""The work pool on a real Prefect server: the register Job's own command fills it, and what Prefect's worker
would hand to Kubernetes for a flow run is what the lint has checked."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import httpx
import pytest
import yaml
from kubernetes_asyncio.client import ApiClient, Configuration
from prefect.client.schemas.objects import Flow, FlowRun, WorkPool
from prefect.client.schemas.responses import DeploymentResponse
from prefect.flows import load_flow_from_entrypoint
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect_kubernetes.worker import KubernetesWorker, KubernetesWorkerJobConfiguration

from infra.k8s import lint, policy
from infra.k8s.manifests import ROOT, flow_run_job, pods, resources
from tests.conftest import free_port
from tests.waiting import answers, until
from tests.warm_commands import warm_python

pytestmark = pytest.mark.slow

AUTH = "greenroom:a-password-of-this-test"
IMAGE = "registry.internal/greenroom-flows:1.2.3"
BASE = ROOT / "base" / "prefect"


@dataclass
class Server:
    url: str
    home: Path

    def environment(self, auth: str | None = AUTH) -> dict[str, str]:
        """What a pod of the manifests has."""
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PREFECT_", "GREENROOM_"))
        }
        given = {"PREFECT_API_URL": f"{self.url}/api", "PREFECT_HOME": str(self.home), "DO_NOT_TRACK": "1"}
        return clean | given | ({"PREFECT_API_AUTH_STRING": auth} if auth else {})

    def get(self, path: str, auth: str | None = AUTH) -> httpx.Response:
        given = httpx.BasicAuth(*auth.split(":")) if auth else None
        return httpx.get(f"{self.url}/api{path}", auth=given, timeout=10, trust_env=False)

    def ask(self, path: str, body: Any) -> Any:
        answer = httpx.post(
            f"{self.url}/api{path}",
            json=body,
            auth=httpx.BasicAuth(*AUTH.split(":")),
            timeout=10,
            trust_env=False,
        )
        answer.raise_for_status()
        return answer.json()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Prefect's server with the Deployment's own command, but for the port and the database."""
    home, port = tmp_path_factory.mktemp("prefect"), free_port()
    found = Server(f"http://127.0.0.1:{port}", home)
    container = pods(resources(BASE))["Deployment/prefect-server"]["spec"]["containers"][0]
    command = container["command"]
    assert command[-4::2] == ["--host", "--port"]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command[:-4], "--host", "127.0.0.1", "--port", str(port)],
            env={**found.environment(None), "PREFECT_SERVER_API_AUTH_STRING": AUTH},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:

        def said() -> str:
            return (home / "log").read_text()[-3000:]

        until(lambda: process.poll() is not None or answers(f"{found.url}/api/ready"), said, 120)
        assert process.poll() is None, said()
        yield found
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def registered(server: Server, auth: str = AUTH) -> "subprocess.CompletedProcess[str]":
    """Run the register Job's script, with its files where they are here."""
    job = next(one for one in resources(BASE) if one["kind"] == "Job")
    container = job["spec"]["template"]["spec"]["containers"][0]
    shell, option, script = container["command"]
    (mount,) = (one["mountPath"] for one in container["volumeMounts"] if one["name"] == "work-pool")
    script = script.replace(mount, str(BASE))
    given = {
        **server.environment(auth),
        "PATH": f"{warm_python().parent}:{os.environ['PATH']}",
        "FLOW_RUN_IMAGE": IMAGE,
        "FLOW_RUN_NAMESPACE": "greenroom-test",
    }
    return subprocess.run(
        [shell, option, script],
        env=given,
        cwd=server.home,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="module")
def pool(server: Server) -> Server:
    done = registered(server)
    assert done.returncode == 0, done.stdout + done.stderr
    return server


def test_the_probes_need_no_login_and_all_else_does(server: Server) -> None:
    deployment = pods(resources(BASE))["Deployment/prefect-server"]["spec"]["containers"][0]
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        path = deployment[kind]["httpGet"]["path"]
        assert server.get(path.removeprefix("/api"), auth=None).status_code == 200
    assert server.get("/work_pools/greenroom-kubernetes", auth=None).status_code == 401
    assert server.get("/work_pools/greenroom-kubernetes", auth="greenroom:wrong").status_code == 401


def test_a_wrong_password_registers_nothing(server: Server) -> None:
    done = registered(server, auth="greenroom:wrong")
    assert done.returncode != 0
    assert AUTH not in done.stdout + done.stderr


def test_registering_again_changes_the_pool_and_doubles_nothing(pool: Server) -> None:
    again = registered(pool)
    assert again.returncode == 0, again.stdout + again.stderr
    deployments = pool.ask("/deployments/filter", {})
    assert [(one["name"], one["work_pool_name"]) for one in deployments] == [
        ("kubernetes", "greenroom-kubernetes")
    ]
    assert deployments[0]["job_variables"] == {"image": IMAGE, "namespace": "greenroom-test"}
    kept = pool.get("/work_pools/greenroom-kubernetes").json()
    assert kept["type"] == "kubernetes"
    assert kept["base_job_template"] == json.loads((BASE / "base-job-template.json").read_text())
    # Nobody else ends the flow run of a pod that died.
    automations = pool.ask("/automations/filter", {})
    assert {one["name"]: one["enabled"] for one in automations} == {
        "Flow runs whose process died": True,
        "Flow runs that never started": True,
    }
    assert len(automations) == 2


def test_the_deployments_flow_can_be_loaded_and_takes_its_parameters(pool: Server) -> None:
    (deployment,) = pool.ask("/deployments/filter", {})
    assert load_flow_from_entrypoint(deployment["entrypoint"]).name == "train"
    created = pool.ask(f"/deployments/{deployment['id']}/create_flow_run", {"parameters": {"model": "genre"}})
    assert created["parameters"] == {"model": "genre"}
    # Nothing runs by itself.
    assert deployment["schedules"] == []


class Kubernetes(BaseHTTPRequestHandler):
    """As much of the Kubernetes API as is needed to be told of a Job."""

    told: ClassVar[list[tuple[str, dict[str, Any]]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.told.append((self.path, json.loads(body)))
        self.send_response(201)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


async def _created(pool: Server, api: str) -> None:
    """Have Prefect's worker make the Job of a run of the deployment, and hand it to Kubernetes."""
    (deployment,) = pool.ask("/deployments/filter", {})
    kept = pool.get("/work_pools/greenroom-kubernetes").json()
    configuration = await KubernetesWorkerJobConfiguration.from_template_and_values(
        base_job_template=kept["base_job_template"], values=deployment["job_variables"]
    )
    flow = Flow(id=deployment["flow_id"], name="train", labels={})
    configuration.prepare_for_flow_run(
        FlowRun(id=uuid4(), name="loud-song", flow_id=flow.id),
        DeploymentResponse.model_validate(deployment),
        flow,
        WorkPool.model_validate(kept),
        "a-worker",
    )
    async with ApiClient(Configuration(host=api)) as client:
        await KubernetesWorker("greenroom-kubernetes")._create_job(configuration, client)


@pytest.fixture(scope="module")
def job(pool: Server) -> dict[str, Any]:
    """What Kubernetes is told of a flow run by a worker with the Deployment's settings."""
    worker = pods(resources(BASE))["Deployment/prefect-worker"]["spec"]["containers"][0]
    kubernetes = ThreadingHTTPServer(("127.0.0.1", 0), Kubernetes)
    threading.Thread(target=kubernetes.serve_forever, daemon=True).start()
    with (
        pytest.MonkeyPatch.context() as environment,
        # Else Prefect would start a server of its own to ask for blocks that the template may name.
        temporary_settings({PREFECT_API_URL: f"{pool.url}/api", PREFECT_API_AUTH_STRING: AUTH}),
    ):
        for one in worker["env"]:
            if one["name"].startswith("PREFECT_INTEGRATIONS_") and "value" in one:
                environment.setenv(one["name"], one["value"])
        asyncio.run(_created(pool, f"http://127.0.0.1:{kubernetes.server_port}"))
    kubernetes.shutdown()
    kubernetes.server_close()
    ((path, told),) = Kubernetes.told
    assert path == "/apis/batch/v1/namespaces/greenroom-test/jobs"
    spec = told["spec"]["template"]["spec"]
    # Prefect's own check of a template asks for these where Kubernetes does not know them.
    assert (spec.pop("parallelism"), spec.pop("completions")) == (1, 1)
    return told


def test_a_flow_runs_job_holds_no_secret(job: dict[str, Any]) -> None:
    assert AUTH not in json.dumps(job)
    env = job["spec"]["template"]["spec"]["containers"][0]["env"]
    given = {one["name"]: one for one in env}
    assert given["PREFECT_API_AUTH_STRING"]["valueFrom"] == {
        "secretKeyRef": {"name": "greenroom-prefect", "key": "auth-string"}
    }


def test_a_flow_runs_job_is_valid_and_within_the_rules(job: dict[str, Any]) -> None:
    assert [problem for version in lint.versions() for problem in lint.schema_problems(job, version)] == []
    documents = [*resources(ROOT / "overlays" / "staging"), job]
    about = [
        one for one in policy.problems(documents) if one.startswith(f"Job/{job['metadata']['generateName']}")
    ]
    assert about == []
    assert job["metadata"]["namespace"] == "greenroom-test"
    assert job["spec"]["template"]["spec"]["containers"][0]["image"] == IMAGE
    assert job["spec"]["template"]["spec"]["serviceAccountName"] == "flow-run"


def test_the_lints_job_is_the_workers(job: dict[str, Any]) -> None:
    """The lint fills the template in by itself; here is what Prefect makes of it."""
    ours, theirs = (one["spec"]["template"]["spec"] for one in (flow_run_job(IMAGE, "greenroom-test"), job))
    for one in (ours, theirs):
        one["containers"][0].pop("args")
    names = {one["name"] for one in ours["containers"][0]["env"]}
    given = [one for one in theirs["containers"][0].pop("env") if one["name"] in names]
    assert given == ours["containers"][0].pop("env")
    assert theirs == ours


def test_prefects_labels_leave_ours(job: dict[str, Any]) -> None:
    """Prefect names the pod after the flow, so that network policies go by labels of their own."""
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert {"greenroom/flow-run", "greenroom/prefect-client", "greenroom/s3"} <= labels.keys()
    policies = [
        one["spec"]["podSelector"] for one in resources(ROOT / "base") if one["kind"] == "NetworkPolicy"
    ]
    assert sum(policy.selects(one, labels) for one in policies if one) == 3


def test_the_worker_starts_on_the_pool(pool: Server) -> None:
    """The Deployment's own command gets as far as Kubernetes, which is not here."""
    container = pods(resources(BASE))["Deployment/prefect-worker"]["spec"]["containers"][0]
    with (pool.home / "worker").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *container["command"]],
            env={
                **pool.environment(),
                "PREFECT_WORKER_WEBSERVER_PORT": str(port := free_port()),
                "PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER_ENABLED": "false",
            },
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        live = f"http://127.0.0.1:{port}{container['livenessProbe']['httpGet']['path']}"

        def said() -> str:
            return (pool.home / "worker").read_text()[-3000:]

        until(lambda: process.poll() is not None or (answers(live) and _online(pool)), said, 90)
        assert process.poll() is None, said()
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def _online(pool: Server) -> bool:
    workers = pool.ask("/work_pools/greenroom-kubernetes/workers/filter", {})
    return [one["status"] for one in workers] == ["ONLINE"]


def test_the_register_files_are_what_the_config_map_holds() -> None:
    (generated,) = yaml.safe_load((BASE / "kustomization.yaml").read_text())["configMapGenerator"]
    assert generated["files"] == ["base-job-template.json", "prefect.yaml"]
