"""The whole stack in containers, as `docker-compose.yml` runs it: start to end, in the order of this file.

`make compose-test` runs it; it needs a Docker engine and takes some ten minutes. Nothing of it stays.
"""

import json
import os
import secrets
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from catalog.loader import load_catalog
from tests.infra.containers.compose_stack import ComposeStack, docker, engine_problem
from tests.waiting import until

_PROBLEM = engine_problem()
pytestmark = [
    pytest.mark.skipif(bool(_PROBLEM), reason=_PROBLEM),
    pytest.mark.timeout(2400),
    pytest.mark.slow,
    pytest.mark.xdist_group("compose"),
]

RUNNING = ("postgres", "s3", "mlflow", "prefect", "gate", "worker", "predictor")
PUBLISHED = {"mlflow": "5000/tcp", "prefect": "4200/tcp", "predictor": "8000/tcp"}
FORBIDDEN = (
    "sklearn",
    "pandas",
    "scipy",
    "mlflow",
    "prefect",
    "deepchecks",
    "skl2onnx",
    "checks",
    "flows",
    "infra",
)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeStack]:
    """Images built, everything up, three models trained, gated and promoted by the demo."""
    # While working on these tests: a folder that keeps the stack from one run to the next.
    kept = os.environ.get("COMPOSE_TEST_KEEP", "")
    found = ComposeStack(Path(kept) if kept else tmp_path_factory.mktemp("compose"))
    found.prepare()
    if not kept:
        found.throw_away()
    try:
        found.make("build-images")
        found.make("compose-up")
        found.make("compose-demo")
        yield found
    finally:
        if not kept:
            found.throw_away()


def versions(stack: ComposeStack) -> dict[str, str]:
    """Return each model's version in Production."""
    answer = stack.mlflow("GET", "registered-models/search", "operator").raise_for_status().json()
    return {
        model["name"]: version["version"]
        for model in answer["registered_models"]
        for version in model.get("latest_versions", [])
        if version["current_stage"] == "Production"
    }


def audit_head(stack: ComposeStack) -> str:
    """Verify everything; return the sentence with the audit's rows and head."""
    said = stack.make("compose-verify").stdout.strip().splitlines()[-1]
    assert said.endswith("0 problems."), said
    return said


# Refusals before anything starts


def test_compose_refuses_a_missing_secret(stack: ComposeStack) -> None:
    missing = ComposeStack(stack.folder / "missing", "greenroom-test-missing")
    missing.folder.mkdir()
    missing.prepare()
    missing.set(GREENROOM_POSTGRES_PASSWORD="")
    done = missing.compose("up", "-d", check=False)
    assert done.returncode != 0
    assert "GREENROOM_POSTGRES_PASSWORD" in done.stderr
    assert missing.compose("ps", "-q", check=False).stdout.strip() == ""


@pytest.mark.parametrize(
    "weak", ["changeme-changeme-1", "short", "aaaaaaaaaaaaaaaaaaaa", "minioadmin-minioadmin"]
)
def test_nothing_starts_on_an_example_password(stack: ComposeStack, weak: str) -> None:
    example = ComposeStack(stack.folder / f"example-{len(weak)}", "greenroom-test-example")
    example.folder.mkdir()
    example.prepare()
    example.set(GREENROOM_S3_SECRET_KEY=weak)
    try:
        done = example.make("compose-up", check=False)
        assert done.returncode != 0
        assert "GREENROOM_S3_SECRET_KEY" in done.stdout + done.stderr
        assert weak not in done.stdout + done.stderr
        running = docker("ps", "-q", "--filter", "label=com.docker.compose.project=greenroom-test-example")
        assert running == ""
    finally:
        example.throw_away()


# What the demo left


def test_the_demo_promoted_every_model_and_the_predictor_serves_them(stack: ComposeStack) -> None:
    assert versions(stack) == dict.fromkeys(load_catalog(), "1")
    answer = stack.predict("energy")
    assert answer.status_code == 200, answer.text
    assert answer.json()["version"] == 1
    assert 0 <= answer.json()["prediction"] <= 1
    # Who trained and who promoted are two: the worker may not promote.
    history = stack.compose(
        "--profile", "tools", "run", "--rm", "--no-deps", "-T", "operator", "greenroom", "history", "energy"
    )
    assert "operator" in history.stdout


def test_a_promotion_without_evidence_is_refused_through_the_published_port(stack: ComposeStack) -> None:
    made = stack.mlflow(
        "POST",
        "model-versions/create",
        "worker",
        json={"name": "energy", "source": "s3://greenroom/elsewhere"},
    )
    number = made.raise_for_status().json()["model_version"]["version"]
    for user in ("operator", "worker", "admin"):
        for stage in ("Staging", "Production"):
            body = {"name": "energy", "version": number, "stage": stage, "archive_existing_versions": False}
            answer = stack.mlflow("POST", "model-versions/transition-stage", user, json=body)
            assert answer.status_code == 403, answer.text
            assert answer.json()["error_code"] == "PERMISSION_DENIED"
    body = {"name": "energy", "version": number, "stage": "Staging"}
    refused = stack.mlflow("POST", "model-versions/transition-stage", "operator", json=body).json()["message"]
    assert "evidence" in refused
    assert versions(stack)["energy"] == "1"


def test_the_predictors_account_may_only_read(stack: ComposeStack) -> None:
    body = {"name": "energy", "version": "1", "stage": "Archived"}
    assert stack.mlflow("POST", "model-versions/transition-stage", "predictor", json=body).status_code == 403
    assert versions(stack)["energy"] == "1"


# Doors


def test_a_wrong_password_is_refused_everywhere(stack: ComposeStack) -> None:
    for auth in (None, ("operator", "wrong"), ("admin", "password"), ("nobody", "nothing")):
        search = httpx.get(
            stack.url("mlflow", "/api/2.0/mlflow/registered-models/search"), auth=auth, timeout=30
        )
        assert search.status_code == 401, auth
        artifact = httpx.get(
            stack.url("mlflow", "/api/2.0/mlflow-artifacts/artifacts"), auth=auth, timeout=30
        )
        assert artifact.status_code == 401, auth
        flows = httpx.post(stack.url("prefect", "/api/flows/filter"), json={}, auth=auth, timeout=30)
        assert flows.status_code == 401, auth
    for headers in ({}, {"X-API-Key": "wrong"}, {"Authorization": "Bearer wrong"}):
        for path in ("/api/models", "/metrics"):
            assert httpx.get(stack.url("serving", path), headers=headers, timeout=30).status_code == 401


def test_postgresql_refuses_wrong_passwords_and_whom_it_does_not_concern(stack: ComposeStack) -> None:
    code = (
        "import os, psycopg2\n"
        "def tried(user, password, database):\n"
        "    try:\n"
        "        psycopg2.connect(host='postgres', user=user, password=password, dbname=database).close()\n"
        "        return 'in'\n"
        "    except psycopg2.OperationalError as error:\n"
        "        return str(error)\n"
        "for user in ('postgres', 'mlflow', 'mlflow_auth', 'prefect'):\n"
        "    said = tried(user, 'wrong-wrong-wrong', 'postgres' if user == 'postgres' else user)\n"
        "    assert 'password authentication failed' in said, said\n"
        "prefect = os.environ['GREENROOM_PREFECT_DB_PASSWORD']\n"
        "mlflow = os.environ['GREENROOM_MLFLOW_DB_PASSWORD']\n"
        "assert 'permission denied' in tried('prefect', prefect, 'mlflow')\n"
        "assert 'permission denied' in tried('mlflow', mlflow, 'mlflow_auth')\n"
        "assert tried('mlflow', mlflow, 'mlflow') == 'in'\n"
    )
    stack.job("setup", code)


def test_s3_refuses_strangers(stack: ComposeStack) -> None:
    code = (
        "import os, boto3, botocore\n"
        "from botocore.config import Config\n"
        "def tried(**how):\n"
        "    client = boto3.client('s3', endpoint_url='http://s3:9000', region_name='us-east-1', **how)\n"
        "    said = []\n"
        "    for ask in (client.list_buckets, lambda: client.list_objects_v2(Bucket='greenroom'),\n"
        "                lambda: client.put_object(Bucket='greenroom', Key='x', Body=b'x')):\n"
        "        try:\n"
        "            ask(); said.append('in')\n"
        "        except botocore.exceptions.ClientError as error:\n"
        "            said.append(str(error.response['ResponseMetadata']['HTTPStatusCode']))\n"
        "    return said\n"
        "anonymous = tried(config=Config(signature_version=botocore.UNSIGNED))\n"
        "assert anonymous == ['403'] * 3, anonymous\n"
        "key = os.environ['GREENROOM_S3_ACCESS_KEY']\n"
        "assert tried(aws_access_key_id=key, aws_secret_access_key='wrong') == ['403'] * 3\n"
        "assert tried(aws_access_key_id='wrong', aws_secret_access_key='wrong') == ['403'] * 3\n"
        "right = tried(aws_access_key_id=key, aws_secret_access_key=os.environ['GREENROOM_S3_SECRET_KEY'])\n"
        "assert right == ['in'] * 3, right\n"
    )
    stack.job("backup", code)


# What each service may do with its own keys, by folder: read, write.
S3_RIGHTS = {
    "mlflow": {"mlflow": (True, True), "datasets": (False, False), "predictions": (False, False)},
    "worker": {"mlflow": (False, False), "datasets": (True, True), "predictions": (True, False)},
    "predictor": {"mlflow": (False, False), "datasets": (True, True), "predictions": (False, True)},
}


@pytest.mark.parametrize("service", S3_RIGHTS)
def test_each_service_has_an_s3_user_of_its_own(stack: ComposeStack, service: str) -> None:
    code = (
        "import json, os, boto3, botocore\n"
        "key = os.environ.get('AWS_ACCESS_KEY_ID') or os.environ['GREENROOM_S3_ACCESS_KEY']\n"
        "secret = os.environ.get('AWS_SECRET_ACCESS_KEY') or os.environ['GREENROOM_S3_SECRET_KEY']\n"
        "client = boto3.client('s3', endpoint_url='http://s3:9000', region_name='us-east-1',\n"
        "                      aws_access_key_id=key, aws_secret_access_key=secret)\n"
        "def may(ask, **how):\n"
        "    try:\n"
        "        ask(Bucket='greenroom', **how)\n"
        "        return True\n"
        "    except botocore.exceptions.ClientError as error:\n"
        "        assert error.response['ResponseMetadata']['HTTPStatusCode'] == 403, error\n"
        "        return False\n"
        "name = f'{key}-was-here'\n"
        "found = {folder: (may(client.list_objects_v2, Prefix=f'{folder}/'),\n"
        "                  may(client.put_object, Key=f'{folder}/{name}', Body=b''))\n"
        "         for folder in ('mlflow', 'datasets', 'predictions')}\n"
        "assert not may(client.delete_bucket)\n"
        "print(json.dumps(found))\n"
    )
    found = json.loads(stack.inside(service, "python", "-c", code).stdout)
    assert {folder: tuple(rights) for folder, rights in found.items()} == S3_RIGHTS[service]


def test_nobody_reaches_the_inner_ports_of_the_s3_server(stack: ComposeStack) -> None:
    """SeaweedFS' master, volume server and filer, HTTP and gRPC; MinIO has none of them."""
    code = (
        "import socket\n"
        "for port in (8080, 8333, 8888, 9333, 9340, 18080, 18333, 18888, 19333, 19340, 23646, 33646):\n"
        "    try:\n"
        "        socket.create_connection(('s3', port), 3).close()\n"
        "    except OSError:\n"
        "        continue\n"
        "    print(port)\n"
    )
    for service in ("mlflow", "worker", "predictor"):
        assert stack.inside(service, "python", "-c", code).stdout == ""


def test_prefect_answers_no_other_origin(stack: ComposeStack) -> None:
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    asked = httpx.options(stack.url("prefect", "/api/flows/filter"), headers=headers, timeout=30)
    assert "access-control-allow-origin" not in asked.headers


def test_only_the_uis_and_the_predictor_are_published_on_loopback(stack: ComposeStack) -> None:
    for service in RUNNING:
        bindings = stack.container(service)["HostConfig"]["PortBindings"] or {}
        assert set(bindings) == ({PUBLISHED[service]} if service in PUBLISHED else set()), service
        assert all(one["HostIp"] == "127.0.0.1" for many in bindings.values() for one in many)


def test_the_predictor_cannot_reach_the_database(stack: ComposeStack) -> None:
    code = "import socket; socket.create_connection(('{}', {}), 3)"
    assert stack.inside("predictor", "python", "-c", code.format("s3", 9000)).returncode == 0
    address = stack.container("postgres")["NetworkSettings"]["Networks"]["greenroom-test_database"][
        "IPAddress"
    ]
    for host in ("postgres", address):
        assert stack.inside("predictor", "python", "-c", code.format(host, 5432), check=False).returncode != 0


# Containers and images


@pytest.mark.parametrize("service", ["mlflow", "prefect", "gate", "worker", "predictor"])
def test_our_containers_run_read_only_as_nobody_special(stack: ComposeStack, service: str) -> None:
    assert stack.inside(service, "id", "-u").stdout.strip() == "10001"
    for path in ("/app/x", "/opt/greenroom/x", "/etc/x", "/x"):
        done = stack.inside(service, "python", "-c", f"open('{path}', 'w')", check=False)
        assert done.returncode != 0
        assert "Read-only file system" in done.stderr
    found = stack.container(service)["HostConfig"]
    assert found["ReadonlyRootfs"] is True
    assert found["CapDrop"] == ["ALL"]
    assert "no-new-privileges:true" in found["SecurityOpt"]


def test_every_service_is_bounded(stack: ComposeStack) -> None:
    for service in RUNNING:
        found = stack.container(service)["HostConfig"]
        assert found["Memory"] > 0, service
        assert found["PidsLimit"] > 0, service


def test_the_serving_image_holds_none_of_what_training_needs(stack: ComposeStack) -> None:
    # But for onnx: the predictor asks for a file's form before it loads it (docs/decisions/030).
    code = f"import importlib.util as i; print([n for n in {FORBIDDEN!r} if i.find_spec(n)])"
    assert stack.inside("predictor", "python", "-c", code).stdout.strip() == "[]"
    # The same question finds them where they are.
    assert "sklearn" in stack.inside("worker", "python", "-c", code).stdout
    for tool in ("gcc", "cc", "g++", "make", "uv", "git"):
        assert stack.inside("predictor", "which", tool, check=False).returncode != 0


@pytest.mark.parametrize("image", ["greenroom-serving:latest", "greenroom-flows:latest"])
def test_images_tell_what_they_are_and_hold_no_secret(stack: ComposeStack, image: str) -> None:
    found = json.loads(docker("image", "inspect", image))[0]["Config"]
    assert found["User"] == "10001:10001"
    assert found["StopSignal"] == "SIGTERM"
    assert found["Healthcheck"]["Test"][0] == "CMD"
    assert found["Labels"]["org.opencontainers.image.title"] in image
    said = docker("history", "--no-trunc", image) + json.dumps(found)
    assert not [name for name, value in secrets_of(stack).items() if value in said]
    bill = docker("run", "--rm", "--network=none", image, "cat", "/opt/greenroom/sbom.cdx.json")
    names = {part["name"] for part in json.loads(bill)["components"]}
    assert "onnxruntime" in names
    assert ("scikit-learn" in names) == (image == "greenroom-flows:latest")


def test_no_secret_is_in_any_log(stack: ComposeStack) -> None:
    said = stack.compose("logs", "--no-color").stdout
    assert "predictor" in said
    assert not [name for name, value in secrets_of(stack).items() if value in said]


def secrets_of(stack: ComposeStack) -> dict[str, str]:
    """Return the secret values; the access key's ID is none, and some S3 servers log it."""
    return {
        name: value
        for name, value in stack.secrets.items()
        if name.endswith(("PASSWORD", "_TOKEN", "_API_KEY", "SECRET_KEY")) and value
    }


# What happens to it


def test_down_and_up_changes_nothing(stack: ComposeStack) -> None:
    before, head = versions(stack), audit_head(stack)
    prediction = stack.predict("genre").json()
    stack.make("compose-down")
    assert docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={stack.name}") == ""
    stack.make("compose-up")
    assert versions(stack) == before
    assert audit_head(stack) == head
    again = stack.predict("genre").json()
    assert {k: v for k, v in again.items() if k != "id"} == {k: v for k, v in prediction.items() if k != "id"}
    runs = httpx.post(
        stack.url("prefect", "/api/flow_runs/count"),
        json={},
        auth=("greenroom", stack.secrets["GREENROOM_PREFECT_PASSWORD"]),
        timeout=30,
    )
    assert runs.json() >= len(load_catalog())


def test_every_container_heals_and_the_predictor_answers_meanwhile(stack: ComposeStack) -> None:
    for service in RUNNING:
        answers: list[int] = []
        over = threading.Event()
        asking = threading.Thread(target=_ask_until, args=(stack, over, answers), daemon=True)
        if service != "predictor":
            asking.start()
        restarts = stack.container(service)["RestartCount"]
        stack.crash(service)
        stack.await_healthy(service, restarts)
        if service != "predictor":
            over.set()
            asking.join()
            assert answers
            assert set(answers) == {200}, f"while {service} was down: {answers}"
    # All of it works again, not only the health checks.
    assert versions(stack) == dict.fromkeys(load_catalog(), "1")
    assert audit_head(stack)
    assert stack.predict("genre").status_code == 200
    stack.job(
        "backup", "from infra.containers.bucket_backup import dump; import io; assert dump(io.BytesIO())"
    )


def _ask_until(stack: ComposeStack, over: threading.Event, answers: list[int]) -> None:
    while not over.is_set():
        try:
            answers.append(stack.predict("energy").status_code)
        except httpx.HTTPError:
            answers.append(0)  # no answer at all; the test counts it as a failure
        time.sleep(0.2)


def test_secrets_are_rotated_by_new_values_and_an_up(stack: ComposeStack) -> None:
    old = dict(stack.secrets)
    fresh = secrets.token_hex(12)
    stack.set(
        GREENROOM_MLFLOW_DB_PASSWORD=f"{fresh}1",
        GREENROOM_MLFLOW_AUTH_DB_PASSWORD=f"{fresh}2",
        GREENROOM_PREFECT_DB_PASSWORD=f"{fresh}3",
        GREENROOM_MLFLOW_ADMIN_PASSWORD=f"{fresh}4",
        GREENROOM_MLFLOW_ADMIN_OLD_PASSWORD=old["GREENROOM_MLFLOW_ADMIN_PASSWORD"],
        GREENROOM_MLFLOW_WORKER_PASSWORD=f"{fresh}5",
        GREENROOM_MLFLOW_OPERATOR_PASSWORD=f"{fresh}6",
        GREENROOM_MLFLOW_PREDICTOR_PASSWORD=f"{fresh}7",
        GREENROOM_MLFLOW_SECRET_KEY=f"{fresh}8",
        GREENROOM_PREFECT_PASSWORD=f"{fresh}9",
        GREENROOM_S3_SECRET_KEY=f"{fresh}A",
        GREENROOM_S3_MLFLOW_SECRET_KEY=f"{fresh}B",
        GREENROOM_S3_WORKER_SECRET_KEY=f"{fresh}C",
        GREENROOM_S3_PREDICTOR_SECRET_KEY=f"{fresh}D",
        GREENROOM_S3_GATE_SECRET_KEY=f"{fresh}E",
    )
    stack.make("compose-up")
    stack.set(GREENROOM_MLFLOW_ADMIN_OLD_PASSWORD="")
    search = stack.url("mlflow", "/api/2.0/mlflow/registered-models/search")
    for user in ("admin", "worker", "operator", "predictor"):
        assert stack.mlflow("GET", "registered-models/search", user).status_code == 200
        outdated = old[f"GREENROOM_MLFLOW_{user.upper()}_PASSWORD"]
        # MLflow remembers a login for a minute (infra/containers/mlflow_server.py): the predictor may have
        # used the old one until its own restart.
        login = (user, outdated)
        until(
            lambda: httpx.get(search, auth=login, timeout=30).status_code == 401,  # noqa: B023
            f"{user} still gets in with the old password",
            seconds=90,
        )
    flows = stack.url("prefect", "/api/flows/filter")
    outdated = old["GREENROOM_PREFECT_PASSWORD"]
    assert httpx.post(flows, json={}, auth=("greenroom", outdated), timeout=30).status_code == 401
    assert stack.predict("energy").status_code == 200
    assert audit_head(stack)


def test_a_backup_brings_back_everything_after_a_wipe(stack: ComposeStack, tmp_path: Path) -> None:
    before, head, prediction = (
        versions(stack),
        audit_head(stack),
        stack.predict("energy").json()["prediction"],
    )
    backup = tmp_path / "backup"
    assert stack.make("backup", f"DIR={backup}").returncode == 0
    assert stack.make("backup", f"DIR={backup}", check=False).returncode != 0  # never over another
    refused = stack.make("restore", f"DIR={backup}", check=False)
    assert refused.returncode != 0
    assert "a backup goes into an empty stack" in refused.stderr
    assert versions(stack) == before

    stack.throw_away()
    damaged = tmp_path / "damaged"
    subprocess.run(["cp", "-r", str(backup), str(damaged)], check=True)
    with (damaged / "bucket.tar").open("r+b") as file:
        file.truncate(file.seek(0, 2) // 2)
    refused = stack.make("restore", f"DIR={damaged}", check=False)
    assert refused.returncode != 0
    assert "is damaged" in refused.stderr

    stack.make("restore", f"DIR={backup}")
    assert versions(stack) == before
    assert audit_head(stack) == head
    assert stack.predict("energy").json()["prediction"] == prediction
