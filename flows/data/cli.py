"""Subcommand of this room: check-data."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from catalog.loader import get_model, load_catalog
from flows.data.uploads import trained_on
from flows.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

    from catalog.spec import ModelSpec
    from registry.evidence.verdict import CheckOutcome

REPORT_FILE = "data-validation.md"


@dataclass
class Found:
    """What the data of one model came to; `refusal` is why nothing could be trained on it at all."""

    model: str
    summary: str = ""
    refusal: str = ""
    problems: list[str] = field(default_factory=list)
    outcomes: "tuple[CheckOutcome, ...]" = ()

    @property
    def bad(self) -> "list[CheckOutcome]":
        """The required checks that did not pass."""
        return [o for o in self.outcomes if o.required and o.status != "passed"]

    @property
    def passed(self) -> bool:
        """Whether a training could begin, as far as the data goes."""
        return not self.refusal and bool(self.outcomes) and not self.bad


@click.command("check-data")
@click.argument("models", nargs=-1)
@click.option("--dataset", metavar="ID", help="Check an uploaded dataset, sha256:HEX, in place of the table.")
@click.option(
    "--report",
    type=click.Path(file_okay=False, path_type=Path),
    help=f"Folder for {REPORT_FILE} and DeepChecks' HTML reports.",
)
def check_data(models: tuple[str, ...], dataset: str | None, report: Path | None) -> None:
    """Hold the data of MODELS (default: all) against its contract and the gate's checks of rows.

    Reads, validates, cleans and splits as a training does, then runs every DeepChecks check of the model's
    gate policy that needs no model. Trains nothing and needs no server, but S3 for an uploaded dataset.

    Exit code 0: all good. 1: refused. 2: could not tell.
    """
    specs = [get_model(name) for name in models] or list(load_catalog().values())
    with TemporaryDirectory(prefix="greenroom-data-") as scratch:
        found = [_check(spec, dataset, (report or Path(scratch)) / spec.name) for spec in specs]
    for one in found:
        _say(one)
    if report:
        (report / REPORT_FILE).write_text(markdown(found), "utf-8")
        click.echo(f"Reports are in {report}.")
    sys.exit(int(not all(one.passed for one in found)))


def _check(spec: "ModelSpec", dataset: str | None, reports: Path) -> Found:
    # Imported here: pandas and scikit-learn take seconds, and `--help` should not.
    from checks.gate import check_rows  # noqa: PLC0415
    from flows.data import sources, splits, validation  # noqa: PLC0415
    from flows.data.cleaning import clean, features  # noqa: PLC0415

    found = Found(spec.name)
    reports.mkdir(parents=True, exist_ok=True)
    try:
        if dataset:
            spec = trained_on(spec, dataset)
        table = sources.open_table(spec.dataset)
        valid, found.problems = validation.validate(table, spec.dataset)
        rows, cleaning = clean(valid, spec, read=len(table))
        train, test = splits.split(rows, spec)
    except DataError as error:
        found.refusal = str(error)
        return found
    found.summary = (
        f"{cleaning.read:,} rows of {spec.dataset.name}; left out: {cleaning.invalid} invalid, "
        f"{cleaning.conflicting} contradicting, {cleaning.repeated} repeated; {len(train):,} to train on, "
        f"{len(test):,} held out"
    )
    matrix = features(rows, spec)
    for column in spec.columns:
        if column not in matrix:  # the label, and what names a row
            matrix[column] = rows[column]
    sides: list[pd.DataFrame] = [matrix.iloc[side].reset_index(drop=True) for side in (train, test)]
    found.outcomes = check_rows(spec, train=sides[0], test=sides[1], report_dir=reports)
    return found


def markdown(found: list[Found]) -> str:
    """Return what was found as Markdown, for a pull request."""
    from checks.markdown import one_line, outcomes_table  # noqa: PLC0415

    parts = ["## Data validation"]
    for one in found:
        parts.append(f"### {'✅' if one.passed else '❌'} {one.model}")
        parts += [one_line(text) for text in (one.refusal, one.summary) if text]
        parts += [f"- {one_line(problem)}" for problem in one.problems]
        if one.outcomes:
            parts.append(outcomes_table(one.outcomes))
    return "\n\n".join(parts) + "\n"


def _say(one: Found) -> None:
    click.secho(f"{one.model}: {'good' if one.passed else 'REFUSED'}", fg="green" if one.passed else "red")
    for line in filter(None, (one.refusal, one.summary, *one.problems)):
        click.echo(f"  {line}")
    if one.outcomes:
        good = sum(o.status == "passed" for o in one.outcomes)
        click.echo(f"  {good} of {len(one.outcomes)} checks passed")
    for outcome in one.bad:
        click.echo(f"  {outcome.check} {outcome.status}: {outcome.reason}")
