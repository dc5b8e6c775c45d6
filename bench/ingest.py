"""`make bench-ingest`: memory and speed of reading and validating a training's rows.

Rows are drawn from the real table, with repetition, into Parquet files in a temporary folder. Each number is
from a separate process: its peak memory minus that of an empty table.
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from catalog.loader import get_model
from checks.data import cleaning, sources, validation
from flows.modeling import candidates

SIZES = (250_000, 500_000, 1_000_000)
_BASE = 10_000
HOW = {
    "whole": "read whole, each row shown to Pydantic (as before)",
    "stream": "ingest and validate, streamed",
    "features": "the same, and the model's matrix",
    "fit": "the same, and a logistic regression fitted",
}


def main() -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        _one(*options.one)
        return
    out = sys.stdout.write
    with TemporaryDirectory(prefix="greenroom-bench-") as folder:
        files = {size: _file(Path(folder), size) for size in (_BASE, *options.sizes)}
        out("| | rows | s | rows/s | MB above an empty process | bytes a row |\n")
        out("|---|---:|---:|---:|---:|---:|\n")
        for how, text in HOW.items():
            _, least = _measured(how, files[_BASE])
            points = []
            for size in options.sizes:
                seconds, peak = _measured(how, files[size])
                points.append((size, peak - least))
                out(
                    f"| {text} | {size:,} | {seconds:.1f} | {size / seconds:,.0f} | "
                    f"{(peak - least) / 1e6:,.0f} | |\n"
                )
                sys.stdout.flush()
            slope = np.polyfit(*zip(*points, strict=True), 1)[0]
            out(f"| {text}: slope | | | | | {slope:,.0f} |\n")


def _file(folder: Path, size: int) -> Path:
    path = folder / f"{size}.parquet"
    spec = get_model("genre")
    table = pa.Table.from_pandas(sources.read_table(spec.dataset), preserve_index=False)
    drawn = np.random.default_rng(size).integers(0, table.num_rows, size)
    with pq.ParquetWriter(path, table.schema) as writer:
        for first in range(0, size, 100_000):
            writer.write_table(table.take(drawn[first : first + 100_000]))
    return path


def _measured(how: str, path: Path) -> tuple[float, float]:
    command = [sys.executable, "-m", "bench.ingest", "--one", how, str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, peak = done.stdout.split()
    return float(seconds), float(peak)


def _one(how: str, path: str) -> None:
    spec = get_model("genre")
    dataset = spec.dataset.model_copy(update={"source": path})
    began = time.monotonic()
    if how == "whole":
        rows, _ = validation.validate(sources.read_table(dataset), dataset)
    else:
        rows, _ = validation.validate(sources.open_table(dataset), dataset)
    if how in ("features", "fit"):
        matrix = cleaning.features(rows, spec)
    if how == "fit":
        candidates.build(spec, spec.candidates[0]).fit(matrix, rows[str(spec.target)])
    seconds = time.monotonic() - began
    # Kilobytes on Linux, bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    sys.stdout.write(f"{seconds} {peak}\n")


if __name__ == "__main__":
    main()
