"""The gate's answer as Markdown, for the run's page and for a pull request."""

import json

from registry.evidence import Verdict
from registry.stages import Version


def markdown(version: Version, verdict: Verdict | None, refusal: str | None) -> str:
    """Return a summary of what the gate says of a version: may it go up, and check by check, why."""
    title = f"### {'✅' if refusal is None else '❌'} {version}: {'passed' if refusal is None else 'refused'}"
    parts = [title, *([_cell(refusal)] if refusal else [])]
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
    rows = "\n".join(
        f"| {o.check} | {'required' if o.required else 'report'} | {o.status} | {_cell(o.reason)} |"
        for o in verdict.outcomes
    )
    return f"| check | | result | why |\n|---|---|---|---|\n{rows}"


def _cell(text: str) -> str:
    """One line, in which nothing is markup."""
    escaped = (
        json.dumps(text, ensure_ascii=False)[1:-1].replace("|", "\\|").replace("\\n", " ").replace('\\"', '"')
    )
    return escaped.replace("<", "&lt;")
