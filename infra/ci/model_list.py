"""`make model-list`: which models there are, for a workflow that has a job for each."""

import json

import click

from catalog.loader import get_model, load_catalog
from infra.ci import actions


@click.command()
@click.argument("models", nargs=-1)
def main(models: tuple[str, ...]) -> None:
    """Print MODELS (default: all) as JSON, and set the step's output `models` to the same."""
    names = [get_model(name).name for name in models] or list(load_catalog())
    text = json.dumps(names)
    click.echo(text)
    actions.output("models", text)


if __name__ == "__main__":
    main()
