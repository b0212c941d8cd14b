"""Everything that is asked of appointments: hold, book, move, cancel, attend, and a series at once."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field, StringConstraints

from commands.access import reach
from commands.loop import APPOINTMENT, PATIENT, PROVIDER, RESOURCE, Command, Decision, Reading, handles
from domain import appointment, patient, series, slots
from domain.access import Actor, Role
from domain.appointment import (
    Appointment,
    CancellationReason,
    DeclineReason,
    MoveReason,
    Outcome,
    Override,
    Request,
)
from domain.availability import PageId
from domain.provider import WRITABLE, Mode, Provider, visit_type_of
from domain.refusals import NotAllowed, Refusal
from domain.series import Recurrence
from domain.slots import Diary, LostTime, Slot, Wish
from domain.time import Instant

FreeText = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000), WRITABLE]
Resources = Annotated[tuple[UUID, ...], Field(max_length=8)]


class Arrange(Command):
    """What is asked for a new visit. `start` is an instant with an offset; `resources` are rooms and devices by id;
    `reason` is the patient's own words and is sealed."""

    patient_id: UUID
    provider_id: UUID
    location_id: UUID
    visit_type_id: UUID
    start: Instant
    mode: Mode = Mode.IN_PERSON
    resources: Resources = ()
    reason: FreeText | None = None
    override: Override | None = None


class HoldAppointment(Arrange):
    """Keep a time for some minutes while the patient makes up their mind."""


class BookAppointment(Arrange):
    """Book at once, or request where the visit type needs approval."""


class BookSeries(Arrange):
    """Book a recurring series, every date or none."""

    recurrence: Recurrence


class OneAppointment(Command):
    appointment_id: UUID


class BookHeldAppointment(OneAppointment):
    """Make a hold firm."""


class AcceptAppointment(OneAppointment):
    """Say yes to a request."""


class DeclineAppointment(OneAppointment):
    reason: DeclineReason


class MoveAppointment(OneAppointment):
    """To another time, place, way or provider; what is not said stays as it is."""

    start: Instant
    provider_id: UUID | None = None
    location_id: UUID | None = None
    visit_type_id: UUID | None = None
    mode: Mode | None = None
    resources: Resources | None = None
    reason: MoveReason = MoveReason.PATIENT_REQUEST
    override: Override | None = None


class CancelAppointment(OneAppointment):
    reason: CancellationReason = CancellationReason.PATIENT_REQUEST
    note: FreeText | None = None
    override: Override | None = None


class CheckInPatient(OneAppointment):
    pass


class StartVisit(OneAppointment):
    pass


class CompleteVisit(OneAppointment):
    outcome: Outcome = Outcome.DONE
    note: FreeText | None = None


class MarkNoShow(OneAppointment):
    pass


class MarkEnteredInError(OneAppointment):
    pass


class LapseHold(OneAppointment):
    """Write down that a hold has ended by the clock; asked by the sweeper."""


# A new visit


async def _offer_alternatives(command: Arrange, reading: Reading, refusal: Refusal) -> None:
    if isinstance(refusal, LostTime):
        provider = await reading.get(PROVIDER, command.provider_id)
        found = await nearest_free(reading, provider, _wish(command, by_patient=False))
        refusal.details["alternatives"] = _told(found)


@handles(HoldAppointment, "hold_appointment", on_refusal=_offer_alternatives)
async def hold_appointment(command: HoldAppointment, reading: Reading, actor: Actor) -> Decision:
    diary, wish, request = await _arrange(command, reading, actor, "hold_appointment")
    return _arranged(appointment.hold(diary, wish, request))


@handles(BookAppointment, "book_appointment", on_refusal=_offer_alternatives)
async def book_appointment(command: BookAppointment, reading: Reading, actor: Actor) -> Decision:
    diary, wish, request = await _arrange(command, reading, actor, "book_appointment")
    return _arranged(appointment.book(diary, wish, request))


async def _offer_other_dates(command: BookSeries, reading: Reading, refusal: Refusal) -> None:
    if isinstance(refusal, series.SeriesClashes):
        provider = await reading.get(PROVIDER, command.provider_id)
        asked = series.wishes(provider, _wish(command, by_patient=False), command.recurrence)
        resources = await _resources(reading, command.resources)
        around = [page for one in asked for page in _pages_around(provider, one, reading.now)]
        seen = Diary(provider, await reading.glance(around), reading.now, resources)
        for _ in series.offer(seen, asked, refusal.clashes):
            # Dozens of dates take a while to look around, and others wait for their turn.
            await asyncio.sleep(0)


@handles(BookSeries, "book_series", on_refusal=_offer_other_dates)
async def book_series(command: BookSeries, reading: Reading, actor: Actor) -> Decision:
    provider = await _who_with_whom(command, reading, actor, "book_series")
    wish = _wish(command, by_patient=actor.role is Role.PATIENT)
    resources = await _resources(reading, command.resources)
    asked = series.wishes(provider, wish, command.recurrence)
    shelf = await reading.pages(page for one in asked for page in slots.pages_for(provider, one))
    diary = Diary(provider, shelf, reading.now, resources)
    series_id = reading.desk.ids.new()
    requests = [_request(command, reading, actor, series_id) for _ in asked]
    changes = series.book(diary, asked, requests, command.recurrence, series_id)
    booked = [
        {"appointment_id": str(request.appointment_id), "start": one.start, "end": visit.end}
        for request, one in zip(requests, asked, strict=True)
        if (visit := visit_type_of(provider, one.visit_type_id).visit(one.start))
    ]
    return Decision(changes, {"series_id": str(series_id), "appointments": booked})


async def _arrange(command: Arrange, reading: Reading, actor: Actor, what: str) -> tuple[Diary, Wish, Request]:
    provider = await _who_with_whom(command, reading, actor, what)
    wish = _wish(command, by_patient=actor.role is Role.PATIENT)
    resources = await _resources(reading, command.resources)
    shelf = await reading.pages(slots.pages_for(provider, wish))
    return Diary(provider, shelf, reading.now, resources), wish, _request(command, reading, actor)


async def _who_with_whom(command: Arrange, reading: Reading, actor: Actor, what: str) -> Provider:
    # The visit is not there yet, so that it is with the provider who asks makes nobody their patient.
    await reach(reading, actor, what, patient_id=command.patient_id)
    if command.override is not None:
        await reach(reading, actor, "override_rule", patient_id=command.patient_id)
    await reading.both((PROVIDER, command.provider_id), (PATIENT, command.patient_id))
    patient.present(await reading.get(PATIENT, command.patient_id))
    return await reading.get(PROVIDER, command.provider_id)


async def _resources(reading: Reading, wanted: tuple[UUID, ...]) -> dict[UUID, Any]:
    return {key: await reading.get(RESOURCE, key) for key in wanted}


def _wish(command: Arrange, *, by_patient: bool) -> Wish:
    return Wish(
        visit_type_id=command.visit_type_id,
        location_id=command.location_id,
        start=command.start,
        mode=command.mode,
        patient_id=command.patient_id,
        resources=tuple(dict.fromkeys(command.resources)),
        by_patient=by_patient,
    )


def _request(command: Arrange, reading: Reading, actor: Actor, series_id: UUID | None = None) -> Request:
    return Request(
        appointment_id=reading.desk.ids.new(),
        patient_id=command.patient_id,
        by=actor.party,
        override=command.override,
        reason=command.reason,
        series_id=series_id,
        video_url=video_url(reading) if command.mode is Mode.TELEMEDICINE else None,
    )


def video_url(reading: Reading) -> str:
    """A room of its own for each visit, under a name that can't be guessed from the appointment."""
    return reading.desk.video_url_template.format(organization=reading.organization, room=reading.desk.ids.secret())


def _arranged(changes: list[appointment.Change]) -> Decision:
    made = appointment.evolve(None, changes[0][1])
    return Decision(changes, _answer(made))


def _answer(state: Appointment) -> dict[str, Any]:
    return {
        "appointment_id": str(state.id),
        "status": state.status.value,
        "start": state.period.start,
        "end": state.period.end,
        "held_until": state.held_until if state.status is appointment.Status.HELD else None,
    }


def _pages_around(provider: Provider, wish: Wish, now: datetime) -> list[PageId]:
    return list(slots.pages_between(provider, wish, *slots.days_around(provider, wish, now)))


async def nearest_free(
    reading: Reading, provider: Provider, wish: Wish, wanted: int = slots.ALTERNATIVES
) -> list[Slot]:
    """The nearest free times. They are looked up without a guard, so somebody may be faster there too."""
    resources = await _resources(reading, wish.resources)
    shelf = await reading.glance(_pages_around(provider, wish, reading.now))
    return list(slots.nearest(Diary(provider, shelf, reading.now, resources), wish, wanted=wanted))


def _told(found: list[Slot]) -> list[dict[str, Any]]:
    return [{"start": slot.period.start, "end": slot.period.end} for slot in found]


# An appointment that is there


async def _own(command: OneAppointment, reading: Reading, actor: Actor, what: str) -> Appointment:
    state = await reading.get(APPOINTMENT, command.appointment_id)
    await _reach(state, reading, actor, what)
    return state


async def _reach(state: Appointment, reading: Reading, actor: Actor, what: str) -> None:
    await reach(reading, actor, what, patient_id=state.patient_id, provider_id=state.provider_id, named=state.id)


def _changed(changes: list[appointment.Change], state: Appointment) -> Decision:
    return Decision(changes, _answer(appointment.evolve(state, changes[0][1])))


async def _with_pages(command: OneAppointment, reading: Reading, actor: Actor, what: str) -> Appointment:
    """An appointment whose pages are about to change: they are read, so that the save is guarded by them."""
    state = await _own(command, reading, actor, what)
    await reading.pages(state.pages())
    return state


@handles(BookHeldAppointment, "book_appointment")
async def book_held_appointment(command: BookHeldAppointment, reading: Reading, actor: Actor) -> Decision:
    state = await _own(command, reading, actor, "book_appointment")
    provider = await reading.get(PROVIDER, state.provider_id)
    shelf = await reading.pages(state.pages())
    offered = provider.visit_types.get(state.visit_type_id)
    needs_approval = offered is not None and offered.approval_needed
    diary = Diary(provider, shelf, reading.now)
    return _changed(appointment.book_held(state, actor.party, needs_approval, reading.now, diary), state)


@handles(AcceptAppointment, "answer_request")
async def accept_appointment(command: AcceptAppointment, reading: Reading, actor: Actor) -> Decision:
    state = await _own(command, reading, actor, "answer_request")
    return _changed(appointment.accept(state, actor.party), state)


@handles(DeclineAppointment, "answer_request")
async def decline_appointment(command: DeclineAppointment, reading: Reading, actor: Actor) -> Decision:
    state = await _with_pages(command, reading, actor, "answer_request")
    return _changed(appointment.decline(state, actor.party, command.reason), state)


def _wish_to_move(command: MoveAppointment, state: Appointment, *, by_patient: bool) -> Wish:
    return Wish(
        visit_type_id=command.visit_type_id or state.visit_type_id,
        location_id=command.location_id or state.location_id,
        start=command.start,
        mode=command.mode or state.mode,
        patient_id=state.patient_id,
        resources=state.resources if command.resources is None else tuple(dict.fromkeys(command.resources)),
        moving=state.id,
        by_patient=by_patient,
    )


async def _offer_other_moves(command: MoveAppointment, reading: Reading, refusal: Refusal) -> None:
    if isinstance(refusal, LostTime):
        state = await reading.get(APPOINTMENT, command.appointment_id)
        provider = await reading.get(PROVIDER, command.provider_id or state.provider_id)
        wish = _wish_to_move(command, state, by_patient=False)
        # One more than is told: where it stands now may be among them, and is no move.
        found = await nearest_free(reading, provider, wish, slots.ALTERNATIVES + 1)
        others = [slot for slot in found if provider.id != state.provider_id or slot.period != state.period]
        nearest = sorted(others, key=lambda slot: abs(slot.period.start - wish.start))[: slots.ALTERNATIVES]
        refusal.details["alternatives"] = _told(sorted(nearest, key=lambda slot: slot.period.start))


@handles(MoveAppointment, "move_appointment", on_refusal=_offer_other_moves)
async def move_appointment(command: MoveAppointment, reading: Reading, actor: Actor) -> Decision:
    state = await _own(command, reading, actor, "move_appointment")
    if command.override is not None:
        await _reach(state, reading, actor, "override_rule")
    if state.status is not appointment.Status.BOOKED:
        raise appointment.WrongStatus(state, "moved")
    provider = await reading.get(PROVIDER, command.provider_id or state.provider_id)
    wish = _wish_to_move(command, state, by_patient=actor.role is Role.PATIENT)
    if wish.by_patient and provider.id != state.provider_id:
        raise NotAllowed("please call the clinic to see another provider", action="move_appointment")
    resources = await _resources(reading, wish.resources)
    left = provider if provider.id == state.provider_id else await reading.get(PROVIDER, state.provider_id)
    shelf = await reading.pages([*state.pages(), *slots.pages_for(provider, wish)])
    changes = appointment.move(
        state,
        Diary(provider, shelf, reading.now, resources),
        wish,
        by=actor.party,
        reason=command.reason,
        notice_minutes=left.rules.move_notice_minutes,
        override=command.override,
        video_url=video_url(reading) if wish.mode is Mode.TELEMEDICINE else None,
    )
    return _changed(changes, state)


@handles(CancelAppointment, "cancel_appointment")
async def cancel_appointment(command: CancelAppointment, reading: Reading, actor: Actor) -> Decision:
    state = await _with_pages(command, reading, actor, "cancel_appointment")
    if command.override is not None:
        await _reach(state, reading, actor, "override_rule")
    provider = await reading.get(PROVIDER, state.provider_id)
    changes = appointment.cancel(
        state,
        by=actor.party,
        reason=command.reason,
        notice_minutes=provider.rules.cancel_notice_minutes,
        now=reading.now,
        note=command.note,
        override=command.override,
    )
    return _changed(changes, state)


@handles(CheckInPatient, "attend_visit")
async def check_in_patient(command: CheckInPatient, reading: Reading, actor: Actor) -> Decision:
    state = await _own(command, reading, actor, "attend_visit")
    return _changed(appointment.check_in(state, reading.now), state)


@handles(StartVisit, "attend_visit")
async def start_visit(command: StartVisit, reading: Reading, actor: Actor) -> Decision:
    state = await _own(command, reading, actor, "attend_visit")
    return _changed(appointment.start(state, reading.now), state)


@handles(CompleteVisit, "attend_visit")
async def complete_visit(command: CompleteVisit, reading: Reading, actor: Actor) -> Decision:
    state = await _own(command, reading, actor, "attend_visit")
    return _changed(appointment.complete(state, command.outcome, reading.now, command.note), state)


@handles(MarkNoShow, "attend_visit")
async def mark_no_show(command: MarkNoShow, reading: Reading, actor: Actor) -> Decision:
    state = await _own(command, reading, actor, "attend_visit")
    return _changed(appointment.did_not_come(state, reading.now), state)


@handles(MarkEnteredInError, "enter_in_error")
async def mark_entered_in_error(command: MarkEnteredInError, reading: Reading, actor: Actor) -> Decision:
    state = await _with_pages(command, reading, actor, "enter_in_error")
    return _changed(appointment.enter_in_error(state, actor.party), state)


@handles(LapseHold, "lapse_hold")
async def lapse_hold(command: LapseHold, reading: Reading, actor: Actor) -> Decision:
    state = await _with_pages(command, reading, actor, "lapse_hold")
    return _changed(appointment.lapse(state, reading.now), state)
