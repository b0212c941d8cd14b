"""Stories of one appointment: held, booked, moved, given back, attended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

import pytest

from domain import appointment, slots
from domain.appointment import (
    FHIR_STATUS,
    Appointment,
    AppointmentBooked,
    AppointmentCancelled,
    AppointmentDeclined,
    AppointmentEnteredInError,
    AppointmentHeld,
    AppointmentRequested,
    AppointmentRescheduled,
    Change,
    DeclineReason,
    HoldEnded,
    HoldLapsed,
    HoldStillRuns,
    NothingToMove,
    Outcome,
    Party,
    PatientDidNotCome,
    Status,
    TooEarly,
    TooLateToCancel,
    TooLateToMove,
    VisitCompleted,
    WrongStatus,
)
from domain.availability import ReleaseReason, ReservationConfirmed, TimeReleased, TimeReserved
from domain.events import ERASED
from domain.provider import (
    BookingRules,
    Location,
    LocationSet,
    Mode,
    UnknownLocation,
    UnknownVisitType,
    VisitType,
    VisitTypeSet,
    WeeklyHoursPublished,
)
from domain.slots import (
    DayCapReached,
    NotSelfBookable,
    OutsideOpeningHours,
    OverrideReason,
    PatientBusy,
    SlotTaken,
    TooSoon,
)
from tests.domain.clinic import (
    ANNA,
    BEN,
    BRANCH,
    BUFFERED,
    CARL,
    CHECKUP,
    CLINIC,
    CLINIC_ONLY,
    COLLEAGUE,
    DOCTOR,
    FIRST,
    GROUP,
    LONG,
    MONDAY,
    NOW,
    OTHER_ROOM,
    REMOTE,
    REQUESTABLE,
    ROOM,
    SECOND,
    THIRD,
    TICK,
    a_clinic,
    at,
    block,
    book,
    book_held,
    booked_of,
    cancel,
    clinic,
    every_day,
    free,
    hold,
    lapse,
    move,
    setting_aside,
    span,
    uid,
    wish,
)
from tests.given import Book, Decision

MIN = timedelta(minutes=1)
DAY = timedelta(days=1)


# Holding and booking


def test_a_booking_takes_the_providers_and_the_patients_time_in_one_save() -> None:
    made = a_clinic().when(book(at("10:00"))).then(AppointmentBooked, TimeReserved, TimeReserved)
    booked, on_doctor, on_patient = made.events
    assert booked.period == booked.occupied == span("10:00", "10:30")
    assert (on_doctor.resource_id, on_patient.resource_id) == (DOCTOR, ANNA)
    assert on_doctor.held_until is None


def test_a_booking_with_buffers_takes_them_from_the_provider_and_the_room_but_not_from_the_patient() -> None:
    made = a_clinic().when(book(at("10:00"), visit_type_id=BUFFERED, resources=(ROOM,)))
    made.then(AppointmentBooked, TimeReserved, TimeReserved, TimeReserved)
    occupied = {event.resource_id: event.occupied for event in made.events[1:]}
    assert occupied == {DOCTOR: span("09:45", "11:00"), ROOM: span("09:45", "11:00"), ANNA: span("10:00", "10:30")}


def test_a_hold_ends_by_the_clock() -> None:
    made = a_clinic(rules=BookingRules(hold_minutes=10)).when(hold(at("10:00")))
    held = made.then(AppointmentHeld, TimeReserved, TimeReserved).events[0]
    assert held.held_until == NOW + 10 * MIN
    assert {event.held_until for event in made.events[1:]} == {NOW + 10 * MIN}


def test_a_hold_keeps_others_away_until_its_last_instant_and_no_longer() -> None:
    held = a_clinic(hold(at("10:00")))
    held.at(NOW + 10 * MIN - TICK).when(book(at("10:00"), BEN, SECOND)).refused(SlotTaken)
    held.at(NOW + 10 * MIN).when(book(at("10:00"), BEN, SECOND)).happened(AppointmentBooked)


def test_a_hold_becomes_firm_until_its_last_instant_and_no_longer() -> None:
    held = a_clinic(hold(at("10:00"), reason="my knee"))
    firm = held.at(NOW + 10 * MIN - TICK).when(book_held())
    booked = firm.then(AppointmentBooked, ReservationConfirmed, ReservationConfirmed).events[0]
    assert (booked.period, booked.reason) == (span("10:00", "10:30"), "my knee")
    held.at(NOW + 10 * MIN).when(book_held()).refused(HoldEnded)


def test_a_firm_hold_no_longer_ends_by_the_clock() -> None:
    firm = a_clinic(hold(at("10:00")), book_held()).at(NOW + 60 * MIN)
    firm.when(book(at("10:00"), BEN, SECOND)).refused(SlotTaken)


def test_a_hold_that_somebody_booked_over_is_lost_even_to_a_clock_that_runs_behind() -> None:
    """Two processes' clocks differ by a little: one saw the hold ended and gave the time away, the other does not."""
    story = a_clinic(hold(at("10:00"))).at(NOW + 10 * MIN).when(book(at("10:00"), BEN, SECOND)).and_then()
    story.at(NOW + 10 * MIN - TICK).when(book_held()).refused(SlotTaken)


def test_a_held_seat_of_a_group_visit_is_not_lost_to_its_mates() -> None:
    story = a_clinic(
        hold(at("10:00"), visit_type_id=GROUP),
        book(at("10:00"), BEN, SECOND, visit_type_id=GROUP),
    )
    story.when(book_held()).happened(AppointmentBooked)


def test_a_hold_lapses_on_record_only_after_it_has_ended() -> None:
    held = a_clinic(hold(at("10:00")))
    held.at(NOW + 10 * MIN - TICK).when(lapse()).refused(HoldStillRuns)
    told = held.at(NOW + 10 * MIN).when(lapse()).then(HoldLapsed, TimeReleased, TimeReleased)
    assert {event.reason for event in told.events[1:]} == {ReleaseReason.LAPSED}


def test_a_late_lapse_takes_nothing_from_whoever_has_the_time_now() -> None:
    story = a_clinic(hold(at("10:00"))).at(NOW + 10 * MIN).when(book(at("10:00"), BEN, SECOND)).and_then()
    story.when(lapse()).and_then().when(book(at("10:00"), CARL, THIRD)).refused(SlotTaken)


def test_holds_count_towards_a_cap_while_they_live() -> None:
    held = a_clinic(hold(at("10:00")), rules=BookingRules(cap_per_day=1))
    held.when(book(at("11:00"), BEN, SECOND)).refused(DayCapReached)
    held.at(NOW + 10 * MIN).when(book(at("11:00"), BEN, SECOND)).happened(AppointmentBooked)


def test_an_unknown_visit_type_or_location_is_unknown() -> None:
    with pytest.raises(UnknownVisitType):
        book(at("10:00"), visit_type_id=uid(1))(a_clinic().book)
    with pytest.raises(UnknownLocation):
        book(at("10:00"), location_id=uid(1))(a_clinic().book)


def test_the_patient_of_the_request_is_the_one_whose_time_is_looked_at() -> None:
    """Whoever builds the wish may leave the patient out; the patient is still not booked twice."""
    busy = a_clinic(book(at("10:00")), clinic(provider_id=COLLEAGUE)).book
    asked = wish(at("10:00"), by_patient=True)
    diary = busy.diary(COLLEAGUE, asked)
    request = appointment.Request(SECOND, ANNA, Party.PATIENT)
    with pytest.raises(PatientBusy):
        appointment.book(diary, replace(asked, patient_id=None), request)
    with pytest.raises(NotSelfBookable):
        appointment.book(diary, replace(asked, visit_type_id=CLINIC_ONLY, by_patient=False), request)


def test_a_visit_keeps_its_fee_and_the_series_it_belongs_to() -> None:
    booked = booked_of(a_clinic().when(book(at("10:00"), visit_type_id=LONG)).events)
    assert booked.fee is not None
    assert (str(booked.fee.amount), booked.fee.currency) == ("80.00", "EUR")


def test_a_video_link_belongs_to_a_video_visit_alone() -> None:
    link = "https://video.example.org/x"
    plain = booked_of(a_clinic().when(book(at("10:00"), video_url=link)).events)
    video = booked_of(a_clinic().when(book(at("10:00"), video_url=link, mode=Mode.TELEMEDICINE)).events)
    assert (plain.video_url, video.video_url) == (None, link)


# Requests


def test_a_visit_that_needs_approval_is_requested_by_a_patient_and_holds_its_time_without_end() -> None:
    asked = a_clinic().when(book(at("10:00"), visit_type_id=REQUESTABLE))
    asked.then(AppointmentRequested, TimeReserved, TimeReserved)
    much_later = asked.and_then().at(NOW + 60 * MIN)
    much_later.when(book(at("10:00"), BEN, SECOND)).refused(SlotTaken)


def test_staff_book_a_visit_that_needs_approval_at_once() -> None:
    a_clinic().when(book(at("10:00"), visit_type_id=REQUESTABLE, by=Party.FRONT_DESK)).happened(AppointmentBooked)


def test_a_held_visit_that_needs_approval_is_requested_when_the_patient_makes_it_firm() -> None:
    held = a_clinic(hold(at("10:00"), visit_type_id=REQUESTABLE))
    requested = held.when(book_held(approval_needed=True))
    requested.then(AppointmentRequested, ReservationConfirmed, ReservationConfirmed)
    requested.and_then().at(NOW + 60 * MIN).when(book(at("10:00"), BEN, SECOND)).refused(SlotTaken)


def test_staff_make_such_a_hold_firm_at_once() -> None:
    held = a_clinic(hold(at("10:00"), visit_type_id=REQUESTABLE))
    held.when(book_held(by=Party.FRONT_DESK, approval_needed=True)).happened(AppointmentBooked)


def accept(seen: Book) -> list[Change]:
    return appointment.accept(seen.appointment(FIRST), Party.FRONT_DESK)


def decline(seen: Book) -> list[Change]:
    return appointment.decline(seen.appointment(FIRST), Party.FRONT_DESK, DeclineReason.NO_CAPACITY)


def test_an_accepted_request_is_booked_with_the_patients_words() -> None:
    asked = a_clinic(book(at("10:00"), visit_type_id=REQUESTABLE, reason="my knee"))
    booked = asked.when(accept).then(AppointmentBooked).events[0]
    assert (booked.reason, booked.by, booked.period) == ("my knee", Party.FRONT_DESK, span("10:00", "10:30"))


def test_words_that_were_erased_meanwhile_stay_erased() -> None:
    asked = a_clinic(book(at("10:00"), visit_type_id=REQUESTABLE, reason="my knee")).book
    state = asked.appointment(FIRST)
    forgotten = replace(state, arranged=state.arranged.model_copy(update={"reason": ERASED}))
    (_, booked), *_ = appointment.accept(forgotten, Party.FRONT_DESK)
    assert isinstance(booked, AppointmentBooked)
    assert booked.reason is None


def test_a_declined_request_gives_its_time_back() -> None:
    declined = a_clinic(book(at("10:00"), visit_type_id=REQUESTABLE)).when(decline)
    declined.then(AppointmentDeclined, TimeReleased, TimeReleased)
    declined.and_then().when(book(at("10:00"), BEN, SECOND)).happened(AppointmentBooked)


# Overrides


def test_staff_set_aside_a_rule_that_they_name_and_the_record_says_so() -> None:
    early = book(at("08:30"), by=Party.FRONT_DESK, override=setting_aside("outside_opening_hours"))
    booked = booked_of(a_clinic().when(early).happened(AppointmentBooked).events)
    assert booked.override is not None
    assert (booked.override.rules, booked.override.reason) == (("outside_opening_hours",), OverrideReason.URGENT_NEED)


def test_a_rule_that_was_not_named_still_stands() -> None:
    strict = a_clinic(rules=BookingRules(minimum_notice_minutes=600))
    early: dict[str, Any] = {"by": Party.FRONT_DESK, "override": setting_aside("outside_opening_hours")}
    strict.when(book(at("08:30"), **early)).refused(TooSoon)


def test_only_rules_that_were_really_broken_are_recorded() -> None:
    asked = setting_aside("too_soon", "outside_opening_hours", "day_cap_reached")
    booked = booked_of(a_clinic().when(book(at("08:30"), by=Party.FRONT_DESK, override=asked)).events)
    assert booked.override is not None
    assert booked.override.rules == ("outside_opening_hours",)
    within = booked_of(a_clinic().when(book(at("10:00"), by=Party.FRONT_DESK, override=asked)).events)
    assert within.override is None


@pytest.mark.parametrize("code", ["patient_busy", "time_blocked", "too_son", ""])
def test_what_is_no_overridable_rule_is_no_name_for_one(code: str) -> None:
    with pytest.raises(ValueError, match="rules"):
        setting_aside(code)


def test_every_overridable_rule_has_a_name() -> None:
    def below(kind: type[slots.BookingRefused]) -> list[type[slots.BookingRefused]]:
        return [kind, *(deeper for child in kind.__subclasses__() for deeper in below(child))]

    told = {kind.code for kind in below(slots.BookingRefused) if kind.overridable and "code" in vars(kind)}
    assert told | {"slot_taken"} == {rule.value for rule in appointment.OverridableRule}


@pytest.mark.parametrize("code", ["slot_taken", "patient_busy", "time_blocked", "resource_busy", "mode_not_offered"])
def test_a_conflict_can_never_be_set_aside(code: str) -> None:
    """Also not when it is named, by whatever way it got past the check of names: what is not overridable stands."""
    named = appointment.Override.model_construct(rules=(code,), reason=OverrideReason.URGENT_NEED)
    full: dict[str, Any] = {"by": Party.FRONT_DESK, "override": named}
    story = {
        "slot_taken": (a_clinic(book(at("10:00"))), book(at("10:00"), BEN, SECOND, **full)),
        "patient_busy": (
            a_clinic(book(at("10:00")), clinic(provider_id=COLLEAGUE)),
            book(at("10:00"), ANNA, SECOND, provider_id=COLLEAGUE, **full),
        ),
        "time_blocked": (a_clinic(block(span("10:00", "11:00"))), book(at("10:00"), **full)),
        "resource_busy": (
            a_clinic(clinic(provider_id=COLLEAGUE), book(at("10:00"), BEN, SECOND, resources=(ROOM,))),
            book(at("10:00"), provider_id=COLLEAGUE, resources=(ROOM,), **full),
        ),
        "mode_not_offered": (a_clinic(), book(at("10:00"), visit_type_id=REMOTE, mode=Mode.IN_PERSON, **full)),
    }
    before, decision = story[code]
    refusal = before.when(decision).refusal
    assert refusal is not None
    assert refusal.code == code


# Moving


def test_a_move_frees_the_old_time_and_takes_the_new_one_in_one_save() -> None:
    moved = a_clinic(book(at("10:00"))).when(move(at("14:00")))
    moved.then(AppointmentRescheduled, TimeReleased, TimeReleased, TimeReserved, TimeReserved)
    event = moved.events[0]
    assert (event.previous, event.period) == (span("10:00", "10:30"), span("14:00", "14:30"))
    after = moved.and_then()
    after.when(book(at("10:00"), BEN, SECOND)).happened(AppointmentBooked)
    after.when(book(at("14:00"), BEN, SECOND)).refused(SlotTaken)


def test_a_move_by_a_quarter_of_an_hour_is_not_in_its_own_way() -> None:
    moved = a_clinic(book(at("10:00"))).when(move(at("10:15"))).happened(AppointmentRescheduled).and_then()
    assert moved.book.entries(DOCTOR)[FIRST].occupied == span("10:15", "10:45")
    moved.when(book(at("10:00"), BEN, SECOND)).refused(SlotTaken)
    moved.when(book(at("09:45"), BEN, SECOND)).happened(AppointmentBooked)
    moved.when(book(at("10:45"), BEN, SECOND)).happened(AppointmentBooked)


def test_a_move_in_the_way_of_another_is_refused() -> None:
    two = a_clinic(book(at("10:00")), book(at("11:00"), BEN, SECOND))
    two.when(move(at("10:45"))).refused(SlotTaken)


def test_a_move_across_midnight_utc_leaves_one_page_and_takes_two() -> None:
    tokyo = a_clinic(
        book(at("08:00", MONDAY + DAY, "Asia/Tokyo")), place="Asia/Tokyo", weekly=every_day("08:00-17:00"), now=NOW
    )
    moved = tokyo.when(move(at("08:45", MONDAY + DAY, "Asia/Tokyo"))).happened(AppointmentRescheduled)
    taken = [(event.resource_id, event.day) for event in moved.events if isinstance(event, TimeReserved)]
    left = [(event.resource_id, event.day) for event in moved.events if isinstance(event, TimeReleased)]
    assert left == [(DOCTOR, MONDAY), (ANNA, MONDAY)]
    assert taken == [(owner, day) for owner in (DOCTOR, ANNA) for day in (MONDAY, MONDAY + DAY)]
    back = moved.and_then().when(move(at("09:15", MONDAY + DAY, "Asia/Tokyo"))).and_then()
    assert [page.day for page in back.book.pages() if page.entries] == [MONDAY + DAY] * 2


def test_a_move_to_another_provider_takes_their_time_and_leaves_the_old_ones() -> None:
    both = a_clinic(clinic(provider_id=COLLEAGUE), book(at("10:00")))
    moved = both.when(move(at("10:00"), provider_id=COLLEAGUE, by=Party.FRONT_DESK))
    event = moved.happened(AppointmentRescheduled).events[0]
    assert (event.provider_id, event.previous_provider_id) == (COLLEAGUE, DOCTOR)
    after = moved.and_then()
    assert FIRST not in after.book.entries(DOCTOR)
    assert {*after.book.entries(COLLEAGUE), *after.book.entries(ANNA)} == {FIRST}


def test_a_move_to_another_room_at_the_same_time_is_a_move() -> None:
    story = a_clinic(book(at("10:00"), resources=(ROOM,)))
    moved = story.when(move(at("10:00"), resources=(OTHER_ROOM,))).happened(AppointmentRescheduled).and_then()
    assert (dict(moved.book.entries(ROOM)), [*moved.book.entries(OTHER_ROOM)]) == ({}, [FIRST])


def test_a_move_to_where_it_is_already_is_nothing() -> None:
    a_clinic(book(at("10:00"))).when(move(at("10:00"))).refused(NothingToMove)


@pytest.mark.parametrize(("clock", "late"), [(at("08:00"), False), (at("08:00") + TICK, True)])
def test_moving_needs_notice(clock: datetime, late: bool) -> None:
    strict = a_clinic(book(at("10:00")), rules=BookingRules(move_notice_minutes=120)).at(clock)
    if late:
        strict.when(move(at("14:00"))).refused(TooLateToMove)
        insisted = strict.when(move(at("14:00"), by=Party.FRONT_DESK, override=setting_aside("too_late_to_move")))
        assert insisted.happened(AppointmentRescheduled).events[0].override.rules == ("too_late_to_move",)
    else:
        strict.when(move(at("14:00"))).happened(AppointmentRescheduled)


def test_a_move_obeys_the_rules_of_the_new_time() -> None:
    story = a_clinic(book(at("10:00")))
    story.when(move(at("18:00"))).refused(OutsideOpeningHours)
    story.when(move(at("18:00"), by=Party.FRONT_DESK, override=setting_aside("outside_opening_hours"))).happened(
        AppointmentRescheduled
    )


def test_a_move_within_a_full_day_does_not_count_itself() -> None:
    full = a_clinic(book(at("10:00")), rules=BookingRules(cap_per_day=1, cap_per_week=1))
    full.when(move(at("14:00"))).happened(AppointmentRescheduled)
    full.when(move(at("14:00", MONDAY + DAY))).happened(AppointmentRescheduled)


def test_a_patient_can_not_move_into_a_visit_that_needs_approval() -> None:
    """Else booking something plain and moving it would go round the approval."""
    story = a_clinic(book(at("10:00")))
    story.when(move(at("14:00"), visit_type_id=REQUESTABLE)).refused(NotSelfBookable)
    story.when(move(at("14:00"), visit_type_id=CLINIC_ONLY)).refused(NotSelfBookable)
    story.when(move(at("14:00"), visit_type_id=REQUESTABLE, by=Party.FRONT_DESK)).happened(AppointmentRescheduled)


def test_an_approved_visit_may_be_moved_by_its_patient() -> None:
    approved = a_clinic(book(at("10:00"), visit_type_id=REQUESTABLE), accept)
    approved.when(move(at("14:00"))).happened(AppointmentRescheduled)


def test_a_move_that_forgets_to_say_what_moves_is_still_about_that_appointment() -> None:
    story = a_clinic(book(at("10:00")))
    story.when(move(at("10:15"), moving=None)).happened(AppointmentRescheduled)


def test_a_visit_moved_from_video_into_the_room_gets_no_link() -> None:
    story = a_clinic(book(at("10:00"), mode=Mode.TELEMEDICINE, video_url="https://video.example.org/x"))
    moved = story.when(move(at("11:00"), mode=Mode.IN_PERSON, video_url="https://video.example.org/y"))
    assert moved.happened(AppointmentRescheduled).events[0].video_url is None


# Cancelling


def test_a_cancelled_visit_gives_its_time_back() -> None:
    cancelled = a_clinic(book(at("10:00"))).when(cancel(note="sorry"))
    cancelled.then(AppointmentCancelled, TimeReleased, TimeReleased)
    cancelled.and_then().when(book(at("10:00"), BEN, SECOND)).happened(AppointmentBooked)


@pytest.mark.parametrize(("clock", "late"), [(at("08:00"), False), (at("08:00") + TICK, True)])
def test_cancelling_needs_notice(clock: datetime, late: bool) -> None:
    strict = a_clinic(book(at("10:00")), rules=BookingRules(cancel_notice_minutes=120)).at(clock)
    if late:
        strict.when(cancel()).refused(TooLateToCancel)
        strict.when(cancel(override=setting_aside("too_late_to_move"))).refused(TooLateToCancel)
        desk = strict.when(cancel(by=Party.FRONT_DESK, override=setting_aside("too_late_to_cancel", "too_soon")))
        assert desk.happened(AppointmentCancelled).events[0].override.rules == ("too_late_to_cancel",)
    else:
        assert strict.when(cancel()).happened(AppointmentCancelled).events[0].override is None


def test_a_hold_and_a_request_may_be_given_back_inside_the_notice() -> None:
    strict: dict[str, Any] = {"rules": BookingRules(cancel_notice_minutes=600)}
    a_clinic(hold(at("10:00")), **strict).when(cancel()).happened(AppointmentCancelled)
    a_clinic(book(at("10:00"), visit_type_id=REQUESTABLE), **strict).when(cancel()).happened(AppointmentCancelled)


def test_a_patient_who_did_not_come_can_not_cancel_or_move_afterwards() -> None:
    """Also where no notice is asked for: once it has begun, a visit that nobody came to is a no-show."""
    begun = a_clinic(book(at("10:00"))).at(at("10:00") + TICK)
    begun.when(cancel()).refused(TooLateToCancel)
    begun.when(move(at("14:00"))).refused(TooLateToMove)
    begun.when(cancel(by=Party.FRONT_DESK)).happened(AppointmentCancelled)
    begun.when(move(at("14:00"), by=Party.FRONT_DESK)).happened(AppointmentRescheduled)
    a_clinic(book(at("10:00"))).at(at("10:00")).when(cancel()).happened(AppointmentCancelled)


# Attending


def test_a_visit_is_not_over_or_missed_before_it_is_due() -> None:
    booked = a_clinic(book(at("10:00"))).at(at("10:00") - TICK)
    booked.when(complete).refused(TooEarly)
    booked.when(no_show).refused(TooEarly)
    due = booked.at(at("10:00"))
    due.when(complete).then(VisitCompleted)
    due.when(no_show).then(PatientDidNotCome)


def test_a_visit_that_began_early_may_end_early() -> None:
    early = a_clinic(book(at("10:00")), check_in, start).at(at("09:55"))
    early.when(complete).then(VisitCompleted)


def test_an_entry_in_error_gives_its_time_back_once() -> None:
    wrong = a_clinic(book(at("10:00"))).when(in_error)
    wrong.then(AppointmentEnteredInError, TimeReleased, TimeReleased)
    a_clinic(book(at("10:00")), cancel()).when(in_error).then(AppointmentEnteredInError)


def complete(seen: Book) -> list[Change]:
    return appointment.complete(seen.appointment(FIRST), Outcome.DONE, seen.now, "all well")


def no_show(seen: Book) -> list[Change]:
    return appointment.did_not_come(seen.appointment(FIRST), seen.now)


def check_in(seen: Book) -> list[Change]:
    return appointment.check_in(seen.appointment(FIRST), seen.now)


def start(seen: Book) -> list[Change]:
    return appointment.start(seen.appointment(FIRST), seen.now)


def in_error(seen: Book) -> list[Change]:
    return appointment.enter_in_error(seen.appointment(FIRST), Party.FRONT_DESK)


# What may follow what

REACHED: dict[Status, list[Decision]] = {
    Status.HELD: [hold(at("10:00"))],
    Status.REQUESTED: [book(at("10:00"), visit_type_id=REQUESTABLE)],
    Status.BOOKED: [book(at("10:00"))],
    Status.CHECKED_IN: [book(at("10:00")), check_in],
    Status.IN_PROGRESS: [book(at("10:00")), check_in, start],
    Status.COMPLETED: [book(at("10:00")), check_in, start, complete],
    Status.CANCELLED: [book(at("10:00")), cancel()],
    Status.DECLINED: [book(at("10:00"), visit_type_id=REQUESTABLE), decline],
    Status.ENTERED_IN_ERROR: [book(at("10:00")), in_error],
    Status.NO_SHOW: [book(at("10:00"))],
    Status.LAPSED: [hold(at("10:00"))],
}

ASKED: dict[str, Decision] = {
    "book_held": book_held(),
    "accept": accept,
    "decline": decline,
    "move": move(at("14:00"), by=Party.FRONT_DESK),
    "cancel": cancel(by=Party.FRONT_DESK),
    "check_in": check_in,
    "start": start,
    "complete": complete,
    "no_show": no_show,
    "in_error": in_error,
    "lapse": lapse(),
}

FOLLOWS: dict[Status, dict[str, Status]] = {
    Status.HELD: {
        "book_held": Status.BOOKED,
        "cancel": Status.CANCELLED,
        "in_error": Status.ENTERED_IN_ERROR,
        "lapse": Status.LAPSED,
    },
    Status.REQUESTED: {
        "accept": Status.BOOKED,
        "decline": Status.DECLINED,
        "cancel": Status.CANCELLED,
        "in_error": Status.ENTERED_IN_ERROR,
    },
    Status.BOOKED: {
        "move": Status.BOOKED,
        "cancel": Status.CANCELLED,
        "check_in": Status.CHECKED_IN,
        "start": Status.IN_PROGRESS,
        "complete": Status.COMPLETED,
        "no_show": Status.NO_SHOW,
        "in_error": Status.ENTERED_IN_ERROR,
    },
    Status.CHECKED_IN: {
        "start": Status.IN_PROGRESS,
        "complete": Status.COMPLETED,
        "in_error": Status.ENTERED_IN_ERROR,
    },
    Status.IN_PROGRESS: {"complete": Status.COMPLETED, "in_error": Status.ENTERED_IN_ERROR},
    Status.COMPLETED: {"in_error": Status.ENTERED_IN_ERROR},
    Status.NO_SHOW: {"in_error": Status.ENTERED_IN_ERROR},
    Status.CANCELLED: {"in_error": Status.ENTERED_IN_ERROR},
    Status.DECLINED: {"in_error": Status.ENTERED_IN_ERROR},
    Status.LAPSED: {"in_error": Status.ENTERED_IN_ERROR},
    Status.ENTERED_IN_ERROR: {},
}


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("asked", ASKED)
def test_each_status_leads_where_it_may_and_nowhere_else(status: Status, asked: str) -> None:
    story = a_clinic()
    for step in REACHED[status]:
        story = story.when(step).and_then()
    if status is Status.NO_SHOW:
        story = story.at(at("10:00")).when(no_show).and_then()
    if status is Status.LAPSED:
        story = story.at(NOW + 10 * MIN).when(lapse()).and_then()
    assert story.book.appointment(FIRST).status is status

    due = asked not in {"book_held", "cancel", "move"}
    told = story.at(at("10:00") if due else NOW).when(ASKED[asked])
    if asked in FOLLOWS[status]:
        assert told.and_then().book.appointment(FIRST).status is FOLLOWS[status][asked]
    else:
        told.refused(WrongStatus, appointment_status=status.value)


def test_every_status_has_a_word_in_fhir_r4() -> None:
    """https://hl7.org/fhir/R4/valueset-appointmentstatus.html"""
    words = {"proposed", "pending", "booked", "arrived", "fulfilled", "cancelled", "noshow", "entered-in-error"}
    assert set(FHIR_STATUS) == set(Status)
    assert set(FHIR_STATUS.values()) <= words | {"checked-in", "waitlist"}


@pytest.mark.parametrize(
    "decide",
    [
        lambda state: appointment.evolve(None, AppointmentCancelled(**_cancelled(state))),
        lambda state: appointment.evolve(state, LocationSet(provider_id=DOCTOR, location=_location())),
    ],
)
def test_events_out_of_place_are_a_fault_and_no_refusal(decide: Callable[[Appointment], object]) -> None:
    state = a_clinic(book(at("10:00"))).book.appointment(FIRST)
    with pytest.raises(TypeError):
        decide(state)


def _cancelled(state: Appointment) -> dict[str, object]:
    return {
        "appointment_id": state.id,
        "patient_id": state.patient_id,
        "provider_id": state.provider_id,
        "reason": "other",
        "by": "patient",
    }


def _location() -> object:
    return a_clinic().book.provider(DOCTOR).locations[CLINIC]


# Group visits


def test_a_group_visit_is_joined_until_it_is_full() -> None:
    story = a_clinic()
    for number in range(3):
        story = story.when(book(at("10:00"), uid(20 + number), uid(30 + number), visit_type_id=GROUP)).and_then()
    sessions = {state.session_id for state in story.book.appointments()}
    assert len(sessions) == 1
    refusal = story.when(book(at("10:00"), BEN, SECOND, visit_type_id=GROUP)).refusal
    assert refusal is not None
    assert refusal.code == "session_full"


def test_a_seat_given_up_is_free_again() -> None:
    story = a_clinic(
        *(book(at("10:00"), uid(20 + number), uid(30 + number), visit_type_id=GROUP) for number in range(3)),
        cancel(uid(30)),
    )
    story.when(book(at("10:00"), BEN, SECOND, visit_type_id=GROUP)).happened(AppointmentBooked)


def test_another_session_does_not_fit_beside_a_group_visit() -> None:
    group = a_clinic(book(at("10:00"), visit_type_id=GROUP))
    group.when(book(at("10:30"), BEN, SECOND, visit_type_id=GROUP)).refused(SlotTaken)
    group.when(book(at("10:00"), BEN, SECOND, visit_type_id=CHECKUP)).refused(SlotTaken)
    group.when(book(at("11:00"), BEN, SECOND, visit_type_id=GROUP)).happened(AppointmentBooked)


def test_one_person_takes_one_seat() -> None:
    group = a_clinic(book(at("10:00"), visit_type_id=GROUP))
    group.when(book(at("10:00"), ANNA, SECOND, visit_type_id=GROUP)).refused(PatientBusy)


def test_a_group_meets_in_one_place() -> None:
    """The same visit type at the same time in the branch is another session, and the provider can't be in both."""
    branch = Location(id=BRANCH, name="Branch", time_zone="Europe/Berlin")
    story = a_clinic(
        LocationSet(provider_id=DOCTOR, location=branch),
        WeeklyHoursPublished(
            provider_id=DOCTOR, location_id=BRANCH, valid_from=date(2000, 1, 1), hours=every_day("09:00-17:00")
        ),
        book(at("10:00"), visit_type_id=GROUP),
    )
    story.when(book(at("10:00"), BEN, SECOND, visit_type_id=GROUP, location_id=BRANCH)).refused(SlotTaken)
    story.when(book(at("10:00"), BEN, SECOND, visit_type_id=GROUP)).happened(AppointmentBooked)


def test_a_session_that_grew_longer_does_not_reach_into_the_next_visit() -> None:
    """The visit type was changed after the first seat was taken; the next seat would take half an hour more."""
    longer = VisitTypeSet(
        provider_id=DOCTOR, visit_type=VisitType(id=GROUP, name="back school", duration_minutes=90, seats=3)
    )
    story = a_clinic(book(at("10:00"), visit_type_id=GROUP), book(at("11:00"), BEN, SECOND), longer)
    story.when(book(at("10:00"), CARL, THIRD, visit_type_id=GROUP)).refused(SlotTaken)
    alone = a_clinic(book(at("10:00"), visit_type_id=GROUP), longer)
    alone.when(book(at("10:00"), CARL, THIRD, visit_type_id=GROUP)).happened(AppointmentBooked)


def test_a_session_whose_places_became_fewer_takes_no_more_than_them() -> None:
    fewer = VisitTypeSet(
        provider_id=DOCTOR, visit_type=VisitType(id=GROUP, name="back school", duration_minutes=60, seats=2)
    )
    story = a_clinic(book(at("10:00"), visit_type_id=GROUP), book(at("10:00"), BEN, SECOND, visit_type_id=GROUP), fewer)
    refusal = story.when(book(at("10:00"), CARL, THIRD, visit_type_id=GROUP)).refusal
    assert refusal is not None
    assert refusal.code == "session_full"
    assert at("10:00") not in free(story.book, wish(at("10:00"), visit_type_id=GROUP, patient_id=None))


# Overbooking


OVERBOOK = appointment.Override(rules=("slot_taken",), reason=OverrideReason.URGENT_NEED)


@pytest.mark.parametrize("allowance", [0, 1, 2])
def test_overbooking_goes_as_far_as_the_allowance_and_no_further(allowance: int) -> None:
    story = a_clinic(book(at("10:00"), uid(20), uid(30)), rules=BookingRules(overbooking_allowance=allowance))
    for number in range(1, allowance + 1):
        story = story.when(book(at("10:00"), uid(20 + number), uid(30 + number), override=OVERBOOK)).and_then()
    story.when(book(at("10:00"), BEN, SECOND, override=OVERBOOK)).refused(SlotTaken)


def test_an_overbooked_time_is_neither_shown_nor_booked_without_a_reason() -> None:
    story = a_clinic(book(at("10:00")), rules=BookingRules(overbooking_allowance=1))
    assert at("10:00") not in free(story.book, wish(at("10:00"), patient_id=None))
    story.when(book(at("10:00"), BEN, SECOND)).refused(SlotTaken)
    told = story.when(book(at("10:00"), BEN, SECOND, override=OVERBOOK)).happened(AppointmentBooked)
    assert [event.override for event in told.events if isinstance(event, AppointmentBooked)] == [OVERBOOK]


def test_the_allowance_counts_what_is_under_way_at_one_instant() -> None:
    """Two visits one after the other, beside a long one, are never three at once."""
    story = a_clinic(
        book(at("10:00"), uid(20), uid(30)),
        book(at("10:30"), uid(21), uid(31)),
        rules=BookingRules(overbooking_allowance=1),
    )
    beside = book(at("10:00"), BEN, SECOND, visit_type_id=LONG, override=OVERBOOK)
    both = story.when(beside).happened(AppointmentBooked).and_then()
    both.when(book(at("10:30"), CARL, THIRD, override=OVERBOOK)).refused(SlotTaken)


def test_the_allowance_is_the_providers_and_not_the_rooms() -> None:
    story = a_clinic(book(at("10:00"), resources=(ROOM,)), rules=BookingRules(overbooking_allowance=1))
    refusal = story.when(book(at("10:00"), BEN, SECOND, resources=(ROOM,), override=OVERBOOK)).refusal
    assert refusal is not None
    assert refusal.code == "resource_busy"
    other = book(at("10:00"), BEN, SECOND, resources=(OTHER_ROOM,), override=OVERBOOK)
    story.when(other).happened(AppointmentBooked)


# Midnight UTC


def test_buffers_reach_across_midnight_utc() -> None:
    """In Tokyo 09:00 is midnight UTC: a visit at 09:00 keeps its quarter before on the page of the day before."""
    tokyo: dict[str, Any] = {"place": "Asia/Tokyo", "weekly": every_day("08:00-17:00")}
    tuesday = date(2026, 3, 3)
    story = a_clinic(book(at("09:00", tuesday, "Asia/Tokyo"), visit_type_id=BUFFERED), **tokyo)
    assert {page.day for page in story.book.pages() if page.resource_id == DOCTOR} == {MONDAY, tuesday}
    assert {page.day for page in story.book.pages() if page.resource_id == ANNA} == {tuesday}
    story.when(book(at("08:30", tuesday, "Asia/Tokyo"), BEN, SECOND)).refused(SlotTaken)
    story.when(book(at("08:15", tuesday, "Asia/Tokyo"), BEN, SECOND)).happened(AppointmentBooked)
    story.when(cancel()).and_then().when(book(at("08:30", tuesday, "Asia/Tokyo"), BEN, SECOND)).happened(
        AppointmentBooked
    )
