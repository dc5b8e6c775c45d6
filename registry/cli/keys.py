"""Subcommand: the keys that sign evidence and overrides."""

import sys

import click

from registry.evidence import keys as signing
from registry.settings import KeySettings


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
    """Trust the key whose id starts with KEYID no longer.

    What it signed counts as signed by nobody: `greenroom verify` lists the versions that need the gate anew.
    """
    gone = signing.retire(keyid, KeySettings())
    click.echo(f"The {gone.role} key {gone.keyid[:12]} is not trusted any more. Run `greenroom verify`.")


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


def _said(key: signing.TrustedKey, what: str) -> None:
    click.echo(f"{what} {key.role} key {key.keyid[:12]}. Its public half is {key.path}.")
