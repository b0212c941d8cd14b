"""Appointments: hold, book, move, cancel, attend, and a recurring series at once."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from commands.appointments import (
    AcceptAppointment,
    BookAppointment,
    BookHeldAppointment,
    BookSeries,
    CancelAppointment,
    CheckInPatient,
    CompleteVisit,
    DeclineAppointment,
    HoldAppointment,
    MarkEnteredInError,
    MarkNoShow,
    MoveAppointment,
    StartVisit,
)
from domain.appointment import Status, stream
from write_api.asking import Asked
from write_api.bodies import Body
from write_api.describing import Answered, takes

router = APIRouter(tags=["appointments"])

HOLD: Final = Body(HoldAppointment)
BOOK: Final = Body(BookAppointment)
BOOK_SERIES: Final = Body(BookSeries)
BOOK_HELD: Final = Body(BookHeldAppointment, "appointment_id")
ACCEPT: Final = Body(AcceptAppointment, "appointment_id")
DECLINE: Final = Body(DeclineAppointment, "appointment_id")
MOVE: Final = Body(MoveAppointment, "appointment_id")
CANCEL: Final = Body(CancelAppointment, "appointment_id")
CHECK_IN: Final = Body(CheckInPatient, "appointment_id")
START: Final = Body(StartVisit, "appointment_id")
COMPLETE: Final = Body(CompleteVisit, "appointment_id")
NO_SHOW: Final = Body(MarkNoShow, "appointment_id")
IN_ERROR: Final = Body(MarkEnteredInError, "appointment_id")


class AppointmentAnswer(Answered):
    """The appointment as the command left it. `held_until` is there while it is a hold."""

    appointment_id: UUID
    status: Status
    start: datetime
    end: datetime
    held_until: datetime | None = None


class SeriesDate(BaseModel):
    appointment_id: UUID
    start: datetime
    end: datetime


class SeriesAnswer(Answered):
    series_id: UUID
    appointments: list[SeriesDate] = Field(description="one for each date, in order")


_VISIT: Final[dict[str, Any]] = {
    "patient_id": "019a0000-0000-7000-8000-00000000000a",
    "provider_id": "019a0000-0000-7000-8000-00000000000d",
    "location_id": "019a0000-0000-7000-8000-000000000010",
    "visit_type_id": "019a0000-0000-7000-8000-000000000020",
    "start": "2027-03-01T10:00:00+01:00",
}
_WITH_REASON: Final = {"A visit with the patient's own words": {**_VISIT, "reason": "The knee still hurts on stairs."}}
_OVERRIDE: Final = {"rules": ["too_soon"], "reason": "urgent_need"}


@router.post(
    "/appointments",
    response_model=AppointmentAnswer,
    **takes(
        BOOK,
        status=201,
        refusals=(404, 409),
        located=True,
        examples={
            "A plain visit": _VISIT,
            **_WITH_REASON,
            "A video visit": {**_VISIT, "mode": "telemedicine"},
            "Staff set a rule aside": {**_VISIT, "override": _OVERRIDE},
        },
    ),
)
async def book_appointment(asked: Asked) -> Response:
    """Book a visit at a free time, found by `GET /read/slots`.

    Where the visit type needs approval and a patient asks, the visit is `requested`: the time is kept until the clinic
    accepts or declines. A time that somebody else was faster to take is refused with `slot_taken` and the three nearest
    free times in `alternatives`. Staff may set a rule aside, with a coded reason; a taken time only within the
    provider's overbooking allowance.
    """
    command = await asked.read(BOOK)
    return await asked.take(command, status=201, made="appointments/{appointment_id}")


@router.post(
    "/appointments/hold",
    response_model=AppointmentAnswer,
    **takes(HOLD, status=201, refusals=(404, 409), located=True, examples={"A plain visit": _VISIT, **_WITH_REASON}),
)
async def hold_appointment(asked: Asked) -> Response:
    """Keep a time for some minutes while the patient makes up their mind.

    The hold ends by the clock at `held_until`, and the time is free again. Book it before that, or cancel it to give
    the time back at once.
    """
    command = await asked.read(HOLD)
    return await asked.take(command, status=201, made="appointments/{appointment_id}")


@router.post(
    "/series",
    response_model=SeriesAnswer,
    **takes(
        BOOK_SERIES,
        status=201,
        refusals=(404, 409),
        examples={"Six weekly visits": {**_VISIT, "recurrence": {"frequency": "weekly", "interval": 1, "count": 6}}},
    ),
)
async def book_series(asked: Asked) -> Response:
    """Book a recurring series, every date or none.

    Dates repeat in wall time at the location: a weekly ten o'clock stays ten o'clock across clock changes. If one date
    can't be booked none is, and `series_clashes` names each such date with its nearest free times.
    """
    return await asked.take(await asked.read(BOOK_SERIES), status=201)


@router.post(
    "/appointments/{appointment_id}/book", response_model=AppointmentAnswer, **takes(BOOK_HELD, refusals=(404, 409))
)
async def book_held_appointment(appointment_id: UUID, asked: Asked) -> Response:
    """Make a hold firm. Once it has run out this is refused with `hold_ended`: look for a free time again."""
    return await asked.take(await asked.read(BOOK_HELD, appointment_id=appointment_id))


@router.post(
    "/appointments/{appointment_id}/accept", response_model=AppointmentAnswer, **takes(ACCEPT, refusals=(404, 409))
)
async def accept_appointment(appointment_id: UUID, asked: Asked) -> Response:
    """Say yes to a requested visit. Staff only."""
    return await asked.take(await asked.read(ACCEPT, appointment_id=appointment_id))


@router.post(
    "/appointments/{appointment_id}/decline",
    response_model=AppointmentAnswer,
    **takes(DECLINE, refusals=(404, 409), examples={"No room for it": {"reason": "no_capacity"}}),
)
async def decline_appointment(appointment_id: UUID, asked: Asked) -> Response:
    """Say no to a requested visit, with a reason. Its time is free again. Staff only."""
    return await asked.take(await asked.read(DECLINE, appointment_id=appointment_id))


@router.post(
    "/appointments/{appointment_id}/move",
    response_model=AppointmentAnswer,
    **takes(
        MOVE,
        refusals=(404, 409),
        form=True,
        examples={
            "Another time": {"start": "2027-03-02T10:00:00+01:00"},
            "The provider is ill": {
                "start": "2027-03-02T10:00:00+01:00",
                "provider_id": "019a0000-0000-7000-8000-00000000000e",
                "reason": "provider_unavailable",
            },
        },
    ),
)
async def move_appointment(appointment_id: UUID, asked: Asked) -> Response:
    """Move a booked visit to another time, place, way or provider; what is not said stays as it is.

    The old time is freed and the new one taken in one step, so a refused move leaves the visit where it was. A lost
    time is refused as in booking, with `alternatives`.
    """
    command = await asked.read(MOVE, appointment_id=appointment_id)
    return await asked.take(command, form=stream(appointment_id))


@router.post(
    "/appointments/{appointment_id}/cancel",
    response_model=AppointmentAnswer,
    **takes(
        CANCEL,
        refusals=(404, 409),
        form=True,
        examples={
            "The patient asked": {"reason": "patient_request"},
            "Late, and staff agree": {
                "reason": "patient_ill",
                "override": {"rules": ["too_late_to_cancel"], "reason": "patient_request"},
            },
        },
    ),
)
async def cancel_appointment(appointment_id: UUID, asked: Asked) -> Response:
    """Cancel a visit that is booked, requested or held, with a coded reason. Its time is free again.

    Inside the provider's notice period this is refused with `too_late_to_cancel`, unless staff set the rule aside.
    """
    command = await asked.read(CANCEL, appointment_id=appointment_id)
    return await asked.take(command, form=stream(appointment_id))


@router.post(
    "/appointments/{appointment_id}/check-in", response_model=AppointmentAnswer, **takes(CHECK_IN, refusals=(404, 409))
)
async def check_in_patient(appointment_id: UUID, asked: Asked) -> Response:
    """The patient has come. Staff only."""
    return await asked.take(await asked.read(CHECK_IN, appointment_id=appointment_id))


@router.post(
    "/appointments/{appointment_id}/start", response_model=AppointmentAnswer, **takes(START, refusals=(404, 409))
)
async def start_visit(appointment_id: UUID, asked: Asked) -> Response:
    """The visit has begun. Staff only."""
    return await asked.take(await asked.read(START, appointment_id=appointment_id))


@router.post(
    "/appointments/{appointment_id}/complete",
    response_model=AppointmentAnswer,
    **takes(COMPLETE, refusals=(404, 409), examples={"Seen, and to come again": {"outcome": "follow_up"}}),
)
async def complete_visit(appointment_id: UUID, asked: Asked) -> Response:
    """The visit is over, with its outcome. Staff only; also for a visit that nobody checked in, once it was due."""
    return await asked.take(await asked.read(COMPLETE, appointment_id=appointment_id))


@router.post(
    "/appointments/{appointment_id}/no-show", response_model=AppointmentAnswer, **takes(NO_SHOW, refusals=(404, 409))
)
async def mark_no_show(appointment_id: UUID, asked: Asked) -> Response:
    """The patient did not come. Staff only; refused with `too_early` before the visit was due."""
    return await asked.take(await asked.read(NO_SHOW, appointment_id=appointment_id))


@router.post(
    "/appointments/{appointment_id}/entered-in-error",
    response_model=AppointmentAnswer,
    **takes(IN_ERROR, refusals=(404, 409)),
)
async def mark_entered_in_error(appointment_id: UUID, asked: Asked) -> Response:
    """It should never have been written. The record stays, marked; its time is free again. Staff only."""
    return await asked.take(await asked.read(IN_ERROR, appointment_id=appointment_id))
