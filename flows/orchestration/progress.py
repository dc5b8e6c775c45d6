"""The progress of a search: a bar on a terminal, else a line for each quarter of the trials."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

Advance = Callable[[int, str], None]
_QUARTERS = 4


@contextmanager
def budget(title: str, trials: int, log: Callable[[str], None]) -> Iterator[Advance]:
    """Yield a function to call with the number of finished trials and a short text.

    In both cases `log` is called with a line for each quarter.
    """
    console, quarter = Console(), 0

    def line(finished: int, text: str) -> str | None:
        nonlocal quarter
        reached = int(_QUARTERS * finished / trials)
        if reached <= quarter:
            return None
        quarter = reached
        return f"{title}: {finished} of {trials} trials; {text}"

    # Not where several trainings share a terminal (flows/training/parallel.py): their bars would overlap.
    if console.is_interactive:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
        with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
            task = bar.add_task(title, total=trials, text="")

            def advance(finished: int, text: str) -> None:
                bar.update(task, completed=finished, text=text)
                if quarter_line := line(finished, text):
                    log(quarter_line)

            yield advance
        return

    def show(finished: int, text: str) -> None:
        if quarter_line := line(finished, text):
            click.echo(f"         {quarter_line}")
            log(quarter_line)

    yield show
