"""Who looked at a patient's record, and the accounting of what of it went outside (45 CFR 164.528)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from domain import access
from domain.access import Role
from domain.disclosure import Kind
from domain.look import Screen
from projections import looks
from projections.looks import Place, Seen, years_before
from read_api.asking import Asked, Asking
from read_api.describing import answers
from read_api.parameters import Cursor, Limit, When

router = APIRouter(tags=["audit"])


class LookShown(BaseModel):
    """`who` is the actor's id for those who may read it. A patient gets another name for it, the same for each look of
    one person, which says nothing beyond their `role`."""

    at: datetime
    who: str
    role: Role
    yours: bool = Field(description="by the very actor who asks now")
    screen: Screen
    said: str = Field(examples=["the list of appointments"])
    resource_id: UUID | None
    purpose: str | None = Field(description="OASIS XSPA")
    on_behalf: bool = Field(description="by a proxy, on the patient's behalf")
    behind_glass: bool = Field(description="in an emergency, without any other right to it")


class Looks(BaseModel):
    """The newest first. `next` is the cursor of the page that follows; null when this is the last."""

    looks: list[LookShown]
    next: str | None


class Disclosure(BaseModel):
    """What was given to whom, and why. `kind` says whether the rule wants it told, or what exempts it."""

    at: datetime
    kind: Kind
    recipient: str | None
    recipient_address: str | None
    client_id: str | None
    what: str | None
    why: str | None
    resource_id: UUID | None


class Disclosures(BaseModel):
    """By time, the oldest first. `accountable` counts those of this page that 45 CFR 164.528 wants told; the others are
    exempt. `next` is the cursor of the page that follows; null when this is the last. All pages stand for the moment at
    which the first was asked for."""

    patient_id: UUID
    first: datetime
    last: datetime
    accountable: int
    disclosures: list[Disclosure]
    next: str | None


@router.get("/patients/{patient_id}/looks", response_model=Looks, **answers(404))
async def read_looks(patient_id: UUID, asked: Asked, limit: Limit = 50, cursor: Cursor = None) -> Response:
    """Who looked at a patient's record: when, at what, and why. Patients see their own."""
    asked.may("read_looks")
    await asked.reach(patient_id=patient_id)
    library = asked.library
    listing = f"patients/{patient_id}/looks"
    before = None if cursor is None else UUID(library.cursors.read(listing, asked.organization, cursor)[0])
    position = await _registered(asked, patient_id)
    found, more = await looks.newest(library.log, asked.organization, patient_id, before=before, limit=limit)
    # Who reads who looked at their own record sees what others did, and nothing of the record.
    asked.shows(Screen.LOOKS, *_other(asked, patient_id))
    following = None if more is None else library.cursors.make(listing, asked.organization, [str(more)])
    shown = [_shown(asked, patient_id, seen) for seen in found]
    return asked.answer(Looks(looks=shown, next=following), position)


@router.get("/patients/{patient_id}/disclosures", response_model=Disclosures, **answers(404))
async def read_disclosures(
    patient_id: UUID,
    asked: Asked,
    first: Annotated[When | None, Query(alias="from", description="an instant; six years ago otherwise")] = None,
    last: Annotated[When | None, Query(alias="to", description="an instant, not included; now otherwise")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """The accounting of disclosures of a patient's data over six years (45 CFR 164.528), those that the rule exempts
    marked as such. Patients see their own."""
    asked.may("read_disclosures")
    await asked.reach(patient_id=patient_id)
    library = asked.library
    position = await _registered(asked, patient_id)
    # A page goes on from another only with the same question.
    listing = (
        f"patients/{patient_id}/disclosures/{first.isoformat() if first else ''}/{last.isoformat() if last else ''}"
    )
    if cursor is None:
        until = last or library.clock.now()
        since, after = first or years_before(until), Place()
    else:
        begin, end, then, at, written = library.cursors.read(listing, asked.organization, cursor)
        since, until = datetime.fromisoformat(begin), datetime.fromisoformat(end)
        position, after = library.positions.read(then), Place(None if at is None else UUID(at), written)
    lines, more = await looks.accounting_page(
        library.log, asked.organization, patient_id, since, until, upto=position, after=after, limit=limit
    )
    following = None
    if more is not None:
        place = [since.isoformat(), until.isoformat(), library.positions.show(position), more.look, more.written]
        following = library.cursors.make(listing, asked.organization, place)
    asked.shows(Screen.DISCLOSURES, *_other(asked, patient_id))
    named = access.may(asked.actor, "read_actors")
    told = Disclosures(
        patient_id=patient_id,
        first=since,
        last=until,
        accountable=sum(line.kind is Kind.ACCOUNTABLE for line in lines),
        disclosures=[
            Disclosure(
                at=line.at,
                kind=line.kind,
                recipient=_named(asked, patient_id, line.recipient) if not named and line.by_look else line.recipient,
                recipient_address=line.address,
                client_id=line.client_id,
                what=line.what,
                why=line.why,
                resource_id=line.resource_id,
            )
            for line in lines
        ],
        next=following,
    )
    return asked.answer(told, position)


def _other(asked: Asking, patient_id: UUID) -> tuple[UUID, ...]:
    """The patient, unless it is they who ask."""
    return () if asked.actor.patient_id == patient_id else (patient_id,)


async def _registered(asked: Asking, patient_id: UUID) -> int:
    """How far the log is, which answers here itself. Raises `Unknown` for a patient who is not there."""
    book = await asked.book(None, asked.library.diary)
    await asked.registered(patient_id, book)
    return await asked.library.log.head()


def _shown(asked: Asking, patient_id: UUID, seen: Seen) -> LookShown:
    recorded, look = seen.recorded, seen.look
    named = access.may(asked.actor, "read_actors")
    return LookShown(
        at=recorded.occurred_at,
        who=recorded.actor if named else _named(asked, patient_id, recorded.actor) or "",
        role=look.role,
        yours=recorded.actor == asked.actor.id,
        screen=look.screen,
        said=looks.said(look.screen),
        resource_id=look.resource_id,
        purpose=recorded.purpose,
        on_behalf=recorded.on_behalf_of is not None,
        behind_glass=look.behind_glass,
    )


def _named(asked: Asking, patient_id: UUID, actor: str | None) -> str | None:
    trail = asked.library.trail
    if actor is None or trail is None:
        return None
    return trail.alias(asked.organization, patient_id, actor)
