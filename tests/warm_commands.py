"""What stands for this Python, `greenroom` and `prefect`, where a process's start is no matter of the test.

What tests kill, or what is to be as in production, is started with the real ones.
"""

import sys
import tempfile
from functools import cache
from pathlib import Path

from tests.warm_python import WarmPython

_IMPORTS = Path(__file__).with_name("warm_imports.py")


@cache
def warm_python() -> Path:
    """Return the script that stands for Python; its server starts now, and ends with this process."""
    python = WarmPython(Path(tempfile.mkdtemp(prefix="warm-")), Path(sys.executable), _IMPORTS).python
    # Beside the Python, where `infra/ci/shell.py` and a shell with this folder in its path look for them.
    for name, entry in (
        ("greenroom", "registry.cli.main import main"),
        ("prefect", "prefect.cli import app as main"),
    ):
        program = python.with_name(name)
        program.write_text(
            f"#!{python}\nimport sys\nfrom {entry}\n\nif __name__ == '__main__':\n    sys.exit(main())\n"
        )
        program.chmod(0o755)
    return python


def warm_greenroom() -> Path:
    """Return the script that stands for `greenroom`."""
    return warm_python().with_name("greenroom")
