"""A session and its refresh tokens: one generation holds, and a former one that comes again ends it for all."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain import session
from domain.session import OFFLINE, PRESENT, Ending, Session, SessionEnded, SessionRefreshed, SessionStarted

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
APP = UUID(int=7)
KEY = session.SessionId(UUID(int=1), UUID(int=2))


def secret(generation: int) -> str:
    return f"{generation:064x}"


def started(**more: Any) -> Session:
    event = SessionStarted(
        account_id=KEY.account_id,
        session_id=KEY.id,
        era=1,
        client_id=APP,
        factors=("pwd",),
        authenticated_at=NOW,
        secret=secret(1),
        idle_until=NOW + PRESENT.idle,
        until=NOW + PRESENT.whole,
    )
    return session.evolve(None, event.model_copy(update=more))


def shown(state: Session, generation: int, now: datetime = NOW, by: UUID = APP) -> Any:
    return session.refresh(state, by, generation, secret(generation), secret(state.generation + 1), now)


@given(st.lists(st.integers(1, 6), max_size=12))
def test_only_the_latest_generation_holds_and_a_former_one_ends_it(asked: list[int]) -> None:
    state = started()
    for generation in asked:
        event = shown(state, generation)
        if state.ended or generation > state.generation:
            assert event is None
        elif generation < state.generation:
            assert event == session.end(state, Ending.REFRESH_REUSED)
        else:
            assert isinstance(event, SessionRefreshed)
            assert event.generation == generation + 1
        if event is not None:
            state = session.evolve(state, event)


def test_neither_another_app_nor_another_secret_gets_anything() -> None:
    state = started()
    assert shown(state, 1, by=UUID(int=8)) is None
    assert session.refresh(state, APP, 1, secret(9), secret(2), NOW) is None
    assert shown(started(secret=None), 1) is None


@pytest.mark.parametrize("endurance", [PRESENT, OFFLINE])
def test_it_ends_without_use_and_in_any_case_in_the_end(endurance: session.Endurance) -> None:
    offline = endurance is OFFLINE
    state = started(idle_until=NOW + endurance.idle, until=NOW + endurance.whole, offline=offline)
    assert shown(state, 1, NOW + endurance.idle) is None
    now = NOW
    while now + endurance.idle < NOW + endurance.whole:
        now += endurance.idle - timedelta(seconds=1)
        event = shown(state, state.generation, now)
        assert isinstance(event, SessionRefreshed)
        assert event.idle_until <= NOW + endurance.whole
        state = session.evolve(state, event)
    assert shown(state, state.generation, NOW + endurance.whole) is None


def test_being_there_puts_the_deadline_off_but_is_not_written_down_at_every_look() -> None:
    state = started()
    assert list(session.use(state, NOW + timedelta(seconds=10))) == []
    (used,) = session.use(state, NOW + timedelta(minutes=20))
    assert session.evolve(state, used).idle_until == NOW + timedelta(minutes=50)


def test_a_stream_says_whose_session_it_is() -> None:
    name = session.stream(KEY)
    first, last = session.streams_of(KEY.account_id)
    assert first < name < last
    assert session.key_of(name) == KEY
    # UUIDv7 begin with their milliseconds (RFC 9562 §5.7): what nobody can be signed in by any more is not looked at.
    first, last = session.streams_of(KEY.account_id, NOW)
    for days, within in ((0, True), (89, True), (92, False)):
        began = NOW - timedelta(days=days)
        made = UUID(f"{int(began.timestamp() * 1000):012x}7fffbfffffffffffffff")
        assert (first < session.stream(KEY._replace(id=made)) < last) is within
    ended = session.evolve(started(), SessionEnded(account_id=KEY.account_id, session_id=KEY.id, reason=Ending.ACCOUNT))
    assert not replace(ended, ended=None).lives(NOW + PRESENT.whole)
    assert not ended.lives(NOW)
