"""`python -m infra.containers COMMAND`: what containers start with, and their one-shot jobs."""

import click
from pydantic import ValidationError

from registry.settings import explain


@click.group()
def jobs() -> None:
    """Start a container's service, or do one of the jobs around it."""


@jobs.command()
def preflight() -> None:
    """Refuse to start on a secret that is missing, short, or an example."""
    from infra.containers.settings import PreflightSettings  # noqa: PLC0415 - each job loads its own

    PreflightSettings()
    click.echo("Every secret is set.")


@jobs.command()
@click.option("--databases-only", is_flag=True, help="Roles and empty databases, for a restore.")
def setup(databases_only: bool) -> None:
    """Make databases, bucket, S3 users, guard and the gate's key, where they are missing."""
    from infra.containers import s3_users  # noqa: PLC0415
    from infra.containers.setup import bucket, databases, gate_key, guard  # noqa: PLC0415

    for step in (databases, bucket, s3_users.ensure):
        step()
    if not databases_only:
        guard()
        gate_key()


@jobs.command()
def s3_policies() -> None:
    """Print the rights of each user of the S3 server, for a server that this stack does not run."""
    from infra.containers.s3_users import print_policies  # noqa: PLC0415

    print_policies()


@jobs.command()
def accounts() -> None:
    """Make MLflow's accounts, and set their passwords."""
    from infra.containers.accounts import ensure  # noqa: PLC0415

    ensure()


@jobs.command()
def mlflow() -> None:
    """Run MLflow's tracking server with the guard and a login."""
    from infra.containers.mlflow_server import run  # noqa: PLC0415

    run()


@jobs.command()
def worker() -> None:
    """Run Prefect's worker, with the deployments of prefect.yaml."""
    from infra import prefect_worker  # noqa: PLC0415

    prefect_worker.run(health=True)


@jobs.command()
@click.argument("direction", type=click.Choice(["dump", "load"]))
def objects(direction: str) -> None:
    """Dump the bucket to standard output, or load it from standard input, as tar."""
    from infra.containers import bucket_backup  # noqa: PLC0415

    bucket_backup.main(direction)


@jobs.command()
@click.argument("models", nargs=-1)
def demo(models: tuple[str, ...]) -> None:
    """Train, gate and promote MODELS, all of the catalogue without names, through the running stack."""
    from infra.containers.demo import run  # noqa: PLC0415

    run(models)


def main() -> None:
    """Run a job; a wrong setting becomes one sentence, without its value."""
    try:
        jobs()
    except ValidationError as error:
        raise SystemExit(f"greenroom: {explain(error)}") from None


if __name__ == "__main__":
    main()
