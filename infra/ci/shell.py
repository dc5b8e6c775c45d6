"""Runs and prints the commands that a person would type."""

import os
import subprocess
import sys
from pathlib import Path

import click

from catalog.loader import CatalogError, get_model, load_catalog
from catalog.spec import ModelSpec

ROOT = Path(__file__).resolve().parent.parent.parent


def declared(name: str) -> ModelSpec:
    """Return a model's declaration; exit code 2, with the known names, if the catalogue does not have it."""
    try:
        return get_model(name)
    except CatalogError as error:
        raise click.UsageError(str(error)) from error


def names(models: tuple[str, ...]) -> list[str]:
    """Return the named models; without names, those of the whole catalogue."""
    return [declared(name).name for name in models] or list(load_catalog())


def greenroom(*arguments: str, at: Path | None = None, **variables: str) -> int:
    """Run `greenroom` of this environment, or of the checkout `at`; return its exit code."""
    return run([program(at), *arguments], cwd=at or ROOT, **variables)


def program(at: Path | None = None) -> str:
    """Return where the `greenroom` of this environment is, or that of the checkout `at`."""
    return str((at / ".venv" / "bin" if at else Path(sys.executable).parent) / "greenroom")


def run(command: list[str], *, cwd: Path = ROOT, **variables: str) -> int:
    """Run a command with its output shown, and return its exit code."""
    shown = [Path(command[0]).name, *command[1:]]
    click.secho(f"$ {' '.join(shown)}", bold=True)
    sys.stdout.flush()
    return subprocess.run(command, cwd=cwd, env={**os.environ, **variables}, check=False).returncode
