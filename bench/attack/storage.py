"""Ways by bytes: the proxy of artifacts, the S3 server and its inner ports, files of the machine."""

import os
import re
import ssl
import subprocess
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from bench.attack import honest
from bench.attack.runner import predictor_refuses
from bench.attack.target import (
    LOCAL,
    LOGINS,
    NOBODY,
    OTHER_USER,
    READER,
    S3_USER,
    Answer,
    Target,
    s3_client,
    send,
)
from bench.attack.ways import DETECTED, PREVENTED, Attempt, Detector, Kind, Outcome, Way
from infra.containers.s3_users import USERS as S3_USERS
from registry.client import verification
from registry.client.registry import Registry, Version
from registry.names import Stage

PROXY = "/api/2.0/mlflow-artifacts"


def _writings(root: str) -> dict[str, str]:
    """Return writings of an artifact's folder that a store or a proxy may take for it."""
    first, *rest = root.split("/")
    tail = "/".join(rest)
    return {
        "plain": root,
        "double slash": f"{first}//{tail}",
        "dot": f"{first}/./{tail}",
        "dots": f"{first}/x/../{tail}",
        "encoded slash": f"{first}%2F{tail}",
        "doubly encoded slash": f"{first}%252F{tail}",
        "encoded dot": f"{first}/%2e/{tail}",
        "doubly encoded dot": f"{first}/%252e/{tail}",
        "encoded letter": f"%{ord(first[0]):02x}{first[1:]}/{tail}",
        "slash first": f"/{root}",
        "slash last": f"{root}/",
        "backslash": f"{first}%5C{tail.replace('/', '%5C')}",
        "NUL": f"{root}%00",
        "above the root": f"../mlflow/{root}",
        "encoded above": f"%2e%2e/mlflow/{root}",
        "space": f"{root}%20",
        "upper case": root.upper(),
        "address": f"mlflow-artifacts:/{root}",
        "bucket": f"s3://greenroom/mlflow/{root}",
        "query": f"{root}?x=1&y=",
    }


def _root(uri: str) -> str:
    return uri.removeprefix("mlflow-artifacts:/").strip("/")


_VERBS = {
    "PUT": ("PUT", "artifacts", b"other bytes"),
    "DELETE": ("DELETE", "artifacts", None),
    "start of a multipart": ("POST", "mpu/create", {"path": "model.onnx", "num_parts": 1}),
    "end of a multipart": (
        "POST",
        "mpu/complete",
        {"path": "model.onnx", "upload_id": "x", "parts": [{"part_number": 1, "etag": "x"}]},
    ),
    "abort of a multipart": ("POST", "mpu/abort", {"path": "model.onnx", "upload_id": "x"}),
}
_FINDERS: tuple[Detector, ...] = ("predictor", "verify", "transition")
_FILES = ("model.onnx", "MLmodel", "model.onnx/child", "more.onnx", "")


def _artifact_ways() -> Iterator[Way]:
    for verb in _VERBS:
        for writing in _writings("1/a/b"):
            for prefix in ("api", "ajax-api"):
                name = f"{verb}, {writing}, {prefix}"
                act = _writing(LOCAL, verb, writing, "model.onnx", "predictor", prefix=prefix)
                yield Way("artifacts", LOCAL, name, act, DETECTED, "predictor", harmless=True)
        for account in LOGINS:
            for file in _FILES:
                name = f"{verb} {file or 'the folder'}"
                outcome, by = _expected(account)
                act = _writing(account, verb, "plain", file, by)
                yield Way("artifacts", account, name, act, outcome, by, harmless=account != NOBODY)
    for file in _FILES[:4]:
        # The predictor reads the model's file, and no other.
        for by in _FINDERS if file.startswith("model.onnx") else _FINDERS[1:]:
            yield Way("artifacts", LOCAL, f"PUT {file}, found by {by}", _exchange(file), DETECTED, by)
    for file in ("", "model.onnx", "MLmodel"):
        for what in ("files1", "files2", "artifacts1", "artifacts2"):
            yield Way("artifacts", LOCAL, f"DELETE {what} {file}", _deleting(what, file))


def _expected(account: str) -> tuple[Outcome, Detector]:
    """Whoever may edit the experiment may write its artifacts: that is found."""
    return (PREVENTED, "") if account in (NOBODY, READER) else (DETECTED, "verify")


def _writing(
    account: str, verb: str, writing: str, file: str, by: Detector, *, prefix: str = "api"
) -> Callable[[Target], Attempt | Answer]:
    """Write to the files of the version in Production; where that may succeed, of one that is made for it."""
    method, room, body = _VERBS[verb]

    def act(target: Target) -> Attempt | Answer:
        if account in (NOBODY, READER) or verb == "DELETE":
            root = _root(target.places["files1"])
            where = f"/{prefix}/2.0/mlflow-artifacts/{room}/{_writings(root)[writing]}/{file}".rstrip("/")
            return target.mlflow(account, method, where, body)
        version = _writable(target)
        place = honest.location(target, version)
        before, held = target.objects(place), _held(target, place)
        where = f"/{prefix}/2.0/mlflow-artifacts/{room}/{_writings(_root(place))[writing]}/{file}".rstrip("/")
        answer = target.mlflow(account, method, where, body)
        if target.objects(place) == before:
            # Written somewhere else, if at all: nothing happened to the version.
            return Answer(404, answer.text)
        told = predictor_refuses(target, version) if by == "predictor" else _verified(target, version)
        _put_back(target, place, held)
        return Attempt((answer,), version.model, told=(by,) if told else ())

    return act


def _verified(target: Target, version: Version) -> bool:
    report = verification.verify(target.client, target.keys, [version.model])
    return any(version.model in problem for problem in report.problems)


def _writable(target: Target) -> Version:
    """A version in Staging, the same for all ways that write to its files and put them back; the accounts have
    their rights on its experiment.
    """
    if "writable" not in target.places:
        version = honest.prey(target, Stage.STAGING, experiment=target.places["experiment"])
        target.places["writable"] = version.model
    return Registry(target.client).version(target.places["writable"], 1)


def _held(target: Target, place: str) -> dict[str, bytes]:
    read = target.s3.get_object
    return {key: read(Bucket="greenroom", Key=key)["Body"].read() for key, _ in target.objects(place)}


def _put_back(target: Target, place: str, held: dict[str, bytes]) -> None:
    for key, _ in target.objects(place):
        if key not in held:
            target.s3.delete_object(Bucket="greenroom", Key=key)
    for key, content in held.items():
        target.s3.put_object(Bucket="greenroom", Key=key, Body=content)


def _exchange(file: str) -> Callable[[Target], Attempt]:
    def act(target: Target) -> Attempt:
        version = honest.prey(target, Stage.STAGING)
        where = f"{PROXY}/artifacts/{_root(honest.location(target, version))}/{file}"
        return Attempt((target.mlflow(LOCAL, "PUT", where, b"other bytes"),), version.model)

    return act


def _deleting(what: str, file: str) -> Callable[[Target], Answer]:
    def act(target: Target) -> Answer:
        where = f"{PROXY}/artifacts/{_root(target.places[what])}/{file}".rstrip("/")
        return target.mlflow(LOCAL, "DELETE", where)

    return act


# The S3 server of the local stack, with a wrong key or none.


def _anonymous(target: Target) -> Any:
    config = Config(signature_version=UNSIGNED, retries={"total_max_attempts": 1})
    return boto3.client("s3", endpoint_url=target.url("S3"), region_name="us-east-1", config=config)


def _key_of(target: Target) -> str:
    return f"mlflow/{_root(target.places['files1'])}/model.onnx"


Ask = Callable[[Any, str], Any]
_ASKS: dict[str, Ask] = {
    "read": lambda s3, key: s3.get_object(Bucket="greenroom", Key=key),
    "head": lambda s3, key: s3.head_object(Bucket="greenroom", Key=key),
    "list": lambda s3, key: s3.list_objects_v2(Bucket="greenroom", Prefix=key),
    "write": lambda s3, key: s3.put_object(Bucket="greenroom", Key=key, Body=b"other bytes"),
    "delete": lambda s3, key: s3.delete_object(Bucket="greenroom", Key=key),
    "copy over": lambda s3, key: s3.copy_object(
        Bucket="greenroom", Key=key, CopySource=f"greenroom/{key[:-5]}"
    ),
    "multipart": lambda s3, key: s3.create_multipart_upload(Bucket="greenroom", Key=key),
    "tag": lambda s3, key: s3.put_object_tagging(Bucket="greenroom", Key=key, Tagging={"TagSet": []}),
    "ACL": lambda s3, key: s3.put_object_acl(Bucket="greenroom", Key=key, ACL="public-read-write"),
    "bucket policy": lambda s3, _: s3.put_bucket_policy(Bucket="greenroom", Policy="{}"),
    "bucket ACL": lambda s3, _: s3.put_bucket_acl(Bucket="greenroom", ACL="public-read-write"),
    "CORS": lambda s3, _: s3.put_bucket_cors(
        Bucket="greenroom",
        CORSConfiguration={"CORSRules": [{"AllowedMethods": ["PUT"], "AllowedOrigins": ["*"]}]},
    ),
    "lifecycle": lambda s3, _: s3.put_bucket_lifecycle_configuration(
        Bucket="greenroom",
        LifecycleConfiguration={
            "Rules": [{"ID": "x", "Status": "Enabled", "Expiration": {"Days": 1}, "Filter": {"Prefix": ""}}]
        },
    ),
    "bucket deleted": lambda s3, _: s3.delete_bucket(Bucket="greenroom"),
    "bucket made": lambda s3, _: s3.create_bucket(Bucket="greenroom-other"),
    "buckets": lambda s3, _: s3.list_buckets()["Buckets"] or _nothing(),
}


def _nothing() -> None:
    raise ClientError(
        {"Error": {"Code": "Empty"}, "ResponseMetadata": {"HTTPStatusCode": 404}}, "ListBuckets"
    )


def _asking(ask: Ask, client: Any, key: str) -> Answer:
    try:
        return Answer(200, str(ask(client, key))[:2000])
    except ClientError as error:
        status = int(error.response["ResponseMetadata"].get("HTTPStatusCode", 403))
        return Answer(status, str(error))
    except BotoCoreError as error:
        return Answer(403, str(error))


_LOGINS: dict[str, Callable[[Target], Any]] = {
    "without a key": _anonymous,
    "with a wrong secret": lambda t: s3_client(t.url("S3"), t.settings["GREENROOM_S3_ACCESS_KEY"], "x" * 32),
    "as another user": lambda t: s3_client(t.url("S3"), "admin", "admin"),
    "as nobody": lambda t: s3_client(t.url("S3"), "anonymous", "anonymous"),
}


def _s3_ways() -> Iterator[Way]:
    for who, client in _LOGINS.items():
        for what, ask in _ASKS.items():
            yield Way("S3", LOCAL, f"{what} {who}", _as_client(client, ask))
    for method, other in (("PUT", False), ("DELETE", False), ("POST", False), ("GET", True), ("PUT", True)):
        name = f"{method} with an address to read {'another file' if other else 'it'}"
        yield Way("S3", LOCAL, name, _presigned(method, other=other))
    for name in S3_USERS:
        for folder in ("mlflow/1/models/m-1/artifacts/model.onnx", "datasets/a", "predictions/a", "rows/a"):
            for what in _ASKS:
                if not _may(name, what, folder):
                    yield Way("S3", S3_USER, f"{what} {folder} as {name}", _as_user(name, what, folder))
    for what, path in _RAW.items():
        for method in ("GET", "PUT", "POST", "DELETE"):
            yield Way("S3", LOCAL, f"{method}, {what}", _raw(method, path))


def _presigned(method: str, *, other: bool) -> Callable[[Target], Answer]:
    """Get an address to read a file with, and use it to write, or for another file."""

    def act(target: Target) -> Answer:
        path = f"{PROXY}/presigned/{_root(target.places['files1'])}/model.onnx"
        given = target.mlflow(LOCAL, "GET", path)
        found = re.search(r'http://[^"\s]+', given.text.partition("\n\n")[2])
        if not found:
            return given
        where = urlsplit(found[0])
        file = where.path.replace("model.onnx", "MLmodel") if other else where.path
        body = b"other bytes" if method == "PUT" else None
        return send(target.url("S3"), method, f"{file}?{where.query}", body)

    return act


def _may(name: str, what: str, folder: str) -> bool:
    """Whether a user's rights let it do something: that is no attack."""
    rights = S3_USERS[name]

    def within(patterns: tuple[str, ...]) -> bool:
        return any(folder.startswith(pattern.rstrip("*")) for pattern in patterns)

    if what in ("read", "head", "list", "buckets"):
        return within(rights.reads) or what == "buckets"
    # SeaweedFS lets who may write also delete, tag and set the ACL of what it wrote.
    return within(rights.writes)


def _as_client(client: Callable[[Target], Any], ask: Ask) -> Callable[[Target], Answer]:
    return lambda target: _asking(ask, client(target), _key_of(target))


def _as_user(name: str, what: str, key: str) -> Callable[[Target], Answer]:
    def act(target: Target) -> Answer:
        root = target.s3_users["root"]
        before = root.get_object(Bucket="greenroom", Key=key)["Body"].read()
        answer = _asking(_ASKS[what], target.s3_users[name], key)
        if root.get_object(Bucket="greenroom", Key=key)["Body"].read() != before:
            return Answer(200, "the object is another one")
        return answer

    return act


_RAW: dict[str, str] = {
    "a signature of nothing": "{key}?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={user}/20260101/us-east-1/s3/aws4_request&X-Amz-Date=20260101T000000Z&X-Amz-Expires=604800&X-Amz-SignedHeaders=host&X-Amz-Signature=",
    "a signature that is too old": "{key}?AWSAccessKeyId={user}&Expires=1&Signature=x",
    "a signature of another scheme": "{key}?AWSAccessKeyId={user}&Expires=99999999999&Signature=eHh4",
    "an encoded path": "%2e%2e/greenroom/{key}",
    "a double slash": "/{key}",
    "a bucket's dots": "../buckets/{key}",
    "the filer's path": "buckets/greenroom/{key}",
    "the admin's": "admin/?x",
    "IAM": "?Action=CreateUser&UserName=x&Version=2010-05-08",
    "STS": "?Action=AssumeRole&Version=2011-06-15",
    "status": "status",
    "a form": "greenroom?uploads",
}


def _raw(method: str, path: str) -> Callable[[Target], Answer]:
    def act(target: Target) -> Answer:
        where = path.format(
            key=f"greenroom/{_key_of(target)}", user=target.settings["GREENROOM_S3_ACCESS_KEY"]
        )
        answer = send(
            target.url("S3"), method, f"/{where}", b"other bytes" if method in ("PUT", "POST") else None
        )
        healthy = path == "status" and method == "GET"
        return Answer(403, answer.text) if healthy else answer

    return act


# SeaweedFS' inner ports, which ask for the certificate in the home.

_INNER = (
    "/",
    "/buckets/?pretty=y",
    "/buckets/greenroom/greenroom-ready",
    "/buckets/greenroom/planted",
    "/buckets/greenroom?recursive=true",
    "/dir/assign",
    "/dir/lookup?volumeId=1",
    "/dir/status",
    "/vol/grow?count=1",
    "/col/delete?collection=greenroom",
    "/status",
    "/metrics",
    "/1,0000",
    "/ui/index.html",
    "/cluster/status",
)


def _inner_ways() -> Iterator[Way]:
    for place, part in enumerate(("master", "volume", "filer")):
        for path in _INNER:
            for method in ("GET", "POST", "PUT", "DELETE"):
                for tls in (False, True):
                    how = "TLS without a certificate" if tls else "in the clear"
                    yield Way(
                        "inner ports of S3",
                        LOCAL,
                        f"{part}, {method} {path}, {how}",
                        _knocking(place, method, path, tls=tls),
                    )


def _knocking(place: int, method: str, path: str, *, tls: bool) -> Callable[[Target], Answer]:
    def act(target: Target) -> Answer:
        port = int(target.settings["GREENROOM_" + "S3_INTERNAL_PORTS"].split(",")[place])
        context = None
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        scheme = "https" if tls else "http"
        body = b"x" if method in ("POST", "PUT") else None
        answer = send(f"{scheme}://127.0.0.1:{port}", method, path, body, tls=context)
        # Closed without a word, as it should be.
        return Answer(403, answer.text) if answer.status == 0 else answer

    return act


# Files of the home, for another account of the machine.

_SECRET_PLACES = (
    "stack.env",
    "keys/gate.pem",
    "keys/operator.pem",
    "s3-tls/key.pem",
    "s3-tls/certificate.pem",
    "prefect-login.html",
    "s3",
    "s3/admin",
    "postgres/data",
    "postgres/data/PG_VERSION",
    "logs",
    "logs/mlflow.log",
    "run",
    "lock",
    "prefect",
    "tmp/filer.sock",
    "tmp/s3.sock",
    "serving-cache",
    "serving-spool",
    "flow-runs",
    "keys",
    "keys/trusted/planted.pem",
)
_SHELL = {
    "read": 'if [ -d "$1" ]; then ls -A "$1"; else cat "$1"; fi',
    "write": 'if [ -d "$1" ]; then : > "$1/planted"; else : >> "$1"; fi',
}


def _file_ways() -> Iterator[Way]:
    for path in _SECRET_PLACES:
        for how in ("read", "write"):
            # Nothing is in it; as root the home lets PostgreSQL's user through, and so others to this file.
            harmless = (path, how) == ("lock", "read")
            yield Way("files", OTHER_USER, f"{how} {path}", _touching(path, how), harmless=harmless)


def _touching(path: str, how: str) -> Callable[[Target], Answer]:
    """Read or write a file of the home as the system's user `daemon`; without the right to be somebody else,
    look at the modes.
    """

    def act(target: Target) -> Answer:
        file = target.home / path
        if os.geteuid() != 0:
            closed = any(place.stat().st_mode & 0o007 == 0 for place in (target.home, file) if place.exists())
            return Answer(403 if closed or not file.exists() else 200)
        # From the home on: how its own folder is reached is the machine's matter.
        home = os.open(target.home, os.O_PATH)
        try:
            done = subprocess.run(
                ["/bin/sh", "-c", _SHELL[how], "sh", f"/proc/self/fd/{home}/{path}"],
                user="daemon",
                group="daemon",
                extra_groups=[],
                pass_fds=[home],
                cwd="/",
                capture_output=True,
                text=True,
                check=False,
            )
        finally:
            os.close(home)
        return Answer(200 if done.returncode == 0 else 403, done.stdout + done.stderr)

    return act


KINDS = (
    Kind(
        "artifacts", "writes and deletions of a version's files, in 20 writings of their path", _artifact_ways
    ),
    Kind("S3", "the store without a key, with a wrong one, and as each user beyond its rights", _s3_ways),
    Kind("inner ports of S3", "SeaweedFS' master, volume and filer without their certificate", _inner_ways),
    Kind("files", "keys, passwords and data, read and written by another account of the machine", _file_ways),
)
