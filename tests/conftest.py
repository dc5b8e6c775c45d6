"""Fixtures that more than one room's tests use. Everything is real, on free ports, and stopped at the end."""

import functools
import gc
import json
import os
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from dotenv import dotenv_values

from tests.deepchecks_server import DeepChecksServer
from tests.gate_header import send_variables
from tests.gate_server import SESSION_GATE
from tests.ports import free_port
from tests.warm_commands import warm_python

ROOT = Path(__file__).resolve().parent.parent

# Tests say what they need; nothing of the developer's shell may leak in.
for name in [n for n in os.environ if n.startswith(("GREENROOM_", "MLFLOW_", "PREFECT_"))]:
    del os.environ[name]
# What tests start is started often: compiled bytecode makes each start seconds shorter.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.update(
    MLFLOW_DISABLE_TELEMETRY="true",
    DO_NOT_TRACK="1",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    NO_PROXY="127.0.0.1,localhost",
)
# Two workers share two cores: more threads in each would only wait for each other.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
# The libraries' objects stay: the collector need not walk through them all the time.
gc.set_threshold(100_000)
send_variables()
# Without a client of its own httpx reads all root certificates for each request: 30 ms, thousands of times.
ssl.create_default_context = functools.cache(ssl.create_default_context)


# The files that take longest (15 seconds and more), so that no worker begins one when the others are done.
LONG = (
    "flows/training/test_flow.py",
    "flows/training/test_same_model.py",
    "registry/server/test_migration.py",
    "registry/server/test_roles.py",
    "serving/models/test_outage.py",
    "registry/server/test_races.py",
    "infra/local/test_stack.py",
    "checks/test_drift.py",
    "flows/submission/test_flow.py",
    "flows/submission/test_notebook.py",
    "infra/local/test_cli.py",
    "registry/server/test_login.py",
    "serving/models/test_pyfunc.py",
    "flows/training/test_parallel.py",
    "flows/training/test_resume.py",
    "flows/monitoring/test_retrain_deployed.py",
    "flows/monitoring/test_flow.py",
    "infra/ci/test_model_gate.py",
    "flows/scoring/test_flow.py",
    "infra/k8s/test_work_pool.py",
    "checks/test_gate.py",
    "infra/ci/test_deploy.py",
    "infra/ci/test_check_data.py",
    "serving/models/test_watcher.py",
    "registry/cli/test_promotion.py",
    "attack/test_attacks.py",
    "serving/process/test_shutdown.py",
    "serving/uploads/test_routes.py",
    "serving/process/test_slow_clients.py",
    "serving/process/test_workers.py",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Whatever needs the whole stack is slow, whether or not its author thought of the mark.

    Where several workers share the files (`make test`), those that need the stack come first, so that at the
    end there are many short ones left to share.
    """
    for item in items:
        if "stack" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
    if not hasattr(config, "workerinput"):
        return
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)

    def turn(file: Path) -> tuple[int, bool]:
        name = file.relative_to(ROOT / "tests").as_posix()
        stack = any("stack" in getattr(item, "fixturenames", ()) for item in files[file])
        return LONG.index(name) if name in LONG else len(LONG), not stack

    items[:] = [item for file in sorted(files, key=turn) for item in files[file]]


@pytest.fixture(scope="session", autouse=True)
def _temporary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Temporary files of this process and of what it starts go where pytest clears up, also when killed."""
    before, tempfile.tempdir = tempfile.tempdir, None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("tmp")))
        yield
    tempfile.tempdir = before


@pytest.fixture(scope="session", autouse=True)
def deepchecks_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeepChecksServer]:
    """Import DeepChecks once for all gate runs of this process and of what it starts."""
    server = DeepChecksServer(tmp_path_factory.mktemp("deepchecks"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GREENROOM_CHECKS_PYTHON", str(server.python))
        yield server
    server.end()


@pytest.fixture(scope="session", autouse=True)
def _session_gate(deepchecks_server: DeepChecksServer) -> Iterator[None]:
    """End the session's gate, which starts with the first need of it."""
    yield
    SESSION_GATE.end()


@dataclass
class Stack:
    """A home with a local stack of its own.

    With a port for `GATE` it starts a gate of its own; else the session's gate judges (tests/gate_server.py).
    """

    home: Path
    ports: dict[str, int] = field(
        default_factory=lambda: {
            name: free_port() for name in ("SERVING", "MLFLOW", "PREFECT", "S3", "POSTGRES")
        }
    )
    # What every command is told besides: whatever differs from one `up` to the next restarts services.
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to work with this stack."""
        chosen = {f"GREENROOM_{name}_PORT": str(port) for name, port in self.ports.items()}
        # Its predictor serves the catalogue, and not what hundreds of tests put into Production.
        alone = {"GREENROOM_SERVING_MAX_MODELS": "0"}
        # A worker is for the tests that need one: it takes memory, and runs what is scheduled. Trainings try
        # what is declared and no more.
        alone |= {"GREENROOM_LOCAL_WORKER": "false", "GREENROOM_SEARCH_TRIALS": "0"}
        gate = {} if "GATE" in self.ports else {"GREENROOM_GATE_URL": SESSION_GATE.url}
        return {**os.environ, "GREENROOM_HOME": str(self.home), **alone, **chosen, **gate, **self.variables}

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

    @property
    def prefect_login(self) -> tuple[str, str]:
        """User and password of Prefect's API; the first `up` makes them."""
        return "greenroom", dotenv_values(self.home / "stack.env")["GREENROOM_PREFECT_PASSWORD"] or ""

    def greenroom(
        self, *arguments: str, constants: Mapping[str, object] | None = None, **variables: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run the command line against this stack; `constants` as in tests/constants.py.

        `up` has a Python of its own: the services that it starts are to be what they are in production.
        """
        python = Path(sys.executable) if arguments[:1] == ("up",) else warm_python()
        command = [str(python.with_name("greenroom"))]
        if constants:
            command = [str(python), "-m", "tests.constants", json.dumps(constants)]
        return subprocess.run(
            [*command, *arguments],
            cwd=ROOT,
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            timeout=580,
            check=False,
        )

    def end(self) -> None:
        """Stop it."""
        self.greenroom("down")


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """PostgreSQL, S3, MLflow, Prefect and the predictor, started by `greenroom up`, with no model yet."""
    found = Stack(tmp_path_factory.mktemp("stack") / "home")
    done = found.greenroom("up", "--no-train")
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        yield found
    finally:
        found.end()
