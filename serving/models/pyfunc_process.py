"""The process of one pyfunc model (serving/models/pyfunc_worker)."""

from pathlib import Path

from serving.models import worker_process

_WORKER = Path(__file__).resolve().parent / "pyfunc_worker"


class WorkerProcess(worker_process.WorkerProcess):
    """A running worker. For one thread at a time."""

    def __init__(self, python: str, model: Path, home: Path, *, task: str, memory: int) -> None:
        """Start `python` on the MLflow model in `model`, with at most `memory` bytes and `home` to write to.

        Raises `WorkerEndedError` when it cannot be started.
        """
        super().__init__(
            lambda socket: [python, "-s", str(_WORKER), str(model), task, str(socket), str(memory)], home
        )
