"""One Python process for many: it imports once what takes seconds, and forks a child for each job.

DeepChecks takes some 4 seconds of CPU to import, and each gate run starts a process that imports it. MLflow,
Prefect, scikit-learn and what they need take 6, for each `greenroom train`. Here a server imports them once.
A script stands for the Python: it hands its arguments, folder, environment and open files to the server and
ends as the child ended. Production code knows nothing of it.

`WarmPython` is what the tests see. The rest of this file runs in the Python that it stands for, as the server
(`serve`) and as that script (`run_client`), and imports nothing but the standard library.
"""

import array
import atexit
import gc
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from contextlib import chdir, suppress
from pathlib import Path
from types import ModuleType

_SOCKET = "socket"
_LENGTH = struct.Struct("!I")
_STATUS = struct.Struct("!i")


class WarmPython:
    """The server, and the script `python` that stands for a Python.

    `imports` is a script, run before the first job with its environment. `hash_seed` holds for all jobs. The
    server ends when this process closes its end of a pipe, also by being killed.
    """

    def __init__(self, folder: Path, real: Path, imports: Path, *, hash_seed: str = "random") -> None:
        folder.chmod(0o700)
        self.python = folder / "bin" / "python"
        self.python.parent.mkdir()
        self.python.write_text(
            f"#!{real} -IS\n"
            "import runpy, sys\n"
            f"sys.argv[:1] = [{__file__!r}, 'client', {str(real)!r}, {str(folder / _SOCKET)!r}]\n"
            "runpy.run_path(sys.argv[0], run_name='__main__')\n"
        )
        self.python.chmod(0o755)
        with socket.socket(socket.AF_UNIX) as listener:
            # A socket's address has at most 107 bytes, and pytest's folders have long names.
            with chdir(folder):
                listener.bind(_SOCKET)
            listener.listen(16)
            self.process = subprocess.Popen(
                [real, "-s", "-P", __file__, "serve", str(listener.fileno()), self.python, imports],
                stdin=subprocess.PIPE,
                env={
                    "PATH": os.defpath,
                    "LANG": "C.UTF-8",
                    "PYTHONHASHSEED": hash_seed,
                    "OMP_NUM_THREADS": "1",
                    "OPENBLAS_NUM_THREADS": "1",
                },
                pass_fds=[listener.fileno()],
                start_new_session=True,
            )

    def end(self) -> None:
        """End the server and the jobs that still run."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(30)


# --- The server ---


def serve(listener: socket.socket, python: str, imports: Path) -> None:
    """Fork a process for each client, until standard input ends; import for the first."""
    imported = False
    while True:
        readable, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in readable:
            return
        client, _ = listener.accept()
        with client, suppress(ConnectionError):
            job = _receive(client)
            if not imported:
                _import(imports, job[2])
                imported = True
                # What a job starts with its own Python is warm too.
                sys.executable = python
            if os.fork() == 0:
                listener.close()
                _attend(client, *job)
            for file in job[3]:
                os.close(file)
        with suppress(ChildProcessError):  # there is none
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _receive(client: socket.socket) -> tuple[list[str], str, dict[str, str], list[int]]:
    """Return arguments, working directory, environment and the three standard files of a client."""
    space = socket.CMSG_SPACE(3 * array.array("i").itemsize)
    start, ancillary, _, _ = client.recvmsg(_LENGTH.size, space)
    files = array.array("i")
    files.frombytes(ancillary[0][2])
    (length,) = _LENGTH.unpack(start)
    with client.makefile("rb") as stream:
        folder, count, *texts = stream.read(length).decode().split("\0")
    arguments, variables = texts[: int(count)], texts[int(count) :]
    return arguments, folder, dict(zip(variables[::2], variables[1::2], strict=True)), list(files)


def _import(script: Path, environment: dict[str, str]) -> None:
    """Run a script of imports, without keeping the modules beside it: another checkout has others."""
    os.environ.update(environment)
    # An environment that is half there is a matter of each job, which says so itself.
    with suppress(Exception, SystemExit):
        runpy.run_path(str(script), run_name="import")
    for module in script.glob("[!_]*.py"):
        sys.modules.pop(module.stem, None)
    gc.collect()
    gc.freeze()


def _attend(
    client: socket.socket, arguments: list[str], folder: str, environment: dict[str, str], files: list[int]
) -> None:
    """Run the job in a child, and tell the client how it ended; a client that is gone ends the child."""
    child = os.fork()
    if child == 0:
        client.close()
        _run(arguments, folder, environment, files)
    ended = os.pidfd_open(child)
    readable, _, _ = select.select([client, ended, sys.stdin], [], [])
    if ended not in readable:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with suppress(OSError):
        client.sendall(_STATUS.pack(status))
    os._exit(0)


def _run(arguments: list[str], folder: str, environment: dict[str, str], files: list[int]) -> None:
    """Be the process that the client would have been."""
    os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    time.tzset()
    tempfile.tempdir = None
    code = 0
    try:
        _run_main(arguments)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
    except BaseException:  # noqa: BLE001 - as an interpreter does at the end of a script
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run_main(arguments: list[str]) -> None:
    """Run `-m MODULE …`, `-c CODE …` or `SCRIPT …`."""
    if arguments[0] == "-m":
        sys.path.insert(0, str(Path.cwd()))
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[0] == "-c":
        sys.path.insert(0, "")
        sys.argv = ["-c", *arguments[2:]]
        sys.modules["__main__"] = main = ModuleType("__main__")
        exec(compile(arguments[1], "<string>", "exec"), main.__dict__)  # noqa: S102
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


# --- The client ---


def run_client(real: str, address: Path, arguments: list[str]) -> None:
    """Have the server run a script, `-m MODULE` or `-c CODE`, and end as that ended; else be the Python."""
    job = arguments[1:] if arguments[:1] == ["-s"] else arguments
    if not job or (job[0].startswith("-") and job[0] not in ("-m", "-c")):
        os.execv(real, [real, *arguments])  # noqa: S606
    variables = [text for pair in os.environ.items() for text in pair]
    message = "\0".join([str(Path.cwd()), str(len(job)), *job, *variables]).encode()
    with socket.socket(socket.AF_UNIX) as server:
        with chdir(address.parent):
            server.connect(address.name)
        socket.send_fds(server, [_LENGTH.pack(len(message))], [0, 1, 2])
        server.sendall(message)
        status = server.recv(_STATUS.size, socket.MSG_WAITALL)
    if not status:
        sys.exit("The warm Python of this test session has ended.")
    code = os.waitstatus_to_exitcode(*_STATUS.unpack(status))
    if code < 0:
        with suppress(OSError):  # nobody handles SIGKILL
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(socket.socket(fileno=int(sys.argv[2])), sys.argv[3], Path(sys.argv[4]))
    else:
        run_client(sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
