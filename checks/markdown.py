"""The gate's answer as Markdown, for the run's page and for a pull request."""

import json
from collections.abc import Iterable

from registry.client.registry import Version
from registry.evidence.verdict import CheckOutcome, Verdict


def markdown(version: Version, verdict: Verdict | None, refusal: str | None) -> str:
    """Return a summary of what the gate says of a version: may it go up, and check by check, why."""
    title = f"### {'✅' if refusal is None else '❌'} {version}: {'passed' if refusal is None else 'refused'}"
    parts = [title, *([one_line(refusal)] if refusal else [])]
    if verdict:
        compared = (
            f"compared with version {verdict.incumbent.version} in Production"
            if verdict.incumbent
            else "with no version in Production to compare with"
        )
        parts.append(f"Checked {verdict.created_at:%Y-%m-%d %H:%M} UTC, {compared}.")
        parts.append(checks_table(verdict))
    return "\n\n".join(parts) + "\n"


def checks_table(verdict: Verdict) -> str:
    """Return a Markdown table of every check's result."""
    return outcomes_table(verdict.outcomes)


def outcomes_table(outcomes: Iterable[CheckOutcome]) -> str:
    """Return a Markdown table of checks and their results."""
    rows = "\n".join(
        f"| {o.check} | {'required' if o.required else 'report'} | {o.status} | {one_line(o.reason)} |"
        for o in outcomes
    )
    return f"| check | | result | why |\n|---|---|---|---|\n{rows}"


def one_line(text: str) -> str:
    """Return a text as one line, in which nothing is markup."""
    escaped = (
        json.dumps(text, ensure_ascii=False)[1:-1].replace("|", "\\|").replace("\\n", " ").replace('\\"', '"')
    )
    return escaped.replace("<", "&lt;")
