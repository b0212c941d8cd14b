"""`daybook bench`: figures, each measured beside what it compares with, in the same run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import click
from pydantic_core import to_json
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


@dataclass(frozen=True, slots=True)
class Bench:
    module: str
    what: str


BENCHES = {
    "append": Bench("infra.bench.append", "durable saves of a booking's three events, 64 at once, fsync on"),
    "http": Bench("infra.bench.http", "bookings through HTTP, 64 at once, against a bare route with one INSERT"),
    "contend": Bench("infra.bench.contend", "1,000 clients after one slot"),
    "growth": Bench("infra.bench.growth", "booking at 1,000,000 events against 1,000"),
    "bulk": Bench("infra.bench.bulk", "the log at a million events (--size 10: ten), before and after archiving half"),
    "fill": Bench("infra.bench.fill", "all read models filled in-process"),
    "faust": Bench("infra.bench.faust", "diary and free time filled by one Faust worker from a full topic"),
    "lag": Bench("infra.bench.lag", "a booking acknowledged until every read model shows it, on both stacks"),
    "scale": Bench("infra.bench.scale", "what a booking costs in each part, and ten million a day played through"),
    "sign-in": Bench("infra.bench.sign_in", "passwords checked, 16 at once, against Argon2id by itself"),
    "tokens": Bench("infra.bench.tokens", "a token checked, known and new, against a bare jwt.decode"),
    "verify": Bench("infra.bench.verify", "the chain verified"),
    "audit": Bench("infra.bench.audit", "reads with and without their trail, and the log replayed"),
    "import": Bench("infra.bench.no_shows", "the no-shows table imported, when the file is named by NO_SHOWS"),
}


@click.command()
@click.argument("name", type=click.Choice([*BENCHES, "all"]))
@click.option(
    "--size",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0.001, 10),
    help="Scale the work; 1 is the size that the design names, 0.02 does for a continuous check.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a figure, and nothing else.")
def bench(name: str, size: float, as_json: bool) -> None:
    """Measure NAME, or all, on this machine.

    Every figure is a ratio to a baseline that is measured in the same run, because machines are noisy and small. A
    figure that does not hold is printed, not hidden; the exit code says only whether the measuring worked.

    \b
      append   durable saves of a booking's three events
      http     bookings through HTTP
      contend  1,000 clients after one slot
      growth   booking at 1,000,000 events against 1,000
      bulk     the log at size: saves, loads, room, verification, archive
      fill     all read models filled in-process
      faust    diary and free time filled by one Faust worker (needs Java and Maven)
      lag      a booking acknowledged until it is visible, on both stacks
      scale    what ten million bookings a day need
      sign-in  passwords checked, against Argon2id by itself
      tokens   a token checked, against a bare jwt.decode
      verify   the chain verified
      audit    what the trail of reads costs, and how fast the log is replayed
      import   the no-shows table imported (NO_SHOWS=path/to/no-shows.csv.gz)
    """
    from infra.bench.machine import describe  # noqa: PLC0415 - `--help` must not wait for it

    console = Console(stderr=True)
    machine = describe()
    failed = False
    for each in BENCHES if name == "all" else [name]:
        try:
            result = _measured(each, size, console)
        except Exception as error:  # one that can't be measured must not hide the others
            if name != "all":
                raise
            console.print(f"[red]{each} could not be measured: {type(error).__name__}: {error}[/]")
            failed = True
            continue
        if result is None:
            continue
        result = {"name": each, **result, "size": size, "machine": machine}
        if as_json:
            click.echo(to_json(result, fallback=str).decode())
        else:
            _print(result)
    sys.exit(1 if failed else 0)


def _measured(name: str, size: float, console: Console) -> dict[str, Any] | None:
    run: Callable[..., dict[str, Any] | None] = import_module(BENCHES[name].module).run
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task(f"{name}: {BENCHES[name].what}", total=None)
        return run(size)


def _print(result: dict[str, Any]) -> None:
    holds = {True: "[green]holds[/]", False: "[red]does not hold[/]"}.get(result.get("holds"), "")  # type: ignore[arg-type]
    console = Console(highlight=False)
    console.print(f"[bold]{result['name']}[/]  {holds}")
    for key, value in result.items():
        if key not in {"name", "holds", "machine", "details"}:
            console.print(f"  {key:10} {value}")
    for key, value in (result.get("details") or {}).items():
        console.print(f"    {key}: {value}")
