"""Free time: providers, rooms and devices as they are known, and every page of what occupies whom.

In: events of providers, resources and pages, folded by the domain itself. Out: the diaries that the domain's own rules
ask about, so that `domain.slots` says of a slot here what a booking would be told.

| name | holds |
|---|---|
| `ORG/provider/ID` | everything of `domain.provider.Provider`, as JSON |
| `ORG/resource/ID` | a room or device |
| `ORG/page/RESOURCE/DAY` | a page; an entry is `[id, visit, occupied, session, seats, held until, block]` |
| `ORG/providers`, `ORG/resources` | lines with their ids, in order of registration for ids that are UUIDv7 |

A hold stays on its page after it has ended by the clock; `held_until` is compared with the clock that is handed in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date, datetime
from typing import Any, ClassVar, NamedTuple, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from pydantic_core import from_json, to_json

from domain import availability, provider, resource
from domain.availability import BlockReason, Entry, Page, PageId, Shelf
from domain.ports import Recorded
from domain.provider import (
    BookingRules,
    Location,
    Provider,
    ResourceKind,
    Specialty,
    TimeOffReason,
    VisitType,
    WallInterval,
)
from domain.provider import WeeklyHours as Week
from domain.refusals import Unknown
from domain.resource import Resource
from domain.slots import Diary, Wish, pages_between, pages_for
from domain.time import Period
from projections.documents import LAST, DocumentModel, Kept, Line, Shape, Span

T = TypeVar("T")

# How many opened documents are remembered for asking; each counts only while its bytes are the store's.
_OPENED = 20_000


class _Hours(BaseModel):
    location_id: UUID
    weeks: tuple[tuple[date, Week], ...]


class _Exception(BaseModel):
    location_id: UUID
    day: date
    hours: tuple[WallInterval, ...]


class _Holiday(BaseModel):
    location_id: UUID
    day: date
    name: str


class _TimeOff(BaseModel):
    time_off_id: UUID
    period: Period
    reason: TimeOffReason


class _ProviderDocument(BaseModel):
    """`domain.provider.Provider`, its mappings as lists, which JSON can hold."""

    model_config = ConfigDict(frozen=True)

    exceptions: tuple[_Exception, ...]
    holidays: tuple[_Holiday, ...]
    id: UUID
    insurers: tuple[str, ...]
    languages: tuple[str, ...]
    locations: tuple[Location, ...]
    name: str
    position: int
    rules: BookingRules
    specialties: tuple[Specialty, ...]
    time_off: tuple[_TimeOff, ...]
    version: int
    visit_types: tuple[VisitType, ...]
    weekly_hours: tuple[_Hours, ...]


class ProviderShape:
    def fold(self, known: Provider | None, recorded: Recorded) -> Provider:
        return provider.evolve(known, recorded.event)

    def encode(self, kept: Kept[Provider]) -> bytes:
        value = kept.value
        document = _ProviderDocument(
            exceptions=tuple(
                _Exception(location_id=location_id, day=day, hours=hours)
                for (location_id, day), hours in sorted(value.exceptions.items())
            ),
            holidays=tuple(
                _Holiday(location_id=location_id, day=day, name=name)
                for (location_id, day), name in sorted(value.holidays.items())
            ),
            id=value.id,
            insurers=value.insurers,
            languages=value.languages,
            locations=tuple(value.locations.values()),
            name=value.name,
            position=kept.position,
            rules=value.rules,
            specialties=value.specialties,
            time_off=tuple(
                _TimeOff(time_off_id=key, period=period, reason=reason)
                for key, (period, reason) in value.time_off.items()
            ),
            version=kept.version,
            visit_types=tuple(value.visit_types.values()),
            weekly_hours=tuple(_Hours(location_id=key, weeks=weeks) for key, weeks in value.weekly_hours.items()),
        )
        return document.model_dump_json().encode()

    def decode(self, name: str, document: bytes) -> Kept[Provider]:
        known = _ProviderDocument.model_validate_json(document)
        value = Provider(
            id=known.id,
            name=known.name,
            specialties=known.specialties,
            languages=known.languages,
            insurers=known.insurers,
            locations={one.id: one for one in known.locations},
            visit_types={one.id: one for one in known.visit_types},
            weekly_hours={one.location_id: one.weeks for one in known.weekly_hours},
            exceptions={(one.location_id, one.day): one.hours for one in known.exceptions},
            holidays={(one.location_id, one.day): one.name for one in known.holidays},
            time_off={one.time_off_id: (one.period, one.reason) for one in known.time_off},
            rules=known.rules,
        )
        return Kept(value, known.version, known.position)

    def led_alike(self, before: Provider, now: Provider) -> bool:
        return before.id == now.id

    def lines(self, organization: str, value: Provider) -> Sequence[Line]:
        return ((f"{organization}/providers", str(value.id)),)


class ResourceShape:
    def fold(self, known: Resource | None, recorded: Recorded) -> Resource:
        return resource.evolve(known, recorded.event)

    def encode(self, kept: Kept[Resource]) -> bytes:
        document = asdict(kept.value) | {"version": kept.version, "position": kept.position}
        return to_json(dict(sorted(document.items())))

    def decode(self, name: str, document: bytes) -> Kept[Resource]:
        known = from_json(document)
        value = Resource(UUID(known["id"]), ResourceKind(known["kind"]), known["name"], known["retired"])
        return Kept(value, known["version"], known["position"])

    def led_alike(self, before: Resource, now: Resource) -> bool:
        return before.id == now.id

    def lines(self, organization: str, value: Resource) -> Sequence[Line]:
        return ((f"{organization}/resources", str(value.id)),)


class Folded(NamedTuple):
    """A page, and what was last written of its entries, so that only those that changed are written anew. That is a
    memory of what `encode` did, shared by the states of one page; the page alone says what is true."""

    page: Page
    written: dict[int, tuple[Entry, bytes]]


class PageShape:
    def fold(self, known: Folded | None, recorded: Recorded) -> Folded:
        if known is None:
            return Folded(availability.evolve(None, recorded.event), {})
        return Folded(availability.evolve(known.page, recorded.event), known.written)

    def encode(self, kept: Kept[Folded]) -> bytes:
        page, before = kept.value
        written: dict[int, tuple[Entry, bytes]] = {}
        for entry in page.entries.values():
            # Entries are never altered, so the same object was written the same way. It is kept, so its id stays its.
            key = id(entry)
            written[key] = before.get(key) or (entry, _written(entry))
        before.clear()
        before.update(written)
        entries = b",".join([text for _, text in written.values()])
        return b'{"entries":[%b],"position":%d,"version":%d}' % (entries, kept.position, kept.version)

    def decode(self, name: str, document: bytes) -> Kept[Folded]:
        kept = read_page(name, document)
        return Kept(Folded(kept.value, {}), kept.version, kept.position)

    def led_alike(self, before: Folded, now: Folded) -> bool:
        return True

    def lines(self, organization: str, value: Folded) -> Sequence[Line]:
        return ()


def _written(entry: Entry) -> bytes:
    visit, occupied = entry.visit, entry.occupied
    return to_json(
        [
            entry.id,
            [visit.start, visit.end],
            [occupied.start, occupied.end],
            entry.session_id,
            entry.seats,
            entry.held_until,
            entry.block,
        ]
    )


def read_page(name: str, document: bytes) -> Kept[Page]:
    """A page from its document; `name` is the document's, and ends in the resource and the day."""
    known = from_json(document)
    _, resource_id, day = name.rsplit("/", 2)
    page = Page(UUID(resource_id), date.fromisoformat(day), {one.id: one for one in map(_entry, known["entries"])})
    return Kept(page, known["version"], known["position"])


def _entry(row: Sequence[Any]) -> Entry:
    key, visit, occupied, session, seats, held_until, block = row
    spent = _period(visit)
    return Entry(
        id=UUID(key),
        visit=spent,
        occupied=spent if occupied == visit else _period(occupied),
        session_id=UUID(session) if session else None,
        seats=seats,
        held_until=datetime.fromisoformat(held_until) if held_until else None,
        block=BlockReason(block) if block else None,
    )


def _period(pair: Sequence[str]) -> Period:
    return Period(datetime.fromisoformat(pair[0]), datetime.fromisoformat(pair[1]))


class FreeTime(DocumentModel):
    name = "free_time"
    SHAPES: ClassVar[Mapping[str, Shape[Any]]] = {
        "provider": ProviderShape(),
        "resource": ResourceShape(),
        "page": PageShape(),
    }

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self._opened: dict[str, tuple[bytes, Kept[Any]]] = {}

    def notes(self, recorded: Recorded) -> Sequence[Line]:
        return ()

    async def provider(self, organization: str, provider_id: UUID) -> Kept[Provider] | None:
        (known,) = await self._open(organization, [f"provider/{provider_id}"])
        return known

    async def resource(self, organization: str, resource_id: UUID) -> Kept[Resource] | None:
        (known,) = await self._open(organization, [f"resource/{resource_id}"])
        return known

    async def page(self, organization: str, resource_id: UUID, day: date) -> Kept[Page]:
        """What occupies a provider, room, device or patient on one UTC day. A page never written is empty."""
        (known,) = await self._open(organization, [availability.page_stream(resource_id, day)])
        return known or Kept(Page(resource_id, day), 0, 0)

    async def known(self, organization: str, provider_ids: Sequence[UUID]) -> Mapping[UUID, Kept[Provider]]:
        """Those of the ids that are providers, in one round trip."""
        opened = await self._open(organization, [f"provider/{key}" for key in provider_ids])
        return {key: kept for key, kept in zip(provider_ids, opened, strict=True) if kept is not None}

    async def pages(self, organization: str, pages: Sequence[PageId]) -> Mapping[PageId, Kept[Page] | None]:
        """Pages in one round trip; None for one never written."""
        opened = await self._open(organization, [availability.page_stream(*page) for page in pages])
        return dict(zip(pages, opened, strict=True))

    async def providers(
        self, organization: str, *, after: UUID | None = None, limit: int = 50
    ) -> tuple[Sequence[Kept[Provider]], UUID | None]:
        """Providers by id, after a given one, and the id to go on after, if there may be more."""
        return await self._listed(organization, "provider", after, limit)

    async def resources(
        self, organization: str, *, after: UUID | None = None, limit: int = 50
    ) -> tuple[Sequence[Kept[Resource]], UUID | None]:
        """Rooms and devices by id, after a given one, and the id to go on after, if there may be more."""
        return await self._listed(organization, "resource", after, limit)

    async def diary(
        self, organization: str, provider_id: UUID, wish: Wish, first: date, last: date, now: datetime
    ) -> Diary:
        """What decides about every start on the local days from `first` to `last`, both included, for
        `domain.slots.free_slots`. Two round trips.

        Raises `Unknown`, and the domain's `UnknownVisitType` and `UnknownLocation`."""
        diaries = await self.diaries(organization, {provider_id: wish}, first, last, now)
        return _known(diaries, provider_id)

    async def diary_at(self, organization: str, provider_id: UUID, wish: Wish, now: datetime) -> Diary:
        """What decides about this one wish, for `domain.slots.refusals`. Raises as `diary` does."""
        known = await self._providers(organization, {provider_id: wish})
        pages = {key: pages_for(value, wish) for key, value in known[0].items()}
        return _known(await self._diaries(organization, known, pages, now), provider_id)

    async def diaries(
        self, organization: str, wishes: Mapping[UUID, Wish], first: date, last: date, now: datetime
    ) -> Mapping[UUID, Diary]:
        """The same for many providers at once, each with its own wish, in the same two round trips. Unknown providers
        are left out. Raises `UnknownVisitType`, `UnknownLocation`."""
        known = await self._providers(organization, wishes)
        pages = {key: pages_between(value, wishes[key], first, last) for key, value in known[0].items()}
        return await self._diaries(organization, known, pages, now)

    async def _providers(
        self, organization: str, wishes: Mapping[UUID, Wish]
    ) -> tuple[dict[UUID, Provider], dict[UUID, Resource]]:
        resources = list(dict.fromkeys(key for wish in wishes.values() for key in wish.resources))
        names = [f"provider/{key}" for key in wishes] + [f"resource/{key}" for key in resources]
        known = await self._open(organization, names)
        return (
            {key: kept.value for key, kept in zip(wishes, known, strict=False) if kept is not None},
            {key: kept.value for key, kept in zip(resources, known[len(wishes) :], strict=True) if kept is not None},
        )

    async def _diaries(
        self,
        organization: str,
        known: tuple[dict[UUID, Provider], dict[UUID, Resource]],
        pages: Mapping[UUID, Sequence[PageId]],
        now: datetime,
    ) -> Mapping[UUID, Diary]:
        wanted = list(dict.fromkeys(page for some in pages.values() for page in some))
        opened = await self._open(organization, [availability.page_stream(*page) for page in wanted])
        shelf = {page: kept.value if kept else None for page, kept in zip(wanted, opened, strict=True)}
        providers, resources = known
        return {
            key: Diary(value, Shelf({page: shelf[page] for page in pages[key]}), now, resources)
            for key, value in providers.items()
        }

    async def _listed(
        self, organization: str, kind: str, after: UUID | None, limit: int
    ) -> tuple[Sequence[Kept[Any]], UUID | None]:
        low = "" if after is None else f"{after}!"
        (lines,) = await self.store.lines([Span(f"{organization}/{kind}s", low, LAST, limit + 1)])
        known = await self._open(organization, [f"{kind}/{line}" for line in lines[:limit]])
        return [kept for kept in known if kept is not None], UUID(lines[limit - 1]) if len(lines) > limit else None

    async def _open(self, organization: str, streams: Sequence[str]) -> list[Kept[Any] | None]:
        names = [f"{organization}/{stream}" for stream in streams]
        documents = await self.store.documents(names) if names else ()
        return [
            self._opened_once(name, document) if document is not None else None
            for name, document in zip(names, documents, strict=True)
        ]

    def _opened_once(self, name: str, document: bytes) -> Kept[Any]:
        known = self._opened.get(name)
        if known is not None and known[0] == document:
            return known[1]
        kind = name.split("/", 2)[1]
        kept = read_page(name, document) if kind == "page" else self.SHAPES[kind].decode(name, document)
        if len(self._opened) >= _OPENED:
            self._opened.clear()
        self._opened[name] = (document, kept)
        return kept


def _known(diaries: Mapping[UUID, Diary], provider_id: UUID) -> Diary:
    try:
        return diaries[provider_id]
    except KeyError:
        raise Unknown("unknown id", id=str(provider_id)) from None
