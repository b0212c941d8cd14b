"""Rooms and devices, and the pages on which anybody's time is kept."""

from __future__ import annotations

from datetime import date, datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from domain.availability import BlockReason, Entry
from domain.look import Screen
from domain.provider import ResourceKind
from domain.resource import Resource
from projections.documents import Kept
from read_api.asking import Asked, unknown
from read_api.describing import answers
from read_api.parameters import AsOf, Cursor, Day, Limit

router = APIRouter(tags=["resources"])


class ResourceView(BaseModel):
    resource_id: UUID
    kind: ResourceKind
    name: str
    retired: bool
    version: int


class Resources(BaseModel):
    """`next` is the cursor of the page that follows; null when this is the last."""

    resources: list[ResourceView]
    next: str | None


class EntryKind(StrEnum):
    VISIT = "visit"
    HOLD = "hold"
    BLOCK = "block"


class PageEntry(BaseModel):
    """What occupies a time. `id` is the appointment's or the block's; `occupied_…` is the visit with its buffers."""

    id: UUID
    kind: EntryKind
    start: datetime
    end: datetime
    occupied_start: datetime
    occupied_end: datetime
    session_id: UUID | None = Field(description="visits of one session share the time, up to `seats`")
    seats: int
    held_until: datetime | None
    reason: BlockReason | None


class PageView(BaseModel):
    """Everything that occupies one provider, room, device or patient on one UTC day, in order of time. Holds that have
    ended are not there."""

    resource_id: UUID
    day: date
    entries: list[PageEntry]
    version: int


@router.get("/resources", response_model=Resources, **answers())
async def read_resources(asked: Asked, limit: Limit = 50, cursor: Cursor = None) -> Response:
    """Every room and device of the organization, in order of registration."""
    asked.may("read_provider")
    library = asked.library
    after = None
    if cursor is not None:
        after = UUID(library.cursors.read("resources", asked.organization, cursor)[0])
    position = await asked.caught_up(library.free_time)
    found, last = await library.free_time.resources(asked.organization, after=after, limit=limit)
    following = None if last is None else library.cursors.make("resources", asked.organization, [last])
    return asked.answer(Resources(resources=[_view(kept) for kept in found], next=following), position)


@router.get("/resources/{resource_id}", response_model=ResourceView, **answers(404, tagged=True, whole=True))
async def read_resource(resource_id: UUID, asked: Asked, as_of: AsOf = None) -> Response:
    """A room or device."""
    asked.may("read_provider")
    book = await asked.book(as_of, asked.library.free_time)
    kept = await book.resource(resource_id)
    if kept is None:
        raise unknown(resource_id)
    return asked.answer(_view(kept), book.position, version=kept.version, whole=True)


@router.get("/resources/{resource_id}/page", response_model=PageView, **answers(404))
async def read_page(
    resource_id: UUID,
    asked: Asked,
    on: Annotated[Day | None, Query(alias="date", description="a UTC day; today otherwise")] = None,
    as_of: AsOf = None,
) -> Response:
    """What occupies a provider, room, device or patient on one UTC day: what decides about a booking. Staff and
    auditors."""
    asked.may("read_page")
    book = await asked.book(as_of, asked.library.free_time)
    day = on or book.now.date()
    page = await book.page(resource_id, day)
    patients: tuple[UUID, ...] = ()
    if await book.resource(resource_id) is not None:
        await asked.reach()
    elif await book.provider(resource_id) is not None:
        await asked.reach(provider_id=resource_id)
    else:
        await asked.reach(patient_id=resource_id)
        await asked.registered(resource_id, book)
        patients = (resource_id,)
    asked.shows(Screen.PAGE, *patients)
    live = sorted(
        (entry for entry in page.value.entries.values() if entry.live(book.now)),
        key=lambda entry: (entry.occupied, entry.id),
    )
    told = PageView(resource_id=resource_id, day=day, entries=[_entry(entry) for entry in live], version=page.version)
    return asked.answer(told, book.position)


def _view(kept: Kept[Resource]) -> ResourceView:
    value = kept.value
    return ResourceView(
        resource_id=value.id, kind=value.kind, name=value.name, retired=value.retired, version=kept.version
    )


def _entry(entry: Entry) -> PageEntry:
    kind = EntryKind.BLOCK if entry.block is not None else EntryKind.VISIT
    return PageEntry(
        id=entry.id,
        kind=EntryKind.HOLD if entry.held_until is not None else kind,
        start=entry.visit.start,
        end=entry.visit.end,
        occupied_start=entry.occupied.start,
        occupied_end=entry.occupied.end,
        session_id=entry.session_id,
        seats=entry.seats,
        held_until=entry.held_until,
        reason=entry.block,
    )
