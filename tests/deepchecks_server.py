"""One DeepChecks process for all gate runs of a test session.

`GREENROOM_CHECKS_PYTHON` names a script that stands for the Python of `.venv-checks` (warm_python.py).
"""

from pathlib import Path

from tests.warm_python import WarmPython

ROOT = Path(__file__).resolve().parent.parent
REAL_PYTHON = ROOT / ".venv-checks" / "bin" / "python"
WORKER = ROOT / "checks" / "worker"


class DeepChecksServer(WarmPython):
    """The Python of `.venv-checks`, with DeepChecks imported."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, REAL_PYTHON, WORKER, hash_seed="0")
        # The gate has matplotlib keep its list of fonts beside the Python; making one takes seconds.
        (folder / ".matplotlib").symlink_to(REAL_PYTHON.parent.parent / ".matplotlib")
