"""The users of the S3 server: what SeaweedFS lets each do, and what MinIO is told."""

import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import click
import pytest
import yaml
from botocore.exceptions import BotoCoreError, ClientError
from minio.crypto import decrypt
from pydantic import SecretStr
from urllib3 import HTTPResponse

from infra.containers import s3_users
from infra.containers.s3_users import USERS, Rights
from infra.containers.settings import S3UserSettings
from registry.storage.s3 import s3_client
from registry.storage.settings import StorageSettings
from tests.conftest import ROOT
from tests.ports import free_port
from tests.waiting import until

SECRETS = {name: f"b7c1f0a93d5e48e6ac20-{name}" for name in ("root", *USERS)}
OVERRIDE = yaml.safe_load((ROOT / "infra" / "compose" / "seaweedfs.yml").read_text())["services"]["s3"]
VARIABLES = {
    "GREENROOM_S3_ACCESS_KEY": "root",
    "GREENROOM_S3_SECRET_KEY": SECRETS["root"],
    **{f"GREENROOM_S3_{name.upper()}_SECRET_KEY": SECRETS[name] for name in USERS},
}
FOLDERS = ("mlflow/", "datasets/", "predictions/", "feedback/", "rows/", "scored/", "scored-2/", "elsewhere/")


def substituted(text: str) -> str:
    """A value as Compose hands it to a container."""
    return re.sub(r"\$\{(\w+)(?::-([^}]*)|:\?[^}]*)?\}", lambda m: VARIABLES.get(m[1], m[2] or ""), text)


def configuration() -> dict[str, Any]:
    """SeaweedFS' users, as the override has them."""
    found: dict[str, Any] = json.loads(substituted(OVERRIDE["environment"]["USERS"]))
    return found


def test_override_of_seaweedfs_has_the_same_rights() -> None:
    root, *users = configuration()["identities"]
    assert root["actions"] == ["Admin"]
    expected = {name: s3_users.seaweedfs_actions(rights, "greenroom") for name, rights in USERS.items()}
    assert {user["name"]: user["actions"] for user in users} == expected
    for user in users:
        keys = {"accessKey": user["name"], "secretKey": SECRETS[user["name"]]}
        assert user["credentials"] == [keys]


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENROOM_S3_ACCESS_KEY", "root")
    monkeypatch.setenv("GREENROOM_S3_SECRET_KEY", SECRETS["root"])
    monkeypatch.setenv("GREENROOM_S3_USERS", ",".join(f"{name}={name}:{SECRETS[name]}" for name in USERS))


@pytest.fixture(scope="module")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """SeaweedFS started as the override does it, on other ports, with an object in each folder."""
    folder = tmp_path_factory.mktemp("seaweedfs")
    (folder / "users.json").write_text(json.dumps(configuration()))
    ports = {name: free_port() for name in ("s3", "master", "volume", "filer")}
    _, _, command = substituted(OVERRIDE["command"][0]).partition("exec weed ")
    command = command.replace("/data/weed", str(folder))
    command = re.sub(r"-s3\.config=\S+", f"-s3.config={folder}/users.json", command)
    command = command.replace("-s3.port=9000", f"-s3.port={ports['s3']}").replace("0.0.0.0", "127.0.0.1")  # noqa: S104
    command += "".join(f" -{part}.port={ports[part]}" for part in ("master", "volume", "filer"))
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "weed"), *command.split()],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        stdout=(folder / "log").open("wb"),
        stderr=subprocess.STDOUT,
    )
    url = f"http://127.0.0.1:{ports['s3']}"
    client = client_of(url, "root")

    def filled() -> bool:
        try:
            if not client.list_buckets()["Buckets"]:
                client.create_bucket(Bucket="greenroom")
            for name in FOLDERS:
                client.put_object(Bucket="greenroom", Key=f"{name}a", Body=b"x")
        except (BotoCoreError, ClientError):
            return False
        return True

    try:
        until(filled, lambda: (folder / "log").read_text()[-2000:], 60)
        yield url
    finally:
        process.kill()
        process.wait(20)


def client_of(url: str, name: str) -> Any:
    return s3_client(
        StorageSettings(
            s3_endpoint_url=url, s3_access_key=SecretStr(name), s3_secret_key=SecretStr(SECRETS[name])
        ),
        attempts=1,
    )


def allowed(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 403:
            raise
        return False
    return True


def matches(patterns: tuple[str, ...], folder: str) -> bool:
    return any(folder.startswith(pattern.removesuffix("*")) for pattern in patterns)


@pytest.mark.slow
@pytest.mark.parametrize("name", USERS)
def test_each_user_may_do_what_the_table_says_and_no_more(seaweedfs: str, name: str) -> None:
    client, rights = client_of(seaweedfs, name), USERS[name]
    bucket = "greenroom"
    for folder in FOLDERS:
        reads, writes = matches(rights.reads, folder), matches(rights.writes, folder)
        key, own = f"{folder}a", f"{folder}{name}"
        assert allowed(lambda: client.get_object(Bucket=bucket, Key=key)) is reads, key  # noqa: B023
        assert allowed(lambda: client.list_objects_v2(Bucket=bucket, Prefix=folder)) is reads, key  # noqa: B023
        assert allowed(lambda: client.put_object(Bucket=bucket, Key=own, Body=b"y")) is writes, key  # noqa: B023
        copied = allowed(lambda: client.copy_object(Bucket=bucket, Key=own, CopySource=f"{bucket}/mlflow/a"))  # noqa: B023
        assert copied is (writes and name == "mlflow"), key
        if not writes:
            assert not allowed(lambda: client.delete_object(Bucket=bucket, Key=key)), key  # noqa: B023
            client.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key}]})
            assert client_of(seaweedfs, "root").head_object(Bucket=bucket, Key=key)
    for ask in (
        lambda: client.list_objects_v2(Bucket=bucket),
        lambda: client.create_bucket(Bucket="another"),
        lambda: client.delete_bucket(Bucket=bucket),
        lambda: client.put_bucket_policy(Bucket=bucket, Policy="{}"),
    ):
        assert not allowed(ask)


@pytest.mark.slow
def test_users_that_the_server_has_are_found(seaweedfs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENROOM_S3_ENDPOINT_URL", seaweedfs)
    s3_users.ensure()


@pytest.mark.slow
def test_user_that_the_server_does_not_know_is_named_with_a_way_out(
    seaweedfs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GREENROOM_S3_ENDPOINT_URL", seaweedfs)
    wrong = os.environ["GREENROOM_S3_USERS"].replace("-worker", "-other")
    monkeypatch.setenv("GREENROOM_S3_USERS", wrong)
    with pytest.raises(click.ClickException, match="does not let worker list datasets/") as refused:
        s3_users.ensure()
    assert "infra/compose/seaweedfs.yml" in str(refused.value)
    assert "-other" not in str(refused.value)


def test_user_without_keys_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENROOM_S3_USERS", f"mlflow=mlflow:{SECRETS['mlflow']}")
    with pytest.raises(click.ClickException, match="no keys for gate, predictor, worker"):
        s3_users.ensure()


def test_server_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENROOM_S3_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(click.ClickException, match="does not answer"):
        s3_users.ensure()


@pytest.fixture
def minio(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, dict[str, str], bytes]]]:
    """A server that speaks MinIO's admin API as its SDK does; what it was asked: command, query, body."""
    asked: list[tuple[str, dict[str, str], bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(b"<ListBucketResult></ListBucketResult>")

        def do_PUT(self) -> None:
            assert self.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=root/")
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            asked.append((url.path, dict(parse_qsl(url.query)), body))
            self.answer(b"")

        def answer(self, content: bytes) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def version_string(self) -> str:
            return "MinIO"

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("GREENROOM_S3_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    yield asked
    server.shutdown()
    server.server_close()


def test_minio_is_told_of_each_user_with_its_policy(minio: list[tuple[str, dict[str, str], bytes]]) -> None:
    s3_users.ensure()
    commands = ("add-canned-policy", "add-user", "set-user-or-group-policy")
    assert [path for path, _, _ in minio] == [f"/minio/admin/v3/{command}" for command in commands] * len(
        USERS
    )
    for number, (name, rights) in enumerate(USERS.items()):
        (_, rule, content), (_, user, secret), (_, link, _) = minio[3 * number : 3 * number + 3]
        assert rule == {"name": f"greenroom-{name}"}
        assert json.loads(content) == s3_users.policy(rights, "greenroom")
        assert user == {"accessKey": name}
        sent = HTTPResponse(io.BytesIO(secret), preload_content=False)
        assert json.loads(decrypt(sent, SECRETS["root"])) == {"status": "enabled", "secretKey": SECRETS[name]}
        assert link == {"userOrGroup": name, "isGroup": "false", "policyName": f"greenroom-{name}"}


def test_policy_names_folders_and_deletes_nothing_that_is_evidence() -> None:
    for name, rights in USERS.items():
        statements = s3_users.policy(rights, "greenroom")["Statement"]
        resources = {action: set(s["Resource"]) for s in statements for action in s["Action"]}
        assert resources["s3:ListBucket"] == {"arn:aws:s3:::greenroom"}
        everything = [resource for found in resources.values() for resource in found]
        assert "arn:aws:s3:::greenroom/*" not in everything
        assert ("arn:aws:s3:::greenroom/mlflow/*" in everything) is (name == "mlflow")
        deleted = resources.get("s3:DeleteObject", set())
        assert not deleted & {
            f"arn:aws:s3:::greenroom/{f}/*" for f in ("datasets", "predictions", "feedback")
        }
    assert len(s3_users.policy(Rights(), "greenroom")["Statement"]) == 1


@pytest.mark.parametrize(
    "value",
    [
        "",
        "mlflow",
        "mlflow=mlflow:short",
        f"mlflow=ml:{SECRETS['mlflow']}",
        "mlflow=mlflow:changeme-changeme-1",
    ],
)
def test_weak_or_unreadable_keys_are_refused_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("GREENROOM_S3_USERS", value)
    with pytest.raises(ValueError, match="s3_users") as refused:
        S3UserSettings()
    assert not value or value.rpartition(":")[2] not in str(refused.value).replace("mlflow:", "")
