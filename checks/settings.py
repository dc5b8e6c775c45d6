"""Settings of the gate."""

from pathlib import Path

from pydantic import Field

from registry.settings import GreenroomSettings

_CHECKOUT = Path(__file__).resolve().parent.parent


class ChecksSettings(GreenroomSettings):
    """Where DeepChecks lives and how long it may take."""

    checks_python: Path = Field(
        default=_CHECKOUT / ".venv-checks" / "bin" / "python",
        description="GREENROOM_CHECKS_PYTHON: the Python of the environment that holds DeepChecks "
        "(infra/requirements/checks.txt). Default: .venv-checks in the checkout.",
    )
    checks_timeout: float = Field(
        default=300.0,
        gt=0,
        description="GREENROOM_CHECKS_TIMEOUT: seconds that the checks of one model may take; "
        "what has no outcome by then counts as missing.",
    )
