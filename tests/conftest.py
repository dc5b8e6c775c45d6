"""Fixtures that more than one room's tests use. Everything is real, on free ports, and stopped at the end."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Tests say what they need; nothing of the developer's shell may leak in.
for name in [n for n in os.environ if n.startswith(("GREENROOM_", "MLFLOW_", "PREFECT_"))]:
    del os.environ[name]
os.environ.update(
    MLFLOW_DISABLE_TELEMETRY="true",
    DO_NOT_TRACK="1",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    NO_PROXY="127.0.0.1,localhost",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever needs the whole stack is slow, whether or not its author thought of the mark."""
    for item in items:
        if "stack" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


def free_port() -> int:
    """Return a port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Stack:
    """A home with a local stack of its own."""

    home: Path
    ports: dict[str, int] = field(
        default_factory=lambda: {
            name: free_port() for name in ("SERVING", "MLFLOW", "PREFECT", "S3", "POSTGRES")
        }
    )

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to work with this stack."""
        chosen = {f"GREENROOM_{name}_PORT": str(port) for name, port in self.ports.items()}
        # Its predictor serves the catalogue, and not what hundreds of tests put into Production.
        alone = {"GREENROOM_SERVING_MAX_MODELS": "0"}
        return {**os.environ, "GREENROOM_HOME": str(self.home), **alone, **chosen}

    @property
    def tracking_url(self) -> str:
        """Where MLflow answers."""
        return f"http://127.0.0.1:{self.ports['MLFLOW']}"

    @property
    def serving_url(self) -> str:
        """Where the predictor answers."""
        return f"http://127.0.0.1:{self.ports['SERVING']}"

    @property
    def prefect_url(self) -> str:
        """Where Prefect answers."""
        return f"http://127.0.0.1:{self.ports['PREFECT']}"

    def greenroom(self, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Run the command line against this stack."""
        return subprocess.run(
            [str(Path(sys.executable).parent / "greenroom"), *arguments],
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            timeout=580,
            check=False,
        )


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """PostgreSQL, S3, MLflow, Prefect and the predictor, started by `greenroom up`, with no model yet."""
    found = Stack(tmp_path_factory.mktemp("stack") / "home")
    done = found.greenroom("up", "--no-train")
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        yield found
    finally:
        found.greenroom("down")
