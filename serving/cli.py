"""Subcommands of the predictor's room: api-key."""

import click

from serving import api_key_pairs


@click.command("api-key")
@click.argument("name")
def api_key(name: str) -> None:
    """Make an API key for NAME and print it, this once.

    The predictor gets the pair with the key's hash; the key itself is stored nowhere.
    """
    try:
        key, pair = api_key_pairs.new_key(name)
    except ValueError as error:
        raise click.BadParameter(f"{error}.", param_hint="NAME") from None
    click.echo(f"The key, shown only now; give it to {name} and keep it nowhere else:\n\n  {key}\n")
    click.echo(
        "For the predictor, add to GREENROOM_SERVING_API_KEYS (a comma between pairs) and restart it:\n"
    )
    click.echo(f"  {pair}")
