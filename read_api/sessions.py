"""Where somebody is signed in; from the log, as it is at this moment."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from domain import account, session
from domain.events import Erased
from domain.session import Session
from read_api.asking import Asked, unknown
from read_api.describing import answers
from read_api.folding import folded

router = APIRouter(tags=["sessions"])


class SessionView(BaseModel):
    """`client_id` is the app's, null where it is the sign-in itself, in a browser. `current` is the one that asks.
    `factors` are in the words of RFC 8176. `address` and `user_agent` are where it began, shown to the
    account's owner alone."""

    session_id: UUID
    client_id: UUID | None
    scopes: list[str]
    factors: list[str]
    authenticated_at: datetime
    until: datetime
    address: str | None
    user_agent: str | None
    current: bool


class Sessions(BaseModel):
    """Those that go on, the latest first."""

    sessions: list[SessionView]


@router.get("/accounts/{account_id}/sessions", response_model=Sessions, **answers(404))
async def read_sessions(account_id: UUID, asked: Asked) -> Response:
    """Where an account is signed in. One's own; administrators anybody's."""
    asked.may("read_sessions")
    await asked.reach(account_id=account_id)
    log, now = asked.library.log, asked.library.clock.now()
    head = await log.head()
    known = account.stream(account_id)
    names = await log.streams(asked.organization, *session.streams_of(account_id, now))
    found = await log.load(asked.organization, dict.fromkeys([known, *names], 0), upto=head)
    if not found[known]:
        raise unknown(account_id)
    states = [folded(session.evolve, found[name]) for name in reversed(names)]
    own = asked.actor.account_id == account_id
    living = [state for state in states if state is not None and state.lives(now)]
    shown = [_view(state, asked.actor.session_id, own=own) for state in living]
    return asked.answer(Sessions(sessions=shown), head)


def _view(state: Session, current: UUID | None, *, own: bool) -> SessionView:
    return SessionView(
        session_id=state.key.id,
        client_id=state.client_id,
        scopes=list(state.scopes),
        factors=list(state.factors),
        authenticated_at=state.authenticated_at,
        until=min(state.idle_until, state.until),
        address=state.address if own and not isinstance(state.address, Erased) else None,
        user_agent=state.user_agent if own and not isinstance(state.user_agent, Erased) else None,
        current=state.key.id == current,
    )
