"""Puts a table's visits into the book. In: a table that was read, and a desk. Out: events, and what became of the rows.

One command a batch, all of one clinic, in the order in which the visits were booked. Ids come from the table's own, and
a batch's key from its content: what was saved before a kill, or in a run with other batches, is found and left alone.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time
from functools import partial
from typing import Final, TypeVar

from commands.history import OpenClinic, PastVisit, RecordPastVisits
from commands.loop import Answer, Busy, Desk
from domain.access import Actor, Role
from domain.ports import LogUnavailable
from domain.time import DAY
from infra.no_shows.clinics import clinic, instant_at, name_of
from infra.no_shows.table import Row, Skipped, Table

T = TypeVar("T")

ACTOR: Final = Actor("import:no-shows", Role.SYSTEM)
PURPOSE: Final = "import of past visits"
BATCH: Final = 500

# The table says that a message was sent, not when. The morning before the visit is when such messages leave.
_MESSAGE_AHEAD: Final = DAY
_MESSAGE_AT: Final = time(10)

_GIVE_UP_AFTER: Final = 120.0
_LONGEST_PAUSE: Final = 5.0


@dataclass(slots=True)
class Outcome:
    """What became of the rows that are right. `known` stood in the book before; `refused` found no place in it.

    `position` is where the last event of the import stands in the log."""

    clinics: int = 0
    providers: int = 0
    recorded: int = 0
    known: int = 0
    refused: list[Skipped] = field(default_factory=list)
    refused_appointments: set[str] = field(default_factory=set)
    position: int = 0


async def put_into_book(
    table: Table,
    desk: Desk,
    organization: str,
    *,
    batch: int = BATCH,
    at_once: int = 3,
    progress: Callable[[int], None] = lambda rows: None,
) -> Outcome:
    """Record every row that is right. `at_once` clinics are under way together, so that one's visits are decided while
    another's are being saved. `progress` hears of rows done. Raises `LogUnavailable` or `Busy` when the log stays out
    of reach, and `Refusal` where nothing at all can be written under this organization's name.
    """
    outcome = Outcome()
    # The largest first, so that none is left over for a lone end.
    waiting = sorted(table.neighbourhoods.items(), key=lambda item: len(item[1]))

    async def work() -> None:
        while waiting:
            await _one_clinic(*waiting.pop(), desk, organization, batch, outcome, progress)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(work())
    except ExceptionGroup as several:
        # One cause, met by each that was under way.
        raise several.exceptions[0] from None
    outcome.refused.sort(key=lambda one: one.line)
    return outcome


async def _one_clinic(
    neighbourhood: str,
    rows: Sequence[Row],
    desk: Desk,
    organization: str,
    batch: int,
    outcome: Outcome,
    progress: Callable[[int], None],
) -> None:
    opened = clinic(neighbourhood, rows)
    await _patiently(partial(desk.handle, opened, ACTOR, organization, purpose=PURPOSE))
    outcome.clinics += 1
    outcome.providers += len(opened.providers)
    in_order = sorted(rows, key=lambda row: (row.scheduled, row.line))
    # After a kill the first batches are there, and need not be decided again to find that out.
    begun = True
    for start in range(0, len(in_order), batch):
        part = in_order[start : start + batch]
        command = _recorded(opened, part)
        key = _key(command)
        answer = await _patiently(partial(desk.answered, command, ACTOR, organization, key)) if begun else None
        if answer is None:
            begun = False
            answer = await _patiently(partial(desk.handle, command, ACTOR, organization, key=key, purpose=PURPOSE))
        _tell(outcome, answer, part, command)
        progress(len(part))


def _recorded(opened: OpenClinic, rows: Sequence[Row]) -> RecordPastVisits:
    return RecordPastVisits(
        location_id=opened.location.id,
        visit_type_id=opened.visit_type.id,
        providers=tuple(one.provider_id for one in opened.providers),
        visits=tuple(_visits(rows)),
    )


def _visits(rows: Sequence[Row]) -> Iterator[PastVisit]:
    for row in rows:
        booked_at = instant_at(row.scheduled)
        reminded_at = None
        if row.message_sent:
            reminded_at = max(booked_at, instant_at(datetime.combine(row.day - _MESSAGE_AHEAD, _MESSAGE_AT)))
        yield PastVisit(
            appointment_id=name_of("appointment", row.appointment),
            patient_id=name_of("patient", row.patient),
            booked_at=booked_at,
            day=row.day,
            came=row.came,
            reminded_at=reminded_at,
            reference=row.patient,
            background=row.about_the_patient(),
        )


def _key(command: RecordPastVisits) -> str:
    """By content, so that a batch of another cut, or of a later version of this programme, is another command."""
    return "no-shows/" + hashlib.sha256(command.model_dump_json().encode()).hexdigest()


def _tell(outcome: Outcome, answer: Answer, rows: Sequence[Row], command: RecordPastVisits) -> None:
    told = answer.content
    if answer.replayed:
        outcome.known += told["recorded"] + told["known"]
    else:
        outcome.recorded += told["recorded"]
        outcome.known += told["known"]
    outcome.position = max(outcome.position, answer.position)
    if told["refused"]:
        by_id = {str(visit.appointment_id): row for visit, row in zip(command.visits, rows, strict=True)}
        for one in told["refused"]:
            row = by_id[one["appointment_id"]]
            outcome.refused.append(Skipped(row.line, one["code"]))
            outcome.refused_appointments.add(row.appointment)


async def _patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask again while the log is out of reach. A save that was made nevertheless is found by its key."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + _GIVE_UP_AFTER
    pause = 0.1
    while True:
        try:
            return await ask()
        except (LogUnavailable, Busy):
            if loop.time() + pause > give_up:
                raise
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
