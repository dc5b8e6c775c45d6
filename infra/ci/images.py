"""`make push-images`: names the two images for a registry and pushes them."""

import os
import subprocess
import sys

import click

from infra.ci import github_outputs
from infra.ci.shell import run

IMAGES = ("flows", "serving")


@click.command()
@click.option("--repository", envvar="IMAGE_REPOSITORY", required=True, help="REGISTRY/OWNER/NAME.")
@click.option("--tag", envvar="IMAGE_TAG", required=True, help="Such as v0.1.0.")
@click.option("--user", envvar="REGISTRY_USERNAME", help="The account; without it docker uses its own login.")
def main(repository: str, tag: str, user: str | None) -> None:
    """Push greenroom-flows and greenroom-serving, as they were built and scanned here.

    REGISTRY_PASSWORD is the password of USER; docker reads it from a pipe. Sets the step's outputs
    `flows-name`, `flows-digest`, `serving-name`, `serving-digest`. Exit code 1 if docker refuses.
    """
    repository = repository.lower()  # registries take no capitals, and GitHub's owners may have some
    if user:
        _log_in(repository.partition("/")[0], user)
    for image in IMAGES:
        name = f"{repository}/{image}"
        for step in (["tag", f"greenroom-{image}", f"{name}:{tag}"], ["push", f"{name}:{tag}"]):
            if run(["docker", *step]):
                sys.exit(1)
        inspection = [
            "docker",
            "image",
            "inspect",
            "--format",
            '{{join .RepoDigests "\\n"}}',
            f"{name}:{tag}",
        ]
        digests = subprocess.run(inspection, capture_output=True, text=True, check=True).stdout.split()
        digest = next(line.partition("@")[2] for line in digests if line.startswith(f"{name}@"))
        click.echo(f"{name}:{tag} is {digest}")
        github_outputs.output(f"{image}-name", name)
        github_outputs.output(f"{image}-digest", digest)


def _log_in(registry: str, user: str) -> None:
    password = os.environ.get("REGISTRY_PASSWORD", "")
    if not password:
        raise click.UsageError("REGISTRY_USERNAME is set, but REGISTRY_PASSWORD is not.")
    command = ["docker", "login", registry, "--username", user, "--password-stdin"]
    if subprocess.run(command, input=password, text=True, check=False).returncode:
        sys.exit(1)


if __name__ == "__main__":
    main()
