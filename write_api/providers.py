"""Providers: who they are, where and when they see patients, what for, and by which booking rules."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from commands.providers import (
    CancelTimeOff,
    ChangeProfile,
    PublishHours,
    RegisterProvider,
    SetBookingRules,
    SetLocation,
    SetVisitType,
    WithdrawVisitType,
)
from domain.provider import BookingRules, Location, VisitType, stream
from write_api.asking import Asked
from write_api.bodies import Body
from write_api.describing import Answered, takes

router = APIRouter(tags=["providers"])

REGISTER: Final = Body(RegisterProvider)
PROFILE: Final = Body(ChangeProfile, "provider_id")
LOCATION: Final = Body(Location, "id")
VISIT_TYPE: Final = Body(VisitType, "id")
RULES: Final = Body(BookingRules)
HOURS: Final = Body(PublishHours, "provider_id")


class ProviderAnswer(Answered):
    provider_id: UUID


class LocationAnswer(Answered):
    location_id: UUID


class VisitTypeAnswer(Answered):
    visit_type_id: UUID


class TimeOffMade(BaseModel):
    time_off_id: UUID
    affected_appointments: list[UUID] = Field(description="visits booked in it, which stand until they are moved")


class HoursAnswer(Answered):
    provider_id: UUID
    time_off: list[TimeOffMade]


_CLINIC: Final = "019a0000-0000-7000-8000-000000000010"
_CHECK_UP: Final = "019a0000-0000-7000-8000-000000000020"
_DAY: Final = [{"start": "09:00", "end": "12:00"}, {"start": "13:00", "end": "17:00"}]
_WEEK: Final[dict[str, Any]] = {
    "monday": _DAY,
    "tuesday": _DAY,
    "wednesday": _DAY,
    "thursday": _DAY,
    "friday": [{"start": "09:00", "end": "13:00"}],
}
_PROFILE: Final[dict[str, Any]] = {
    "name": "Dr. Ada Beispiel",
    "specialties": [{"code": "207Q00000X", "name": "Family doctor"}],
    "languages": ["en", "de"],
    "insurers": ["Example Mutual"],
}
_LOCATION: Final[dict[str, Any]] = {
    "name": "Clinic at the park",
    "address": "Parkstr. 1, Berlin",
    "latitude": "52.520008",
    "longitude": "13.404954",
    "time_zone": "Europe/Berlin",
    "country": "DE",
    "subdivision": "BE",
}
_VISIT_TYPE: Final[dict[str, Any]] = {
    "name": "Check-up",
    "duration_minutes": 30,
    "buffer_after_minutes": 5,
    "modes": ["in_person", "telemedicine"],
    "fee": {"amount": "80.00", "currency": "EUR"},
}
_RULES: Final[dict[str, Any]] = {"minimum_notice_minutes": 60, "slot_step_minutes": 15, "cancel_notice_minutes": 1440}


@router.post(
    "/providers",
    response_model=ProviderAnswer,
    **takes(
        REGISTER,
        status=201,
        refusals=(404,),
        located=True,
        examples={
            "Complete, ready to be booked": {
                **_PROFILE,
                "locations": [{"id": _CLINIC, **_LOCATION}],
                "visit_types": [{"id": _CHECK_UP, **_VISIT_TYPE}],
                "hours": [{"location_id": _CLINIC, "hours": _WEEK}],
                "rules": _RULES,
            },
            "Bare": {"name": "Dr. Ada Beispiel"},
        },
    ),
)
async def register_provider(asked: Asked) -> Response:
    """Make a provider known, complete in one go or bare. Administrators only.

    Ids of locations and visit types are yours to choose, so that hours can name them at once. Weekly hours are wall
    time at the location: nine o'clock is nine o'clock on both sides of a clock change.
    """
    return await asked.take(await asked.read(REGISTER), status=201, made="providers/{provider_id}")


@router.put(
    "/providers/{provider_id}/profile",
    response_model=ProviderAnswer,
    **takes(PROFILE, refusals=(404,), form=True, examples={"A profile": _PROFILE}),
)
async def change_profile(provider_id: UUID, asked: Asked) -> Response:
    """Replace the profile: name, specialties (NUCC taxonomy codes), languages (BCP 47) and insurers."""
    return await asked.take(await asked.read(PROFILE, provider_id=provider_id), form=stream(provider_id))


@router.put(
    "/providers/{provider_id}/locations/{location_id}",
    response_model=LocationAnswer,
    **takes(LOCATION, refusals=(404, 409), form=True, examples={"A clinic": _LOCATION}),
)
async def set_location(provider_id: UUID, location_id: UUID, asked: Asked) -> Response:
    """Add a place where the provider sees patients, or replace what is known of it.

    Coordinates are WGS 84 degrees, as decimal strings. The time zone is an IANA name; the location's opening hours are
    read in it.
    """
    location = await asked.read(LOCATION, id=location_id)
    return await asked.take(SetLocation(provider_id=provider_id, location=location), form=stream(provider_id))


@router.put(
    "/providers/{provider_id}/visit-types/{visit_type_id}",
    response_model=VisitTypeAnswer,
    **takes(
        VISIT_TYPE,
        refusals=(404, 409),
        form=True,
        examples={
            "A check-up": _VISIT_TYPE,
            "A group visit": {"name": "Back school", "duration_minutes": 60, "seats": 8},
            "A scan, with room and device": {"name": "Scan", "duration_minutes": 20, "needs": ["room", "device"]},
        },
    ),
)
async def set_visit_type(provider_id: UUID, visit_type_id: UUID, asked: Asked) -> Response:
    """Offer a kind of visit, or change it. Visits that are booked keep the length they were booked with."""
    visit_type = await asked.read(VISIT_TYPE, id=visit_type_id)
    return await asked.take(SetVisitType(provider_id=provider_id, visit_type=visit_type), form=stream(provider_id))


@router.delete(
    "/providers/{provider_id}/visit-types/{visit_type_id}",
    response_model=ProviderAnswer,
    **takes(refusals=(404,), form=True),
)
async def withdraw_visit_type(provider_id: UUID, visit_type_id: UUID, asked: Asked) -> Response:
    """Stop offering a kind of visit. Visits that are booked stand."""
    command = WithdrawVisitType(provider_id=provider_id, visit_type_id=visit_type_id)
    return await asked.take(command, form=stream(provider_id))


@router.put(
    "/providers/{provider_id}/rules",
    response_model=ProviderAnswer,
    **takes(RULES, refusals=(404,), form=True, examples={"An hour's notice, cancel a day before": _RULES}),
)
async def set_booking_rules(provider_id: UUID, asked: Asked) -> Response:
    """Replace the booking rules: notice, horizon, step, caps, holds, overbooking. What is not said is the default."""
    rules = await asked.read(RULES)
    return await asked.take(SetBookingRules(provider_id=provider_id, rules=rules), form=stream(provider_id))


@router.post(
    "/providers/{provider_id}/hours",
    response_model=HoursAnswer,
    **takes(
        HOURS,
        refusals=(404, 409),
        form=True,
        examples={
            "Weekly hours": {"weekly": [{"location_id": _CLINIC, "valid_from": "2027-01-01", "hours": _WEEK}]},
            "Closed on one day, open late on another": {
                "exceptions": [
                    {"location_id": _CLINIC, "day": "2027-05-14"},
                    {"location_id": _CLINIC, "day": "2027-05-17", "hours": [{"start": "12:00", "end": "20:00"}]},
                ]
            },
            "Public holidays of the location": {
                "holidays": [{"location_id": _CLINIC, "first": "2027-01-01", "last": "2027-12-31"}]
            },
            "A week off": {
                "time_off": [
                    {
                        "period": {"start": "2027-08-02T00:00:00+02:00", "end": "2027-08-09T00:00:00+02:00"},
                        "reason": "vacation",
                    }
                ]
            },
        },
    ),
)
async def publish_hours(provider_id: UUID, asked: Asked) -> Response:
    """Publish weekly hours, dated exceptions, public holidays and time off: a whole batch or nothing of it.

    Weekly hours hold from the local day `valid_from` on, until a later publication. An exception stands instead of the
    weekly hours and of a public holiday on its one day. Visits that are booked in time off stand, and are named in the
    answer for the desk to move.
    """
    return await asked.take(await asked.read(HOURS, provider_id=provider_id), form=stream(provider_id))


@router.delete(
    "/providers/{provider_id}/time-off/{time_off_id}",
    response_model=ProviderAnswer,
    **takes(refusals=(404,), form=True),
)
async def cancel_time_off(provider_id: UUID, time_off_id: UUID, asked: Asked) -> Response:
    """Take back time off that was planned: the provider's hours are open again."""
    command = CancelTimeOff(provider_id=provider_id, time_off_id=time_off_id)
    return await asked.take(command, form=stream(provider_id))
