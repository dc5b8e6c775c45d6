"""`make audit`: known vulnerabilities of every pinned package, by the advisories that pypi.org serves."""

import subprocess
import sys
from pathlib import Path

import click

from infra.ci.shell import ROOT

REQUIREMENTS = ROOT / "infra" / "requirements"
# Vulnerabilities that do not reach this project, each with why. Reviewed with every `make lock`.
ACCEPTED = REQUIREMENTS / "audit-accepted.txt"
# What pip-audit says when it could not ask, for one package or for all.
_UNANSWERED = ("could not be audited", "Dependency not found", "ConnectionError", "timed out", "Failed to")


@click.command()
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(files: tuple[Path, ...]) -> None:
    """Audit FILES of hashed requirements (default: every one of this checkout).

    Exit code 1: a package has a known vulnerability. 2: could not tell, because the service did not answer
    for every package; that is no pass.
    """
    codes = [_audit(file) for file in files or tuple(sorted(REQUIREMENTS.glob("*.txt"))) if file != ACCEPTED]
    if 2 in codes:
        raise _CouldNotTellError(
            "Not every package could be looked up. Run it where https://pypi.org/pypi/NAME/VERSION/json can "
            "be reached: a mirror of packages does not serve the advisories."
        )
    sys.exit(max(codes))


def accepted() -> list[str]:
    """Return the ids of what is accepted: the first word of each line that is no comment."""
    lines = ACCEPTED.read_text("utf-8").splitlines() if ACCEPTED.exists() else []
    return [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]


def _audit(file: Path) -> int:
    click.secho(file.name, bold=True)
    ignored = [option for known in accepted() for option in ("--ignore-vuln", known)]
    # --strict: a package that was not found there would otherwise count as one without vulnerabilities.
    command = [
        str(Path(sys.executable).parent / "pip-audit"),
        "--strict",
        "--require-hashes",
        "--disable-pip",
    ]
    done = subprocess.run(
        [*command, "--progress-spinner", "off", *ignored, "-r", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    said = f"{done.stdout}{done.stderr}".strip()
    click.echo(said)
    if done.returncode and any(sign in said for sign in _UNANSWERED):
        return 2
    return min(done.returncode, 1)


class _CouldNotTellError(click.ClickException):
    exit_code = 2


if __name__ == "__main__":
    main()
