"""Subcommands that change what is in a stage: promote, rollback; and the keys that speak for it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from getpass import getuser

import click

from registry import audit
from registry import keys as signing
from registry.announcing import announce
from registry.client import TrackingClient
from registry.errors import EvidenceError, NotFoundError, RegistryRefusedError
from registry.nudging import nudge
from registry.settings import KeySettings
from registry.stage import Stage
from registry.stages import Registry

_VERSION = click.IntRange(min=1)


class _Reason(click.ParamType[str]):
    """A sentence, not blank: the audit keeps it for people."""

    name = "text"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return it without blanks around it."""
        if not value.strip():
            self.fail("say why, in a sentence", param, ctx)
        return value.strip()


@click.command()
@click.argument("model")
@click.argument("version", type=_VERSION)
@click.option(
    "--to",
    "stage",
    type=click.Choice([s.value for s in Stage], case_sensitive=False),
    default=Stage.PRODUCTION.value,
    show_default=True,
    help="Stage to move the version to.",
)
@click.option("--reason", type=_Reason(), help="Why; the audit keeps it. An override needs one.")
@click.option(
    "--override",
    is_flag=True,
    help="Break the glass: promote on your signed word instead of the gate's. Needs an operator's key.",
)
def promote(model: str, version: int, stage: str, reason: str | None, *, override: bool) -> None:
    """Move VERSION of MODEL to a stage, if its evidence allows it.

    To Production it goes through Staging, and the version that was there is archived. The server decides;
    exit code 1 when it refuses, and it says why.
    """
    target = Stage(stage)
    if override and not reason:
        raise click.UsageError("--override needs --reason: the audit will show it for good.")
    if override and target not in (Stage.STAGING, Stage.PRODUCTION):
        raise click.UsageError(f"A move to {target} needs no evidence, so there is nothing to override.")
    with TrackingClient() as client, _told_if_refused(f"{model} version {version} to {target}"):
        registry = Registry(client)
        found = registry.version(model, version)
        if override:
            moved = registry.override(
                found, target, reason=reason or "", operator=getuser(), settings=KeySettings()
            )
        else:
            if target is Stage.PRODUCTION and found.stage in (Stage.NONE, Stage.ARCHIVED):
                found = registry.promote(found, Stage.STAGING, reason)
            moved = registry.promote(found, target, reason)
    if Stage.PRODUCTION in (found.stage, target):
        nudge(_note)
    how = ", by override; the audit says so" if override else ""
    why = f" {getuser()} says: {reason}" if reason else ""
    announce("promoted", f"Greenroom: {moved} is in {moved.stage}", f"{moved} is in {moved.stage}{how}.{why}")
    click.echo(f"{moved} is in {moved.stage}{how}.")


@click.command()
@click.argument("model")
@click.option("--reason", type=_Reason(), required=True, help="Why; the audit keeps it.")
@click.option("--to", "number", type=_VERSION, help="A certain earlier version instead of the last good one.")
def rollback(model: str, reason: str, number: int | None) -> None:
    """Bring the last good version of MODEL back to Production, and archive the one that is there.

    Good is a version that was promoted by right, was not rolled back from, and still holds the bytes that
    were checked. Needs the tracking server and its stores alone. Exit code 1 when there is none.
    """
    with TrackingClient() as client, _told_if_refused(f"the rollback of {model}"):
        registry = Registry(client)
        current = registry.in_stage(model, Stage.PRODUCTION)
        rows = audit.history(client, model)
        targets = audit.rollback_targets(rows, current.number if current else None)
        if number is not None and number not in targets:
            listed = ", ".join(map(str, targets)) or "none"
            raise RegistryRefusedError(
                f"{model} version {number} is none to roll back to. There are: {listed}."
            )
        for target in [number] if number is not None else targets:
            try:
                moved = registry.rollback(registry.version(model, target), reason)
            except (NotFoundError, RegistryRefusedError) as error:
                if number is not None:
                    raise
                click.secho(f"Version {target} cannot come back. {error}", fg="yellow", err=True)
                continue
            nudge(_note)
            was = f"; version {current.number} is archived" if current else ""
            done = f"{moved} is in Production again{was}."
            announce(
                "rolled-back", f"Greenroom: {model} was rolled back", f"{done} {getuser()} says: {reason}"
            )
            click.echo(done)
            return
        raise RegistryRefusedError(
            f"{model} has no earlier version to roll back to. `greenroom history {model}` shows what was; "
            f"`greenroom promote {model} VERSION` takes a version up."
        )


@contextmanager
def _told_if_refused(what: str) -> Iterator[None]:
    """Tell people of a refusal, which may be the first sign of something wrong, and let it pass on."""
    try:
        yield
    except (RegistryRefusedError, EvidenceError) as error:
        announce("refused", f"Greenroom: {what} was refused", str(error))
        raise


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
    found = [key for role in signing.ROLES for key in signing.trusted(role, settings)]
    for key in found:
        path = signing.private_path(key.role, settings)
        here = path.exists() and signing.signer(key.role, settings).public_key.keyid == key.keyid
        click.echo(f"{key.role:<9} {key.keyid[:12]}  {'signs here' if here else 'trusted':<10}  {key.path}")
    if not found:
        click.echo(
            f"No key is trusted in {settings.trusted_keys_path}; `greenroom keys create gate` makes one."
        )
        sys.exit(1)


def _note(text: str) -> None:
    click.secho(text, fg="yellow", err=True)


def _said(key: signing.TrustedKey, what: str) -> None:
    click.echo(f"{what} {key.role} key {key.keyid[:12]}. Its public half is {key.path}.")
