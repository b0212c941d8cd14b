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
from commands.sign_in import SIGN_IN, account_of
from domain import mfa_policy
from domain.mfa_policy import THE_POLICY
from domain.session import PRESENT, SessionId
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

    async def visit(self, request: Request) -> Visit:
        """From where this is asked, in the log by the time this returns. Raises `LogUnavailable`."""
        authority = self._authority
        correlation_id = correlated(request.scope) or authority.desk.ids.new()
        correlate(request.scope, correlation_id)
        origin = None
        if authority.origins is not None:
            origin = await authority.origins.of(request.scope, authority.organization, SIGN_IN)
        agent = request.headers.get("user-agent", "")[:_LONGEST_AGENT]
        return Visit(client_address(request.scope), agent, correlation_id, origin)

    async def signed_in(self, request: Request) -> SignedIn | None:
        authority = self._authority
        content = authority.seals.open("session", _SESSION.read(request), authority.now())
        if content is None:
            return None
        key = SessionId(UUID(content["a"]), UUID(content["s"]))
        session = await authority.state(SESSION, key)
        account = await authority.state(ACCOUNT, key.account_id)
        if session is None or account is None or session.client_id is not None or not session.lives(authority.now()):
            return None
        who = account_of(account)
        if not who.active or account.era != session.era:
            return None
        policy = await authority.state(MFA_POLICY, THE_POLICY)
        if not mfa_policy.lets_in(policy, who.role, session.factors):
            return None
        if session.secret is None or not hmac.compare_digest(session.secret, hash_of(content["k"])):
            return None
        return SignedIn(key.account_id, key.id, session.era, session.factors, session.authenticated_at, who)

    async def sign_in(self, request: Request, response: Response, proven: Proven, visit: Visit) -> None:
        """Raises `SessionOver` where the account, or what its role needs, has changed since it was proven whose it
        is."""
        authority = self._authority
        before = await self.signed_in(request)
        session_id, secret = authority.desk.ids.new(), secrets.token_urlsafe(32)
        command = StartSession(
            account_id=proven.account_id,
            session_id=session_id,
            era=proven.era,
            factors=proven.amr,
            authenticated_at=proven.at or authority.now(),
            secret=hash_of(secret),
            address=visit.address,
            user_agent=visit.user_agent,
        )
        await authority.ask(command, visit, proven.account_id)
        content = {"a": str(proven.account_id), "s": str(session_id), "k": secret}
        _SESSION.set(request, response, authority.seals.seal("session", content, authority.now() + PRESENT.whole))
        # What apps hold of the former sign-in goes on where it was the same person's.
        if before is not None and before.account_id != proven.account_id:
            await self._end(before, visit)

    async def sign_out(self, request: Request, response: Response, visit: Visit) -> None:
        before = await self.signed_in(request)
        if before is not None:
            await self._end(before, visit)
        _SESSION.clear(request, response)

    async def _end(self, user: SignedIn, visit: Visit) -> None:
        command = EndSession(account_id=user.account_id, session_id=user.session_id)
        await self._authority.ask(command, visit, user.account_id)

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
