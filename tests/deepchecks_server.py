"""One DeepChecks process for all gate runs of a test session.

DeepChecks takes some 4 seconds of CPU to import, and each gate run starts a process that imports it. Here a
server imports it once and forks a child for each job. `GREENROOM_CHECKS_PYTHON` names a script that stands
for the Python of `.venv-checks`: it hands its arguments, folder, environment and open files to the server and
ends as the child ended. Production code knows nothing of it.

`DeepChecksServer` is what the tests see. The rest of this file runs in the Python of `.venv-checks`, as the
server (`serve`) and as that script (`run_client`), and imports nothing but the standard library.
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
import traceback
from contextlib import chdir, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REAL_PYTHON = ROOT / ".venv-checks" / "bin" / "python"
WORKER = ROOT / "checks" / "worker"
_SOCKET = "socket"
_LENGTH = struct.Struct("!I")
_STATUS = struct.Struct("!i")


class DeepChecksServer:
    """The server, and the script that stands for the Python of `.venv-checks`.

    The server ends when this process closes its end of a pipe, also by being killed.
    """

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o700)
        self.python = folder / "bin" / "python"
        self.python.parent.mkdir()
        # The gate has matplotlib keep its list of fonts beside the Python; making one takes seconds.
        (folder / ".matplotlib").symlink_to(REAL_PYTHON.parent.parent / ".matplotlib")
        self.python.write_text(
            f"#!{REAL_PYTHON} -IS\n"
            "import runpy, sys\n"
            f"sys.argv[:1] = [{__file__!r}, 'client', {str(folder / _SOCKET)!r}]\n"
            "runpy.run_path(sys.argv[0], run_name='__main__')\n"
        )
        self.python.chmod(0o755)
        with socket.socket(socket.AF_UNIX) as listener:
            # A socket's address has at most 107 bytes, and pytest's folders have long names.
            with chdir(folder):
                listener.bind(_SOCKET)
            listener.listen(16)
            self.process = subprocess.Popen(
                [REAL_PYTHON, "-s", "-P", __file__, "serve", str(listener.fileno())],
                stdin=subprocess.PIPE,
                env={
                    "PATH": os.defpath,
                    "PYTHONHASHSEED": "0",
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


def serve(listener: socket.socket) -> None:
    """Fork a process for each client, until standard input ends; import DeepChecks for the first."""
    imported = False
    while True:
        readable, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in readable:
            return
        client, _ = listener.accept()
        with client, suppress(ConnectionError):
            job = _receive(client)
            if not imported:
                _import_deepchecks(job[2])
                imported = True
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


def _import_deepchecks(environment: dict[str, str]) -> None:
    """Import what the worker imports, without the worker's own modules: another checkout has others."""
    os.environ.update(environment)
    # An environment that is half there is a matter of each job, which says so itself.
    with suppress(Exception, SystemExit):
        runpy.run_path(str(WORKER), run_name="import")
    for module in WORKER.glob("[!_]*.py"):
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
    tempfile.tempdir = None
    sys.argv = arguments
    code = 0
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
    except BaseException:  # noqa: BLE001 - as an interpreter does at the end of a script
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


# --- The client ---


def run_client(address: Path, arguments: list[str]) -> None:
    """Have the server run `-s WORKER JOB_DIR`, and end as that ended; leave the rest to the real Python."""
    if arguments[:1] != ["-s"] or len(arguments) != 3:
        os.execv(REAL_PYTHON, [str(REAL_PYTHON), *arguments])  # noqa: S606
    arguments = arguments[1:]
    variables = [text for pair in os.environ.items() for text in pair]
    message = "\0".join([str(Path.cwd()), str(len(arguments)), *arguments, *variables]).encode()
    with socket.socket(socket.AF_UNIX) as server:
        with chdir(address.parent):
            server.connect(address.name)
        socket.send_fds(server, [_LENGTH.pack(len(message))], [0, 1, 2])
        server.sendall(message)
        status = server.recv(_STATUS.size, socket.MSG_WAITALL)
    if not status:
        sys.exit("The DeepChecks server of this test session has ended.")
    code = os.waitstatus_to_exitcode(*_STATUS.unpack(status))
    if code < 0:
        with suppress(OSError):  # nobody handles SIGKILL
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(socket.socket(fileno=int(sys.argv[2])))
    else:
        run_client(Path(sys.argv[2]), sys.argv[3:])
