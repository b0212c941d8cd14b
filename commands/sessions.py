"""Sessions: started by a sign-in or by an app's code, refreshed, ended.

Whether a code was used before, and which refresh token is the latest, is decided by the session's stream and nothing
else; so of two who come with the same one at the same time, the second is found out.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from commands.access import reach
from commands.clients import Hash
from commands.loop import ACCOUNT, CLIENT, MFA_POLICY, SESSION, Command, Decision, Reading, handles
from domain import mfa_policy, session
from domain.access import Actor, Role
from domain.account import Account, Status
from domain.client import Client
from domain.events import Event
from domain.mfa_policy import THE_POLICY
from domain.refusals import Refusal, Unknown
from domain.session import OFFLINE, PRESENT, Ending, Session, SessionEnded, SessionId, SessionStarted


class SessionOver(Refusal):
    """The session has ended, or what is held of it was never its own. Sign in again."""

    code = "session_over"
    status = 401


class StartSession(Command):
    """`era` is the account's at the moment of signing in, and `secret` the hash of the first refresh token's, where
    there is to be one. The other fields are the event's. → `outcome`: `started`; or `refused`, where the session was
    started before, which ends it."""

    account_id: UUID
    session_id: UUID
    era: int
    client_id: UUID | None = None
    within: UUID | None = None
    after: UUID | None = None
    scopes: tuple[str, ...] = ()
    audiences: tuple[str, ...] = ()
    factors: tuple[str, ...]
    authenticated_at: datetime
    offline: bool = False
    secret: Hash | None = None
    address: str | None = None
    user_agent: str | None = None


class RefreshSession(Command):
    """`presented` and `following` are hashes of the secrets in the token that was shown and in the one to be given.
    → `outcome`: `refreshed`, with the `generation` of the new token; or `refused`, which ends the session."""

    account_id: UUID
    session_id: UUID
    client_id: UUID
    generation: int
    presented: Hash
    following: Hash


class EndSession(Command):
    """A sign-in in a browser ends with those that it replaced there, and with what apps opened from any of them."""

    account_id: UUID
    session_id: UUID
    reason: Ending = Ending.SIGNED_OUT


class EndSessions(Command):
    """All sessions of an account but one. → `ended`: how many."""

    account_id: UUID
    but: UUID | None = None


@handles(StartSession, "keep_session")
async def start_session(command: StartSession, reading: Reading, actor: Actor) -> Decision:
    key = SessionId(command.account_id, command.session_id)
    stream = session.stream(key)
    known = await reading.find(SESSION, key)
    if known is not None:
        # RFC 6749 §4.1.2: a code that comes twice was copied, and what came of it is not to be trusted.
        ended = [] if known.ended else [(stream, session.end(known, Ending.CODE_REUSED))]
        return Decision(ended, {"outcome": "refused"})
    changes: list[tuple[str, Event]] = []
    account = await _account(reading, command.account_id, command.era)
    policy = await reading.find(MFA_POLICY, THE_POLICY)
    if not mfa_policy.lets_in(policy, account.role, command.factors):
        raise SessionOver("your role needs a second factor now; sign in again")
    if command.within is not None:
        outer = await reading.find(SESSION, SessionId(command.account_id, command.within))
        if outer is None or not outer.lives(reading.now):
            raise SessionOver("you are signed out")
        changes += [(session.stream(outer.key), event) for event in session.use(outer, reading.now)]
    if command.client_id is not None and (await reading.get(CLIENT, command.client_id)).removed:
        raise SessionOver("this app was removed")
    endurance = OFFLINE if command.offline else PRESENT
    fields = command.model_dump(exclude={"era"})
    started = SessionStarted(
        **fields, era=command.era, idle_until=reading.now + endurance.idle, until=reading.now + endurance.whole
    )
    return Decision([(stream, started), *changes], {"outcome": "started"})


@handles(RefreshSession, "keep_session")
async def refresh_session(command: RefreshSession, reading: Reading, actor: Actor) -> Decision:
    key = SessionId(command.account_id, command.session_id)
    state = await reading.find(SESSION, key)
    if state is None:
        raise SessionOver("there is no such session")
    event: SessionEnded | session.SessionRefreshed | None = None
    if not await _still_holds(reading, state):
        if state.ended is None:
            event = session.end(state, Ending.ACCOUNT)
    else:
        event = session.refresh(
            state, command.client_id, command.generation, command.presented, command.following, reading.now
        )
    if event is None:
        raise SessionOver("this session has ended, or this is no token of it")
    refused = isinstance(event, SessionEnded)
    answer: dict[str, Any] = {"outcome": "refused" if refused else "refreshed"}
    if isinstance(event, session.SessionRefreshed):
        answer["generation"] = event.generation
    return Decision([(session.stream(key), event)], answer)


@handles(EndSession, "end_session")
async def end_session(command: EndSession, reading: Reading, actor: Actor) -> Decision:
    reason = await _as(reading, actor, command.account_id, command.reason)
    key = SessionId(command.account_id, command.session_id)
    state = await reading.find(SESSION, key)
    if state is None:
        raise Unknown("unknown id", id=str(command.session_id))
    over = await _resting_on(reading, state)
    changes = [(session.stream(one.key), session.end(one, reason)) for one in over if one.ended is None]
    return Decision(changes, {"session_id": str(command.session_id)})


@handles(EndSessions, "end_session")
async def end_sessions(command: EndSessions, reading: Reading, actor: Actor) -> Decision:
    reason = await _as(reading, actor, command.account_id, Ending.SIGNED_OUT)
    await reading.get(ACCOUNT, command.account_id)
    states = await _sessions_of(reading, command.account_id)
    going_on = [state for state in states if state.key.id != command.but and state.lives(reading.now)]
    changes = [(session.stream(state.key), session.end(state, reason)) for state in going_on]
    return Decision(changes, {"ended": len(changes)})


async def _as(reading: Reading, actor: Actor, account_id: UUID, reason: Ending) -> Ending:
    """Why it ends, seen from who ends it. Raises `Unknown` for an account beyond reach."""
    await reach(reading, actor, "end_session", account_id=account_id)
    own = actor.account_id == account_id
    return reason if own or actor.role is Role.SYSTEM else Ending.ADMINISTRATOR


async def _account(reading: Reading, account_id: UUID, era: int) -> Account:
    """Raises `SessionOver` where the account is not what it was at the sign-in."""
    state = await reading.find(ACCOUNT, account_id)
    if state is None or state.status is not Status.ACTIVE or state.era != era:
        raise SessionOver("this account has changed since you signed in")
    return state


async def _still_holds(reading: Reading, state: session.Session) -> bool:
    account = await reading.find(ACCOUNT, state.key.account_id)
    outer: Session | None = None
    if state.within is not None:
        outer = await reading.find(SESSION, SessionId(state.key.account_id, state.within))
    client: Client | None = None
    if state.client_id is not None:
        client = await reading.find(CLIENT, state.client_id)
    policy = await reading.find(MFA_POLICY, THE_POLICY)
    return session.holds(state, account, outer, client, policy)


async def _resting_on(reading: Reading, state: Session) -> Sequence[Session]:
    """What ends with a session: with a sign-in those that it replaced in its browser, and what was opened from any of
    them by apps that do not work without their person. No further back than where nothing can be left: an app opened in
    the last moment of a sign-in lives as long again."""
    if state.client_id is not None:
        return [state]
    known = {one.key.id: one for one in await _sessions_of(reading, state.key.account_id)}
    chain: dict[UUID | None, Session] = {}
    former: Session | None = state
    while former is not None and former.until + PRESENT.whole > reading.now:
        chain[former.key.id] = former
        former = known.get(former.after) if former.after is not None else None
    opened = [one for one in known.values() if one.within in chain and not one.offline and one.lives(reading.now)]
    return [state, *(one for one in chain.values() if one is not state), *opened]


async def _sessions_of(reading: Reading, account_id: UUID) -> Sequence[Session]:
    names = await reading.desk.log.streams(reading.organization, *session.streams_of(account_id, reading.now))
    states = await reading.each(SESSION, [session.key_of(name) for name in names])
    return [state for state in states.values() if state is not None]
