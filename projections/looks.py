"""Who looked at a patient's record, and what of it went outside: asked of the log itself, since the names of a
patient's looks are in order of time and no other model knows more.

In: a log and a patient. Out: looks, newest first; an accounting of disclosures (45 CFR 164.528), oldest first.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Final
from uuid import UUID

from domain import disclosure, look
from domain.disclosure import DisclosureRecorded, Kind
from domain.events import Erased
from domain.look import RecordSeen, Screen
from domain.ports import EventLog, Recorded

# So many looks are read and opened at once: some ten milliseconds of work.
_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class Seen:
    """A look, with what stands beside it in the log."""

    recorded: Recorded
    look: RecordSeen

    @property
    def id(self) -> UUID:
        return _id(self.recorded.stream)


@dataclass(frozen=True, slots=True)
class Disclosed:
    """A line of an accounting. `recipient` is the id of who looked (`by_look`), or what was written down by hand; None
    where those words were erased. `what` says it in plain English."""

    at: datetime
    kind: Kind
    recipient: str | None
    address: str | None
    what: str | None
    why: str | None
    client_id: str | None = None
    resource_id: UUID | None = None
    by_look: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """Up to where an accounting was told: the last look, and how many of the disclosures that were written down."""

    look: UUID | None = None
    written: int = 0


def years_before(instant: datetime) -> datetime:
    """Where an accounting begins that is asked for at this instant."""
    return instant - disclosure.REACHES_BACK


async def newest(
    log: EventLog, organization: str, patient_id: UUID, *, before: UUID | None, limit: int
) -> tuple[Sequence[Seen], UUID | None]:
    """Looks before the one named, newest first, and the last one's id where there are more. Raises `LogUnavailable`."""
    first, last = look.streams_of(patient_id)
    if before is not None:
        last = look.stream(patient_id, UUID(int=before.int - 1))
    names = await log.streams(organization, first, last, limit=limit + 1, backwards=True)
    found = await _load(log, organization, names[:limit])
    return found, found[-1].id if len(names) > limit else None


async def every(
    log: EventLog, organization: str, patient_id: UUID, *, upto: int | None = None
) -> AsyncIterator[Sequence[Seen]]:
    """All looks up to a position, newest first, some hundreds at a time: in between others have their turn. Raises
    `LogUnavailable`."""
    first, last = look.streams_of(patient_id)
    while True:
        names = await log.streams(organization, first, last, limit=_PAGE, backwards=True)
        yield await _load(log, organization, names, upto)
        if len(names) < _PAGE:
            break
        last = look.stream(patient_id, UUID(int=_id(names[-1]).int - 1))


async def accounting(
    log: EventLog, organization: str, patient_id: UUID, first: datetime, last: datetime
) -> Sequence[Disclosed]:
    """Everything between two instants, the last one excluded, by when it was true. Raises `LogUnavailable`."""
    upto = await log.head()
    lines = list(await written_down(log, organization, patient_id, first, last, upto=upto))
    async for some in _between(log, organization, patient_id, first, last, upto=upto):
        lines += map(_of_look, some)
    return sorted(lines, key=lambda line: line.at)


async def accounting_page(
    log: EventLog,
    organization: str,
    patient_id: UUID,
    first: datetime,
    last: datetime,
    *,
    upto: int,
    after: Place,
    limit: int,
) -> tuple[Sequence[Disclosed], Place | None]:
    """The next lines of the accounting as it stood at a position, and where it goes on, if it does. The pages together
    are all of it, without a gap and nothing twice, whatever is added meanwhile. Raises `LogUnavailable`."""
    seen: list[Seen] = []
    async for some in _between(
        log, organization, patient_id, first, last, upto=upto, after=after.look, at_once=limit + 1
    ):
        seen += some
        if len(seen) > limit:
            break
    written = (await written_down(log, organization, patient_id, first, last, upto=upto))[after.written :]
    lines = heapq.merge(map(_of_look, seen), written, key=lambda line: line.at)
    found = list(islice(lines, limit))
    if len(seen) + len(written) <= limit:
        return found, None
    looks = sum(line.by_look for line in found)
    return found, Place(seen[looks - 1].id if looks else after.look, after.written + len(found) - looks)


async def written_down(
    log: EventLog, organization: str, patient_id: UUID, first: datetime, last: datetime, *, upto: int | None = None
) -> Sequence[Disclosed]:
    """What went out by other means than the book's own, between two instants, the last one excluded; by time. Raises
    `LogUnavailable`."""
    stream = disclosure.stream(patient_id)
    lines = [
        _of_disclosure(recorded.event, recorded.occurred_at)
        for recorded in (await log.load(organization, {stream: 0}, upto=upto))[stream]
        if isinstance(recorded.event, DisclosureRecorded)
    ]
    return sorted((line for line in lines if first <= line.at < last), key=lambda line: line.at)


async def _between(
    log: EventLog,
    organization: str,
    patient_id: UUID,
    first: datetime,
    last: datetime,
    *,
    upto: int,
    after: UUID | None = None,
    at_once: int = _PAGE,
) -> AsyncIterator[list[Seen]]:
    """Looks that were true between two instants, in the order of their ids, some at a time."""
    begin, end = look.streams_of(patient_id, first, last)
    if after is not None:
        begin = look.stream(patient_id, UUID(int=after.int + 1))
    while True:
        names = await log.streams(organization, begin, end, limit=at_once)
        found = await _load(log, organization, names, upto)
        yield [seen for seen in found if first <= seen.recorded.occurred_at < last]
        if len(names) < at_once:
            break
        begin = look.stream(patient_id, UUID(int=_id(names[-1]).int + 1))


async def _load(log: EventLog, organization: str, names: Sequence[str], upto: int | None = None) -> list[Seen]:
    found = await log.load(organization, dict.fromkeys(names, 0), upto=upto)
    return [
        Seen(recorded, recorded.event)
        for name in names
        for recorded in found[name]
        if isinstance(recorded.event, RecordSeen)
    ]


def _id(name: str) -> UUID:
    return UUID(name.rpartition("/")[2])


def _of_look(seen: Seen) -> Disclosed:
    return Disclosed(
        at=seen.recorded.occurred_at,
        kind=disclosure.kind_of_look(seen.look, seen.recorded.purpose),
        recipient=seen.recorded.actor,
        address=None,
        what=said(seen.look.screen),
        why=seen.recorded.purpose,
        client_id=seen.look.client_id,
        resource_id=seen.look.resource_id,
        by_look=True,
    )


def _of_disclosure(event: DisclosureRecorded, at: datetime) -> Disclosed:
    def opened(words: str | Erased | None) -> str | None:
        return None if isinstance(words, Erased) else words

    return Disclosed(
        at=at,
        kind=disclosure.kind_of_disclosure(event),
        recipient=opened(event.recipient),
        address=opened(event.address),
        what=opened(event.what),
        why=opened(event.why),
    )


def said(screen: Screen) -> str:
    """A screen in plain English."""
    return _SCREENS[screen]


_SCREENS = {
    Screen.APPOINTMENT: "an appointment",
    Screen.APPOINTMENTS: "the list of appointments",
    Screen.PROVIDER_DAY: "a visit in a provider's day",
    Screen.PROVIDER_WEEK: "a visit in a provider's week",
    Screen.PAGE: "the times that are taken on a day",
    Screen.FREE_TIMES: "free times beside the visits",
    Screen.PATIENT: "who the patient is",
    Screen.PATIENT_SEARCH: "the patient in a search",
    Screen.PRIVATE_WORDS: "the words of an appointment",
    Screen.CONSENTS: "the consents",
    Screen.PROXIES: "who stands for the patient",
    Screen.GLASS: "why the glass was broken",
    Screen.PERSONAL_EXPORT: "a copy of all data",
    Screen.LOOKS: "who looked at the record",
    Screen.DISCLOSURES: "the accounting of disclosures",
    Screen.SUSPICIOUS: "a report of suspicious looks",
    Screen.LOG: "the event log with its seals open",
    Screen.LOG_EXPORT: "an export of the event log",
}
