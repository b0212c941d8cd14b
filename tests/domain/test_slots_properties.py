"""A slot that is shown can be booked, a time that isn't is refused, and `explain` names why: for random clinics.

What is offered, what `refusals` says and what booking does are three ways into one list of rules. Beside them stands an
oracle that knows the rules in its own, slower words, so that a rule that all three forget is missed by them alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain import appointment, slots
from domain.appointment import Party, Request
from domain.availability import BlockReason, Entry, Page, PageId, Shelf
from domain.provider import BookingRules, Location, Provider, ResourceKind, TimeOffReason, VisitType, WeeklyHours
from domain.refusals import Refusal
from domain.resource import Resource
from domain.slots import Diary, Wish, session_of
from domain.time import DAY, MINUTE, Period, instant_of, zone
from tests.domain.clinic import ANNA, CLINIC, DOCTOR, ROOM, uid
from tests.domain.test_clock_changes import disjoint_hours
from tests.given import answer_to

VISIT = uid(0x200)
# Days around a change in each place, so that every example may meet one.
PLACES = {
    "Europe/Berlin": date(2026, 3, 28),
    "America/New_York": date(2026, 10, 31),
    "Australia/Lord_Howe": date(2026, 10, 3),
    "Africa/Casablanca": date(2026, 2, 14),
    "Asia/Tokyo": date(2026, 3, 2),
}
ROUND_THE_CLOCK = [
    f"{name}day" for name in ("mon", "tues", "wednes", "thurs", "fri", "satur", "sun")
]  # fmt: skip


@dataclass(frozen=True)
class Scene:
    diary: Diary
    wish: Wish
    visit_type: VisitType
    place: str
    first: date
    last: date


def quarters(low: int, high: int) -> st.SearchStrategy[timedelta]:
    return st.integers(low, high).map(lambda number: number * 15 * MINUTE)


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    place, first = draw(st.sampled_from(sorted(PLACES.items())))
    last = first + draw(st.integers(0, 2)) * DAY
    origin = instant_of(first, time(0), zone(place))
    day_hours = draw(disjoint_hours())
    weekly = WeeklyHours(**dict.fromkeys(draw(st.sets(st.sampled_from(ROUND_THE_CLOCK), min_size=5)), day_hours))
    visit_type = VisitType(
        id=VISIT,
        name="visit",
        duration_minutes=draw(st.sampled_from([10, 15, 30, 45, 90])),
        buffer_before_minutes=draw(st.sampled_from([0, 0, 5, 15, 60])),
        buffer_after_minutes=draw(st.sampled_from([0, 0, 5, 15, 60])),
        seats=draw(st.sampled_from([1, 1, 1, 2, 3])),
    )
    rules = BookingRules(
        minimum_notice_minutes=draw(st.sampled_from([0, 0, 60, 600])),
        horizon_days=draw(st.sampled_from([1, 2, 30])),
        slot_step_minutes=draw(st.sampled_from([15, 20, 30, 60])),
        cap_per_day=draw(st.sampled_from([None, None, 1, 3])),
        cap_per_week=draw(st.sampled_from([None, None, 4])),
        overbooking_allowance=draw(st.sampled_from([0, 0, 1, 2])),
    )
    time_off = {}
    if draw(st.booleans()):
        start = origin + draw(quarters(-50, 200))
        time_off[uid(0x600)] = (Period(start, start + draw(quarters(1, 60))), TimeOffReason.OTHER)
    provider = Provider(
        DOCTOR,
        "Dr. Example",
        locations={CLINIC: Location(id=CLINIC, name="Clinic", time_zone=place)},
        visit_types={VISIT: visit_type},
        weekly_hours={CLINIC: ((date(2000, 1, 1), weekly),)},
        exceptions={(CLINIC, first): draw(disjoint_hours())} if draw(st.booleans()) else {},
        holidays={(CLINIC, last): "Founders' Day"} if draw(st.integers(0, 4)) == 0 else {},
        time_off=time_off,
        rules=rules,
    )
    now = origin + draw(quarters(-100, 60))
    resources = (ROOM,) if draw(st.booleans()) else ()
    patient = ANNA if draw(st.booleans()) else None
    wish = Wish(VISIT, CLINIC, origin, patient_id=patient, resources=resources)
    pages: dict[PageId, Page | None] = dict.fromkeys(slots.pages_between(provider, wish, first, last))
    moving = None
    for number in range(draw(st.integers(0, 12))):
        entry = draw(entries(number, origin, visit_type, now))
        owner = draw(st.sampled_from([DOCTOR, DOCTOR, DOCTOR, *resources, *([patient] if patient else [])]))
        for day in entry.occupied.utc_days():
            if (owner, day) in pages:
                page = pages[owner, day] or Page(owner, day)
                pages[owner, day] = Page(owner, day, {**page.entries, entry.id: entry})
        if entry.block is None and draw(st.integers(0, 8)) == 0:
            moving = entry.id
    wish = Wish(VISIT, CLINIC, origin, patient_id=patient, resources=resources, moving=moving)
    diary = Diary(provider, Shelf(pages), now, {ROOM: Resource(ROOM, ResourceKind.ROOM, "Room")})
    return Scene(diary, wish, visit_type, place, first, last)


@st.composite
def entries(draw: st.DrawFn, number: int, origin: datetime, visit_type: VisitType, now: datetime) -> Entry:
    key = uid(0x1000 + number)
    start = origin + draw(quarters(-100, 300))
    visit = Period(start, start + draw(quarters(1, 12)))
    kind = draw(st.sampled_from(["visit", "visit", "hold", "mate", "mate", "block"]))
    if kind == "block":
        return Entry(key, visit, visit, block=BlockReason.MEETING)
    if kind == "mate" and visit_type.seats > 1:
        # Few starts, so that sessions fill up.
        start = origin + draw(st.integers(8, 11)) * 60 * MINUTE
        session = session_of(DOCTOR, CLINIC, visit_type, start, key)
        return Entry(key, visit_type.visit(start), visit_type.occupied(start), session, visit_type.seats)
    held_until = now + draw(st.sampled_from([-MINUTE, 0 * MINUTE, MINUTE])) if kind == "hold" else None
    return Entry(key, visit, visit.widened(draw(quarters(0, 2)), draw(quarters(0, 2))), key, 1, held_until)


def grid(scene: Scene) -> list[datetime]:
    """Every step of the opening hours of the days that are looked at, but for what the day before or after opens at
    too: hours may run past midnight into another day's, and those times are the other day's to show."""
    days = slots.days_between(scene.first, scene.last)
    return sorted({start for day in days for start in _starts(scene, day)} - _others(scene))


def _others(scene: Scene) -> set[datetime]:
    return _starts(scene, scene.first - DAY) | _starts(scene, scene.last + DAY)


def _starts(scene: Scene, day: date) -> set[datetime]:
    provider = scene.diary.provider
    return {start for _, start in slots.starts(provider, provider.locations[CLINIC], day)}


def off_grid(scene: Scene) -> list[datetime]:
    """Times of those days, every 35 minutes: mostly outside the hours or off the step."""
    start = instant_of(scene.first, time(0), zone(scene.place))
    end = instant_of(scene.last + DAY, time(0), zone(scene.place))
    return [start + number * 35 * MINUTE for number in range(int((end - start) / (35 * MINUTE)))]


def at(scene: Scene, start: datetime) -> Wish:
    return Wish(
        VISIT,
        CLINIC,
        start,
        patient_id=scene.wish.patient_id,
        resources=scene.wish.resources,
        moving=scene.wish.moving,
    )


def shown(scene: Scene) -> list[slots.Slot]:
    offered = slots.free_slots(scene.diary, scene.wish, scene.first, scene.last)
    return [slot for slot in offered if slot.period.start not in _others(scene)]


SLOW = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@SLOW
@given(scenes())
def test_a_slot_is_shown_if_and_only_if_no_rule_stands_against_it(scene: Scene) -> None:
    offered = [slot.period.start for slot in shown(scene)]
    assert offered == sorted(set(offered))
    assert set(offered) <= set(grid(scene))
    for start in grid(scene):
        told = list(slots.refusals(scene.diary, at(scene, start)))
        assert (start in offered) is (told == []), f"{start}: {[one.code for one in told]}"
        assert all(isinstance(one, slots.BookingRefused) and one.code != "refused" for one in told)


@SLOW
@given(scenes())
def test_what_is_shown_can_be_booked_and_what_is_not_is_refused_with_the_first_reason(scene: Scene) -> None:
    offered = {slot.period.start for slot in shown(scene)}
    # Who books is somebody; a search without a patient does not know yet who.
    patient = scene.wish.patient_id or uid(0xEEE)
    if scene.wish.moving is not None:
        return
    for start in grid(scene):
        wish = Wish(VISIT, CLINIC, start, patient_id=patient, resources=scene.wish.resources)
        request = Request(uid(1), patient, Party.FRONT_DESK)
        diary = _with_pages_of(scene.diary, patient, wish)
        told = list(slots.refusals(diary, wish))
        answer = answer_to(partial(appointment.book, diary, wish, request))
        assert isinstance(answer, Refusal) is (start not in offered)
        if isinstance(answer, Refusal):
            assert answer.code == told[0].code


def _with_pages_of(diary: Diary, patient: UUID, wish: Wish) -> Diary:
    wanted = slots.pages_for(diary.provider, wish)
    known: Mapping[PageId, Page | None] = {
        page: Page(*page, {entry.id: entry for entry in diary.shelf.on(*page)}) if diary.shelf.holds(page) else None
        for page in wanted
    }
    assert all(diary.shelf.holds(page) or page[0] == patient for page in wanted)
    return Diary(diary.provider, Shelf(known), diary.now, diary.resources)


@SLOW
@given(scenes())
def test_a_time_that_is_on_no_step_of_the_hours_is_never_free(scene: Scene) -> None:
    on = {start for day in slots.days_between(scene.first - DAY, scene.last + DAY) for start in _starts(scene, day)}
    for start in off_grid(scene):
        if start not in on:
            codes = {one.code for one in slots.refusals(scene.diary, at(scene, start))}
            assert codes & {"outside_opening_hours", "off_slot_step", "public_holiday"}


@SLOW
@given(scenes())
def test_the_rules_agree_with_an_oracle_that_counts_minute_by_minute(scene: Scene) -> None:
    """Conflicts and caps alone, told in other words: sample every five minutes instead of reasoning about borders."""
    rules, now, moving = scene.diary.provider.rules, scene.diary.now, scene.wish.moving
    place = zone(scene.place)
    on_page = {
        owner: {
            entry.id: entry
            for day in _days(scene)
            if scene.diary.shelf.holds((owner, day))
            for entry in scene.diary.shelf.on(owner, day)
            if entry.id != moving and (entry.held_until is None or entry.held_until > now)
        }
        for owner in (DOCTOR, ROOM, ANNA)
    }
    visits = [entry for entry in on_page[DOCTOR].values() if entry.block is None]
    for start in grid(scene):
        said = [one for one in slots.refusals(scene.diary, at(scene, start)) if isinstance(one, slots.BookingRefused)]
        told = {one.code for one in said}
        occupied, visit = scene.visit_type.occupied(start), scene.visit_type.visit(start)
        session = session_of(DOCTOR, CLINIC, scene.visit_type, start, uid(1))
        local = start.astimezone(place).date()
        same_day = [one for one in visits if one.visit.start.astimezone(place).date() == local]
        same_week = [
            one for one in visits if one.visit.start.astimezone(place).isocalendar()[:2] == local.isocalendar()[:2]
        ]
        assert ("day_cap_reached" in told) is (rules.cap_per_day is not None and len(same_day) >= rules.cap_per_day)
        assert ("week_cap_reached" in told) is (rules.cap_per_week is not None and len(same_week) >= rules.cap_per_week)
        lost = [one for one in said if one.code in {"slot_taken", "session_full", "time_blocked"}]
        seats = scene.visit_type.seats
        assert bool(lost) is _full(on_page[DOCTOR], occupied, session, seats, 0)
        beyond = _full(on_page[DOCTOR], occupied, session, seats, rules.overbooking_allowance)
        assert any(not one.overridable for one in lost) is beyond
        assert ("resource_busy" in told) is (
            ROOM in scene.wish.resources and _full(on_page[ROOM], occupied, session, scene.visit_type.seats, 0)
        )
        assert ("patient_busy" in told) is (
            scene.wish.patient_id is not None and _full(on_page[ANNA], visit, uid(1), 1, 0)
        )


def _days(scene: Scene) -> list[date]:
    start = datetime.combine(scene.first - 10 * DAY, time(0), tzinfo=UTC)
    return list(Period(start, start + 30 * DAY).utc_days())


def _full(standing: Mapping[UUID, Entry], wanted: Period, session: UUID, seats: int, allowance: int) -> bool:
    at_ = wanted.start
    while at_ < wanted.end:
        here = [entry for entry in standing.values() if entry.occupied.start <= at_ < entry.occupied.end]
        if any(entry.block is not None for entry in here):
            return True
        mates = [entry for entry in here if seats > 1 and entry.session_id == session]
        if mates and len(mates) >= min(seats, *(mate.seats for mate in mates)):
            return True
        if not mates and len({entry.session_id for entry in here}) > allowance:
            return True
        at_ += 5 * MINUTE
    return False


@SLOW
@given(scenes(), st.integers(1, 5), st.data())
def test_the_nearest_are_those_that_looking_at_all_would_find(scene: Scene, wanted: int, data: st.DataObject) -> None:
    first, last = slots.days_around(scene.diary.provider, scene.wish, scene.diary.now)
    start = data.draw(st.sampled_from([scene.wish.start, *off_grid(scene), *grid(scene)]))
    provider = scene.diary.provider
    wish = at(scene, start)
    first, last = slots.days_around(provider, wish, scene.diary.now)
    pages = {
        page: Page(*page, {entry.id: entry for entry in scene.diary.shelf.on(*page)})
        if scene.diary.shelf.holds(page)
        else None
        for page in slots.pages_between(provider, wish, first, last)
    }
    diary = Diary(provider, Shelf(pages), scene.diary.now, scene.diary.resources)
    all_ = list(slots.free_slots(diary, wish, first, last))
    but = data.draw(st.lists(st.sampled_from([slot.period.start for slot in all_] or [start]), max_size=2))
    others = [scene.visit_type.occupied(other) for other in but if other != start]
    left = [
        slot
        for slot in all_
        if slot.period.start not in but
        and not any(scene.visit_type.occupied(slot.period.start).overlaps(other) for other in others)
    ]
    by_distance = sorted(left, key=lambda slot: (abs(slot.period.start - start), slot.period.start))
    brute = sorted(by_distance[:wanted], key=lambda slot: slot.period.start)
    assert list(slots.nearest(diary, wish, wanted=wanted, but=but)) == brute


@SLOW
@given(scenes())
def test_free_places_are_what_a_session_takes_less_who_is_in_it(scene: Scene) -> None:
    for slot in shown(scene):
        assert 1 <= slot.seats_left <= scene.visit_type.seats
        assert slot.period == scene.visit_type.visit(slot.period.start)
