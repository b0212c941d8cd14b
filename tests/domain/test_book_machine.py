"""Whatever is asked in whatever order, nobody's time is taken twice, and pages and appointments tell the same story.

A machine asks random things of a few shared providers, rooms and patients around midnight UTC, by clocks that differ a
little as those of several processes do, and folds events only through `evolve`. What stands where is then read from the
appointments and held against the pages, and every refusal of a time is checked to be true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from domain import appointment, availability, series, slots
from domain.appointment import (
    RELEASED,
    Appointment,
    CancellationReason,
    DeclineReason,
    MoveReason,
    Party,
    Request,
    Status,
)
from domain.availability import BlockReason, TimeInUse, TimeReserved, UnknownBlock
from domain.provider import BookingRules, VisitType, VisitTypeSet
from domain.refusals import Refusal
from domain.series import Frequency, Recurrence
from domain.slots import Diary, LostTime, OverrideReason, PatientBusy, ResourceBusy, Wish
from domain.time import DAY, MINUTE, Period
from tests.domain.clinic import ANNA, BEN, CARL, CLINIC, COLLEAGUE, DOCTOR, ROOM, clinic, every_day, rooms, uid
from tests.given import Book, answer_to

EVENING = datetime(2026, 3, 2, 21, 0, tzinfo=UTC)
SHORT, SPREAD, GROUP, LONG = (uid(0x200 + number) for number in range(4))
TYPES = (
    VisitType(id=SHORT, name="short", duration_minutes=30),
    VisitType(id=SPREAD, name="spread", duration_minutes=15, buffer_before_minutes=15, buffer_after_minutes=30),
    VisitType(id=GROUP, name="group", duration_minutes=45, seats=2, approval_needed=True),
    VisitType(id=LONG, name="long", duration_minutes=90),
)
ALLOWANCE = {DOCTOR: 0, COLLEAGUE: 1}
# How far the clocks of two processes may lie apart.
SKEW = 2 * MINUTE

starts = st.integers(0, 24).map(lambda quarter: EVENING + quarter * 15 * MINUTE)
providers = st.sampled_from([DOCTOR, DOCTOR, COLLEAGUE])
patients = st.sampled_from([ANNA, BEN, CARL, uid(0xE), uid(0xF)])
types = st.sampled_from([SHORT, SHORT, SPREAD, GROUP, GROUP, LONG])
taken_along = st.sampled_from([(), (), (ROOM,)])
skews = st.sampled_from([-SKEW, 0 * MINUTE, SKEW])
which = st.integers(0, 30)
parties = st.sampled_from([Party.PATIENT, Party.FRONT_DESK])

CONFLICTS = {"slot_taken", "session_full", "time_blocked", "patient_busy", "resource_busy"}


OVERBOOK = appointment.Override(rules=("slot_taken",), reason=OverrideReason.URGENT_NEED)


class SharedBook(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.book = Book(EVENING - DAY)
        self.made = 0

    @initialize()
    def open_the_clinic(self) -> None:
        for provider_id, allowance in ALLOWANCE.items():
            rules = BookingRules(overbooking_allowance=allowance, hold_minutes=10)
            weekly = every_day("00:00-00:00")
            self.book.apply(clinic(place="UTC", weekly=weekly, rules=rules, visit_types=TYPES, provider_id=provider_id))
        self.book.apply(rooms())

    # What is asked

    @rule(
        start=starts,
        provider=providers,
        patient=patients,
        kind=types,
        along=taken_along,
        skew=skews,
        hold=st.booleans(),
        by=parties,
    )
    def take(
        self,
        start: datetime,
        provider: UUID,
        patient: UUID,
        kind: UUID,
        along: tuple[UUID, ...],
        skew: timedelta,
        hold: bool,
        by: Party,
    ) -> None:
        wish = Wish(kind, CLINIC, start, patient_id=patient, resources=along)
        diary = self._diary(provider, wish, skew)
        decide = appointment.hold if hold else appointment.book
        # Staff always insist, so that whatever the allowance lets in is let in.
        override = None if by is Party.PATIENT else OVERBOOK
        request = Request(self._new_id(), patient, by, override)
        self._ask(lambda: decide(diary, wish, request), diary, wish)

    @precondition(lambda self: any(one.visit_type_id == GROUP for one in self.book.appointments()))
    @rule(number=which, patient=patients, along=taken_along, skew=skews, hold=st.booleans())
    def join_a_group(self, number: int, patient: UUID, along: tuple[UUID, ...], skew: timedelta, hold: bool) -> None:
        groups = [one for one in self.book.appointments() if one.visit_type_id == GROUP]
        one = groups[number % len(groups)]
        self.take(one.period.start, one.provider_id, patient, GROUP, along, skew, hold, Party.PATIENT)

    @rule(start=starts, provider=providers, patient=patients, kind=types, count=st.integers(2, 3), skew=skews)
    def take_a_series(
        self, start: datetime, provider: UUID, patient: UUID, kind: UUID, count: int, skew: timedelta
    ) -> None:
        known = self.book.provider(provider)
        recurrence = Recurrence(frequency=Frequency.DAILY, count=count)
        wishes = series.wishes(known, Wish(kind, CLINIC, start, patient_id=patient), recurrence)
        diary = self.book.diary_for(provider, wishes)
        diary = Diary(diary.provider, diary.shelf, self.book.now + skew, diary.resources)
        series_id = self._new_id()
        requests = [Request(self._new_id(), patient, Party.PATIENT, series_id=series_id) for _ in wishes]
        before = len(self.book.appointments())
        answer = answer_to(lambda: series.book(diary, wishes, requests, recurrence, series_id))
        if isinstance(answer, Refusal):
            assert isinstance(answer, series.SeriesClashes)
            assert answer.details["clashes"]
        else:
            self.book.apply(answer)
            assert len(self.book.appointments()) == before + count

    @precondition(lambda self: self.book.appointments())
    @rule(number=which, by=parties, skew=skews)
    def make_a_hold_firm(self, number: int, by: Party, skew: timedelta) -> None:
        state = self._pick(number, Status.HELD)
        if state is None:
            return
        now = self.book.now + skew
        diary = Diary(self.book.provider(state.provider_id), self.book.shelf(state.pages()), now)
        group = state.visit_type_id == GROUP
        self._ask(lambda: appointment.book_held(state, by, group, now, diary), diary, None, state)

    @precondition(lambda self: self.book.appointments())
    @rule(
        number=which,
        start=starts,
        provider=providers,
        kind=st.none() | types,
        along=st.none() | taken_along,
        skew=skews,
    )
    def move(
        self,
        number: int,
        start: datetime,
        provider: UUID,
        kind: UUID | None,
        along: tuple[UUID, ...] | None,
        skew: timedelta,
    ) -> None:
        state = self._pick(number, Status.BOOKED)
        if state is None:
            return
        wish = Wish(
            kind or state.visit_type_id,
            CLINIC,
            start,
            patient_id=state.patient_id,
            resources=state.resources if along is None else along,
            moving=state.id,
        )
        diary = self._diary(provider, wish, skew)
        self._ask(
            lambda: appointment.move(
                state,
                diary,
                wish,
                by=Party.FRONT_DESK,
                reason=MoveReason.OTHER,
                notice_minutes=0,
                override=OVERBOOK,
            ),
            diary,
            wish,
        )

    @precondition(lambda self: self.book.appointments())
    @rule(number=which, by=parties)
    def cancel(self, number: int, by: Party) -> None:
        state = self._pick(number, Status.BOOKED, Status.HELD, Status.REQUESTED)
        if state is None:
            return
        now = self.book.now
        answer = answer_to(
            lambda: appointment.cancel(state, by=by, reason=CancellationReason.OTHER, notice_minutes=0, now=now)
        )
        if isinstance(answer, appointment.TooLateToCancel):
            assert by is Party.PATIENT
            assert now > state.period.start
        else:
            self.book.apply(answer)
            self._free_again(state)

    @precondition(lambda self: self.book.appointments())
    @rule(number=which, yes=st.booleans())
    def answer_a_request(self, number: int, yes: bool) -> None:
        state = self._pick(number, Status.REQUESTED)
        if state is None:
            return
        if yes:
            self.book.apply(appointment.accept(state, Party.FRONT_DESK))
        else:
            self.book.apply(appointment.decline(state, Party.FRONT_DESK, DeclineReason.OTHER))
            self._free_again(state)

    @precondition(lambda self: self.book.appointments())
    @rule(number=which)
    def write_down_a_lapse(self, number: int) -> None:
        state = self._pick(number, Status.HELD)
        if state is None:
            return
        answer = answer_to(lambda: appointment.lapse(state, self.book.now))
        if isinstance(answer, appointment.HoldStillRuns):
            assert state.held_until is not None
            assert self.book.now < state.held_until
        else:
            self.book.apply(answer)

    @precondition(lambda self: self.book.appointments())
    @rule(number=which)
    def enter_in_error(self, number: int) -> None:
        state = self._pick(number, *(set(Status) - {Status.ENTERED_IN_ERROR}))
        if state is not None:
            self.book.apply(appointment.enter_in_error(state, Party.FRONT_DESK))

    @precondition(lambda self: self.book.appointments())
    @rule(number=which)
    def attend(self, number: int) -> None:
        state = self._pick(number, Status.BOOKED)
        if state is not None:
            self.book.apply(appointment.check_in(state, state.period.start))

    @rule(
        start=starts,
        quarters=st.integers(1, 8),
        owner=st.sampled_from([DOCTOR, COLLEAGUE, ROOM]),
        insist=st.booleans(),
    )
    def block(self, start: datetime, quarters: int, owner: UUID, insist: bool) -> None:
        period = Period(start, start + quarters * 15 * MINUTE)
        shelf = self.book.shelf_over(owner, period)
        now, block_id = self.book.now, self._new_id()
        in_it = [
            one for one in self._live(now) for key, taken in one.occupies() if key == owner and taken.overlaps(period)
        ]
        answer = answer_to(
            lambda: availability.block(
                shelf, owner, period, block_id=block_id, reason=BlockReason.MEETING, over_visits=insist, now=now
            )
        )
        if isinstance(answer, TimeInUse):
            assert not insist
            assert set(answer.details["appointments"]) == {str(one.id) for one in in_it}
        else:
            assert insist or not in_it
            self.book.apply(answer)

    @rule(number=which)
    def unblock(self, number: int) -> None:
        blocks = sorted(self._blocks())
        if not blocks:
            return
        owner, period, block_id = blocks[number % len(blocks)]
        shelf = self.book.shelf_over(owner, period)
        self.book.apply(availability.unblock(shelf, owner, block_id, period))
        again = self.book.shelf_over(owner, period)
        assert isinstance(answer_to(lambda: availability.unblock(again, owner, block_id, period)), UnknownBlock)

    @rule(provider=providers, minutes=st.sampled_from([45, 75]), seats=st.sampled_from([2, 3]))
    def change_the_group_visit(self, provider: UUID, minutes: int, seats: int) -> None:
        changed = VisitType(id=GROUP, name="group", duration_minutes=minutes, seats=seats, approval_needed=True)
        self.book.apply(VisitTypeSet(provider_id=provider, visit_type=changed))

    @rule(minutes=st.sampled_from([1, 5, 10, 60]))
    def time_passes(self, minutes: int) -> None:
        self.book.now += minutes * MINUTE

    # What must hold

    @invariant()
    def nobodys_time_is_taken_twice(self) -> None:
        """Firm visits and the holds that run by the fastest clock: at any instant, sessions within the allowance and
        visits of a session within its seats."""
        standing: dict[UUID, list[tuple[Period, UUID, int]]] = {}
        for one in self._live(self.book.now + SKEW):
            for owner, taken in one.occupies():
                mine = owner == one.patient_id
                standing.setdefault(owner, []).append(
                    (taken, one.id if mine else one.session_id, 1 if mine else one.seats)
                )
        for owner, taken_times in standing.items():
            for instant in {taken.start for taken, _, _ in taken_times}:
                here = [(session, seats) for taken, session, seats in taken_times if taken.start <= instant < taken.end]
                sessions = {session for session, _ in here}
                assert len(sessions) <= 1 + ALLOWANCE.get(owner, 0), f"{len(sessions)} at once on {owner}"
                for session in sessions:
                    mates = [seats for key, seats in here if key == session]
                    assert len(mates) <= min(mates)

    @invariant()
    def pages_and_appointments_tell_the_same_story(self) -> None:
        told: dict[tuple[UUID, date], dict[UUID, tuple[Period, Period, datetime | None]]] = {}
        for one in self.book.appointments():
            if one.status not in RELEASED:
                until = one.held_until if one.status is Status.HELD else None
                for owner, taken in one.occupies():
                    for day in taken.utc_days():
                        told.setdefault((owner, day), {})[one.id] = (one.period, taken, until)
        found = {
            (page.resource_id, page.day): visits
            for page in self.book.pages()
            if (
                visits := {
                    entry.id: (entry.visit, entry.occupied, entry.held_until)
                    for entry in page.entries.values()
                    if entry.block is None
                }
            )
        }
        assert found == told

    @invariant()
    def a_block_stands_whole_or_not_at_all(self) -> None:
        for owner, period, block_id in self._blocks():
            for day in period.utc_days():
                page = self.book.page(owner, day)
                assert page is not None
                assert block_id in page.entries

    # Helping hands

    def _ask(
        self,
        decide: Callable[[], list[appointment.Change]],
        diary: Diary,
        wish: Wish | None,
        state: Appointment | None = None,
    ) -> None:
        """Carry a decision out, or see that the time was lost in truth, by the clock of whoever decided."""
        answer = answer_to(decide)
        if isinstance(answer, LostTime):
            assert wish is None or self._really_lost(diary, wish, answer)
        elif isinstance(answer, Refusal):
            assert answer.code not in CONFLICTS
        else:
            for event in answer:
                if isinstance(event, TimeReserved):
                    assert not any(
                        owner == event.resource_id and period.overlaps(event.occupied)
                        for owner, period, _ in self._blocks()
                    )
            if state is not None:
                assert state.held_until is not None
                assert diary.now < state.held_until
            self.book.apply(answer)

    def _really_lost(self, diary: Diary, wish: Wish, refusal: LostTime) -> bool:
        visit_type = diary.provider.visit_types[wish.visit_type_id]
        owner, wanted = diary.provider.id, visit_type.occupied(wish.start)
        if isinstance(refusal, PatientBusy):
            assert wish.patient_id is not None
            owner, wanted = wish.patient_id, visit_type.visit(wish.start)
        elif isinstance(refusal, ResourceBusy):
            owner = ROOM
        blocked = any(key == owner and period.overlaps(wanted) for key, period, _ in self._blocks())
        standing = [
            one
            for one in self._live(diary.now)
            if one.id != wish.moving
            for key, taken in one.occupies()
            if key == owner and taken.overlaps(wanted)
        ]
        # Without a reason given, the first visit takes the time whatever the allowance.
        allowance = 0 if refusal.overridable else ALLOWANCE.get(owner, 0)
        return blocked or len(standing) > allowance

    def _free_again(self, state: Appointment) -> None:
        """Where nothing else stands in a time that was given back, another patient can have it."""
        owners = {state.provider_id, *state.resources}
        wanted = self.book.occupied(state.provider_id, state.visit_type_id, state.period.start)
        visits = [place for one in self._live(self.book.now) for place in one.occupies()]
        blocks = [(owner, period) for owner, period, _ in self._blocks()]
        crowded = any(owner in owners and period.overlaps(wanted) for owner, period in visits + blocks)
        if not crowded:
            wish = Wish(
                state.visit_type_id, CLINIC, state.period.start, patient_id=uid(0xFEE), resources=state.resources
            )
            diary = self._diary(state.provider_id, wish, 0 * MINUTE)
            assert not {refusal.code for refusal in slots.refusals(diary, wish)} & CONFLICTS

    def _live(self, now: datetime) -> Iterator[Appointment]:
        for one in self.book.appointments():
            runs = one.status is not Status.HELD or (one.held_until is not None and now < one.held_until)
            if one.status not in RELEASED and runs:
                yield one

    def _blocks(self) -> set[tuple[UUID, Period, UUID]]:
        return {
            (page.resource_id, entry.occupied, entry.id)
            for page in self.book.pages()
            for entry in page.entries.values()
            if entry.block is not None
        }

    def _pick(self, number: int, *wanted: Status) -> Appointment | None:
        among = sorted((one for one in self.book.appointments() if one.status in wanted), key=lambda one: one.id)
        return among[number % len(among)] if among else None

    def _diary(self, provider: UUID, wish: Wish, skew: timedelta) -> Diary:
        diary = self.book.diary(provider, wish)
        return Diary(diary.provider, diary.shelf, self.book.now + skew, diary.resources)

    def _new_id(self) -> UUID:
        self.made += 1
        return uid(0x10000 + self.made)


SharedBook.TestCase.settings = settings(
    max_examples=300, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestSharedBook = SharedBook.TestCase
