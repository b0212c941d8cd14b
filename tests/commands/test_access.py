"""Whom a command reaches, by what the log says at that moment, and what the log then says of who asked for whom."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from commands.appointments import CancelAppointment, MoveAppointment
from commands.glass import BreakGlass
from commands.loop import ACTIONS, HANDLERS, Command, Decision, Desk, Reading, handles
from commands.proxies import EndProxy, GiveUpProxy, GrantProxy
from domain import glass
from domain.access import POLICY, Actor, Reach, Role
from domain.glass import GlassReason
from domain.ports import FixedClock, Recorded
from domain.proxy import Allowance, AlreadyEnded, Basis
from domain.refusals import NotAllowed, Unknown
from domain.step_up import StepUpRequired
from infra.event_log.log import PostgresEventLog
from infra.holidays import PublicHolidays
from infra.ids import TimeOrderedIds
from tests.clinic import DESK, ORGANIZATION, Clinic, in_days, open_clinic, patient_actor
from tests.commands.test_appointments import booking

ANOTHER = "oak-street"


@pytest.fixture
async def clinic(desk: Desk) -> Clinic:
    return await open_clinic(desk, providers=2, patients=3)


def doctor(clinic: Clinic, number: int) -> Actor:
    return Actor(f"dr-{number}", Role.PROVIDER, provider_id=clinic.providers[number])


async def ask(desk: Desk, command: Command, who: Actor) -> UUID:
    answer = await desk.handle(command, who, ORGANIZATION)
    return UUID(next(str(value) for name, value in answer.content.items() if name.endswith("_id")))


async def booked(desk: Desk, clinic: Clinic, days: int = 3, who: Actor = DESK, provider: int = 0) -> UUID:
    command = booking(clinic, in_days(days), provider_id=clinic.providers[provider])
    return UUID((await desk.handle(command, who, ORGANIZATION)).content["appointment_id"])


def standing_in(desk: Desk, clinic: Clinic, **changes: object) -> GrantProxy:
    said: dict[str, object] = {
        "patient_id": clinic.patients[0],
        "proxy_patient_id": clinic.patients[1],
        "basis": Basis.CONSENT,
        "allows": tuple(Allowance),
        "until": desk.clock.now() + timedelta(days=1),
        **changes,
    }
    return GrantProxy(**said)  # type: ignore[arg-type]


async def last(log: PostgresEventLog, *kinds: str) -> Recorded:
    events = await log.read(0, 10_000)
    return [one for one in events if one.event.NAME in kinds][-1]


# A proxy


async def test_what_a_proxy_does_is_written_down_as_done_for_the_patient(
    desk: Desk, log: PostgresEventLog, clinic: Clinic
) -> None:
    ben = patient_actor(clinic.patients[1])
    with pytest.raises(Unknown):
        await booked(desk, clinic, who=ben)
    await ask(desk, standing_in(desk, clinic), patient_actor(clinic.patient))
    await booked(desk, clinic, who=ben)
    made = await last(log, "AppointmentBooked.v1")
    assert (made.actor, made.on_behalf_of) == (ben.id, str(clinic.patient))
    await booked(desk, clinic, 4, who=patient_actor(clinic.patient))
    assert (await last(log, "AppointmentBooked.v1")).on_behalf_of is None


async def test_a_proxy_ends_by_the_clock(desk: Desk, log: PostgresEventLog, clinic: Clinic) -> None:
    clock = FixedClock(log.clock.now())
    timed = Desk(log, clock, TimeOrderedIds(), PublicHolidays())
    ben = patient_actor(clinic.patients[1])
    until = clock.instant + timedelta(hours=1)
    await ask(timed, standing_in(timed, clinic, until=until), DESK)
    clock.instant = until - timedelta.resolution
    visit = await booked(timed, clinic, who=ben)
    clock.instant = until
    for command in (CancelAppointment(appointment_id=visit), booking(clinic, in_days(5))):
        with pytest.raises(Unknown):
            await timed.handle(command, ben, ORGANIZATION)


async def test_a_proxy_that_another_process_ended_is_over_here_too(
    desk: Desk, log: PostgresEventLog, clinic: Clinic
) -> None:
    """This desk has the proxy in its cache and would say yes; the log does not."""
    ben = patient_actor(clinic.patients[1])
    proxy_id = await ask(desk, standing_in(desk, clinic), DESK)
    await booked(desk, clinic, 3, who=ben)
    other = Desk(log, log.clock, TimeOrderedIds(), PublicHolidays())
    await ask(other, EndProxy(patient_id=clinic.patient, proxy_id=proxy_id), patient_actor(clinic.patient))
    with pytest.raises(Unknown):
        await booked(desk, clinic, 4, who=ben)
    with pytest.raises(AlreadyEnded):
        await ask(desk, EndProxy(patient_id=clinic.patient, proxy_id=proxy_id), DESK)


async def test_a_session_left_open_lets_nobody_in_for_later(desk: Desk, clinic: Clinic) -> None:
    now = desk.clock.now()
    anna = replace(patient_actor(clinic.patient), account_id=uuid4())
    for at in (None, now - timedelta(minutes=11)):
        with pytest.raises(StepUpRequired):
            await ask(desk, standing_in(desk, clinic), replace(anna, authenticated_at=at))
    await ask(desk, standing_in(desk, clinic), replace(anna, authenticated_at=now))


async def test_whoever_stands_in_may_give_it_up_and_nobody_else_may_for_them(desk: Desk, clinic: Clinic) -> None:
    proxy_id = await ask(desk, standing_in(desk, clinic), DESK)
    command = GiveUpProxy(patient_id=clinic.patient, proxy_id=proxy_id)
    ben = patient_actor(clinic.patients[1])
    for other in clinic.patients[0], clinic.patients[2]:
        with pytest.raises(Unknown):
            await ask(desk, command, patient_actor(other))
    await ask(desk, command, ben)
    with pytest.raises(Unknown):
        await booked(desk, clinic, who=ben)


async def test_a_proxy_is_granted_to_somebody_who_is_there(desk: Desk, clinic: Clinic) -> None:
    for nobody in ({"proxy_patient_id": uuid4()}, {"proxy_patient_id": None, "account_id": uuid4()}):
        with pytest.raises(Unknown):
            await ask(desk, standing_in(desk, clinic, **nobody), DESK)
    other = await open_clinic(desk, organization=ANOTHER)
    with pytest.raises(Unknown):
        await ask(desk, standing_in(desk, clinic, proxy_patient_id=other.patient), DESK)


# A provider's own patients


async def test_a_visit_makes_a_patient_the_providers_own_and_its_cancelling_ends_that(
    desk: Desk, clinic: Clinic
) -> None:
    stranger = doctor(clinic, 1)
    with_a_colleague = await booked(desk, clinic, 3)
    move = MoveAppointment(appointment_id=with_a_colleague, start=in_days(6))
    with pytest.raises(Unknown) as refused:
        await desk.handle(move, stranger, ORGANIZATION)
    assert refused.value.details == {"id": str(with_a_colleague)}
    own = await booked(desk, clinic, 4, provider=1)
    await desk.handle(move, stranger, ORGANIZATION)
    await desk.handle(CancelAppointment(appointment_id=own), DESK, ORGANIZATION)
    with pytest.raises(Unknown):
        await desk.handle(CancelAppointment(appointment_id=with_a_colleague), stranger, ORGANIZATION)


async def test_no_provider_makes_a_patient_their_own_by_booking_them(desk: Desk, clinic: Clinic) -> None:
    with pytest.raises(Unknown):
        await booked(desk, clinic, who=doctor(clinic, 0))
    await booked(desk, clinic, 3)
    await booked(desk, clinic, 4, who=doctor(clinic, 0))


async def test_a_visit_that_another_process_booked_counts_at_once(
    desk: Desk, log: PostgresEventLog, clinic: Clinic
) -> None:
    with pytest.raises(Unknown):
        await booked(desk, clinic, 4, who=doctor(clinic, 0))
    other = Desk(log, log.clock, TimeOrderedIds(), PublicHolidays())
    await booked(other, clinic, 3)
    await booked(desk, clinic, 4, who=doctor(clinic, 0))


# Breaking the glass


async def test_a_broken_glass_reaches_one_patient_for_half_an_hour_and_stays_on_record(
    desk: Desk, log: PostgresEventLog, clinic: Clinic
) -> None:
    clock = FixedClock(log.clock.now())
    timed = Desk(log, clock, TimeOrderedIds(), PublicHolidays())
    stranger = doctor(clinic, 0)
    words = "Found unconscious in the waiting room."
    await ask(timed, BreakGlass(patient_id=clinic.patient, reason=GlassReason.EMERGENCY, words=words), stranger)
    broken = await last(log, "GlassBroken.v1")
    assert (broken.actor, broken.stream) == (stranger.id, glass.stream(stranger.id, clinic.patient))
    assert broken.event.words == words  # type: ignore[attr-defined]
    with pytest.raises(Unknown):
        await timed.handle(booking(clinic, in_days(4), patient_id=clinic.patients[1]), stranger, ORGANIZATION)
    with pytest.raises(Unknown):
        await booked(timed, clinic, 4, who=doctor(clinic, 1), provider=0)
    await booked(timed, clinic, 3, who=stranger, provider=1)
    clock.instant += glass.LASTS
    with pytest.raises(Unknown):
        await booked(timed, clinic, 4, who=stranger, provider=1)


async def test_the_glass_of_somebody_with_an_account_is_theirs_whichever_token_they_hold(
    desk: Desk, clinic: Clinic
) -> None:
    account = uuid4()
    one, other = (
        Actor(name, Role.PROVIDER, provider_id=clinic.providers[0], account_id=account) for name in ("app", "web")
    )
    command = BreakGlass(patient_id=clinic.patient, reason=GlassReason.FIRST_CONTACT, words="First visit, by phone.")
    await ask(desk, command, one)
    await booked(desk, clinic, who=other)


# The one place


def test_every_command_stands_on_a_row_of_the_table() -> None:
    for kind in HANDLERS:
        if kind.__module__.startswith("commands."):
            assert ACTIONS[kind] in POLICY, f"{kind.__name__} stands on a row that is not there"


async def test_a_handler_that_never_says_whose_it_is_comes_to_nothing(
    desk: Desk, log: PostgresEventLog, clinic: Clinic
) -> None:
    class Forgetful(Command):
        pass

    async def forgetful(command: Forgetful, reading: Reading, actor: Actor) -> Decision:
        return Decision([])

    handles(Forgetful, "cancel_appointment")(forgetful)
    try:
        head = await log.head()
        assert POLICY["cancel_appointment"].reach[Role.PATIENT] is not Reach.CLINIC
        with pytest.raises(RuntimeError, match="whose"):
            await desk.handle(Forgetful(), patient_actor(clinic.patient), ORGANIZATION)
        with pytest.raises(NotAllowed):
            await desk.handle(Forgetful(), Actor("auditor", Role.AUDITOR), ORGANIZATION)
        await desk.handle(Forgetful(), DESK, ORGANIZATION)
        assert await log.head() == head
    finally:
        del HANDLERS[Forgetful], ACTIONS[Forgetful]
