"""A session: somebody signed in, in their browser or through an app, until it ends.

Every refresh token names its session, the generation it is of, and a secret whose hash the log keeps. Only the latest
generation holds; a former one that comes again has been copied, so the session ends for both who have it (RFC 9700
§4.14.2). Deadlines stand in the events: nothing has to run for a session to run out.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, ClassVar, NamedTuple, Self
from uuid import UUID

from domain import mfa_policy
from domain.account import Account, Status
from domain.client import Client
from domain.events import CREDENTIAL, Event, Personal
from domain.mfa_policy import MfaPolicy
from domain.time import first_id


class SessionId(NamedTuple):
    """Sessions stand under their account, so that an account's are found together."""

    account_id: UUID
    id: UUID


class Ending(StrEnum):
    SIGNED_OUT = "signed_out"
    REVOKED_BY_CLIENT = "revoked_by_client"
    CODE_REUSED = "code_reused"
    REFRESH_REUSED = "refresh_reused"
    ACCOUNT = "account"
    CLIENT = "client"
    ADMINISTRATOR = "administrator"


class Endurance(NamedTuple):
    """A session ends after `idle` without use, and after `whole` in any case (45 CFR 164.312(a)(2)(iii))."""

    idle: timedelta
    whole: timedelta


# In the browser and for apps while their person is there; and for apps that were let work without them.
PRESENT = Endurance(timedelta(minutes=30), timedelta(hours=12))
OFFLINE = Endurance(timedelta(days=14), timedelta(days=90))


class SessionStarted(Event):
    """`client_id` is the app's, None where it is the sign-in itself, in a browser; `within` is the sign-in that an app
    was opened from. `after` is the sign-in that this one replaced in the same browser, as a step-up does. `era` is the
    account's: in a later one (another password, another role) the session is over. `secret` is the SHA-256 of the first
    refresh token's secret, in hex, where there is one."""

    NAME: ClassVar[str] = "SessionStarted.v1"
    PERSON: ClassVar[str] = "account_id"
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
    secret: Annotated[str | None, CREDENTIAL] = None
    idle_until: datetime
    until: datetime
    address: Personal[str] | None = None
    user_agent: Personal[str] | None = None


class SessionRefreshed(Event):
    NAME: ClassVar[str] = "SessionRefreshed.v1"
    account_id: UUID
    session_id: UUID
    generation: int
    secret: Annotated[str, CREDENTIAL]
    idle_until: datetime


class SessionUsed(Event):
    """The sign-in in a browser let another app in, or the same one again."""

    NAME: ClassVar[str] = "SessionUsed.v1"
    account_id: UUID
    session_id: UUID
    idle_until: datetime


class SessionEnded(Event):
    NAME: ClassVar[str] = "SessionEnded.v1"
    account_id: UUID
    session_id: UUID
    reason: Ending


@dataclass(frozen=True, slots=True)
class Session:
    """`generation` is that of the refresh token that holds; the first is 1."""

    key: SessionId
    era: int
    client_id: UUID | None
    within: UUID | None
    scopes: tuple[str, ...]
    audiences: tuple[str, ...]
    factors: tuple[str, ...]
    authenticated_at: datetime
    offline: bool
    secret: str | None
    idle_until: datetime
    until: datetime
    address: Personal[str] | None
    user_agent: Personal[str] | None
    after: UUID | None = None
    generation: int = 1
    ended: Ending | None = None

    @classmethod
    def of(cls, event: SessionStarted) -> Self:
        return cls(
            SessionId(event.account_id, event.session_id),
            event.era,
            event.client_id,
            event.within,
            event.scopes,
            event.audiences,
            event.factors,
            event.authenticated_at,
            event.offline,
            event.secret,
            event.idle_until,
            event.until,
            event.address,
            event.user_agent,
            event.after,
        )

    def lives(self, now: datetime) -> bool:
        return self.ended is None and now < min(self.idle_until, self.until)

    @property
    def endurance(self) -> Endurance:
        return OFFLINE if self.offline else PRESENT


def stream(key: SessionId) -> str:
    return f"session/{key.account_id}/{key.id}"


def streams_of(account_id: UUID, living: datetime | None = None) -> tuple[str, str]:
    """The first and the last name that a session of an account may have; where an instant is given, one that may live
    then. A day is left for the clock of the machine that made its id."""
    begin = "" if living is None else str(first_id(living - OFFLINE.whole - timedelta(days=1)))
    return f"session/{account_id}/{begin}", f"session/{account_id}/~"


def key_of(name: str) -> SessionId:
    """The session of a stream's name."""
    _, account, session = name.split("/")
    return SessionId(UUID(account), UUID(session))


def evolve(state: Session | None, event: Event) -> Session:
    match event:
        case SessionStarted():
            return Session.of(event)
        case SessionRefreshed() if state is not None:
            return replace(state, generation=event.generation, secret=event.secret, idle_until=event.idle_until)
        case SessionUsed() if state is not None:
            return replace(state, idle_until=event.idle_until)
        case SessionEnded() if state is not None:
            return replace(state, ended=event.reason)
    raise TypeError(f"{type(event).__name__} is not an event of a session")


def refresh(
    state: Session, client_id: UUID, generation: int, presented: str, following: str, now: datetime
) -> SessionRefreshed | SessionEnded | None:
    """What comes of a refresh token: the next generation; the session's end where it is a former one; nothing where it
    is none of this client's, or the session is over. `presented` and `following` are SHA-256 in hex.

    There is no grace for a former token: within one, a thief's would pass too, and the log could not tell the two."""
    if state.client_id != client_id or state.secret is None or not state.lives(now):
        return None
    if generation < state.generation:
        return end(state, Ending.REFRESH_REUSED)
    if not hmac.compare_digest(state.secret.encode(), presented.encode()):
        return None
    return SessionRefreshed(
        account_id=state.key.account_id,
        session_id=state.key.id,
        generation=state.generation + 1,
        secret=following,
        idle_until=min(now + state.endurance.idle, state.until),
    )


def holds(
    state: Session, account: Account | None, outer: Session | None, client: Client | None, policy: MfaPolicy | None
) -> bool:
    """Whether what a session rests on is as it was: the account, in its era and with factors enough for its role; the
    app; and, but for an app that works without its person, the sign-in that it was opened from."""
    if account is None or account.status is not Status.ACTIVE or account.era != state.era:
        return False
    if not mfa_policy.lets_in(policy, account.role, state.factors):
        return False
    if state.within is not None and not state.offline and (outer is None or outer.ended is not None):
        return False
    return state.client_id is None or (client is not None and not client.removed)


def use(state: Session, now: datetime) -> Iterable[SessionUsed]:
    """Somebody is there, which puts the idle deadline off; not for every look, or the log would fill with them."""
    idle_until = min(now + state.endurance.idle, state.until)
    if idle_until - state.idle_until < state.endurance.idle / 10:
        return ()
    return (SessionUsed(account_id=state.key.account_id, session_id=state.key.id, idle_until=idle_until),)


def end(state: Session, reason: Ending) -> SessionEnded:
    return SessionEnded(account_id=state.key.account_id, session_id=state.key.id, reason=reason)
