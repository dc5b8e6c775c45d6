"""Subcommands that look: history, verify, evidence, diff."""

import json
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from registry import audit
from registry.audit import AuditEntry
from registry.client import audit_log, verification, version_diff
from registry.client.evidence_export import export
from registry.client.registry import Registry
from registry.client.tracking_client import TrackingClient
from registry.errors import NotFoundError
from registry.settings import KeySettings
from registry.text import printable

_VERSION = click.IntRange(min=1)
# What should stand out: what was done without the gate's consent, or tried.
_LOUD = {
    "override": "bold red",
    "sql": "bold red",
    "mismatch": "bold red",
    "refused": "yellow",
    "rollback": "yellow",
}


@click.command()
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON, evidence included.")
def history(model: str, *, as_json: bool) -> None:
    """Show what happened to the stages of MODEL, one line an event: when, who, why, on which evidence."""
    with TrackingClient() as client:
        rows = audit_log.history(client, model)
        if not rows and model not in Registry(client).models():
            raise NotFoundError(f"There is no model {model!r}, and the audit knows of none.")
    if as_json:
        click.echo(audit.as_json(rows))
        return
    console = Console()
    for row in rows:
        console.print(escape(_line(row)), style=_LOUD.get(row.action, ""), soft_wrap=True, highlight=False)


@click.command()
@click.argument("models", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of sentences.")
@click.option(
    "--expect-head",
    metavar="HASH",
    help="The head that an earlier run printed: finds out whether the end of the audit was cut off since.",
)
@click.option("--full", is_flag=True, help="Walk every row again, also what an earlier run walked.")
def verify(models: tuple[str, ...], expect_head: str | None, *, as_json: bool, full: bool) -> None:
    """Check the audit's chain, every signature, and the files and policy of everything in a stage.

    With MODELS, the chain and those alone. What the last run walked and has not changed since is not walked
    again; files are always compared. What cannot be looked at is a problem of its own.

    Exit code 0: all is by right. 1: something is not. 2: could not tell.
    """
    with TrackingClient() as client:
        report = verification.verify(client, KeySettings(), models, expected_head=expect_head, full=full)
    if as_json:
        click.echo(json.dumps(report.__dict__, indent=2))
    else:
        for problem in report.problems:
            click.secho(f"PROBLEM  {printable(problem)}", fg="red")
        for note in report.notes:
            click.secho(f"note     {printable(note)}", fg="yellow")
        for checked in report.checked:
            click.echo(f"checked  {printable(checked)}")
        for unknown in report.unknown:
            click.echo(f"unknown  {printable(unknown)}")
        head = f", head {report.head}" if report.head else ""
        click.echo(
            f"{report.rows} rows in the audit, {report.walked} of them walked now{head}. "
            f"{len(report.problems)} problems."
        )
    sys.exit(1 if report.problems else 0)


@click.command("evidence")
@click.argument("model")
@click.argument("version", type=_VERSION)
@click.option(
    "--to", "folder", type=click.Path(path_type=Path), required=True, help="A new folder to write to."
)
def export_evidence(model: str, version: int, folder: Path) -> None:
    """Write all that speaks for VERSION of MODEL to a folder, for somebody who checks it without Greenroom.

    docs/evidence.md says how, with the public key and other people's tools alone.
    """
    with TrackingClient() as client:
        registry = Registry(client)
        paths = export(registry, registry.version(model, version), folder, KeySettings())
    for path in paths:
        click.echo(printable(path))
    click.echo(f"{len(paths)} files are in {folder}. Give the keys to the reader on another way.")


@click.command()
@click.argument("model")
@click.argument("a", type=_VERSION, required=False)
@click.argument("b", type=_VERSION, required=False)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of lines.")
@click.option("--all", "everything", is_flag=True, help="Also what is the same in both.")
def diff(model: str, a: int | None, b: int | None, *, as_json: bool, everything: bool) -> None:
    """Put versions A and B of MODEL side by side; without numbers, Production and the newest other one."""
    with TrackingClient() as client:
        registry = Registry(client)
        left, right = version_diff.pair(registry, model, a, b)
        lines = version_diff.diff(registry, left, right)
    if as_json:
        click.echo(json.dumps([{**line.__dict__, "differs": line.differs} for line in lines], indent=2))
        return
    console = Console()
    for section in version_diff.SECTIONS:
        shown = [line for line in lines if line.section == section and (everything or line.differs)]
        if not shown:
            continue
        table = Table(title=section, title_justify="left", show_edge=False, pad_edge=False)
        for heading in ("", f"version {left.number}", f"version {right.number}"):
            table.add_column(heading, overflow="fold")
        for line in shown:
            table.add_row(*(escape(printable(text or "-")) for text in (line.name, line.a, line.b)))
        console.print(table)
        console.print()
    same = sum(not line.differs for line in lines)
    if same and not everything:
        console.print(f"{same} lines are the same in both; --all shows them.")


def _line(row: AuditEntry) -> str:
    """Return one event as one line: when (UTC), version, what, from which stage to which, who, and why."""
    moved = f"{row.from_stage or '-'} → {row.to_stage or '-'}" if row.from_stage or row.to_stage else ""
    proven = "proven" if row.proven else "claimed"
    who = f"{row.role} (SQL)" if row.action == "sql" else f"{row.actor} ({proven})"
    evidence = (row.evidence or "").removeprefix("sha256:")[:12]
    parts = (
        row.at[:19].replace("T", " "),
        f"v{row.version}" if row.version else "-",
        f"{row.action:<8}",
        moved,
        who,
        f"evidence {evidence}" if evidence else "",
        "; ".join(filter(None, (row.reason, row.message, _changed(row)))),
    )
    return "  ".join(printable(part).replace("\n", " ") for part in parts if part)


def _changed(row: AuditEntry) -> str:
    changed = dict(row.changed or {})
    changed.pop("wanted", None)
    return ", ".join(f"{name}: {value}" for name, value in changed.items())
