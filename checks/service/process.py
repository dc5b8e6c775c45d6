"""The process that judges: a model file that crashes or never ends takes this process, not the service."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from threading import Lock

from pydantic import SecretStr

from catalog.loader import reload_catalog
from checks.errors import DataError, GateInputError, GateUnavailableError
from registry.client.registry import Registry
from registry.client.tracking_client import TrackingClient
from registry.errors import RegistryError
from registry.evidence.verdict import Verdict
from registry.settings import RegistrySettings

# Seconds that one verdict may take, DeepChecks' own 300 among them.
DEADLINE = 600.0
# Seconds that the process may take to import its libraries.
_START = 180.0
_READY = "ready"


class JudgeProcess:
    """Judges one version at a time in a process of its own, which is started again when it has ended."""

    def __init__(self, deadline: float = DEADLINE) -> None:
        self._deadline = deadline
        self._turn = Lock()
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None
        self._ready = False

    def __call__(self, settings: RegistrySettings, model: str, number: int) -> Verdict:
        """Return the verdict on a version, with the login of `settings`; raises like `judge_version`.

        `GateInputError` says that judging ended the process or took longer than the deadline.
        """
        with self._turn:
            pipe = self._started()
            pipe.send(
                (settings.tracking_username, settings.tracking_password.get_secret_value(), model, number)
            )
            try:
                answer = pipe.recv() if pipe.poll(self._deadline) else None
            except (EOFError, OSError) as error:
                self.stop()
                raise GateInputError(
                    f"Judging {model} version {number} ended the process that judges: its file cannot be run."
                ) from error
            if answer is None:
                self.stop()
                raise GateInputError(
                    f"Judging {model} version {number} took longer than {self._deadline:g} s. Its file "
                    "runs too long, or the machine is too busy."
                )
        if isinstance(answer, Exception):
            raise answer
        verdict: Verdict = answer
        return verdict

    def stop(self) -> None:
        """End the process; the next verdict starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None
        self._ready = False

    def start(self) -> None:
        """Start the process ahead of the first verdict."""
        with self._turn:
            self._start()

    def _started(self) -> Connection:
        """Return the pipe of the process, which has imported its libraries: that counts for no verdict."""
        pipe = self._start()
        if not self._ready:
            try:
                self._ready = pipe.poll(_START) and pipe.recv() == _READY
            except (EOFError, OSError):
                self._ready = False
        if not self._ready:
            self.stop()
            raise GateUnavailableError("The process that judges does not start; the gate's log says why.")
        return pipe

    def _start(self) -> Connection:
        if self._process is None or self._pipe is None or not self._process.is_alive():
            self.stop()
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
            self._process.start()
            theirs.close()
        return self._pipe


def _serve(pipe: Connection) -> None:
    """Judge what comes through the pipe until it is closed."""
    # Here and not above: the service itself needs neither pandas nor scikit-learn.
    from checks.service.judgement import judge_version, judging  # noqa: PLC0415

    with judging():
        pipe.send(_READY)
        while True:
            try:
                username, password, model, number = pipe.recv()
            except EOFError:
                return
            pipe.send(_answer(judge_version, username, password, model, number))


def _answer(
    judge: Callable[[Registry, str, int], Verdict], username: str, password: str, model: str, number: int
) -> Verdict | Exception:
    login = {"tracking_username": username, "tracking_password": SecretStr(password)}
    try:
        reload_catalog()  # a declaration that was added since counts at once
        with TrackingClient(RegistrySettings().model_copy(update=login)) as client:
            return judge(Registry(client), model, number)
    except (RegistryError, DataError, OSError) as error:
        return error
    except Exception as error:  # noqa: BLE001 - onnxruntime, pandas and scorers raise many kinds
        return GateUnavailableError(f"The gate could not judge {model} version {number}: {error!r}")
