"""`daybook jobs`: do what one process at a time does beside the bookings; part of the full stack."""

from __future__ import annotations

from pathlib import Path

import click

from infra.cli._options import data_option
from infra.settings import Settings


@click.command("jobs")
@data_option
@click.option("--port", type=int, help="The port of health and metrics; 0 takes any free one. [default: $PORT]")
@click.option("--host", help="The address to listen on. [default: 127.0.0.1]")
def command(data: Path | None, port: int | None, host: str | None) -> None:
    """Let ended holds lapse, sign the log, and keep the directory's next free times good, until Ctrl-C.

    Start it twice or more: one works and the others stand by, and take over within seconds. Needs
    DAYBOOK_POSTGRES_DSN, DAYBOOK_REDIS_URL, DAYBOOK_ELASTICSEARCH_URL, DAYBOOK_KEYS, and DAYBOOK_CHECKPOINTS, a folder
    that outlives the process.
    """
    settings = Settings.load(data=data, port=port, host=host)
    from infra import server, wiring  # noqa: PLC0415 - loads every part, which wrong options need not wait for
    from infra.installation import Installation  # noqa: PLC0415

    place = Installation.full(settings, "redis_url", "elasticsearch_url", service="jobs")
    server.run_service(settings, lambda: wiring.jobs(place), "jobs")
