"""The rules of guessing and of one-time proofs, whatever order things come in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given, strategies

from domain import account
from domain.access import Actor, Role
from domain.account import (
    CHALLENGE_LIFETIME,
    OPEN,
    Account,
    AccountEvent,
    AccountRegistered,
    EmailVerified,
    Factor,
    FailureReason,
    Guard,
    Origin,
    PasskeyAccepted,
    PasskeyAdded,
    PasswordChanged,
    SignInFailed,
    TotpAccepted,
    TotpConfirmed,
    TotpEnrolled,
)
from domain.events import ERASED
from domain.step_up import StepUpRequired, fresh_enough
from tests.domain.clinic import uid

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
SECRET = "secret"


def folded(*events: AccountEvent) -> Account:
    state: Account | None = None
    for event in events:
        state = account.evolve(state, event)
    assert state is not None
    return state


def active(*more: AccountEvent) -> Account:
    return folded(
        AccountRegistered(
            account_id=uid(1), email="ada@example.org", address=uid(2), role=Role.ADMIN, origin=Origin.OPERATOR
        ),
        EmailVerified(account_id=uid(1)),
        PasswordChanged(account_id=uid(1), password_hash="hash"),
        *more,
    )


def code_at(step: int) -> str:
    return f"{step:08d}"


# Most tries are wrong, and most come sooner than they are looked at.
PAUSES = strategies.one_of(strategies.integers(0, 90), strategies.integers(0, 4000))
RIGHT = strategies.sampled_from([False] * 19 + [True])


@given(strategies.lists(strategies.tuples(PAUSES, RIGHT), min_size=8, max_size=60))
def test_between_two_successes_guesses_that_are_looked_at_come_ever_slower(tries: list[tuple[int, bool]]) -> None:
    """However the tries are spread: after the fifth failure in a row, the time from each failure that was looked at to
    the next is at least what the rule says."""
    state, now, seen = active(), NOW, []
    for pause, right in tries:
        now += pause * SECOND
        if state.password_guard.wait(now) is not None:
            event = account.failed(state, Factor.PASSWORD, FailureReason.LOCKED, now)
            assert event.locked_until is None
        elif right:
            seen = []
            state = account.evolve(state, account.PasswordAccepted(account_id=state.id))
            assert state.password_guard == OPEN
            continue
        else:
            seen.append(now)
            event = account.failed(state, Factor.PASSWORD, FailureReason.WRONG, now)
        state = account.evolve(state, event)
        assert state.password_guard.failures == len(seen)
    for number, (one, next_one) in enumerate(pairwise(seen), start=1):
        assert next_one - one >= (min(2 ** (number - 5), 60) * timedelta(minutes=1) if number >= 5 else timedelta())


@given(strategies.lists(strategies.tuples(strategies.integers(0, 90), strategies.integers(-3, 3)), max_size=30))
def test_no_code_is_taken_twice_or_after_a_later_one(tries: list[tuple[int, int]]) -> None:
    """RFC 6238 §5.2, whatever is tried when."""
    state = active(TotpEnrolled(account_id=uid(1), secret=SECRET), TotpConfirmed(account_id=uid(1), step=0))
    now, taken = NOW, [0]
    for pause, offset in tries:
        now += pause * SECOND
        step = account.step_at(now) + offset
        event = account.check_totp(state, code_at(step), now, code_at)
        if isinstance(event, TotpAccepted):
            assert event.step == step > taken[-1]
            assert step in (account.step_at(now), account.step_at(now) - 1)
            taken.append(step)
            state = account.evolve(state, event)
        else:
            assert step <= taken[-1] or offset not in (0, -1)


@given(strategies.integers(0, 10**9))
def test_a_wait_is_over_when_it_says(milliseconds: int) -> None:
    until = NOW + timedelta(milliseconds=milliseconds)
    wait = Guard(5, until).wait(NOW)
    if wait is None:
        assert until <= NOW
    else:
        assert Guard(5, until).wait(NOW + wait * SECOND) is None
        assert wait * 1000 - milliseconds < 1000


def test_failures_at_codes_and_at_the_password_are_counted_apart() -> None:
    state = active()
    for factor in (Factor.TOTP, Factor.RECOVERY, Factor.PASSKEY, Factor.PASSWORD):
        state = account.evolve(state, account.failed(state, factor, FailureReason.WRONG, NOW))
    # Nobody guesses a signature, so wrong ones must not keep the owner's codes out.
    assert (state.password_guard.failures, state.factor_guard.failures) == (1, 2)


@given(strategies.lists(strategies.integers(0, 900), min_size=1, max_size=40))
def test_a_challenge_is_remembered_for_as_long_as_it_could_be_answered(seconds: list[int]) -> None:
    state, now = active(_passkey(UUID(int=0), NOW)), NOW
    answered: dict[UUID, datetime] = {UUID(int=0): NOW}
    for number, pause in enumerate(seconds, start=1):
        now += pause * SECOND
        challenge, until = UUID(int=number), now + CHALLENGE_LIFETIME
        answered[challenge] = until
        state = account.evolve(
            state,
            PasskeyAccepted(
                account_id=uid(1), passkey_id=uid(9), sign_count=0, challenge_id=challenge, challenge_until=until
            ),
        )
        assert {key for key, end in answered.items() if end > now} <= set(state.answered)
    assert len(state.answered) <= 1 + sum(end > now for end in answered.values())


def _passkey(challenge: UUID, until: datetime) -> PasskeyAdded:
    return PasskeyAdded(
        account_id=uid(1),
        passkey_id=uid(9),
        credential_id="credential",
        public_key="key",
        name="phone",
        sign_count=0,
        challenge_id=challenge,
        challenge_until=until,
    )


def test_recovery_codes_alone_are_no_second_factor() -> None:
    codes = account.RecoveryCodesMade(account_id=uid(1), hashes=("a", "b"))
    assert active(codes).second_factors == ()
    assert active(codes, _passkey(uid(3), NOW)).second_factors == (Factor.PASSKEY, Factor.RECOVERY)


def test_an_account_that_was_erased_is_still_read_and_lets_nobody_in() -> None:
    state = active(TotpEnrolled(account_id=uid(1), secret=ERASED), TotpConfirmed(account_id=uid(1), step=3))
    assert isinstance(account.check_totp(state, "", NOW, lambda step: "-"), SignInFailed)


@pytest.mark.parametrize(("minutes", "fresh"), [(0, True), (10, True), (11, False)])
def test_a_sign_in_is_fresh_for_ten_minutes(minutes: int, fresh: bool) -> None:
    actor = Actor("1", Role.ADMIN, account_id=uid(1), authenticated_at=NOW - timedelta(minutes=minutes))
    if fresh:
        fresh_enough(actor, NOW)
    else:
        with pytest.raises(StepUpRequired):
            fresh_enough(actor, NOW)


def test_a_token_of_an_account_that_does_not_say_when_is_not_fresh_and_an_operators_is() -> None:
    with pytest.raises(StepUpRequired):
        fresh_enough(Actor("1", Role.ADMIN, account_id=uid(1)), NOW)
    fresh_enough(Actor("operator", Role.ADMIN), NOW)
