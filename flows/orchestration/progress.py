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
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
    # No bar where several trainings share a terminal (flows/training/parallel.py): they would overlap.
    disable = not console.is_interactive
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=disable) as bar:
        task = bar.add_task(title, total=trials, text="")

        def advance(finished: int, text: str) -> None:
            nonlocal quarter
            bar.update(task, completed=finished, text=text)
            reached = int(_QUARTERS * finished / trials)
            if reached > quarter:
                quarter = reached
                line = f"{title}: {finished} of {trials} trials; {text}"
                log(line)
                if disable:
                    click.echo(f"         {line}")

        yield advance
