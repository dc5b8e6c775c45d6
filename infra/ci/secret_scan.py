"""`make secrets`: refuses a checkout whose files, as git would commit them, hold a secret.

There is no list of secrets that are let pass. A line that only looks like one says so itself, with
`pragma: allowlist secret` at its end, where a reviewer sees it.
"""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click

_SKIPPED = (".png", ".parquet", ".woff2")
# Hashes of packages, each of which looks like a key.
_HASHES = "infra/requirements/"
# In tests, passwords that open nothing are part of the matter; keys with a shape of their own are not.
_GUESSES = {"KeywordDetector", "HexHighEntropyString", "Base64HighEntropyString"}
# What documentation and code write where a password goes; lines that name secrets, or say what a setting is.
_PLACEHOLDERS = ["^PASSWORD$", r"^\{\w+\}"]
_NAMES = [r"\bsecretName\b", r'^\s*description="GREENROOM_']
_CHUNK = 25


def find(root: Path) -> list[str]:
    """Return a line for each find, `path:line: kind`, in what git tracks or would add; never the secret."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    names = [
        name
        for name in listed.stdout.split("\0")
        if name and not name.endswith(_SKIPPED) and not name.startswith(_HASHES) and (root / name).is_file()
    ]
    chunks = [names[i : i + _CHUNK] for i in range(0, len(names), _CHUNK)]
    with ProcessPoolExecutor() as pool:
        found = pool.map(_scan, [str(root)] * len(chunks), chunks)
        return sorted(line for lines in found for line in lines)


def _scan(root: str, names: list[str]) -> list[str]:
    return [line for name in names for line in _scan_file(root, name)]


def _scan_file(root: str, name: str) -> Iterator[str]:
    # Imported here, once in each process.
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class  # noqa: PLC0415
    from detect_secrets.core.scan import scan_file  # noqa: PLC0415
    from detect_secrets.settings import transient_settings  # noqa: PLC0415

    known: dict[str, type[Any]] = get_mapping_from_secret_type_to_class()
    plugins = {plugin.__name__ for plugin in known.values()}
    if name.startswith("tests/"):
        plugins -= _GUESSES
    chosen = {"plugins_used": [{"name": plugin} for plugin in sorted(plugins)]}
    with transient_settings(chosen) as settings:
        # Beside the library's own filters, which naming one among the settings would switch off.
        settings.filters["detect_secrets.filters.regex.should_exclude_secret"] = {"pattern": _PLACEHOLDERS}
        settings.filters["detect_secrets.filters.regex.should_exclude_line"] = {"pattern": _NAMES}
        for secret in scan_file(str(Path(root) / name)):
            yield f"{name}:{secret.line_number}: {secret.type}"


@click.command()
@click.argument("root", type=click.Path(exists=True, file_okay=False, path_type=Path), default=".")
def main(root: Path) -> None:
    """Scan the checkout at ROOT. Exit code 1 if there is a secret in it, 2 if it is no git checkout."""
    try:
        found = find(root)
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        raise _CouldNotTellError(f"git could not list the files of {root}: {error}") from error
    for line in found:
        click.secho(line, fg="red")
    if found:
        click.echo(
            "Take it out of the file, and renew it if it was ever pushed. A line that only looks like a "
            "secret ends with `pragma: allowlist secret`."
        )
        sys.exit(1)
    click.echo("No secret found.")


class _CouldNotTellError(click.ClickException):
    exit_code = 2


if __name__ == "__main__":
    main()
