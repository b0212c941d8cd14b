"""A progress bar for a job that the running server does. In: its steps. Out: its result."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from infra import control
from infra.troubles import NotRunning


def bar() -> Progress:
    """A bar on stderr, so that what is printed stays clean for whoever reads it; silent where there is no terminal."""
    console = Console(stderr=True)
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def watch(steps: Iterable[control.Progress | control.Result], title: str) -> control.Result:
    """Show a job's `done`, `total` and `what` until it ends. Raises `Trouble`."""
    with bar() as shown:
        task = shown.add_task(title, total=None)
        for step in steps:
            if isinstance(step, control.Result):
                return step
            shown.update(
                task, completed=step.get("done", 0), total=step.get("total"), description=step.get("what", title)
            )
    raise NotRunning("The running Daybook broke off; it may have been stopped.")
