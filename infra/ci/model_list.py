"""`make model-list`: the names of the models, for a workflow with a job for each."""

import json

import click

from infra.ci import github_outputs
from infra.ci.shell import names


@click.command()
@click.argument("models", nargs=-1)
def main(models: tuple[str, ...]) -> None:
    """Print MODELS (default: all) as JSON, and set the step's output `models` to the same."""
    text = json.dumps(names(models))
    click.echo(text)
    github_outputs.output("models", text)


if __name__ == "__main__":
    main()
