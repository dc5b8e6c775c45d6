"""Subcommand: the keys that sign evidence and overrides."""

import sys
from importlib.metadata import entry_points

import click

from registry.client.registry import Registry, Version
from registry.client.standing import Standing, without_standing
from registry.client.tracking_client import TrackingClient
from registry.errors import RegistryError
from registry.evidence import keys as signing
from registry.settings import KeySettings
from registry.text import printable


@click.group()
def keys() -> None:
    """The keys that sign evidence (gate) and overrides (operator), and those that are trusted."""


@keys.command("create")
@click.argument("role", type=click.Choice(signing.ROLES))
def create_key(role: signing.Role) -> None:
    """Make a key pair for ROLE.

    The private key stays here (mode 0600). Its public half goes to the trusted keys; bring it to the
    trusted keys of the server and of the predictor, if those are elsewhere.
    """
    _said(signing.create(role, KeySettings()), "Created")


@keys.command("rotate")
@click.argument("role", type=click.Choice(signing.ROLES))
def rotate_key(role: signing.Role) -> None:
    """Make a new key pair for ROLE. What the old key signed stays valid until `greenroom keys retire`."""
    _said(signing.create(role, KeySettings(), replace=True), "Rotated: from now on evidence is signed with")


@keys.command("retire")
@click.argument("keyid")
def retire_key(keyid: str) -> None:
    """Trust the key whose id starts with KEYID no longer: the answer to a stolen key.

    What it signed counts as signed by nobody. What is in a stage stays there and is served on; `greenroom
    keys reissue` lets the gate judge it again. Do the same on every machine that has trusted keys.
    """
    gone = signing.retire(keyid, KeySettings())
    click.echo(f"The {gone.role} key {gone.keyid[:12]} is not trusted any more.")
    try:
        with TrackingClient() as client:
            everything = _standings(client, ())
    except RegistryError as error:
        click.echo(f"What stands on it cannot be told now; `greenroom verify` tells. {error}")
        return
    standings = [s for s in everything if s.retired and s.retired.keyid == gone.keyid]
    for standing in standings:
        click.echo(f"  {printable(str(standing))}")
    if not standings:
        click.echo("Nothing in a stage stands on it. `greenroom verify` checks everything.")
    else:
        click.echo("Run `greenroom keys reissue`, then `greenroom verify`.")


@keys.command("reissue")
@click.argument("models", nargs=-1)
@click.option("--dry-run", is_flag=True, help="Only list what would be judged again.")
def reissue(models: tuple[str, ...], *, dry_run: bool) -> None:
    """Let the gate judge again, and sign anew, every version in a stage whose evidence counts no more.

    With MODELS, of those alone. Nothing leaves its stage, and predictors serve on. What the gate refuses now
    keeps its place, too, but has no evidence that speaks for it.

    Exit code 0: everything in a stage has evidence. 1: something was refused or could not be judged.
    """
    with TrackingClient() as client:
        standings = _standings(client, models)
    if not standings:
        click.echo("Everything in a stage has evidence that counts.")
    if dry_run:
        for standing in standings:
            click.echo(printable(str(standing)))
        return
    left = [standing.version for standing in standings if not _judged_again(standing.version)]
    for version in left:
        what = f"{version} in {version.stage} has no evidence that counts."
        again = f"greenroom promote {version.model} {version.number} --to {version.stage} --override"
        click.secho(printable(f"{what} Promote another version, or `{again} --reason …`."), fg="red")
    sys.exit(1 if left else 0)


@keys.command("list")
def list_keys() -> None:
    """List the trusted keys, and whether the private half is here. Exit code 1 if there are none."""
    settings = KeySettings()
    trusted = [key for role in signing.ROLES for key in signing.trusted(role, settings)]
    for key in trusted:
        path = signing.private_path(key.role, settings)
        here = path.exists() and signing.signer(key.role, settings).public_key.keyid == key.keyid
        click.echo(f"{key.role:<9} {key.keyid[:12]}  {'signs here' if here else 'trusted':<10}  {key.path}")
    if not trusted:
        click.echo(
            f"No key is trusted in {settings.trusted_keys_path}; `greenroom keys create gate` makes one."
        )
        sys.exit(1)


def _standings(client: TrackingClient, models: tuple[str, ...]) -> list[Standing]:
    versions = Registry(client).staged_versions()
    named = [version for version in versions if not models or version.model in models]
    return without_standing(named, KeySettings())


def _judged_again(version: Version) -> bool:
    """Ask the gate about a version as `greenroom gate --rerun` does; whether it signed that it passed."""
    point = next(iter(entry_points(group="greenroom.commands", name="gate")), None)
    if point is None:
        raise click.ClickException("There is no `greenroom gate` here. Run this where gates run.")
    command: click.Command = point.load()
    arguments = [version.model, str(version.number), "--rerun"]
    try:
        command.main(arguments, prog_name="greenroom gate", standalone_mode=False)
    except SystemExit as done:
        return not done.code
    except (click.ClickException, RegistryError) as error:
        message = error.format_message() if isinstance(error, click.ClickException) else str(error)
        click.secho(printable(message), fg="red", err=True)
        return False
    return True


def _said(key: signing.TrustedKey, what: str) -> None:
    click.echo(f"{what} {key.role} key {key.keyid[:12]}. Its public half is {key.path}.")
