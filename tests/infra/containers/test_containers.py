"""What containers start with, as far as it runs without a container."""

import hashlib
import http.server
import io
import os
import re
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from catalog.loader import load_catalog
from infra.containers import bucket_backup, healthcheck
from infra.containers.s3_users import USERS
from infra.containers.settings import PreflightSettings
from registry.storage.s3 import s3_client
from registry.storage.settings import StorageSettings
from tests.conftest import ROOT, Stack

COMPOSE = (ROOT / "docker-compose.yml").read_text()
EXAMPLE = (ROOT / ".env.example").read_text()
_LINE = re.compile(r"^([A-Z0-9_]+)=(.*)$", re.M)
# Empty by choice, while every other empty value is a secret to be made.
_OPTIONAL = re.compile("_OLD_|_NOTIFY_")


def make_env(target: Path) -> tuple[dict[str, str], str]:
    """Run `make compose-env`'s script; return what it wrote, and what it said."""
    script = ROOT / "infra" / "compose" / "make_env.py"
    env = {"PATH": os.environ["PATH"], "GREENROOM_ENV_FILE": str(target)}
    done = subprocess.run([sys.executable, "-I", script], env=env, capture_output=True, text=True, check=True)
    return dict(_LINE.findall(target.read_text())), done.stdout + done.stderr


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The settings that `make compose-env` makes."""
    return make_env(tmp_path_factory.mktemp("env") / "made.env")[0]


# .env


def test_the_example_explains_every_variable_and_no_other() -> None:
    used = set(re.findall(r"\$\{([A-Z0-9_]+)", COMPOSE)) - {"REVISION"}
    # Used by the person, not by Compose: the key in plain.
    assert {name for name, _ in _LINE.findall(EXAMPLE)} - {
        "COMPOSE_PROJECT_NAME",
        "GREENROOM_APP_API_KEY",
    } == used
    lines = EXAMPLE.splitlines()
    for number, line in enumerate(lines):
        if _LINE.fullmatch(line):
            block = next(one for one in reversed(lines[:number]) if not _LINE.fullmatch(one))
            assert block.startswith("# "), f"{line} has no explanation"


def test_the_example_holds_no_secret_and_compose_asks_for_each() -> None:
    secret = [name for name, value in _LINE.findall(EXAMPLE) if not value and not _OPTIONAL.search(name)]
    assert len(secret) == 20
    assert "GREENROOM_POSTGRES_PASSWORD" in secret
    for name in secret:
        asked = set(re.findall(rf"\$\{{{name}([^}}]*)\}}", COMPOSE))
        assert all(one.startswith(":?") for one in asked), name
        assert asked or name == "GREENROOM_APP_API_KEY"


def test_a_made_file_is_whole_private_and_stays(tmp_path: Path) -> None:
    target = tmp_path / "made.env"
    first, said = make_env(target)
    assert target.stat().st_mode & 0o777 == 0o600
    assert not [value for value in first.values() if len(value) > 30 and value in said]
    pairs = dict(pair.split(":") for pair in first["GREENROOM_SERVING_API_KEYS"].split(","))
    assert pairs["app"] == hashlib.sha256(first["GREENROOM_APP_API_KEY"].encode()).hexdigest()
    assert pairs["metrics"] == hashlib.sha256(first["GREENROOM_METRICS_API_KEY"].encode()).hexdigest()
    text = target.read_text().replace("GREENROOM_WORKER_LIMIT=2", "GREENROOM_WORKER_LIMIT=5")
    target.write_text(text.replace(first["GREENROOM_PREFECT_PASSWORD"], "") + "MINE=kept\n")
    second, _ = make_env(target)
    assert second["GREENROOM_PREFECT_PASSWORD"] not in ("", first["GREENROOM_PREFECT_PASSWORD"])
    changed = {name for name in second if second[name] != first.get(name)}
    assert changed == {"GREENROOM_PREFECT_PASSWORD", "GREENROOM_WORKER_LIMIT", "MINE"}


# Preflight


def preflight(env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "infra.containers", "preflight"],
        env={
            "PATH": os.environ["PATH"],
            "GREENROOM_HOME": "/nonexistent",
            # As docker-compose.yml puts it together.
            "GREENROOM_S3_USERS": ",".join(
                f"{name}={name}:{env[f'GREENROOM_S3_{name.upper()}_SECRET_KEY']}" for name in USERS
            ),
            **env,
        },
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


def test_preflight_refuses_a_weak_key_of_an_s3_user(made: dict[str, str]) -> None:
    done = preflight({**made, "GREENROOM_S3_WORKER_SECRET_KEY": "changeme-changeme-9"})
    assert done.returncode != 0
    assert "GREENROOM_S3_USERS: the secret key of worker" in done.stderr
    assert "changeme-changeme-9" not in done.stderr


def test_preflight_lets_a_made_file_pass(made: dict[str, str]) -> None:
    done = preflight(made)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "value",
    [
        "",
        "short",
        "changeme-changeme-9",
        "aaaaaaaaaaaaaaaaaaaa",
        "with space in it 1234",
        "p@ss:word/1234567890",
    ],
)
def test_preflight_refuses_what_protects_nothing_and_does_not_repeat_it(
    made: dict[str, str], value: str
) -> None:
    for name in ("GREENROOM_POSTGRES_PASSWORD", "GREENROOM_S3_SECRET_KEY"):
        done = preflight({**made, name: value})
        assert done.returncode != 0, name
        assert name in done.stderr
        assert not value or value not in done.stderr


def test_preflight_looks_at_every_secret_of_the_compose_file() -> None:
    required = {
        f"GREENROOM_{name.upper()}" for name, f in PreflightSettings.model_fields.items() if f.is_required()
    }
    secret = {name for name, value in _LINE.findall(EXAMPLE) if not value and not _OPTIONAL.search(name)}
    # API keys are made by `greenroom api-key`; the predictor itself refuses what is no pair.
    api_keys = {"GREENROOM_APP_API_KEY", "GREENROOM_METRICS_API_KEY", "GREENROOM_SERVING_API_KEYS"}
    users = {name for name in secret if re.fullmatch(r"GREENROOM_S3_[A-Z]+_SECRET_KEY", name)}
    assert len(users) == 4
    together = yaml.safe_load(COMPOSE)["services"]["preflight"]["environment"]["GREENROOM_S3_USERS"]
    assert all(f"${{{name}:?" in together for name in users)
    assert secret - api_keys - users == required - {"GREENROOM_S3_USERS"}


def test_only_setup_and_backup_have_the_root_key_of_the_s3_server() -> None:
    services = yaml.safe_load(COMPOSE)["services"]
    root = {name for name, service in services.items() if "${GREENROOM_S3_SECRET_KEY" in str(service)}
    # `s3` is the server itself, `preflight` has no network.
    assert root == {"preflight", "s3", "setup", "backup"}
    for name in ("mlflow", "worker", "predictor"):
        used = set(re.findall(r"\$\{GREENROOM_S3_([A-Z]+)_SECRET_KEY", str(services[name])))
        assert used == {name.upper()}


# Health


@pytest.fixture
def answering() -> Iterator[tuple[str, list[int]]]:
    """A server that answers with the last status in the list."""
    statuses = [200]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(statuses[-1])
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/health", statuses
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "code"), [(200, 0), (204, 0), (302, 0), (401, 1), (404, 1), (500, 1), (503, 1)]
)
def test_health_is_a_success(answering: tuple[str, list[int]], status: int, code: int) -> None:
    url, statuses = answering
    statuses.append(status)
    assert healthcheck.main(url) == code


def test_health_refuses_what_does_not_answer(answering: tuple[str, list[int]]) -> None:
    assert healthcheck.main("http://127.0.0.1:9/health") == 1


def test_the_health_check_needs_the_standard_library_alone(answering: tuple[str, list[int]]) -> None:
    script = ROOT / "infra" / "containers" / "healthcheck.py"
    done = subprocess.run(
        [sys.executable, "-I", "-S", script], env={"GREENROOM_HEALTH_URL": answering[0]}, check=False
    )
    assert done.returncode == 0


# The compose file


def test_every_service_is_bounded_and_shut() -> None:
    services = yaml.safe_load(COMPOSE)["services"]
    for name, service in services.items():
        assert service.get("mem_limit"), name
        assert service.get("read_only") is True, name
        assert service.get("cap_drop") == ["ALL"], name
        assert service.get("security_opt") == ["no-new-privileges:true"], name
        for port in service.get("ports", []):
            assert port.startswith("${GREENROOM_BIND:-127.0.0.1}:"), name
    published = {name for name, service in services.items() if service.get("ports")}
    assert published == {"mlflow", "prefect", "predictor", "grafana"}
    reach_database = {name for name, s in services.items() if "database" in s.get("networks", [])}
    assert reach_database == {"postgres", "setup", "mlflow", "prefect"}


def test_the_gates_private_key_is_where_it_is_used_alone() -> None:
    services = yaml.safe_load(COMPOSE)["services"]
    mounts = {
        name: [v for v in s.get("volumes", []) if v.startswith("gate-key:")] for name, s in services.items()
    }
    assert {name for name, found in mounts.items() if found} == {"setup", "gate", "backup"}
    assert mounts["gate"] == ["gate-key:/etc/greenroom/private:ro"]


def test_every_model_has_a_deployment() -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    trained = {
        one["parameters"]["model"] for one in deployments if one["entrypoint"] == "flows.training.flow.train"
    }
    assert trained == set(load_catalog())


# Backups of the bucket


@pytest.fixture
def bucket(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """An empty bucket of the test's own on the stack's S3 server."""
    secret = dict(line.split("=", 1) for line in (stack.home / "stack.env").read_text().splitlines())
    monkeypatch.setenv("GREENROOM_S3_ENDPOINT_URL", f"http://127.0.0.1:{stack.ports['S3']}")
    monkeypatch.setenv("GREENROOM_S3_ACCESS_KEY", secret["GREENROOM_S3_ACCESS_KEY"])
    monkeypatch.setenv("GREENROOM_S3_SECRET_KEY", secret["GREENROOM_S3_SECRET_KEY"])
    monkeypatch.setenv("GREENROOM_S3_BUCKET", "backups-under-test")
    client = s3_client(StorageSettings())
    client.create_bucket(Bucket="backups-under-test")
    yield client
    for one in client.list_objects_v2(Bucket="backups-under-test").get("Contents", []):
        client.delete_object(Bucket="backups-under-test", Key=one["Key"])
    client.delete_bucket(Bucket="backups-under-test")


CONTENT = {"mlflow/1/a.onnx": b"\0" * 70_000, "predictions/x=1/ä b.parquet": b"rows", "empty": b""}


def fill(client: object) -> None:
    for key, content in CONTENT.items():
        client.put_object(Bucket="backups-under-test", Key=key, Body=content)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_bucket_comes_back_from_its_backup(bucket: object) -> None:
    fill(bucket)
    stream = io.BytesIO()
    assert bucket_backup.dump(stream) == len(CONTENT)
    for key in CONTENT:
        bucket.delete_object(Bucket="backups-under-test", Key=key)  # type: ignore[attr-defined]
    stream.seek(0)
    assert bucket_backup.load(stream) == len(CONTENT)
    for key, content in CONTENT.items():
        found = bucket.get_object(Bucket="backups-under-test", Key=key)  # type: ignore[attr-defined]
        assert found["Body"].read() == content


@pytest.mark.slow
def test_a_backup_that_is_cut_off_or_changed_is_refused(bucket: object) -> None:
    fill(bucket)
    stream = io.BytesIO()
    bucket_backup.dump(stream)
    whole = stream.getvalue()
    for cut in (len(whole) // 2, len(whole) - 11_000):
        with pytest.raises(click.ClickException, match="cut off"):
            bucket_backup.load(io.BytesIO(whole[:cut]))
    with pytest.raises(click.ClickException, match="manifest says"):
        bucket_backup.load(io.BytesIO(whole.replace(b"rows", b"woes", 1)))
    empty = io.BytesIO()
    with tarfile.open(fileobj=empty, mode="w|"):
        pass
    with pytest.raises(click.ClickException, match="manifest is missing"):
        bucket_backup.load(io.BytesIO(empty.getvalue()))
