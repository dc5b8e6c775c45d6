"""Subcommands that change what is in a stage, or may come there: promote, rollback, approve."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from getpass import getuser

import click
from pydantic import ValidationError

from registry import audit
from registry.client import audit_log
from registry.client.registry import Registry
from registry.client.tracking_client import TrackingClient
from registry.errors import EvidenceError, NotFoundError, RegistryRefusedError
from registry.evidence.approval import Approval
from registry.names import Stage
from registry.notify.people import notify
from registry.settings import KeySettings

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
    with TrackingClient() as client, _notify_if_refused(f"{model} version {version} to {target}"):
        registry = Registry(client)
        current = registry.version(model, version)
        if override:
            moved = registry.override(
                current, target, reason=reason or "", operator=getuser(), settings=KeySettings()
            )
        elif target is Stage.PRODUCTION:
            moved = registry.promote_to_production(current, reason)
        else:
            moved = registry.promote(current, target, reason)
    how = ", by override; the audit says so" if override else ""
    why = f" {getuser()} says: {reason}" if reason else ""
    notify("promoted", f"Greenroom: {moved} is in {moved.stage}", f"{moved} is in {moved.stage}{how}.{why}")
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
    with TrackingClient() as client, _notify_if_refused(f"the rollback of {model}"):
        registry = Registry(client)
        current = registry.in_stage(model, Stage.PRODUCTION)
        rows = audit_log.history(client, model)
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
            was = f"; version {current.number} is archived" if current else ""
            done = f"{moved} is in Production again{was}."
            notify("rolled-back", f"Greenroom: {model} was rolled back", f"{done} {getuser()} says: {reason}")
            click.echo(done)
            return
        raise RegistryRefusedError(
            f"{model} has no earlier version to roll back to. `greenroom history {model}` shows what was; "
            f"`greenroom promote {model} VERSION` takes a version up."
        )


@click.command()
@click.argument("model")
@click.argument("dataset")
@click.option("--reason", type=_Reason(), required=True, help="Why; it is signed with the approval.")
def approve(model: str, dataset: str, reason: str) -> None:
    """Approve DATASET, sha256:HEX, for MODEL: versions judged on it may go to Production.

    For rows that no declaration names: an uploaded dataset, or the table of a submitted model. Needs an
    operator's key. It holds for later versions too. Exit code 1 when it is refused.
    """
    approval = Approval(model, dataset, getuser(), reason, datetime.now(UTC))
    with TrackingClient() as client:
        try:
            Registry(client).approve(approval, KeySettings())
        except ValidationError as error:
            raise click.BadParameter(
                "it must be sha256: and 64 hexadecimal digits, as the refusal names it", param_hint="DATASET"
            ) from error
    click.echo(f"{dataset} is approved for {model}, signed by {getuser()}.")


@contextmanager
def _notify_if_refused(what: str) -> Iterator[None]:
    """Tell people of a refusal, which may be the first sign of something wrong, and let it pass on."""
    try:
        yield
    except (RegistryRefusedError, EvidenceError) as error:
        notify("refused", f"Greenroom: {what} was refused", str(error))
        raise
