"""A budget of seconds as it is used up: a bar on a terminal, else a line for each quarter of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

Advance = Callable[[float, str], None]
_QUARTERS = 4


@contextmanager
def budget(title: str, seconds: float, log: Callable[[str], None]) -> Iterator[Advance]:
    """Yield what is called with the seconds that are over and a few words, as the budget is used up.

    `log` is told a line for each quarter in either case, for whoever looks later.
    """
    console, quarter = Console(), 0

    def line(over: float, said: str) -> str | None:
        nonlocal quarter
        reached = int(_QUARTERS * over / seconds)
        if reached <= quarter:
            return None
        quarter = reached
        return f"{title}: {over:.0f} of {seconds:g} s; {said}"

    # Not where several trainings share a terminal (flows/training/parallel.py): their bars would overlap.
    if console.is_interactive:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"))
        with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
            shown = bar.add_task(title, total=seconds, said="")

            def advance(over: float, said: str) -> None:
                bar.update(shown, completed=over, said=said)
                if text := line(over, said):
                    log(text)

            yield advance
        return

    def tell(over: float, said: str) -> None:
        if text := line(over, said):
            click.echo(f"         {text}")
            log(text)

    yield tell
