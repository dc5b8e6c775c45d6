"""The first load and run of a file, in a process that may die: `python -m checks.service.trial FOLDER`.

What a file does to ONNX Runtime (a crash, an endless run, all memory) ends that process, and not the gate. It
predicts the rows that the gate judges by, so a value that a model hangs on is met there first.
"""

import os
import resource
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from catalog.spec import ModelSpec
from checks.data.splits import SplitRows
from checks.errors import GateInputError
from registry.errors import ModelFormatError
from registry.model_format.onnx_model import OnnxModel

# Far beyond what a model needs that answers requests: 6,000 rows take a second or two.
SECONDS = 120
# Bytes of address space: ONNX Runtime maps one or two GB for the largest file that the gate takes.
MEMORY = 8 << 30
_MODEL, _ROWS = "model.onnx", "rows.npz"
_KEPT = ("PATH", "PYTHONPATH", "TMPDIR", "LANG")


def require_runs(content: bytes, spec: ModelSpec, rows: SplitRows) -> None:
    """Raise `GateInputError` unless a file can be loaded and predicts all rows, within bounds."""
    sides = [side.frame[list(spec.features)].to_numpy(np.float32) for side in (rows.train, rows.test)]
    with TemporaryDirectory(prefix="greenroom-trial-") as scratch:
        folder = Path(scratch)
        (folder / _MODEL).write_bytes(content)
        np.savez(folder / _ROWS, rows=np.concatenate(sides), names=np.array(spec.features))
        try:
            done = subprocess.run(
                [sys.executable, "-m", "checks.service.trial", scratch],
                # Nothing of the gate's: neither settings nor keys.
                env={name: os.environ[name] for name in _KEPT if name in os.environ},
                cwd=Path(__file__).resolve().parents[2],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise GateInputError(
                f"The ONNX file of {spec.name!r} did not predict the {sum(map(len, sides)):,} rows of its "
                f"table within {SECONDS} s. Choose a smaller model."
            ) from error
    if done.returncode < 0:
        raise GateInputError(
            f"The ONNX file of {spec.name!r} ended the process that tried it, by "
            f"{signal.Signals(-done.returncode).name}. Export the model with another library or release."
        )
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        raise GateInputError(f"The ONNX file of {spec.name!r} does not run: {why[:300]}")


def main(folder: Path) -> None:
    """Load the file in a folder and predict the rows there."""
    # macOS keeps no such limit.
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    stored = np.load(folder / _ROWS, allow_pickle=False)
    try:
        model = OnnxModel((folder / _MODEL).read_bytes())
        names = stored["names"].tolist()
        # What the file reads is held against the declaration later.
        known = [names.index(name) for name in model.description.features if name in names]
        if len(known) == len(model.description.features):
            model.predict(stored["rows"][:, known])
    except (ModelFormatError, ValueError, MemoryError) as error:
        sys.exit(str(error) or type(error).__name__)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
