"""Settings of the gate."""

from pathlib import Path

from pydantic import Field

from registry.settings import GreenroomSettings

_CHECKOUT = Path(__file__).resolve().parent.parent


class ChecksSettings(GreenroomSettings):
    """Where DeepChecks lives."""

    checks_python: Path = Field(
        default=_CHECKOUT / ".venv-checks" / "bin" / "python",
        description="GREENROOM_CHECKS_PYTHON: the Python of the environment that holds DeepChecks "
        "(infra/requirements/checks.txt). Default: .venv-checks in the checkout.",
    )
