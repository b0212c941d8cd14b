"""A session starts and goes on only while what it rests on is as it was: the account, the policy, the sign-in."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from commands.loop import Desk
from commands.second_factors import SetMfaPolicy
from commands.sessions import EndSession, SessionOver, StartSession
from domain.access import Actor, Role
from domain.mfa_policy import Mfa
from domain.ports import FixedClock
from infra.event_log.log import PostgresEventLog
from infra.holidays import PublicHolidays
from infra.ids import TimeOrderedIds
from tests.people import OPERATOR, People, credentials

NOW = datetime(2026, 3, 2, 9, 0, 5, tzinfo=UTC)
SECRET = "5e" * 32


@pytest.fixture
def people(log: PostgresEventLog) -> People:
    clock = FixedClock(NOW)
    return People(Desk(log, clock, TimeOrderedIds(), PublicHolidays(), credentials=credentials()), clock)


async def started(people: People, who: Actor, **more: Any) -> StartSession:
    assert who.account_id is not None
    said: dict[str, Any] = {
        "account_id": who.account_id,
        "session_id": uuid4(),
        "era": (await people.account(who.account_id)).era,
        "factors": ("pwd",),
        "authenticated_at": people.clock.now(),
        "secret": SECRET,
    }
    command = StartSession.model_validate(said | more)
    await people.asked(command)
    return command


@pytest.mark.parametrize(
    ("factors", "goes_on"),
    [(("pwd",), False), (("fed",), False), (("pwd", "otp", "mfa"), True), (("fed", "mfa"), True), (("hwk",), True)],
)
async def test_a_policy_that_is_raised_lets_nobody_start_who_showed_one_factor(
    people: People, factors: tuple[str, ...], goes_on: bool
) -> None:
    """A passkey by itself is let in only where the device has checked who holds it, which are two."""
    ada = await people.patient()
    await started(people, ada, factors=factors)
    await people.asked(SetMfaPolicy(roles={Role.PATIENT: Mfa.REQUIRED}), OPERATOR)
    if goes_on:
        await started(people, ada, factors=factors)
    else:
        with pytest.raises(SessionOver):
            await started(people, ada, factors=factors)
    await people.asked(SetMfaPolicy(roles={Role.PATIENT: Mfa.OPTIONAL}), OPERATOR)
    await started(people, ada, factors=factors)


async def test_signing_out_ends_every_sign_in_that_the_last_one_replaced(people: People) -> None:
    ada = await people.patient()
    first = await started(people, ada)
    second = await started(people, ada, after=first.session_id)
    elsewhere = await started(people, ada)
    third = await started(people, ada, after=second.session_id)
    # One of them is ended already, by hand.
    await people.asked(EndSession(account_id=first.account_id, session_id=second.session_id))
    assert await ended(people, first, second) == [True, True]
    fourth = await started(people, ada, after=third.session_id)
    await people.asked(EndSession(account_id=first.account_id, session_id=fourth.session_id))
    assert await ended(people, first, second, third, fourth, elsewhere) == [True] * 4 + [False]


async def ended(people: People, *sessions: StartSession) -> list[bool]:
    names = [f"session/{one.account_id}/{one.session_id}" for one in sessions]
    return [(await people.events(name))[-1] == "SessionEnded" for name in names]
