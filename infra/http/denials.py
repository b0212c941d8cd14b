"""Refused requests, written into the log now and then (45 CFR 164.312(b)). In: each answer that turned somebody away.
Out: an event for all that are alike.

What is noted costs a look into memory and no request waits for it. How much is written is bounded however many knock,
from however many addresses: what no longer fits is counted without its operation, then without its address, and only
past a second bound without who it was. A process that is killed loses what it noted since it last wrote.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime
from types import TracebackType
from typing import Final, Self

from starlette.types import Scope

from domain.denial import STRANGER, AccessRefused, strangers, stream
from domain.ports import Clock, Context, EventLog, Ids, LogError, NewEvent, Save
from infra.http.address import client_address
from infra.http.tokens import CALLER, Caller

# In the scope of a request without an access token: the account that it showed to be its own all the same.
NAMED: Final = "daybook.named"
EVERY: Final = 30.0
MOST: Final = 50
MOST_OF_ONE: Final = 5
MOST_KNOWN: Final = 200

_log = logging.getLogger("daybook.http")


@dataclass(frozen=True, slots=True)
class _Alike:
    organization: str
    actor: str
    whose: str | None
    code: str
    operation: str
    address: str | None


@dataclass(slots=True)
class _Noted:
    times: int
    first_at: datetime
    last_at: datetime


class Denials:
    """`organization` is that of strangers, whose own nobody knows. Writes `every` so many seconds, and at its end: at
    most `most` events that tell an address, of them `most_of_one` operations of one, and one more for each code."""

    def __init__(
        self,
        log: EventLog,
        clock: Clock,
        ids: Ids,
        organization: str,
        *,
        every: float = EVERY,
        most: int = MOST,
        most_of_one: int = MOST_OF_ONE,
    ) -> None:
        self._log = log
        self._clock = clock
        self._ids = ids
        self._organization = organization
        self._every = every
        self._most = most
        self._most_of_one = most_of_one
        self._noted: dict[_Alike, _Noted] = {}
        self._of_one: Counter[str] = Counter()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._now_and_then())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self.write()

    def note(self, scope: Scope, code: str) -> None:
        """Neither waits nor raises."""
        caller: Caller | None = scope.get(CALLER)
        operation = getattr(scope.get("route"), "name", "")
        organization, actor, whose = self._organization, STRANGER, scope.get(NAMED)
        if caller is not None:
            organization, actor = caller.organization, caller.actor.id
            whose = caller.actor.account_id or caller.actor.patient_id or caller.actor.id
        now, address = self._clock.now(), client_address(scope)
        alike = _Alike(organization, actor, None if whose is None else str(whose), code, operation, address)
        self._add(alike, _Noted(1, now, now))

    def _add(self, alike: _Alike, found: _Noted) -> None:
        anywhere = replace(alike, operation="", address=None)
        of_all = _Alike(self._organization, STRANGER, None, alike.code, "", None)
        # Whoever is known stays known, however many knock from the same address.
        for kind in (alike, replace(alike, operation=""), *((anywhere,) if alike.whose else ()), of_all):
            if (noted := self._noted.get(kind)) is not None:
                noted.times += found.times
                noted.first_at = min(noted.first_at, found.first_at)
                noted.last_at = max(noted.last_at, found.last_at)
                return
            if self._has_room(kind):
                self._noted[kind] = found
                self._of_one[kind.address or ""] += 1
                return

    def _has_room(self, alike: _Alike) -> bool:
        """The last kind always has: there is one for each code, and codes are ours and few."""
        if alike.address is None:
            return alike.whose is None or self._of_one[""] < MOST_KNOWN
        several = alike.operation == ""
        return len(self._noted) < self._most and self._of_one[alike.address] < self._most_of_one + several

    async def write(self) -> None:
        """Write what was noted. What the log can't take now is tried again next time."""
        noted, self._noted, self._of_one = self._noted, {}, Counter()
        by_organization: dict[str, list[tuple[_Alike, _Noted]]] = {}
        for alike, found in noted.items():
            by_organization.setdefault(f"{alike.organization}\0{alike.actor}", []).append((alike, found))
        for some in by_organization.values():
            try:
                await self._log.append(self._save(some))
            except LogError as error:
                _log.warning("refused requests could not be written: %s", type(error).__name__)
                for alike, found in some:
                    self._add(alike, found)

    def _save(self, some: list[tuple[_Alike, _Noted]]) -> Save:
        """All of one actor."""
        command_id = self._ids.new()
        events = []
        for alike, found in some:
            denial_id = self._ids.new()
            refused = AccessRefused(
                whose=alike.whose or strangers(found.last_at),
                code=alike.code,
                operation=alike.operation,
                times=found.times,
                first_at=found.first_at,
                last_at=found.last_at,
                address=alike.address,
            )
            events.append(NewEvent(stream(denial_id), refused, found.last_at, denial_id))
        context = Context(some[0][0].organization, some[0][0].actor, command_id, command_id)
        return Save(context, {event.stream: 0 for event in events}, events)

    async def _now_and_then(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            await self.write()
