"""`greenroom gate`: what the gate said about a version, or a new look at it."""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import click
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding

from catalog.spec import ModelSpec
from checks.errors import GateInputError
from checks.markdown import markdown
from checks.service.client import request_verdict
from checks.service.declarations import find_spec
from registry import audit
from registry.client import audit_log
from registry.client.registry import Registry, Version
from registry.client.tracking_client import TrackingClient
from registry.errors import (
    EvidenceError,
    NotFoundError,
)
from registry.evidence import keys, rules
from registry.evidence.attestation import verify
from registry.evidence.verdict import CheckOutcome, Verdict, policy_digest
from registry.names import EVIDENCE, Stage
from registry.settings import KeySettings

_COLOURS = {"passed": "green", "failed": "red", "error": "red", "not_run": "red", "missing": "red"}


class _CouldNotTellError(click.ClickException):
    exit_code = 2


@click.command()
@click.argument("model")
@click.argument("version", type=click.IntRange(min=1), required=False)
@click.option(
    "--rerun",
    is_flag=True,
    help="Have the gate judge the version again, against what is in Production now, and sign that.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown, for a pull request.")
@click.option("--verbose", "-v", is_flag=True, help="Print the checks that passed, too.")
def gate(
    model: str, version: int | None, *, rerun: bool, as_json: bool, as_markdown: bool, verbose: bool
) -> None:
    """Say whether VERSION of MODEL (default: the newest) may leave the green room, and why.

    Exit code 0: it passed. 1: it was refused. 2: could not tell (no such model or version, no server,
    no environment for the checks, no key to sign with).
    """
    with TrackingClient() as client:
        registry = Registry(client)
        checked = _find(registry, model, version)
        try:
            spec = find_spec(registry, checked)
        except (NotFoundError, GateInputError) as error:
            raise _CouldNotTellError(str(error)) from error
        if rerun:
            _request_verdict(checked)
            checked = registry.version(model, checked.number)
        refusal = _refusal(client, registry, checked, spec)
        try:
            verdict = registry.verdict(checked)
        except NotFoundError:
            verdict = None
    if as_json:
        _print_json(checked, verdict, refusal)
    elif as_markdown:
        click.echo(markdown(checked, verdict, refusal))
    else:
        _print(checked, verdict, refusal, verbose=verbose)
    sys.exit(1 if refusal else 0)


def _find(registry: Registry, model: str, number: int | None) -> Version:
    try:
        version = registry.newest(model) if number is None else registry.version(model, number)
    except NotFoundError as error:
        raise _CouldNotTellError(str(error)) from error
    if version is None:
        raise _CouldNotTellError(f"{model} has no version yet. Register one with `greenroom train {model}`.")
    return version


def _refusal(client: TrackingClient, registry: Registry, version: Version, spec: ModelSpec) -> str | None:
    """Return why the server would not let the version up now, by the same rules; None if it would."""
    settings = KeySettings()
    try:
        if EVIDENCE not in version.tags:
            raise rules.missing(version.ref)
        evidence = verify(version.tags[EVIDENCE], keys.all_trusted(settings))
        if version.stage is Stage.PRODUCTION:  # which version it replaced does not matter any more
            rules.require_about(evidence, version.ref)
            rules.require_passed(evidence, version.ref)
        else:
            current = registry.in_stage(version.model, Stage.PRODUCTION)
            rows = audit_log.history(client, version.model)
            context = rules.PromotionContext(
                incumbent=registry.evidence_identity(current) if current else None,
                now=datetime.now(UTC),
                max_age=rules.EVIDENCE_MAX_AGE,
                policy_digest=policy_digest(spec.gate),
                changed_at=audit.production_changed(rows),
                used=audit.used_evidence(rows),
            )
            rules.require_good(evidence, version.ref, context)
            rules.require_looked_at(evidence, version.ref)
        rules.require_bytes(evidence, version.ref, registry.files(version))
    except EvidenceError as error:
        return str(error)
    return None


def _request_verdict(version: Version) -> None:
    try:
        request_verdict(version.model, version.number)
    except (NotFoundError, GateInputError, EvidenceError) as error:
        raise _CouldNotTellError(str(error)) from error


def _print_json(version: Version, verdict: Verdict | None, refusal: str | None) -> None:
    answer = {
        "model": version.model,
        "version": version.number,
        "stage": version.stage.value,
        "passed": refusal is None,
        "reason": refusal,
        "verdict": verdict.model_dump(mode="json") if verdict else None,
    }
    click.echo(json.dumps(answer, indent=2))


def _print(version: Version, verdict: Verdict | None, refusal: str | None, *, verbose: bool) -> None:
    """Print the answer first, then what refuses, then what is only reported; the rest with `verbose`."""
    console = Console()
    if refusal is None:
        console.print(f"[green]{version} passed: it may leave the green room.[/green]", soft_wrap=True)
    else:
        console.print(f"[red]{version} is refused.[/red] {escape(refusal)}", soft_wrap=True)
    if verdict is None:
        return
    console.print(f"The gate judged it on {verdict.created_at:%Y-%m-%d %H:%M} UTC.")
    passed = [outcome for outcome in verdict.outcomes if outcome.status == "passed"]
    reported = [o for o in verdict.outcomes if o.status != "passed" and not o.required]
    _print_outcomes(console, "These checks refuse it:", verdict.refusals)
    _print_outcomes(console, "These checks are not required, and did not pass:", reported)
    if verbose:
        _print_outcomes(console, "These checks passed:", passed)
    else:
        console.print(
            f"\n{len(passed)} of {len(verdict.outcomes)} checks passed; --verbose shows each.", soft_wrap=True
        )


def _print_outcomes(console: Console, title: str, outcomes: Sequence[CheckOutcome]) -> None:
    if not outcomes:
        return
    console.print(f"\n{title}")
    for outcome in outcomes:
        value = "" if outcome.value is None else f" ({outcome.value:.4g})"
        colour = _COLOURS[outcome.status] if outcome.required or outcome.status == "passed" else "yellow"
        status = f"[{colour}]{outcome.status}[/{colour}]"
        console.print(f"  {outcome.check} {status}{value}", soft_wrap=True)
        # Data may hold brackets, which are no markup of ours.
        console.print(Padding(escape(outcome.reason), (0, 0, 0, 6)))
