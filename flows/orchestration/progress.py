"""A budget of trials as it is used up: a bar on a terminal, else a line for each quarter of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

Advance = Callable[[int, str], None]
_QUARTERS = 4


@contextmanager
def budget(title: str, trials: int, log: Callable[[str], None]) -> Iterator[Advance]:
    """Yield what is called with the number of trials that are done and a few words.

    `log` is told a line for each quarter in either case, for whoever looks later.
    """
    console, quarter = Console(), 0

    def line(over: int, said: str) -> str | None:
        nonlocal quarter
        reached = int(_QUARTERS * over / trials)
        if reached <= quarter:
            return None
        quarter = reached
        return f"{title}: {over} of {trials} trials; {said}"

    # Not where several trainings share a terminal (flows/training/parallel.py): their bars would overlap.
    if console.is_interactive:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"))
        with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
            shown = bar.add_task(title, total=trials, said="")

            def advance(over: int, said: str) -> None:
                bar.update(shown, completed=over, said=said)
                if text := line(over, said):
                    log(text)

            yield advance
        return

    def tell(over: int, said: str) -> None:
        if text := line(over, said):
            click.echo(f"         {text}")
            log(text)

    yield tell
