"""The stack as people run it: shut towards the outside, and back with all it stored after any kill."""

import json
import os
from collections.abc import Iterator

import boto3
import httpx
import psutil
import psycopg2
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.conftest import Stack
from tests.stack_processes import kill, processes_of

pytestmark = pytest.mark.slow

SERVICES = ("postgres", "s3", "mlflow", "prefect", "predictor")


def settings_of(stack: Stack) -> dict[str, str]:
    """What stack.env holds."""
    lines = (stack.home / "stack.env").read_text().splitlines()
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def secrets_of(stack: Stack) -> dict[str, str]:
    found = {n: v for n, v in settings_of(stack).items() if n.endswith(("_KEY", "_PASSWORD", "_TOKEN"))}
    assert len(found) == 6
    return found


def pids_of(stack: Stack) -> dict[str, int]:
    """The leader of each service."""
    return {name: group[0].pid for name, group in processes_of(stack).items()}


def states_of(stack: Stack) -> dict[str, str]:
    done = stack.greenroom("status", "--json")
    return {service["name"]: service["state"] for service in json.loads(done.stdout)["services"]}


def s3_client(stack: Stack, key: str, secret: str) -> "boto3.client":
    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{stack.ports['S3']}",
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        region_name="us-east-1",
        config=Config(retries={"max_attempts": 0}, proxies={}),
    )


def mlflow(stack: Stack, verb: str, path: str, **options: object) -> httpx.Response:
    return httpx.request(verb, f"{stack.tracking_url}/api/2.0/{path}", timeout=30, **options)  # type: ignore[arg-type]


def write(stack: Stack, name: str) -> None:
    """Leave an experiment in the database and an artifact in the object store."""
    made = mlflow(stack, "POST", "mlflow/experiments/create", json={"name": name})
    assert made.is_success, made.text
    sent = mlflow(stack, "PUT", f"mlflow-artifacts/artifacts/{name}/note.txt", content=name.encode())
    assert sent.is_success, sent.text


def read(stack: Stack, name: str) -> tuple[str, str]:
    """Read both back."""
    found = mlflow(stack, "GET", "mlflow/experiments/get-by-name", params={"experiment_name": name})
    note = mlflow(stack, "GET", f"mlflow-artifacts/artifacts/{name}/note.txt")
    assert note.is_success, note.text
    return found.json()["experiment"]["name"], note.text


@pytest.fixture
def whole(stack: Stack) -> Iterator[Stack]:
    """The shared stack; whatever a test did to it, the next one finds all of it."""
    yield stack
    if set(states_of(stack).values()) != {"up"}:
        stack.greenroom("up", "--no-train")


def test_status_says_that_all_is_up(stack: Stack) -> None:
    done = stack.greenroom("status", "--json")
    assert done.returncode == 0, done.stdout
    found = json.loads(done.stdout)
    assert {s["name"]: s["state"] for s in found["services"]} == dict.fromkeys(SERVICES, "up")
    assert found["problem"] is None
    assert all(service["memory_mb"] > 0 for service in found["services"])


def test_no_secret_is_on_a_command_line(stack: Stack) -> None:
    lines = {}
    for process in psutil.process_iter():
        try:
            lines[process.pid] = " ".join(process.cmdline())
        except psutil.Error:
            continue
    assert set(pids_of(stack).values()) <= set(lines)
    for pid, line in lines.items():
        assert not [name for name, value in secrets_of(stack).items() if value in line], pid


def test_no_secret_is_in_a_log(stack: Stack) -> None:
    secrets = secrets_of(stack)
    # SeaweedFS logs the access key's id, and no option stops it. The id is the name that goes with the secret
    # key, and opens nothing alone (test_wrong_s3_key_is_refused); nobody else may read the log either.
    del secrets["GREENROOM_S3_ACCESS_KEY"]
    assert (stack.home / "logs").stat().st_mode & 0o077 == 0
    logs = {log.stem: log.read_text(errors="replace") for log in (stack.home / "logs").iterdir()}
    # Another file's tests may have had a worker.
    assert set(logs) - {"worker"} == set(SERVICES)
    for service, text in logs.items():
        assert not [name for name, value in secrets.items() if value in text], service


def test_secrets_are_in_no_answer_of_status(stack: Stack) -> None:
    for arguments in (["status"], ["status", "--json"]):
        done = stack.greenroom(*arguments)
        assert not [n for n, v in secrets_of(stack).items() if v in done.stdout + done.stderr]


def test_every_socket_listens_on_loopback_alone(stack: Stack) -> None:
    found = {}
    for name, group in processes_of(stack).items():
        for process in group:
            for connection in process.net_connections("all"):
                if connection.status == psutil.CONN_LISTEN and connection.family != psutil.AF_LINK:
                    found.setdefault(name, set()).add((connection.laddr.ip, connection.laddr.port))
    assert set(found) == set(SERVICES)
    assert set(stack.ports.values()) <= {port for sockets in found.values() for _, port in sockets}
    assert {ip for sockets in found.values() for ip, _ in sockets} <= {"127.0.0.1", "::1"}, found


def test_files_with_secrets_are_for_their_owner_alone(stack: Stack) -> None:
    assert (stack.home / "stack.env").stat().st_mode & 0o077 == 0
    # Others may pass through to PostgreSQL's files when it runs as another user, never list or read.
    assert stack.home.stat().st_mode & 0o066 == 0
    assert (stack.home / "postgres" / "data").stat().st_mode & 0o077 == 0


def test_private_key_is_a_file_for_its_owner_alone_and_nowhere_else(stack: Stack) -> None:
    private = stack.home / "keys" / "gate.pem"
    assert private.stat().st_mode & 0o777 == 0o600
    (public,) = (stack.home / "keys" / "trusted" / "gate").glob("*.pem")
    assert "PRIVATE" not in public.read_text()
    content = private.read_text()
    assert content.startswith("-----BEGIN PRIVATE KEY-----")  # pragma: allowlist secret
    secret = content.splitlines()[1]
    assert not [n for n, v in settings_of(stack).items() if secret in v or "PEM" in n or "SIGN" in n]
    seen = [*(stack.home / "logs").iterdir(), stack.home / "stack.env"]
    assert not [file for file in seen if secret in file.read_text(errors="replace")]
    for service, group in processes_of(stack).items():
        for process in group:
            assert secret not in " ".join([*process.cmdline(), *process.environ().values()]), service


def test_no_service_is_given_the_superusers_password(stack: Stack) -> None:
    """Whoever gets into MLflow's process must not be able to write the audit as the database's owner."""
    password = secrets_of(stack)["GREENROOM_POSTGRES_PASSWORD"]
    for service, group in processes_of(stack).items():
        for process in group:
            assert password not in " ".join(process.environ().values()), service


def test_guard_is_there_from_the_first_start(stack: Stack) -> None:
    """The server that came up refuses what has no evidence, whoever asks."""
    name = f"guarded-{os.getpid()}"
    assert mlflow(stack, "POST", "mlflow/registered-models/create", json={"name": name}).is_success
    run = mlflow(stack, "POST", "mlflow/runs/create", json={"experiment_id": "0"}).json()["run"]["info"]
    path = run["artifact_uri"].partition(":")[2].strip("/")
    assert mlflow(stack, "PUT", f"mlflow-artifacts/artifacts/{path}/model.onnx", content=b"model").is_success
    body = {"name": name, "source": run["artifact_uri"], "run_id": run["run_id"]}
    assert mlflow(stack, "POST", "mlflow/model-versions/create", json=body).is_success
    for stage in ("Staging", "Production"):
        move = {"name": name, "version": "1", "stage": stage, "archive_existing_versions": True}
        refused = mlflow(stack, "POST", "mlflow/model-versions/transition-stage", json=move)
        assert refused.status_code == 403
        assert refused.json()["error_code"] == "PERMISSION_DENIED"
        assert f"{name} version 1 has no evidence of the gate" in refused.json()["message"]


@pytest.mark.parametrize("verb", ["GET", "PUT", "DELETE"])
def test_anonymous_s3_request_is_refused(stack: Stack, verb: str) -> None:
    base = f"http://127.0.0.1:{stack.ports['S3']}"
    for path in ("/greenroom", "/greenroom/greenroom-ready"):
        assert httpx.request(verb, f"{base}{path}").status_code == 403
    keys = secrets_of(stack)
    ours = s3_client(stack, keys["GREENROOM_S3_ACCESS_KEY"], keys["GREENROOM_S3_SECRET_KEY"])
    assert ours.get_object(Bucket="greenroom", Key="greenroom-ready")["Body"].read() == b"ready"


def test_wrong_s3_key_is_refused(stack: Stack) -> None:
    right = secrets_of(stack)["GREENROOM_S3_ACCESS_KEY"]
    for key in (right, "somebody"):
        with pytest.raises(ClientError, match=r"SignatureDoesNotMatch|InvalidAccessKeyId"):
            s3_client(stack, key, "wrong").list_objects_v2(Bucket="greenroom")


@pytest.mark.parametrize("user", ["postgres", "mlflow", "prefect"])
@pytest.mark.parametrize("password", ["wrong", ""])
def test_wrong_postgres_password_is_refused(stack: Stack, user: str, password: str) -> None:
    with pytest.raises(psycopg2.OperationalError, match="password"):
        psycopg2.connect(
            host="127.0.0.1", port=stack.ports["POSTGRES"], user=user, password=password, dbname="mlflow"
        )


def test_one_service_cannot_read_the_database_of_the_other(stack: Stack) -> None:
    with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
        psycopg2.connect(
            host="127.0.0.1",
            port=stack.ports["POSTGRES"],
            user="mlflow",
            password=secrets_of(stack)["GREENROOM_MLFLOW_DB_PASSWORD"],
            dbname="prefect",
        )


def test_up_again_starts_nothing_new(stack: Stack) -> None:
    before = pids_of(stack)
    assert set(before) == set(SERVICES)
    done = stack.greenroom("up", "--no-train")
    assert done.returncode == 0, done.stderr
    assert " up on " not in done.stdout
    assert pids_of(stack) == before


@pytest.mark.parametrize(
    "killed",
    [
        # All at once: what was stored must survive both stores dying together.
        [("postgres", True), ("s3", True)],
        # Leaders alone: their children are orphans that still hold the port.
        [("mlflow", False), ("prefect", False), ("predictor", False)],
        [("postgres", False)],
    ],
    ids=["stores", "leaders", "postmaster"],
)
def test_what_was_killed_comes_back_with_all_it_stored(whole: Stack, killed: list[tuple[str, bool]]) -> None:
    name = "before-" + "-".join(service for service, _ in killed) + f"-{killed[0][1]}"
    write(whole, name)
    before = pids_of(whole)
    for service, every in killed:
        kill(whole, service, whole=every)
    done = whole.greenroom("status", "--json")
    assert done.returncode == 1, done.stdout
    done = whole.greenroom("up", "--no-train")
    assert done.returncode == 0, done.stdout + done.stderr
    assert states_of(whole) == dict.fromkeys(SERVICES, "up")
    after = pids_of(whole)
    for service, _ in killed:
        assert after[service] != before[service]
    assert read(whole, name) == (name, name)
    write(whole, f"{name}-later")


def test_marker_of_this_test_run_is_not_the_stack(stack: Stack) -> None:
    """Nothing but services carries the marker, or `down` would end it too."""
    assert os.getpid() not in {p.pid for group in processes_of(stack).values() for p in group}
