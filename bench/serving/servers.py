"""The peers: installation, start, request and answer of each. One worker process each."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx

from bench.__main__ import free_port
from bench.serving.models import Forest
from bench.serving.processes import ROOT, Running, StartError, clean_environment, start, wait

_SCRIPTS = ROOT / "bench" / "serving" / "peers"


def _same(*packages: str) -> tuple[str, ...]:
    """Pin packages to what this environment's lock has: a pickle needs the versions that wrote it."""
    return tuple(f"{package}=={version(package.partition('[')[0])}" for package in packages)


_MODEL = _same("scikit-learn", "numpy", "pandas")
# At most as many requests as arrive at once, and at most half the time of predicting one row here.
_MLSERVER_BATCH = {"max_batch_size": 64, "max_batch_time": 0.005}


@dataclass(frozen=True)
class Server:
    """A server: its address, its request, and how to read the predicted class from its answer."""

    name: str
    running: Running
    url: str
    body: bytes
    read: Callable[[Any], str]

    def ask(self) -> str:
        """Return the predicted class; raises `StartError` when the answer has none."""
        headers = {"Content-Type": "application/json"}
        answer = httpx.post(self.url, content=self.body, headers=headers, timeout=30)
        if answer.status_code != 200:
            raise StartError(f"it answers {answer.status_code}: {answer.text[:200]}")
        return self.read(answer.json())


@dataclass(frozen=True)
class Start:
    """What a peer needs to start: its environment's folder, its own folder, a port, the forest."""

    python: Path
    folder: Path
    port: int
    forest: Forest

    def run(self, *command: str, folder: Path | None = None, **environment: str) -> Running:
        """Start a command with the environment's programs before others on the path."""
        return start(command, self.folder / "log", self._environment(**environment), folder or self.folder)

    def prepare(self, *command: str) -> None:
        """Run a command to its end; raises `StartError`."""
        done = subprocess.run(
            list(command),
            cwd=self.folder,
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise StartError(f"preparing it failed: {done.stderr.strip()[-300:]}")

    def program(self, name: str) -> str:
        """Return the path of a program of the environment."""
        return str(self.python.parent / name)

    def _environment(self, **extra: str) -> dict[str, str]:
        path = f"{self.python.parent}{os.pathsep}{os.environ.get('PATH', '')}"
        # scikit-learn warns at each call that gets a plain matrix; writing that would slow the peers down.
        return clean_environment(PATH=path, PYTHONWARNINGS="ignore", **extra)


Body = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True)
class Peer:
    """A peer: its pinned packages, how it starts, and its request's and its answer's format."""

    name: str
    packages: tuple[str, ...]
    launch: Callable[[Start], Running]
    path: str
    body: Body
    read: Callable[[Any], str]
    # Environments are shared by peers with the same packages.
    environment: str = ""
    # A limit predicts nothing, so there is nothing to compare with scikit-learn.
    limit: bool = False

    def start(self, python: Path, folder: Path, forest: Forest) -> Server:
        """Start the peer; return it when it predicts the row as scikit-learn does; raises `StartError`."""
        port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        running = self.launch(Start(python, folder, port, forest))
        body = json.dumps(self.body(forest.row)).encode()
        server = Server(self.name, running, f"http://127.0.0.1:{port}{self.path}", body, self.read)

        def answers() -> bool:
            try:
                said = server.ask()
            except StartError as error:
                if "answers 5" in str(error) or "answers 404" in str(error):
                    return False  # it listens, but its model is not loaded yet
                raise
            if not self.limit and said != forest.label:
                raise StartError(f"it predicts {said}, scikit-learn {forest.label}")
            return True

        try:
            wait(running, answers, 120, every=0.3)
        except BaseException:
            running.stop()
            raise
        return server


def installed(peer: Peer, environments: Path) -> Path:
    """Create or update a peer's environment and return its Python; raises `StartError`."""
    folder = environments / (peer.environment or peer.name.split()[0].lower())
    python, marker = folder / "bin" / "python", folder / "bench-packages"
    wanted = "\n".join((*peer.packages, sys.version))
    if marker.exists() and marker.read_text() == wanted and python.exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    uv = str(Path(sys.executable).parent / "uv")
    for command in (
        [uv, "venv", "--quiet", "--python", sys.executable, str(folder)],
        [uv, "pip", "install", "--quiet", "--python", str(python), *peer.packages],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise StartError(f"it cannot be installed: {' '.join(done.stderr.split())[-300:]}")
    marker.write_text(wanted)
    return python


def _numbers(row: dict[str, Any]) -> list[float]:
    return [float(value) for value in row.values()]


def _mlflow(pickle_of: Callable[[Forest], Path]) -> Callable[[Start], Running]:
    def launch(at: Start) -> Running:
        rows, model = at.folder / "rows.parquet", at.folder / "model"
        at.forest.rows.to_parquet(rows)
        shutil.rmtree(model, ignore_errors=True)
        at.prepare(
            str(at.python), str(_SCRIPTS / "save_mlflow.py"), str(pickle_of(at.forest)), str(rows), str(model)
        )
        command = [at.program("mlflow"), "models", "serve", "-m", str(model), "--env-manager", "local"]
        # Its server is uvicorn; this turns off uvicorn's line per request.
        return at.run(*command, "-h", "127.0.0.1", "-p", str(at.port), UVICORN_ACCESS_LOG="false")

    return launch


def _mlserver(at: Start) -> Running:
    shutil.copy(at.forest.pickled_one_job, at.folder / "model.pkl")
    settings = {
        "host": "127.0.0.1",
        "http_port": at.port,
        "grpc_port": free_port(),
        "metrics_port": free_port(),
        # In debug mode, its default, it logs each request.
        "debug": False,
        # The model in the server's own process, as with the others; its processes for models do not start
        # with uvloop 0.23.
        "parallel_workers": 0,
    }
    model = {
        "name": "genre",
        "implementation": "mlserver_sklearn.SKLearnModel",
        **_MLSERVER_BATCH,
        "parameters": {"uri": "./model.pkl"},
    }
    (at.folder / "settings.json").write_text(json.dumps(settings))
    (at.folder / "model-settings.json").write_text(json.dumps(model))
    return at.run(at.program("mlserver"), "start", ".")


def _bentoml(at: Start) -> Running:
    return at.run(
        *(at.program("bentoml"), "serve", "bento:Genre", "--host", "127.0.0.1", "--port", str(at.port)),
        folder=_SCRIPTS,
        BENTOML_HOME=str(at.folder / "home"),
        BENCH_MODEL=str(at.forest.pickled_one_job),
        PYTHONDONTWRITEBYTECODE="1",
    )


def _fastapi(at: Start) -> Running:
    script = str(_SCRIPTS / "plain_fastapi.py")
    model = str(at.forest.pickled_one_job)
    return at.run(str(at.python), script, str(at.port), model, PYTHONPATH=str(ROOT))


def _echo(at: Start) -> Running:
    return at.run(sys.executable, str(_SCRIPTS / "echo.py"), str(at.port))


def _dataframe(row: dict[str, Any]) -> Any:
    return {"dataframe_split": {"columns": list(row), "data": [_numbers(row)]}}


_MLFLOW = (*_same("mlflow", "fastapi", "uvicorn[standard]"), *_MODEL)

PEERS: Sequence[Peer] = (
    Peer(
        name="mlflow models serve",
        packages=_MLFLOW,
        launch=_mlflow(lambda forest: forest.pickled_one_job),
        path="/invocations",
        body=_dataframe,
        read=lambda answer: str(answer["predictions"][0]),
    ),
    Peer(
        name="mlflow models serve, n_jobs as fitted",
        packages=_MLFLOW,
        launch=_mlflow(lambda forest: forest.pickled_as_fitted),
        path="/invocations",
        body=_dataframe,
        read=lambda answer: str(answer["predictions"][0]),
    ),
    Peer(
        name="FastAPI, pandas, scikit-learn",
        packages=(*_same("fastapi", "pydantic", "uvicorn[standard]"), *_MODEL),
        launch=_fastapi,
        path="/predict",
        body=lambda row: row,
        read=lambda answer: str(answer["prediction"]),
        environment="fastapi",
    ),
    Peer(
        name="BentoML, adaptive batching",
        packages=("bentoml==1.4.39", *_MODEL),
        launch=_bentoml,
        path="/predict",
        body=lambda row: {"rows": [_numbers(row)]},
        read=lambda answer: str(answer[0]),
        environment="bentoml",
    ),
    Peer(
        name="MLServer, adaptive batching",
        packages=("mlserver==1.7.1", "mlserver-sklearn==1.7.1", *_MODEL),
        launch=_mlserver,
        path="/v2/models/genre/infer",
        body=lambda row: {
            "inputs": [{"name": "predict", "shape": [1, len(row)], "datatype": "FP64", "data": _numbers(row)}]
        },
        read=lambda answer: str(answer["outputs"][0]["data"][0]),
        environment="mlserver",
    ),
)
ECHO = Peer(
    name="bare ASGI echo",
    packages=(),
    launch=_echo,
    path="/",
    body=lambda row: row,
    read=lambda answer: str(answer["prediction"]),
    limit=True,
)
