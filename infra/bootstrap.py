"""Sets up the two environments of a checkout: `.venv` (Greenroom) and `.venv-checks` (DeepChecks).

Needs only Python's standard library. An old Python can parse it, and then says that it is too old. It is safe
to run again: a current environment stays.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
REQUIREMENTS = os.path.join(ROOT, "infra", "requirements")
VENV = os.path.join(ROOT, ".venv")
CHECKS_VENV = os.path.join(ROOT, ".venv-checks")
LOG = os.path.join(ROOT, ".venv-setup.log")
OLDEST = (3, 11)
# DeepChecks 0.19 needs scikit-learn 1.3, which has no wheels for anything newer (docs/gate.md).
CHECKS_PYTHONS = ("3.12", "3.11")


class SetupError(Exception):
    """Set-up cannot go on; the message says why and what to do."""


def main(arguments: "list[str]") -> int:
    """Set up the environments; with `dev`, also the tools that tests and linters need."""
    wanted = "dev" if "dev" in arguments else "app"
    try:
        _right_python()
        with _Lock():
            _app_environment(wanted)
            _checks_environment()
    except SetupError as error:
        print("\nSet-up stopped: {}".format(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nSet-up interrupted; run the same command again to go on.", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno == 28:
            print("\nSet-up stopped: " + _DISK, file=sys.stderr)
            return 1
        raise
    return 0


_DISK = (
    "the disk is full. Greenroom needs about 4 GB in {}; free some space and run the same command again."
).format(ROOT)


def _right_python() -> None:
    if sys.version_info[:2] >= OLDEST:
        return
    for minor in (13, 12, 11, 14):
        newer = shutil.which("python3.{}".format(minor)) if hasattr(shutil, "which") else None
        if newer and subprocess.call([newer, "-c", ""], stderr=subprocess.DEVNULL) == 0:
            os.execv(newer, [newer, *sys.argv])  # noqa: S606 - the same script under a newer Python
    raise SetupError(
        "this is Python {}.{}, and Greenroom needs 3.11 or newer. Install one (for example "
        "`apt install python3.12 python3.12-venv` or `brew install python@3.12`), then name it: "
        "`make PYTHON=python3.12 up`.".format(*sys.version_info[:2])
    )


class _Lock:
    """A lock on the checkout: two set-ups at once would overwrite each other's files."""

    def __enter__(self) -> None:
        import fcntl  # noqa: PLC0415 - absent on Windows, where this stack does not run

        self.file = open(os.path.join(ROOT, ".venv-setup.lock"), "w")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("Waiting for another set-up in this checkout to finish ...")
            fcntl.flock(self.file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        self.file.close()


def _digest(*names: str) -> str:
    digest = hashlib.sha256()
    for name in names:
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    # A checkout that was moved has wrong paths in its scripts.
    digest.update(ROOT.encode())
    return digest.hexdigest()


def _stamp(venv: str) -> "list[str]":
    try:
        with open(os.path.join(venv, "greenroom-setup.txt")) as file:
            return file.read().split()
    except (OSError, ValueError):
        return []


def _app_environment(wanted: str) -> None:
    digests = {
        kind: _digest("infra/requirements/{}.txt".format(kind), "pyproject.toml") for kind in ("app", "dev")
    }
    # The set for developers holds the one for users, so `make up` after `make test` has nothing to do.
    good = {"app": list(digests.values()), "dev": [digests["dev"]]}[wanted]
    stamp = _stamp(VENV)
    if stamp and stamp[0] in good and _works(VENV):
        return
    _say("Setting up .venv ({})".format("with test tools" if wanted == "dev" else "Greenroom"))
    if not stamp or not _works(VENV):
        # There is no environment, or its set-up was killed.
        shutil.rmtree(VENV, ignore_errors=True)
        _run([sys.executable, "-m", "venv", VENV], "creating a virtual environment")
        pip = [_python(VENV), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, "--require-hashes", "-r", os.path.join(REQUIREMENTS, "bootstrap.txt")], "installing uv")
    else:
        os.remove(os.path.join(VENV, "greenroom-setup.txt"))
    uv = _uv()
    lock = os.path.join(REQUIREMENTS, wanted + ".txt")
    _run(
        [*uv, "pip", "sync", "--python", _python(VENV), "--require-hashes", lock],
        "installing pinned packages (the first time this downloads about 600 MB)",
    )
    _run(
        [*uv, "pip", "install", "--python", _python(VENV), "--no-deps", "--no-build-isolation", "-e", ROOT],
        "installing Greenroom itself",
    )
    _finish(VENV, digests[wanted])


def _checks_environment() -> None:
    digest = _digest("infra/requirements/checks.txt")
    if _stamp(CHECKS_VENV)[:1] == [digest] and _works(CHECKS_VENV):
        return
    _say("Setting up .venv-checks (DeepChecks, in an environment of its own)")
    uv = _uv()
    own = "{}.{}".format(*sys.version_info[:2])
    python = sys.executable if own in CHECKS_PYTHONS else ">=3.11,<3.13"
    shutil.rmtree(CHECKS_VENV, ignore_errors=True)
    try:
        # uv takes an interpreter from the machine, or fetches one where there is none.
        _run([*uv, "venv", "--quiet", "--python", python, CHECKS_VENV], "creating a virtual environment")
    except SetupError as error:
        raise SetupError(
            "DeepChecks needs Python 3.11 or 3.12, this is {}, no other was found and none could be "
            "fetched. Install one (for example `apt install python3.12` or `brew install python@3.12`) "
            "and run the same command again.\n  {}".format(own, error)
        ) from None
    lock = os.path.join(REQUIREMENTS, "checks.txt")
    _run(
        [*uv, "pip", "sync", "--python", _python(CHECKS_VENV), "--require-hashes", lock],
        "installing pinned packages (the first time this downloads about 200 MB)",
    )
    _finish(CHECKS_VENV, digest)


def _python(venv: str) -> str:
    return os.path.join(venv, "bin", "python")


def _uv() -> "list[str]":
    return [os.path.join(VENV, "bin", "uv")]


def _works(venv: str) -> bool:
    try:
        return subprocess.call([_python(venv), "-c", ""], stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def _finish(venv: str, digest: str) -> None:
    # Written last, so that a set-up that was killed before counts as not done.
    path = os.path.join(venv, "greenroom-setup.txt")
    with open(path + ".new", "w") as file:
        file.write(digest + "\n")
    os.rename(path + ".new", path)


def _say(text: str) -> None:
    print(text, flush=True)


def _run(command: "list[str]", what: str) -> None:
    started = time.time()
    print("  {} ... ".format(what), end="", flush=True)
    environment = dict(os.environ, UV_NO_PROGRESS="1")
    # uv does not read pip's configuration; a mirror that is set there counts here too.
    if "UV_DEFAULT_INDEX" not in environment and environment.get("PIP_INDEX_URL"):
        environment["UV_DEFAULT_INDEX"] = environment["PIP_INDEX_URL"]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT, env=environment, check=False
    )
    output = done.stdout.decode("utf-8", "replace")
    with open(LOG, "a") as log:
        log.write("$ {}\n{}\n".format(" ".join(command), output))
    if done.returncode == 0:
        print("{:.0f} s".format(time.time() - started), flush=True)
        return
    print("failed", flush=True)
    raise SetupError(_explain(what, output))


def _explain(what: str, output: str) -> str:
    lower = output.lower()
    if "no space left" in lower or "disk quota" in lower:
        return _DISK
    if "ensurepip is not" in lower or "no module named ensurepip" in lower or "no module named venv" in lower:
        return (
            "this Python comes without the `venv` module. Install it (on Debian and Ubuntu: "
            "`apt install python3-venv`) and run the same command again."
        )
    network = (
        *("dns error", "failed to fetch", "connection refused", "timed out", "name resolution"),
        *("network is unreachable", "error sending request", "newconnectionerror", "max retries"),
        "from versions: none",  # pip, when it is told not to retry
    )
    if any(sign in lower for sign in network):
        return (
            "{}: the package index could not be reached. Check the network (or set PIP_INDEX_URL to a "
            "mirror) and run the same command again. Details: {}".format(what, LOG)
        )
    tail = "\n  ".join(output.strip().splitlines()[-8:])
    return "{} failed:\n  {}\n  The whole output is in {}".format(what, tail, LOG)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
