"""Ending sessions: one's own, and, for administrators, another's."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter
from starlette.responses import Response

from commands.sessions import EndSession, EndSessions
from write_api.asking import Asked
from write_api.describing import Answered, takes

router = APIRouter(prefix="/accounts/{account_id}/sessions", tags=["sessions"])


class SessionAnswer(Answered):
    session_id: UUID


class SessionsAnswer(Answered):
    """How many ended."""

    ended: int


@router.delete("/{session_id}", response_model=SessionAnswer, **takes(refusals=(404,)))
async def end_session(account_id: UUID, session_id: UUID, asked: Asked) -> Response:
    """End a session: its tokens are refused at every API from now on. One's own; administrators anybody's."""
    return await asked.take(EndSession(account_id=account_id, session_id=session_id))


@router.delete("", response_model=SessionsAnswer, **takes(refusals=(404,)))
async def end_sessions(account_id: UUID, asked: Asked) -> Response:
    """Sign out everywhere: all sessions of the account end but the one that asks."""
    return await asked.take(EndSessions(account_id=account_id, but=asked.caller.actor.session_id))
