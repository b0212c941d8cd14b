"""`daybook deadletter`: see which events a read model could not take, and have them tried again."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from infra.cli._options import json_option
from infra.settings import MODELS, Settings
from infra.troubles import NotRunning

if TYPE_CHECKING:
    from streams.deadletters import Letter

_model = click.option("--model", type=click.Choice(MODELS), help="Only this read model's. [all]")


@click.group("deadletter")
def command() -> None:
    """See which events a read model could not take, and have them tried again.

    A letter names the event, never what it holds. While it lies there, the event's stream stands still in that model;
    all others go on. Needs DAYBOOK_KAFKA.
    """


@command.command("list")
@_model
@json_option
def list_command(model: str | None, as_json: bool) -> None:
    """List the letters, oldest first. Exit code 1 when there are any."""
    letters = asyncio.run(_letters(Settings.load(), model))
    if as_json:
        click.echo(json.dumps({"letters": [asdict(letter) for letter in letters]}))
    elif not letters:
        click.echo("No dead letters.")
    for letter in () if as_json else letters:
        if letter.is_event:
            click.echo(
                f"{letter.model:<10} position {letter.position:,}  {letter.organization}/{letter.stream}"
                f" version {letter.version}  {letter.name}  {letter.error}  {letter.at}"
            )
        else:
            click.echo(f"{letter.model:<10} {letter.where}  no event of the log  {letter.error}  {letter.at}")
    if letters:
        raise click.exceptions.Exit(1)


@command.command("retry")
@_model
@click.option("--stream", help="Only this stream, as the list names it: ORGANIZATION/KIND/ID. [all]")
@json_option
def retry_command(model: str | None, stream: str | None, as_json: bool) -> None:
    """Have the streams of the letters applied again, whole, from the log; do so once their cause is mended.

    The workers do it; a letter goes when its event was taken, and stays when it was not. Letters about what is no
    event of the log have nothing to apply and are put away.
    """
    streams, away = asyncio.run(_retried(Settings.load(), model, stream))
    if as_json:
        click.echo(json.dumps({"streams": streams, "put_away": away}))
        return
    click.echo(f"{streams} stream{'' if streams == 1 else 's'} will be applied again. `daybook deadletter list` tells.")
    if away:
        click.echo(f"{away} letter{'' if away == 1 else 's'} about what is no event put away.")


async def _letters(settings: Settings, model: str | None) -> Sequence[Letter]:
    # What goes wrong is said once, by us.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    from aiokafka.errors import KafkaError  # type: ignore[import-untyped] # noqa: PLC0415 - help must not wait for it

    from infra.kafka.connections import Brokers  # noqa: PLC0415
    from infra.kafka.letters import KafkaLetters  # noqa: PLC0415
    from infra.kafka.topics import Topics  # noqa: PLC0415

    try:
        async with KafkaLetters(Brokers.of(settings), Topics.of(settings)) as box:
            found = await box.all()
    except (KafkaError, OSError, TimeoutError) as error:
        raise NotRunning(f"Kafka does not answer ({type(error).__name__}).") from error
    return [letter for letter in found.values() if model in (None, letter.model)]


async def _retried(settings: Settings, model: str | None, stream: str | None) -> tuple[int, int]:
    from aiokafka.errors import KafkaError  # noqa: PLC0415

    from infra.kafka.connections import Brokers  # noqa: PLC0415
    from infra.kafka.letters import KafkaLetters  # noqa: PLC0415
    from infra.kafka.topics import Topics  # noqa: PLC0415
    from streams.deadletters import Retry  # noqa: PLC0415

    letters = await _letters(settings, model)
    events = [letter for letter in letters if letter.is_event]
    if stream is not None:
        events = [letter for letter in events if f"{letter.organization}/{letter.stream}" == stream]
    retries = list(dict.fromkeys(Retry(letter.model, letter.organization, letter.stream) for letter in events))
    away = [letter.key for letter in letters if not letter.is_event and stream is None]
    try:
        async with KafkaLetters(Brokers.of(settings), Topics.of(settings)) as box:
            await box.ask(retries)
            await box.settle(away)
    except (KafkaError, OSError, TimeoutError) as error:
        raise NotRunning(f"Kafka does not answer ({type(error).__name__}).") from error
    return len(retries), len(away)
