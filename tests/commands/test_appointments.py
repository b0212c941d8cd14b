"""Commands over a real log: what is saved together, what is refused, and what a repeat answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

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
    LapseHold,
    MarkEnteredInError,
    MarkNoShow,
    MoveAppointment,
    StartVisit,
)
from commands.loop import Desk, StateCache
from commands.providers import PublishHours, SetBookingRules, TimeOff
from commands.resources import Block, BlockTimes, Unblock
from domain import slots
from domain.appointment import AppointmentBooked, DeclineReason, Override, TooEarly, WrongStatus
from domain.availability import TimeInUse, TimeReserved, page_stream
from domain.ports import FixedClock, KeyReused
from domain.provider import BookingRules, TimeOffReason
from domain.refusals import NotAllowed, Refusal, Unknown
from domain.series import Frequency, Recurrence, SeriesClashes
from domain.slots import (
    InThePast,
    OutsideOpeningHours,
    OverrideReason,
    PatientBusy,
    ProviderAway,
    SessionFull,
    Slot,
    SlotTaken,
    TimeIsBlocked,
    WeekCapReached,
)
from domain.time import Period
from infra.event_log.log import PostgresEventLog
from infra.holidays import PublicHolidays
from infra.ids import TimeOrderedIds
from tests.clinic import (
    APPROVED,
    CHECKUP,
    DESK,
    GROUP,
    LOCATION,
    ORGANIZATION,
    SCAN,
    SYSTEM,
    Clinic,
    in_days,
    open_clinic,
    patient_actor,
)
from tests.invariants import assert_never_double_booked


def booking(clinic: Clinic, start: datetime, **changes: Any) -> BookAppointment:
    return BookAppointment(
        **{
            "patient_id": clinic.patient,
            "provider_id": clinic.provider,
            "location_id": LOCATION.id,
            "visit_type_id": CHECKUP.id,
            "start": start,
            **changes,
        }
    )


async def made(desk: Desk, command: Any, **more: Any) -> UUID:
    answer = await desk.handle(command, more.pop("actor", DESK), more.pop("organization", ORGANIZATION), **more)
    return UUID(answer.content["appointment_id"])


async def test_a_booking_is_one_save_over_every_page_that_it_occupies(desk: Desk, log: PostgresEventLog) -> None:
    clinic = await open_clinic(desk, rooms=1)
    start = in_days(3)
    before = await log.head()
    await made(desk, booking(clinic, start, visit_type_id=SCAN.id, resources=(clinic.rooms[0],)))
    events = await log.read(before, 100)
    assert [type(recorded.event) for recorded in events] == [
        AppointmentBooked,
        TimeReserved,
        TimeReserved,
        TimeReserved,
    ]
    assert {recorded.stream for recorded in events[1:]} == {
        page_stream(owner, start.date()) for owner in (clinic.provider, clinic.rooms[0], clinic.patient)
    }
    assert len({recorded.command_id for recorded in events}) == 1


async def test_the_loser_of_a_slot_gets_the_three_nearest_free_times(desk: Desk) -> None:
    clinic = await open_clinic(desk)
    start = in_days(3, 10)
    await made(desk, booking(clinic, start))
    with pytest.raises(SlotTaken) as refused:
        await made(desk, booking(clinic, start, patient_id=clinic.patients[1]))
    offered = [slot["start"] for slot in refused.value.details["alternatives"]]
    assert offered == [start + timedelta(minutes=minutes) for minutes in (-45, -30, 30)]
    await made(desk, booking(clinic, offered[0], patient_id=clinic.patients[1]))


async def test_of_many_at_once_one_wins_and_the_others_hear_the_truth(desk: Desk, log: PostgresEventLog) -> None:
    clinic = await open_clinic(desk, patients=40)
    start = in_days(3)

    async def ask(patient: UUID) -> str:
        try:
            await made(desk, booking(clinic, start, patient_id=patient))
        except Refusal as refusal:
            return refusal.code
        return "booked"

    answers = await asyncio.gather(*(ask(patient) for patient in clinic.patients))
    assert sorted(answers) == ["booked"] + ["slot_taken"] * 39
    assert_never_double_booked(await log.read(0, 10_000))


async def test_two_desks_with_stale_caches_never_book_one_time_twice(desk: Desk, log: PostgresEventLog) -> None:
    clinic = await open_clinic(desk, patients=20)
    desks = [Desk(log, log.clock, TimeOrderedIds(), PublicHolidays()) for _ in range(4)]
    start = in_days(3)
    for other in desks:  # each has seen the empty pages
        with pytest.raises(InThePast):
            await made(other, booking(clinic, start - timedelta(days=7)))

    async def ask(number: int) -> str:
        try:
            await made(desks[number % 4], booking(clinic, start, patient_id=clinic.patients[number]))
        except Refusal as refusal:
            return refusal.code
        return "booked"

    answers = await asyncio.gather(*(ask(number) for number in range(20)))
    assert sorted(answers) == ["booked"] + ["slot_taken"] * 19


async def test_a_no_is_said_only_after_a_fresh_read(desk: Desk, log: PostgresEventLog) -> None:
    clinic = await open_clinic(desk)
    start = in_days(3)
    taken = await made(desk, booking(clinic, start))
    other = Desk(log, log.clock, TimeOrderedIds(), PublicHolidays())
    await made(other, CancelAppointment(appointment_id=taken))
    # This desk's cache still shows the time as taken.
    await made(desk, booking(clinic, start, patient_id=clinic.patients[1]))


async def test_a_hold_keeps_rivals_out_until_it_ends_by_the_clock(log: PostgresEventLog) -> None:
    clock = FixedClock(datetime.now(UTC))
    desk = Desk(log, clock, TimeOrderedIds(), PublicHolidays())
    clinic = await open_clinic(desk, rules=BookingRules(hold_minutes=5))
    start = in_days(3)
    wish = {"provider_id": clinic.provider, "location_id": LOCATION.id, "visit_type_id": CHECKUP.id, "start": start}
    held = await made(desk, HoldAppointment(patient_id=clinic.patient, **wish))
    with pytest.raises(SlotTaken):
        await made(desk, booking(clinic, start, patient_id=clinic.patients[1]))
    clock.instant += timedelta(minutes=5)
    await made(desk, booking(clinic, start, patient_id=clinic.patients[1]))
    with pytest.raises(Refusal) as ended:
        await made(desk, BookHeldAppointment(appointment_id=held))
    assert ended.value.code == "hold_ended"
    await made(desk, LapseHold(appointment_id=held), actor=SYSTEM)
    assert_never_double_booked(await log.read(0, 10_000))


async def test_a_hold_is_booked_in_time(desk: Desk) -> None:
    clinic = await open_clinic(desk)
    held = await made(desk, HoldAppointment(**booking(clinic, in_days(3)).model_dump()))
    answer = await desk.handle(BookHeldAppointment(appointment_id=held), DESK, ORGANIZATION)
    assert answer.content["status"] == "booked"
    with pytest.raises(WrongStatus):
        await made(desk, BookHeldAppointment(appointment_id=held))


async def test_a_request_holds_its_time_until_it_is_answered(desk: Desk) -> None:
    clinic = await open_clinic(desk)
    asks = patient_actor(clinic.patient)
    start = in_days(3)
    answer = await desk.handle(booking(clinic, start, visit_type_id=APPROVED.id), asks, ORGANIZATION)
    assert answer.content["status"] == "requested"
    with pytest.raises(SlotTaken):
        await made(desk, booking(clinic, start, patient_id=clinic.patients[1]))
    asked = UUID(answer.content["appointment_id"])
    await made(desk, DeclineAppointment(appointment_id=asked, reason=DeclineReason.NO_CAPACITY))
    await made(desk, booking(clinic, start, patient_id=clinic.patients[1]))
    again = await made(desk, booking(clinic, in_days(4), visit_type_id=APPROVED.id), actor=asks)
    with pytest.raises(NotAllowed):
        await made(desk, AcceptAppointment(appointment_id=again), actor=asks)
    await made(desk, AcceptAppointment(appointment_id=again))


async def test_moving_frees_the_old_time_and_takes_the_new_one(desk: Desk) -> None:
    clinic = await open_clinic(desk, providers=2)
    start = in_days(3)
    visit = await made(desk, booking(clinic, start))
    await made(desk, MoveAppointment(appointment_id=visit, start=start + timedelta(minutes=15)))
    with pytest.raises(SlotTaken):
        await made(desk, booking(clinic, start, patient_id=clinic.patients[1]))
    await made(
        desk,
        MoveAppointment(appointment_id=visit, start=start + timedelta(days=1), provider_id=clinic.providers[1]),
    )
    await made(desk, booking(clinic, start, patient_id=clinic.patients[1]))
    with pytest.raises(PatientBusy):
        await made(desk, booking(clinic, start + timedelta(days=1)))


async def test_a_visit_runs_its_course(log: PostgresEventLog) -> None:
    clock = FixedClock(datetime.now(UTC))
    desk = Desk(log, clock, TimeOrderedIds(), PublicHolidays())
    clinic = await open_clinic(desk)
    start = in_days(1)
    visit = await made(desk, booking(clinic, start, reason="a sore knee"))
    with pytest.raises(TooEarly):
        await made(desk, MarkNoShow(appointment_id=visit))
    clock.instant = start
    await made(desk, CheckInPatient(appointment_id=visit))
    await made(desk, StartVisit(appointment_id=visit))
    await made(desk, CompleteVisit(appointment_id=visit, note="all well"))
    with pytest.raises(WrongStatus):
        await made(desk, CancelAppointment(appointment_id=visit))
    await made(desk, MarkEnteredInError(appointment_id=visit))


async def test_staff_override_a_rule_with_a_reason_but_never_a_conflict(desk: Desk, log: PostgresEventLog) -> None:
    clinic = await open_clinic(desk)
    late = in_days(3, 20)
    with pytest.raises(OutsideOpeningHours):
        await made(desk, booking(clinic, late))
    override = Override(rules=("outside_opening_hours", "slot_taken"), reason=OverrideReason.URGENT_NEED)
    with pytest.raises(NotAllowed):
        await made(desk, booking(clinic, late, override=override), actor=patient_actor(clinic.patient))
    visit = await made(desk, booking(clinic, late, override=override))
    with pytest.raises(SlotTaken):
        await made(desk, booking(clinic, late, override=override, patient_id=clinic.patients[1]))
    booked = (await log.load(ORGANIZATION, {f"appointment/{visit}": 0}))[f"appointment/{visit}"][0].event
    assert isinstance(booked, AppointmentBooked)
    assert booked.override == Override(rules=("outside_opening_hours",), reason=OverrideReason.URGENT_NEED)


async def test_a_group_visit_fills_up(desk: Desk) -> None:
    clinic = await open_clinic(desk, patients=5)
    start = in_days(3)
    for patient in clinic.patients[:3]:
        await made(desk, booking(clinic, start, visit_type_id=GROUP.id, patient_id=patient))
    with pytest.raises(SessionFull):
        await made(desk, booking(clinic, start, visit_type_id=GROUP.id, patient_id=clinic.patients[3]))
    with pytest.raises(SlotTaken):
        await made(desk, booking(clinic, start + timedelta(minutes=15), patient_id=clinic.patients[4]))


async def test_a_series_is_booked_whole_or_not_at_all(desk: Desk, log: PostgresEventLog) -> None:
    clinic = await open_clinic(desk)
    first = in_days(3)
    blocker = await made(desk, booking(clinic, first + timedelta(weeks=2), patient_id=clinic.patients[1]))
    weekly = BookSeries(
        **booking(clinic, first).model_dump(), recurrence=Recurrence(frequency=Frequency.WEEKLY, count=4)
    )
    before = await log.head()
    with pytest.raises(SeriesClashes) as clashes:
        await desk.handle(weekly, DESK, ORGANIZATION)
    (clash,) = clashes.value.details["clashes"]
    assert clash["code"] == "slot_taken"
    assert len(clash["alternatives"]) == 3
    assert await log.head() == before
    await made(desk, CancelAppointment(appointment_id=blocker))
    answer = await desk.handle(weekly, DESK, ORGANIZATION)
    assert len(answer.content["appointments"]) == 4


async def test_others_get_their_turn_while_alternatives_to_a_series_are_sought(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    clinic = await open_clinic(desk)
    first = in_days(3)
    for week in range(3):
        await made(desk, booking(clinic, first + timedelta(weeks=week), patient_id=clinic.patients[1]))
    turns = 0
    sought_at: list[int] = []

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def watched(*arguments: Any, **named: Any) -> Sequence[Slot]:
        sought_at.append(turns)
        return nearest(*arguments, **named)

    nearest = slots.nearest
    monkeypatch.setattr(slots, "nearest", watched)
    weekly = Recurrence(frequency=Frequency.WEEKLY, count=4)
    other = asyncio.create_task(take_turns())
    with pytest.raises(SeriesClashes) as clashes:
        await desk.handle(BookSeries(**booking(clinic, first).model_dump(), recurrence=weekly), DESK, ORGANIZATION)
    other.cancel()
    assert [len(clash["alternatives"]) for clash in clashes.value.details["clashes"]] == [3, 3, 3]
    # Once for each clash, though the decision was made twice: from the cache, and again from the log.
    assert len(sought_at) == len(set(sought_at)) == 3


async def test_caps_count_the_visits_of_the_same_series(desk: Desk) -> None:
    clinic = await open_clinic(desk, rules=BookingRules(cap_per_week=2))
    daily = BookSeries(
        **booking(clinic, in_days(10)).model_dump(), recurrence=Recurrence(frequency=Frequency.DAILY, count=7)
    )
    with pytest.raises(SeriesClashes) as clashes:
        await desk.handle(daily, DESK, ORGANIZATION)
    assert {clash["code"] for clash in clashes.value.details["clashes"]} == {WeekCapReached.code}


async def test_time_off_and_rules_are_guarded_by_the_providers_version(desk: Desk, log: PostgresEventLog) -> None:
    clinic = await open_clinic(desk)
    start = in_days(3)
    visit = await made(desk, booking(clinic, start))
    stale = Desk(log, log.clock, TimeOrderedIds(), PublicHolidays())
    with pytest.raises(SlotTaken):
        await made(stale, booking(clinic, start, patient_id=clinic.patients[1]))
    day = Period(start - timedelta(hours=1), start + timedelta(hours=8))
    answer = await desk.handle(
        PublishHours(provider_id=clinic.provider, time_off=(TimeOff(period=day, reason=TimeOffReason.VACATION),)),
        DESK,
        ORGANIZATION,
    )
    assert answer.content["time_off"][0]["affected_appointments"] == [str(visit)]
    with pytest.raises(ProviderAway):  # the stale desk believed in the old hours, and was corrected
        await made(stale, booking(clinic, start + timedelta(hours=2), patient_id=clinic.patients[1]))


async def test_blocks_come_and_go_in_batches(desk: Desk) -> None:
    clinic = await open_clinic(desk)
    start = in_days(3)
    visit = await made(desk, booking(clinic, start))
    whole = Block(resource_id=clinic.provider, period=Period(start, start + timedelta(days=2)))
    with pytest.raises(TimeInUse) as used:
        await desk.handle(BlockTimes(block=(whole,)), DESK, ORGANIZATION)
    assert used.value.details["appointments"] == [str(visit)]
    await made(desk, CancelAppointment(appointment_id=visit))
    answer = await desk.handle(BlockTimes(block=(whole,)), DESK, ORGANIZATION)
    with pytest.raises(TimeIsBlocked):
        await made(desk, booking(clinic, start + timedelta(days=1)))
    gone = Unblock(
        resource_id=clinic.provider,
        block_id=UUID(answer.content["blocks"][0]["block_id"]),
        period=Period(start, start + timedelta(minutes=5)),
    )
    await desk.handle(BlockTimes(unblock=(gone,)), DESK, ORGANIZATION)
    await made(desk, booking(clinic, start + timedelta(days=1)))


async def test_a_repeat_with_the_same_key_answers_as_the_first_did(desk: Desk, log: PostgresEventLog) -> None:
    clinic = await open_clinic(desk)
    asked = booking(clinic, in_days(3))
    first = await desk.handle(asked, DESK, ORGANIZATION, key="k-1")
    head = await log.head()
    # A desk that was started since, knowing nothing.
    for other in (desk, Desk(log, log.clock, TimeOrderedIds(), PublicHolidays())):
        again = await other.handle(asked, DESK, ORGANIZATION, key="k-1")
        assert (again.content["appointment_id"], again.position, again.replayed) == (
            first.content["appointment_id"],
            first.position,
            True,
        )
    assert await log.head() == head
    with pytest.raises(KeyReused):
        await desk.handle(booking(clinic, in_days(4)), DESK, ORGANIZATION, key="k-1")
    # Another actor's key is another key.
    with pytest.raises(Refusal):
        await desk.handle(asked, SYSTEM, ORGANIZATION, key="k-1")


async def test_repeats_sent_at_the_same_moment_book_once(desk: Desk) -> None:
    clinic = await open_clinic(desk)
    asked = booking(clinic, in_days(3))
    answers = await asyncio.gather(*(desk.handle(asked, DESK, ORGANIZATION, key="k-1") for _ in range(10)))
    assert len({answer.content["appointment_id"] for answer in answers}) == 1


async def test_a_refusal_is_not_remembered_but_decided_again(desk: Desk) -> None:
    clinic = await open_clinic(desk)
    start = in_days(3)
    taken = await made(desk, booking(clinic, start))
    asked = booking(clinic, start, patient_id=clinic.patients[1])
    with pytest.raises(SlotTaken):
        await desk.handle(asked, DESK, ORGANIZATION, key="k-2")
    await made(desk, CancelAppointment(appointment_id=taken))
    await desk.handle(asked, DESK, ORGANIZATION, key="k-2")


async def test_another_organizations_ids_read_as_unknown(desk: Desk) -> None:
    clinic = await open_clinic(desk)
    visit = await made(desk, booking(clinic, in_days(3)))
    with pytest.raises(Unknown):
        await made(desk, booking(clinic, in_days(4)), organization="oak-lane")
    with pytest.raises(Unknown):
        await made(desk, CancelAppointment(appointment_id=visit), organization="oak-lane")
    with pytest.raises(Unknown):
        await made(desk, CancelAppointment(appointment_id=visit), actor=patient_actor(clinic.patients[1]))
    with pytest.raises(Unknown):
        await made(desk, CancelAppointment(appointment_id=uuid4()))


async def test_rules_take_hold_at_once(desk: Desk) -> None:
    clinic = await open_clinic(desk)
    await desk.handle(
        SetBookingRules(provider_id=clinic.provider, rules=BookingRules(minimum_notice_minutes=10 * 24 * 60)),
        DESK,
        ORGANIZATION,
    )
    with pytest.raises(Refusal) as refused:
        await made(desk, booking(clinic, in_days(3)))
    assert refused.value.code == "too_soon"


def test_the_cache_keeps_the_later_of_two_states() -> None:
    cache = StateCache(limit=2)
    cache.put("a", "s", 2, "second")
    cache.put("a", "s", 1, "first")
    assert cache.get("a", "s") == (2, "second")
    cache.put("a", "t", 1, "t")
    cache.get("a", "s")
    cache.put("a", "u", 1, "u")
    assert cache.get("a", "t") is None
    assert cache.get("b", "s") is None
