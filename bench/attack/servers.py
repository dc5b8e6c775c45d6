"""Starts what is attacked: a stack on ports of its own, a tracking server with a login, a store with users."""

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from botocore.exceptions import BotoCoreError, ClientError

from bench.attack.target import ADMIN, OPERATOR, READER, SCIENTIST, USERS, Target, s3_client, send
from infra.containers.s3_users import USERS as S3_USERS

_ROOT = Path(__file__).resolve().parents[2]
_SERVICES = ("SERVING", "MLFLOW", "PREFECT", "GATE", "S3", "POSTGRES")
_START = 120.0
# The model that the stack's own gate judges.
JUDGED = "energy"
# What each account may do with the stand's model and experiment.
_RIGHTS = {READER: "READ", SCIENTIST: "EDIT", OPERATOR: "MANAGE"}


def free_port() -> int:
    """Return a port that is free, and free again 10,000 above, where SeaweedFS puts gRPC."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as one, socket.socket() as other:
            try:
                one.bind(("127.0.0.1", port))
                other.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            return port


@contextmanager
def whole_stack(folder: Path) -> Iterator[Target]:
    """Start a stack with its gate, train a model, and let the gate take it to Production."""
    ports = {name: free_port() for name in _SERVICES}
    home = folder / "home"
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("GREENROOM_")},
        "GREENROOM_HOME": str(home),
        "GREENROOM_LOCAL_WORKER": "false",
        "GREENROOM_SEARCH_TRIALS": "0",
        **{f"GREENROOM_{name}_PORT": str(port) for name, port in ports.items()},
    }
    os.environ["GREENROOM_HOME"] = str(home)
    try:
        _greenroom(env, "up", "--no-train")
        _greenroom(env, "train", JUDGED, "--promote")
        _greenroom(env, "keys", "create", "operator")
        target = Target(home, ports, gate=f"http://127.0.0.1:{ports['GATE']}", judged=JUDGED)
        _await(lambda: '"serving"' in send(target.url("SERVING"), "GET", "/api/models").text)
        yield target
        target.close()
    finally:
        _greenroom(env, "down")


def greenroom(target: Target, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command line against a target, as its owner."""
    env = {
        **os.environ,
        "GREENROOM_HOME": str(target.home),
        "GREENROOM_GATE_URL": target.gate,
        **{f"GREENROOM_{name}_PORT": str(port) for name, port in target.ports.items()},
    }
    command = [str(Path(sys.executable).with_name("greenroom")), *arguments]
    return subprocess.run(
        command, cwd=_ROOT, env=env, capture_output=True, text=True, timeout=580, check=False
    )


def _greenroom(env: dict[str, str], *arguments: str) -> None:
    command = [str(Path(sys.executable).with_name("greenroom")), *arguments]
    done = subprocess.run(
        command, cwd=_ROOT, env=env, capture_output=True, text=True, timeout=580, check=False
    )
    if done.returncode:
        raise SystemExit(f"greenroom {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")


@contextmanager
def login_server(target: Target, folder: Path) -> Iterator[None]:
    """Run a second tracking server on the target's registry, with MLflow's basic-auth; `target.login` is its
    address. The operator is a promoter.
    """
    port = free_port()
    passwords = {account: f"{secrets.token_hex(12)}-{user}" for account, user in USERS.items()}
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
            *("--workers", "1", "--serve-artifacts", "--registry-store-uri", "greenroom://"),
            *("--app-name", "basic-auth"),
        ],
        env=_login_variables(target, folder, passwords),
        stdin=subprocess.DEVNULL,
        stdout=(folder / "login.log").open("wb"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
        cwd=folder,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _await(lambda: send(url, "GET", "/health").status == 200)
        target.login, target.passwords = url, passwords
        _accounts(target)
        yield
    finally:
        target.login, target.passwords = "", {}
        _end(process)


def _login_variables(target: Target, folder: Path, passwords: dict[str, str]) -> dict[str, str]:
    known = target.settings
    config = folder / "basic_auth.ini"
    config.write_text(
        "[mlflow]\ndefault_permission = NO_PERMISSIONS\n"
        f"database_uri = sqlite:///{folder}/users.db\nadmin_username = {USERS[ADMIN]}\n"
        # Else each request costs a slow hash.
        "auth_cache_ttl_seconds = 300\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    return {
        **os.environ,
        "GREENROOM_HOME": str(target.home),
        "GREENROOM_PROMOTERS": USERS[OPERATOR],
        "MLFLOW_BACKEND_STORE_URI": f"postgresql+psycopg2://mlflow:{known['GREENROOM_MLFLOW_DB_PASSWORD']}"
        f"@127.0.0.1:{target.ports['POSTGRES']}/mlflow",
        "MLFLOW_ARTIFACTS_DESTINATION": "s3://greenroom/mlflow",
        "MLFLOW_S3_ENDPOINT_URL": target.url("S3"),
        "AWS_ACCESS_KEY_ID": known["GREENROOM_S3_ACCESS_KEY"],
        "AWS_SECRET_ACCESS_KEY": known["GREENROOM_S3_SECRET_KEY"],
        "AWS_DEFAULT_REGION": "us-east-1",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_AUTH_ADMIN_PASSWORD": passwords[ADMIN],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def _accounts(target: Target) -> None:
    for account, user in USERS.items():
        if account != ADMIN:
            body = {"username": user, "password": target.passwords[account]}
            _as_admin(target, "/api/2.0/mlflow/users/create", body)
    things = [("registered_model", target.model), ("experiment", target.places["experiment"])]
    for account, permission in _RIGHTS.items():
        for kind, name in things:
            body = {"username": USERS[account], "resource_type": kind, "resource_id": name}
            _as_admin(target, "/api/3.0/mlflow/users/permissions/grant", {**body, "permission": permission})


def _as_admin(target: Target, path: str, body: dict[str, str]) -> None:
    answer = target.mlflow(ADMIN, "POST", path, body)
    if answer.status != 200:
        raise SystemExit(f"{path} failed: {answer.status} {answer.text}")


@contextmanager
def store_with_users(folder: Path) -> Iterator[dict[str, Any]]:
    """Run SeaweedFS with the users of the stack in containers (infra/compose/seaweedfs.yml); yields a client
    for each, `root` too.
    """
    override = yaml.safe_load((_ROOT / "infra" / "compose" / "seaweedfs.yml").read_text())["services"]["s3"]
    keys = {name: secrets.token_hex(12) for name in ("root", *S3_USERS)}
    values = {
        "GREENROOM_S3_ACCESS_KEY": "root",
        "GREENROOM_S3_SECRET_KEY": keys["root"],
        **{f"GREENROOM_S3_{name.upper()}_SECRET_KEY": keys[name] for name in S3_USERS},
    }
    variable = re.compile(r"\$\{(\w+)(?::-([^}]*)|:\?[^}]*)?\}")
    users = variable.sub(lambda m: values.get(m[1], m[2] or ""), override["environment"]["USERS"])
    (folder / "users.json").write_text(json.dumps(json.loads(users)))
    port = free_port()
    inner = {part: free_port() for part in ("master", "volume", "filer")}
    process = subprocess.Popen(
        [
            *(str(Path(sys.executable).with_name("weed")), "server", f"-dir={folder}", "-ip=127.0.0.1"),
            *("-ip.bind=127.0.0.1", "-master.peers=none", "-master.telemetry=false", "-volume.max=0"),
            *("-filer", "-s3", f"-s3.port={port}", f"-s3.config={folder}/users.json"),
            *("-s3.port.iceberg=0", "-s3.port.lance=0"),
            *(f"-{part}.port={number}" for part, number in inner.items()),
        ],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        stdout=(folder / "seaweedfs.log").open("wb"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    clients = {name: s3_client(f"http://127.0.0.1:{port}", name, key) for name, key in keys.items()}
    try:
        _await(lambda: _filled(clients["root"]))
        yield clients
    finally:
        _end(process)


def _filled(root: Any) -> bool:
    try:
        if not root.list_buckets()["Buckets"]:
            root.create_bucket(Bucket="greenroom")
        for key in ("mlflow/1/models/m-1/artifacts/model.onnx", "datasets/a", "predictions/a", "rows/a"):
            root.put_object(Bucket="greenroom", Key=key, Body=b"x")
    except (BotoCoreError, ClientError):
        return False
    return True


def _await(ready: Any) -> None:
    deadline = time.monotonic() + _START
    while not ready():
        if time.monotonic() > deadline:
            raise SystemExit(f"{ready} did not become true in {_START:.0f} s")
        time.sleep(0.2)


def _end(process: "subprocess.Popen[bytes]") -> None:
    for what in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, what)
            process.wait(15)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
