"""Makes databases, bucket, guard and the gate's key for a stack of containers. Safe to run again."""

import os

import click
import psycopg2

from infra import registry_guard
from infra.containers.settings import POSTGRES_HOST, POSTGRES_ROLE, DatabaseSettings
from infra.databases import ensure
from registry.storage.s3 import s3_client
from registry.storage.settings import StorageSettings


def databases() -> None:
    """Create the roles and databases, each with the password of now."""
    settings = DatabaseSettings()
    try:
        connection = psycopg2.connect(
            host=POSTGRES_HOST,
            port=settings.postgres_port,
            user=POSTGRES_ROLE,
            password=settings.postgres_password.get_secret_value(),
            dbname="postgres",
            connect_timeout=10,
        )
    except psycopg2.OperationalError as error:
        raise click.ClickException(
            f"PostgreSQL at {POSTGRES_HOST} does not let {POSTGRES_ROLE} in: "
            f"{str(error).strip().splitlines()[-1]}. The password is the one of the server's first start, "
            "unless it was changed there too (docs/operations.md)."
        ) from error
    ensure(connection, settings.databases, owner=POSTGRES_ROLE)
    click.echo("Databases: " + ", ".join(database.name for database in settings.databases))


def bucket() -> None:
    """Create the bucket if there is none."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - half a second

    storage = StorageSettings()
    client = s3_client(storage)
    try:
        names = [bucket["Name"] for bucket in client.list_buckets().get("Buckets", [])]
        if storage.s3_bucket not in names:
            client.create_bucket(Bucket=storage.s3_bucket)
    except (BotoCoreError, ClientError) as error:
        raise click.ClickException(
            f"The S3 server at {storage.s3_url} refused to list or create buckets: {error}. Look at "
            "GREENROOM_S3_ACCESS_KEY and GREENROOM_S3_SECRET_KEY, and at their rights."
        ) from error
    click.echo(f"Bucket: {storage.s3_bucket}")


def gate_key() -> None:
    """Make the gate's key if there is none."""
    click.echo(f"Gate's key: {', '.join(keyid[:12] for keyid in registry_guard.ensure_gate_key())}")


def guard() -> None:
    """Install or update the guard in MLflow's database."""
    settings = DatabaseSettings()
    server = settings.url("mlflow", settings.mlflow_db_password)
    owner = settings.url("mlflow", settings.postgres_password, role=POSTGRES_ROLE)
    click.echo(registry_guard.migrate(server, owner, os.environ))
