"""The same questions, asked of an earlier state of the log.

In: a log and a position. Out: what the diary and the free time would have answered then: the very models, filled in
memory from the streams that the question is about. Nothing of a read store is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from uuid import UUID

from domain import appointment, provider, resource
from domain.availability import Page, PageId, TimeReserved, page_stream
from domain.ports import EventLog, Recorded
from domain.provider import Provider
from domain.refusals import Unknown
from domain.resource import Resource
from domain.slots import Diary, Wish, pages_between, pages_for
from domain.time import Period
from projections.diary import LONGEST_VISIT, AppointmentDiary, AppointmentPage, AppointmentRow, HistoryLine
from projections.documents import Kept
from projections.free_time import FreeTime
from projections.memory import MemoryStore


class AsOf:
    """One organization's book as it stood right after `position`. `log.position_at` finds the position of an instant.

    Every method raises `LogUnavailable` when the log can't be reached.
    """

    def __init__(self, log: EventLog, organization: str, position: int) -> None:
        self._log = log
        self._organization = organization
        self._position = position

    async def appointment(self, appointment_id: UUID) -> AppointmentRow | None:
        diary = await self._diary([appointment_id])
        return await diary.appointment(self._organization, appointment_id)

    async def history(self, appointment_id: UUID) -> Sequence[HistoryLine]:
        """What had happened to the appointment itself. Messages about it are in the diary's own history, which takes a
        position too."""
        diary = await self._diary([appointment_id])
        return await diary.history(self._organization, appointment_id)

    async def of_provider(self, provider_id: UUID, within: Period) -> Sequence[AppointmentRow]:
        diary = await self._diary(await self._on_pages(provider_id, within))
        return await diary.of_provider(self._organization, provider_id, within)

    async def of_resource(self, resource_id: UUID, within: Period) -> Sequence[AppointmentRow]:
        diary = await self._diary(await self._on_pages(resource_id, within))
        return await diary.of_resource(self._organization, resource_id, within)

    async def of_patient(
        self,
        patient_id: UUID,
        *,
        after: tuple[datetime, UUID] | None = None,
        limit: int = 50,
        newest_first: bool = False,
    ) -> AppointmentPage:
        diary = await self._diary(await self._on_pages(patient_id, None))
        return await diary.of_patient(
            self._organization, patient_id, after=after, limit=limit, newest_first=newest_first
        )

    async def provider(self, provider_id: UUID) -> Kept[Provider] | None:
        free_time = await self._free_time([provider.stream(provider_id)])
        return await free_time.provider(self._organization, provider_id)

    async def resource(self, resource_id: UUID) -> Kept[Resource] | None:
        free_time = await self._free_time([resource.stream(resource_id)])
        return await free_time.resource(self._organization, resource_id)

    async def page(self, resource_id: UUID, day: date) -> Kept[Page]:
        free_time = await self._free_time([page_stream(resource_id, day)])
        return await free_time.page(self._organization, resource_id, day)

    async def diary(self, provider_id: UUID, wish: Wish, first: date, last: date, now: datetime) -> Diary:
        """For free slots as they were. `now` is the instant of that time. Raises as `FreeTime.diary` does."""
        pages = pages_between(await self._provider(provider_id), wish, first, last)
        free_time = await self._free_time(self._streams(provider_id, wish, pages))
        return await free_time.diary(self._organization, provider_id, wish, first, last, now)

    async def diary_at(self, provider_id: UUID, wish: Wish, now: datetime) -> Diary:
        pages = pages_for(await self._provider(provider_id), wish)
        free_time = await self._free_time(self._streams(provider_id, wish, pages))
        return await free_time.diary_at(self._organization, provider_id, wish, now)

    async def _provider(self, provider_id: UUID) -> Provider:
        known = await self.provider(provider_id)
        if known is None:
            raise Unknown("unknown id", id=str(provider_id))
        return known.value

    @staticmethod
    def _streams(provider_id: UUID, wish: Wish, pages: Sequence[PageId]) -> Iterable[str]:
        yield provider.stream(provider_id)
        for resource_id in wish.resources:
            yield resource.stream(resource_id)
        for page in pages:
            yield page_stream(*page)

    async def _on_pages(self, owner: UUID, within: Period | None) -> Iterable[UUID]:
        """The appointments that ever stood on the owner's pages, of a period or of all time."""
        first, last = date.min, date.max
        if within is not None:
            first, last = (within.start - LONGEST_VISIT).date(), within.end.date()
        names = await self._log.streams(self._organization, page_stream(owner, first), page_stream(owner, last))
        # Up to now: a position in the middle of a save has the appointment's event and not yet its pages'.
        found = await self._log.load(self._organization, dict.fromkeys(names, 0))
        return dict.fromkeys(
            recorded.event.appointment_id
            for events in found.values()
            for recorded in events
            if isinstance(recorded.event, TimeReserved)
        )

    async def _diary(self, appointments: Iterable[UUID]) -> AppointmentDiary:
        diary = AppointmentDiary(MemoryStore())
        await diary.apply(await self._load(map(appointment.stream, appointments)))
        return diary

    async def _free_time(self, streams: Iterable[str]) -> FreeTime:
        free_time = FreeTime(MemoryStore())
        await free_time.apply(await self._load(streams))
        return free_time

    async def _load(self, streams: Iterable[str]) -> Sequence[Recorded]:
        found = await self._log.load(self._organization, dict.fromkeys(streams, 0), upto=self._position)
        events = [recorded for some in found.values() for recorded in some]
        return sorted(events, key=lambda recorded: recorded.position)
