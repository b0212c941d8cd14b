"""A question on its way to the read models and its answer on the way back, the same for every route.

In: who asks, from when on (`Read-After`), and as of when. Out: JSON with the position that it stands for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Annotated, Any, Protocol
from uuid import UUID

from fastapi import Depends, Request
from opentelemetry.trace import get_current_span
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from domain import access, patient
from domain.access import PLAIN, POLICY, Actor, Reach, Standing, Whose
from domain.availability import Page
from domain.inquiry import Inquiries
from domain.look import Screen
from domain.ports import Clock, EventLog
from domain.provider import Provider
from domain.purpose import Purpose
from domain.refusals import Unknown
from domain.resource import Resource
from domain.slots import Diary, Wish
from domain.time import Period
from infra.http.correlation import correlate, correlated
from infra.http.cursors import Cursors
from infra.http.edge import add_header
from infra.http.positions import Positions
from infra.http.problems import InvalidParameter, Refused
from infra.http.purposes import purpose_of
from infra.http.tokens import Asker, Caller
from projections.as_of import AsOf
from projections.diary import AppointmentDiary, AppointmentPage, AppointmentRow, HistoryLine
from projections.directory import Directory
from projections.documents import Kept
from projections.facts import Facts
from projections.free_time import FreeTime
from projections.model import Model
from projections.people import People
from read_api.access import reached
from read_api.trail import Look, Trail


class NotCaughtUp(Refused):
    """The read model has not come as far as `Read-After` asks, within the bound."""

    code = "not_caught_up"
    status = 503


@dataclass(frozen=True, slots=True)
class Library:
    """What every route needs of the outside. `patience` is how many seconds a `Read-After` waits at most; `trail`
    writes down who is shown what of whom. `inquiry` is the turn of whoever asks for months of the log at once: one at a
    time, so that they take no connections from bookings."""

    diary: AppointmentDiary
    free_time: FreeTime
    facts: Facts | None
    log: EventLog
    clock: Clock
    positions: Positions
    cursors: Cursors
    people: People
    inquiries: Inquiries
    patience: float = 2.0
    directory: Directory | None = None
    trail: Trail | None = None
    inquiry: asyncio.Lock = field(default_factory=asyncio.Lock)


class Book(Protocol):
    """One organization's book, as it stands or as it stood. `now` is the instant that it is looked at from."""

    position: int
    now: datetime

    async def appointment(self, appointment_id: UUID) -> AppointmentRow | None: ...

    async def history(self, appointment_id: UUID) -> Sequence[HistoryLine]: ...

    async def of_provider(self, provider_id: UUID, within: Period) -> Sequence[AppointmentRow]: ...

    async def of_patient(
        self,
        patient_id: UUID,
        *,
        after: tuple[datetime, UUID] | None = None,
        limit: int = 50,
        newest_first: bool = False,
    ) -> AppointmentPage: ...

    async def provider(self, provider_id: UUID) -> Kept[Provider] | None: ...

    async def resource(self, resource_id: UUID) -> Kept[Resource] | None: ...

    async def page(self, resource_id: UUID, day: date) -> Kept[Page]: ...

    async def diaries(self, wishes: Mapping[UUID, Wish], first: date, last: date) -> Mapping[UUID, Diary]: ...

    async def diary_at(self, provider_id: UUID, wish: Wish) -> Diary: ...


class Present:
    """The book as the read models know it. `position` was asked before anything else, so the answer is no older."""

    def __init__(self, library: Library, organization: str, position: int) -> None:
        self.position = position
        self.now = library.clock.now()
        self._diary = library.diary
        self._free_time = library.free_time
        self._organization = organization

    async def appointment(self, appointment_id: UUID) -> AppointmentRow | None:
        return await self._diary.appointment(self._organization, appointment_id)

    async def history(self, appointment_id: UUID) -> Sequence[HistoryLine]:
        return await self._diary.history(self._organization, appointment_id)

    async def of_provider(self, provider_id: UUID, within: Period) -> Sequence[AppointmentRow]:
        return await self._diary.of_provider(self._organization, provider_id, within)

    async def of_patient(
        self,
        patient_id: UUID,
        *,
        after: tuple[datetime, UUID] | None = None,
        limit: int = 50,
        newest_first: bool = False,
    ) -> AppointmentPage:
        return await self._diary.of_patient(
            self._organization, patient_id, after=after, limit=limit, newest_first=newest_first
        )

    async def provider(self, provider_id: UUID) -> Kept[Provider] | None:
        return await self._free_time.provider(self._organization, provider_id)

    async def resource(self, resource_id: UUID) -> Kept[Resource] | None:
        return await self._free_time.resource(self._organization, resource_id)

    async def page(self, resource_id: UUID, day: date) -> Kept[Page]:
        return await self._free_time.page(self._organization, resource_id, day)

    async def diaries(self, wishes: Mapping[UUID, Wish], first: date, last: date) -> Mapping[UUID, Diary]:
        return await self._free_time.diaries(self._organization, wishes, first, last, self.now)

    async def diary_at(self, provider_id: UUID, wish: Wish) -> Diary:
        return await self._free_time.diary_at(self._organization, provider_id, wish, self.now)


class Past:
    """The book as the log tells it, up to a position."""

    def __init__(self, library: Library, organization: str, position: int, now: datetime) -> None:
        self.position = position
        self.now = now
        self._then = AsOf(library.log, organization, position)
        self.appointment = self._then.appointment
        self.history = self._then.history
        self.of_provider = self._then.of_provider
        self.of_patient = self._then.of_patient
        self.provider = self._then.provider
        self.resource = self._then.resource
        self.page = self._then.page

    async def diaries(self, wishes: Mapping[UUID, Wish], first: date, last: date) -> Mapping[UUID, Diary]:
        return {key: await self._then.diary(key, wish, first, last, self.now) for key, wish in wishes.items()}

    async def diary_at(self, provider_id: UUID, wish: Wish) -> Diary:
        return await self._then.diary_at(provider_id, wish, self.now)


class Answer(Response):
    """An answer that leaves only when the looks that it gives are in the log: what can't be recorded is not shown."""

    def __init__(self, looks: Sequence[asyncio.Task[None]], *answer: Any) -> None:
        super().__init__(*answer)
        self._looks = looks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises `LogUnavailable`."""
        for look in self._looks:
            await look
        await super().__call__(scope, receive, send)


class Asking:
    """One question: who asks, and what the headers say. Raises `InvalidParameter` and `BadPosition`."""

    __slots__ = (
        "_far",
        "_looks",
        "_read_after",
        "_said_whom",
        "_what",
        "actor",
        "correlation_id",
        "library",
        "organization",
        "purpose",
        "request",
        "standing",
    )

    def __init__(self, request: Request, library: Library, caller: Caller) -> None:
        self.request = request
        self.library = library
        self.actor: Actor = caller.actor
        self.organization = caller.organization
        self.purpose = purpose_of(request.headers.get("purpose-of-use"), self.actor.role)
        self.correlation_id = correlated(request.scope) or (library.trail.ids.new() if library.trail else None)
        self._looks: list[asyncio.Task[None]] = []
        self._said_whom = False
        # Where the log itself answers there is nothing to wait for; nonsense is refused all the same.
        self._read_after = library.positions.read_after(request.headers.get("read-after"))
        self._what = ""
        self._far: Reach | None = None
        # In what standing the actor reaches what they ask for; None until that is decided (`read_api/access.py`).
        self.standing: Standing | None = None
        if self.correlation_id is not None:
            correlate(request.scope, self.correlation_id)
            add_header(request.scope, b"x-request-id", str(self.correlation_id).encode())

    def may(self, what: str) -> None:
        """Ask by this row of the policy table. Raises `NotAllowed` and `InsufficientScope`."""
        self._far, self._what = access.require(self.actor, what), what

    async def reach(
        self,
        *,
        patient_id: UUID | None = None,
        provider_id: UUID | None = None,
        account_id: UUID | None = None,
        named: UUID | None = None,
    ) -> None:
        """Go on only where the asker reaches it, by the row that they `may` ask by. Without ids it is nobody's in
        person. `named` is the id that was asked for, where that is none of them. Raises `Unknown` and `NotAllowed`."""
        whose = Whose(patient_id, provider_id, account_id, named)
        library = self.library
        self.standing = await reached(
            library.log, library.clock.now(), self.organization, self.actor, self._what, whose
        )

    def shows(self, screen: Screen, *patients: UUID, resource_id: UUID | None = None) -> None:
        """The answer will show this of these patients, or of none. It is written into the log while the answer is being
        made, which then waits for it."""
        self._said_whom = True
        trail = self.library.trail
        if trail is None or self.correlation_id is None or not patients:
            return
        standing = self.standing or PLAIN
        purpose = self.purpose
        if standing.behind_glass and "purpose-of-use" not in self.request.headers:
            purpose = Purpose.EMERGENCY
        look = Look(
            self.organization, self.actor, purpose, self.correlation_id, screen, patients, resource_id, standing
        )
        writing = asyncio.create_task(trail.write(self.request.scope, look))
        # Where the answer becomes another one on its way, nobody asks what became of the look.
        writing.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._looks.append(writing)

    async def caught_up(self, *models: Model) -> int:
        """Wait until the models have what `Read-After` names. Returns the position that all of them have.

        Raises `NotCaughtUp`."""
        library = self.library
        wanted = self._read_after
        for model in models:
            if not wanted:
                break
            there = await model.wait_until(wanted, library.patience)
            get_current_span().add_event("waited for model", {"daybook.model": model.name, "daybook.there": there})
            if not there:
                raise NotCaughtUp(
                    "What you did last is in the log, and not in this view yet. Ask again shortly.",
                    {"Retry-After": "1"},
                )
        return min([await model.position() for model in models])

    async def book(self, as_of: datetime | str | None, *models: Model) -> Book:
        """The book now, as `models` have it; or as of an instant or a position, from the log.

        Raises as `caught_up` does, and `InvalidParameter` for an instant to come."""
        library = self.library
        if as_of is None:
            return Present(library, self.organization, await self.caught_up(*models))
        if isinstance(as_of, datetime):
            if as_of > library.clock.now():
                raise InvalidParameter("as_of lies in the future")
            return Past(library, self.organization, await library.log.position_at(as_of), as_of)
        position = library.positions.read(as_of)
        there = await library.log.read(position - 1, 1) if position else ()
        now = there[0].recorded_at if there else library.clock.now()
        return Past(library, self.organization, position, now)

    async def registered(self, patient_id: UUID, book: Book) -> None:
        """Raises `Unknown` for a patient who is not there. Asks the log: no read model lists patients."""
        stream = patient.stream(patient_id)
        found = await self.library.log.load(self.organization, {stream: 0}, upto=book.position or None)
        if not found[stream]:
            raise unknown(patient_id)

    async def own(self, row: AppointmentRow | None, appointment_id: UUID) -> AppointmentRow:
        """An appointment that the asker reaches. Raises `Unknown` for none, and for one beyond reach alike."""
        if row is None:
            raise unknown(appointment_id)
        await self.reach(patient_id=row.patient_id, provider_id=row.provider_id, named=appointment_id)
        return row

    def answer(self, content: BaseModel, position: int, *, version: int | None = None, whole: bool = False) -> Response:
        """`version` makes an `ETag`; where it tells of the `whole` answer, 304 is enough for who has it already.

        A route that asks for what not everybody reaches, and never says whose it is, is at fault: nothing is shown. So
        is one that shows somebody's personal data and never says whom it shows."""
        headers = self._headers(position)
        if version is not None:
            headers["ETag"] = f'"{version}"'
            known = self.request.headers.get("if-none-match", "") if whole else ""
            if headers["ETag"] in [tag.strip().removeprefix("W/") for tag in known.split(",")]:
                return Answer(self._looks, None, 304, headers)
        return Answer(self._looks, content.model_dump_json(), 200, headers, "application/json")

    def written(
        self, body: str | bytes, media_type: str, position: int, headers: Mapping[str, str] | None = None
    ) -> Response:
        """The same, for a body that is written out already."""
        return Answer(self._looks, body, 200, {**self._headers(position), **(headers or {})}, media_type)

    def _headers(self, position: int) -> dict[str, str]:
        if self.standing is None and self._far is not Reach.CLINIC:
            raise RuntimeError(f"{self.request.scope['route'].name} does not say whose it is")
        if POLICY[self._what].personal and not self._said_whom:
            raise RuntimeError(f"{self.request.scope['route'].name} does not say whom it shows")
        return {"Position": self.library.positions.show(position)}


async def asking(request: Request, caller: Asker) -> Asking:
    """Raises what `Asker` raises."""
    return Asking(request, request.app.state.library, caller)


Asked = Annotated[Asking, Depends(asking)]


def unknown(key: UUID) -> Unknown:
    return Unknown("unknown id", id=str(key))
