"""Settings of the gate."""

from pathlib import Path

from pydantic import Field

from registry.settings import GreenroomSettings

_CHECKOUT = Path(__file__).resolve().parent.parent


class ChecksSettings(GreenroomSettings):
    """Where DeepChecks lives, and where the gate's service answers."""

    checks_python: Path = Field(
        default=_CHECKOUT / ".venv-checks" / "bin" / "python",
        description="GREENROOM_CHECKS_PYTHON: the Python of the environment that holds DeepChecks "
        "(infra/requirements/checks.txt). Default: .venv-checks in the checkout.",
    )
    commit: str = Field(
        default="",
        description="GREENROOM_COMMIT: commit that this code is from, where it is no git checkout; "
        "the images set it.",
    )
    gate_url: str = Field(
        default="",
        description="GREENROOM_GATE_URL: address of the gate's service. Empty means the local stack's, "
        "http://127.0.0.1:GREENROOM_GATE_PORT.",
    )
    gate_port: int = Field(
        default=5300, ge=1, le=65535, description="GREENROOM_GATE_PORT: port of the gate's service."
    )

    @property
    def gate_address(self) -> str:
        """The address of the gate's service, without a trailing slash."""
        return (self.gate_url or f"http://127.0.0.1:{self.gate_port}").rstrip("/")
