"""Makes what the services of a stack of containers stand on: databases, bucket, guard, the gate's key.

Safe to run again at any time; it changes only what is missing or has another password now.
"""

import os
import subprocess
import sys

import click
import psycopg2

from infra.containers.settings import DatabaseSettings
from infra.databases import ensure
from registry.evidence import keys
from registry.settings import KeySettings
from registry.storage.s3 import s3_client
from registry.storage.settings import StorageSettings


def databases() -> None:
    """Create the roles and databases, each with the password of now."""
    settings = DatabaseSettings()
    try:
        connection = psycopg2.connect(
            host=settings.postgres_host,
            port=settings.postgres_port,
            user=settings.postgres_user,
            password=settings.postgres_password.get_secret_value(),
            dbname="postgres",
            connect_timeout=10,
        )
    except psycopg2.OperationalError as error:
        raise click.ClickException(
            f"PostgreSQL at {settings.postgres_host} does not let {settings.postgres_user} in: "
            f"{str(error).strip().splitlines()[-1]}. The password is the one of the server's first start, "
            "unless it was changed there too (docs/operations.md)."
        ) from error
    try:
        ensure(connection, settings.databases, owner=settings.postgres_user)
    finally:
        connection.close()
    click.echo("Databases: " + ", ".join(one.name for one in settings.databases))


def bucket() -> None:
    """Create the bucket if there is none."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - half a second

    storage = StorageSettings()
    client = s3_client(storage)
    try:
        names = [one["Name"] for one in client.list_buckets().get("Buckets", [])]
        if storage.s3_bucket not in names:
            client.create_bucket(Bucket=storage.s3_bucket)
    except (BotoCoreError, ClientError) as error:
        raise click.ClickException(
            f"The S3 server at {storage.s3_url} did not take it: {error}. Look at "
            "GREENROOM_S3_ACCESS_KEY and _S3_SECRET_KEY, and whether they may list and create buckets."
        ) from error
    click.echo(f"Bucket: {storage.s3_bucket}")


def gate_key() -> None:
    """Make the gate's key if there is none."""
    settings = KeySettings()
    if not keys.private_path("gate", settings).exists():
        keys.create("gate", settings)
    click.echo(f"Gate's key: {', '.join(one.keyid[:12] for one in keys.trusted('gate', settings))}")


def guard() -> None:
    """Install or update the guard in MLflow's database."""
    settings = DatabaseSettings()
    done = subprocess.run(
        [sys.executable, "-m", "registry", "migrate"],
        env={
            **os.environ,
            "GREENROOM_DATABASE_URL": settings.url("mlflow", settings.mlflow_db_password),
            "GREENROOM_DATABASE_ADMIN_URL": settings.url(
                "mlflow", settings.postgres_password, role=settings.postgres_user
            ),
        },
        check=False,
    )
    if done.returncode:
        raise click.ClickException("MLflow's database could not be made ready: see above.")
