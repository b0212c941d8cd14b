"""`daybook work`: fill read models from Kafka; part of the full stack."""

from __future__ import annotations

from pathlib import Path

import click

from infra.cli._options import data_option
from infra.settings import MODELS, Settings


@click.command("work")
@click.argument("models", nargs=-1, required=True, type=click.Choice(MODELS))
@data_option
@click.option("--port", type=int, help="The port of health and metrics; 0 takes any free one. [default: $PORT]")
@click.option("--host", help="The address to listen on. [default: 127.0.0.1]")
def command(models: tuple[str, ...], data: Path | None, port: int | None, host: str | None) -> None:
    """Fill these read models with what the relay publishes, until Ctrl-C.

    Start it as often as there is work for: those with the same models share the parts of the topic. Models that are
    named together are filled together, and wait for each other's stores; give each a worker of its own where that
    matters. An event that a model can't take becomes a dead letter: `daybook deadletter list`.

    Needs DAYBOOK_POSTGRES_DSN, DAYBOOK_KAFKA, DAYBOOK_KEYS, and the stores of the models: DAYBOOK_REDIS_URL for
    diary, free_time and people, DAYBOOK_CLICKHOUSE_URL for facts, DAYBOOK_ELASTICSEARCH_URL and DAYBOOK_REDIS_URL for
    directory.
    """
    names = list(dict.fromkeys(models))
    settings = Settings.load(data=data, port=port, host=host)
    from infra import server  # noqa: PLC0415 - loads every part, which wrong options need not wait for
    from infra.installation import Installation  # noqa: PLC0415
    from infra.kafka.services import needs, working  # noqa: PLC0415

    place = Installation.full(settings, *needs(names), service=f"work {' '.join(names)}")
    server.run_service(settings, lambda: working(place, names), f"the worker of {', '.join(names)}")
