"""`greenroom`: one command line; each room brings its subcommands through the entry points
`greenroom.commands`, so that this room imports none of those above it."""

import gc
import sys
from importlib.metadata import EntryPoint, entry_points

import click
from pydantic import ValidationError

from catalog.loader import CatalogError
from registry.errors import RegistryError, RegistryUnavailableError
from registry.settings import explain
from registry.text import printable


class _Rooms(click.Group):
    """A group whose commands are loaded when they are asked for."""

    @staticmethod
    def _found() -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group="greenroom.commands")}

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return sorted(self._found())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        point = self._found().get(cmd_name)
        if point is None:
            return None
        try:
            command = point.load()
        except ModuleNotFoundError as error:
            # Serving images hold only some rooms; the help of the others must still work.
            return _absent(cmd_name, error.name)
        return command if isinstance(command, click.Command) else None


class _NotInstalledError(click.ClickException):
    exit_code = 2


def _absent(name: str, needs: str | None) -> click.Command:
    """Return a command that says what it lacks, when it is called."""

    def say() -> None:
        raise _NotInstalledError(
            f"`greenroom {name}` needs {needs}, which is not installed here. Run `make setup`."
        )

    return click.Command(
        name,
        callback=say,
        short_help="(not installed here)",
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )


@click.command(
    cls=_Rooms,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Settings are environment variables; README.md lists them. Exit codes: 0 done, 1 refused, "
    "2 wrong use or could not tell.",
)
@click.version_option(package_name="greenroom", prog_name="greenroom")
def cli() -> None:
    """No model goes on stage without passing the green room.

    Start everything with `greenroom up`, look at it with `greenroom status`.
    """


def main() -> None:
    """Run the command line; errors a person can meet become one message and an exit code."""
    # Half a million objects may come with the imports and stay: the collector need not look at them so often.
    gc.set_threshold(100_000)
    try:
        cli(standalone_mode=True)
    except RegistryUnavailableError as error:
        _fail(error, 2)
    except ValidationError as error:
        _fail(ValueError(explain(error)), 2)  # settings are all that is validated on the way here
    except (RegistryError, CatalogError) as error:
        _fail(error, 1)


def _fail(error: Exception, code: int) -> None:
    click.secho(f"greenroom: {printable(str(error))}", fg="red", err=True)
    sys.exit(code)
