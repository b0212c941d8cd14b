"""`daybook projections`: see how far the read models are, and fill them anew from the log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click

from domain.ports import UnreadableEvent
from infra.cli._options import data_option, json_option
from infra.cli._progress import watch
from infra.control import Progress, Result, ask, result
from infra.embedded.data_folder import DataFolder
from infra.settings import MODELS, Settings
from infra.troubles import NotRunning, Trouble


@click.group("projections")
def command() -> None:
    """See how far the read models are, and fill them anew from the log.

    diary, free_time and people are in Redis, facts in ClickHouse, the directory in a search index. A running Daybook
    does the work; where none runs, what is needed is started.
    """


@command.command("status")
@data_option
@json_option
def status_command(data: Path | None, as_json: bool) -> None:
    """Say of each read model what it is doing and how far it is.

    `waiting` tries again by itself; `failed` stands before an event that it can't take, and needs a rebuild. Exit code
    1 when a model has failed. In the full stack workers fill the models, which are `level` with the log or `behind`;
    what a worker could not take is in `daybook deadletter list`.
    """
    settings = Settings.load(data=data)
    try:
        found = result(_running(settings), "projections")["models"]
    except NotRunning:
        found = next(step for step in _alone(settings, _look) if isinstance(step, Result))["models"]
    if as_json:
        click.echo(json.dumps({"models": found}))
    else:
        for one in found:
            trouble = f"  {one['error']} at {one['failed_at']}" if one["failed_at"] else f"  {one['error'] or ''}"
            rebuilding = "  rebuilding" if one["rebuilding"] else ""
            click.echo(
                f"{one['model']:<10} {one['state']:<10} at {one['position']:,} of {one['head']:,}{rebuilding}{trouble}"
            )
    if any(one["state"] == "failed" for one in found):
        raise click.exceptions.Exit(1)


@command.command("rebuild")
@click.option(
    "--model", "wanted", multiple=True, type=click.Choice(MODELS), help="Only this one; may be given again. [all]"
)
@data_option
@json_option
def rebuild_command(wanted: tuple[str, ...], data: Path | None, as_json: bool) -> None:
    """Fill read models anew from the first event. The old rows serve until the new ones are whole."""
    settings = Settings.load(data=data)
    done = []
    for model in wanted or MODELS:
        ended = rebuilt_model(settings, model)
        done.append(ended)
        if not as_json:
            click.echo(f"{model:<10} rebuilt, at {ended['position']:,}")
    if as_json:
        click.echo(json.dumps({"rebuilt": done}))


def rebuilt_model(settings: Settings, model: str) -> dict[str, Any]:
    """Fill one read model anew, by the server that runs or in this process. Raises `Trouble`."""
    try:
        return dict(watch(ask(_running(settings), "rebuild", model=model), f"rebuilding {model}"))
    except NotRunning:
        return dict(watch(_alone(settings, _rebuild, model), f"rebuilding {model}"))


def _running(settings: Settings) -> DataFolder:
    """Where the server may run that does the work. Raises `NotRunning` in the full stack, where anybody may."""
    if settings.stack == "full":
        raise NotRunning("The full stack has no one server.")
    if not settings.data.exists():
        raise Trouble(f"There is no data at {settings.data.absolute()} yet. Start Daybook with `daybook serve`.")
    return DataFolder.open(settings.data)


def _alone(settings: Settings, job: Any, *arguments: Any) -> Iterator[Progress | Result]:
    """Do a job in this process; yields what it yields. Embedded servers are started for it."""
    from infra.installation import opened  # noqa: PLC0415 - help must not wait for it

    needs = ("redis_url", "clickhouse_url", "elasticsearch_url")
    with opened(settings, *needs, claim="projections") as place, asyncio.Runner() as runner:
        steps = job(place, *arguments)

        async def next_step() -> Progress | Result | None:
            step: Progress | Result | None = await anext(steps, None)
            return step

        try:
            while (step := runner.run(next_step())) is not None:
                yield step
        finally:
            runner.run(steps.aclose())


async def _look(place: Any) -> AsyncIterator[Progress | Result]:
    from infra.desk import log_on  # noqa: PLC0415
    from infra.read_models import models_on  # noqa: PLC0415

    async with log_on(place) as log, models_on(place) as models:
        head = await log.head()
        found = [
            {
                "model": model.name,
                "state": _state(place, head - position),
                "position": position,
                "head": head,
                "lag": max(0, head - position),
                "error": None,
                "failed_at": None,
                "events_per_second": 0.0,
                "rebuilding": False,
            }
            for model in models.all
            for position in [await model.position()]
        ]
    yield Result(models=found)


def _state(place: Any, lag: int) -> str:
    if place.settings.stack != "full":
        return "stopped"
    return "behind" if lag > 0 else "level"


async def _rebuild(place: Any, name: str) -> AsyncIterator[Progress | Result]:
    from infra.desk import log_on  # noqa: PLC0415
    from infra.garbage import few_collections  # noqa: PLC0415
    from infra.read_models import models_on  # noqa: PLC0415
    from projections.model import Poison  # noqa: PLC0415
    from streams.follower import GRACE, Follower, rebuilt, told  # noqa: PLC0415

    async with (
        _alone_with(place, name),
        log_on(place) as log,
        models_on(place, clock=log.clock) as models,
        # The directory is made from the free time, which nobody else fills where one process does everything.
        Follower(log, [models.free_time] if name == "directory" and place.settings.stack == "embedded" else []),
    ):
        model = models[name]
        with few_collections():
            # Elsewhere APIs and workers may still be at the old rows.
            grace = GRACE if place.settings.stack == "full" else 0.0
            try:
                async for step in told(lambda progress: rebuilt(log, model, progress, grace=grace)):
                    if isinstance(step, tuple):
                        yield {"what": f"rebuilding {name}", "done": step[0], "total": step[1]}
                    else:
                        yield Result(model=name, position=step)
            except (Poison, UnreadableEvent) as error:
                raise Trouble(
                    f"{name} can't be filled past position {error.position}, {error.name} ({type(error).__name__}). "
                    "The old rows go on serving. See the event: "
                    f"daybook log show --after {error.position - 1} --limit 1"
                ) from error


@asynccontextmanager
async def _alone_with(place: Any, name: str) -> AsyncIterator[None]:
    """Be the only one who rebuilds a model: two would take each other's new rows for leftovers."""
    from infra.event_log.lease import Lease  # noqa: PLC0415

    lease = Lease.named(place.postgres, f"rebuild {name}")
    if not await lease.take():
        raise Trouble(f"Another process is rebuilding {name}. Try again when it has ended.")
    try:
        yield
    finally:
        await lease.let_go()
