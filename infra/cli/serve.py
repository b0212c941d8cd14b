"""`daybook serve`: start both APIs, until Ctrl-C; embedded, with all the servers they need."""

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
@click.option(
    "--api", type=click.Choice(["write", "read", "both"]), default="both", help="Full stack: which API. [default: both]"
)
@click.option("--demo/--no-demo", default=None, help="Fill a new book with an invented clinic, or don't ask about it.")
def command(data: Path | None, port: int | None, host: str | None, api: str, demo: bool | None) -> None:
    """Start Postgres, Redis, the ClickHouse engine and both APIs under one server.

    Everything lies in the data folder and is there again next time. Ctrl-C stops all of it in order; a kill -9 loses
    nothing that was acknowledged. A second start on the same data is refused.

    With DAYBOOK_STACK=full it starts the APIs alone, one or both, on the servers that DAYBOOK_POSTGRES_DSN,
    DAYBOOK_REDIS_URL, DAYBOOK_CLICKHOUSE_URL and DAYBOOK_ELASTICSEARCH_URL name.

    With DAYBOOK_TLS_CERT and DAYBOOK_TLS_KEY, PEM files, it speaks TLS alone.
    """
    settings = Settings.load(data=data, port=port, host=host)
    if settings.stack == "full":
        _serve_api(settings, api)
        return
    if api != "both":
        raise click.UsageError("The embedded Daybook is one process; --api is for DAYBOOK_STACK=full.")
    is_new = not (settings.data / "lock").exists()
    if demo is None and is_new and sys.stdin.isatty():
        demo = click.confirm("This is a new book. Fill it with an invented clinic, to try things with?", default=True)
    click.echo(f"Starting Daybook on {settings.data} …", err=True)

    from infra import server  # noqa: PLC0415 - loads every part, which wrong options need not wait for

    server.run(settings, _announce, _with_demo(settings) if demo and is_new else None)
    click.echo("Stopped. Everything is kept.", err=True)


def _serve_api(settings: Settings, api: str) -> None:
    from infra import server, wiring  # noqa: PLC0415 - loads every part, which wrong options need not wait for
    from infra.installation import Installation  # noqa: PLC0415

    needs = () if api == "write" else ("clickhouse_url", "elasticsearch_url")
    place = Installation.full(settings, "redis_url", *needs, service=api if api != "both" else "apis")
    what = f"the {api} API" if api != "both" else "both APIs"
    server.run_service(settings, lambda: wiring.apis(place, api), what, tls=True)  # type: ignore[arg-type]


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
