"""`make model-gate`: trains models on the change, gates them, and writes a report for a reviewer.

`make model-training` is the same with a dataset or a promotion. Exit code 0: the gate let all of them pass.
1: it refused one. 2: one could not be trained, or there is no stack to train in.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from checks.markdown import markdown, one_line
from infra.ci import github_outputs
from infra.ci.shell import greenroom, names, program, run
from registry.client import version_diff
from registry.client.registry import Registry, Version
from registry.client.tracking_client import TrackingClient
from registry.client.version_diff import DiffLine
from registry.errors import NotFoundError, RegistryError
from registry.evidence.verdict import Verdict
from registry.names import METRIC, SCORE, Stage
from registry.settings import RegistrySettings, home

_TAIL = 1500  # characters of an error that the report repeats


@dataclass
class Result:
    """The outcome of one model's training and gate."""

    model: str
    production: Version | None
    version: Version | None = None
    verdict: Verdict | None = None
    reason: str | None = None
    changed: list[DiffLine] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether there is a new version that the gate lets pass."""
        return self.version is not None and self.reason is None


class StackError(click.ClickException):
    """There is no stack in which the gate could run."""

    exit_code = 2


@click.command()
@click.argument("models", nargs=-1)
@click.option(
    "--base", metavar="REVISION", help="Where nothing is in Production, put what REVISION trains there."
)
@click.option("--promote", is_flag=True, help="Move what the gate lets pass to Production.")
@click.option("--dataset", metavar="ID", help="Learn from an uploaded dataset, sha256:HEX.")
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), default=Path("model-gate.md"))
def main(
    models: tuple[str, ...], *, base: str | None, promote: bool, dataset: str | None, report: Path
) -> None:
    """Train MODELS (default: all) as this checkout declares them, gate them, and write REPORT.

    Works with the tracking server of GREENROOM_TRACKING_URI, else with the local stack of GREENROOM_HOME,
    which is started, and stopped again if it did not run before.
    """
    chosen = names(models)
    options = [*(["--promote"] if promote else []), *(["--dataset", dataset] if dataset else [])]
    try:
        with _stack(base, chosen), TrackingClient() as client:
            registry = Registry(client)
            results = [_train(registry, name, options) for name in chosen]
    except RegistryError as error:
        raise StackError(str(error)) from error
    text = render(results)
    report.write_text(text, "utf-8")
    github_outputs.summary(text)
    click.echo(f"\n{text}\nThe report is {report}.")
    sys.exit(exit_code(results))


def exit_code(results: list[Result]) -> int:
    """Return 2 if a model has no new version, else 1 if one was refused, else 0."""
    if any(result.version is None for result in results):
        return 2
    return int(not all(result.passed for result in results))


@contextmanager
def _stack(base: str | None, models: list[str]) -> Iterator[None]:
    """Provide a tracking server; with `base`, have that revision's models in Production."""
    if RegistrySettings().tracking_uri:
        if base:
            click.echo(
                "--base is for a stack of its own; GREENROOM_TRACKING_URI names a server, and is used."
            )
        yield
        return
    ran = subprocess.run([program(), "status"], capture_output=True, check=False).returncode == 0
    try:
        _start()
        if base and _nothing_in_production(models):
            greenroom("down")
            _from_base(base, models)
            _start()
        yield
    finally:
        if not ran:
            greenroom("down")


def _start() -> None:
    if greenroom("up", "--no-train"):
        raise StackError(f"The local stack did not start: see above, and {home()}/logs.")


def _nothing_in_production(models: list[str]) -> bool:
    with TrackingClient() as client:
        versions = Registry(client).production_versions()
    return not versions.keys() & set(models)


def _from_base(revision: str, models: list[str]) -> None:
    """Let another revision, in an environment of its own, train and promote in this home's stack."""
    with TemporaryDirectory(prefix="greenroom-base-") as folder:
        checkout = Path(folder) / "base"
        git = ["git", "worktree"]
        if run([*git, "add", "--detach", str(checkout), revision]):
            raise StackError(f"git has no revision {revision!r}. In CI, fetch it first.")
        try:
            if run(["make", "setup", f"PYTHON={sys.executable}"], cwd=checkout):
                raise StackError(f"The environment of {revision} could not be set up: see above.")
            at_home = {"GREENROOM_HOME": str(home())}
            if greenroom("up", "--no-train", at=checkout, **at_home):
                raise StackError(f"The stack of {revision} did not start: see above, and {home()}/logs.")
            there = _catalogue(checkout)
            known = [name for name in models if name in there]
            # Its own gate may refuse a model: then there is nothing to compare that model with.
            if known:
                greenroom("train", "--promote", *known, at=checkout, **at_home)
            greenroom("down", at=checkout, **at_home)
        finally:
            run([*git, "remove", "--force", str(checkout)])


def _catalogue(checkout: Path) -> list[str]:
    listing = "import json; from catalog.loader import load_catalog; print(json.dumps(list(load_catalog())))"
    done = subprocess.run(
        [str(checkout / ".venv" / "bin" / "python"), "-c", listing],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    listed: list[str] = json.loads(done.stdout)
    return listed


def _train(registry: Registry, name: str, options: list[str]) -> Result:
    result = Result(name, registry.in_stage(name, Stage.PRODUCTION))
    before = registry.newest(name)
    click.secho(f"$ greenroom train {' '.join([*options, name])}", bold=True)
    done = subprocess.run(
        [program(), "train", *options, name], stderr=subprocess.PIPE, text=True, check=False
    )
    click.echo(done.stderr, err=True, nl=False)
    trained = registry.newest(name)
    if trained is None or (before and trained.number <= before.number):
        result.reason = f"It could not be trained: {done.stderr.strip()[-_TAIL:] or done.returncode}"
        return result
    result.version = trained
    answer = subprocess.run(
        [program(), "gate", name, str(trained.number), "--json"], capture_output=True, text=True, check=False
    )
    if not answer.stdout:
        result.reason = f"The gate could not tell: {answer.stderr.strip()[-_TAIL:]}"
        return result
    judgement = json.loads(answer.stdout)
    result.reason = judgement["reason"]
    if "--promote" in options and not result.reason and trained.stage is not Stage.PRODUCTION:
        result.reason = f"It passed, but was not promoted: {done.stderr.strip()[-_TAIL:] or 'see the log'}"
    result.verdict = Verdict.model_validate(judgement["verdict"]) if judgement["verdict"] else None
    if result.production:
        try:
            lines = version_diff.diff(registry, result.production, trained)
            # The two versions' stages differ by design.
            result.changed = [x for x in lines if x.differs and (x.section, x.name) != ("version", "stage")]
        except NotFoundError as error:
            click.echo(f"{name}: nothing to compare with: {error}", err=True)
    return result


def render(results: list[Result]) -> str:
    """Return the report as Markdown."""
    refused = [result.model for result in results if not result.passed]
    title = (
        f"❌ The gate does not let pass: {', '.join(refused)}"
        if refused
        else f"✅ The gate lets pass: {', '.join(result.model for result in results)}"
    )
    rows = "\n".join(_row(result) for result in results)
    heading = "| model | gate | score | in Production | difference |\n|---|---|---|---|---:|"
    return "\n\n".join([f"## {title}", f"{heading}\n{rows}", *map(_section, results)]) + "\n"


def _row(result: Result) -> str:
    new, old = _score(result.version), _score(result.production)
    difference = f"{new - old:+.4f}" if new is not None and old is not None else ""
    metric = result.version.tags.get(METRIC, "") if result.version else ""
    shown = f"{metric} {new:.4f}" if new is not None else "-"
    against = "nothing"
    if result.production:
        against = f"version {result.production.number}" + (f": {old:.4f}" if old is not None else "")
    gate = "passed" if result.passed else ("**refused**" if result.version else "**not trained**")
    return f"| {result.model} | {gate} | {shown} | {against} | {difference} |"


def _score(version: Version | None) -> float | None:
    try:
        return float(version.tags[SCORE]) if version else None
    except (KeyError, ValueError):
        return None


def _section(result: Result) -> str:
    if result.version is None:
        return f"### ❌ {result.model}: not trained\n\n{one_line(result.reason or '')}"
    parts = [markdown(result.version, result.verdict, result.reason).rstrip()]
    if result.changed and result.production:
        cells = [(x.section, *map(one_line, (x.name, x.a or "-", x.b or "-"))) for x in result.changed]
        table = "\n".join(f"| {' | '.join(row)} |" for row in cells)
        parts.append(
            f"What changed against version {result.production.number} in Production:\n\n"
            f"| | | version {result.production.number} | version {result.version.number} |\n"
            f"|---|---|---|---|\n{table}"
        )
    body = "\n\n".join(parts)
    summary = f"{result.model}: {'passed' if result.passed else 'refused'}, check by check"
    return f"<details{'' if result.passed else ' open'}><summary>{summary}</summary>\n\n{body}\n\n</details>"


if __name__ == "__main__":
    main()
