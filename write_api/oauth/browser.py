"""Who is signed in, in a browser, and which forms are ours. In: cookies. Out: who it is, by what the log says now.

Two cookies: one marks the browser, so that a form is known as one that it was given; the other names the session of
whoever signed in. Between the two steps of signing in, what is proven so far is sealed into the form.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from commands.loop import ACCOUNT, MFA_POLICY, SESSION
from commands.sessions import EndSession, StartSession
from commands.sign_in import account_of
from domain import session
from domain.mfa_policy import THE_POLICY
from domain.session import PRESENT, Session, SessionId
from infra.http import csrf
from infra.http.address import client_address
from infra.http.cookies import Cookie
from infra.http.correlation import correlate, correlated
from infra.http.csrf import Forms
from write_api.oauth.authority import Authority, Visit, hash_of
from write_api.oauth.parties import SignedIn

_MARK: Final = Cookie("daybook-browser")
_SESSION: Final = Cookie("daybook-session", lifetime=PRESENT.whole)
_LONGEST_AGENT: Final = 256


@dataclass(frozen=True, slots=True)
class Proven:
    """What somebody has shown of themselves: `factors` in the words of RFC 8176. `at` is when, if it was not now."""

    account_id: UUID
    era: int
    factors: tuple[str, ...]
    at: datetime | None = None

    @property
    def amr(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.factors, "mfa"))) if len(self.factors) > 1 else self.factors


class Browsers:
    def __init__(self, authority: Authority, forms: Forms) -> None:
        self._authority = authority
        self._forms = forms

    def visit(self, request: Request) -> Visit:
        """From where this is asked."""
        correlation_id = correlated(request.scope) or self._authority.desk.ids.new()
        correlate(request.scope, correlation_id)
        agent = request.headers.get("user-agent", "")[:_LONGEST_AGENT]
        return Visit(client_address(request.scope), agent, correlation_id, request.scope)

    async def signed_in(self, request: Request) -> SignedIn | None:
        authority = self._authority
        state = await self._held(request)
        if state is None or not state.lives(authority.now()):
            return None
        account = await authority.state(ACCOUNT, state.key.account_id)
        policy = await authority.state(MFA_POLICY, THE_POLICY)
        if account is None or not session.holds(state, account, None, None, policy):
            return None
        return SignedIn(*state.key, state.era, state.factors, state.authenticated_at, account_of(account))

    async def _held(self, request: Request) -> Session | None:
        """The sign-in that the browser holds, whatever has become of it."""
        authority = self._authority
        content = authority.seals.open("session", _SESSION.read(request), authority.now())
        if content is None:
            return None
        state = await authority.state(SESSION, SessionId(UUID(content["a"]), UUID(content["s"])))
        if state is None or state.client_id is not None or state.secret is None:
            return None
        return state if hmac.compare_digest(state.secret, hash_of(content["k"])) else None

    async def sign_in(self, request: Request, response: Response, proven: Proven, visit: Visit) -> None:
        """Raises `SessionOver` where the account, or what its role needs, has changed since it was proven whose it
        is."""
        authority = self._authority
        before = await self._held(request)
        anew = before is not None and before.key.account_id == proven.account_id
        session_id, secret = authority.desk.ids.new(), secrets.token_urlsafe(32)
        command = StartSession(
            account_id=proven.account_id,
            session_id=session_id,
            era=proven.era,
            after=before.key.id if before is not None and anew else None,
            factors=proven.amr,
            authenticated_at=proven.at or authority.now(),
            secret=hash_of(secret),
            address=visit.address,
            user_agent=visit.user_agent,
        )
        await authority.ask(command, visit, proven.account_id)
        content = {"a": str(proven.account_id), "s": str(session_id), "k": secret}
        _SESSION.set(request, response, authority.seals.seal("session", content, authority.now() + PRESENT.whole))
        # What apps hold of the former sign-in goes on where it was the same person's, until they sign out.
        if before is not None and not anew:
            await self._end(before, visit)

    async def sign_out(self, request: Request, response: Response, visit: Visit) -> None:
        before = await self._held(request)
        if before is not None:
            await self._end(before, visit)
        _SESSION.clear(request, response)

    async def _end(self, state: Session, visit: Visit) -> None:
        command = EndSession(account_id=state.key.account_id, session_id=state.key.id)
        await self._authority.ask(command, visit, state.key.account_id)

    def mark(self, request: Request) -> str:
        """What marks this browser; a new one is to be set with `set_mark`."""
        return _MARK.read(request) or secrets.token_urlsafe(24)

    def set_mark(self, request: Request, response: Response, mark: str) -> None:
        if _MARK.read(request) != mark:
            _MARK.set(request, response, mark)

    def token(self, mark: str) -> str:
        return self._forms.token(mark)

    def check(self, request: Request, form: dict[str, str]) -> None:
        """Raises `CrossSite` for a form that this browser was not given by us."""
        self._forms.check(request, _MARK.read(request), form.get(csrf.FIELD))
