"""`daybook serve`: start the embedded servers and both APIs, until Ctrl-C."""

from __future__ import annotations

import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from infra.cli._options import data_option
from infra.settings import Settings

if TYPE_CHECKING:
    from infra.embedded.servers import EmbeddedServers
    from infra.server import Prepare
    from infra.wiring import Application


@click.command("serve")
@data_option
@click.option("--port", type=int, help="The port of both APIs; 0 takes any free one. [default: $PORT, or 8000]")
@click.option("--host", help="The address to listen on. [default: 127.0.0.1]")
@click.option("--demo/--no-demo", default=None, help="Fill a new book with an invented clinic, or don't ask about it.")
def command(data: Path | None, port: int | None, host: str | None, demo: bool | None) -> None:
    """Start Postgres, Redis, the ClickHouse engine and both APIs under one server.

    Everything lies in the data folder and is there again next time. Ctrl-C stops all of it in order; a kill -9 loses
    nothing that was acknowledged. A second start on the same data is refused.
    """
    settings = Settings.load(data=data, port=port, host=host)
    is_new = not (settings.data / "lock").exists()
    if demo is None and is_new and sys.stdin.isatty():
        demo = click.confirm("This is a new book. Fill it with an invented clinic, to try things with?", default=True)
    click.echo(f"Starting Daybook on {settings.data} …", err=True)

    from infra import server  # noqa: PLC0415 - loads every part, which wrong options need not wait for

    server.run(settings, _announce, _with_demo(settings) if demo and is_new else None)
    click.echo("Stopped. Everything is kept.", err=True)


def _with_demo(settings: Settings) -> Prepare:
    from infra.cli._progress import bar  # noqa: PLC0415 - only a first start needs them
    from infra.demo import fill  # noqa: PLC0415

    async def fill_it(application: Application) -> None:
        with bar() as shown:
            task = shown.add_task("An invented clinic lives through some weeks", total=None)
            await fill(
                application.desk,
                settings.organization,
                1,
                datetime.now(UTC),
                lambda done, total: shown.update(task, completed=done, total=total),
            )

    return fill_it


def _announce(url: str, application: Application, servers: EmbeddedServers) -> None:
    folder = servers.folder
    uv = "uv" if shutil.which("uv") else ".uv/bin/uv"
    lines = [
        f"Daybook runs at {url}",
        "",
        f"  write API   {url}/write/docs",
        f"  read API    {url}/read/docs",
        f"  health      {url}/health/ready   metrics   {url}/metrics",
        f"  data        {folder.path}   logs   {folder.logs}",
        f"  a token     {uv} run daybook token --role front_desk --data {folder.path}",
        *(f"  {hint}" for hint in application.hints),
        "",
        "Ctrl-C stops it.",
    ]
    click.echo("\n".join(lines))
