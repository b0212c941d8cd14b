"""Who looked at a patient's record, and what of it went outside: asked of the log itself, since the names of a
patient's looks are in order of time and no other model knows more.

In: a log and a patient. Out: looks, newest first; an accounting of disclosures (45 CFR 164.528), oldest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from domain import disclosure, look
from domain.disclosure import DisclosureRecorded, Kind
from domain.events import Erased
from domain.look import RecordSeen, Screen
from domain.ports import EventLog, Recorded

_PAGE = 500


@dataclass(frozen=True, slots=True)
class Seen:
    """A look, with what stands beside it in the log."""

    recorded: Recorded
    look: RecordSeen

    @property
    def id(self) -> UUID:
        return UUID(self.recorded.stream.rpartition("/")[2])


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


def years_before(instant: datetime) -> datetime:
    """Where an accounting begins that is asked for at this instant."""
    return instant - disclosure.REACHES_BACK


async def newest(
    log: EventLog, organization: str, patient_id: UUID, *, before: UUID | None, limit: int
) -> tuple[Sequence[Seen], UUID | None]:
    """Looks before the one named, newest first, and the last one's id where there are more."""
    first, last = look.streams_of(patient_id)
    names = await log.streams(organization, first, last if before is None else look.stream(patient_id, before))
    if before is not None and names and names[-1] == look.stream(patient_id, before):
        names = names[:-1]
    found = await _load(log, organization, names[::-1][:limit])
    return found, found[-1].id if len(names) > limit else None


async def accounting(
    log: EventLog, organization: str, patient_id: UUID, first: datetime, last: datetime
) -> Sequence[Disclosed]:
    """Everything between two instants, the last one excluded, by when it was true. Raises `LogUnavailable`."""
    names = await log.streams(organization, *look.streams_of(patient_id))
    lines: list[Disclosed] = []
    for start in range(0, len(names), _PAGE):
        lines += [_of_look(seen) for seen in await _load(log, organization, names[start : start + _PAGE])]
    stream = disclosure.stream(patient_id)
    for recorded in (await log.load(organization, {stream: 0}))[stream]:
        if isinstance(recorded.event, DisclosureRecorded):
            lines.append(_of_disclosure(recorded.event, recorded.occurred_at))
    return sorted((line for line in lines if first <= line.at < last), key=lambda line: line.at)


async def _load(log: EventLog, organization: str, names: Sequence[str]) -> list[Seen]:
    found = await log.load(organization, dict.fromkeys(names, 0))
    return [
        Seen(recorded, recorded.event)
        for name in names
        for recorded in found[name]
        if isinstance(recorded.event, RecordSeen)
    ]


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
    Screen.PATIENT_SEARCH: "a find among patients",
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
