"""The users of the stack's S3 server, each with the least rights that its service needs.

MinIO is told of them through its admin API. Another server gets them by its own means: SeaweedFS from
infra/compose/seaweedfs.yml, which a test compares with this table; any other from its operator, for whom
`python -m infra.containers s3-policies` prints the policies.
"""

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import click
import httpx
from minio import MinioAdmin
from minio.credentials.providers import StaticProvider
from minio.error import MinioAdminException
from pydantic import SecretStr
from urllib3.exceptions import HTTPError

from infra.containers.settings import S3Keys, S3UserSettings
from registry.storage.s3 import s3_client
from registry.storage.settings import StorageSettings


@dataclass(frozen=True)
class Rights:
    """Patterns of keys that a user may read and list, may write, and may delete."""

    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    deletes: tuple[str, ...] = ()


# The rows and results of `greenroom score` are where an operator wants them; docs/scale.md has these names.
_SCORED = "scored*"
USERS = {
    "mlflow": Rights(reads=("mlflow/*",), writes=("mlflow/*",), deletes=("mlflow/*",)),
    "worker": Rights(
        reads=("datasets/*", "predictions/*", "feedback/*", "rows/*", _SCORED),
        writes=("datasets/*", _SCORED),
        deletes=(_SCORED,),
    ),
    "predictor": Rights(reads=("datasets/*",), writes=("datasets/*", "predictions/*", "feedback/*")),
    "gate": Rights(reads=("datasets/*",)),
}


def policy(rights: Rights, bucket: str) -> dict[str, Any]:
    """Return rights as a policy in the language of AWS' IAM."""

    def allow(actions: list[str], patterns: tuple[str, ...]) -> list[dict[str, Any]]:
        resources = [f"arn:aws:s3:::{bucket}/{pattern}" for pattern in patterns]
        return [{"Effect": "Allow", "Action": actions, "Resource": resources}] if patterns else []

    # Who may not list learns of no missing object: the answer is 403 in place of 404.
    listing = {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": [f"arn:aws:s3:::{bucket}"]}
    return {
        "Version": "2012-10-17",
        "Statement": [
            listing,
            *allow(["s3:GetObject"], rights.reads),
            *allow(["s3:PutObject", "s3:AbortMultipartUpload"], rights.writes),
            *allow(["s3:DeleteObject"], rights.deletes),
        ],
    }


def seaweedfs_actions(rights: Rights, bucket: str) -> list[str]:
    """Return rights as actions of SeaweedFS' identities, where who may write may delete too."""
    reads = [f"{verb}:{bucket}/{pattern}" for pattern in rights.reads for verb in ("Read", "List")]
    return [*reads, *(f"Write:{bucket}/{pattern}" for pattern in rights.writes)]


def ensure() -> None:
    """Make MinIO's users, or give them the keys and rights of now; then log in as each, on any server.

    Raises `click.ClickException`.
    """
    storage, users = StorageSettings(), S3UserSettings().users
    if missing := USERS.keys() - users.keys():
        raise click.ClickException(f"GREENROOM_S3_USERS has no keys for {', '.join(sorted(missing))}.")
    if _is_minio(storage):
        _tell_minio(storage, users)
    for name in USERS:
        _log_in(storage, name, users[name])
    click.echo(f"S3 users: {', '.join(USERS)}")


def _is_minio(storage: StorageSettings) -> bool:
    try:
        answer = httpx.get(storage.s3_url, timeout=10)
    except httpx.HTTPError as error:
        raise click.ClickException(
            f"The S3 server at {storage.s3_url} does not answer ({type(error).__name__})."
        ) from error
    return str(answer.headers.get("server", "")).startswith("MinIO")


def _tell_minio(storage: StorageSettings, users: dict[str, S3Keys]) -> None:
    url = urlsplit(storage.s3_url)
    root = StaticProvider(storage.s3_access_key.get_secret_value(), storage.s3_secret_key.get_secret_value())
    admin = MinioAdmin(
        endpoint=url.netloc, credentials=root, secure=url.scheme == "https", region=storage.s3_region
    )
    try:
        for name, rights in USERS.items():
            rule, keys = f"greenroom-{name}", users[name]
            admin.policy_add(rule, policy=policy(rights, storage.s3_bucket))
            admin.user_add(keys.access_key, keys.secret_key.get_secret_value())
            admin.policy_set(rule, user=keys.access_key)
    except (MinioAdminException, HTTPError) as error:
        raise click.ClickException(
            f"MinIO at {storage.s3_url} did not make the user {name}: {error}. GREENROOM_S3_ACCESS_KEY and "
            "_SECRET_KEY must be its root user's."
        ) from error


def _log_in(storage: StorageSettings, name: str, keys: S3Keys) -> None:
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - half a second

    own = storage.model_copy(
        update={"s3_access_key": SecretStr(keys.access_key), "s3_secret_key": keys.secret_key}
    )
    folder = USERS[name].reads[0].partition("/")[0]
    try:
        s3_client(own).list_objects_v2(Bucket=storage.s3_bucket, Prefix=f"{folder}/", MaxKeys=1)
    except (BotoCoreError, ClientError) as error:
        raise click.ClickException(
            f"The S3 server at {storage.s3_url} does not let {name} list {folder}/: {error}. This job "
            "tells MinIO of its users; SeaweedFS needs infra/compose/seaweedfs.yml. On another server make "
            "them with the policies of `python -m infra.containers s3-policies` (docs/operations.md)."
        ) from error


def print_policies() -> None:
    """Print each user's policy, as one JSON object by name."""
    bucket = StorageSettings().s3_bucket
    click.echo(json.dumps({name: policy(rights, bucket) for name, rights in USERS.items()}, indent=2))
