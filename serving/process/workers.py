"""Several processes behind one port: what each of them serves, where each can see it.

Each follows Production by itself, so that they may differ for a second; each can name the versions of all.
"""

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp

from registry.files import write_atomically

FOLDER = "GREENROOM_SERVING_WORKERS_FOLDER"
# prometheus_client's own name for the folder through which workers add up their metrics.
_METRICS = "PROMETHEUS_MULTIPROC_DIR"


class Workers:
    """The processes of one predictor, by what each has written into a folder that they share."""

    def __init__(self, folder: Path | None) -> None:
        self._folder, self._written = folder, ""
        self._parent = os.getppid()

    @classmethod
    def of_this_process(cls) -> "Workers":
        """Return those of this process; alone, it has no folder and there is nothing to share."""
        folder = os.environ.get(FOLDER)
        return cls(Path(folder) if folder else None)

    def stop_if_orphaned(self) -> None:
        """Stop this process, as on a SIGTERM, when the one that runs the workers was killed.

        Else it would hold the port, and a predictor that is started anew would share it.
        """
        if self._folder is not None and os.getppid() != self._parent:
            os.kill(os.getpid(), signal.SIGTERM)

    def tell(self, versions: Mapping[str, int]) -> None:
        """Write which versions this process serves, if that has changed."""
        if self._folder is None or (text := json.dumps(versions)) == self._written:
            return
        write_atomically(self._folder / f"{os.getpid()}.json", text.encode())
        self._written = text

    def all(self) -> dict[int, dict[str, int]]:
        """Return what each process that lives serves, by its process id; nothing where there is but one."""
        versions: dict[int, dict[str, int]] = {}
        for file in sorted(self._folder.glob("*.json")) if self._folder else ():
            if alive(pid := int(file.stem)):
                versions[pid] = json.loads(file.read_text())
            else:
                file.unlink(missing_ok=True)  # it was killed; another has taken its place
        return versions


def alive(pid: int) -> bool:
    """Whether there is a process of that id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def prepare() -> Path:
    """Make the folder for the workers of this process, and tell them by their environment."""
    folder = Path(mkdtemp(prefix="greenroom-workers-"))
    (folder / "metrics").mkdir()
    os.environ[FOLDER], os.environ[_METRICS] = str(folder), str(folder / "metrics")
    return folder
