"""The end of a session: asked for by an app (OpenID Connect RP-Initiated Logout 1.0), or by whoever sits there, who
also sees where else they are signed in."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from authlib.oauth2.rfc6749 import OAuth2Error  # type: ignore[import-untyped]
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from commands.loop import ACCOUNT, CLIENT, NOTHING
from commands.sessions import EndSession, EndSessions
from domain import session
from domain.access import Actor
from domain.client import Client
from domain.events import Erased
from domain.session import Session
from write_api.oauth.pages import asset
from write_api.oauth.parties import SignedIn
from write_api.oauth.requests import asked
from write_api.oauth.signing_in import Form, Reception, fault

router = APIRouter(include_in_schema=False)


@router.get("/oauth/end-session")
@router.post("/oauth/end-session")
async def end_session(request: Request) -> Response:
    at: Reception = request.app.state.reception
    visit = at.browsers.visit(request)
    try:
        question = await asked(request, visit)
        wish = await at.authority.in_thread(at.server.validate_endpoint_request, "end_session", question)
    except OAuth2Error as error:
        return fault(at, request, error.description or "The app's request can't be answered.")
    if wish.needs_confirmation:
        # Without an id token anybody could have sent them here (RP-Initiated Logout §6).
        return at.pages.show(request, "sign_out")
    user = await at.browsers.signed_in(request)
    answer = await at.authority.in_thread(at.server.create_endpoint_response, "end_session", wish)
    response = answer.response() if answer is not None else at.pages.show(request, "signed_out")
    if user is not None and str(user.account_id) == wish.id_token_claims["sub"]:
        await at.browsers.sign_out(request, response, visit)
    return response


@router.post("/oauth/sign-out")
async def sign_out(request: Request, form: Form) -> Response:
    at: Reception = request.app.state.reception
    response = at.pages.show(request, "signed_out")
    await at.browsers.sign_out(request, response, at.browsers.visit(request))
    return response


@router.get("/oauth/sessions")
async def sessions(request: Request) -> Response:
    at: Reception = request.app.state.reception
    if (user := await at.browsers.signed_in(request)) is None:
        return RedirectResponse("/oauth/sign-in", 303)
    shown = [await _shown(at, one, user) for one in await _going_on(at, user.account_id)]
    account = await at.authority.state(ACCOUNT, user.account_id)
    linked = {issuer: identity for identity, issuer in account.linked.items()} if account is not None else {}
    outside = [
        {"name": name, "label": one.registration.label, "identity": linked.get(one.registration.issuer)}
        for name, one in at.providers.items()
    ]
    return at.pages.show(request, "sessions", sessions=shown, outside=outside)


@router.post("/oauth/sessions/end")
async def end_other(request: Request, form: Form) -> Response:
    """One other session, or all of them."""
    at: Reception = request.app.state.reception
    if (user := await at.browsers.signed_in(request)) is None:
        return RedirectResponse("/oauth/sign-in", 303)
    visit = at.browsers.visit(request)
    command: EndSession | EndSessions = EndSessions(account_id=user.account_id, but=user.session_id)
    if named := form.get("session"):
        try:
            command = EndSession(account_id=user.account_id, session_id=UUID(named))
        except ValueError:
            return fault(at, request, "There is no such session.")
    await at.authority.desk.handle(
        command,
        acting(user),
        at.authority.organization,
        correlation_id=visit.correlation_id,
        cause=at.authority.cause(visit, user.account_id),
    )
    return RedirectResponse("/oauth/sessions", 303)


@router.get("/oauth/assets/{name}")
async def assets(request: Request, name: str) -> Response:
    return asset(name) or fault(request.app.state.reception, request, "There is nothing at this address.", 404)


async def _going_on(at: Reception, account_id: UUID) -> list[Session]:
    authority = at.authority
    names = await authority.desk.log.streams(authority.organization, *session.streams_of(account_id, authority.now()))
    known = {name: authority.desk.cache.get(authority.organization, name) or NOTHING for name in names}
    states = [state for _, state in (await authority.desk.catch_up(authority.organization, known)).values()]
    return [state for state in reversed(states) if state is not None and state.lives(authority.now())]


async def _shown(at: Reception, state: Session, user: SignedIn) -> dict[str, Any]:
    app: Client | None = None
    if state.client_id is not None:
        app = await at.authority.state(CLIENT, state.client_id)
    return {
        "id": str(state.key.id),
        "app": app.details.name if app is not None else None,
        "here": state.key.id == user.session_id,
        "since": _minute(state.authenticated_at),
        "address": None if isinstance(state.address, Erased) else state.address,
        "agent": None if isinstance(state.user_agent, Erased) else state.user_agent,
    }


def _minute(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M} UTC"


def acting(user: SignedIn) -> Actor:
    return Actor(
        str(user.account_id),
        user.who.role,
        user.who.patient_id,
        user.who.provider_id,
        account_id=user.account_id,
        session_id=user.session_id,
        factors=frozenset(user.factors),
        authenticated_at=user.authenticated_at,
    )
