"""Who broke the glass, over whom, and why: for the privacy officer's eyes (45 CFR 164.312(a)(2)(ii))."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel
from starlette.responses import Response

from domain import glass
from domain.events import Erased
from domain.glass import GlassBroken, GlassReason
from domain.look import Screen
from domain.purpose import Purpose
from read_api.asking import Asked
from read_api.describing import answers
from read_api.parameters import Cursor, Limit, When

router = APIRouter(tags=["glass"])

USUAL = timedelta(days=31)


class BrokenGlass(BaseModel):
    """`actor` is an opaque id. `words` are null once the patient has been forgotten."""

    patient_id: UUID
    actor: str
    at: datetime
    until: datetime
    reason: GlassReason
    words: str | None
    purpose: Purpose | None


class BrokenGlasses(BaseModel):
    """The latest first. `next` is the cursor of the page that follows; null when this is the last."""

    glasses: list[BrokenGlass]
    next: str | None


@router.get("/glass", response_model=BrokenGlasses, **answers())
async def read_broken_glasses(
    asked: Asked,
    since: Annotated[When | None, Query(description="not before this instant; a month back otherwise")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """Every time that somebody broke the glass. Administrators and auditors."""
    asked.may("read_glass")
    library = asked.library
    begin = since or library.clock.now() - USUAL
    listing = f"glass/{begin.isoformat() if since else ''}"
    before = None
    if cursor is not None:
        before = library.positions.read(library.cursors.read(listing, asked.organization, cursor)[0])
    head = await library.log.head()
    # Breaking the glass is rare, and each stream is one person's over one patient: the log itself is the list.
    streams = await library.log.streams(asked.organization, *glass.streams())
    told = await library.log.load(asked.organization, dict.fromkeys(streams, 0), upto=head)
    found = sorted(
        (recorded for some in told.values() for recorded in some if recorded.occurred_at >= begin),
        key=lambda recorded: -recorded.position,
    )
    page = [one for one in found if before is None or one.position < before][: limit + 1]
    following = None
    if len(page) > limit:
        page = page[:limit]
        following = library.cursors.make(listing, asked.organization, [library.positions.show(page[-1].position)])
    shown = [
        BrokenGlass(
            patient_id=event.patient_id,
            actor=recorded.actor,
            at=recorded.occurred_at,
            until=event.until,
            reason=event.reason,
            words=None if isinstance(event.words, Erased) else event.words,
            purpose=Purpose(recorded.purpose) if recorded.purpose else None,
        )
        for recorded in page
        if isinstance(event := recorded.event, GlassBroken)
    ]
    asked.shows(Screen.GLASS, *dict.fromkeys(one.patient_id for one in shown))
    return asked.answer(BrokenGlasses(glasses=shown, next=following), head)
