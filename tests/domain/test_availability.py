"""Stories of a page: what stands on it, and what may be blocked."""

from __future__ import annotations

from datetime import timedelta

import pytest

from domain import availability
from domain.appointment import AppointmentBooked, AppointmentCancelled
from domain.availability import (
    Entry,
    Shelf,
    SortedShelf,
    TimeBlocked,
    TimeInUse,
    TimeReleased,
    TimeReserved,
    TimeUnblocked,
    UnknownBlock,
    in_the_way,
)
from domain.resource import ResourceRegistered, ResourceRetiredFromUse
from domain.slots import SlotTaken, TimeIsBlocked
from domain.time import Period
from tests.domain.clinic import (
    ANNA,
    BEN,
    BLOCK,
    BUFFERED,
    DOCTOR,
    FIRST,
    MONDAY,
    NOW,
    ROOM,
    SECOND,
    a_clinic,
    at,
    block,
    book,
    cancel,
    hold,
    span,
    uid,
    unblock,
)

DAY = timedelta(days=1)


def test_a_block_stands_on_every_utc_day_that_it_covers() -> None:
    over_night = Period(at("23:00"), at("02:00", MONDAY + DAY))
    told = a_clinic().when(block(over_night)).then(TimeBlocked, TimeBlocked)
    assert [event.day for event in told.events] == [MONDAY, MONDAY + DAY]
    gone = told.and_then().when(unblock(Period(at("23:00"), at("23:30"))))
    assert [event.day for event in gone.then(TimeUnblocked, TimeUnblocked).events] == [MONDAY, MONDAY + DAY]


def test_a_block_over_live_visits_is_refused_and_names_them_to_staff() -> None:
    booked = a_clinic(book(at("10:00"), visit_type_id=BUFFERED))
    booked.when(block(span("10:45", "12:00"))).refused(TimeInUse, appointments=[str(FIRST)])
    booked.when(block(span("11:00", "12:00"))).then(TimeBlocked)


def test_staff_may_insist_and_the_visits_stand() -> None:
    insisted = a_clinic(book(at("10:00"))).when(block(span("09:00", "12:00"), over_visits=True)).then(TimeBlocked)
    after = insisted.and_then()
    assert after.book.appointment(FIRST).status.value == "booked"
    after.when(book(at("10:00"), BEN, SECOND)).refused(TimeIsBlocked)
    freed = after.when(unblock(span("09:00", "12:00"))).and_then()
    freed.when(book(at("10:00"), BEN, SECOND)).refused(SlotTaken)
    freed.when(book(at("11:00"), BEN, SECOND)).happened(AppointmentBooked)


def test_a_hold_that_has_ended_does_not_stop_a_block() -> None:
    held = a_clinic(hold(at("10:00")))
    held.when(block(span("10:00", "11:00"))).refused(TimeInUse)
    held.at(NOW + timedelta(minutes=10)).when(block(span("10:00", "11:00"))).then(TimeBlocked)


def test_blocks_may_overlap_and_each_goes_by_itself() -> None:
    other = uid(0x401)
    both = a_clinic(block(span("10:00", "11:00")), block(span("10:30", "12:00"), block_id=other))
    one = both.when(unblock(span("10:00", "11:00"))).and_then()
    one.when(book(at("10:00"))).happened(AppointmentBooked)
    one.when(book(at("10:30"))).refused(TimeIsBlocked)


def test_a_block_that_is_not_there_is_unknown() -> None:
    a_clinic().when(unblock(span("10:00", "11:00"))).refused(UnknownBlock, block_id=str(BLOCK))
    elsewhere = a_clinic(block(span("10:00", "11:00")))
    elsewhere.when(unblock(span("12:00", "13:00"))).refused(UnknownBlock)
    elsewhere.when(unblock(span("10:00", "11:00"), resource_id=ROOM)).refused(UnknownBlock)


def test_a_visit_is_not_taken_away_as_a_block() -> None:
    a_clinic(book(at("10:00"))).when(unblock(span("10:00", "11:00"), block_id=FIRST)).refused(UnknownBlock)


def test_a_released_time_leaves_the_page_as_it_was() -> None:
    before = a_clinic(book(at("14:00"), BEN, SECOND))
    after = before.when(book(at("10:00"))).and_then().when(cancel()).happened(AppointmentCancelled).and_then()
    assert after.book.page(DOCTOR, MONDAY) == before.book.page(DOCTOR, MONDAY)
    assert after.book.entries(ANNA) == {}


def test_releasing_twice_changes_nothing_more() -> None:
    page = a_clinic(book(at("10:00"))).book.page(DOCTOR, MONDAY)
    gone = TimeReleased(
        resource_id=DOCTOR, day=MONDAY, appointment_id=FIRST, reason=availability.ReleaseReason.CANCELLED
    )
    once = availability.evolve(page, gone)
    assert availability.evolve(once, gone) == once


def test_a_page_takes_no_events_of_others() -> None:
    with pytest.raises(TypeError):
        availability.evolve(None, ResourceRetiredFromUse(resource_id=ROOM))
    assert ResourceRegistered.NAME != ResourceRetiredFromUse.NAME


def test_both_shelves_name_the_same_entries() -> None:
    """The sorted one is only faster; a long block among short visits is where sorting could go wrong."""
    long_block = Period(at("09:00"), at("09:00", MONDAY + 2 * DAY))
    story = a_clinic(
        book(at("09:00")),
        book(at("16:30"), BEN, SECOND),
        block(long_block, over_visits=True),
        block(span("12:00", "13:00"), block_id=uid(0x401), over_visits=True),
    )
    days = [(DOCTOR, MONDAY + number * DAY) for number in range(-1, 4)]
    plain, fast = story.book.shelf(days), SortedShelf(story.book.shelf(days))
    for start in range(0, 3 * 24 * 60, 15):
        for length in (15, 60, 600):
            begin = at("00:00") + timedelta(minutes=start)
            asked = Period(begin, begin + timedelta(minutes=length))
            assert _ids(fast, asked) == _ids(plain, asked)


def _ids(shelf: Shelf, asked: Period) -> list[str]:
    return sorted(str(entry.id) for entry in shelf.entries(DOCTOR, asked))


def test_a_sorted_shelf_sees_what_is_folded_in_later() -> None:
    shelf = SortedShelf(a_clinic().book.shelf([(DOCTOR, MONDAY)]))
    assert list(shelf.entries(DOCTOR, span("10:00", "11:00"))) == []
    for event in availability.reserve(
        DOCTOR, appointment_id=FIRST, visit=span("10:00", "10:30"), occupied=span("10:00", "10:30"), session_id=FIRST
    ):
        assert isinstance(event, TimeReserved)
        shelf.apply(event)
    assert [entry.id for entry in shelf.entries(DOCTOR, span("10:00", "11:00"))] == [FIRST]
    with pytest.raises(KeyError):
        list(shelf.entries(DOCTOR, Period(at("10:00"), at("10:00", MONDAY + DAY))))


@pytest.mark.parametrize("allowance", [0, 1, 2, 3])
def test_sessions_that_share_an_instant_are_counted_and_not_their_visits(allowance: int) -> None:
    """A group of two and a visit alone are two sessions at once, not three."""
    session = uid(0x900)
    entries = {
        uid(1): Entry(uid(1), span("10:00", "11:00"), span("10:00", "11:00"), session, 5),
        uid(2): Entry(uid(2), span("10:00", "11:00"), span("10:00", "11:00"), session, 5),
        uid(3): Entry(uid(3), span("10:30", "11:30"), span("10:30", "11:30"), uid(3)),
    }
    shelf = Shelf({(DOCTOR, MONDAY): availability.Page(DOCTOR, MONDAY, entries)})
    for asked, sessions in ((span("10:00", "10:30"), 1), (span("10:45", "11:15"), 2), (span("11:00", "11:30"), 1)):
        stands = in_the_way(shelf, DOCTOR, asked, now=NOW, allowance=allowance)
        assert bool(stands) is (sessions > allowance)
