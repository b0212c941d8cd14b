"""`daybook serve`: start the embedded servers and both APIs, until Ctrl-C."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from infra.cli._options import data_option
from infra.settings import Settings

if TYPE_CHECKING:
    from infra.embedded.servers import EmbeddedServers
    from infra.wiring import Application


@click.command("serve")
@data_option
@click.option("--port", type=int, help="The port of both APIs; 0 takes any free one. [default: $PORT, or 8000]")
@click.option("--host", help="The address to listen on. [default: 127.0.0.1]")
def command(data: Path | None, port: int | None, host: str | None) -> None:
    """Start Postgres, Redis, the ClickHouse engine and both APIs under one server.

    Everything lies in the data folder and is there again next time. Ctrl-C stops all of it in order; a kill -9 loses
    nothing that was acknowledged. A second start on the same data is refused.
    """
    settings = Settings.load(data=data, port=port, host=host)
    click.echo(f"Starting Daybook on {settings.data} …", err=True)

    from infra import server  # noqa: PLC0415 - loads every part, which wrong options need not wait for

    server.run(settings, _announce)
    click.echo("Stopped. Everything is kept.", err=True)


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
