"""Several trainings in parallel, each in a process of its own: one that fails does not end the others."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.training.outcome import TrainingResult

_COLOURS = {"promoted": "green", "passed": "green", "refused": "yellow", "failed": "red"}
# A reason may hold a whole traceback; the lines above the table have it.
_MOST = 300
_WIDE = 100


def train_in_parallel(
    models: Sequence[str], *, promote: bool, dataset: str | None = None, jobs: int = 2
) -> list[TrainingResult]:
    """Train every model, at most `jobs` at once, and return how each ended, in their order."""
    with TemporaryDirectory(prefix="greenroom-train-") as scratch, ThreadPoolExecutor(jobs) as pool:
        options = [*(["--promote"] if promote else []), *(["--dataset", dataset] if dataset else [])]
        return list(pool.map(lambda model: _train(model, options, Path(scratch) / f"{model}.json"), models))


def _train(model: str, options: list[str], outcome: Path) -> TrainingResult:
    command = [sys.executable, "-m", "flows", model, *options, "--outcome", str(outcome)]
    # Threads that wait by spinning would take the processors from the other trainings; and a progress bar
    # would be broken by the others' lines.
    environment = {"OMP_WAIT_POLICY": "passive", **os.environ, "TTY_INTERACTIVE": "0"}
    code = subprocess.run(command, env=environment, check=False).returncode
    try:
        return TrainingResult.read(outcome)
    except (OSError, ValueError, KeyError, TypeError):
        ending = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return TrainingResult(model, problem=f"its process ended with {ending} and said no more; see above")


def print_summary(results: Sequence[TrainingResult]) -> None:
    """Print one row for each model: how it ended, its version and score, and why not."""
    console = Console()
    table = Table(title="Trained", title_justify="left", show_edge=False, pad_edge=False)
    for heading in ("model", "result", "version", "score (95 %)", "naive"):
        # In a narrow terminal a score goes over two lines, so that nothing is cut.
        table.add_column(heading, no_wrap=console.width >= _WIDE or not heading.startswith("score"))
    table.add_column("why", overflow="fold")
    for result in results:
        done = result.outcome
        why = result.why if len(result.why) <= _MOST else f"{result.why[:_MOST]}…"
        table.add_row(
            result.model,
            f"[{_COLOURS[result.result]}]{result.result}[/]",
            str(done.version) if done else "-",
            done.scored if done else "-",
            f"{done.baseline:.3f}" if done and done.baseline is not None else "-",
            escape(why),
        )
    console.print(table)
