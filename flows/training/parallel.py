"""Several trainings side by side, each in a process of its own: none takes the others down."""

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

from flows.training.outcome import Ended

_COLOURS = {"promoted": "green", "passed": "green", "refused": "yellow", "failed": "red"}
# A reason may hold a whole traceback; the lines above the table have it.
_MOST = 300
_WIDE = 100


def train_each(
    models: Sequence[str], *, promote: bool, dataset: str | None = None, jobs: int = 2
) -> list[Ended]:
    """Train every model, at most `jobs` at once, and return how each ended, in their order."""
    with TemporaryDirectory(prefix="greenroom-train-") as scratch, ThreadPoolExecutor(jobs) as pool:
        options = [*(["--promote"] if promote else []), *(["--dataset", dataset] if dataset else [])]
        return list(pool.map(lambda model: _train(model, options, Path(scratch) / f"{model}.json"), models))


def _train(model: str, options: list[str], told: Path) -> Ended:
    command = [sys.executable, "-m", "flows", model, *options, "--outcome", str(told)]
    # Where several are at work, threads of one that wait by spinning take the processors from the others.
    # And each has a line of its own to say, no bar that the others' lines break.
    environment = {"OMP_WAIT_POLICY": "passive", **os.environ, "TTY_INTERACTIVE": "0"}
    code = subprocess.run(command, env=environment, check=False).returncode
    try:
        return Ended.read(told)
    except (OSError, ValueError, KeyError, TypeError):
        ending = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return Ended(model, problem=f"its process ended with {ending} and said no more; see above")


def summary(ended: Sequence[Ended]) -> None:
    """Print one row for each model: how it ended, its version and score, and why not."""
    console = Console()
    table = Table(title="Trained", title_justify="left", show_edge=False, pad_edge=False)
    for heading in ("model", "result", "version", "score (95 %)", "naive"):
        # In a narrow terminal a score goes over two lines, so that nothing is cut.
        table.add_column(heading, no_wrap=console.width >= _WIDE or not heading.startswith("score"))
    table.add_column("why", overflow="fold")
    for one in ended:
        done = one.outcome
        why = one.why if len(one.why) <= _MOST else f"{one.why[:_MOST]}…"
        table.add_row(
            one.model,
            f"[{_COLOURS[one.result]}]{one.result}[/]",
            str(done.version) if done else "-",
            done.scored if done else "-",
            f"{done.baseline:.3f}" if done and done.baseline is not None else "-",
            escape(why),
        )
    console.print(table)
