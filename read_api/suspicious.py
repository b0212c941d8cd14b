"""Suspicious patterns in who looked at what, for whoever looks into them."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from domain.inquiry import InquiryTooLong
from domain.look import Screen
from domain.suspicion import Pattern
from domain.time import zone
from infra.http.problems import InvalidParameter, Refused
from projections.suspicions import suspicious
from read_api.asking import Asked
from read_api.describing import answers
from read_api.parameters import When

router = APIRouter(tags=["audit"])

USUAL: Final = timedelta(days=7)
LONGEST: Final = timedelta(days=31)
# Seconds, with the wait for another's report: proxies in front of us wait about a minute.
PATIENCE: Final = 30.0


class ReportTooLong(Refused):
    """The report was not ready within `PATIENCE`."""

    code = "report_too_long"
    status = 503


class Finding(BaseModel):
    """A reason to ask somebody, and no more. `who` is an actor's id, or the account that was knocked at. `count` went
    over `limit`, where `usual` is usual for them. `patients` are named up to fifty."""

    model_config = ConfigDict(from_attributes=True)

    pattern: Pattern
    who: str
    first: datetime
    last: datetime
    count: int
    usual: int
    limit: int
    patients: list[UUID]
    because: str = Field(description="in plain English")


class Suspicious(BaseModel):
    """By time."""

    first: datetime
    last: datetime
    findings: list[Finding]


@router.get("/suspicious", response_model=Suspicious, **answers())
async def read_suspicious(
    asked: Asked,
    first: Annotated[When | None, Query(alias="from", description="an instant; a week ago otherwise")] = None,
    last: Annotated[When | None, Query(alias="to", description="an instant; now otherwise")] = None,
    time_zone: Annotated[str, Query(max_length=64, description="an IANA zone, in which night is night")] = "UTC",
) -> Response:
    """Mass look-ups, records opened without a reason that the book knows, broken glass, sign-ins at night, knocking.
    Administrators and auditors. At most 31 days at once; four weeks before tell what is usual. A report that takes
    longer than half a minute is refused (503, `report_too_long`)."""
    asked.may("read_suspicions")
    await asked.reach()
    library = asked.library
    until = last or library.clock.now()
    since = first or until - USUAL
    if not timedelta(0) <= until - since <= LONGEST:
        raise InvalidParameter(f"`to` is after `from`, by at most {LONGEST.days} days")
    position = await library.log.head()
    night = zone(time_zone)
    try:
        async with asyncio.timeout(PATIENCE), library.inquiry:
            found = await suspicious(library.inquiries, asked.organization, since, until, night)
    except (TimeoutError, InquiryTooLong) as error:
        raise ReportTooLong(
            f"The report was not ready within {PATIENCE:g} seconds. Ask for a shorter period, or later if somebody "
            "else is asking too; `daybook log suspicious` on the command line has no such bound.",
            {"Retry-After": "60"},
        ) from error
    asked.shows(Screen.SUSPICIOUS, *dict.fromkeys(patient for one in found for patient in one.patients))
    shown = [Finding.model_validate(one) for one in found]
    return asked.answer(Suspicious(first=since, last=until, findings=shown), position)
