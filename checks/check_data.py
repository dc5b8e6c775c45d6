"""Subcommand of this room: check-data."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from catalog.loader import get_model, load_catalog
from checks.data.uploads import trained_on
from checks.errors import DataError

if TYPE_CHECKING:
    from catalog.spec import ModelSpec
    from registry.evidence.verdict import CheckOutcome

REPORT_FILE = "data-validation.md"


@dataclass
class DataReport:
    """The checks of one model's data; `refusal` is why nothing could be trained on it at all."""

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
        reports = [_check(spec, dataset, (report or Path(scratch)) / spec.name) for spec in specs]
    for checked in reports:
        _print(checked)
    if report:
        (report / REPORT_FILE).write_text(markdown(reports), "utf-8")
        click.echo(f"Reports are in {report}.")
    sys.exit(int(not all(checked.passed for checked in reports)))


def _check(spec: "ModelSpec", dataset: str | None, reports: Path) -> DataReport:
    # Imported here: pandas and scikit-learn take seconds, and `--help` should not.
    from checks.data import sources, splits, validation  # noqa: PLC0415
    from checks.data.cleaning import clean  # noqa: PLC0415
    from checks.gate import check_rows  # noqa: PLC0415

    report = DataReport(spec.name)
    reports.mkdir(parents=True, exist_ok=True)
    try:
        if dataset:
            spec = trained_on(spec, dataset)
        table = sources.open_table(spec.dataset)
        valid, report.problems = validation.validate(table, spec.dataset)
        rows, cleaning = clean(valid, spec, read=len(table))
        data = splits.split_rows(rows, spec)
    except DataError as error:
        report.refusal = str(error)
        return report
    train, test = data.train.frame, data.test.frame
    report.summary = (
        f"{cleaning.read:,} rows of {spec.dataset.name}; left out: {cleaning.invalid} invalid, "
        f"{cleaning.conflicting} contradicting, {cleaning.repeated} repeated; {len(train):,} to train on, "
        f"{len(test):,} held out"
    )
    report.outcomes = check_rows(spec, train=train, test=test, report_dir=reports)
    return report


def markdown(reports: list[DataReport]) -> str:
    """Return the reports as Markdown, for a pull request."""
    from checks.markdown import one_line, outcomes_table  # noqa: PLC0415

    parts = ["## Data validation"]
    for report in reports:
        parts.append(f"### {'✅' if report.passed else '❌'} {report.model}")
        parts += [one_line(text) for text in (report.refusal, report.summary) if text]
        parts += [f"- {one_line(problem)}" for problem in report.problems]
        if report.outcomes:
            parts.append(outcomes_table(report.outcomes))
    return "\n\n".join(parts) + "\n"


def _print(report: DataReport) -> None:
    click.secho(
        f"{report.model}: {'good' if report.passed else 'REFUSED'}", fg="green" if report.passed else "red"
    )
    for line in filter(None, (report.refusal, report.summary, *report.problems)):
        click.echo(f"  {line}")
    if report.outcomes:
        good = sum(o.status == "passed" for o in report.outcomes)
        click.echo(f"  {good} of {len(report.outcomes)} checks passed")
    for outcome in report.bad:
        click.echo(f"  {outcome.check} {outcome.status}: {outcome.reason}")
