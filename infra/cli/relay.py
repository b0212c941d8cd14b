"""`daybook relay`: pass the log on to Kafka; part of the full stack."""

from __future__ import annotations

from pathlib import Path

import click

from infra.cli._options import data_option
from infra.settings import Settings


@click.command("relay")
@data_option
@click.option("--port", type=int, help="The port of health and metrics; 0 takes any free one. [default: $PORT]")
@click.option("--host", help="The address to listen on. [default: 127.0.0.1]")
def command(data: Path | None, port: int | None, host: str | None) -> None:
    """Publish every event of the log to the topic daybook.events, until Ctrl-C.

    Start it twice or more: one is active and the others stand by, and take over within seconds. While Kafka is away it
    waits; bookings don't. Needs DAYBOOK_POSTGRES_DSN and DAYBOOK_KAFKA, and no key.
    """
    settings = Settings.load(data=data, port=port, host=host)
    from infra import server  # noqa: PLC0415 - loads every part, which wrong options need not wait for
    from infra.installation import Installation  # noqa: PLC0415
    from infra.kafka.services import relaying  # noqa: PLC0415

    place = Installation.full(settings, "kafka", service="relay")
    server.run_service(settings, lambda: relaying(place), "the relay")
