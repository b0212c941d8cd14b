"""Fills the read models in a process of its own, for a command that writes much while no server runs.

In: the embedded servers of a data folder that the command holds. Out: models that are as far as the log, and answers to
questions about them. The other process has the ClickHouse engine meanwhile; it ends with the one that started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import signal
import time
from collections.abc import AsyncIterator, Callable
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

import uvloop

from domain.ports import EventLog
from infra import logs
from infra.control import Progress, Result, result
from infra.desk import log_on
from infra.embedded.clickhouse import ClickHouse
from infra.embedded.data_folder import DataFolder
from infra.garbage import few_collections
from infra.installation import Installation
from infra.read_models import models_on
from infra.settings import Settings
from infra.troubles import CannotStart, Trouble
from infra.turns import short_turns
from projections.facts import Facts
from streams.follower import Follower, State

_TELL_EVERY: Final = 0.25
_END_WITHIN: Final = 60.0
_CAUGHT_UP_WITHIN: Final = 600.0
# How long one that was killed may need to let the engine go: a batch under way is finished first.
_ENGINE_WITHIN: Final = 30.0


class FillingFailed(Trouble):
    """The read models can't be filled now. The log has everything; they can be rebuilt from it."""


async def counted(facts: Facts, organization: str, first: date, last: date) -> dict[str, Any]:
    """Visits and no-shows on the local days from `first` to `last`, both included, and how many had a message:
    `by_weekday` by 1 (Monday) to 7, `by_lead` by the first day of a band; each [key, visits, no-shows]."""
    weekdays = await facts.by_weekday(organization, first, last)
    leads = await facts.by_lead_time(organization, first, last)
    return {
        "by_weekday": [[one.key, one.visits, one.no_shows] for one in weekdays],
        "by_lead": [[one.key, one.visits, one.no_shows] for one in leads],
        "messages": sum(one.with_message for one in weekdays),
    }


def counting(facts: Facts) -> Callable[..., AsyncIterator[Progress | Result]]:
    """The same as a job of a running server, under the name `counted`: it waits until the facts stand at `position`."""

    async def job(organization: str, first: str, last: str, position: int) -> AsyncIterator[Progress | Result]:
        if not await facts.wait_until(position, _CAUGHT_UP_WITHIN):
            raise FillingFailed("The running Daybook's read models do not catch up; `daybook status` says more.")
        yield Result(await counted(facts, organization, date.fromisoformat(first), date.fromisoformat(last)))

    return job


class Filler(Protocol):
    """Whoever fills the read models, seen from a command that waits for them."""

    def catch_up(self, position: int, progress: Callable[[int], None] = ...) -> None:
        """Wait until every model stands at `position`; `progress` hears where the slowest does. Raises
        `FillingFailed`."""

    def counted(self, organization: str, first: date, last: date) -> dict[str, Any]:
        """See the function of that name."""


class RunningServer:
    """A Daybook that runs on the same data. It fills by itself, and waits when it is asked to count."""

    def __init__(self, folder: DataFolder) -> None:
        self._folder = folder
        self._position = 0

    def catch_up(self, position: int, progress: Callable[[int], None] = lambda position: None) -> None:
        self._position = position

    def counted(self, organization: str, first: date, last: date) -> dict[str, Any]:
        """Raises `Trouble` where it runs no more."""
        days = {"first": first.isoformat(), "last": last.isoformat()}
        return dict(result(self._folder, "counted", organization=organization, **days, position=self._position))


class Workers:
    """The full stack's workers, which fill by themselves."""

    def __init__(self, place: Installation) -> None:
        self._place = place

    def catch_up(self, position: int, progress: Callable[[int], None] = lambda position: None) -> None:
        asyncio.run(self._catch_up(position, progress))

    async def _catch_up(self, position: int, progress: Callable[[int], None]) -> None:
        give_up = time.monotonic() + _CAUGHT_UP_WITHIN
        async with models_on(self._place) as models:
            while (reached := min([await model.position() for model in models.all])) < position:
                if time.monotonic() > give_up:
                    raise FillingFailed("The workers do not catch up; `daybook projections status` says more.")
                progress(reached)
                await asyncio.sleep(_TELL_EVERY)
        progress(position)

    def counted(self, organization: str, first: date, last: date) -> dict[str, Any]:
        async def ask() -> dict[str, Any]:
            async with models_on(self._place, ("facts",)) as models:
                return await counted(models.facts, organization, first, last)

        return asyncio.run(ask())


class Filling:
    """A `Filler` in a process of its own. A context manager around it."""

    def __init__(self, folder: DataFolder) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_fill, args=(folder.path, theirs), name="daybook filling", daemon=True)
        self._theirs = theirs

    def __enter__(self) -> Self:
        self._process.start()
        self._theirs.close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # It ends when it hears nothing more; a batch under way is finished first.
        self._ours.close()
        self._process.join(_END_WITHIN)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def catch_up(self, position: int, progress: Callable[[int], None] = lambda position: None) -> None:
        self._ask("catch_up", position)
        while (reached := self._answer()) < position:
            progress(reached)
        progress(position)

    def counted(self, organization: str, first: date, last: date) -> dict[str, Any]:
        self._ask("counted", organization, first, last)
        answer: dict[str, Any] = self._answer()
        return answer

    def _ask(self, *question: Any) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._ours.send(question)

    def _answer(self) -> Any:
        try:
            answer = self._ours.recv()
        except (EOFError, ConnectionError):
            raise FillingFailed("The process that fills the read models ended unforeseen.") from None
        if isinstance(answer, FillingFailed):
            raise answer
        return answer


def _fill(path: Path, connection: Connection) -> None:
    # Ctrl-C at a terminal reaches every process; the command decides what comes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logs.set_up("filling", level="error", form="console")
    with few_collections(), short_turns(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(DataFolder.open(path), connection))


async def _serve(folder: DataFolder, connection: Connection) -> None:
    place = Installation.of_folder(Settings(data=folder.path), folder, await _engine(folder))
    async with (
        log_on(place) as log,
        models_on(place, clock=log.clock) as models,
        Follower(log, models.all) as follower,
    ):
        while True:
            try:
                name, *arguments = await asyncio.to_thread(connection.recv)
            except (EOFError, ConnectionError):
                return
            try:
                if name == "catch_up":
                    await _catch_up(follower, log, connection, *arguments)
                else:
                    connection.send(await counted(models.facts, *arguments))
            except FillingFailed as failed:
                connection.send(failed)


async def _engine(folder: DataFolder) -> ClickHouse:
    give_up = time.monotonic() + _ENGINE_WITHIN
    while True:
        engine = ClickHouse(folder.clickhouse)
        try:
            await asyncio.to_thread(engine.connect)
        except CannotStart:
            if time.monotonic() > give_up:
                raise
            await asyncio.sleep(_TELL_EVERY)
        else:
            return engine


async def _catch_up(follower: Follower, log: EventLog, connection: Connection, position: int) -> None:
    while True:
        states = await follower.status()
        if stuck := next((one for one in states if one.state is State.FAILED), None):
            raise FillingFailed(f"The read model {stuck.model} can't take position {stuck.failed_at} ({stuck.error}).")
        reached = min(one.position for one in states)
        connection.send(reached)
        if reached >= position:
            return
        await asyncio.sleep(_TELL_EVERY)
