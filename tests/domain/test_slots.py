"""Which times are offered, and what is said of those that are not: every rule at its border."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from domain import slots
from domain.appointment import AppointmentBooked, Party
from domain.provider import BookingRules, Holiday, Mode, PublicHolidaysObserved, TimeOffCancelled, VisitType
from domain.refusals import Refusal, Unknown
from domain.resource import ResourceRetiredFromUse
from domain.slots import (
    BeyondHorizon,
    DayCapReached,
    InThePast,
    ModeNotOffered,
    NotSelfBookable,
    OffSlotStep,
    OutsideOpeningHours,
    PatientBusy,
    ProviderAway,
    PublicHoliday,
    ResourceBusy,
    ResourceMissing,
    ResourceRetired,
    SessionFull,
    SlotTaken,
    TimeIsBlocked,
    TooSoon,
    WeekCapReached,
)
from tests.domain.clinic import (
    ANNA,
    BEN,
    BUFFERED,
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
    ROOM,
    SCAN,
    SCANNER,
    SECOND,
    TICK,
    TIME_OFF,
    a_clinic,
    at,
    away,
    block,
    book,
    cancel,
    clinic,
    every_day,
    free,
    hold,
    open_on,
    span,
    uid,
    wish,
)
from tests.given import Book, Given

DAY = timedelta(days=1)
HOLIDAY = PublicHolidaysObserved(
    provider_id=DOCTOR,
    location_id=UUID(int=0xC11),
    first=MONDAY,
    last=MONDAY,
    holidays=(Holiday(day=MONDAY, name="Founders' Day"),),
)


def test_the_past_is_past_from_its_first_instant() -> None:
    a_clinic().at(at("10:00")).when(book(at("10:00"))).happened(AppointmentBooked)
    a_clinic().at(at("10:00") + TICK).when(book(at("10:00"))).refused(InThePast)


def test_minimum_notice() -> None:
    strict = a_clinic(rules=BookingRules(minimum_notice_minutes=60))
    strict.at(at("09:00")).when(book(at("10:00"))).happened(AppointmentBooked)
    strict.at(at("09:00") + TICK).when(book(at("10:00"))).refused(TooSoon, earliest=at("10:00") + TICK)


def test_the_horizon() -> None:
    near = a_clinic(rules=BookingRules(horizon_days=7))
    next_week = at("10:00", MONDAY + 7 * DAY)
    near.at(at("10:00")).when(book(next_week)).happened(AppointmentBooked)
    near.at(at("10:00") - TICK).when(book(next_week)).refused(BeyondHorizon)


@pytest.mark.parametrize(
    ("clock", "inside"), [("08:45", False), ("09:00", True), ("16:30", True), ("16:45", False), ("17:00", False)]
)
def test_opening_hours_hold_the_whole_visit(clock: str, inside: bool) -> None:
    told = a_clinic().when(book(at(clock)))
    if inside:
        told.happened(AppointmentBooked)
    else:
        told.refused(OutsideOpeningHours, because=None)


def test_a_closed_day_says_that_it_has_no_hours() -> None:
    closed = a_clinic(open_on(MONDAY))
    closed.when(book(at("10:00"))).refused(OutsideOpeningHours, because="closed_by_exception", open=[])


def test_a_public_holiday_closes_and_names_itself() -> None:
    a_clinic(HOLIDAY).when(book(at("10:00"))).refused(PublicHoliday, holiday="Founders' Day")
    a_clinic(HOLIDAY).when(book(at("10:00", MONDAY + DAY))).happened(AppointmentBooked)


def test_a_dated_exception_opens_on_a_holiday() -> None:
    both = a_clinic(HOLIDAY, open_on(MONDAY, "10:00-12:00"))
    both.when(book(at("10:00"))).happened(AppointmentBooked)
    both.when(book(at("14:00"))).refused(OutsideOpeningHours)


def test_hours_past_midnight_belong_to_the_evening_that_they_began_on() -> None:
    night = a_clinic(weekly=every_day("22:00-02:00"))
    found = free(night.book, wish(NOW))
    assert (found[0], found[-1]) == (at("22:00"), at("01:30", MONDAY + DAY))
    night.when(book(at("01:30", MONDAY + DAY))).happened(AppointmentBooked)
    night.when(book(at("23:45"))).happened(AppointmentBooked)
    night.when(book(at("01:45", MONDAY + DAY))).refused(OutsideOpeningHours)


def test_visits_start_on_the_step_counted_from_the_opening() -> None:
    odd = a_clinic(weekly=every_day("09:10-12:00"), rules=BookingRules(slot_step_minutes=20))
    odd.when(book(at("09:30"))).happened(AppointmentBooked)
    odd.when(book(at("09:20"))).refused(OffSlotStep, step_minutes=20, opening=at("09:10"))
    assert free(odd.book, wish(NOW))[:3] == [at("09:10"), at("09:30"), at("09:50")]


def test_a_provider_who_is_away_sees_nobody_until_they_are_back() -> None:
    gone = a_clinic(away(span("10:00", "12:00")))
    gone.when(book(at("09:30"))).happened(AppointmentBooked)
    gone.when(book(at("09:45"))).refused(ProviderAway, until=at("12:00"))
    gone.when(book(at("11:45"))).refused(ProviderAway)
    gone.when(book(at("12:00"))).happened(AppointmentBooked)
    back = a_clinic(away(span("10:00", "12:00")), TimeOffCancelled(provider_id=DOCTOR, time_off_id=TIME_OFF))
    back.when(book(at("10:00"))).happened(AppointmentBooked)


def test_a_mode_that_is_not_offered() -> None:
    a_clinic().when(book(at("10:00"), visit_type_id=REMOTE)).refused(ModeNotOffered, offered=["telemedicine"])
    a_clinic().when(book(at("10:00"), visit_type_id=REMOTE, mode=Mode.TELEMEDICINE)).happened(AppointmentBooked)


def test_a_visit_type_that_patients_do_not_book_themselves() -> None:
    a_clinic().when(book(at("10:00"), visit_type_id=CLINIC_ONLY)).refused(NotSelfBookable)
    a_clinic().when(book(at("10:00"), visit_type_id=CLINIC_ONLY, by=Party.FRONT_DESK)).happened(AppointmentBooked)


# What a visit needs


def test_a_visit_that_needs_a_room_and_a_device_names_them() -> None:
    a_clinic().when(book(at("10:00"), visit_type_id=SCAN)).refused(ResourceMissing, kind="room")
    a_clinic().when(book(at("10:00"), visit_type_id=SCAN, resources=(ROOM,))).refused(ResourceMissing, kind="device")
    both = a_clinic().when(book(at("10:00"), visit_type_id=SCAN, resources=(ROOM, SCANNER))).happened(AppointmentBooked)
    assert {*both.and_then().book.entries(SCANNER)} == {FIRST}


def test_a_visit_that_needs_two_rooms_names_two() -> None:
    two = VisitType(id=SCAN, name="scan", duration_minutes=30, needs=("room", "room"))
    story = a_clinic(visit_types=(two,))
    story.when(book(at("10:00"), visit_type_id=SCAN, resources=(ROOM,))).refused(ResourceMissing, kind="room")
    story.when(book(at("10:00"), visit_type_id=SCAN, resources=(ROOM, OTHER_ROOM))).happened(AppointmentBooked)


def test_a_retired_resource_takes_no_new_visit() -> None:
    story = a_clinic(book(at("10:00"), resources=(ROOM,)), ResourceRetiredFromUse(resource_id=ROOM))
    story.when(book(at("11:00"), BEN, SECOND, resources=(ROOM,))).refused(ResourceRetired)
    story.when(cancel()).happened(type(story.when(cancel()).events[0]))


def test_what_is_no_resource_can_not_be_taken_as_one() -> None:
    """Else anybody could fill another patient's day by naming them as a room."""
    for key in (uid(1), BEN, COLLEAGUE):
        a_clinic().when(book(at("10:00"), resources=(key,))).refused(Unknown, id=str(key))


def test_a_room_in_use_is_busy_whoever_uses_it() -> None:
    story = a_clinic(clinic(provider_id=COLLEAGUE), book(at("10:00"), resources=(ROOM,)))
    asked = {"provider_id": COLLEAGUE, "resources": (ROOM,)}
    story.when(book(at("10:15"), BEN, SECOND, **asked)).refused(ResourceBusy)
    story.when(book(at("10:30"), BEN, SECOND, **asked)).happened(AppointmentBooked)
    blocked = a_clinic(block(span("10:00", "11:00"), resource_id=ROOM))
    blocked.when(book(at("10:00"), resources=(ROOM,))).refused(ResourceBusy)
    blocked.when(book(at("10:00"), resources=(OTHER_ROOM,))).happened(AppointmentBooked)


# What occupies time


def test_a_taken_time_says_until_when_and_not_by_whom() -> None:
    refusal = a_clinic(book(at("10:00"))).when(book(at("10:15"), BEN, SECOND)).refused(SlotTaken)
    assert refusal.details == {"occupied": [{"start": at("10:00"), "end": at("10:30")}]}
    assert str(ANNA) not in str(refusal) + str(refusal.details)
    assert str(FIRST) not in str(refusal) + str(refusal.details)


def test_neighbours_do_not_disturb_each_other() -> None:
    story = a_clinic(book(at("10:00")))
    story.when(book(at("09:30"), BEN, SECOND)).happened(AppointmentBooked)
    story.when(book(at("10:30"), BEN, SECOND)).happened(AppointmentBooked)


@pytest.mark.parametrize(
    ("clock", "free_"), [("09:15", True), ("09:30", False), ("10:30", False), ("10:45", False), ("11:00", True)]
)
def test_buffers_keep_their_distance_on_both_sides(clock: str, free_: bool) -> None:
    """Minor surgery at 10:00 keeps a quarter before and half an hour after."""
    told = a_clinic(book(at("10:00"), visit_type_id=BUFFERED)).when(book(at(clock), BEN, SECOND))
    if free_:
        told.happened(AppointmentBooked)
    else:
        told.refused(SlotTaken)


def test_buffers_of_the_new_visit_count_too() -> None:
    story = a_clinic(book(at("10:00")))
    story.when(book(at("10:30"), BEN, SECOND, visit_type_id=BUFFERED)).refused(SlotTaken)
    story.when(book(at("10:45"), BEN, SECOND, visit_type_id=BUFFERED)).happened(AppointmentBooked)


def test_a_patient_is_in_one_place_at_a_time() -> None:
    story = a_clinic(clinic(provider_id=COLLEAGUE), book(at("10:00")))
    story.when(book(at("10:15"), ANNA, SECOND, provider_id=COLLEAGUE)).refused(PatientBusy)
    story.when(book(at("10:30"), ANNA, SECOND, provider_id=COLLEAGUE)).happened(AppointmentBooked)


def test_a_room_keeps_its_distance_too() -> None:
    story = a_clinic(clinic(provider_id=COLLEAGUE), book(at("10:00"), resources=(ROOM,)))
    asked = {"provider_id": COLLEAGUE, "resources": (ROOM,), "visit_type_id": BUFFERED}
    story.when(book(at("10:30"), BEN, SECOND, **asked)).refused(ResourceBusy)
    story.when(book(at("10:45"), BEN, SECOND, **asked)).happened(AppointmentBooked)


def test_a_blocked_time_is_not_open() -> None:
    story = a_clinic(block(span("10:00", "11:00")))
    story.when(book(at("09:45"))).refused(TimeIsBlocked)
    story.when(book(at("11:00"))).happened(AppointmentBooked)


def test_no_allowance_reaches_over_a_block() -> None:
    story = a_clinic(block(span("10:00", "11:00")), rules=BookingRules(overbooking_allowance=5))
    story.when(book(at("10:00"))).refused(TimeIsBlocked)


def full_group() -> Given:
    return a_clinic(
        *(book(at("10:00"), uid(20 + number), uid(30 + number), visit_type_id=GROUP) for number in range(3))
    )


def test_a_full_group_visit() -> None:
    full_group().when(book(at("10:00"), BEN, SECOND, visit_type_id=GROUP)).refused(SessionFull)


def test_free_places_of_a_group_visit_are_counted() -> None:
    def left(book_: Book) -> dict[object, int]:
        asked = wish(NOW, visit_type_id=GROUP, patient_id=None)
        diary = book_.diary_between(DOCTOR, asked, MONDAY, MONDAY)
        return {slot.period.start: slot.seats_left for slot in slots.free_slots(diary, asked, MONDAY, MONDAY)}

    one = a_clinic(book(at("10:00"), visit_type_id=GROUP), hold(at("10:00"), BEN, SECOND, visit_type_id=GROUP))
    assert (left(one.book)[at("10:00")], left(one.book)[at("11:00")]) == (1, 3)
    assert left(one.at(NOW + timedelta(minutes=10)).book)[at("10:00")] == 2
    assert at("10:00") not in left(full_group().book)


# Caps


def test_a_cap_counts_live_visits_of_the_local_day() -> None:
    capped = a_clinic(book(at("10:00")), rules=BookingRules(cap_per_day=1))
    capped.when(book(at("16:00"), BEN, SECOND)).refused(DayCapReached)
    capped.when(book(at("10:00", MONDAY + DAY), BEN, SECOND)).happened(AppointmentBooked)
    capped.when(cancel()).and_then().when(book(at("16:00"), BEN, SECOND)).happened(AppointmentBooked)


def test_a_day_is_counted_in_the_zone_of_the_location() -> None:
    """In Tokyo 08:00 on Tuesday is still Monday in UTC, and 10:00 is Tuesday: one local day, two pages."""
    tokyo: dict[str, Any] = {
        "place": "Asia/Tokyo",
        "weekly": every_day("06:00-22:00"),
        "rules": BookingRules(cap_per_day=1),
    }
    tuesday = MONDAY + DAY
    capped = a_clinic(book(at("08:00", tuesday, "Asia/Tokyo")), **tokyo)
    capped.when(book(at("10:00", tuesday, "Asia/Tokyo"), BEN, SECOND)).refused(DayCapReached)
    capped.when(book(at("20:00", MONDAY, "Asia/Tokyo"), BEN, SECOND)).happened(AppointmentBooked)
    assert free(capped.book, wish(NOW, patient_id=None), tuesday, tuesday) == []


def test_a_week_runs_from_monday_to_sunday_in_the_zone_of_the_location() -> None:
    honolulu: dict[str, Any] = {
        "place": "Pacific/Honolulu",
        "weekly": every_day("06:00-22:00"),
        "rules": BookingRules(cap_per_week=1),
    }
    sunday = MONDAY + 6 * DAY
    capped = a_clinic(book(at("20:00", sunday, "Pacific/Honolulu")), **honolulu)  # Monday 06:00 in UTC
    capped.when(book(at("09:00", MONDAY, "Pacific/Honolulu"), BEN, SECOND)).refused(WeekCapReached)
    capped.when(book(at("06:00", sunday + DAY, "Pacific/Honolulu"), BEN, SECOND)).happened(AppointmentBooked)
    capped.when(book(at("20:00", MONDAY + 7 * DAY, "Pacific/Honolulu"), BEN, SECOND)).happened(AppointmentBooked)


def test_a_cap_counts_a_visit_on_the_day_that_it_starts() -> None:
    night: dict[str, Any] = {"weekly": every_day("20:00-04:00"), "rules": BookingRules(cap_per_day=1)}
    capped = a_clinic(book(at("23:30"), visit_type_id=LONG), **night)
    capped.when(book(at("21:00"), BEN, SECOND)).refused(DayCapReached)
    capped.when(book(at("02:00", MONDAY + DAY), BEN, SECOND)).happened(AppointmentBooked)


def test_blocks_do_not_count_towards_a_cap() -> None:
    capped = a_clinic(block(span("10:00", "11:00")), rules=BookingRules(cap_per_day=1))
    capped.when(book(at("12:00"))).happened(AppointmentBooked)


# Asking for free times


def test_free_times_leave_out_what_is_taken() -> None:
    story = a_clinic(book(at("09:30")), weekly=every_day("09:00-11:00"), rules=BookingRules(slot_step_minutes=30))
    assert free(story.book, wish(NOW, patient_id=None)) == [at("09:00"), at("10:00"), at("10:30")]


def test_every_reason_is_named_at_once() -> None:
    story = a_clinic(book(at("10:00")), away(span("09:00", "12:00")), rules=BookingRules(cap_per_day=1))
    asked = wish(at("10:00"), patient_id=ANNA, visit_type_id=REMOTE)
    told = [refusal.code for refusal in slots.refusals(story.at(at("11:00")).book.diary(DOCTOR, asked), asked)]
    assert told == ["mode_not_offered", "in_the_past", "provider_away", "day_cap_reached", "slot_taken", "patient_busy"]


def test_the_nearest_times_lie_on_both_sides_of_the_wish() -> None:
    story = a_clinic(book(at("12:00")), rules=BookingRules(slot_step_minutes=30))
    asked = wish(at("12:00"), patient_id=BEN)
    diary = story.book.diary_between(DOCTOR, asked, *slots.days_around(story.book.provider(DOCTOR), asked, NOW))
    found = [slot.period.start for slot in slots.nearest(diary, asked)]
    assert found == [at("11:00"), at("11:30"), at("12:30")]
    without = [slot.period.start for slot in slots.nearest(diary, asked, but=[at("11:15")])]
    assert without == [at("10:30"), at("12:30"), at("13:00")]


def test_a_rule_never_takes_an_unread_page_for_an_empty_one() -> None:
    asked = wish(at("10:00"))
    diary = a_clinic().book.diary(DOCTOR, asked)
    with pytest.raises(KeyError):
        list(slots.refusals(diary, wish(at("10:00", MONDAY + DAY))))
    with pytest.raises(KeyError):
        list(slots.free_slots(diary, asked, MONDAY, MONDAY + DAY))


def test_every_code_is_its_own() -> None:
    def below(kind: type[Refusal]) -> list[type[Refusal]]:
        return [kind, *(deeper for child in kind.__subclasses__() for deeper in below(child))]

    # Other tests may have made refusals of their own.
    told = [kind for kind in below(Refusal) if "code" in vars(kind) and not kind.__module__.startswith("tests")]
    assert len({kind.code for kind in told}) == len(told)
